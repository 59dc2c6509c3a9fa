"""Reports of a series: their measurements and selections of key objects, beside volumes of the series."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydicom import Dataset

from node.dicom.values import text
from node.errors import ConversionRefused
from node.index.nouns.converted import ConvertedFile
from node.volume.assemble import DAMAGE, damage_detail
from node.volume.model import Geometry
from node.volume.objects.report import Document, read_document
from node.volume.reasons import Exclusion, Reason
from node.writers.documents import write_document

STEMS = {"measurements": "measurements", "key-objects": "key_objects"}
"""Names of files by their kind."""


class Reports:
    """The reports of a series that say something of images.

    Attributes
    ----------
    exclusions : list of Exclusion
        Reports that cannot be read; filled by `note`.
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

        Parameters
        ----------
        stack : int
            Number of the first report; the others follow.
        name : str
            What the names of the files begin with; may be empty.
        """
        files, sources = [], []
        for number, uid in enumerate(sorted(self._documents), start=stack):
            document = self._documents[uid]
            stem, suffix = STEMS[document.kind.value], f"s{number + 1}" if len(self._documents) > 1 else ""
            stem = "_".join(filter(None, (name, stem, suffix)))
            written = write_document(document.record, document.kind, folder, stem)
            files.append(
                ConvertedFile(
                    stack=number,
                    suffix=suffix,
                    kind=written.kind,
                    format=written.format,
                    path=str(written.path.relative_to(folder)),
                    shape=written.grid.shape,
                    spacing_mm=written.grid.spacing_mm,
                    dtype=written.grid.dtype,
                    geometry=Geometry.NONE.value,
                    orientation=None,
                    instances=1,
                    warnings=(),
                    bytes=written.bytes,
                    sha256=written.sha256,
                )
            )
            sources.append((number, uid, 1))
        return files, sources
