"""Whole slide microscopy: small levels as pictures, and why others stay tiles."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, FileDataset
from pydicom.uid import VLWholeSlideMicroscopyImageStorage

from node.volume import objects
from node.volume.assemble import assemble
from node.volume.model import Geometry
from node.volume.reasons import Reason, WarningKind
from node.writers.options import WriteOptions
from node.writers.write import write_volume
from tests import make

ROWS, COLUMNS, TILE_ROWS, TILE_COLUMNS = 23, 31, 8, 10
PICTURE = np.random.default_rng(8).integers(0, 256, (ROWS, COLUMNS, 3), np.uint8)


def tiled(order: list[int] | None = None, **attributes: Any) -> FileDataset:
    """A slide of 4 x 3 tiles that hang over its edges: full, or with positions in this order."""
    across, down = 4, 3
    hanging = np.full((down * TILE_ROWS, across * TILE_COLUMNS, 3), 255, np.uint8)
    hanging[:ROWS, :COLUMNS] = PICTURE
    tiles = (
        hanging.reshape(down, TILE_ROWS, across, TILE_COLUMNS, 3).swapaxes(1, 2).reshape(-1, TILE_ROWS, TILE_COLUMNS, 3)
    )
    ds = make.instance(
        sop_class_uid=VLWholeSlideMicroscopyImageStorage,
        modality="SM",
        ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        DimensionOrganizationType="TILED_FULL" if order is None else "TILED_SPARSE",
        TotalPixelMatrixRows=ROWS,
        TotalPixelMatrixColumns=COLUMNS,
        SpecimenLabelInImage="NO",
    )
    make.set_pixels(ds, tiles if order is None else tiles[order])
    ds.SharedFunctionalGroupsSequence = [
        make.dataset(PixelMeasuresSequence=[make.dataset(PixelSpacing=["0.004", "0.002"])])
    ]
    if order is not None:
        ds.PerFrameFunctionalGroupsSequence = [
            make.dataset(
                PlanePositionSlideSequence=[
                    make.dataset(
                        RowPositionInTotalImagePixelMatrix=TILE_ROWS * (tile // across) + 1,
                        ColumnPositionInTotalImagePixelMatrix=TILE_COLUMNS * (tile % across) + 1,
                    )
                ]
            )
            for tile in order
        ]
    return make.changed(ds, **attributes)


@pytest.mark.parametrize("order", [None, [5, 3, 0, 11, 7, 1, 2, 4, 6, 10, 9, 8]], ids=["full", "sparse"])
def test_the_tiles_of_a_small_level_are_one_picture(order: list[int] | None) -> None:
    assembly = assemble([tiled(order)])
    [volume] = assembly.volumes
    assert np.array_equal(volume.voxels[0, 0], PICTURE)
    assert (volume.geometry, volume.affine_lps, volume.spacing_mm) == (Geometry.NONE, None, (0.002, 0.004, 1.0))
    assert {source.frame_number for source in volume.sources} == set(range(1, 13))
    assert {warning.name for warning in volume.warnings} == {WarningKind.NO_GEOMETRY}
    assert not assembly.exclusions


def test_a_picture_of_a_slide_can_be_written(tmp_path: Path) -> None:
    [volume] = assemble([tiled()]).volumes
    files = write_volume(volume, tmp_path, "volume", WriteOptions(formats=("nifti", "mhd", "npz")))
    assert {file.format for file in files} == {"nifti", "mhd", "npz", "png"}


def test_levels_beyond_the_limit_are_left_out_beside_the_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MAX_SIDE_PIXELS", COLUMNS)
    uids = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3"}
    small, large = tiled(**uids), tiled(TotalPixelMatrixColumns=COLUMNS + 1, **uids)
    assembly = assemble([large, small])
    [volume] = assembly.volumes
    assert {source.sop_instance_uid for source in volume.sources} == {small.SOPInstanceUID}
    [exclusion] = assembly.exclusions
    assert (exclusion.sop_instance_uid, exclusion.reason) == (large.SOPInstanceUID, Reason.TILED_SLIDE)
    assert f"{COLUMNS + 1} x {ROWS}" in exclusion.detail


SPARSE = list(range(12))


@pytest.mark.parametrize(
    ("ds", "cause"),
    [
        (tiled(ImageType=["ORIGINAL", "PRIMARY", "LABEL", "NONE"]), "label"),
        (tiled(ImageType=["ORIGINAL", "PRIMARY", "OVERVIEW", "NONE"], SpecimenLabelInImage="YES"), "label"),
        (tiled(ImageType=["ORIGINAL", "PRIMARY", "OVERVIEW", "NONE"], SpecimenLabelInImage=None), "label"),
        (tiled(TotalPixelMatrixFocalPlanes=2), "focal planes"),
        (tiled(NumberOfOpticalPaths=3), "optical paths"),
        (tiled(OpticalPathSequence=[Dataset(), Dataset()]), "optical paths"),
        (tiled(ConcatenationUID="1.2.3"), "several instances"),
        (tiled(TotalPixelMatrixRows=None), "missing"),
        (tiled(TotalPixelMatrixRows=TILE_ROWS), "12 tiles, but 4 x 1"),
        (tiled(SPARSE[:-1]), "gaps"),
        (tiled([*SPARSE[:-1], 3]), "gaps or overlap"),
        (tiled(SPARSE, PerFrameFunctionalGroupsSequence=[Dataset()] * 12), "no place"),
        (tiled(SPARSE, DimensionOrganizationType=None, PerFrameFunctionalGroupsSequence=None), "no place"),
        (tiled(SPARSE, TotalPixelMatrixRows=TILE_ROWS), "no place"),
    ],
)
def test_a_level_that_is_no_single_picture_is_refused(ds: FileDataset, cause: str) -> None:
    [refusal] = assemble([ds]).refusals
    assert refusal.reason is Reason.TILED_SLIDE
    assert cause in refusal.detail
