"""Read the beginning of the data set of a file."""

from __future__ import annotations

import os
from pathlib import Path

from node.dicom.header import HEAD_BYTES, REST, WINDOW_BYTES, Head, read_elements


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
