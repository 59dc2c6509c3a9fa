"""What children do with presentation states; `node.extensions.dicomweb.softcopy` does it.

The node imports this module to name a job, so what computes is imported in the functions.
"""

from __future__ import annotations

import json
from pathlib import Path

from node.children.decoding import PictureOrder
from node.files.metadata import NoSuchValue

PRESENTATION_STATES = "1.2.840.10008.5.1.4.1.1.11."
"""Prefix of the SOP Class UIDs of presentation states (PS3.4 B.5)."""


class NotPresented(NoSuchValue):
    """A presentation state that cannot be applied to an image, and why."""


def references_file(path: Path, into: Path) -> bytes:
    """Write what a presentation state refers to, in its order, as JSON.

    A list of SOP Instance UID and list of frames, which is empty if all frames are meant (PS3.3 C.11.11).
    """
    from node.extensions.dicomweb.softcopy import references

    into.write_text(json.dumps(references(path)), encoding="ascii")
    return b""


def presented_picture(path: Path, state_path: Path, order: PictureOrder) -> bytes:
    """Return one frame of an image as a presentation state has it shown, as PNG, JPEG or GIF.

    `order` has neither a window nor a region: they are those of the state.

    Raises
    ------
    NotPresented
        The presentation state does not refer to the frame, or asks for what cannot be drawn.
    FrameNotFound
        The image has no such frame.
    ConversionRefused
        The pixel data do not match the header, or cannot be decoded.
    """
    from node.extensions.dicomweb.softcopy import presented

    return presented(path, state_path, order)
