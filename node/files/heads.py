"""Read the beginning of the data set of a file, tell whether its pixels are whole, and compare two data sets."""

import os
from pathlib import Path

from node.dicom.attributes import InstanceAttributes, attributes_by_windows
from node.dicom.coercion import MODIFYING_SYSTEM
from node.dicom.encoding import META_BYTES, file_meta
from node.dicom.header import (
    HEAD_BYTES,
    REST,
    WINDOW_BYTES,
    CutPixels,
    Head,
    cut_pixels,
    read_elements,
    read_header_by_windows,
    read_items,
)
from node.dicom.recoded import Encoded, is_recoded
from node.dicom.walker import MAX_SEQUENCE_BYTES, HeaderCut
from node.errors import NotUnderstood

_ORIGINAL_ATTRIBUTES, _MODIFYING_SYSTEM = frozenset({0x04000561}), frozenset({0x04000563})


def head_of(path: Path, data_set_offset: int, transfer_syntax_uid: str) -> Head | None:
    """Return the beginning of the data set of a file: all before the pixels, unless that is more than a window.

    None if the file is gone: who reads it finds that out, and what is known of its instance does not wait for that.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        for length in (HEAD_BYTES, WINDOW_BYTES):
            data = os.pread(file.fileno(), length, data_set_offset)
            head = Head(data, 0, transfer_syntax_uid, is_cut=len(data) == length)
            if not head.is_cut or REST not in read_elements(head).elements:
                break
    return head


def attributes_of(path: Path, data_set_offset: int, transfer_syntax_uid: str) -> InstanceAttributes:
    """Return the attributes of an instance from its file; errors as of `node.dicom.attributes.instance_attributes`."""
    with path.open("rb") as file:
        descriptor = file.fileno()
        return attributes_by_windows(
            lambda offset, length: os.pread(descriptor, length, data_set_offset + offset), transfer_syntax_uid
        )


def cut_pixels_of(path: Path) -> CutPixels | None:
    """Return what a DICOM file has of its pixels, if it has not all that its own header states.

    Raises OSError: the file is missing, or cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        one = _encoded(file.fileno())
        return cut_pixels(one.read, one.length, one.transfer_syntax_uid)


def are_recoded(mine: Path, theirs: Path) -> bool | None:
    """Return whether two DICOM files have the same data set, or None: see `node.dicom.recoded.is_recoded`.

    Raises OSError: a file is missing, or cannot be read.
    """
    with mine.open("rb", buffering=0) as one, theirs.open("rb", buffering=0) as other:
        return is_recoded(_encoded(one.fileno()), _encoded(other.fileno()))


def may_be_own_copy(path: Path) -> bool:
    """Return whether a file seems to have left this node with a decided identity, in whatever encoding it came back.

    Its Original Attributes Sequence (0400,0561) names the node, or is too long to be read here.

    Raises OSError: the file is missing, or cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        one = _encoded(file.fileno())
        try:
            found = read_header_by_windows(one.read, one.transfer_syntax_uid, _ORIGINAL_ATTRIBUTES).elements
        except (HeaderCut, NotUnderstood):
            return False
    raw = next(iter(found.values()), b"")
    systems = (b"".join(item.values()) for item in read_items(raw, one.transfer_syntax_uid, _MODIFYING_SYSTEM))
    return len(raw) == MAX_SEQUENCE_BYTES or MODIFYING_SYSTEM.encode() in map(bytes.strip, systems)


def _encoded(descriptor: int) -> Encoded:
    elements, start = file_meta(os.pread(descriptor, META_BYTES, 0))
    length = os.fstat(descriptor).st_size - start
    return Encoded(lambda offset, size: os.pread(descriptor, size, start + offset), length, elements.get(0x0010, ""))
