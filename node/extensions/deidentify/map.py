"""The map from originals to pseudonyms, computed anew from both: it is stored nowhere."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydicom import Dataset, dcmread

from node.dicom.values import text
from node.extensions.deidentify.attributes import patient_of
from node.extensions.deidentify.pseudonyms import PseudonymKey
from node.receive.dicom_files import SkippedFile, find_instances


class Line(NamedTuple):
    """A line of the map; `days_earlier` is that of dates, and None of what has none."""

    key: str
    kind: str
    issuer: str
    original: str
    pseudonym: str
    days_earlier: int | None = None


_UIDS = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID", "instance": "SOPInstanceUID"}
_READ = ["SpecificCharacterSet", "PatientID", "IssuerOfPatientID", "AccessionNumber", *_UIDS.values()]


def pseudonyms_of(paths: Iterable[Path], keys: Sequence[PseudonymKey], *, with_uids: bool = False) -> Iterator[Line]:
    """Yield the pseudonyms of patients, accession numbers and perhaps UIDs in files, each once for each key."""
    seen: set[Line] = set()
    for found in find_instances(paths):
        if isinstance(found, SkippedFile):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote values
            try:
                with found.open_file() as file:
                    ds = dcmread(file, stop_before_pixels=True, force=True, specific_tags=_READ)
            except Exception:  # pydicom raises anything for a damaged file, which has no pseudonyms then
                continue
            lines = [line for key in keys for line in _lines(ds, key, with_uids)]
        yield from (line for line in lines if line not in seen)
        seen.update(lines)


def _lines(ds: Dataset, key: PseudonymKey, with_uids: bool) -> Iterator[Line]:
    patient = patient_of(ds)
    days = key.days_earlier(patient)
    yield Line(key.name, "patient", patient.issuer, patient.patient_id, key.patient(patient), days)
    if accession := text(ds, "AccessionNumber"):
        yield Line(key.name, "accession", "", accession, key.accession(accession))
    for kind, keyword in _UIDS.items() if with_uids else ():
        yield Line(key.name, kind, "", text(ds, keyword), key.uid(text(ds, keyword)))
