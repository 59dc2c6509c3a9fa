"""Records that pass between the node and a converting child: the job and its result.

This module imports neither NumPy nor codecs, so the node's process does not load them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from node.child_process.serving import ChildLimits
from node.completeness import Completeness, Expectation
from node.index.records import ClaimedInstance, ConvertedFile
from node.volume.reasons import Exclusion, Refusal
from node.writers.options import WriteOptions

if TYPE_CHECKING:
    from node.settings.model import Convert


@dataclass(frozen=True, slots=True)
class ConversionJob:
    """One series to convert.

    Attributes
    ----------
    instances : tuple of (str, Path)
        SOP Instance UID and file of each instance.
    folder : Path
        Existing empty folder for the files.
    expectation : Expectation or None
        Expected counts; None: the counts that the data sets announce.
    as_received : mapping of Path to ClaimedInstance
        The files that must be as they were received; others are taken as they are.
    """

    instances: tuple[tuple[str, Path], ...]
    folder: Path
    options: WriteOptions
    expectation: Expectation | None = None
    as_received: Mapping[Path, ClaimedInstance] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Converted:
    """The result of converting one series.

    Attributes
    ----------
    sources : tuple of (int, str, int)
        Stack, SOP Instance UID, and number of frames of that instance in that stack.
    damaged : tuple of (str, str)
        SOP Instance UID of each instance that is not as it was received, and how it differs; then there are no files.
    """

    files: tuple[ConvertedFile, ...]
    sources: tuple[tuple[int, str, int], ...]
    exclusions: tuple[Exclusion, ...]
    refusals: tuple[Refusal, ...]
    completeness: Completeness
    seconds: float
    damaged: tuple[tuple[str, str], ...] = ()


def limits(section: Convert) -> ChildLimits:
    """Return the limits that the configuration sets.

    Processor time is limited too, so that the kernel ends a child that has outlived the node, which watches the
    deadline.
    """
    return ChildLimits(section.memory_bytes, math.ceil(section.deadline_seconds), section.deadline_seconds)
