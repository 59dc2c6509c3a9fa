"""The SOP classes and transfer syntaxes that the node accepts: all that can be stored unchanged and still be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from urllib.parse import quote

from pydicom._uid_dict import UID_dictionary
from pydicom.config import IGNORE
from pydicom.uid import (
    JPEG2000,
    UID,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from node.dicom.attributes import is_uid
from node.dicom.encoding import (
    DEFLATED_LITTLE_ENDIAN,
    EXPLICIT_BIG_ENDIAN,
    EXPLICIT_LITTLE_ENDIAN,
    IMPLICIT_LITTLE_ENDIAN,
)

VERIFICATION = "1.2.840.10008.1.1"
"""Verification SOP Class, PS3.4 A.4: the abstract syntax of C-ECHO."""

PATIENT_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"
PATIENT_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.1.2"
PATIENT_ROOT_GET = "1.2.840.10008.5.1.4.1.2.1.3"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"
STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"

_NEWER = {"1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage"}
"""Names of UIDs that pydicom does not know yet (PS3.6 Annex A)."""

STORAGE_COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
"""The well-known instance of storage commitment, PS3.4 J.3.5."""

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
"""DICOM Application Context Name, PS3.7 A.2.1; there is no other."""

STANDARD_ROOT = "1.2.840.10008."

_UNCOMPRESSED = frozenset((IMPLICIT_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN, EXPLICIT_BIG_ENDIAN))
"""Encodings of data sets without pixels."""

_STORED_BY_OTHER_MEANS = frozenset(
    {
        STORAGE_COMMITMENT,  # Storage Commitment Push Model: N-ACTION
        "1.2.840.10008.1.20.2",  # Storage Commitment Pull Model: N-ACTION
        "1.2.840.10008.1.3.10",  # Media Storage Directory: DICOMDIR, PS3.10 8.6
    }
)

# The pixels of JPIP are elsewhere; the others have no data set that DIMSE could transfer.
_REFUSED_TRANSFER_SYNTAXES = frozenset(
    {
        "1.2.840.10008.1.2.4.95",  # JPIP Referenced Deflate
        "1.2.840.10008.1.2.4.205",  # JPIP HTJ2K Referenced Deflate
        "1.2.840.10008.1.2.6.1",  # RFC 2557 MIME encapsulation
        "1.2.840.10008.1.2.6.2",  # XML Encoding
        "1.2.840.10008.1.2.7.1",  # SMPTE ST 2110-20, progressive
        "1.2.840.10008.1.2.7.2",  # SMPTE ST 2110-20, interlaced
        "1.2.840.10008.1.2.7.3",  # SMPTE ST 2110-30
    }
)


def registered(uid: str) -> UID:
    """Return a UID with what PS3.6 Annex A says of it: `name`, `type` and `is_retired`; `type` is empty if it is not
    there."""
    return UID(uid, IGNORE)


@lru_cache(maxsize=256)  # asked for every instance
def is_storage_class(sop_class_uid: str) -> bool:
    """Return whether the node accepts instances of this SOP class by C-STORE.

    True for every storage class of the standard, including retired ones, and for every UID that the dictionary does not
    contain: a private class, or one newer than the dictionary. False for the standard's other services
    (Query/Retrieve, worklists, print, ...).

    PS3.6 Annex A names every storage class "... Storage".
    """
    if sop_class_uid in _STORED_BY_OTHER_MEANS:
        return False
    known = registered(sop_class_uid)
    return not known.type or (known.type == "SOP Class" and "Storage" in known.name)


def storage_class(name: str) -> str:
    """Return the UID of a storage SOP class by its keyword (PS3.6 Annex A) or UID; empty if it is none."""
    if is_uid(name):
        return name if is_storage_class(name) else ""
    return storage_classes().get(name, "")


@cache
def storage_classes() -> Mapping[str, str]:
    """Return the UIDs of the storage SOP classes of PS3.6 by their keywords."""
    return {known[4]: uid for uid, known in UID_dictionary.items() if known[4] and is_storage_class(uid)}


def is_accepted_transfer_syntax(transfer_syntax_uid: str) -> bool:
    """Return whether the node accepts data sets of this transfer syntax.

    True for all transfer syntaxes of the standard except deflated references by JPIP and those that DIMSE does not
    carry. Standard ones newer than the dictionary are accepted too: all encapsulated syntaxes share one data set
    encoding (PS3.5 A.4).
    An unknown private one is refused: it may encode elements in its own way (PS3.5 10), so that nothing could be
    indexed, and a refusal during negotiation lets the sender offer another.
    """
    if transfer_syntax_uid in _REFUSED_TRANSFER_SYNTAXES:
        return False
    known = registered(transfer_syntax_uid)
    if not known.type:
        return transfer_syntax_uid.startswith(f"{STANDARD_ROOT}1.2.")
    return known.type == "Transfer Syntax"


def choose_transfer_syntax(sop_class_uid: str, offered: Iterable[str]) -> str | None:
    """Return the first acceptable transfer syntax of a presentation context, or None.

    The sender's order is respected: bytes are stored as received, so its preference costs nothing and is usually the
    encoding in which the sender already has the instance. Only a deflated data set is the last choice, because a frame
    of it cannot be read without the rest. C-ECHO carries no data set, so any syntax is accepted. Other
    services use one of the three uncompressed syntaxes.
    """
    if sop_class_uid == VERIFICATION:
        return next(iter(offered), None)
    if not is_storage_class(sop_class_uid):
        return next((uid for uid in offered if uid in _UNCOMPRESSED), None)
    accepted = [uid for uid in offered if is_accepted_transfer_syntax(uid)]
    return min(accepted, key=lambda uid: uid == DEFLATED_LITTLE_ENDIAN, default=None)


def registered_name(uid: str) -> str | None:
    """Return the name of a UID that the standard registers (PS3.6 Annex A), else None."""
    if uid in _NEWER:
        return _NEWER[uid]
    known = UID(uid, IGNORE)
    return known.name if known == uid and known.name != uid else None


def in_path(uid: str) -> str:
    """Return a UID as a segment of the path of a URL: a sender chose it, and it may have a ``?`` or a ``%``."""
    return quote(uid, safe="")


def resource_path(*uids: str) -> str:
    """Return the path of a study, a series or an instance (PS3.18 10.1); `uids` start with that of the study."""
    levels = zip(("studies", "series", "instances"), uids, strict=False)
    return "".join(f"/{level}/{in_path(uid)}" for level, uid in levels)


USUAL_COMPRESSED = (
    JPEG2000Lossless,
    JPEG2000,
    JPEGLosslessSV1,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    HTJ2KLossless,
)
"""The usual compressed transfer syntaxes: C-GET proposes them, so that the peer can send instances unchanged."""
