"""Structure sets and reports of a series.

Structure sets are set apart from its images, and converted with the series that they refer to. Reports give a file of
measurements or of key objects beside the volumes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydicom import Dataset

from node.conversion.datasets import SeriesFiles
from node.conversion.job import ConversionJob, ReferencedSeries, converted_file
from node.dicom.values import text
from node.errors import ConversionRefused
from node.index.nouns.converted import ConvertedFile, SeriesKey
from node.volume.assemble import DAMAGE, assemble, damage_detail
from node.volume.model import Geometry, Volume
from node.volume.objects.contour_masks import ReferencedImages, grids_of, masks_of
from node.volume.objects.report import Document, read_document
from node.volume.objects.structure_set import SOP_CLASS, StructureSet, read_structure_set
from node.volume.reasons import Exclusion, Reason
from node.writers.sidecar import write_document

STEMS = {"measurements": "measurements", "key-objects": "key_objects"}
"""Names of files by their kind."""


class StructureSets:
    """The structure sets of a series.

    `exclusions`: structure sets and regions without a mask; filled by `set_apart` and `masks`. `damaged`: list of (str,
    str); instances of referenced series that are not as they were received, and how they differ; filled by
    `read_images`.
    """

    def __init__(self, job: ConversionJob) -> None:
        self._job = job
        self._sets: dict[str, StructureSet] = {}
        self._images: dict[SeriesKey, ReferencedImages] = {}
        self.exclusions: list[Exclusion] = []
        self.damaged: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return len(self._sets)

    def set_apart(self, datasets: Iterable[Dataset]) -> Iterator[Dataset]:
        """Yield the data sets that are not structure sets; read the others."""
        for ds in datasets:
            if text(ds, "SOPClassUID") == SOP_CLASS:
                self._read(ds)
            else:
                yield ds

    def _read(self, ds: Dataset) -> None:
        uid = text(ds, "SOPInstanceUID")
        try:
            found = read_structure_set(ds)
        except ConversionRefused as refused:
            self.exclusions.append(Exclusion(uid, 0, Reason(refused.reason), refused.detail))
        except DAMAGE as error:
            self.exclusions.append(Exclusion(uid, 0, Reason.UNREADABLE, damage_detail(error)))
        else:
            first = self._sets.setdefault(uid, found)
            if not first.is_like(found):
                detail = "another structure set with this SOP Instance UID (0008,0018) differs; the first is used"
                self.exclusions.append(Exclusion(uid, 0, Reason.CONTRADICTORY, detail))

    @property
    def references(self) -> tuple[SeriesKey, ...]:
        """The series that the regions with contours were drawn on."""
        frames = {
            region.frame_of_reference_uid
            for structure_set in self._sets.values()
            for region in structure_set.regions
            if region.problem is None
        }
        found = (reference for structure_set in self._sets.values() for reference in structure_set.references)
        return tuple(sorted({reference.key for reference in found if reference.frame_of_reference_uid in frames}))

    @property
    def lacks_references(self) -> bool:
        """Whether the job must be repeated with more series."""
        return not {series.key for series in self._job.referenced}.issuperset(self.references)

    def read_images(self) -> None:
        """Read the referenced series, one after the other; only their geometry stays in memory."""
        needed = set(self.references)
        for series in self._job.referenced:
            if series.key in needed:
                self._images[series.key] = self._read_images(series)

    def _read_images(self, series: ReferencedSeries) -> ReferencedImages:
        if series.problem is not None:
            return ReferencedImages(problem=series.problem)
        files = SeriesFiles(series.instances, self._job.as_received)
        patients: set[tuple[str, str]] = set()
        assembly = assemble(_noting_patients(files, patients), files.dataset_of)
        self.damaged += files.damaged
        _, uid = series.key
        if not series.is_of_patient and not all(self._is_of_patient(*patient) for patient in patients):
            detail = f"refers to series {uid} of another patient: Patient ID (0010,0020) differs"
            return ReferencedImages(problem=(Reason.CONTRADICTORY, detail))
        return ReferencedImages(tuple(grids_of(uid, assembly, files.dataset_of)))

    def _is_of_patient(self, patient_id: str, study_instance_uid: str) -> bool:
        """Return whether all structure sets are of a patient; without a Patient ID, they must be of the same study."""
        return all(
            structure_set.patient_id == patient_id
            and (patient_id != "" or structure_set.study_instance_uid == study_instance_uid)
            for structure_set in self._sets.values()
        )

    def masks(self, stack: int) -> Iterator[Volume]:
        """Yield the masks one by one; `stack` is the number of the first structure set's."""
        for number, uid in enumerate(sorted(self._sets), start=stack):
            suffix = f"s{number + 1}" if len(self._sets) > 1 else ""
            for made in masks_of(self._sets[uid], self._images, number, suffix):
                if isinstance(made, Volume):
                    yield made
                elif made not in self.exclusions:
                    self.exclusions.append(made)


def _noting_patients(datasets: Iterable[Dataset], patients: set[tuple[str, str]]) -> Iterator[Dataset]:
    for ds in datasets:
        patients.add((text(ds, "PatientID"), text(ds, "StudyInstanceUID")))
        yield ds


class Reports:
    """The reports of a series that say something of images.

    `exclusions`: reports that cannot be read; filled by `note`.
    """

    def __init__(self) -> None:
        self._documents: dict[str, Document] = {}
        self.exclusions: list[Exclusion] = []

    def note(self, datasets: Iterable[Dataset]) -> Iterator[Dataset]:
        """Yield all data sets, and read those that are reports."""
        for ds in datasets:
            try:
                document = read_document(ds)
                if document is not None:
                    self._documents.setdefault(document.sop_instance_uid, document)
            except ConversionRefused as refused:
                self._exclude(ds, Reason(refused.reason), refused.detail)
            except DAMAGE as error:
                self._exclude(ds, Reason.UNREADABLE, damage_detail(error))
            yield ds

    def _exclude(self, ds: Dataset, reason: Reason, detail: str) -> None:
        self.exclusions.append(Exclusion(text(ds, "SOPInstanceUID"), 0, reason, detail))

    def write(self, folder: Path, stack: int, name: str) -> tuple[list[ConvertedFile], list[tuple[int, str, int]]]:
        """Write a file for each report; return the files, and (stack, SOP Instance UID, 1) for each.

        `stack`: number of the first report; the others follow. `name`: what the names of the files begin with; may be
        empty.
        """
        files, sources = [], []
        for number, uid in enumerate(sorted(self._documents), start=stack):
            document = self._documents[uid]
            stem, suffix = STEMS[document.kind.value], f"s{number + 1}" if len(self._documents) > 1 else ""
            stem = "_".join(filter(None, (name, stem, suffix)))
            written = write_document(document.record, document.kind, folder, stem)
            files.append(
                converted_file(written, folder, stack=number, suffix=suffix, geometry=Geometry.NONE, instances=1)
            )
            sources.append((number, uid, 1))
        return files, sources
