"""Downloads that are made before they are fetched: their members take long to make, and people see how far they are.

A thread writes the ZIP file into the folder of work of the root. It is there for `KEPT_SECONDS`, for the account that
asked for it. It is no state of the node: a stop or a crash ends what is being made, the next start removes the files,
and whoever comes back is told that there is no such download.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import structlog

from node.archive.filesystem import Archive
from node.archive.space import reason_of
from node.errors import VoxelnodeError, type_and_location
from node.web.access import Call
from node.web.errors import ResourceNotFound
from node.web.files import Member, zip_stream

log = structlog.get_logger()

KEPT_SECONDS = 3600.0

CHECKED_BYTES = 64 << 20
"""Bytes after which the room on the disk is looked at again: receiving comes first."""


@dataclass(slots=True)
class Prepared:
    """One download.

    Attributes
    ----------
    objects : sequence of mapping
        What is in it, for the audit log.
    unit : str
        Noun of what is counted.
    total, done : int
        0 of 0: nobody knows how much it is.
    detail : str
        Why it failed.
    """

    account: str
    name: str
    objects: Sequence[Mapping[str, Any]]
    path: Path
    unit: str
    total: int
    done: int = 0
    bytes: int = 0
    state: Literal["making", "ready", "failed"] = "making"
    detail: str = ""
    is_cancelled: threading.Event = field(default_factory=threading.Event)


class PreparedDownloads:
    """The downloads of one process. Thread-safe; `stopping` ends those that are being made."""

    def __init__(self, archive: Archive, stopping: threading.Event) -> None:
        self._archive, self._stopping = archive, stopping
        self._lock = threading.Lock()
        self._known: dict[str, Prepared] = {}

    def begin(
        self,
        call: Call,
        name: str,
        objects: Sequence[Mapping[str, Any]],
        amount: tuple[int, str],
        members: Iterator[Member],
        close: Callable[[], None] = lambda: None,
    ) -> str:
        """Make a download on a thread, and return its number; `close` is called at the end, whatever it is.

        `amount`: how many members are expected, 0 if nobody knows, and what they are called.
        """
        self._archive.work.mkdir(exist_ok=True)
        number = uuid.uuid4().hex
        total, unit = amount
        path = self._archive.work / f"download-{number}"
        prepared = Prepared(call.account.name, name, objects, path, unit, total)
        with self._lock:
            self._known[number] = prepared
        arguments = number, prepared, members, close
        threading.Thread(target=self._make, args=arguments, name="download", daemon=True).start()
        return number

    def of(self, call: Call, number: str) -> Prepared:
        """Return a download of this account; raises ResourceNotFound if there is none, or no longer."""
        with self._lock:
            prepared = self._known.get(number)
        if prepared is None or prepared.account != call.account.name:
            raise ResourceNotFound("download; each is kept for an hour, until the node stops")
        return prepared

    def remove(self, number: str) -> None:
        """End and forget a download, and remove its file."""
        with self._lock:
            prepared = self._known.pop(number, None)
        if prepared is not None:
            prepared.is_cancelled.set()
            prepared.path.unlink(missing_ok=True)

    def _make(self, number: str, prepared: Prepared, members: Iterator[Member], close: Callable[[], None]) -> None:
        try:
            self._write(prepared, zip_stream(_counted(prepared, members)))
            prepared.state = "ready"
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
        if prepared.state != "ready":
            prepared.state = "failed"
            prepared.path.unlink(missing_ok=True)
        expiry = threading.Timer(KEPT_SECONDS, self.remove, [number])
        expiry.daemon = True
        expiry.start()

    def _write(self, prepared: Prepared, pieces: Iterable[bytes]) -> None:
        checked = 0
        with prepared.path.open("xb") as file:
            prepared.path.chmod(0o600)
            for piece in pieces:
                if self._stopping.is_set() or prepared.is_cancelled.is_set():
                    raise VoxelnodeError("it was ended")
                file.write(piece)
                prepared.bytes += len(piece)
                if prepared.bytes - checked >= CHECKED_BYTES:
                    checked = prepared.bytes
                    if (lack := self._archive.intake.waits_for()) is not None:
                        raise VoxelnodeError(lack)


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
