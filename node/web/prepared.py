"""Downloads that are made before they are fetched: their members take long to make, and people see how far they are.

A thread writes the ZIP file into the folder of work of the root. It is there for `KEPT_SECONDS`, for the account that
asked for it. It is no state of the node: a stop or a crash ends what is being made, the next start removes the files,
and whoever comes back is told that there is no such download. There are never more than the constants below say.
"""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import structlog

from node.archive.filesystem import DOWNLOAD, Archive
from node.archive.space import reason_of
from node.background import SupervisedThread
from node.errors import OutOfResources, VoxelnodeError, type_and_location
from node.index.nouns.converted import SeriesKey
from node.web.access import Call
from node.web.errors import DownloadsBusy, ResourceNotFound
from node.web.zips import Member, zip_stream

log = structlog.get_logger()

KEPT_SECONDS = 3600.0

SWEEP_SECONDS = 60.0
"""Interval at which files that nobody fetched in time are removed."""

MAX_MADE, MAX_MADE_FOR_ACCOUNT = 4, 2
"""Downloads that are made at once, and those for one account: each has a thread, and receiving comes first."""

MAX_KEPT, MAX_KEPT_FOR_ACCOUNT = 32, 8
"""Downloads that are there, made or being made, and those of one account: each has a file on the disk."""

CHECKED_BYTES = 64 << 20
"""Bytes after which the room on the disk is looked at again: receiving comes first."""


@dataclass(slots=True)
class Prepared:
    """One download.

    Attributes
    ----------
    projects : set of int
        Row ids of the projects of a member, when it asked.
    series : set of (str, str)
        The series, by study, that the account then saw of the studies that are in it.
    objects : sequence of mapping
        What is in it, for the audit log.
    unit : str
        Noun of what is counted.
    total, done : int
        0 of 0: nobody knows how much it is.
    detail : str
        Why it failed.
    ended_at : float or None
        When it was made, or failed, by the monotonic clock.
    """

    account: str
    projects: frozenset[int]
    series: frozenset[SeriesKey]
    name: str
    objects: Sequence[Mapping[str, Any]]
    path: Path
    unit: str
    total: int
    done: int = 0
    bytes: int = 0
    state: Literal["making", "ready", "failed"] = "making"
    detail: str = ""
    ended_at: float | None = None
    is_cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def is_expired(self) -> bool:
        """Whether it has been kept for as long as it is to be."""
        return self.ended_at is not None and monotonic() - self.ended_at >= KEPT_SECONDS


class PreparedDownloads:
    """The downloads of one process. Thread-safe; `stopping` ends those that are being made."""

    def __init__(self, archive: Archive, stopping: threading.Event) -> None:
        self._archive, self._stopping = archive, stopping
        self._lock = threading.Lock()
        self._known: dict[str, Prepared] = {}
        self._made_for: Counter[str] = Counter()  # also what is cancelled, until it has ended
        SupervisedThread("downloads", self._sweep, stopping).start()

    def begin(
        self,
        call: Call,
        name: str,
        objects: Sequence[Mapping[str, Any]],
        amount: tuple[int, str],
        members: Callable[[Callable[[], None]], Iterator[Member]],
        close: Callable[[], None] = lambda: None,
    ) -> str:
        """Make a download on a thread, and return its number; `close` is called at the end, whatever it is.

        `amount`: how many members are expected, 0 if nobody knows, and what they are called. `members`: called with a
        function that raises VoxelnodeError once the download is to end, for whoever works long before a member.

        Raises DownloadsBusy if there are too many downloads. Raises OutOfResources if the disk has no room.
        """
        total, unit = amount
        number = uuid.uuid4().hex
        path = self._archive.work / f"{DOWNLOAD}{number}"
        who = call.account.name, call.account.projects
        prepared = Prepared(*who, _series_seen(call, objects), name, objects, path, unit, total)
        try:
            if (lack := self._archive.intake.waits_for()) is not None:
                raise OutOfResources(lack)
            self._archive.work.mkdir(exist_ok=True)
            self._admit(number, prepared)
        except BaseException:
            close()
            raise
        # In the context of the caller: it reads what they see.
        make = partial(copy_context().run, self._make, number, prepared, members, close)
        threading.Thread(target=make, name="download", daemon=True).start()
        return number

    def _admit(self, number: str, prepared: Prepared) -> None:
        """Count a download among those that are there; those that failed make room for it."""
        self._remove_expired()
        with self._lock:
            account = prepared.account
            if self._made_for.total() >= MAX_MADE or self._made_for[account] >= MAX_MADE_FOR_ACCOUNT:
                raise DownloadsBusy(
                    f"{MAX_MADE_FOR_ACCOUNT} downloads of this account, or {MAX_MADE} of all, are being made already"
                )
            for known, one in list(self._known.items()):
                is_in_the_way = one.account == account or len(self._known) >= MAX_KEPT
                if one.state == "failed" and is_in_the_way and self._is_full(account):
                    del self._known[known]
            if self._is_full(account):
                raise DownloadsBusy(
                    f"{MAX_KEPT_FOR_ACCOUNT} downloads of this account, or {MAX_KEPT} of all, are kept already: remove "
                    "one on its page, or wait, each is kept for an hour"
                )
            self._known[number] = prepared
            self._made_for[account] += 1

    def _is_full(self, account: str) -> bool:
        of_account = sum(one.account == account for one in self._known.values())
        return len(self._known) >= MAX_KEPT or of_account >= MAX_KEPT_FOR_ACCOUNT

    def of(self, call: Call, number: str) -> Prepared:
        """Return a download of this account; raises ResourceNotFound if there is none, or no longer."""
        with self._lock:
            prepared = self._known.get(number)
        if prepared is not None and prepared.is_expired:
            self.remove(number)
            prepared = None
        is_of_account = prepared is not None and prepared.account == call.account.name
        if prepared is None or not is_of_account or not _is_still_seen(call, prepared):
            raise ResourceNotFound("download; each is kept for an hour, until the node stops")
        return prepared

    def remove(self, number: str) -> None:
        """End and forget a download, and remove its file."""
        with self._lock:
            prepared = self._known.pop(number, None)
        if prepared is not None:
            prepared.is_cancelled.set()
            prepared.path.unlink(missing_ok=True)

    def _sweep(self) -> None:
        while not self._stopping.wait(SWEEP_SECONDS):
            self._remove_expired()

    def _remove_expired(self) -> None:
        with self._lock:
            expired = [number for number, one in self._known.items() if one.is_expired]
        for number in expired:
            self.remove(number)

    def _make(
        self,
        number: str,
        prepared: Prepared,
        members: Callable[[Callable[[], None]], Iterator[Member]],
        close: Callable[[], None],
    ) -> None:
        def check() -> None:
            if self._stopping.is_set() or prepared.is_cancelled.is_set():
                raise VoxelnodeError("it was ended")

        state: Literal["ready", "failed"] = "failed"
        try:
            self._write(prepared, zip_stream(_counted(prepared, members(check))), check)
            state = "ready"
        except VoxelnodeError as error:
            prepared.detail = str(error)
        except OSError as error:
            prepared.detail = reason_of(error, prepared.path.parent)
        except Exception as error:
            log.exception("download_failed", reason=type_and_location(error))
            prepared.detail = "it failed unexpectedly: see the log of the node"
        finally:
            with suppress(Exception):
                close()
            with self._lock:
                self._made_for[prepared.account] -= 1
                self._made_for = +self._made_for
                is_known = number in self._known
        if state == "failed" or not is_known:
            with suppress(OSError):
                prepared.path.unlink(missing_ok=True)
        prepared.ended_at = monotonic()
        prepared.state = state

    def _write(self, prepared: Prepared, pieces: Iterable[bytes], check: Callable[[], None]) -> None:
        checked = 0
        with prepared.path.open("xb") as file:
            prepared.path.chmod(0o600)
            for piece in pieces:
                check()
                file.write(piece)
                prepared.bytes += len(piece)
                if prepared.bytes - checked >= CHECKED_BYTES:
                    checked = prepared.bytes
                    if (lack := self._archive.intake.waits_for()) is not None:
                        raise VoxelnodeError(lack)


def _is_still_seen(call: Call, prepared: Prepared) -> bool:
    """Return whether the account still sees all series: a member may have lost a project, or that a series.

    So may have an account that saw the whole node when it asked.
    """
    if call.account.scope is None:
        return True
    return prepared.series <= _series_seen(call, prepared.objects) and prepared.projects <= call.account.projects


def _series_seen(call: Call, objects: Sequence[Mapping[str, Any]]) -> frozenset[SeriesKey]:
    studies = {str(one["study_instance_uid"]) for one in objects}
    if not studies:
        return frozenset()
    with call.node.index.reading() as index:
        return frozenset((uid, row["series_instance_uid"]) for uid in studies for row in index.series.of_study(uid))


def _counted(prepared: Prepared, members: Iterator[Member]) -> Iterator[Member]:
    for member in members:
        yield member
        prepared.done = min(prepared.done + 1, prepared.total or prepared.done + 1)


_making = threading.Lock()


def prepared_of(call: Call) -> PreparedDownloads:
    """Return the downloads of this process, which the first call makes."""
    state = call.request.app.state
    with _making:
        if not hasattr(state, "prepared"):
            state.prepared = PreparedDownloads(call.node.archive, state.stopping)
    prepared: PreparedDownloads = state.prepared
    return prepared
