"""Results as HL7 v2: routes whose destination is told of each stored result by ORU^R01 over MLLP."""

from __future__ import annotations

from node.hookspecs import Extension, Key


class _Hl7Results(Extension):
    """`[destinations.NAME] hl7`: the receiver of results, such as an interface engine or a reporting system."""

    name = "hl7_results"
    receivers = (Key("hl7", f"{__name__}.sending:opened"),)


EXTENSION = _Hl7Results()
