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
    assert run("convert", "scan", "-o", "out", "--format", "nifti", "--format", "mhd")[0] == 0
    for command, suffix in (("dump", ".nii.gz"), ("info", ".mhd")):
        [path] = (tmp_path / "out").rglob(f"*{suffix}")
        header = json.loads(run(command, str(path), "--json")[1])
        assert (header["dimensions"], header["spacing"]) == ([12, 16, 3], [0.5, 0.75, 2.5])
        affine = header["affine_ras"] if suffix == ".nii.gz" else header["affine_lps"]
        assert np.allclose(np.abs(np.diag(affine)), (0.5, 0.75, 2.5, 1))
    assert "dimensions  [12, 16, 3]\n" in run("info", str(path))[1]
    (tmp_path / "x.nii").write_bytes(b"no volume")
    refused = "voxelnode: x.nii: cannot be read as a volume (WrapStructError)\n"
    assert run("dump", "x.nii") == (1, "", refused)
