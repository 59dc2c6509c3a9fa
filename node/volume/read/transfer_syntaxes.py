"""Transfer syntaxes of stored instances: which of them can be decoded, by which packages, and what receivers get.

This module loads no codec: the process that accepts associations and requests chooses transfer syntaxes, and children
decode.
"""

from __future__ import annotations

import importlib.metadata
import zlib
from collections.abc import Collection, Sequence
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec

from pydicom import uid

from node.errors import VoxelnodeError

TARGETS = (str(uid.ExplicitVRLittleEndian), str(uid.ImplicitVRLittleEndian))
"""Possible transfer syntaxes of a converted instance, the better one first: it keeps the value representations."""

NATIVE = frozenset((*TARGETS, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian))

DEFLATED_IMAGE_FRAME = "1.2.840.10008.1.2.8.1"
"""Deflated Image Frame Compression (PS3.5 A.4.13), which pydicom does not name yet."""

JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
JPEG_LS = (uid.JPEGLSLossless, uid.JPEGLSNearLossless)
JPEG_2000 = (uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K)

CODESTREAM_SYNTAXES = frozenset((*JPEG, *JPEG_LS, *JPEG_2000))
"""Transfer syntaxes whose frames carry a header of their own."""

JPEG_2000_SYNTAXES = frozenset(JPEG_2000)
EXACT_JPEG_SYNTAXES = frozenset(JPEG[2:])

LOCKING_SYNTAXES = frozenset((*JPEG[2:], *JPEG_LS, *JPEG_2000))
"""Transfer syntaxes whose decoders hold the interpreter's lock."""

HAS_PYJPEGLS = find_spec("jpeg_ls") is not None
"""pyjpegls has no wheels for Python 3.14."""

PACKAGES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(JPEG[:2], ("pillow", "python-gdcm")),
    **dict.fromkeys(JPEG[2:], ("python-gdcm",)),
    **dict.fromkeys(JPEG_LS, ("pyjpegls",) if HAS_PYJPEGLS else ("python-gdcm",)),
    **dict.fromkeys(JPEG_2000, ("pylibjpeg-openjpeg",)),
    uid.RLELossless: ("pylibjpeg-rle",),
    DEFLATED_IMAGE_FRAME: ("zlib",),
}
"""The packages that decode the frames of each compressed transfer syntax; see `node.volume.read.decoders`."""


def _has_module(package: str, module: str) -> bool:
    """Return whether an installed package has a module, without importing either."""
    spec = find_spec(package)
    return spec is not None and PathFinder.find_spec(module, spec.submodule_search_locations) is not None


ENCODERS: dict[str, str] = {
    **({uid.JPEGLSLossless: "pyjpegls"} if HAS_PYJPEGLS else {}),
    **({uid.HTJ2KLossless: "imagecodecs"} if _has_module("imagecodecs", "_htj2k") else {}),
}
"""The package that encodes frames in each transfer syntax, which is one without loss."""


class NotTranscodable(VoxelnodeError):
    """An instance cannot be sent in any transfer syntax that its receiver accepts; the message gives the reason."""


def can_decode(transfer_syntax_uid: str) -> bool:
    """Return whether a decoder for this transfer syntax of compressed frames is installed."""
    return transfer_syntax_uid in PACKAGES


def choose_target(
    transfer_syntax_uid: str, accepted: Collection[str], preferred: Sequence[str] = TARGETS
) -> str | None:
    """Return the transfer syntax in which an instance is sent: its own if the receiver accepts it.

    Else one of `TARGETS`, by the order of `preferred`; None if the receiver accepts none of them.
    """
    if transfer_syntax_uid in accepted:
        return transfer_syntax_uid
    if transfer_syntax_uid not in NATIVE and not can_decode(transfer_syntax_uid):
        return None
    return next((target for target in preferred if target in TARGETS and target in accepted), None)


def decoders_by_transfer_syntax() -> dict[str, tuple[str, ...]]:
    """Return the packages that decode each transfer syntax UID, with their versions."""
    return {syntax: tuple(map(_with_version, packages)) for syntax, packages in PACKAGES.items()}


@cache
def encoder_of(transfer_syntax_uid: str) -> str:
    """Return the package that encodes a transfer syntax, with its version: others may write other bytes; else empty."""
    package = ENCODERS.get(transfer_syntax_uid)
    return _with_version(package) if package else ""


def _with_version(package: str) -> str:
    version = zlib.ZLIB_RUNTIME_VERSION if package == "zlib" else importlib.metadata.version(package)
    return f"{package} {version}"
