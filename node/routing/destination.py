"""The interface of destinations, such as peers and buckets, and what those that write files have in common."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from node.association.client.send import Outgoing
from node.conversion.naming import safe_name
from node.dicom.attributes import attributes_by_windows
from node.errors import NotUnderstood, VoxelnodeError
from node.index.rules.work.routes import DueInstance, OwedInstance


class NotTaken(VoxelnodeError):
    """A destination did not take an instance; the message gives reason and remedy, without patient data.

    `is_final`: whether another attempt would fail in the same way.
    `damaged`: the key of the file, if it is not as it was received.
    """

    def __init__(self, reason: str, *, is_final: bool = False, damaged: str | None = None) -> None:
        super().__init__(reason)
        self.is_final, self.damaged = is_final, damaged


class Unreachable(VoxelnodeError):
    """A destination cannot be reached, or accepts nothing at present: due work waits, and uses up no attempt.

    `retry_after`: wait in seconds that the destination requested.
    """

    def __init__(self, reason: str, *, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class NotConfirmable(VoxelnodeError):
    """A destination cannot be asked whether it keeps what it took; the message gives reason and remedy."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An instance that can be sent: its row, and the file that leaves, which is that of the archive or a copy.

    `holds_back`: if it is not taken now, the later instances of its series wait for it. `is_copy`: the file is removed
    once it was sent.
    """

    due: DueInstance
    outgoing: Outgoing
    holds_back: bool = True
    is_copy: bool = False


@dataclass(frozen=True, slots=True)
class Delivered:
    """The outcome of one instance: it was taken unless there is a `problem`.

    `is_confirmed`: the destination has proved that it keeps the instance.
    """

    prepared: Prepared
    problem: NotTaken | None = None
    is_confirmed: bool = False


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The answer of a destination: SOP Instance UIDs that it keeps, and others with a reason."""

    committed: frozenset[str]
    failed: Mapping[str, str] = field(default_factory=dict)


class Destination(Protocol):
    """A way to send instances. Not thread-safe."""

    def deliver(self, instances: Iterable[Prepared], is_abandoned: Callable[[], bool]) -> Iterator[Delivered]:
        """Send instances, those of a series in their order, and yield the outcome of each once it is known.

        A connection that is lost while an instance is sent is a problem of that instance, if the destination still
        answers on a new one: it may be what ends the connection. What has no outcome was not sent.

        Raises Unreachable.
        """

    def confirm(
        self, owed: Sequence[OwedInstance], transaction_uid: str, is_abandoned: Callable[[], bool]
    ) -> Confirmation | None:
        """Ask whether the destination keeps instances; None if its answer comes later.

        Raises Unreachable, NotConfirmable.
        """

    def is_origin(self, due: DueInstance) -> bool:
        """Return whether an instance came from this destination."""

    def rest(self) -> None:
        """Close connections; the next delivery opens them again."""


NAME_LENGTH = 60


class WrittenDestination:
    """A destination that writes copies by name. It proves that it keeps a copy by reading the copy again.

    `layout`: ``names``: PATIENT/STUDY/SERIES/INSTANCE; ``archive``: the keys of the archive, which name nobody.
    """

    def __init__(self, layout: Literal["names", "archive"]) -> None:
        self._layout = layout

    def name_of(self, prepared: Prepared) -> Path:
        """Return the relative path of the copy of an instance.

        Raises NotTaken if the file of the instance cannot be read, or its attributes.
        """
        return Path(prepared.due.key) if self._layout == "archive" else _path_by_names(prepared)

    def confirm(
        self, owed: Sequence[OwedInstance], transaction_uid: str, is_abandoned: Callable[[], bool]
    ) -> Confirmation | None:
        """Confirm what was written before the route asked for proof: it is sent, and read, again."""
        return Confirmation(frozenset(), {one.sop_instance_uid: "it was not read again" for one in owed})

    def is_origin(self, due: DueInstance) -> bool:
        """Return False: nothing comes from a folder or a bucket by itself."""
        return False


def _path_by_names(prepared: Prepared) -> Path:
    outgoing = prepared.outgoing
    try:
        with outgoing.path.open("rb", buffering=0) as file:

            def read(offset: int, length: int) -> bytes:
                return os.pread(file.fileno(), length, outgoing.offset + offset)

            found = attributes_by_windows(read, outgoing.transfer_syntax_uid)
    except NotUnderstood as error:
        raise NotTaken(f"its attributes cannot be read: {error}", is_final=True) from error
    except OSError as error:
        raise NotTaken(f"its file cannot be read now: {error.strerror}") from error
    study, series, image = found.study, found.series, found.image
    return Path(
        _part(found.patient["patient_id"] or "no-id"),
        _part(study["study_date"], study["study_description"], end=_digest(found.study_instance_uid)),
        _part(
            _number(series["series_number"]), series["series_description"] or series["modality"],
            end=_digest(found.series_instance_uid),
        ),
        f"{_part(_number(image['instance_number']), end=_digest(outgoing.sop_instance_uid))}.dcm",
    )  # fmt: skip


def _part(*values: object, end: str = "") -> str:
    """Return a name of a file or a folder from values that senders chose, and of which only harmless letters remain."""
    name = safe_name(" ".join(str(value) for value in values if value is not None))
    return f"{name[:NAME_LENGTH]}-{end}" if end else name[:NAME_LENGTH]


def _digest(uid: str) -> str:
    """Return eight digits that tell UIDs apart whose other values are the same."""
    return hashlib.sha256(uid.encode()).hexdigest()[:8]


def _number(value: object) -> str | None:
    return f"{value:04d}" if isinstance(value, int) else None
