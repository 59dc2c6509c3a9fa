"""Downloads that are made before they are fetched: their members take long to make, and people see how far they are.

A thread writes the ZIP file into the folder of work of the root. It is there for `KEPT_SECONDS`, for the account that
asked for it, and any range of it can be fetched. It is no state of the node: a stop or a crash ends what is being made,
the next start removes the files, and whoever comes back is told that there is no such download. There are never more
than the constants below say: what is asked for beyond those that are made at once waits for its turn, in order.
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
from math import ceil
from pathlib import Path
from time import monotonic
from typing import Any, Literal, NamedTuple

import structlog
from fastapi import Response

from node.archive.filesystem import DOWNLOAD, Archive
from node.archive.space import reason_of
from node.background import SupervisedThread
from node.errors import OutOfResources, VoxelnodeError, type_and_location
from node.index.nouns.converted import SeriesKey
from node.web.access import Call
from node.web.errors import DownloadsBusy, ResourceNotFound
from node.web.files import ZIP, file_response, type_or_octets
from node.web.zips import Member, zip_stream

log = structlog.get_logger()

KEPT_SECONDS = 3600.0

SWEEP_SECONDS = 60.0
"""Interval at which files that nobody fetched in time are removed."""

MAX_MADE, MAX_MADE_FOR_ACCOUNT = 4, 2
"""Downloads that are made at once, for a file or while they are sent, and those for one account: each copies and may
convert whole studies, and receiving comes first."""

MAX_KEPT, MAX_KEPT_FOR_ACCOUNT = 32, 8
"""Downloads that are there, made, being made or waiting, and those of one account: each has a file on the disk."""

CHECKED_BYTES = 64 << 20
"""Bytes after which the room on the disk is looked at again: receiving comes first."""

LOOK_SECONDS = 1.0
"""Interval at which a download that waits for its turn looks whether the node stops."""

Check = Callable[[], None]
"""Raises VoxelnodeError once a download is to end, for whoever works long before a member."""


class Wanted(NamedTuple):
    """What somebody asks for.

    Attributes
    ----------
    name : str
        Of the file.
    order : str
        The same for the same request, which is not made twice at once.
    objects : sequence of mapping
        What is in it, for the audit log.
    total : int
        How many members are expected; 0: nobody knows.
    unit : str
        Noun of what is counted.
    bytes : int
        About how many bytes it takes; 0: nobody knows.
    """

    name: str
    order: str
    objects: Sequence[Mapping[str, Any]]
    total: int
    unit: str
    bytes: int = 0


class Made(NamedTuple):
    """How a download is made; `close` is called at the end, whatever it is."""

    members: Callable[[Check], Iterator[Member]]
    close: Callable[[], None]


@dataclass(slots=True)
class Prepared:
    """One download.

    Attributes
    ----------
    projects : set of int
        Row ids of the projects of a member, when it asked.
    series : set of (str, str)
        The series, by study, that the account then saw of the studies that are in it.
    done : int
        Members that are made.
    detail : str
        Why it failed.
    began_at, ended_at : float or None
        When its turn came, and when it was made, or failed, by the monotonic clock.
    """

    account: str
    projects: frozenset[int]
    series: frozenset[SeriesKey]
    wanted: Wanted
    path: Path
    done: int = 0
    bytes: int = 0
    state: Literal["waiting", "making", "ready", "failed"] = "waiting"
    detail: str = ""
    began_at: float | None = None
    ended_at: float | None = None
    is_cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def is_under_way(self) -> bool:
        """Whether it waits or is made."""
        return self.state in ("waiting", "making")

    @property
    def is_expired(self) -> bool:
        """Whether it has been kept for as long as it is to be."""
        return self.ended_at is not None and monotonic() - self.ended_at >= KEPT_SECONDS

    @property
    def kept_seconds(self) -> int | None:
        """For how long it is kept from now on; None while nobody knows."""
        return None if self.ended_at is None else max(int(self.ended_at + KEPT_SECONDS - monotonic()), 0)

    @property
    def left_seconds(self) -> int | None:
        """How long it will take from now on if it goes on as until now; None if nobody knows."""
        if self.state != "making" or self.began_at is None or not self.done or not self.wanted.total:
            return None
        return ceil((monotonic() - self.began_at) / self.done * (self.wanted.total - self.done))


class PreparedDownloads:
    """The downloads of one process. Thread-safe; `stopping` ends those that wait or are being made."""

    def __init__(self, archive: Archive, stopping: threading.Event) -> None:
        self._archive, self._stopping = archive, stopping
        self._changed = threading.Condition()
        self._known: dict[str, Prepared] = {}
        self._turns: Counter[str] = Counter()  # also what is cancelled, until it has ended
        SupervisedThread("downloads", self._sweep, stopping).start()

    def begin(self, call: Call, wanted: Wanted, make: Callable[[], Made]) -> str:
        """Make a download on a thread once its turn comes, and return its number.

        If the account has asked for the same, and it is not made yet, that is returned. `make` is called now, unless
        this raises.

        Raises DownloadsBusy if there are too many downloads. Raises OutOfResources if the disk has no room.
        """
        number = uuid.uuid4().hex
        path = self._archive.work / f"{DOWNLOAD}{number}"
        who = call.account.name, call.account.projects
        prepared = Prepared(*who, _series_seen(call, wanted.objects), wanted, path)
        self._archive.work.mkdir(exist_ok=True)
        self._remove_expired()
        with self._changed:
            for known, one in self._known.items():
                is_same = (one.wanted.order, one.series) == (wanted.order, prepared.series)
                if one.account == prepared.account and one.is_under_way and is_same:
                    return known
            self._admit(number, prepared)
        try:
            made = make()
        except BaseException:
            self.remove(number)
            raise
        # In the context of the caller: it reads what they see.
        run = partial(copy_context().run, self._run, number, prepared, made)
        threading.Thread(target=run, name="download", daemon=True).start()
        return number

    def has_turn(self, account: str) -> bool:
        """Return whether a download of an account could be made at once."""
        with self._changed:
            return self._has_turn(account)

    def take_turn(self, account: str) -> Callable[[], None]:
        """Count a download that is made while it is sent, until the returned function is called.

        Raises DownloadsBusy if as many are made as may be.
        """
        with self._changed:
            if not self._has_turn(account):
                raise DownloadsBusy(
                    f"{MAX_MADE_FOR_ACCOUNT} downloads of this account, or {MAX_MADE} of all, are being made already"
                )
            self._turns[account] += 1
        return partial(self._end_turn, account)

    def of(self, call: Call, number: str) -> Prepared:
        """Return a download of this account; raises ResourceNotFound if there is none, or no longer."""
        prepared = dict(self.all_of(call)).get(number)
        if prepared is None:
            raise ResourceNotFound("download; each is kept for an hour, until the node stops")
        return prepared

    def all_of(self, call: Call) -> list[tuple[str, Prepared]]:
        """Return the downloads of this account with their numbers, oldest first."""
        self._remove_expired()
        with self._changed:
            of_account = [(number, one) for number, one in self._known.items() if one.account == call.account.name]
        return [(number, one) for number, one in of_account if _is_still_seen(call, one)]

    def before(self, prepared: Prepared) -> int:
        """Return how many downloads of all accounts wait for a turn before one that does."""
        with self._changed:
            waiting = [one for one in self._known.values() if one.state == "waiting"]
        return waiting.index(prepared) if prepared in waiting else 0

    def remove(self, number: str) -> None:
        """End and forget a download, and remove its file."""
        with self._changed:
            prepared = self._known.pop(number, None)
            if prepared is not None:
                prepared.is_cancelled.set()
            self._changed.notify_all()
        if prepared is not None:
            prepared.path.unlink(missing_ok=True)

    def _admit(self, number: str, prepared: Prepared) -> None:
        """Count a download among those that are there; those that failed make room for it."""
        account = prepared.account
        for known, one in list(self._known.items()):
            is_in_the_way = one.account == account or len(self._known) >= MAX_KEPT
            if one.state == "failed" and is_in_the_way and self._is_full(account):
                del self._known[known]
        if self._is_full(account):
            raise DownloadsBusy(
                f"{MAX_KEPT_FOR_ACCOUNT} downloads of this account, or {MAX_KEPT} of all, are kept already: remove "
                "one on its page, or wait, each is kept for an hour"
            )
        if (lack := self._lack(prepared.wanted.bytes)) is not None:
            raise OutOfResources(lack)
        self._known[number] = prepared

    def _is_full(self, account: str) -> bool:
        of_account = sum(one.account == account for one in self._known.values())
        return len(self._known) >= MAX_KEPT or of_account >= MAX_KEPT_FOR_ACCOUNT

    def _lack(self, bytes: int) -> str | None:
        """Return why a download of about so many bytes has no room beside those that are under way; None if it has."""
        if (lack := self._archive.intake.waits_for()) is not None:
            return lack
        promised = sum(max(one.wanted.bytes - one.bytes, 0) for one in self._known.values() if one.is_under_way)
        room = max(self._archive.intake.bytes_beyond_reserve() - promised, 0)
        if bytes <= room:
            return None
        return (
            f"the file takes about {_gigabytes(bytes)}, and the disk of the archive has {_gigabytes(room)} for it: "
            "select less, or remove files from the disk"
        )

    def _has_turn(self, account: str) -> bool:
        return self._turns.total() < MAX_MADE and self._turns[account] < MAX_MADE_FOR_ACCOUNT

    def _is_next(self, prepared: Prepared) -> bool:
        waiting = (one for one in self._known.values() if one.state == "waiting" and self._has_turn(one.account))
        return next(waiting, None) is prepared

    def _await_turn(self, prepared: Prepared) -> bool:
        """Wait for the turn of a download, and take it; False if it was ended before."""
        with self._changed:
            while not (self._stopping.is_set() or prepared.is_cancelled.is_set()):
                if self._is_next(prepared):
                    self._turns[prepared.account] += 1
                    prepared.state, prepared.began_at = "making", monotonic()
                    self._changed.notify_all()
                    return True
                self._changed.wait(LOOK_SECONDS)
        return False

    def _end_turn(self, account: str) -> None:
        with self._changed:
            self._turns[account] -= 1
            self._turns = +self._turns
            self._changed.notify_all()

    def _sweep(self) -> None:
        while not self._stopping.wait(SWEEP_SECONDS):
            self._remove_expired()

    def _remove_expired(self) -> None:
        with self._changed:
            expired = [number for number, one in self._known.items() if one.is_expired]
        for number in expired:
            self.remove(number)

    def _run(self, number: str, prepared: Prepared, made: Made) -> None:
        has_turn = self._await_turn(prepared)
        detail: str | None = "it was ended"
        try:
            detail = self._problem(prepared, made) if has_turn else detail
        finally:
            with suppress(Exception):
                made.close()
            if has_turn:
                self._end_turn(prepared.account)
        with self._changed:
            is_known = number in self._known
        if detail is not None or not is_known:
            with suppress(OSError):
                prepared.path.unlink(missing_ok=True)
        prepared.detail, prepared.ended_at = detail or "", monotonic()
        prepared.state = "ready" if detail is None else "failed"

    def _problem(self, prepared: Prepared, made: Made) -> str | None:
        """Write the file; return why there is none, or None."""

        def check() -> None:
            if self._stopping.is_set() or prepared.is_cancelled.is_set():
                raise VoxelnodeError("it was ended")

        try:
            self._write(prepared, zip_stream(_counted(prepared, made.members(check))), check)
        except VoxelnodeError as error:
            return str(error)
        except OSError as error:
            return reason_of(error, prepared.path.parent)
        except Exception as error:
            log.exception("download_failed", reason=type_and_location(error))
            return "it failed unexpectedly: see the log of the node"
        return None

    def _write(self, prepared: Prepared, pieces: Iterable[bytes], check: Check) -> None:
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


def prepared_file(call: Call, number: str) -> Response:
    """Send the file of a download, or a range of it. Raises ResourceNotFound if there is none, or not yet."""
    prepared = prepared_of(call).of(call, number)
    if prepared.state != "ready":
        raise ResourceNotFound("file yet")
    part = ", a part" if "range" in call.request.headers else ""
    kind = prepared.wanted.name.rpartition("_")[2]  # the rest of the name may be that of the patient
    call.audit.transferred(prepared.wanted.objects, f"{kind}, prepared before{part}")
    response = file_response(prepared.path, type_or_octets(call.request.headers, ZIP), prepared.wanted.name, None)
    response.headers.add_vary_header("Accept")
    return response


def _gigabytes(bytes: int) -> str:
    return f"{bytes / 1e9:.1f} GB"


def _is_still_seen(call: Call, prepared: Prepared) -> bool:
    """Return whether the account still sees all series: a member may have lost a project, or that a series.

    So may have an account that saw the whole node when it asked.
    """
    if call.account.scope is None:
        return True
    return prepared.series <= _series_seen(call, prepared.wanted.objects) and prepared.projects <= call.account.projects


def _series_seen(call: Call, objects: Sequence[Mapping[str, Any]]) -> frozenset[SeriesKey]:
    studies = {str(one["study_instance_uid"]) for one in objects}
    if not studies:
        return frozenset()
    with call.node.index.reading() as index:
        return frozenset((uid, row["series_instance_uid"]) for uid in studies for row in index.series.of_study(uid))


def _counted(prepared: Prepared, members: Iterator[Member]) -> Iterator[Member]:
    for member in members:
        yield member
        prepared.done = min(prepared.done + 1, prepared.wanted.total or prepared.done + 1)


_making = threading.Lock()


def prepared_of(call: Call) -> PreparedDownloads:
    """Return the downloads of this process, which the first call makes."""
    state = call.request.app.state
    with _making:
        if not hasattr(state, "prepared"):
            state.prepared = PreparedDownloads(call.node.archive, state.stopping)
    prepared: PreparedDownloads = state.prepared
    return prepared
