"""ICC profiles: that of an instance, and those of the colour spaces that PS3.3 C.11.15.1.2 names."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Literal

from pydicom import Dataset

from node.dicom.values import items, value
from node.volume.elements import item, text
from node.volume.read.codestreams import jpeg_profile

ColourSpace = Literal["srgb", "adobergb", "rommrgb"]

COLOUR_SPACES: dict[str, ColourSpace] = {"SRGB": "srgb", "ADOBERGB": "adobergb", "ROMMRGB": "rommrgb"}
"""By *Color Space* (0028,2002)."""

_D50 = (0.9642, 1.0, 0.8249)
_FROM_D65 = (1.0478112, 0.0228866, -0.0501270, 0.0295424, 0.9904844, -0.0170491, -0.0092345, 0.0150436, 0.7521316)
"""The Bradford adaptation from D65 to D50, of the v4 profile of a space whose white is D65."""

_ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
_ROMM_RGB = ((0.79767, 0.28804, 0.0), (0.13519, 0.71187, 0.00009), (0.03135, 0.00009, 0.82481))
"""XYZ of red, green and blue, adapted to D50 (Adobe RGB (1998) 4.3.5; ISO 22028-2)."""


def source_profile(ds: Dataset, frame_number: int, codestream: bytes | None) -> bytes | ColourSpace:
    """Return the profile of a frame: that of the data set, else that in its compressed frame, else a well-known one.

    `frame_number`: from 1.
    `codestream`: the compressed frame.

    PS3.18 8.3.5.1.5. Without any, *Color Space* (0028,2002) names the space, and sRGB is taken.
    """
    path = _optical_path(ds, frame_number)
    for holder in (ds, *([path] if path is not None else [])):
        profile = value(holder, "ICCProfile")
        if isinstance(profile, bytes) and profile:
            return profile
    embedded = jpeg_profile(codestream) if codestream is not None else b""
    named = text(ds, "ColorSpace") or (text(path, "ColorSpace") if path is not None else None)
    return embedded or COLOUR_SPACES.get(named or "", "srgb")


def _optical_path(ds: Dataset, frame_number: int) -> Dataset | None:
    """Return the optical path of a frame of a whole slide image (PS3.3 C.8.12.5)."""
    paths = items(ds, "OpticalPathSequence")
    per_frame = items(ds, "PerFrameFunctionalGroupsSequence")[frame_number - 1 : frame_number]
    for group in (*per_frame, *items(ds, "SharedFunctionalGroupsSequence")[:1]):
        named = item(group, "OpticalPathIdentificationSequence")
        wanted = None if named is None else text(named, "OpticalPathIdentifier")
        if wanted is not None:
            return next((path for path in paths if text(path, "OpticalPathIdentifier") == wanted), None)
    return paths[0] if paths else None


def adobe_rgb() -> bytes:
    """Return a profile of Adobe RGB (1998), whose gamma is 563/256."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, 563) + bytes(2)
    return _profile("Compatible with Adobe RGB (1998)", _ADOBE_RGB, curve, _FROM_D65)


def romm_rgb() -> bytes:
    """Return a profile of ROMM RGB (ISO 22028-2): gamma 1.8, linear below 1/32."""
    parameters = (1.8, 1.0, 0.0, 1 / 16, 1 / 32)
    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + b"".join(map(_fixed, parameters))
    return _profile("ROMM RGB", _ROMM_RGB, curve, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


def _profile(name: str, primaries: Sequence[Sequence[float]], curve: bytes, adaptation: Sequence[float]) -> bytes:
    """Return a display profile with a matrix and one curve (ICC.1:2010 8.4.3)."""
    tags = {
        b"desc": _words(name),
        b"cprt": _words("No copyright, use freely"),
        b"wtpt": _xyz(_D50),
        b"chad": b"sf32" + bytes(4) + b"".join(map(_fixed, adaptation)),
        **{bytes((letter,)) + b"XYZ": _xyz(primary) for letter, primary in zip(b"rgb", primaries, strict=True)},
        **{bytes((letter,)) + b"TRC": curve for letter in b"rgb"},
    }
    body, table, at = b"", b"", 128 + 4 + 12 * len(tags)
    for signature, data in tags.items():
        table += signature + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", at + len(body), bytes(4), 0x04300000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + b"".join(map(_fixed, _D50))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _words(words: str) -> bytes:
    """Return a multiLocalizedUnicodeType with one text."""
    encoded = words.encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">II4sII", 1, 12, b"enUS", len(encoded), 28) + encoded


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(map(_fixed, values))


def _fixed(number: float) -> bytes:
    return struct.pack(">i", round(number * 65536))
