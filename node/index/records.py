"""What goes into the index and comes out of it, as plain objects."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any


@dataclass(frozen=True, slots=True)
class StoredFile:
    """Where an instance lies and how it came; `bytes` and `sha256` are of the data set as received."""

    key: str
    quarantine_key: str  # where it goes when the index already holds other bytes under its UID
    bytes: int
    sha256: str
    data_set_offset: int
    transfer_syntax_uid: str
    door: str
    calling_ae_title: str
    called_ae_title: str
    peer: str
    received_at: dt.datetime


class Outcome(Enum):
    """What became of an instance; in every case it may be acknowledged after the commit."""

    STORED = auto()
    ALREADY_THERE = auto()  # same SOP Instance UID, same bytes: nothing written
    OTHER_BYTES = auto()  # same SOP Instance UID, other bytes: the first stays, the second is a conflict


@dataclass(frozen=True, slots=True)
class ClaimedInstance:
    """One instance of a claimed series; `key` is for the archive."""

    sop_instance_uid: str
    key: str
    sha256: str


@dataclass(frozen=True, slots=True)
class ClaimedSeries:
    """A due series that this process has taken; `claim` proves it when the outcome is recorded."""

    id: int
    claim: str
    study_instance_uid: str
    series_instance_uid: str
    revision: int  # the one that this conversion makes
    instances: tuple[ClaimedInstance, ...]
    images_in_acquisition: int | None  # the largest that an instance announces, (0020,1002)


@dataclass(frozen=True, slots=True)
class ConvertedFile:
    """One row of `volumes`; `path` counts from the root."""

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
class SeriesOutcome:
    """All that one conversion gave.

    `sources` are (stack, SOP Instance UID, frames), `exclusions` (SOP Instance UID, frames, reason, detail), `failures`
    (stack or None, reason, detail).
    """

    state: str
    converter: str
    options: Mapping[str, Any]
    seconds: float
    files: Sequence[ConvertedFile] = ()
    sources: Sequence[tuple[int, str, int]] = ()
    exclusions: Sequence[tuple[str, int, str, str]] = ()
    failures: Sequence[tuple[int | None, str, str]] = ()
    verdict: str | None = None
    verdict_reason: str | None = None
    expected_instances: int | None = None
    error: str | None = None
