"""Stored instances without identities, and volumes that are made of them, in files of a work folder.

No file that leaves is made of an original in this process: children read the originals, and converters read the copies.
"""

from __future__ import annotations

import re
import shutil
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from node.child_process.messages import ChildCancelled, Garbled
from node.children.decoder import STOPPING, Decoder, DecoderBusy, NotDecoded
from node.children.forwarding import Change, Copy, copy_of, forward
from node.conversion.job import ConversionJob, Converted, ReferencedSeries, absent, limits, run_with_references
from node.conversion.pool import ConverterDied, Converters, ShortOfResources
from node.conversion.scheduler import NICENESS
from node.errors import OutOfResources, VoxelnodeError, Withheld
from node.extensions.deidentify.deidentification import Deidentification
from node.extensions.deidentify.pseudonyms import PATIENT_CHARACTERS
from node.extensions.deidentify.refusal import Reason
from node.index.nouns.converted import SeriesKey
from node.index.search.selection import StoredInstance
from node.settings.convert import Convert
from node.volume.reasons import Reason as NoVolume
from node.writers.options import write_options

_PSEUDONYM = re.compile(rf"[A-Z2-7]{{{PATIENT_CHARACTERS}}}")

AHEAD = 2
"""Instances that are copied while another is used: half of what the decoder does at once."""


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
    """A copy in a file, whose owner removes it."""

    path: Path
    copy: Copy


Copied = tuple[StoredInstance, CopiedInstance | LeftOut]


class Deidentifier:
    """Makes copies and volumes without identities, for one caller at a time.

    Parameters
    ----------
    work : Path
        Folder for what is made; created now, and removed by `close` or by the next start of the node.
    whole_file : callable (StoredInstance) -> Path
        Returns the file of an instance after comparing its digest; raises `LeftOut` if it is damaged.
    convert : Convert
        What is written for each volume, and the limits of a conversion.
    stopping : threading.Event
        Ends a conversion that is under way.
    """

    def __init__(
        self,
        work: Path,
        decoder: Decoder,
        how: Deidentification,
        whole_file: Callable[[StoredInstance], Path],
        convert: Convert,
        stopping: threading.Event,
    ) -> None:
        work.mkdir(mode=0o700, parents=True)
        self._work, self._decoder, self._whole_file, self._stopping = work, decoder, whole_file, stopping
        self._change = Change(deidentification=how)
        self._convert = convert
        self._converters: Converters | None = None

    def uid(self, uid: str) -> str:
        """Return the UID that stands for that of an instance, a series or a study."""
        return self._change.uid(uid)

    def copies(self, instances: Sequence[StoredInstance]) -> Iterator[Copied]:
        """Yield the copy of each instance, or why there is none; the next ones are made while one is used.

        Raises
        ------
        DecoderBusy
        OutOfResources
            A file cannot be read or written now.
        """
        waiting: deque[tuple[StoredInstance, Future[CopiedInstance | LeftOut]]] = deque()
        with ThreadPoolExecutor(AHEAD, thread_name_prefix="deidentify") as threads:
            try:
                for instance in instances:
                    waiting.append((instance, threads.submit(self._copied, instance)))
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
    ) -> tuple[list[Path], str, Converted]:
        """Convert the copies of a series; return the files, the pseudonym of the patient, and the result.

        Parameters
        ----------
        series : mapping of str to sequence of StoredInstance
            The series of a study by Series Instance UID; others than `series_instance_uid` are those that it may refer
            to, such as the images of a structure set.

        Raises
        ------
        LeftOut
            Not all instances have a copy, or the conversion failed: a volume of a part would be another one.
        DecoderBusy, OutOfResources
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
        return sorted(folder.iterdir()), copies[0].copy.patient, converted

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
                return CopiedInstance(into, copy)
            left_out = LeftOut(Reason.UNREADABLE, "the copy is of another instance")
        except LeftOut as error:
            left_out = error
        except Withheld as error:
            left_out = LeftOut(error.reason, error.detail)
        except (NotDecoded, Garbled) as error:
            left_out = LeftOut(Reason.UNREADABLE, str(error))
        except OSError as error:
            raise OutOfResources(f"a copy cannot be made now: {error.strerror}") from error
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
            self._converters = Converters(NICENESS)
        try:
            return self._converters.run(job, limits(self._convert), self._stopping)
        except ChildCancelled:
            raise DecoderBusy(STOPPING) from None


def _files_of(copies: Sequence[CopiedInstance]) -> tuple[tuple[str, Path], ...]:
    return tuple((copied.copy.sop_instance_uid, copied.path) for copied in copies)
