"""The structure sets of one series: masks on the images of the series that they refer to."""

from collections.abc import Iterable, Iterator

from pydicom import Dataset

from node.api import Exclusion, Objects, Reason, ReferencedSeries, SeriesFiles, SeriesKey, Volume, assemble, text
from node.extensions.structure_sets.contour_masks import ReferencedImages, grids_of, masks_of
from node.extensions.structure_sets.structure_set import StructureSet, read_structure_set


class StructureSetsOfSeries(Objects):
    """The structure sets of a series (`node.conversion.datasets.Objects`)."""

    def __init__(self) -> None:
        super().__init__()
        self._sets: dict[str, StructureSet] = {}
        self._images: dict[SeriesKey, ReferencedImages] = {}

    def take(self, ds: Dataset) -> bool:
        """See `Objects`."""
        uid = text(ds, "SOPInstanceUID")
        found = read_structure_set(ds)
        first = self._sets.setdefault(uid, found)
        if not first.is_like(found):
            detail = "not the same regions as another file with this SOP Instance UID (0008,0018), which is used"
            self.exclusions.append(Exclusion(uid, 0, Reason.CONTRADICTORY, detail, str(getattr(ds, "filename", ""))))
        return True

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

    def read_referenced(self, series: ReferencedSeries, files: SeriesFiles) -> None:
        """Read the geometry of a series; see `Objects`."""
        self._images[series.key] = self._read_images(series, files)

    def _read_images(self, series: ReferencedSeries, files: SeriesFiles) -> ReferencedImages:
        if series.problem is not None:
            return ReferencedImages(problem=series.problem)
        patients: set[tuple[str, str]] = set()
        assembly = assemble(_noting_patients(files, patients), files.dataset_of)
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

    def volumes(self, stack: int) -> Iterator[Volume]:
        """Yield the masks one by one, because a hundred of them do not fit into memory; see `Objects`."""
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
