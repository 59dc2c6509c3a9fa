"""Identical input gives identical files, and what was read is let go."""

import dataclasses
import gc
import hashlib
import re
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid

from node.conversion.job import ConversionJob
from node.conversion.naming import name_template
from node.conversion.offline import convert_folder
from node.conversion.out_folder import Layout
from node.volume.assemble import assemble
from tests import make, volumes
from tests.converting import convert_with_all, here

EVERYTHING = dataclasses.replace(volumes.EVERYTHING, suv=True)


def saved(datasets: list[Dataset], folder: Path) -> list[tuple[str, Path]]:
    folder.mkdir(exist_ok=True)
    paths = [(str(ds.SOPInstanceUID), folder / f"{generate_uid()}.dcm") for ds in datasets]
    for ds, (_, path) in zip(datasets, paths, strict=True):
        ds.save_as(path, enforce_file_format=True)
    return paths


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(volumes.unpacked(path)).hexdigest() for path in files}


@pytest.mark.slow
def test_every_format_and_picture_is_the_same_twice(tmp_path: Path) -> None:
    for datasets in (
        make.tilted_ct_series(6),
        make.time_series(3, 4),
        make.localizer(),
        [make.rgb_capture(frames=3)],
        [make.enhanced_mr(4, 2)],
        make.image_series(3, modality="PT", Units="GML"),
    ):
        saved(datasets, tmp_path / "in")
    layout = Layout(name_template("volume"))
    convert_folder([tmp_path / "in"], tmp_path / "first", EVERYTHING, here, layout=layout)
    convert_folder([tmp_path / "in"], tmp_path / "second", EVERYTHING, here, layout=layout)
    first = digests(tmp_path / "first")
    assert first == digests(tmp_path / "second")
    assert {re.sub(r"-\d+(?=[_.])", "", Path(name).name) for name in first} >= {
        *("volume.nii.gz", "volume.hdr", "volume.img", "volume_analyze.img", "volume.mhd", "volume.npz"),
        *("volume.json", "volume_thumbnail.png", "volume_preview.png", "volume_montage.png", "volume_mip_axial.png"),
        *("volume_resampled.nii.gz", "volume_mask.nii.gz", "volume_suv.nii.gz"),
    }


@pytest.mark.slow
def test_the_order_of_arrival_does_not_matter(tmp_path: Path) -> None:
    instances = saved([*make.duplicate_series(6), make.structured_report()], tmp_path / "in")
    for name, order in (("first", instances), ("second", instances[::-1])):
        (tmp_path / name).mkdir()
        assert convert_with_all(ConversionJob(tuple(order), tmp_path / name, EVERYTHING)).files
    assert digests(tmp_path / "first") == digests(tmp_path / "second")


def test_a_data_set_is_let_go_when_the_next_one_is_read(request: pytest.FixtureRequest) -> None:
    series = {str(ds.SOPInstanceUID): ds for ds in make.ct_series(6)}
    read: list[weakref.ref[Dataset]] = []

    def one_by_one() -> Iterator[Dataset]:
        while series:
            _, ds = series.popitem()
            kept[str(ds.SOPInstanceUID)] = dict(ds.items())
            gc.collect()
            assert [each for each in read[:-1] if each() is not None] == []
            read.append(weakref.ref(ds))
            yield ds

    kept: dict[str, dict] = {}
    request.addfinalizer(gc.unfreeze)
    gc.freeze()  # what earlier tests left is not looked through for each data set
    (volume,) = assemble(one_by_one(), lambda uid: Dataset(kept[uid])).volumes
    assert volume.shape[2] == len(read) == 6
