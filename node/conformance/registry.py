"""What the node takes, by PS3.6 Annex A and the tables that decide it (`node.dicom.uids`, `association.contexts`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydicom._uid_dict import UID_dictionary

from node.association.contexts import VERBS
from node.dicom.uids import SERVICES, choose_transfer_syntax, is_accepted_transfer_syntax, is_storage_class
from node.volume.read.decoders import can_decode


@dataclass(frozen=True, slots=True)
class Registered:
    """A UID of PS3.6 Annex A."""

    uid: str
    name: str
    retired: bool


def _registered(kind: str) -> list[Registered]:
    return [
        Registered(uid, name, bool(retired))
        for uid, (name, type_, _, retired, _) in UID_dictionary.items()
        if type_ == kind
    ]


STORAGE_CLASSES = tuple(one for one in _registered("SOP Class") if is_storage_class(one.uid))
"""Storage SOP classes of the standard that are taken; private and younger ones are taken besides."""

TRANSFER_SYNTAXES = tuple(one for one in _registered("Transfer Syntax") if is_accepted_transfer_syntax(one.uid))
"""Transfer syntaxes in which instances are taken."""

UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.98")
"""Native pixels, or encapsulated ones that no codec made (PS3.5 A.1 to A.4)."""


def accepted_contexts() -> Mapping[str, tuple[str, ...]]:
    """Every abstract syntax that is accepted, with the transfer syntaxes of the standard that are accepted for it."""
    syntaxes = [one.uid for one in _registered("Transfer Syntax")]
    abstract = [*VERBS, *(one.uid for one in STORAGE_CLASSES)]
    return {uid: tuple(each for each in syntaxes if choose_transfer_syntax(uid, [each])) for uid in abstract}


def name_of(uid: str) -> str:
    """The name of a UID in PS3.6, without the mark that it is retired."""
    return SERVICES.get(uid) or UID_dictionary[uid][0]


def is_read(transfer_syntax_uid: str) -> bool:
    """Whether pixels in this transfer syntax become volumes and pictures; else they are kept and passed on."""
    return transfer_syntax_uid in UNCOMPRESSED or can_decode(transfer_syntax_uid)
