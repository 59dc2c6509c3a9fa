"""SOP classes and transfer syntaxes of PS3.6 Annex A that the node accepts.

They are computed from `node.dicom.uids` and `node.association.contexts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from node.dicom.uids import (
    REGISTERED_UIDS,
    SERVICES,
    choose_transfer_syntax,
    is_accepted_transfer_syntax,
    is_storage_class,
)
from node.volume.read.transfer_syntaxes import can_decode


@dataclass(frozen=True, slots=True)
class Registered:
    """A UID of PS3.6 Annex A."""

    uid: str
    name: str
    retired: bool


def _registered(kind: str) -> list[Registered]:
    return [
        Registered(uid, name, bool(retired))
        for uid, (name, type_, _, retired, _) in REGISTERED_UIDS.items()
        if type_ == kind
    ]


STORAGE_CLASSES = tuple(known for known in _registered("SOP Class") if is_storage_class(known.uid))
"""Accepted storage SOP classes of the standard; private and newer ones are accepted too."""

TRANSFER_SYNTAXES = tuple(known for known in _registered("Transfer Syntax") if is_accepted_transfer_syntax(known.uid))
"""Transfer syntaxes in which instances are accepted."""

UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.98")
"""Native pixel data, or encapsulated but uncompressed pixel data (PS3.5 A.1 to A.4)."""


def accepted_contexts(services: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
    """Return every accepted abstract syntax, of storage and `services`, with its accepted transfer syntaxes."""
    syntaxes = [known.uid for known in _registered("Transfer Syntax")]
    abstract = [*services, *(known.uid for known in STORAGE_CLASSES)]
    return {uid: tuple(syntax for syntax in syntaxes if choose_transfer_syntax(uid, [syntax])) for uid in abstract}


def name_of(uid: str) -> str:
    """Return the name of a UID in PS3.6, without the mark of retired ones."""
    return SERVICES.get(uid) or REGISTERED_UIDS[uid][0]


def is_read(transfer_syntax_uid: str) -> bool:
    """Return whether pixels in this transfer syntax can be decoded; others are only stored and sent."""
    return transfer_syntax_uid in UNCOMPRESSED or can_decode(transfer_syntax_uid)
