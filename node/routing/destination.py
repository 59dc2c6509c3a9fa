"""The interface of destinations: peers, DICOMweb servers, folders and buckets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from node.association.client.send import Outgoing
from node.errors import VoxelnodeError
from node.index.work.routes import DueInstance, OwedInstance


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
