"""Frames of JPEG are made of what their blocks use: the same frame comes out whatever lay beside the blocks."""

import struct
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from node.extensions.deidentify.jpeg import NotProven, pixels_alone

SMOOTH = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)[..., None] * np.array([1, 2, 1], np.uint8)


def jpeg(rows: int = 48, columns: int = 64, **options: Any) -> bytes:
    stream = BytesIO()
    Image.fromarray(SMOOTH[:rows, :columns]).save(stream, "jpeg", **options)
    return stream.getvalue()


def segment(marker: int, content: bytes = b"Secret") -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def before(mark: bytes, inserted: bytes) -> Callable[[bytes], bytes]:
    return lambda frame: frame.replace(mark, inserted + mark, 1)


def in_unused_codes(frame: bytes) -> bytes:
    """The last code of the usual table of AC coefficients, of 16 bits, is in no block of a smooth picture."""
    at = frame.index(b"\xff\xc4\0\xb5\x10") + 2 + 0xB5
    return frame[: at - 6] + b"Secret" + frame[at:]


def in_unused_quantizers(frame: bytes) -> bytes:
    at = frame.index(b"\xff\xdb") + 5 + 64
    return frame[: at - 6] + b"Secret" + frame[at:]


def in_the_number_of_unused_codes(frame: bytes) -> bytes:
    at = frame.index(b"\xff\xc4\0\xb5\x10")
    end = at + 2 + 0xB5
    return (
        frame[:at]
        + segment(0xC4, frame[at + 4 : at + 20] + b"S" + frame[at + 21 : end][: ord("S") - 125])
        + frame[end:]
    )


def of_codes(values: int, blocks: bytes, quantizer: int = 1) -> bytes:
    """A grey frame of one block, of which codes of 8 bits are symbol 0, or the last one is a value of so many bits."""
    counts = bytes([*[0] * 7, 255, *[0] * 8])
    tables = segment(0xC4, b"\0" + counts + bytes(255)) + segment(0xC4, b"\x10" + counts + bytes([*[0] * 254, values]))
    head = segment(0xDB, bytes([0, *[quantizer] * 64])) + segment(0xC0, b"\x08\0\x08\0\x08\1\1\x11\0")
    return b"\xff\xd8" + head + tables + segment(0xDA, b"\1\1\0\0\x3f\0") + blocks + b"\xff\xd9"


def with_other_identifiers(frame: bytes) -> bytes:
    header, scan = frame.index(b"\xff\xc0"), frame.index(b"\xff\xda")
    changed = bytearray(frame)
    for index, letter in enumerate(b"Sec"):
        changed[header + 10 + 3 * index] = changed[scan + 5 + 2 * index] = letter
    return bytes(changed)


HIDDEN: dict[str, Callable[[bytes], bytes]] = {
    "nothing": bytes,
    "behind the last block": before(b"\xff\xd9", b"Secret"),
    "behind the end": lambda frame: frame + b"Secret\xff\xd9",
    "a second scan": before(b"\xff\xd9", b"\xff\xda\0\x0c\3\1\0\2\x11\3\x11\0\x3f\0Secret"),
    "a table after the scan": before(b"\xff\xd9", segment(0xDB, b"\3" + b"Secret" * 10 + b"1234")),
    "a comment": before(b"\xff\xda", segment(0xFE)),
    "application segments": before(b"\xff\xc0", b"".join(segment(marker) for marker in range(0xE0, 0xF0))),
    "unknown segments": before(b"\xff\xc0", segment(0xF3) + segment(0x33)),
    "padding of markers": before(b"\xff\xc0", b"\xff\xff\xff"),
    "a table of codes that no component uses": before(b"\xff\xda", segment(0xC4, bytes([3, 6, *[0] * 15]) + b"Secret")),
    "quantizers of no component": before(b"\xff\xda", segment(0xDB, bytes([3, *b"Secret" * 10, *[7] * 4]))),
    "a table that another one replaces": before(b"\xff\xdb", segment(0xDB, bytes([0, *b"Secret" * 10, *[7] * 4]))),
    "codes that no block uses": in_unused_codes,
    "the number of codes that no block uses": in_the_number_of_unused_codes,
    "quantizers that no block uses": in_unused_quantizers,
    "thumbnail and density": lambda frame: frame.replace(frame[2:20], segment(0xE0, b"JFIF\0Secret\1\1\1Secret")),
    "the spectrum of a scan": lambda frame: frame.replace(b"\3\x11\0\x3f\0", b"\3\x11Sec"),
    "the names of components": with_other_identifiers,
    "a restart interval behind the scan": before(b"\xff\xda", segment(0xDD, b"Se")),
    "a restart interval of no scan": before(b"\xff\xc0", segment(0xDD, b"Se")[:6] + segment(0xDD, b"\0\0")),
}  # fmt: skip


@pytest.mark.parametrize("where", HIDDEN)
def test_a_frame_is_the_same_whatever_is_hidden_in_it(where: str) -> None:
    frame = jpeg()
    hidden = HIDDEN[where](frame)
    assert (hidden != frame) is (where != "nothing")
    new = pixels_alone(hidden)
    assert new == pixels_alone(frame)
    assert b"ecret" not in new
    assert np.array_equal(np.asarray(Image.open(BytesIO(new))), np.asarray(Image.open(BytesIO(frame))))


@pytest.mark.parametrize(
    "options",
    [{"subsampling": 0}, {"subsampling": 1}, {"optimize": True}, {"keep_rgb": True}, {"restart_marker_blocks": 2}],
    ids=str,
)
def test_pixels_and_colours_stay(options: dict[str, Any]) -> None:
    frame = jpeg(quality=97, **options)
    new = pixels_alone(frame)
    assert np.array_equal(np.asarray(Image.open(BytesIO(new))), np.asarray(Image.open(BytesIO(frame))))
    if "restart_marker_blocks" in options:
        surplus = frame.replace(b"\xff\xd1", b"Secret\xff\xd1")
        assert surplus != frame
        assert pixels_alone(surplus) == new


@pytest.mark.parametrize(("rows", "columns", "subsampling"), [(40, 64, 2), (48, 56, 1), (48, 63, 0)])
def test_what_blocks_hold_beyond_the_image_is_not_kept(rows: int, columns: int, subsampling: int) -> None:
    assert pixels_alone(jpeg(rows, columns, subsampling=subsampling)) == b""


@pytest.mark.parametrize(
    "frame",
    [
        lambda: jpeg(progressive=True),
        lambda: jpeg().replace(b"\xff\xd9", b"")[:-40],
        lambda: jpeg().replace(b"\xff\xc0", b"\xff\xc9"),
        lambda: jpeg()[:300],
        lambda: jpeg().replace(b"\xff\xda", b"\xff\xd9", 1),
        lambda: of_codes(0, b"Secret").replace(b"\0\x08\0\x08", b"\0\x08\0\x18"),
        lambda: of_codes(1, b"\0\xfe\x80\0", quantizer=0),
        lambda: of_codes(11, b"\0\xfeSecret\0\0"),
        lambda: jpeg().replace(b"\xff\xc4\0\x1f\0", b"\xff\xc4\0\x1f\x44"),
    ],
    ids=[
        "progressive", "blocks are missing", "arithmetic", "cut in a table", "no scan", "a text of codes of one symbol",
        "values that nobody sees", "values of too many bits", "destinations that no table has",
    ],
)  # fmt: skip
def test_what_is_not_proven_is_refused(frame: Callable[[], bytes]) -> None:
    with pytest.raises(NotProven):
        pixels_alone(frame())
