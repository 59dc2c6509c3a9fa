"""What a conversion is asked for and what it gives: plain records that pass between processes.

Who only asks for a conversion loads neither arrays nor codecs with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from node.verdict import Expectation, Verdict
from node.volume.reasons import Exclusion, Refusal

if TYPE_CHECKING:
    from node.config import Convert, VolumeFormat


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
    montage_step: int = 5
    body_masks: bool = False
    suv: bool = False


def write_options(section: Convert) -> WriteOptions:
    """The options of the writers, from the configuration."""
    return WriteOptions(**{name: getattr(section, name) for name in WriteOptions.__slots__})


@dataclass(frozen=True, slots=True)
class ConversionJob:
    """What to convert, and where to: `instances` are (SOP Instance UID, file), `folder` exists and is empty."""

    instances: tuple[tuple[str, Path], ...]
    folder: Path
    options: WriteOptions
    expectation: Expectation | None = None  # None: what the data sets themselves announce


@dataclass(frozen=True, slots=True)
class ConvertedFile:
    """One row of `volumes`; `path` counts from the folder of the job, and in the index from the root."""

    stack: int
    suffix: str
    kind: str
    format: str
    path: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    dtype: str
    geometry: str
    instances: int
    warnings: tuple[str, ...]
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Converted:
    """What one series gave.

    `sources` are (stack, SOP Instance UID, frames): which instance went into which volume.
    """

    files: tuple[ConvertedFile, ...]
    sources: tuple[tuple[int, str, int], ...]
    exclusions: tuple[Exclusion, ...]
    refusals: tuple[Refusal, ...]
    verdict: Verdict
    seconds: float


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one conversion may take.

    Attributes
    ----------
    memory_bytes : int
        Address space of the process that converts.
    cpu_seconds : int
        Processor time.
    deadline_seconds : float
        Time on the clock.
    """

    memory_bytes: int
    cpu_seconds: int
    deadline_seconds: float


def limits(section: Convert) -> Limits:
    """The limits, from the configuration."""
    return Limits(section.memory_bytes, section.cpu_seconds, section.deadline_seconds)
