"""A mask on the grid of a volume becomes a segmentation whose voxels lie where those of the mask do."""

import datetime as dt
import runpy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from node.conversion.offline import convert_folder
from node.errors import ResultRefused
from node.extensions.results.makers import ResultIdentity, ResultMaking, ResultSource, SourceStack
from node.extensions.results.manifest import Coded, Label, ManifestEntry
from node.extensions.results.segmentation import make_segmentation
from node.files.reading import read_instance
from node.volume.assemble import assemble
from node.volume.segmentation import volumes
from node.writers.nifti import LPS_TO_RAS, write_nifti
from node.writers.options import WriteOptions
from tests import make
from tests.converting import here

Nifti = nibabel.Nifti1Image
ROOT = Path(__file__).parents[4]


def prepared(folder: Path, series: Sequence[Dataset], **entry: Any) -> tuple[ResultMaking, Nifti]:
    """Store a series; return what asks for a segmentation of it, and its volume as a model sees it."""
    paths = make.saved(series, folder)
    files = tuple(zip((str(ds.SOPInstanceUID) for ds in series), paths, strict=True))
    write_nifti(assemble(map(read_instance, paths)).volumes[0], folder, "volume", WriteOptions())
    into = folder / "made.dcm"
    into.touch()
    source = ResultSource(
        str(series[0].StudyInstanceUID),
        str(series[0].SeriesInstanceUID),
        tuple((str(ds.SOPClassUID), str(ds.SOPInstanceUID)) for ds in series),
        paths[0],
        (SourceStack(0, files),),
    )
    options = {"labels": {1: Label(name="left"), 2: Label(name="right")}} | entry
    asked = ManifestEntry("mask.nii.gz", "segmentation", "mask", "Lungs", "threshold", "1", **options)
    now = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    making = ResultMaking(asked, folder / "mask.nii.gz", source, ResultIdentity("1.2.3", "1.2.3.4", 9001), into, now)
    return making, nibabel.load(folder / "volume.nii.gz")


def labelled(voxels: NDArray[Any]) -> NDArray[np.uint8]:
    """Two labels without symmetry, so that a flip or a shift is seen; the first and the last slice are empty."""
    mask = np.zeros(voxels.shape[:3], np.uint8)
    mask[2:7, 1:9, 1:-1] = 1
    mask[7:9, 3:5, 1:2] = 2
    mask[8, 9, -2] = 2
    return mask


def placed(voxels: NDArray[Any], affine_lps: NDArray[Any]) -> set[tuple[int, ...]]:
    """The label and the place (LPS, in hundredths of mm) of each voxel that is set; voxels are (i, j, k)."""
    indexes = np.argwhere(voxels)
    points = indexes @ affine_lps[:3, :3].T + affine_lps[:3, 3]
    labels = voxels[tuple(indexes.T)]
    return {(int(label), *np.rint(point * 20).astype(int)) for label, point in zip(labels, points, strict=True)}


def segmented(
    folder: Path, series: Sequence[Dataset], orient: Callable[[Nifti], Nifti] = lambda image: image, empty: int = 0
) -> tuple[ResultMaking, Nifti, NDArray[np.uint8]]:
    """Make the segmentation of two labels of a series, without one plane; return its volume and the mask as well."""
    making, volume = prepared(folder, series)
    mask = labelled(np.asarray(volume.dataobj))
    mask[:, :, empty] = 0
    nibabel.save(orient(Nifti(mask, volume.affine)), making.file)
    make_segmentation(making)
    return making, volume, mask


def uneven_order(series: list[Any]) -> list[Any]:
    return [series[index] for index in (3, 0, 4, 1, 2)]


@pytest.mark.sample(3)
@pytest.mark.diagonal
@pytest.mark.parametrize(
    "series",
    [
        lambda: make.ct_series(5),
        lambda: make.ct_series(5, orientation=make.OBLIQUE),
        lambda: make.ct_series(5, orientation=make.SAGITTAL),
        lambda: uneven_order(make.ct_series(5, orientation=make.CORONAL)),
        lambda: [make.enhanced_mr(5, orientation=make.OBLIQUE, order=(2, 0, 1, 4, 3))],
        lambda: make.time_series(2, 5),
        lambda: make.tilted_ct_series(5),
    ],
    ids=["axial", "oblique", "sagittal", "uneven order", "enhanced", "several times", "tilted gantry"],
)
@pytest.mark.parametrize("orient", [lambda image: image, nibabel.as_closest_canonical], ids=["as is", "canonical"])
def test_a_segmentation_has_the_voxels_of_its_mask(
    tmp_path: Path, series: Callable[[], list[Any]], orient: Callable[[Nifti], Nifti]
) -> None:
    making, volume, mask = segmented(tmp_path, series(), orient)
    expected = placed(mask, LPS_TO_RAS @ volume.affine)
    [back] = volumes(read_instance(making.into), 0)
    assert placed(back.voxels[0].transpose(2, 1, 0), back.affine_lps) == expected
    assert back.affine_lps[:3, 2] @ (LPS_TO_RAS @ volume.affine)[:3, 2] > 0, "its slices run as those of the volume"
    assert len(expected) == np.count_nonzero(mask)


@pytest.mark.parametrize("kept", [(0, 1, 3, 4, 5, 6), (0, 1, 2, 3, 5, 6), (0, 1, 2, 4)], ids=str)
def test_a_mask_of_a_volume_that_lacks_slices_is_at_their_true_positions(tmp_path: Path, kept: tuple[int, ...]) -> None:
    series = make.ct_series(7)
    making, volume = prepared(tmp_path, [series[number] for number in kept])
    mask = np.zeros(volume.shape, np.uint8)
    for number in range(len(kept)):
        mask[number : number + 3, 2, number] = 1
    nibabel.save(Nifti(mask, volume.affine), making.file)
    make_segmentation(making)
    [back] = volumes(read_instance(making.into), 0)
    heights = back.affine_lps[2, 2] * np.arange(back.voxels.shape[1]) + back.affine_lps[2, 3]
    by_height = {round(float(height), 3): plane for height, plane in zip(heights, back.voxels[0], strict=True)}
    for number, of_slice in enumerate(kept):
        plane = by_height.pop(round(float(series[of_slice].ImagePositionPatient[2]), 3))
        assert np.array_equal(plane.T, mask[:, :, number])
    assert not any(plane.any() for plane in by_height.values())


def test_a_segmentation_belongs_to_its_patient_and_refers_to_its_images(tmp_path: Path) -> None:
    series = make.ct_series(5, SpecificCharacterSet=r"\ISO 2022 IR 87", PatientName="Yamada^Tarou=山田^太郎")
    for ds in series:
        ds.PatientSex = "X"  # is invalid, and the archive took it
    family = Coded(value="123104", scheme="DCM", meaning="Morphological Operations")
    labels = {7: Label(name="Lunge, links")}
    making, volume = prepared(tmp_path, series, labels=labels, encoding="labelmap", algorithm_family=family)
    nibabel.save(Nifti(labelled(np.asarray(volume.dataobj)).astype(bool) * np.uint8(7), volume.affine), making.file)
    assert make_segmentation(making)["segments"] == {"7": 7}
    found = dcmread(making.into)
    assert (found.PatientName, found.PatientSex) == ("Yamada^Tarou=山田^太郎", "X")
    assert (found.StudyInstanceUID, found.SOPInstanceUID, found.SeriesNumber) == (
        series[0].StudyInstanceUID, "1.2.3.4", 9001
    )  # fmt: skip
    segment = found.SegmentSequence[-1]
    assert segment.SegmentLabel == "Lunge, links"
    [algorithm] = segment.SegmentationAlgorithmIdentificationSequence
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeMeaning == "Morphological Operations"
    referenced = found.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {item.ReferencedSOPInstanceUID for item in referenced} == {ds.SOPInstanceUID for ds in series}


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda mask, affine: Nifti(mask[:-1], affine), "the mask has 11 x 16 x 5 voxels, the volume 12 x 16 x 5"),
        (lambda mask, affine: Nifti(mask, affine @ np.diag([1, 1, 1.1, 1])), "up to 0.4 voxels away"),
        (lambda mask, affine: Nifti(mask, affine + np.eye(4, k=3) * 0.3), "up to 0.6 voxels away"),
        (lambda mask, affine: Nifti(mask, affine @ np.diag([-1, 1, 1, 1])), "voxels away"),
        (lambda mask, affine: Nifti(mask * np.float32(0.5), affine), "not whole numbers"),
        (lambda mask, affine: Nifti(mask + np.uint8(3) * (mask == 2), affine), "the value 5"),
        (lambda mask, affine: Nifti(mask, None), "no position"),
        (lambda mask, affine: Nifti(mask, affine), "no Frame of Reference UID"),
        (lambda mask, affine: Nifti(np.zeros((600, 600, 600), np.uint8), affine), "more than the volume"),
        (lambda mask, affine: Nifti(np.full(mask.shape, np.nan, np.float32), affine), "a label is a number"),
    ],
    ids=["size", "spacing", "shift", "flip", "probabilities", "unnamed", "no place", "no frame", "huge", "nan"],
)  # fmt: skip
def test_a_mask_that_is_not_of_the_volume_is_refused(
    tmp_path: Path, change: Callable[[NDArray[Any], NDArray[Any]], Nifti], reason: str
) -> None:
    where = {"FrameOfReferenceUID": ""} if "Frame of Reference" in reason else {}
    making, volume = prepared(tmp_path, make.ct_series(5, **where))
    nibabel.save(change(labelled(np.asarray(volume.dataobj)), volume.affine), making.file)
    with pytest.raises(ResultRefused, match=reason):
        make_segmentation(making)


def gap() -> list[Dataset]:
    series = make.ct_series(7)
    return [*series[:3], *series[4:]]


def uneven() -> list[Dataset]:
    series = make.ct_series(5)
    for image, height in zip(series, (0, 1.0, 3.5, 4.5, 5.5), strict=True):
        image.ImagePositionPatient = [0, 0, height]
    return series


@pytest.mark.slow
@pytest.mark.parametrize("series", [lambda: make.tilted_ct_series(5), gap, uneven], ids=["tilted", "gap", "uneven"])
def test_a_mask_of_the_resampled_copy_is_known_and_the_recipe_brings_it_to_the_volume(
    tmp_path: Path, series: Callable[[], list[Dataset]]
) -> None:
    options = {"labels": {value: Label(name=str(value)) for value in range(1, 5)}}
    making, _ = prepared(tmp_path / "in", series(), **options)
    (tmp_path / "in" / "made.dcm").rename(tmp_path / "made.dcm")
    making = replace(making, into=tmp_path / "made.dcm", file=tmp_path / "mask.nii.gz")
    convert_folder([tmp_path / "in"], tmp_path / "out", WriteOptions(), here)
    [copy] = (tmp_path / "out").rglob("*_resampled.nii.gz")
    path = copy.with_name(copy.name.replace("_resampled", ""))
    resampled, images = nibabel.load(copy), sorted(series(), key=lambda image: image.ImagePositionPatient[2])
    rows, heights = (np.array([image.ImagePositionPatient[axis] for image in images], float) for axis in (1, 2))
    middle = heights.mean() + 0.1

    def labels_at(y: NDArray[Any], z: NDArray[Any]) -> NDArray[Any]:
        return 1 + (y > rows.mean() + 5.1) + 2 * (z > middle)

    indexes = [*np.indices(resampled.shape), np.ones(resampled.shape)]
    places = np.tensordot((LPS_TO_RAS @ resampled.affine)[:3], indexes, 1)
    nibabel.save(Nifti(labels_at(*places[1:]).astype(np.uint8), resampled.affine), making.file)
    with pytest.raises(ResultRefused, match=r"the grid of the resampled copy \(volume_resampled\)"):
        make_segmentation(making)
    recipe = runpy.run_path(str(ROOT / "docs/examples/resampled_mask.py"))
    recipe["main"](str(making.file), str(path), str(making.file))
    make_segmentation(making)
    back = np.asarray(nibabel.load(making.file).dataobj)
    _, j, k = np.indices(back.shape)
    expected = labels_at(rows[k] + j * float(images[0].PixelSpacing[0]), heights[k])
    assert np.mean((back != expected)[back > 0]) < 0.03, "half a voxel, at edges of labels"
    assert np.mean(back > 0) > 0.9, "what the copy has no voxel for is empty"


def test_a_mask_with_the_upright_axes_of_itk_is_known(tmp_path: Path) -> None:
    making, volume = prepared(tmp_path, make.tilted_ct_series(5))
    image = sitk.GetImageFromArray(labelled(np.asarray(volume.dataobj)).transpose(2, 1, 0))
    affine = LPS_TO_RAS @ volume.affine
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(lengths.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / lengths).ravel().tolist())
    sitk.WriteImage(image, str(making.file))
    with pytest.raises(ResultRefused, match="axes at right angles, as ITK writes"):
        make_segmentation(making)
    nibabel.save(Nifti(np.asarray(nibabel.load(making.file).dataobj), volume.affine), making.file)
    make_segmentation(making)


def test_slices_of_a_tilted_gantry_have_their_own_positions(tmp_path: Path) -> None:
    series = make.tilted_ct_series(5)
    making, _, mask = segmented(tmp_path, series)
    found = dcmread(making.into)
    expected = {(k, label) for label in (1, 2) for k in range(5) if (mask[:, :, k] == label).any()}
    positions = {tuple(map(float, ds.ImagePositionPatient)): k for k, ds in enumerate(series)}
    seen = set()
    for item, plane in zip(found.PerFrameFunctionalGroupsSequence, found.pixel_array, strict=True):
        k = positions[tuple(map(float, item.PlanePositionSequence[0].ImagePositionPatient))]
        label = int(item.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        assert np.array_equal(plane.astype(bool), (mask[:, :, k] == label).T)
        seen.add((k, label))
    assert seen == expected


@pytest.mark.parametrize("stated", [9.9, 1.0, -4.5, 0.0])
def test_a_wrong_spacing_between_slices_does_not_count(tmp_path: Path, stated: float) -> None:
    """The spacing of a result is that of the positions, here 4.5 mm; see PS3.3 C.7.6.2.1.1."""
    making, volume, mask = segmented(tmp_path, make.ct_series(5, spacing=4.5, SpacingBetweenSlices=stated))
    found = dcmread(making.into)
    [measures] = found.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert measures.SpacingBetweenSlices == 4.5
    of_frames = [item.DerivationImageSequence[0].SourceImageSequence for item in found.PerFrameFunctionalGroupsSequence]
    assert {len(images) for images in of_frames} == {1}
    [back] = volumes(read_instance(making.into), 0)
    assert placed(back.voxels[0].transpose(2, 1, 0), back.affine_lps) == placed(mask, LPS_TO_RAS @ volume.affine)


@pytest.mark.sample(3)
@pytest.mark.parametrize("series", [make.ct_series, make.tilted_ct_series], ids=["upright", "tilted gantry"])
@pytest.mark.parametrize("stated", [9.9, 1.3, -4.5, 0])
def test_a_segmentation_with_a_wrong_spacing_between_slices_is_read_by_its_positions(
    tmp_path: Path, stated: float, series: Callable[..., list[Any]]
) -> None:
    # The plane 3 has no frame: of the planes 1, 2, 4 and 5, two have twice the spacing.
    making, volume, mask = segmented(tmp_path, series(7, spacing=4.5), empty=3)
    ds = dcmread(making.into)
    ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = stated
    ds.save_as(making.into)
    [back] = volumes(read_instance(making.into), 0)
    assert placed(back.voxels[0].transpose(2, 1, 0), back.affine_lps) == placed(mask, LPS_TO_RAS @ volume.affine)


def test_a_mask_that_finds_nothing_is_a_result(tmp_path: Path) -> None:
    making, volume = prepared(tmp_path, make.ct_series(3))
    nibabel.save(Nifti(np.zeros(volume.shape[:3], np.uint8), volume.affine), making.file)
    make_segmentation(making)
    assert [item.SegmentLabel for item in dcmread(making.into).SegmentSequence] == ["left", "right"]
