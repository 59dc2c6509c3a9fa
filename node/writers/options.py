"""The files to write for each volume, as a plain record; this module imports neither NumPy nor codecs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from node.settings import VolumeFormat
    from node.settings.section import Convert, SuvTypeName


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """The files to write for one volume: the keys of ``[convert]`` that concern writers, and options of commands.

    `split_times` writes a volume of each time.
    """

    formats: tuple[VolumeFormat, ...] = ("nifti", "mhd")
    compress: bool = True
    nifti_extension: bool = False
    thumbnails: bool = True
    thumbnail_pixels: int = 256
    previews: bool = False
    projections: bool = False
    montages: bool = False
    slices: bool = False
    body_masks: bool = False
    body_contours: bool = False
    masked_volumes: bool = False
    body_threshold_hu: float = -300.0
    suv: bool = False
    suv_types: tuple[SuvTypeName, ...] = ("BW",)
    repair: bool = True
    split_times: bool = False

    @property
    def makes_pictures(self) -> bool:
        """Whether a volume may have a picture beside it."""
        return self.thumbnails or self.previews or self.projections or self.montages or self.slices

    @property
    def segments_body(self) -> bool:
        """Whether a file of a CT requires the body to be found in it."""
        return self.body_masks or self.body_contours or self.masked_volumes or self.projections


def write_options(section: Convert) -> WriteOptions:
    """Return the options for the writers from the configuration."""
    return WriteOptions(**{name: getattr(section, name) for name in WriteOptions.__slots__ if hasattr(section, name)})
