"""``voxelnode dump``, and the headers of volumes: a confined child reads the file."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import make

Run = Callable[..., tuple[object, str, str]]


@pytest.mark.slow
def test_a_header_is_printed_as_text_and_as_json_as_far_as_it_goes(run: Run, tmp_path: Path) -> None:
    [ds] = make.ct_series(1, StationName="A\x1b[2JB", SeriesDescription="Thorax")
    [path] = make.saved([ds], tmp_path / "scan")
    status, text, _ = run("dump", "scan/0000.dcm")
    assert (status, "\x1b" in text) == (0, False)
    assert "StationName: 'A\\x1b[2JB'\n" in text
    assert "(0008,103E) LO SeriesDescription: 'Thorax'\n" in text
    assert "(7FE0,0010) OW PixelData: Array of 384 elements\n" in text
    assert run("import", "scan", "--root", "here")[0] == 0
    stored = json.loads(run("dump", ds.SOPInstanceUID, "--root", "here", "--json")[1])
    assert stored["elements"][-1] == {
        "depth": 0, "tag": "(7FE0,0010)", "vr": "OW", "keyword": "PixelData", "text": "Array of 384 elements",
    }  # fmt: skip
    Path(stored["path"]).unlink()
    missing = f"voxelnode: {stored['path']} is missing: run `voxelnode fsck`\n"
    assert run("dump", ds.SOPInstanceUID, "--root", "here") == (1, "", missing)
    path.write_bytes(path.read_bytes()[:-10])
    status, out, err = run("dump", "scan/0000.dcm")
    assert (status, "(0008,103E) LO SeriesDescription: 'Thorax'\n" in out) == (1, True)
    ended = "the file ends within (7FE0,0010): only 374 of 384 bytes are present"
    assert err == f"voxelnode: scan/0000.dcm: {ended}\n"


@pytest.mark.long
def test_the_header_of_a_volume_is_told(run: Run, tmp_path: Path) -> None:
    make.saved(make.ct_series(3), tmp_path / "scan")
    forms = ("nifti", "nifti-pair", "analyze", "mhd", "nrrd", "npz")
    assert run("convert", "scan", "-o", "out", *(word for form in forms for word in ("--format", form)))[0] == 0
    files = [path for path in (tmp_path / "out").rglob("*.*") if path.suffix not in (".json", ".png", ".zraw")]
    assert len(files) == 8
    for command, path in ((command, path) for path in files for command in ("dump", "info")):
        header = json.loads(run(command, str(path), "--json")[1])
        assert (header["dimensions"], np.round(header["spacing"], 6).tolist()) == ([12, 16, 3], [0.5, 0.75, 2.5])
        affine = header.get("affine_lps" if path.suffix in (".mhd", ".nrrd") else "affine_ras")
        assert (affine is None) == ("analyze" in path.name)
        assert affine is None or np.allclose(np.abs(np.diag(affine)), (0.5, 0.75, 2.5, 1))
    assert "dimensions  [12, 16, 3]\n" in run("info", str(path))[1]
    for name in ("x.nii", "x.hdr", "x.nrrd"):
        (tmp_path / name).write_bytes(b"no volume")
        assert f"voxelnode: {name}: cannot be read as a volume (" in run("dump", name)[2]


@pytest.mark.parametrize("content", [b"", b"some text", b"\x89PNG\r\n", bytes(600), b"PK\x03\x04" + bytes(200)])
def test_what_is_no_dicom_is_called_so(run: Run, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert run("dump", "file") == (1, "", "voxelnode: file: not a DICOM file\n")
    make.saved(make.ct_series(1), tmp_path / "scan")[0].rename(tmp_path / "scan.img")
    assert "(0008,0060) CS Modality: 'CT'\n" in run("dump", "scan.img")[1]
