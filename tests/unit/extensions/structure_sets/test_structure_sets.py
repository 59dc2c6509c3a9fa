"""Structure sets become masks on the slices that they were drawn on, or tell why not."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset
from pydicom.uid import generate_uid

from node.conversion.offline import convert_folder
from node.conversion.pipeline import convert as in_child
from node.extensions.structure_sets import contour_masks, structure_set
from node.writers.options import WriteOptions
from tests import make
from tests.converting import here

SQUARE = [(2.0, 2.0), (8.0, 2.0), (8.0, 10.0), (2.0, 10.0)]
INNER = [(4.0, 4.0), (6.0, 4.0), (6.0, 7.0), (4.0, 7.0)]
INNERMOST = [(4.6, 4.6), (5.4, 4.6), (5.4, 6.4), (4.6, 6.4)]


@dataclass
class Result:
    """What a conversion of files gave; masks by the number of their region, (columns, rows, slices)."""

    listing: dict[str, Any]
    masks: dict[int, NDArray[np.uint8]]
    sidecars: dict[int, dict[str, Any]]
    affines_lps: dict[int, NDArray[np.float64]]

    @property
    def details(self) -> list[str]:
        return [row["detail"] for name in ("refusals", "exclusions") for row in self.listing[name]]

    @property
    def reasons(self) -> list[str]:
        return [row["reason"] for name in ("refusals", "exclusions") for row in self.listing[name]]

    def warnings(self, number: int = 1) -> list[str]:
        return [warning["name"] for warning in self.sidecars[number]["warnings"]]


Convert = Callable[[Sequence[FileDataset]], Result]


@pytest.fixture
def convert(tmp_path: Path) -> Convert:
    def converted(datasets: Sequence[FileDataset]) -> Result:
        folder, out = tmp_path / generate_uid(), tmp_path / "out"
        make.saved(datasets, folder)
        listing = convert_folder([folder], out, WriteOptions(formats=("nifti",), thumbnails=False), here)
        result = Result(listing, {}, {}, {})
        for row in listing["volumes"]:
            path = out / row["path"]
            sidecar = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
            if "roi" in sidecar:
                number = sidecar["roi"]["number"]
                image = nib.load(path)  # type: ignore[attr-defined]
                result.masks[number] = np.asarray(image.dataobj)  # type: ignore[attr-defined]
                result.affines_lps[number] = np.diag([-1, -1, 1, 1]) @ image.affine  # type: ignore[attr-defined]
                result.sidecars[number] = sidecar
        return result

    return converted


def on_slices(images: Sequence[Dataset], *polygons: Any) -> list[Dataset]:
    return [make.contour(make.on_slice(image, polygon), [image]) for image in images for polygon in polygons]


def angles_around(centres: NDArray[np.float64], points: NDArray[np.float64], normal: NDArray[np.float64]) -> Any:
    """Return the sum of the angles, in turns, under which the edges of a polygon are seen from centres in its plane."""
    turns = np.zeros(len(centres))
    for start, end in zip(points, np.roll(points, -1, axis=0), strict=True):
        to_start, to_end = start - centres, end - centres
        turns += np.arctan2(np.cross(to_start, to_end) @ normal, (to_start * to_end).sum(axis=1))
    return turns / (2 * np.pi)


def expected_mask(mask: NDArray[np.uint8], affine_lps: NDArray[np.float64], contours: Sequence[Dataset]) -> Any:
    """Return the mask by another way: all in millimetres, from the written affine, by winding numbers."""
    centres = np.indices(mask.shape).reshape(3, -1).T @ affine_lps[:3, :3].T + affine_lps[:3, 3]
    normal = np.cross(affine_lps[:3, 0], affine_lps[:3, 1])
    normal /= np.linalg.norm(normal)
    count = np.zeros(len(centres), int)
    for contour in contours:
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        near = np.abs((centres - points[0]) @ normal) < 0.05
        count[near] += np.rint(angles_around(centres[near], points, normal)).astype(int)
    return (count % 2).reshape(mask.shape)


def star(random: np.random.Generator, corners: int = 11) -> NDArray[np.float64]:
    """Return a polygon around the middle of a slice whose corners are off the grid, in columns and rows."""
    angle = np.sort(random.uniform(0, 2 * np.pi, corners))
    radius = random.uniform(1.0, 7.7, corners)
    return np.column_stack((5.613 + radius * np.cos(angle), 7.317 + radius * np.sin(angle)))


SERIES: dict[str, Callable[[], list[FileDataset]]] = {
    "axial": lambda: make.ct_series(4),
    "sagittal": lambda: make.mr_series(4, orientation=make.SAGITTAL),
    "coronal": lambda: make.mr_series(4, orientation=make.CORONAL),
    "oblique": lambda: make.mr_series(4, orientation=make.OBLIQUE, spacing=4.1),
    "tilted gantry": lambda: make.tilted_ct_series(4),
    "reversed": lambda: make.ct_series(4)[::-1],
    "anisotropic": lambda: make.ct_series(4, pixel_spacing=(0.31, 1.7), spacing=7.5),
    "one slice": lambda: make.ct_series(1),
    "times": lambda: make.time_series(2, 3),
}


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", SERIES)
def test_a_mask_has_the_voxels_whose_centres_are_inside(convert: Convert, name: str) -> None:
    images = SERIES[name]()
    slices = images[: len({tuple(image.ImagePositionPatient) for image in images})]
    random = np.random.default_rng(len(name))
    regions = {
        f"region {number}": on_slices(slices, star(random), star(random, 5), star(random, 30)) for number in range(3)
    }
    result = convert([*images, make.structure_set(images, regions)])
    assert sorted(result.masks) == [1, 2, 3], result.details
    for number, contours in enumerate(regions.values(), start=1):
        mask = result.masks[number]
        assert mask.any()
        np.testing.assert_array_equal(mask, expected_mask(mask, result.affines_lps[number], contours))


def test_a_mask_lies_on_the_grid_of_its_images_and_its_sidecar_describes_the_region(convert: Convert) -> None:
    images = make.ct_series(5)
    result = convert([*images, make.structure_set(images, {"Heart": on_slices(images[1:4], SQUARE)})])
    mask, volume = sorted(result.listing["volumes"], key=lambda row: row["kind"])
    assert (mask["kind"], volume["kind"]) == ("mask", "volume")
    assert (mask["shape"], mask["spacing_mm"], mask["dtype"]) == (volume["shape"], volume["spacing_mm"], "uint8")
    assert mask["path"].endswith("_roi1_mask.nii.gz")
    assert result.sidecars[1]["roi"] == {
        "number": 1,
        "name": "Heart",
        "interpreted_type": "ORGAN",
        "generation_algorithm": "MANUAL",
        "colour": [255, 0, 1],
        "contours": 3,
        "contours_without_slice": 0,
        "image_series_instance_uid": images[0].SeriesInstanceUID,
        "image_stack": 0,
        "image_suffix": "",
    }
    assert result.masks[1].sum(axis=(0, 1)).tolist() == [0, 48, 48, 48, 0]
    assert result.warnings() == []
    assert result.details == []


def test_overlapping_regions_are_a_mask_each(convert: Convert) -> None:
    images = make.ct_series(3)
    regions = {"outer": on_slices(images, SQUARE), "inner": on_slices(images, INNER)}
    result = convert([*images, make.structure_set(images, regions)])
    assert (result.masks[1] & result.masks[2]).sum() == result.masks[2].sum() > 0


@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_a_contour_in_another_is_a_hole_and_one_in_the_hole_an_island(convert: Convert, kind: str) -> None:
    images = make.ct_series(1)
    contours = [make.contour(make.on_slice(images[0], each), kind=kind) for each in (INNER, INNERMOST, SQUARE)]
    result = convert([*images, make.structure_set(images, {"shell": contours})])
    assert result.masks[1].sum() == 48 - 6 + 1 * 2
    assert result.warnings() == []


def test_a_keyhole_contour_is_its_outer_contour_without_its_inner_one(convert: Convert) -> None:
    images = make.ct_series(2)
    keyhole = [*SQUARE, SQUARE[0], INNER[0], *INNER[:0:-1], INNER[0], SQUARE[0]]
    regions = {"keyhole": on_slices(images, keyhole), "hole": on_slices(images, SQUARE, INNER)}
    result = convert([*images, make.structure_set(images, regions)])
    np.testing.assert_array_equal(result.masks[1], result.masks[2])
    assert result.masks[1].sum() == 2 * (48 - 6)


def test_contours_that_cross_are_reported(convert: Convert) -> None:
    images = make.ct_series(3)
    shifted = [(column + 3, row) for column, row in SQUARE]
    contours = [*on_slices(images, SQUARE), *on_slices(images[1:2], shifted)]
    [warning] = convert([*images, make.structure_set(images, {"both": contours})]).sidecars[1]["warnings"]
    assert warning["name"] == "contours-cross"
    assert "on 1 slices: 2;" in warning["detail"]


def test_slices_without_a_contour_stay_empty_and_are_listed(convert: Convert) -> None:
    images = make.ct_series(6)
    contours = on_slices([images[1], images[4]], SQUARE)
    result = convert([*images, make.structure_set(images, {"sparse": contours})])
    assert result.masks[1].any(axis=(0, 1)).tolist() == [False, True, False, False, True, False]
    [warning] = result.sidecars[1]["warnings"]
    assert warning["name"] == "slices-without-contour"
    assert warning["detail"].endswith("slices 3, 4")


def test_contours_beyond_the_images_and_in_a_gap_are_reported(convert: Convert) -> None:
    images = make.ct_series(8)
    contours = on_slices(images, SQUARE)
    there = [image for index, image in enumerate(images) if index not in (0, 4)]
    result = convert([*there, make.structure_set(images, {"cut": contours})])
    assert result.masks[1].sum(axis=(0, 1)).tolist() == [48] * 6
    assert result.sidecars[1]["roi"]["contours_without_slice"] == 2
    assert result.warnings() == ["missing-slice", "contours-without-slice"]


def test_uneven_slices_have_the_contours_at_their_own_positions(convert: Convert) -> None:
    images = make.ct_series(5, positions=[(-50, -40, z) for z in (0.0, 2.0, 5.0, 6.0, 11.0)])
    polygons = [[(2.0, 2.0), (3.0 + index, 2.0), (3.0 + index, 4.0), (2.0, 4.0)] for index in range(5)]
    contours = [make.contour(make.on_slice(image, each)) for image, each in zip(images, polygons, strict=True)]
    result = convert([*images, make.structure_set(images, {"uneven": contours})])
    assert result.masks[1].sum(axis=(0, 1)).tolist() == [2, 4, 6, 8, 10]
    assert "irregular-spacing" in result.warnings()


def shifted(image: Dataset, polygon: Any, millimetres: float) -> NDArray[np.float64]:
    """Return points in a plane that is shifted from a slice along the z axis."""
    points = make.on_slice(image, polygon)
    points[:, 2] += millimetres
    return points


@pytest.mark.parametrize("millimetres", [0.01, -0.2])
def test_a_contour_that_is_nearly_on_a_slice_belongs_to_it(convert: Convert, millimetres: float) -> None:
    images = make.ct_series(3)
    contours = [make.contour(shifted(images[1], SQUARE, millimetres))]
    result = convert([*images, make.structure_set(images, {"rounded": contours})])
    assert result.masks[1].sum(axis=(0, 1)).tolist() == [0, 48, 0]


Contours = list[Dataset]
Images = Sequence[Dataset]


def with_(contours: Contours, keyword: str, value: Any) -> Contours:
    """Return contours of which the first one has another value."""
    setattr(contours[0], keyword, value)
    return contours


def not_a_number(contours: Contours) -> Contours:
    contours[0]["ContourData"]._value = ["nan", *contours[0].ContourData[1:]]
    return contours


def oblique(image: Dataset) -> Dataset:
    points = make.on_slice(image, SQUARE)
    points[0, 2] += 1.0
    return make.contour(points)


def without(contours: Contours, keyword: str) -> Contours:
    delattr(contours[0], keyword)
    return contours


def alone(points: NDArray[np.float64], kind: str = "CLOSED_PLANAR") -> Contours:
    return [make.contour(points, kind=kind)]


TINY = [(2.1, 2.1), (2.4, 2.1), (2.3, 2.4)]

REFUSED: dict[str, tuple[Callable[[Images, Contours], Contours], str, str]] = {
    "between slices": (
        lambda images, good: good + alone(shifted(images[1], SQUARE, 1.2)), "bad-geometry", "between slices",
    ),
    "oblique": (lambda images, good: [*good, oblique(images[1])], "bad-geometry", "oblique"),
    "not a number": (lambda images, good: not_a_number(good), "contradictory", "finite numbers"),
    "not a multiple of 3": (
        lambda images, good: with_(good, "ContourData", good[0].ContourData[:-1]), "contradictory", "multiple of 3",
    ),
    "another number of points": (
        lambda images, good: with_(good, "NumberOfContourPoints", 7), "contradictory", "(3006,0046)",
    ),
    "far away": (
        lambda images, good: with_(good, "ContourData", ["1e30", *good[0].ContourData[1:]]),
        "contradictory", "farther than",
    ),
    "no type": (lambda images, good: without(good, "ContourGeometricType"), "contradictory", "(3006,0042)"),
    "no data": (lambda images, good: without(good, "ContourData"), "contradictory", "(3006,0050)"),
    "twice": (
        lambda images, good: good + alone(make.on_slice(images[0], SQUARE[2:] + SQUARE[:2])), "contradictory", "twice",
    ),
    "beside its image": (
        lambda images, good: with_(good, "ContourImageSequence", images_of(images[1])),
        "contradictory", "another slice than the image",
    ),
    "below a voxel": (
        lambda images, good: alone(make.on_slice(images[1], TINY)), "bad-geometry", "no centre of a voxel",
    ),
    "elsewhere": (
        lambda images, good: alone(shifted(images[1], SQUARE, 500.0)), "bad-geometry", "no contour lies on a slice",
    ),
    "open": (
        lambda images, good: alone(make.on_slice(images[1], SQUARE), "OPEN_PLANAR"), "not-an-image", "OPEN_PLANAR",
    ),
    "no contours": (lambda images, good: [], "not-an-image", "has no contours"),
}  # fmt: skip
"""The contours of regions that must not become a mask, the reason, and a word of its detail."""


def images_of(image: Dataset) -> Any:
    return make.contour([[0.0, 0.0, 0.0]], [image]).ContourImageSequence


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", REFUSED)
def test_a_region_that_would_be_wrong_has_a_reason_and_harms_no_other(convert: Convert, name: str) -> None:
    bad, reason, word = REFUSED[name]
    images = make.ct_series(4)
    regions = {"good": on_slices(images, INNER), "bad": bad(images, on_slices(images, SQUARE))}
    result = convert([*images, make.structure_set(images, regions)])
    assert list(result.masks) == [1]
    assert result.reasons == [reason]
    [detail] = result.details
    assert "ROI 2" in detail
    assert word in detail
    only = convert([*images, make.structure_set(images, {"bad": bad(images, on_slices(images, SQUARE))})])
    assert (only.masks, only.reasons) == ({}, [reason])
    assert len(only.listing["refusals"]) == 1


def test_contours_without_an_area_beside_closed_ones_are_listed(convert: Convert) -> None:
    images = make.ct_series(2)
    contours = [*on_slices(images, SQUARE), make.contour([[0.0, 0.0, 0.0]], kind="POINT")]
    result = convert([*images, make.structure_set(images, {"with a point": contours})])
    assert result.masks[1].sum() == 2 * 48
    assert result.details == ["1 contours of ROI 1 are of type POINT, which has no area"]


def test_numbers_of_regions_that_are_there_twice_are_refused(convert: Convert) -> None:
    images = make.ct_series(2)
    ds = make.structure_set(images, {"a": on_slices(images, SQUARE), "b": on_slices(images, INNER)})
    ds.ROIContourSequence[1].ReferencedROINumber = 1
    result = convert([*images, ds])
    assert (result.masks, result.reasons) == ({}, ["contradictory", "not-an-image"])


def test_a_name_that_names_the_patient_is_left_out(convert: Convert) -> None:
    images = make.ct_series(2)
    regions = {"Tumour Voxel": on_slices(images, SQUARE), "Tumour": on_slices(images, SQUARE)}
    result = convert([*images, make.structure_set(images, regions)])
    assert "name" not in result.sidecars[1]["roi"]
    assert result.sidecars[2]["roi"]["name"] == "Tumour"


def test_a_series_that_is_not_here_is_named(convert: Convert) -> None:
    images = make.ct_series(2)
    result = convert([make.structure_set(images, {"Heart": on_slices(images, SQUARE)})])
    assert result.reasons == ["incomplete"]
    assert result.details == [
        f"refers to series {images[0].SeriesInstanceUID}, which is not here: with it, the masks are made"
    ]


@pytest.mark.parametrize("other", ["another patient", "another frame of reference"])
def test_images_of_somebody_or_somewhere_else_are_not_used(convert: Convert, other: str) -> None:
    is_person = other == "another patient"
    images = make.ct_series(2, PatientID="OTHER") if is_person else make.ct_series(2)
    elsewhere = {} if is_person else {"frame_of_reference_uid": generate_uid()}
    result = convert([*images, make.structure_set(images, {"Heart": on_slices(images, SQUARE)}, **elsewhere)])
    assert (result.masks, result.reasons) == ({}, ["contradictory"])
    assert other in result.details[0]


def test_images_without_patient_id_must_be_of_the_study(convert: Convert) -> None:
    images = make.ct_series(2, PatientID=None)
    regions = {"Heart": on_slices(images, SQUARE)}
    assert 1 in convert([*images, make.structure_set(images, regions, PatientID=None)]).masks
    elsewhere = make.structure_set(images, regions, PatientID=None, study_uid=generate_uid())
    assert convert([*images, elsewhere]).reasons == ["contradictory"]


def test_a_region_in_a_frame_of_reference_without_images_is_not_used(convert: Convert) -> None:
    images = make.ct_series(2)
    ds = make.structure_set(images, {"Heart": on_slices(images, SQUARE)})
    ds.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = generate_uid()
    result = convert([*images, ds])
    assert (result.masks, result.reasons) == ({}, ["contradictory"])


def test_structure_sets_that_refer_to_themselves_or_each_other_end(convert: Convert) -> None:
    images = make.ct_series(2)
    first = make.structure_set(images, {"Heart": on_slices(images, SQUARE)})
    first.FrameOfReferenceUID = images[0].FrameOfReferenceUID
    second = make.structure_set([first], {"Heart": on_slices(images, SQUARE)})
    second.FrameOfReferenceUID = images[0].FrameOfReferenceUID
    first.ReferencedFrameOfReferenceSequence = make.structure_set([second], {}).ReferencedFrameOfReferenceSequence
    own = make.structure_set(images[:1], {"Heart": on_slices(images, SQUARE)}, series_uid=images[0].SeriesInstanceUID)
    result = convert([first, second, own])
    assert result.masks == {}
    assert result.reasons == ["contradictory"] * 3


def test_a_region_of_several_volumes_is_on_the_one_whose_images_it_names(convert: Convert) -> None:
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid(), "FrameOfReferenceUID": generate_uid()}
    first = make.mr_series(3, EchoTime="10", EchoNumbers=1, **uids)
    second = make.mr_series(3, EchoTime="20", EchoNumbers=2, **uids)
    result = convert([*first, *second, make.structure_set(second, {"late": on_slices(second, SQUARE)})])
    assert result.sidecars[1]["roi"]["image_suffix"] == "e2"


def test_several_structure_sets_of_a_series_have_files_of_their_own(convert: Convert) -> None:
    images, series = make.ct_series(2), generate_uid()
    sets = [
        make.structure_set(images, {"Heart": on_slices(images, each)}, series_uid=series) for each in (SQUARE, INNER)
    ]
    result = convert([*images, *sets, sets[0]])
    names = sorted(Path(row["path"]).name for row in result.listing["volumes"])
    assert [re.sub(r"^.*?(?=_roi|\.nii)", "", name) for name in names] == [
        ".nii.gz",
        "_roi1_s1_mask.nii.gz",
        "_roi1_s2_mask.nii.gz",
    ]


def test_without_the_extension_structure_sets_are_refused_and_reports_have_no_file(tmp_path: Path) -> None:
    images, folder = make.ct_series(3), tmp_path / "in"
    structures = make.structure_set(images, {"Heart": on_slices(images, SQUARE)})
    make.saved([*images, structures, make.structured_report()], folder)
    options = WriteOptions(formats=("nifti",), thumbnails=False)
    listing = convert_folder([folder], tmp_path / "out", options, lambda job, cancelled: in_child(job))
    assert [row["kind"] for row in listing["volumes"]] == ["volume"]
    assert {row["reason"] for row in listing["refusals"]} == {"not-an-image"}
    assert len(listing["refusals"]) == 2


@pytest.mark.parametrize("has_images", [False, True])
def test_a_structure_set_without_regions_is_refused(convert: Convert, has_images: bool) -> None:
    images = make.ct_series(3)
    result = convert([*(images if has_images else ()), make.structure_set(images, {})])
    assert result.listing["volumes"] == [] or has_images
    assert (result.reasons, result.details) == (["not-an-image"], ["the structure set has no regions of interest"])


def test_images_and_a_structure_set_of_one_series_are_distinguished(convert: Convert) -> None:
    images = make.ct_series(3)
    own = make.structure_set(images, {"Heart": on_slices(images, SQUARE)}, series_uid=images[0].SeriesInstanceUID)
    result = convert([*images, own])
    assert [row["kind"] for row in result.listing["volumes"]] == ["volume"]
    assert result.reasons == ["contradictory"]


@pytest.mark.slow
def test_many_points_and_too_many_of_them(convert: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    images = make.ct_series(1, rows=64, columns=64)

    def circle(points: int) -> FileDataset:
        turn = np.linspace(0, 2 * np.pi, points, endpoint=False)
        circle = np.column_stack((32 + 20.3 * np.cos(turn), 32 + 20.3 * np.sin(turn))).round(3)
        return make.structure_set(
            images, {"circle": on_slices(images, circle)}, transfer_syntax_uid="1.2.840.10008.1.2"
        )

    area = pytest.approx(np.pi * 20.3**2, rel=0.02)
    assert convert([*images, circle(30_000)]).masks[1].sum() == area
    ds = circle(3000)
    assert convert([*images, ds]).masks[1].sum() == area
    monkeypatch.setattr(contour_masks, "MAX_WORK", 1000)
    assert convert([*images, ds]).reasons == ["too-large"]
    monkeypatch.setattr(structure_set, "MAX_POINTS", 1000)
    assert convert([*images, ds]).reasons == ["too-large"]


@pytest.mark.parametrize("limit", ["MAX_REFERENCES", "MAX_REGIONS"])
def test_more_series_or_regions_than_a_structure_set_may_have(
    convert: Convert, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(structure_set, limit, 1 if limit == "MAX_REFERENCES" else 0)
    images = [*make.ct_series(1), *make.ct_series(1)]
    assert convert([make.structure_set(images, {"Heart": on_slices(images[:1], SQUARE)})]).reasons == ["too-large"]
