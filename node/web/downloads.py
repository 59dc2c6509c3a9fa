"""Downloads that are made before they are fetched: work of the ledger, which gives one account a ZIP file.

Each host makes its own, for each account one at a time, into the folder of work of its root. A file is kept for
`DOWNLOAD_KEPT_SECONDS`, and any range of it can be fetched. An extension says by `makes` how one is made.
"""

import datetime as dt
import os
import threading
import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from fastapi import Response

from node.archive.filesystem import DOWNLOAD, DOWNLOAD_KEPT_SECONDS
from node.archive.space import reason_of
from node.errors import OutOfResources, VoxelnodeError
from node.index.rows.records import Lane
from node.index.rows.scope import Scope, within
from node.index.rows.states import Download
from node.index.rules.work.ledger import MAX_DOWNLOADS, REASON_LENGTH, Decision, Ended, Work
from node.index.work_loop import RequestLoop
from node.web.access import Call
from node.web.audit_trail import AccountAuditTrail, AuditTrail, of_study
from node.web.errors import DownloadsBusy, ResourceNotFound
from node.web.files import ZIP, file_response, type_or_octets
from node.web.principal import address_of
from node.web.services import Services
from node.web.zips import Member, zip_stream

MAX_MADE = 4
"""Downloads that are made at once: each copies and may convert whole studies, and receiving comes first."""

LOOK_SECONDS = 1.0
"""Interval at which a download that is made looks whether it is still wanted, and says how far it is."""

SWEEP_SECONDS = 60.0
"""Interval at which files that were kept long enough are removed."""

CHECKED_BYTES = 64 << 20
"""Bytes after which the room on the disk is looked at again."""


@dataclass(frozen=True, slots=True)
class Making:
    """A download that is made.

    `stopping`: set when the node stops.
    `check`: to be called before each instance; raises VoxelnodeError once the download is to end.
    """

    node: Services
    download: Download
    audit: AccountAuditTrail
    stopping: threading.Event
    check: Callable[[], None] = lambda: None

    def audited(self) -> list[dict[str, str]]:
        """Return the studies that are to be in it, for the audit log."""
        return _audited(self.node, self.download)


Maker = Callable[[Making], Generator[Member, None, None]]

_makers: dict[str, Maker] = {}


def makes(name: str) -> Callable[[Maker], Maker]:
    """Mark what yields the members of the downloads that have a name as their `maker`."""

    def mark(maker: Maker) -> Maker:
        _makers[name] = maker
        return maker

    return mark


class Downloads(RequestLoop):
    """Makes the downloads of this host, and removes their files in time."""

    max_attempts = 3

    def __init__(self, node: Services, trail: AuditTrail) -> None:
        self._node, self._trail = node, trail
        self._host = node.index.sharing.host or ""
        super().__init__("downloads", node.index, {"download": self}, node.ingest.now, lanes=MAX_MADE, host=self._host)

    def begin(self, call: Call, download: Download) -> int:
        """Have a download made, unless the account waits for the same one; return its id.

        Raises DownloadsBusy if the account has too many. Raises OutOfResources if the disk has no room.
        """
        if (lack := self._node.archive.intake.waits_for()) is not None:
            raise OutOfResources(lack)
        lane, now = Lane("download", call.account.name, self._host), self._now()
        ended_after = now - dt.timedelta(seconds=DOWNLOAD_KEPT_SECONDS)
        with within(None):  # the row is of the account itself
            id = self._index.work.add_download(lane, download, ended_after, now)
        if id is None:
            raise DownloadsBusy(
                f"this account has {MAX_DOWNLOADS} downloads: remove one on its page, or wait, each is kept for an hour"
            )
        self.wake()
        return id

    def of(self, call: Call, id: int) -> Work:
        """Return a download of this account. Raises ResourceNotFound if there is none, or series are not seen now."""
        with within(None), suppress(VoxelnodeError):
            work = self._index.work.one(id)
            if work.lane == Lane("download", call.account.name, self._host) and _is_still_seen(call, work.payload):
                return work
        raise ResourceNotFound("download")

    def file(self, work: Work) -> Path | None:
        """Return the file of a download; None: it is not made, or not kept any more."""
        path = self._path(work)
        return path if work.outcome == "succeeded" and path.exists() else None

    def remove(self, call: Call, id: int) -> None:
        """End a download, and remove its file."""
        work = self.of(call, id)
        with within(None):
            if work.outcome is None:
                call.act("cancel-work", work=id)
            else:
                self._index.work.forget(id)
                self._path(work).unlink(missing_ok=True)

    def step(self) -> float | None:
        """Remove old files, and begin what is due."""
        files = list(self._node.archive.work.glob(f"{DOWNLOAD}*"))
        for path in files:
            with suppress(FileNotFoundError):
                if abs(time.time() - path.stat().st_mtime) > DOWNLOAD_KEPT_SECONDS:  # the clock may have been ahead
                    path.unlink()
        seconds = super().step()
        return min(SWEEP_SECONDS, seconds or SWEEP_SECONDS) if files and seconds != 0 else seconds

    def perform(self, work: Work, stopping: threading.Event) -> Decision | None:
        """Make the file; None if the node stops."""
        download, path = work.payload, self._path(work)
        scope = None if download.groups is None else Scope(work.lane.name, groups=download.groups)
        audit = self._trail.of(work.lane.name, download.address)
        done, look_at, cancelled_by = 0, monotonic() + LOOK_SECONDS, None

        def check() -> None:
            nonlocal done, look_at, cancelled_by
            done += 1
            if monotonic() >= look_at:
                look_at = monotonic() + LOOK_SECONDS
                with within(None):
                    percent = min(100 * done // download.instances, 99) if download.instances else None
                    self._index.work.report(work.id, percent, None, self._now())
                    cancelled_by = self._index.work.cancelled_by(work.id)
            if stopping.is_set() or cancelled_by is not None:
                raise VoxelnodeError(f"cancelled by {cancelled_by}")

        try:
            with within(scope):
                self._write(path, Making(self._node, download, audit, stopping, check))
            return Ended("succeeded")
        except VoxelnodeError as error:
            reason = str(error)
        except OSError as error:
            reason = reason_of(error, path.parent)
        path.unlink(missing_ok=True)
        if stopping.is_set():
            return None
        return Ended("cancelled" if cancelled_by is not None else "failed", reason[:REASON_LENGTH])

    def recorded(self, work: Work, decision: Decision) -> None:
        """Tell nobody: whoever waits for it asks."""

    def _path(self, work: Work) -> Path:
        return self._node.archive.work / f"{DOWNLOAD}{work.key}"

    def _write(self, path: Path, making: Making) -> None:
        if (maker := _makers.get(making.download.maker)) is None:
            raise VoxelnodeError("the extension that makes it is disabled")
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.touch(0o600)
        checked = 0
        with path.open("wb") as file, closing(maker(making)) as members:
            for piece in zip_stream(members):
                file.write(piece)
                checked += len(piece)
                if checked >= CHECKED_BYTES:
                    checked = 0
                    if (lack := self._node.archive.intake.waits_for()) is not None:
                        raise OutOfResources(lack)
            file.flush()
            os.fsync(file.fileno())


def download_of(
    call: Call,
    maker: str,
    file_name: str,
    study_instance_uids: Sequence[str],
    series_instance_uids: Collection[str] = (),
    options: tuple[str, ...] = (),
) -> Download:
    """Return a download of studies, or of some of their series. Raises ResourceNotFound if none of these is here."""
    with call.node.index.reading() as index:
        rows = [
            (study, row)
            for study in study_instance_uids
            for row in index.series.of_study(study)
            if not series_instance_uids or row["series_instance_uid"] in series_instance_uids
        ]
    if not rows:
        raise ResourceNotFound("series" if series_instance_uids else "study")
    return Download(
        maker,
        file_name,
        tuple(study_instance_uids),
        tuple((study, row["series_instance_uid"]) for study, row in rows),
        sum(row["instances"] for _, row in rows),
        options,
        None if call.account.scope is None else call.account.scope.groups,
        tuple(sorted(call.account.projects)),
        address_of(call.request),
    )


def downloads_of(call: Call) -> Downloads:
    """Return the downloads of this host; `node.web.application` makes them."""
    downloads: Downloads = call.request.app.state.downloads
    return downloads


def file_of_download(call: Call, id: int) -> Response:
    """Send the file of a download, or a range of it. Raises ResourceNotFound if there is none, or not yet."""
    downloads = downloads_of(call)
    work = downloads.of(call, id)
    if (path := downloads.file(work)) is None:
        raise ResourceNotFound("file: it is not made yet, or was kept for an hour")
    part = ", a part" if "range" in call.request.headers else ""
    name: str = work.payload.file_name
    kind = name.rpartition("_")[2]  # the rest of the name may be that of the patient
    call.audit.transferred(_audited(call.node, work.payload), f"{kind}, prepared before{part}")
    response = file_response(path, type_or_octets(call.request.headers, ZIP), name, None)
    response.headers.add_vary_header("Accept")
    return response


def _is_still_seen(call: Call, download: Download) -> bool:
    """Return whether the account sees all series now: it may have lost a project, or that a series."""
    if call.account.scope is None:
        return True
    if not call.account.projects.issuperset(download.projects):
        return False
    with within(call.account.scope), call.node.index.reading() as index:
        studies = dict.fromkeys(study for study, _ in download.series)
        seen = {(uid, row["series_instance_uid"]) for uid in studies for row in index.series.of_study(uid)}
    return seen.issuperset(download.series)


def _audited(node: Services, download: Download) -> list[dict[str, str]]:
    with node.index.reading() as index:
        studies = dict.fromkeys(study for study, _ in download.series)
        return [of_study(uid, index.studies.patient_id(uid)) for uid in studies]
