"""What the node writes is valid to a judge of others: dciodvfy finds nothing in it that it does not find in its source.

De-identified copies are judged in `test_released`.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from pydicom import dcmread

from node.children.forwarding import CopyChange, Encoding, forward
from node.dicom.coercion import Coercion
from node.errors import ConversionRefused
from node.extensions.results.report import make_document, make_report
from node.extensions.results.segmentation import make_segmentation
from node.volume.read.transfer_syntaxes import NotTranscodable
from tests.dciodvfy import errors, new_errors
from tests.reference.test_deidentification import one_of_each_folder
from tests.unit.extensions.results.test_segmentation import prepared

pytestmark = [pytest.mark.slow, pytest.mark.corpus, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]

MAX_BYTES = 4 << 20

NATIVE_YBR = "PhotometricInterpretation(0028,0004)", "PlanarConfiguration(0028,0006)"
"""Of ultrasound in YBR_FULL, which PS3.3 C.8.5.6.1.2 allows compressed by RLE alone: its values stay as they are."""

ENCODINGS: tuple[Encoding, ...] = ("keep", "uncompressed", "jpeg2000-lossless")

COERCION = Coercion.of(
    {"ReferringPhysicianName": "Example", "PatientName": "{PatientID}^"}, {"Modality": "{Modality}"}, ["OperatorsName"]
)


def files(corpus: Path) -> Iterator[Path]:
    for path in one_of_each_folder(corpus):
        if path.stat().st_size <= MAX_BYTES and "TransferSyntaxUID" in dcmread(path, specific_tags=[]).file_meta:
            yield path


def test_results_are_valid(corpus: Path, tmp_path: Path) -> None:
    series = [dcmread(path) for path in (corpus / "derived/shuffled-instance-numbers").rglob("*.dcm")]
    making, volume = prepared(tmp_path, series)
    mask = np.zeros(volume.shape[:3], np.uint8)
    mask[2:7, 1:9, :] = 1
    nibabel.save(nibabel.Nifti1Image(mask, volume.affine), making.file)
    report, texts, document = (tmp_path / name for name in ("report.json", "texts.json", "report.pdf"))
    report.write_text(json.dumps({"measurements": [{"name": "Length", "value": 12.5, "unit": "mm"}]}))
    texts.write_text(json.dumps({"Finding": "nothing"}))
    document.write_bytes(b"%PDF-1.4\n%%EOF\n")
    makers: dict[Path, Any] = {
        making.file: make_segmentation,
        report: make_report,
        texts: make_report,
        document: make_document,
    }
    found = {}
    for file, maker in makers.items():
        into = tmp_path / f"{file.name}.dcm"
        into.touch()
        maker(replace(making, file=file, into=into))
        found[file.name] = list(errors(into) - errors(making.source.sample))
    assert found == {file.name: [] for file in makers}


@pytest.mark.sample(0, 1)
@pytest.mark.parametrize("step", [len(ENCODINGS), pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_copies_of_routes_are_as_valid_as_what_is_stored(
    corpus: Path, tmp_path: Path, encoding: Encoding, step: int
) -> None:
    """Of each file one copy, and of each encoding a third of the files; a release judges all copies."""
    into, found, judged = tmp_path / "copy.dcm", [], 0
    for path in islice(files(corpus), ENCODINGS.index(encoding) % step, None, step):
        into.touch()
        try:
            forward(path, CopyChange(COERCION, encoding), into)
        except (ConversionRefused, NotTranscodable):
            continue
        judged += 1
        is_ybr = encoding == "uncompressed" and "YBR_FULL" in dcmread(path, stop_before_pixels=True).get(
            "PhotometricInterpretation", ""
        )
        found += [
            (path, error)
            for error in new_errors(path, into)
            if not (is_ybr and any(attribute in error for attribute in NATIVE_YBR))
        ]
    assert judged > 40 // step
    assert found == []
