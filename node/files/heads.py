"""Read the beginning of the data set of a file, and whether its pixels are whole."""

from __future__ import annotations

import os
from pathlib import Path

from node.dicom.attributes import InstanceAttributes, attributes_by_windows
from node.dicom.header import HEAD_BYTES, REST, WINDOW_BYTES, CutPixels, Head, cut_pixels, read_elements
from node.dicom.part10 import META_BYTES, file_meta


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
        elements, start = file_meta(os.pread(file.fileno(), META_BYTES, 0))
        length = os.fstat(file.fileno()).st_size - start
        return cut_pixels(
            lambda offset, size: os.pread(file.fileno(), size, start + offset), length, elements.get(0x0010, "")
        )
