"""Plain objects that go into the index and come out of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Literal

from node.completeness import Completeness, Expectation
from node.dicom.attributes import InstanceAttributes
from node.settings.model import OverwritePolicy


@dataclass(frozen=True, slots=True)
class StoredFile:
    """Where the file of an instance is and how it came; `bytes` and `sha256` are of the data set as received."""

    key: str
    quarantine_key: str  # where the file goes if the index already holds other bytes under its UID
    bytes: int
    sha256: str
    data_set_offset: int
    transfer_syntax_uid: str
    source: str
    calling_ae_title: str
    called_ae_title: str
    peer: str
    received_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Arrived:
    """An instance to be indexed; its series is due `quiet_seconds` after it, unless another instance arrives."""

    attributes: InstanceAttributes
    file: StoredFile
    quiet_seconds: float
    overwrite_policy: OverwritePolicy = "never"


class Outcome(Enum):
    """The outcome of adding an instance; in every case it may be acknowledged after the commit."""

    STORED = auto()
    ALREADY_THERE = auto()  # same SOP Instance UID, same bytes: nothing written
    OTHER_BYTES = auto()  # same SOP Instance UID, other bytes: the first stays, the second is kept beside it
    REPLACED = auto()  # same SOP Instance UID, other bytes: the second counts, the first is kept beside it


@dataclass(frozen=True, slots=True)
class Kept:
    """An outcome, and what to do after the commit with a file that no row of images names, by its archive key."""

    outcome: Outcome
    remove: str | None = None  # the archive has these bytes in another file
    quarantine: str | None = None  # other bytes count for this SOP Instance UID


SeriesKey = tuple[str, str]
"""Study Instance UID and Series Instance UID: a Series Instance UID in two studies is two series."""


@dataclass(frozen=True, slots=True)
class UnconfirmedSeries:
    """A waiting series, the sender of its newest instance, and how many instances are here."""

    key: SeriesKey
    calling_ae_title: str
    received: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A refusal, with its reason and what a person can do about it; never patient data.

    Refusals that agree in everything but `reason` and `remedy` are shown as one.
    """

    what: Literal["connection", "association", "context", "instance", "retrieve", "commitment"]
    rule: str
    reason: str = field(compare=False)
    remedy: str = field(compare=False)
    peer: str = ""  # address, without a port
    calling_ae_title: str = ""
    called_ae_title: str = ""
    offered: str = ""


@dataclass(frozen=True, slots=True)
class CountedRefusal:
    """How often something was refused between two moments; `refused` is the last refusal."""

    refused: Refused
    count: int
    first_at: dt.datetime
    last_at: dt.datetime


@dataclass(frozen=True, slots=True)
class ClaimedInstance:
    """One instance of a claimed series; `key` is for the archive."""

    sop_instance_uid: str
    key: str
    sha256: str


@dataclass(frozen=True, slots=True)
class CurrentConversion:
    """The conversion that readers of a claimed series see: the digest of its input, and its files as (path, bytes)."""

    input_sha256: str | None
    files: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class SupersededConversion:
    """A conversion whose files may be removed."""

    id: int
    study_instance_uid: str
    series_instance_uid: str
    revision: int


@dataclass(frozen=True, slots=True)
class ClaimedSeries:
    """A due series that this process has claimed; recording the outcome requires the same `claim`."""

    id: int
    claim: str
    study_instance_uid: str
    series_instance_uid: str
    revision: int  # that this conversion makes
    instances: tuple[ClaimedInstance, ...]
    expectation: Expectation
    current: CurrentConversion | None = None


@dataclass(frozen=True, slots=True)
class ConvertedFile:
    """One row of `volumes`; `path` is relative to the folder of the job, and in the index to the root."""

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
    """The result of one conversion.

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
    completeness: Completeness | None = None
    input_sha256: str | None = None
    error: str | None = None


Level = Literal["study", "series", "instance"]


@dataclass(frozen=True, slots=True)
class DeletionPlan:
    """What a deletion would remove; `patient_id` is for the audit log alone."""

    level: Level
    uid: str
    study_instance_uid: str
    patient_id: str
    series: int
    instances: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Deletion:
    """A deletion that was ordered; `paths` are the files and folders to be removed, relative to the root."""

    id: int
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PatientMerge:
    """Two patients that were merged: their Patient IDs, and the studies that moved."""

    source_patient_id: str
    target_patient_id: str
    studies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StoredStudy:
    """A study as retention sees it; `settled` when each of its series is converted or is no image."""

    study_instance_uid: str
    last_received_at: dt.datetime
    settled: bool
    calling_ae_titles: frozenset[str]
