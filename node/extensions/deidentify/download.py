"""Downloads without identities: DICOM files, or volumes that are made of them, as a ZIP file.

The administrator chooses keys and options by tables [deidentify.NAME], and callers a name. What cannot be called clean
is left out; the last member of the ZIP file, `REPORT`, says what and why, by the UIDs that stand for the originals.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from anyio import CancelScope
from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from node import __version__
from node.audit.audit_log import Action, AuditEvent, Result
from node.errors import OutOfResources, UsageError, nearest
from node.extensions.deidentify.deidentification import Deidentification, configured_by_name
from node.extensions.deidentify.downloads import CopiedInstance, Deidentifier, LeftOut
from node.extensions.deidentify.profile import edition
from node.extensions.deidentify.settings import DeidentifySettings
from node.index.database.reading import ReadIndex
from node.index.models import OPEN_STATES
from node.index.search.selection import StoredInstance
from node.web.access import Call
from node.web.audit_trail import of_study
from node.web.dicomweb.resources import Instances
from node.web.errors import DownloadsBusy, ResourceNotFound
from node.web.files import OCTETS, ZIP, Damaged, Member, whole_file, zip_stream
from node.web.services import Services

Content = Literal["dicom", "volumes"]

REPORT = "deidentification.json"

MAX_DOWNLOADS, MAX_OF_ACCOUNT = 4, 2
"""Downloads at once, and those of one account: each copies and may convert whole studies, and receiving comes first."""

CHUNK_BYTES = 1 << 20


class Deidentifications:
    """The tables [deidentify.NAME] of a node. Thread-safe; keys and rules are read once.

    Raises
    ------
    UsageError
        A key or a file of rules cannot be used.
    """

    def __init__(self, sections: Mapping[str, DeidentifySettings]) -> None:
        self._by_name = {name: configured_by_name(sections, name) for name in sections}
        self._lock = threading.Lock()
        self._turns: Counter[str] = Counter()

    def named(self, name: str) -> Deidentification:
        """Return the de-identification that a table describes.

        Raises
        ------
        UsageError
            There is none.
        """
        if name not in self._by_name:
            known = nearest(name, self._by_name) if self._by_name else "; the administrator has configured none"
            raise UsageError(f"there is no de-identification {name!r}{known}")
        return self._by_name[name]

    def take_turn(self, account: str) -> Callable[[], None]:
        """Count a download of an account until the returned function is called.

        Raises
        ------
        DownloadsBusy
            `MAX_DOWNLOADS` are under way, or `MAX_OF_ACCOUNT` of this account.
        """
        with self._lock:
            if self._turns.total() >= MAX_DOWNLOADS or self._turns[account] >= MAX_OF_ACCOUNT:
                raise DownloadsBusy(
                    f"{MAX_OF_ACCOUNT} downloads without identities of this account, or {MAX_DOWNLOADS} of all, are "
                    "under way already"
                )
            self._turns[account] += 1
        return partial(self._end_turn, account)

    def _end_turn(self, account: str) -> None:
        with self._lock:
            self._turns[account] -= 1
            self._turns = +self._turns


def deidentified_zip(
    call: Call,
    profile: str,
    content: Content,
    study_instance_uids: Sequence[str],
    series_instance_uid: str | None = None,
) -> Response:
    """Return studies, or one series, without identities, as a ZIP file.

    Raises
    ------
    UsageError
        There is no table [deidentify.`profile`].
    ResourceNotFound
        None of the studies, or not the series, is here.
    DownloadsBusy
    OutOfResources
        The disk has no room for the copies.
    """
    ways = _ways_of(call.request, call.node)
    how = ways.named(profile)
    with call.node.index.reading() as index:
        there = [uid for uid in study_instance_uids if _is_there(index, uid, series_instance_uid)]
        objects = [of_study(uid, index.studies.patient_id(uid)) for uid in there]
    if not there:
        raise ResourceNotFound("study" if series_instance_uid is None else "series")
    if not call.node.archive.intake.has_room():
        raise OutOfResources(call.node.archive.intake.refusal() or "the disk is full")
    end_turn = ways.take_turn(call.account.name)
    try:
        download = _Download(
            call.node,
            how,
            (profile, content),
            (study_instance_uids, series_instance_uid),
            call.request.app.state.stopping,
        )
    except BaseException:
        end_turn()
        raise
    order = f"de-identified by [deidentify.{profile}], {how.mark}, as {content}"
    call.audit.changed(AuditEvent.EXPORT, Action.READ, objects, f"{order}: begun")

    def close() -> None:
        try:
            download.close()
        finally:
            end_turn()
        outcome = "done" if download.is_whole else "broken off"
        result = Result.SUCCESS if download.is_whole else Result.MINOR_FAILURE
        call.audit.changed(AuditEvent.EXPORT, Action.READ, objects, f"{order}: {outcome}, {download.counts}", result)

    headers = {
        "Content-Type": OCTETS if call.request.headers.get("accept") == OCTETS else ZIP,
        "Content-Disposition": 'attachment; filename="deidentified.zip"',
        "Vary": "Accept",
    }
    return _Answer(zip_stream(download.members()), headers, close)


_making = threading.Lock()


def _ways_of(request: Request, node: Services) -> Deidentifications:
    """Return the ways of a node, which its first download makes."""
    state = request.app.state
    with _making:
        if not hasattr(state, "deidentifications"):
            state.deidentifications = Deidentifications(node.settings.tables(DeidentifySettings))
    ways: Deidentifications = state.deidentifications
    return ways


def _is_there(index: ReadIndex, study: str, series: str | None) -> bool:
    return any(series in (None, row["series_instance_uid"]) for row in index.series.of_study(study))


class _Answer(Instances):
    def __init__(self, content: Iterator[bytes], headers: Mapping[str, str], close: Callable[[], None]) -> None:
        super().__init__(content, 200, headers)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with CancelScope(shield=True):
                await run_in_threadpool(self._close)


class _Download:
    """The members of one ZIP file, and what was left out of it."""

    def __init__(
        self,
        node: Services,
        how: Deidentification,
        order: tuple[str, Content],
        what: tuple[Sequence[str], str | None],
        stopping: threading.Event,
    ) -> None:
        self._node, self._how, self._order, self._what = node, how, order, what
        work = node.archive.work / uuid.uuid4().hex
        self._deidentifier = Deidentifier(work, node.decoder, how, self._whole_file, node.settings.convert, stopping)
        self._instances = self._files = 0
        self._series: list[dict[str, Any]] = []
        self._left_out: list[dict[str, str]] = []
        self.is_whole = False

    @property
    def counts(self) -> str:
        """What was sent and left out, for the audit log."""
        files = f" in {self._files} files" if self._order[1] == "volumes" else ""
        return f"{self._instances} instances{files} sent, {len(self._left_out)} left out"

    def members(self) -> Iterator[Member]:
        """Yield the members of the ZIP file, each made when its turn comes."""
        studies, series_instance_uid = self._what
        for study in studies:
            yield from self._of_study(study, series_instance_uid)
        report = json.dumps(self._report(), indent=1).encode()
        yield Member(REPORT, len(report), [report])
        self.is_whole = True

    def close(self) -> None:
        """Remove everything that was made."""
        self._deidentifier.close()

    def _of_study(self, study: str, series_instance_uid: str | None) -> Iterator[Member]:
        with self._node.index.reading(wait=False) as index:
            rows = index.series.of_study(study)
            wanted = [row for row in rows if series_instance_uid in (None, row["series_instance_uid"])]
            with_volumes = {series for series, _ in index.volumes.current_revisions(study)}
            series = {
                row["series_instance_uid"]: list(index.instances.stored(study, row["series_instance_uid"]))
                for row in (rows if self._order[1] == "volumes" else wanted)  # a volume may need another series
            }
            damaged = {
                row["series_instance_uid"]: index.instances.count_unavailable(study, row["series_instance_uid"])
                for row in wanted
            }
        if not rows:
            why = LeftOut("not-here", "the study is not here, or was deleted meanwhile")
            self._left_out.append({"study_instance_uid": self._deidentifier.uid(study), **why.told})
        for row in wanted:
            uid = row["series_instance_uid"]
            if damaged[uid]:
                self._leave_out(study, uid, LeftOut("damaged", f"{damaged[uid]} files are missing or damaged"))
            if self._order[1] == "dicom":
                yield from self._dicom(series[uid])
            elif damaged[uid]:
                continue
            elif row["state"] in OPEN_STATES:
                detail = "instances are being received or converted; download it again when it is quiet"
                self._leave_out(study, uid, LeftOut("open", detail))
            elif uid not in with_volumes:
                self._leave_out(study, uid, LeftOut("no-volume", f"the series has no volume here ({row['state']})"))
            else:
                yield from self._volumes(study, series, uid, row["verdict"])

    def _dicom(self, instances: Sequence[StoredInstance]) -> Iterator[Member]:
        sent = 0
        for instance, copied in self._deidentifier.copies(instances):
            study, series, uid = instance.study_instance_uid, instance.series_instance_uid, instance.sop_instance_uid
            if not isinstance(copied, CopiedInstance):
                self._leave_out(study, series, copied, self._deidentifier.uid(uid))
                continue
            name = f"{self._folder(copied.copy.patient, study, series)}/{self._deidentifier.uid(uid)}.dcm"
            yield Member(name, copied.path.stat().st_size, _pieces(copied.path))
            sent += 1
            self._instances += 1
        if sent:
            self._note_series(instances[0].study_instance_uid, instances[0].series_instance_uid, instances=sent)

    def _volumes(
        self, study: str, series: Mapping[str, Sequence[StoredInstance]], uid: str, verdict: str | None
    ) -> Iterator[Member]:
        try:
            files, patient, converted = self._deidentifier.volumes(series, uid)
        except LeftOut as error:
            self._leave_out(study, uid, error)
            return
        for refusal in converted.refusals:
            self._leave_out(study, uid, LeftOut(refusal.reason.value, refusal.detail))
        for exclusion in converted.exclusions:
            why = LeftOut(exclusion.reason.value, exclusion.detail)
            self._leave_out(study, uid, why, exclusion.sop_instance_uid)
        for path in files:
            yield Member(f"{self._folder(patient, study, uid)}/{path.name}", path.stat().st_size, _pieces(path))
            self._files += 1
        if files:
            sources = {source for _, source, _ in converted.sources}
            self._instances += len(sources)
            self._note_series(study, uid, instances=len(sources), verdict=verdict)

    def _whole_file(self, instance: StoredInstance) -> Path:
        try:
            return whole_file(self._node, instance)
        except Damaged as error:
            raise LeftOut("damaged", str(error)) from error

    def _folder(self, patient: str, study: str, series: str) -> str:
        uid = self._deidentifier.uid
        return f"{patient}/{uid(study)}/{uid(series)}"

    def _note_series(self, study: str, series: str, **facts: Any) -> None:
        uid = self._deidentifier.uid
        self._series.append({"study_instance_uid": uid(study), "series_instance_uid": uid(series), **facts})

    def _leave_out(self, study: str, series: str, why: LeftOut, copy_uid: str | None = None) -> None:
        """Note what is left out: an instance by the UID of its copy, or else of a series."""
        uid = self._deidentifier.uid
        row = {"study_instance_uid": uid(study), "series_instance_uid": uid(series)}
        if copy_uid is not None:
            row["sop_instance_uid"] = copy_uid
        self._left_out.append({**row, **why.told})

    def _report(self) -> dict[str, Any]:
        profile, content = self._order
        return {
            "software": f"voxelnode {__version__}",
            "standard": f"PS3.15 {edition()}",
            "profile": profile,
            "key": self._how.key.name,
            "options": sorted(self._how.profile.options),
            "allowed": sorted(self._how.allowed),
            "content": content,
            "instances": self._instances,
            "series": self._series,
            "left_out": self._left_out,
        }


def _pieces(path: Path) -> Iterator[bytes]:
    """Yield the content of a file, and remove it."""
    with path.open("rb") as file:
        path.unlink()
        while piece := file.read(CHUNK_BYTES):
            yield piece
