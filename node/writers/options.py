"""Which files of a volume are written: a plain record, which imports neither arrays nor codecs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from node.settings.model import Convert, VolumeFormat


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """Which files of one volume are written; the keys of ``[convert]`` that concern writers."""

    formats: tuple[VolumeFormat, ...] = ("nifti", "mhd")
    compress: bool = True
    thumbnails: bool = True
    thumbnail_pixels: int = 256
    previews: bool = False
    projections: bool = False
    montages: bool = False
    body_masks: bool = False
    suv: bool = False


def write_options(section: Convert) -> WriteOptions:
    """Return the options of the writers, from the configuration."""
    return WriteOptions(**{name: getattr(section, name) for name in WriteOptions.__slots__})
