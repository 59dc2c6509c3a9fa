"""The child's half of a conversion: instances of a series -> data sets -> volumes -> files.

Only `convert` handles untrusted bytes; a node runs it in a child process (`node.conversion.pool`).
`node.conversion.series` is the other half, with access to the archive and the index. `node.conversion.offline` needs
neither.
"""

import gc
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from time import perf_counter

from pydicom import Dataset

from node.completeness import Evidence, Expectation, Findings, expectation, verdict_of
from node.conversion.datasets import FileSource, Objects, Output, SeriesFiles, WrittenObjects
from node.conversion.evidence import find_evidence, without_far_reports
from node.conversion.grids import InstanceHeader
from node.conversion.job import ConversionJob, Converted, converted_file
from node.dicom.counts import holes
from node.dicom.values import text
from node.errors import ConversionRefused, VoxelnodeError
from node.index.rows.converted import ConvertedFile, SeriesKey
from node.registry import resolve
from node.volume.assemble import DAMAGE, assemble, damage_detail
from node.volume.describe.scan_parameters import scan_parameters
from node.volume.describe.uptake import with_uptake
from node.volume.model import Assembly, Geometry, Volume
from node.volume.read.pixel_layout import SEND_AGAIN
from node.volume.reasons import Exclusion, Reason, Refusal, VolumeWarning, WarningKind
from node.volume.series import WITHOUT_PIXELS, as_refusals, exclusion_warnings
from node.volume.volumes import times_of
from node.writers.base import WrittenFile, stem_of
from node.writers.options import WriteOptions
from node.writers.write import write_volume


def convert(job: ConversionJob) -> Converted:
    """Read the instances of one series, assemble them and write every volume.

    Bad input never raises: an unreadable instance is excluded, and a stack with doubtful geometry is refused.

    Raises OSError: the folder is not writable.
    """
    began = perf_counter()
    with warnings.catch_warnings(), _rare_garbage_collection():
        warnings.simplefilter("ignore")  # pydicom's warnings quote values, which may be patient data
        return _convert(job, began)


@contextmanager
def _rare_garbage_collection() -> Iterator[None]:
    """Collect garbage less often: data sets have few reference cycles, and a scan may cover a million frames."""
    thresholds = gc.get_threshold()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


def _convert(job: ConversionJob, began: float) -> Converted:
    series = SeriesFiles(job.instances, job.as_received)
    objects = SeriesObjects(job)
    assembly, known = _assembled(job, series, objects.set_apart)
    if not series.damaged and objects.lacks_references:
        return Converted((), (), (), (), verdict_of(known), 0.0, references=objects.references)
    objects.read_referenced()
    damaged = (*series.damaged, *objects.damaged)
    if damaged:
        return _damaged(job, damaged, known, perf_counter() - began)
    found = _findings(known, assembly, series.headers, objects.evidence())
    completeness = verdict_of(known, found)
    files: list[ConvertedFile] = []
    sources: dict[tuple[int, str, int], None] = {}
    stack = _next_stack(assembly)
    of_series = {**job.descriptions, "completeness": completeness.document()}
    if job.joined is not None:
        of_series["joined_series"] = list(job.joined.series_instance_uids)
    for volume in _parts(chain(assembly.volumes, objects.volumes(stack)), job.options):
        described = replace(volume, attributes={**volume.attributes, **of_series})
        written = write_volume(described, job.folder, stem_of(volume, job.name), job.options)
        files += [_converted_file(volume, file, job.folder) for file in written]
        sources |= dict.fromkeys((volume.stack, one.sop_instance_uid, one.frame_number) for one in volume.sources)
        stack = max(stack, volume.stack + 1)
    written_objects = objects.write(Output(job.folder, stack, job.name, of_series, job.options))
    files += written_objects.files
    exclusions = (*assembly.exclusions, *objects.exclusions)
    refusals = (*assembly.refusals, *objects.refusals)
    if not any(file.shape for file in files):
        exclusions, refusals = (), (*refusals, *as_refusals(exclusions))
    return Converted(
        files=tuple(files),
        sources=(*_counted(sources), *written_objects.sources),
        exclusions=exclusions,
        refusals=refusals,
        completeness=completeness,
        seconds=perf_counter() - began,
        references=objects.references,
        findings=found,
    )


def _next_stack(assembly: Assembly) -> int:
    """Return the number after those of the stacks of an assembly."""
    refused = (refusal.stack for refusal in assembly.refusals if refusal.stack is not None)
    return max((*(volume.stack for volume in assembly.volumes), *refused), default=-1) + 1


def _damaged(job: ConversionJob, damaged: Sequence[tuple[str, str]], known: Expectation, seconds: float) -> Converted:
    """Return no volume: one without the damaged instances would take the place of one that was made before."""
    instances = len(job.instances) + sum(len(series.instances) for series in job.referenced)
    refusal = Refusal(Reason.DAMAGED, damage_of(damaged, instances), tuple(uid for uid, _ in damaged))
    return Converted((), (), (), (refusal,), verdict_of(known), seconds, tuple(damaged))


def damage_of(damaged: Sequence[tuple[str, str]], instances: int) -> str:
    """Return in a sentence how many files of a series are not as they were received."""
    return (
        f"{len(damaged)} of {instances} files are not as they were received (the first one {damaged[0][1]}): send the "
        "instances again"
    )


def _assembled(
    job: ConversionJob, files: SeriesFiles, others: Callable[[Iterable[Dataset]], Iterable[Dataset]]
) -> tuple[Assembly, Expectation]:
    """Return the volumes of all images and the announced counts; keeps no data set in memory.

    `others` reads what is not an image, and returns the rest.
    """
    assembly = assemble(others(files), files.dataset_of, repair=job.options.repair)
    known = job.expectation or expectation(files.counts, copies=files.copies - assembly.versions)
    if files.damaged:
        return assembly, known
    if len(files.unreadable) == len(job.instances) and {one.reason for one in files.unreadable} != {Reason.CUT}:
        uids = tuple(exclusion.sop_instance_uid for exclusion in files.unreadable)
        details = Counter(exclusion.detail for exclusion in files.unreadable)
        said = "".join(f": {detail}" for detail, _ in details.most_common(1))
        refusal = Refusal(Reason.UNREADABLE, f"no file of the series can be read as DICOM{said}", uids)
        return Assembly((), (refusal,), tuple(files.unreadable) if len(details) > 1 else ()), known
    if job.joined is not None:
        warning = VolumeWarning(WarningKind.REPAIRED, job.joined.proof)
        volumes = [replace(volume, warnings=(*volume.warnings, warning)) for volume in assembly.volumes]
        assembly = replace(assembly, volumes=tuple(volumes))
    if job.options.suv:
        assembly = with_uptake(assembly, files.dataset_of, job.options.suv_types)
    lacking, others_of_theirs = files.lacking()
    apart = [_without_remedy(one) for one in (*others_of_theirs, *assembly.exclusions)]
    warnings_of_all = exclusion_warnings(lacking)
    assembly = replace(
        assembly,
        volumes=tuple(replace(one, warnings=(*one.warnings, *warnings_of_all)) for one in assembly.volumes),
        exclusions=(*lacking, *apart),
        versions=assembly.versions + len(others_of_theirs),
        unusable=assembly.unusable + len(others_of_theirs),
    )
    return assembly, known


def _without_remedy(exclusion: Exclusion) -> Exclusion:
    """Return an exclusion; of a cut file, beside another of its instance, it does not ask to send it again."""
    is_beside = exclusion.file is not None and exclusion.reason is Reason.CUT
    return replace(exclusion, detail=exclusion.detail.removesuffix(SEND_AGAIN)) if is_beside else exclusion


def _findings(
    known: Expectation, assembly: Assembly, headers: Mapping[str, InstanceHeader], others: Sequence[Evidence]
) -> Findings:
    """Return the findings on completeness from the geometry and the headers of a series."""
    placed = [volume for volume in assembly.volumes if volume.geometry not in (Geometry.NONE, Geometry.SINGLE)]
    reasons = {*(refusal.reason for refusal in assembly.refusals), *(each.reason for each in assembly.exclusions)}
    return Findings(
        evidence=(*find_evidence(headers, assembly), *others),
        placed=bool(placed),
        times=max((volume.times for volume in placed), default=0),
        has_images=bool(assembly.volumes) or not reasons <= set(WITHOUT_PIXELS),
        forced=known.forced,
        holes=min(known.holes, holes([own.counts for own in without_far_reports(headers, assembly).values()])),
    )


def _parts(volumes: Iterable[Volume], options: WriteOptions) -> Iterator[Volume]:
    """Yield the volumes as `options` want them: each, or one for each of its times."""
    for volume in volumes:
        if options.split_times and volume.times > 1:
            yield from times_of(volume)
        else:
            yield volume


def _converted_file(volume: Volume, file: WrittenFile, folder: Path) -> ConvertedFile:
    return converted_file(
        file,
        folder,
        stack=volume.stack,
        suffix=volume.suffix,
        geometry=volume.geometry,
        instances=len({source.sop_instance_uid for source in volume.sources}),
        warnings=volume.warnings,
        # Pictures have none, and Analyze 7.5 turns the axes and drops it.
        affine_lps=volume.affine_lps if file.grid.spacing_mm and file.format != "analyze" else None,
        orientation=volume.orientation,
        **scan_parameters(volume),
    )


def _counted(sources: Iterable[tuple[int, str, int]]) -> Iterator[tuple[int, str, int]]:
    """Yield (stack, SOP Instance UID, frames) for each instance of each stack."""
    for (stack, uid), frames in Counter((stack, uid) for stack, uid, _ in sources).items():
        yield stack, uid, frames


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
        """Return the evidence against completeness."""
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
