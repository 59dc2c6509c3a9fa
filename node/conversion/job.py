"""What a conversion is asked for and what it gives: plain records that pass between processes.

Who only asks for a conversion loads neither arrays nor codecs with them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from node.completeness import Completeness, Expectation
from node.index.records import ConvertedFile
from node.volume.reasons import Exclusion, Refusal
from node.writers.options import WriteOptions

if TYPE_CHECKING:
    from node.settings.model import Convert


@dataclass(frozen=True, slots=True)
class ConversionJob:
    """What to convert, and where to: `instances` are (SOP Instance UID, file), `folder` exists and is empty."""

    instances: tuple[tuple[str, Path], ...]
    folder: Path
    options: WriteOptions
    expectation: Expectation | None = None  # None: what the data sets themselves announce


@dataclass(frozen=True, slots=True)
class Converted:
    """What one series gave.

    `sources` are (stack, SOP Instance UID, frames): which instance went into which volume.
    """

    files: tuple[ConvertedFile, ...]
    sources: tuple[tuple[int, str, int], ...]
    exclusions: tuple[Exclusion, ...]
    refusals: tuple[Refusal, ...]
    completeness: Completeness
    seconds: float


@dataclass(frozen=True, slots=True)
class ConversionLimits:
    """The most that one conversion may take.

    Attributes
    ----------
    memory_bytes : int
        Address space of the process that converts.
    deadline_seconds : float
        Time on the clock.
    """

    memory_bytes: int
    deadline_seconds: float

    @property
    def cpu_seconds(self) -> int:
        """Processor time: the kernel ends by it a process that outlives the node which watches its deadline."""
        return math.ceil(self.deadline_seconds)


def limits(section: Convert) -> ConversionLimits:
    """The limits, from the configuration."""
    return ConversionLimits(section.memory_bytes, section.deadline_seconds)
