"""De-identification by the profiles of PS3.15 Annex E: a data set in, a data set without identities out, or a refusal.

`instance.deidentified` is the whole of it for one instance; everything else serves it. The originals never change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from node.errors import nearest
from node.hookspecs import Command, Extension, Router, Statement, Table
from node.registry import lacking

if TYPE_CHECKING:
    from collections.abc import Mapping

    from node.dicom.status import StatementTable as ConformanceTable
    from node.extensions.deidentify.settings import DeidentifySettings
    from node.settings.model import Settings

PROFILES = """\
The Basic Profile of PS3.15 Annex E with the options of section E.2, by the command `voxelnode deidentify` on
files, on copies that leave by routes and downloads for which the configuration names it, and on those for the members
of de-identified projects. All other instances are stored and transmitted as received.
"""
COPIES = """\
A copy without identities has other values, or none, for the attributes of PS3.15 Table E.1-1, by the options of its
configuration, and for every private attribute that is not known to be safe; UIDs are replaced consistently. Patient ID
and Patient's Name become the pseudonym. These attributes are written: Patient Identity Removed (0012,0062),
De-identification Method (0012,0063), De-identification Method Code Sequence (0012,0064), Longitudinal Temporal
Information Modified (0028,0303) and, if pixels were cleaned, Burned In Annotation (0028,0301).
"""

CONFIDENTIALITY = """\
The Basic Application Level Confidentiality Profile of PS3.15 2026d Annex E, as a de-identifier (section 1.6).

- The options of section E.2 are supported, Clean Pixel Data by ultrasound regions and by rules for devices.
- Clean Recognizable Visual Features is not supported: instances that state such features are refused.
- Encrypted Attributes Data Sets are not written.
- Instances that cannot be called clean are refused, among them encapsulated documents and, without Clean Structured
  Content, reports.
- Replacement values are consistent wherever the same key is used.
"""

METHODS = """\
De-identification Method Code Sequence has the code (DCM) of the profile, and those of the options that were applied:

[list deidentification_codes]
"""
"""The sections of the conformance statement."""


def statement_tables(settings: Settings) -> Mapping[str, ConformanceTable]:
    """Return the tables of the sections by name."""
    from node.dicom.status import table
    from node.extensions.deidentify.profile import BASIC_PROFILE, CODES

    codes = [BASIC_PROFILE, *CODES.values()]
    return {"deidentification_codes": table(("Code Value (DCM)", "Code Meaning"), sorted(codes))}


class _Deidentify(Extension):
    """Copies without identities: of files, on routes, and as downloads."""

    name = "deidentify"
    commands = (
        Command(
            "deidentify",
            "Convert",
            f"{__name__}.command:deidentify",
            (
                "voxelnode deidentify scans clean",
                "voxelnode deidentify scans clean --key trial.key --retain modified-dates,patient --clean descriptors",
                "voxelnode deidentify scans clean --pixel-rules devices.toml",
            ),
        ),
        Command(
            "pseudonyms",
            "Maintain",
            f"{__name__}.command:app",
            ("voxelnode pseudonyms new trial.key", "voxelnode pseudonyms map trial.key scans"),
        ),
    )
    tables = (Table("deidentify", f"{__name__}.settings:DeidentifySettings", is_named=True),)
    routers = (Router("rest", f"{__name__}.routes:router"), Router("pages", f"{__name__}.routes:pages_router"))
    statement = Statement(
        {
            "De-identification Profiles": f"{__name__}:PROFILES",
            "Attribute Confidentiality Profiles": f"{__name__}:CONFIDENTIALITY",
            "Copies without Identities": f"{__name__}:COPIES",
            "Codes of De-identification": f"{__name__}:METHODS",
        },
        f"{__name__}:statement_tables",
    )

    def mistakes(self, settings: Settings) -> Iterator[str]:
        tables = _tables(settings)
        for name, table in tables.items():
            if table.burned_in_text != "off":
                yield from lacking(f"deidentify.{name}: burned_in_text", "ocr")
        for name, route in settings.routes.items():
            if route.deidentify is not None and route.deidentify not in tables:
                known = nearest(route.deidentify, tables) if tables else "; there are none"
                yield f"routes.{name}: deidentify: no table [deidentify.{route.deidentify}]{known}"

    def checks(self, settings: Settings) -> Iterator[Callable[[], Any]]:
        if tables := _tables(settings):
            from node.extensions.deidentify.ways import configured

            yield from (partial(configured, settings, name) for name in tables)


def _tables(settings: Settings) -> Mapping[str, DeidentifySettings]:
    from node.extensions.deidentify.settings import DeidentifySettings

    return settings.tables(DeidentifySettings)


EXTENSION = _Deidentify()
