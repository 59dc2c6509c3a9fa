"""Instances that an extension turns into files or volumes (`node.hookspecs.ObjectKind`), apart from the images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from pydicom import Dataset

from node.completeness import Evidence
from node.conversion.datasets import SeriesFiles
from node.conversion.job import ConversionJob
from node.dicom.values import text
from node.errors import ConversionRefused, VoxelnodeError
from node.hookspecs import FileSource, Objects, Output, WrittenObjects
from node.index.nouns.converted import ConvertedFile, SeriesKey
from node.registry import resolve
from node.volume.assemble import DAMAGE, damage_detail
from node.volume.model import Volume
from node.volume.reasons import Exclusion, Reason, Refusal


class SeriesObjects:
    """The instances of a series that extensions convert. Each is in a file, in an exclusion or in a refusal.

    `damaged`: SOP Instance UIDs of instances of referenced series that are not as they were received, and how they
    differ; filled by `read_referenced`.
    """

    def __init__(self, job: ConversionJob) -> None:
        self._job = job
        self.damaged: list[tuple[str, str]] = []
        self._in_volumes: set[str] = set()
        self._objects: dict[str, Objects] = {}
        self._taken: set[str] = set()
        self._exclusions: list[Exclusion] = []
        self._possible: dict[str, list[Objects]] = {}

    def set_apart(self, datasets: Iterable[Dataset]) -> Iterator[Dataset]:
        """Yield the data sets that no extension takes."""
        for ds in datasets:
            if not self._is_taken(ds):
                yield ds

    def _is_taken(self, ds: Dataset) -> bool:
        for objects in self._objects_of(text(ds, "SOPClassUID")):
            uid = text(ds, "SOPInstanceUID")
            try:
                if not objects.take(ds):
                    continue
            except ConversionRefused as refused:
                self._exclusions.append(Exclusion(uid, 0, Reason(refused.reason), refused.detail))
            except DAMAGE as error:
                self._exclusions.append(Exclusion(uid, 0, Reason.UNREADABLE, damage_detail(error)))
            self._taken.add(uid)
            return True
        return False

    def _objects_of(self, sop_class_uid: str) -> list[Objects]:
        """Return the objects of all kinds that instances of a SOP class may have; a series has thousands of one class.

        Their modules are imported when the first instance of a class comes.
        """
        if sop_class_uid not in self._possible:
            places = [kind.place for kind in self._job.objects if kind.may_be(sop_class_uid)]
            self._objects |= {place: resolve(place)() for place in places if place not in self._objects}
            self._possible[sop_class_uid] = [self._objects[place] for place in places]
        return self._possible[sop_class_uid]

    @property
    def references(self) -> tuple[SeriesKey, ...]:
        """The other series that are needed."""
        return tuple(sorted({key for objects in self._objects.values() for key in objects.references}))

    @property
    def lacks_references(self) -> bool:
        """Whether the job must be repeated with more series."""
        return not {series.key for series in self._job.referenced}.issuperset(self.references)

    def read_referenced(self) -> None:
        """Read the other series, one after the other."""
        for series in self._job.referenced:
            for objects in self._objects.values():
                if series.key in objects.references:
                    files = SeriesFiles(series.instances, self._job.as_received)
                    objects.read_referenced(series, files)
                    self.damaged += files.damaged

    def volumes(self, stack: int) -> Iterator[Volume]:
        """Yield the volumes one by one; `stack` is the number of the first stack."""
        for objects in self._objects.values():
            for volume in objects.volumes(stack):
                self._in_volumes.update(source.sop_instance_uid for source in volume.sources)
                stack = max(stack, volume.stack + 1)
                yield volume

    @property
    def exclusions(self) -> tuple[Exclusion, ...]:
        return (
            *self._exclusions,
            *(exclusion for objects in self._objects.values() for exclusion in objects.exclusions),
        )

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        return tuple(refusal for objects in self._objects.values() for refusal in objects.refusals)

    def evidence(self) -> list[Evidence]:
        """Return what speaks against completeness."""
        return [finding for objects in self._objects.values() for finding in objects.evidence()]

    def write(self, output: Output) -> WrittenObjects:
        """Write all other files, after all volumes were made.

        Raises VoxelnodeError if an instance is lost: a bug of an extension, never a fault of the data.
        """
        files: list[ConvertedFile] = []
        sources: list[FileSource] = []
        for objects in self._objects.values():
            stack = max((file.stack + 1 for file in files), default=output.stack)
            written = objects.write(replace(output, stack=stack))
            files += written.files
            sources += written.sources
        known = (
            self._in_volumes
            | {source.sop_instance_uid for source in sources}
            | {exclusion.sop_instance_uid for exclusion in self.exclusions}
        )
        known.update(uid for refusal in self.refusals for uid in refusal.sop_instance_uids)
        if lost := self._taken - known:
            raise VoxelnodeError(f"{len(lost)} instances are in no file, exclusion or refusal")
        return WrittenObjects(files, sources)
