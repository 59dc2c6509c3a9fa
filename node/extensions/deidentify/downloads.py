"""Downloads without identities: DICOM files, or volumes that are made of them, as a ZIP file.

The administrator chooses keys and options by tables [deidentify.NAME], and callers a name. What cannot be called clean
is left out; the last member of the ZIP file, `REPORT`, says what and why, by the UIDs that stand for the originals. The
one before, `REMAINING`, lists the texts and numbers that stay.

No file that leaves is made of an original in this process: children read the originals, and converters read the copies.
"""

import json
import re
import shutil
import threading
import uuid
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastapi import Response
from starlette.types import Receive, Scope, Send

from node.archive.space import reason_of
from node.audit.audit_log import AuditAction, AuditEvent, Result
from node.children.decoder import STOPPING, Decoder, DecoderBusy, NotDecoded
from node.children.forwarding import CopyChange, WrittenCopy, copy_of, forward
from node.children.messages import ChildCancelled, Garbled
from node.children.pseudonyms import PATIENT_CHARACTERS
from node.conversion.job import ConversionJob, Converted, ReferencedSeries, absent, limits, run_with_references
from node.conversion.naming import folder_name
from node.conversion.pool import ConverterDied, Converters, ShortOfResources
from node.conversion.scheduler import NICENESS
from node.errors import OutOfResources, VoxelnodeError, Withheld, counted
from node.extensions.deidentify.deidentification import RefusalReason
from node.extensions.deidentify.profile import edition
from node.extensions.deidentify.remaining import Line, Loss, Remaining, compared, comparison_of, in_words, remedy
from node.extensions.deidentify.ways import DeidentifyWay, configured
from node.hookspecs import ObjectKind
from node.index.rows.converted import SeriesKey
from node.index.rows.files import StoredInstance
from node.index.rows.models.levels import OPEN_STATES
from node.index.rows.states import Download
from node.registry import enabled, objects_of
from node.settings.section import Convert
from node.version import __version__
from node.volume.reasons import Reason as NoVolume
from node.web.access import Call
from node.web.downloads import Making, download_of, makes
from node.web.errors import DownloadsBusy
from node.web.files import ZIP, Damaged, Streamed, type_or_octets, whole_file
from node.web.zips import Member, taken, zip_stream
from node.writers.options import write_options

_PSEUDONYM = re.compile(rf"[A-Z2-7]{{{PATIENT_CHARACTERS}}}")

AHEAD = 2
"""Instances that are copied while another is used: half of what the decoder does at once."""

Content = Literal["dicom", "volumes"]

REPORT = "deidentification.json"
REMAINING = "remaining.csv"

NAME, MAKER = "deidentified.zip", "deidentified"

MAX_STREAMS = 2
"""Downloads of links that are made at once, each while it is sent."""

_streams = threading.BoundedSemaphore(MAX_STREAMS)


class LeftOut(VoxelnodeError):
    """An instance or a series has no copy; `reason` is a keyword, `detail` a sentence, both without patient data."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    @property
    def row(self) -> dict[str, str]:
        """The reason and the detail, as a report has them."""
        return {"reason": self.reason, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class CopiedInstance:
    """A copy in a file, whose owner removes it. `remaining`: the lines of what stays in it; `lost`: what does not."""

    path: Path
    copy: WrittenCopy
    remaining: Sequence[Line] = ()
    lost: frozenset[Loss] = frozenset()


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
        self._change = CopyChange(deidentification=how)
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
            change = self._change.of(instance.identity)
            copy = copy_of(self._decoder.run(forward, path, change, into=into), change)
            is_ours = _PSEUDONYM.fullmatch(copy.patient) is not None
            if is_ours and copy.sop_instance_uid == self.uid(instance.sop_instance_uid):
                return CopiedInstance(into, copy, *comparison_of(self._decoder.run(compared, path, into)))
            left_out = LeftOut(RefusalReason.UNREADABLE, "the copy is of another instance")
        except LeftOut as error:
            left_out = error
        except Withheld as error:
            left_out = LeftOut(error.reason, error.detail)
        except (NotDecoded, Garbled) as error:
            left_out = LeftOut(RefusalReason.UNREADABLE, str(error))
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


def deidentified_zip(
    call: Call,
    profile: str,
    content: Content,
    study_instance_uids: Sequence[str],
    series_instance_uids: Collection[str],
) -> Response:
    """Send studies, or some of their series, without identities, as a ZIP file that is made meanwhile: for links.

    Raises DownloadsBusy if as many are made as may be, and what `ordered` raises.
    """
    download = ordered(call, profile, content, study_instance_uids, series_instance_uids)
    if (lack := call.node.archive.intake.waits_for()) is not None:
        raise OutOfResources(lack)
    if not _streams.acquire(blocking=False):
        raise DownloadsBusy(f"{MAX_STREAMS} downloads of links are being made already")
    headers = {
        "Content-Type": type_or_octets(call.request.headers, ZIP),
        "Content-Disposition": f'attachment; filename="{NAME}"',
        "Vary": "Accept",
    }
    making = Making(call.node, download, call.audit, call.request.app.state.stopping)
    return _Answer(_zipped(making), 200, headers)


def _zipped(making: Making) -> Iterator[bytes]:
    with closing(members(making)) as made:
        yield from zip_stream(made)


class _Answer(Streamed):
    """Takes one of the places of `_streams` until it ends."""

    broken = (*Streamed.broken, NotDecoded)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            _streams.release()


def ordered(
    call: Call,
    profile: str,
    content: Content,
    study_instance_uids: Sequence[str],
    series_instance_uids: Collection[str] = (),
) -> Download:
    """Return studies, or some of their series, without identities, as a download.

    Raises UsageError if there is no table [deidentify.`profile`]. Raises ResourceNotFound if none of the studies, or
    of the series, is here.
    """
    configured(call.node.settings, profile)
    return download_of(call, MAKER, NAME, study_instance_uids, series_instance_uids, (profile, content))


@makes(MAKER)
def members(making: Making) -> Generator[Member, None, None]:
    """Yield the members of a download without identities."""
    profile, content = making.download.options
    how = configured(making.node.settings, profile)
    order = f"de-identified by [deidentify.{profile}], {how.mark}, as {content}"
    objects = making.audited()
    made = _Download(making, how)
    try:
        making.audit.changed(AuditEvent.EXPORT, AuditAction.READ, objects, f"{order}: begun")
        yield from made.members()
    finally:
        made.close()
        outcome = "done" if made.is_whole else "broken off"
        result = Result.SUCCESS if made.is_whole else Result.MINOR_FAILURE
        making.audit.changed(AuditEvent.EXPORT, AuditAction.READ, objects, f"{order}: {outcome}, {made.counts}", result)


class _Download:
    """The members of one ZIP file, and what was left out of it."""

    def __init__(self, making: Making, how: DeidentifyWay) -> None:
        self._node, self._how, self._making = making.node, how, making
        self._profile, self._content = making.download.options
        work = self._node.archive.work / uuid.uuid4().hex
        settings = self._node.settings
        objects = objects_of(enabled(settings))
        self._deidentifier = Deidentifier(
            work, self._node.decoder, how, self._whole_file, settings.convert, objects, making.stopping
        )
        self._instances = self._files = 0
        self._series: list[dict[str, Any]] = []
        self._left_out: list[dict[str, str]] = []
        self._remaining = Remaining()
        self.is_whole = False

    @property
    def counts(self) -> str:
        """What was sent and left out, for the audit log."""
        files = f" in {counted(self._files, 'file')}" if self._content == "volumes" else ""
        return f"{counted(self._instances, 'instance')}{files} sent, {len(self._left_out)} left out"

    def members(self) -> Iterator[Member]:
        """Yield the members of the ZIP file, each made when its turn comes."""
        series = set(self._making.download.series)
        for study in self._making.download.studies:
            yield from self._of_study(study, series)
        remaining = self._remaining.as_csv()
        yield Member(REMAINING, len(remaining), [remaining])
        report = json.dumps(self._report(), indent=1).encode()
        yield Member(REPORT, len(report), [report])
        self.is_whole = True

    def close(self) -> None:
        """Remove everything that was made."""
        self._deidentifier.close()

    def _of_study(self, study: str, chosen: Collection[SeriesKey]) -> Iterator[Member]:
        with self._node.index.reading(wait=False) as index:
            rows = index.series.of_study(study)
            wanted = [row for row in rows if (study, row["series_instance_uid"]) in chosen]
            with_volumes = {series for series, _ in index.volumes.current_revisions(study)}
            series = {
                row["series_instance_uid"]: list(index.files.stored(study, row["series_instance_uid"]))
                for row in (rows if self._content == "volumes" else wanted)  # a volume may need another series
            }
            damaged = {
                row["series_instance_uid"]: index.instances.count_unavailable(study, row["series_instance_uid"])
                for row in wanted
            }
        if not rows:
            why = LeftOut("not-here", "the study is not here, or was deleted meanwhile")
            self._left_out.append({"study_instance_uid": self._deidentifier.uid(study), **why.row})
        for row in wanted:
            uid = row["series_instance_uid"]
            if damaged[uid]:
                detail = counted(damaged[uid], "file is missing or damaged", "files are missing or damaged")
                self._leave_out(study, uid, LeftOut("damaged", detail))
            if self._content == "dicom":
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
        sent, losses = 0, set[Loss]()
        for instance, copied in self._deidentifier.copies(instances):
            study, series, uid = instance.study_instance_uid, instance.series_instance_uid, instance.sop_instance_uid
            if not isinstance(copied, CopiedInstance):
                self._leave_out(study, series, copied, self._deidentifier.uid(uid))
                continue
            self._remaining.merge(copied.remaining)
            name = f"{self._folder(copied.copy.patient, study, series)}/{folder_name(self._deidentifier.uid(uid))}.dcm"
            yield Member(name, copied.path.stat().st_size, taken(copied.path))
            sent += 1
            self._instances += 1
            losses |= copied.lost
        if sent:
            self._note_series(instances[0].study_instance_uid, instances[0].series_instance_uid, instances=sent)
            self._note_losses(instances[0].study_instance_uid, instances[0].series_instance_uid, losses)

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
            yield Member(f"{self._folder(patient, study, uid)}/{path.name}", path.stat().st_size, taken(path))
            self._files += 1
        if files:
            sources = {source for _, source, _ in converted.sources}
            self._instances += len(sources)
            self._note_series(study, uid, instances=len(sources), verdict=verdict)
            self._note_losses(study, uid, frozenset().union(*(copied.lost for copied in copies)))

    def _whole_file(self, instance: StoredInstance) -> Path:
        self._making.check()
        try:
            return whole_file(self._node, instance)
        except Damaged as error:
            raise LeftOut("damaged", str(error)) from error

    def _folder(self, patient: str, study: str, series: str) -> str:
        uid = self._deidentifier.uid
        return f"{patient}/{folder_name(uid(study))}/{folder_name(uid(series))}"

    def _note_series(self, study: str, series: str, **facts: Any) -> None:
        uid = self._deidentifier.uid
        self._series.append({"study_instance_uid": uid(study), "series_instance_uid": uid(series), **facts})

    def _note_losses(self, study: str, series: str, losses: Collection[Loss]) -> None:
        if losses:
            detail = f"the copies lost {in_words(losses)}; {remedy(losses, self._how.profile.options)}"
            self._leave_out(study, series, LeftOut("lost", detail))

    def _leave_out(self, study: str, series: str, why: LeftOut, copy_uid: str | None = None) -> None:
        """Note what is left out: an instance by the UID of its copy, or else of a series."""
        uid = self._deidentifier.uid
        row = {"study_instance_uid": uid(study), "series_instance_uid": uid(series)}
        if copy_uid is not None:
            row["sop_instance_uid"] = copy_uid
        self._left_out.append({**row, **why.row})

    def _report(self) -> dict[str, Any]:
        return {
            "software": f"voxelnode {__version__}",
            "standard": f"PS3.15 {edition()}",
            "profile": self._profile,
            "key": self._how.key.name,
            "options": sorted(self._how.profile.options),
            "allowed": sorted(self._how.allowed),
            "content": self._content,
            "instances": self._instances,
            "series": self._series,
            "left_out": self._left_out,
        }
