"""Downloads without identities: DICOM files, or volumes that are made of them, as a ZIP file.

The administrator chooses keys and options by tables [deidentify.NAME], and callers a name. What cannot be called clean
is left out; the last member of the ZIP file, `REPORT`, says what and why, by the UIDs that stand for the originals. The
one before, `REMAINING`, lists the texts and numbers that stay.

No file that leaves is made of an original in this process: children read the originals, and converters read the copies.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from anyio import CancelScope
from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from node.archive.space import reason_of
from node.audit.audit_log import Action, AuditEvent, Result
from node.child_process.messages import ChildCancelled, Garbled
from node.children.decoder import STOPPING, Decoder, DecoderBusy, NotDecoded
from node.children.forwarding import Change, Copy, copy_of, forward
from node.conversion.job import ConversionJob, Converted, ReferencedSeries, absent, limits, run_with_references
from node.conversion.pool import ConverterDied, Converters, ShortOfResources
from node.conversion.scheduler import NICENESS
from node.counted import counted
from node.errors import OutOfResources, UsageError, VoxelnodeError, Withheld, nearest
from node.extensions.deidentify.deidentification import Reason
from node.extensions.deidentify.profile import edition
from node.extensions.deidentify.pseudonyms import PATIENT_CHARACTERS
from node.extensions.deidentify.remaining import Line, Remaining, lines_of, remaining_in
from node.extensions.deidentify.settings import DeidentifySettings
from node.extensions.deidentify.ways import DeidentifyWay, configured_by_name
from node.extensions.dicomweb.resources import Instances
from node.hookspecs import ObjectKind
from node.index.models import OPEN_STATES
from node.index.nouns.converted import SeriesKey
from node.index.search.selection import StoredInstance
from node.registry import enabled, objects_of
from node.settings.convert import Convert
from node.version import __version__
from node.volume.reasons import Reason as NoVolume
from node.web.access import Call
from node.web.audit_trail import of_study
from node.web.errors import ResourceNotFound
from node.web.files import ZIP, Damaged, type_or_octets, whole_file
from node.web.prepared import Check, Made, Wanted, prepared_of
from node.web.services import Services
from node.web.zips import Member, zip_stream
from node.writers.options import write_options

_PSEUDONYM = re.compile(rf"[A-Z2-7]{{{PATIENT_CHARACTERS}}}")

AHEAD = 2
"""Instances that are copied while another is used: half of what the decoder does at once."""

Content = Literal["dicom", "volumes"]

REPORT = "deidentification.json"
REMAINING = "remaining.csv"

CHUNK_BYTES = 1 << 20

NAME = "deidentified.zip"

STREAMED_INSTANCES = 50
"""Largest number of instances that a browser waits for without being told how far it is."""


class LeftOut(VoxelnodeError):
    """An instance or a series has no copy; `reason` is a keyword, `detail` a sentence, both without patient data."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    @property
    def told(self) -> dict[str, str]:
        """The reason and the detail, as a report has them."""
        return {"reason": self.reason, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class CopiedInstance:
    """A copy in a file, whose owner removes it. `remaining`: the lines of what stays in it."""

    path: Path
    copy: Copy
    remaining: Sequence[Line] = ()


Copied = tuple[StoredInstance, CopiedInstance | LeftOut]


class Deidentifier:
    """Makes copies and volumes without identities, for one caller at a time.

    `work`: folder for what is made; created now, and removed by `close` or by the next start of the node. `whole_file`:
    returns the file of an instance after comparing its digest; raises `LeftOut` if it is damaged. `convert`: what is
    written for each volume, and the limits of a conversion. `stopping`: ends a conversion that is under way.
    """

    def __init__(
        self,
        work: Path,
        decoder: Decoder,
        how: DeidentifyWay,
        whole_file: Callable[[StoredInstance], Path],
        convert: Convert,
        objects: tuple[ObjectKind, ...],
        stopping: threading.Event,
    ) -> None:
        work.mkdir(mode=0o700, parents=True)
        self._work, self._decoder, self._whole_file, self._stopping = work, decoder, whole_file, stopping
        self._change = Change(deidentification=how)
        self._convert, self._objects = convert, objects
        self._converters: Converters | None = None

    def uid(self, uid: str) -> str:
        """Return the UID that stands for that of an instance, a series or a study."""
        return self._change.uid(uid)

    def copies(self, instances: Sequence[StoredInstance]) -> Iterator[Copied]:
        """Yield the copy of each instance, or why there is none; the next ones are made while one is used.

        Raises OutOfResources if a file cannot be read or written now.
        """
        waiting: deque[tuple[StoredInstance, Future[CopiedInstance | LeftOut]]] = deque()
        with ThreadPoolExecutor(AHEAD, thread_name_prefix="deidentify") as threads:
            try:
                for instance in instances:
                    waiting.append((instance, threads.submit(copy_context().run, self._copied, instance)))
                    if len(waiting) > AHEAD:
                        of, future = waiting.popleft()
                        yield of, future.result()
                while waiting:
                    of, future = waiting.popleft()
                    yield of, future.result()
            finally:
                threads.shutdown(cancel_futures=True)

    def volumes(
        self, series: Mapping[str, Sequence[StoredInstance]], series_instance_uid: str
    ) -> tuple[list[Path], str, Converted, list[CopiedInstance]]:
        """Convert the copies of a series; return the files, the pseudonym of the patient, the result, and the copies.

        `series`: the series of a study by Series Instance UID; others than `series_instance_uid` are those that it may
        refer to, such as the images of a structure set.

        Raises LeftOut if not all instances have a copy, or the conversion failed: a volume of a part would be another
        one.
        """
        folder = self._work / uuid.uuid4().hex
        folder.mkdir(mode=0o700)
        copies = self._all_copies(series[series_instance_uid])
        job = ConversionJob(
            _files_of(copies),
            folder,
            write_options(self._convert),
            transfer_syntax_uids=frozenset(copied.copy.transfer_syntax_uid for copied in copies),
        )
        used = list(copies)

        def look_up(keys: Sequence[SeriesKey]) -> tuple[ReferencedSeries, ...]:
            return tuple(self._referenced(series, key, used) for key in keys)

        try:
            converted = run_with_references(job, self._run, look_up)
        except (ConverterDied, ShortOfResources) as error:
            raise LeftOut("failed", str(error)) from error
        finally:
            for copied in used:
                copied.path.unlink(missing_ok=True)
        return sorted(folder.iterdir()), copies[0].copy.patient, converted, copies

    def close(self) -> None:
        """End the converter, and remove everything that was made."""
        if self._converters is not None:
            self._converters.close()
        shutil.rmtree(self._work, ignore_errors=True)

    def _copied(self, instance: StoredInstance) -> CopiedInstance | LeftOut:
        into = self._work / f"{uuid.uuid4().hex}.dcm"
        try:
            path = self._whole_file(instance)
            into.touch(0o600)
            copy = copy_of(self._decoder.run(forward, path, self._change, into=into), self._change)
            is_ours = _PSEUDONYM.fullmatch(copy.patient) is not None
            if is_ours and copy.sop_instance_uid == self.uid(instance.sop_instance_uid):
                return CopiedInstance(into, copy, lines_of(self._decoder.run(remaining_in, into)))
            left_out = LeftOut(Reason.UNREADABLE, "the copy is of another instance")
        except LeftOut as error:
            left_out = error
        except Withheld as error:
            left_out = LeftOut(error.reason, error.detail)
        except (NotDecoded, Garbled) as error:
            left_out = LeftOut(Reason.UNREADABLE, str(error))
        except OSError as error:
            raise OutOfResources(f"a copy cannot be made now: {reason_of(error, into.parent)}") from error
        into.unlink(missing_ok=True)
        return left_out

    def _all_copies(self, instances: Sequence[StoredInstance]) -> list[CopiedInstance]:
        found = [result for _, result in self.copies(instances)]
        whole = [result for result in found if isinstance(result, CopiedInstance)]
        lacking = [result for result in found if isinstance(result, LeftOut)]
        if lacking:
            for copied in whole:
                copied.path.unlink()
            number = f"{len(lacking)} of {len(found)} instances: " if len(found) > 1 else ""
            raise LeftOut(lacking[0].reason, f"{number}{lacking[0].detail}")
        return whole

    def _referenced(
        self, series: Mapping[str, Sequence[StoredInstance]], key: SeriesKey, used: list[CopiedInstance]
    ) -> ReferencedSeries:
        original = next((uid for uid in series if self.uid(uid) == key[1]), None)
        if original is None:
            return ReferencedSeries(key, problem=(NoVolume.INCOMPLETE, absent(key[1])))
        try:
            copies = self._all_copies(series[original])
        except LeftOut as error:
            return ReferencedSeries(key, problem=(NoVolume.INCOMPLETE, f"refers to a series that is left out: {error}"))
        used += copies
        return ReferencedSeries(key, _files_of(copies))

    def _run(self, job: ConversionJob) -> Converted:
        if self._converters is None:
            self._converters = Converters(NICENESS, self._objects)
        try:
            return self._converters.run(job, limits(self._convert), self._stopping)
        except ChildCancelled:
            raise DecoderBusy(STOPPING) from None


def _files_of(copies: Sequence[CopiedInstance]) -> tuple[tuple[str, Path], ...]:
    return tuple((copied.copy.sop_instance_uid, copied.path) for copied in copies)


class Deidentifications:
    """The tables [deidentify.NAME] of a node. Thread-safe; keys and rules are read once.

    Raises UsageError if a key or a file of rules cannot be used.
    """

    def __init__(self, sections: Mapping[str, DeidentifySettings]) -> None:
        self._by_name = {name: configured_by_name(sections, name) for name in sections}

    def named(self, name: str) -> DeidentifyWay:
        """Return the de-identification that a table describes.

        Raises UsageError if there is none.
        """
        if name not in self._by_name:
            known = nearest(name, self._by_name) if self._by_name else "; the administrator has configured none"
            raise UsageError(f"there is no de-identification {name!r}{known}")
        return self._by_name[name]


def deidentified_zip(
    call: Call,
    profile: str,
    content: Content,
    study_instance_uids: Sequence[str],
    series_instance_uids: Collection[str] = (),
    *,
    prepares: bool = False,
) -> Response:
    """Return studies, or some of their series, without identities, as a ZIP file.

    `prepares`: of more than `STREAMED_INSTANCES`, and while as many are made as may be, return the way to the page that
    shows how far it is.

    Raises DownloadsBusy if as many are made as may be, and what `ordered` and `PreparedDownloads.begin` raise.
    """
    wanted, make = ordered(call, profile, content, study_instance_uids, series_instance_uids)
    downloads, account = prepared_of(call), call.account.name
    if prepares and (wanted.total > STREAMED_INSTANCES or not downloads.has_turn(account)):
        return RedirectResponse(f"/downloads/{downloads.begin(call, wanted, make)}", 303)
    if (lack := call.node.archive.intake.waits_for()) is not None:
        raise OutOfResources(lack)
    with ExitStack() as ending:
        ending.callback(downloads.take_turn(account))
        made = make()
        ending.callback(made.close)
        close = ending.pop_all().close
    headers = {
        "Content-Type": type_or_octets(call.request.headers, ZIP),
        "Content-Disposition": f'attachment; filename="{NAME}"',
        "Vary": "Accept",
    }
    return _Answer(zip_stream(made.members(lambda: None)), headers, close)


def ordered(
    call: Call,
    profile: str,
    content: Content,
    study_instance_uids: Sequence[str],
    series_instance_uids: Collection[str] = (),
) -> tuple[Wanted, Callable[[], Made]]:
    """Return studies, or some of their series, without identities, as something to make a ZIP file of.

    Raises UsageError if there is no table [deidentify.`profile`]. Raises ResourceNotFound if none of the studies, or
    of the series, is here.
    """
    how = _ways_of(call.request, call.node).named(profile)
    chosen = set(series_instance_uids)
    with call.node.index.reading() as index:
        rows = {
            uid: [row for row in index.series.of_study(uid) if not chosen or row["series_instance_uid"] in chosen]
            for uid in study_instance_uids
        }
        there = [uid for uid in study_instance_uids if rows[uid]]
        objects = [of_study(uid, index.studies.patient_id(uid)) for uid in there]
        sizes = [item for uid in there for item in index.instances.bytes_by_series(uid).items()]
    if not there:
        raise ResourceNotFound("series" if series_instance_uids else "study")
    size = sum(bytes for series, bytes in sizes if not chosen or series in chosen)
    total = sum(row["instances"] for uid in there for row in rows[uid])
    order = f"de-identified by [deidentify.{profile}], {how.mark}, as {content}"

    def make() -> Made:
        download = _Download(
            call.node,
            how,
            (profile, content),
            (study_instance_uids, series_instance_uids),
            call.request.app.state.stopping,
        )

        def close() -> None:
            download.close()
            outcome = "done" if download.is_whole else "broken off"
            result = Result.SUCCESS if download.is_whole else Result.MINOR_FAILURE
            told = f"{order}: {outcome}, {download.counts}"
            call.audit.changed(AuditEvent.EXPORT, Action.READ, objects, told, result)

        with ExitStack() as ending:
            ending.callback(download.close)
            call.audit.changed(AuditEvent.EXPORT, Action.READ, objects, f"{order}: begun")
            ending.pop_all()
        return Made(download.members, close)

    asked = f"{order}: {sorted(study_instance_uids)} {sorted(chosen)}"
    return Wanted(NAME, asked, objects, total, "instance", size), make


_making = threading.Lock()


def _ways_of(request: Request, node: Services) -> Deidentifications:
    """Return the ways of a node, which its first download makes."""
    state = request.app.state
    with _making:
        if not hasattr(state, "deidentifications"):
            state.deidentifications = Deidentifications(node.settings.tables(DeidentifySettings))
    ways: Deidentifications = state.deidentifications
    return ways


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
        how: DeidentifyWay,
        order: tuple[str, Content],
        what: tuple[Sequence[str], Collection[str]],
        stopping: threading.Event,
    ) -> None:
        self._node, self._how, self._order, self._what = node, how, order, what
        work = node.archive.work / uuid.uuid4().hex
        objects = objects_of(enabled(node.settings))
        self._deidentifier = Deidentifier(
            work, node.decoder, how, self._whole_file, node.settings.convert, objects, stopping
        )
        self._instances = self._files = 0
        self._series: list[dict[str, Any]] = []
        self._left_out: list[dict[str, str]] = []
        self._remaining = Remaining()
        self._check: Check = lambda: None
        self.is_whole = False

    @property
    def counts(self) -> str:
        """What was sent and left out, for the audit log."""
        files = f" in {counted(self._files, 'file')}" if self._order[1] == "volumes" else ""
        return f"{counted(self._instances, 'instance')}{files} sent, {len(self._left_out)} left out"

    def members(self, check: Check) -> Iterator[Member]:
        """Yield the members of the ZIP file, each made when its turn comes; `check` is called before each instance."""
        self._check = check
        studies, series = self._what
        for study in studies:
            yield from self._of_study(study, series)
        remaining = self._remaining.as_csv()
        yield Member(REMAINING, len(remaining), [remaining])
        report = json.dumps(self._report(), indent=1).encode()
        yield Member(REPORT, len(report), [report])
        self.is_whole = True

    def close(self) -> None:
        """Remove everything that was made."""
        self._deidentifier.close()

    def _of_study(self, study: str, series_instance_uids: Collection[str]) -> Iterator[Member]:
        with self._node.index.reading(wait=False) as index:
            rows = index.series.of_study(study)
            chosen = set(series_instance_uids)
            wanted = [row for row in rows if not chosen or row["series_instance_uid"] in chosen]
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
                self._leave_out(
                    study,
                    uid,
                    LeftOut(
                        "damaged", counted(damaged[uid], "file is missing or damaged", "files are missing or damaged")
                    ),
                )
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
            self._remaining.merge(copied.remaining)
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
            files, patient, converted, copies = self._deidentifier.volumes(series, uid)
        except LeftOut as error:
            self._leave_out(study, uid, error)
            return
        for refusal in converted.refusals:
            self._leave_out(study, uid, LeftOut(refusal.reason.value, refusal.detail))
        for exclusion in converted.exclusions:
            why = LeftOut(exclusion.reason.value, exclusion.detail)
            self._leave_out(study, uid, why, exclusion.sop_instance_uid)
        for copied in copies if files else ():
            self._remaining.merge(copied.remaining)
        for path in files:
            yield Member(f"{self._folder(patient, study, uid)}/{path.name}", path.stat().st_size, _pieces(path))
            self._files += 1
        if files:
            sources = {source for _, source, _ in converted.sources}
            self._instances += len(sources)
            self._note_series(study, uid, instances=len(sources), verdict=verdict)

    def _whole_file(self, instance: StoredInstance) -> Path:
        self._check()
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
