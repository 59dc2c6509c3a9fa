"""The structured reports of one series: a file of measurements or of key objects for each that has some."""

from __future__ import annotations

from pydicom import Dataset

from node.conversion.job import converted_file
from node.dicom.values import text
from node.errors import ConversionRefused
from node.extensions.reports.report import Document, read_document
from node.hookspecs import FileSource, Objects, Output, WrittenObjects
from node.volume.assemble import DAMAGE, damage_detail
from node.volume.model import Geometry
from node.volume.reasons import Exclusion, Reason
from node.writers.sidecar import write_document

STEMS = {"measurements": "measurements", "key-objects": "key_objects"}
"""Names of files by their kind."""


class ReportsOfSeries(Objects):
    """The reports of a series that say something of images (`node.hookspecs.Objects`).

    No report is taken: the conversion goes on to say of each that it is no image.
    """

    def __init__(self) -> None:
        super().__init__()
        self._documents: dict[str, Document] = {}

    def take(self, ds: Dataset) -> bool:
        """Keep what the file of a report needs; return False."""
        try:
            document = read_document(ds)
            if document is not None:
                self._documents.setdefault(document.sop_instance_uid, document)
        except ConversionRefused as refused:
            self._exclude(ds, Reason(refused.reason), refused.detail)
        except DAMAGE as error:
            self._exclude(ds, Reason.UNREADABLE, damage_detail(error))
        return False

    def _exclude(self, ds: Dataset, reason: Reason, detail: str) -> None:
        self.exclusions.append(Exclusion(text(ds, "SOPInstanceUID"), 0, reason, detail))

    def write(self, output: Output) -> WrittenObjects:
        """Write a file for each report; see `Objects`."""
        files, sources = [], []
        for stack, uid in enumerate(sorted(self._documents), start=output.stack):
            document = self._documents[uid]
            suffix = f"s{stack + 1}" if len(self._documents) > 1 else ""
            stem = "_".join(filter(None, (output.name, STEMS[document.kind.value], suffix)))
            written = write_document(document.record, document.kind, output.folder, stem)
            files.append(
                converted_file(written, output.folder, stack=stack, suffix=suffix, geometry=Geometry.NONE, instances=1)
            )
            sources.append(FileSource(stack, uid, 1))
        return WrittenObjects(files, sources)
