"""Projections, montages, masks and contours of a volume over HTTP: what `node` computes from its array."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import node
from node.extensions.derived import rest
from node.writers.reading import read_voxels
from tests.web.conftest import Site


@pytest.fixture(scope="module")
def volume(filled: Site) -> node.control.opened.Volume:
    [series] = [series for series in node.connect(filled.url).series() if series.uid == "1.2.3.1"]
    return series.volumes()[0]


def derived(site: Site, volume: Any, what: str, **query: Any) -> Any:
    return site.client().get(f"/api/v1/volumes/{volume.row['id']}/{what}", params=query)


def as_volume(content: bytes, folder: Path) -> tuple[Any, Any]:
    file = folder / "derived.nii.gz"
    file.write_bytes(content)
    return read_voxels(file)


@pytest.mark.slow
def test_a_projection_is_a_picture_or_values(filled: Site, volume: Any, tmp_path: Path) -> None:
    array = volume.array()
    picture = derived(filled, volume, "projection", plane="coronal")
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/png")
    with Image.open(BytesIO(picture.content)) as image:
        height, width = np.multiply(volume.project("coronal").shape, (volume.row["spacing_mm"][2], 1))
        assert image.width / image.height == pytest.approx(width * volume.row["spacing_mm"][0] / height, rel=0.1)
    values = derived(filled, volume, "projection", plane="axial", projection="minip", format="nifti")
    assert np.array_equal(as_volume(values.content, tmp_path)[0], array.min(axis=2, keepdims=True))
    montage = derived(filled, volume, "montage", step=2, columns=2)
    assert (montage.headers["content-type"], montage.headers["vary"]) == ("image/png", "Accept")
    octets = {"Accept": "application/octet-stream"}
    same = filled.client().get(montage.request.url, headers=octets)
    assert (same.headers["content-type"], same.content) == ("application/octet-stream", montage.content)


@pytest.mark.slow
def test_masks_and_contours_are_those_of_the_values(filled: Site, volume: Any, tmp_path: Path) -> None:
    array = volume.array()
    level = float(np.median(array))
    mask, affine = as_volume(derived(filled, volume, "mask", above=level).content, tmp_path)
    assert np.array_equal(mask, array >= level)
    assert np.allclose(affine, volume.affine_lps, atol=1e-3)
    outside = as_volume(derived(filled, volume, "mask", above=level, outside=-5).content, tmp_path)[0]
    assert np.array_equal(outside, np.where(array >= level, array, -5))
    told = derived(filled, volume, "contours", above=level).json()["contours"]
    known = list(node.contours(node.threshold(array, level), volume.affine_lps))
    assert [polygon["slice"] for polygon in told] == [index for index, _ in known]
    assert np.allclose(told[0]["points_lps_mm"], known[0][1], atol=1e-2)


@pytest.mark.slow
def test_what_cannot_be_derived_is_refused_in_words(filled: Site, volume: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(what: str, **query: Any) -> tuple[int, str]:
        answer = derived(filled, volume, what, **query)
        return answer.status_code, answer.json()["detail"]

    assert refusal("mask") == (400, "give above, below or both: a mask of all voxels says nothing")
    assert refusal("mask", above="nan")[0] == 422
    assert refusal("projection", time=7)[1].endswith("time = 7: the volume has 1, counted from 0")
    files = {row["format"]: row for row in volume._source.volumes("1.2.3", "1.2.3.1")}
    assert filled.client().get(f"/api/v1/volumes/{files['mhd']['id']}/mask", params={"above": 0}).status_code == 200
    assert filled.client().get(f"/api/v1/volumes/{files['png']['id']}/montage").status_code == 400
    monkeypatch.setattr(rest, "MAX_VOXELS", 10)
    assert "more than 10" in refusal("projection")[1]
    assert list((filled.root / "incoming").glob("derived-*")) == []
