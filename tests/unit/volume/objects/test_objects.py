"""Segmentations, dose grids, and what is no image."""

import zlib
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from highdicom.content import AlgorithmIdentificationSequence, PaletteColorLUT, PaletteColorLUTTransformation
from highdicom.seg import Segmentation, SegmentDescription
from pydicom import Dataset, FileDataset
from pydicom import uid as uids
from pydicom.encaps import encapsulate
from pydicom.sr.codedict import codes
from pydicom.uid import UID_dictionary, generate_uid

from node.errors import ConversionRefused
from node.volume import objects, segmentation
from node.volume.assemble import assemble
from node.volume.model import Geometry, Volume, VolumeKind
from node.volume.objects import DOSE
from node.volume.read.pixels import frame_reader
from node.volume.read.transfer_syntaxes import DEFLATED_IMAGE_FRAME
from node.volume.reasons import REMEDIES, Reason, WarningKind
from tests import make

ROWS, COLUMNS, SLICES, SPACING = 5, 7, 4, 2.5


def volumes(ds: Dataset) -> tuple[Volume, ...]:
    found = objects.special_volumes(ds, 3)
    assert all(volume.stack == 3 for volume in found)
    return found


def refusal(ds: Dataset) -> ConversionRefused:
    with pytest.raises(ConversionRefused) as caught:
        objects.special_volumes(ds, 0)
    return caught.value


# Segmentations


def segments(masks: np.ndarray, kind: str = "BINARY", **options: Any) -> Segmentation:
    """Segment a CT; `masks` are (slices, rows, columns, segments), or (slices, rows, columns) of segment numbers."""
    source = make.ct_series(SLICES, rows=ROWS, columns=COLUMNS, spacing=SPACING, orientation=make.OBLIQUE)
    count = masks.shape[3] if masks.ndim == 4 else int(masks.max())
    descriptions = [
        SegmentDescription(
            segment_number=number,
            segment_label=f"segment {number}",
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type="AUTOMATIC",
            algorithm_identification=AlgorithmIdentificationSequence(
                name="test", version="1", family=codes.DCM.ArtificialIntelligence
            ),
        )
        for number in range(1, count + 1)
    ]
    return Segmentation(
        source_images=source,
        pixel_array=masks,
        segmentation_type=kind,
        segment_descriptions=descriptions,
        **make.derived_series(),
        **options,
    )


def source_positions() -> np.ndarray:
    return make.stack_positions(SLICES, SPACING, (-50.0, -40.0, 30.0), make.OBLIQUE, (0.0, 0.0))


def ascending(volume: Volume) -> np.ndarray:
    """Voxels (slices, rows, columns) in the order of `source_positions`, as the affine places them."""
    index = np.linalg.inv(volume.affine_lps) @ np.vstack([source_positions().T, np.ones(SLICES)])
    assert np.allclose(index[:2], 0, atol=1e-3)
    assert np.allclose(index[2], np.rint(index[2]), atol=1e-3)
    return volume.voxels[0][np.rint(index[2]).astype(int)]


def random_masks(count: int) -> np.ndarray:
    return np.random.default_rng(4).integers(0, 2, (SLICES, ROWS, COLUMNS, count), np.uint8)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_segments_apart_from_each_other_give_one_label_volume(kind: str) -> None:
    labels = np.random.default_rng(4).integers(0, 4, (SLICES, ROWS, COLUMNS), np.uint8)
    (volume,) = volumes(segments(labels, kind))
    assert np.array_equal(ascending(volume), labels)
    assert (volume.suffix, volume.geometry, volume.slope) == ("", Geometry.REGULAR, 1.0)


def test_a_palette_colours_the_labels_of_a_label_map_and_changes_none() -> None:
    labels = np.random.default_rng(4).integers(0, 3, (SLICES, ROWS, COLUMNS), np.uint8)
    colours = (([0, 255, 0], "red"), ([0, 0, 255], "green"), ([0, 0, 0], "blue"))
    tables = [PaletteColorLUT(0, np.array(entries, np.uint8), color=colour) for entries, colour in colours]
    palette = PaletteColorLUTTransformation(*tables)
    (volume,) = volumes(segments(labels, "LABELMAP", palette_color_lut_transformation=palette))
    assert np.array_equal(ascending(volume), labels)


def test_the_sidecar_names_the_segments_with_their_colours() -> None:
    ds = segments(np.ones((SLICES, ROWS, COLUMNS), np.uint8))
    ds.SegmentSequence[0].RecommendedDisplayCIELabValue = [34887, 53485, 50171]  # pure red: L* 53.2, a* 80.1, b* 67.2
    (volume,) = volumes(ds)
    [segment] = volume.attributes["segments"]
    assert (segment["number"], segment["label"], segment["type"]) == (1, "segment 1", "Liver")
    assert np.allclose(segment["colour"], (255, 0, 0), atol=12)


def test_a_segment_that_is_named_after_the_patient_has_no_label() -> None:
    ds = segments(np.ones((SLICES, ROWS, COLUMNS), np.uint8))
    ds.PatientName, ds.SegmentSequence[0].SegmentLabel = "Meier^Rosa", "tumour Meier"
    (volume,) = volumes(ds)
    assert "label" not in volume.attributes["segments"][0]


def test_overlapping_segments_give_a_volume_each() -> None:
    masks = random_masks(2)
    masks[0, 0, 0] = 1
    label_volumes = volumes(segments(masks))
    assert [volume.suffix for volume in label_volumes] == ["seg1", "seg2"]
    for number, volume in enumerate(label_volumes, 1):
        assert np.array_equal(ascending(volume), masks[..., number - 1] * number)


def test_fractional_segments_are_scaled_to_one() -> None:
    fractions = np.random.default_rng(4).random((SLICES, ROWS, COLUMNS, 1))
    (volume,) = volumes(segments(fractions, "FRACTIONAL", max_fractional_value=200))
    assert np.allclose(ascending(volume) * volume.slope, fractions[..., 0], atol=0.5 / 200 + 1e-9)


def test_empty_planes_that_were_left_out_are_there_again() -> None:
    masks = random_masks(1)
    masks[1] = 0
    ds = segments(masks, omit_empty_frames=True)
    assert ds.NumberOfFrames == SLICES - 1
    (volume,) = volumes(ds)
    assert np.array_equal(ascending(volume), masks[..., 0])
    assert len(volume.sources) == SLICES - 1


def test_every_frame_is_a_source() -> None:
    masks = random_masks(2)
    masks[...] = 1
    ds = segments(masks)
    sources = {source.frame_number for volume in volumes(ds) for source in volume.sources}
    assert sources == set(range(1, ds.NumberOfFrames + 1))


def test_segments_that_span_too_large_a_grid_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ds = segments(random_masks(1))
    monkeypatch.setattr(segmentation, "MAX_VOXELS", SLICES * ROWS * COLUMNS - 1)
    assert refusal(ds).reason == "too-large"


def test_a_segmentation_without_a_frame_of_reference_keeps_its_place() -> None:
    ds = segments(np.random.default_rng(4).integers(0, 4, (SLICES, ROWS, COLUMNS), np.uint8))
    (expected,) = volumes(ds)
    del ds.FrameOfReferenceUID
    (volume,) = volumes(ds)
    assert np.array_equal(volume.voxels, expected.voxels)
    assert np.array_equal(volume.affine_lps, expected.affine_lps)
    assert "FrameOfReferenceUID" not in volume.attributes


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_the_frames_of_a_segmentation_may_be_deflated_one_by_one(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.delitem(UID_dictionary, DEFLATED_IMAGE_FRAME)  # only pynetdicom, which no converter loads, adds it
    labels = np.random.default_rng(4).integers(0, 4, (SLICES, ROWS, COLUMNS), np.uint8)
    ds = segments(labels, kind)
    reader = frame_reader(ds)
    frames = [reader(index) for index in range(reader.frames)]
    packed = [np.packbits(frame, bitorder="little") if ds.BitsAllocated == 1 else frame for frame in frames]
    ds.file_meta.TransferSyntaxUID = DEFLATED_IMAGE_FRAME
    ds.PixelData = encapsulate([deflated(frame.tobytes()) for frame in packed])
    ds["PixelData"].is_undefined_length = True
    before = ds.PixelData
    (volume,) = volumes(ds)
    assert np.array_equal(ascending(volume), labels)
    assert (ds.PixelData, ds.file_meta.TransferSyntaxUID) == (before, DEFLATED_IMAGE_FRAME)


def deflated(data: bytes) -> bytes:
    worker = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return worker.compress(data) + worker.flush()


def test_a_segmentation_of_a_projection_is_refused_because_it_has_no_positions() -> None:
    ds = segments(random_masks(1))
    for group in ds.PerFrameFunctionalGroupsSequence:
        del group.PlanePositionSequence
    refused = refusal(ds)
    assert refused.reason == Reason.BAD_GEOMETRY
    assert "projection" in refused.detail
    assert "(0020,0032)" in refused.detail


@pytest.mark.parametrize("where", ["per frame", "shared", "matrix"])
def test_a_segmentation_of_a_slide_is_refused_as_tiles(where: str) -> None:
    ds = segments(random_masks(1))
    for group in ds.PerFrameFunctionalGroupsSequence:
        del group.PlanePositionSequence
        if where == "per frame":
            group.PlanePositionSlideSequence = [Dataset()]
    if where == "shared":
        orientation = make.dataset(ImageOrientationSlide=[0, -1, 0, -1, 0, 0])
        ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence = [orientation]
    if where == "matrix":
        ds.TotalPixelMatrixColumns, ds.TotalPixelMatrixRows = 700, 500
    assert refusal(ds).reason == Reason.TILED_SLIDE


def test_uneven_planes_of_a_segmentation_are_refused() -> None:
    ds = segments(np.ones((SLICES, ROWS, COLUMNS, 1), np.uint8))
    place = ds.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0]
    place.ImagePositionPatient = [float(value) + 0.4 for value in place.ImagePositionPatient]
    refused = refusal(ds)
    assert (refused.reason, "as those of its images may be" in refused.detail) == ("uneven-segmentation", True)
    assert "no action needed if its images are unevenly spaced" in REMEDIES[refused.reason].lower()


# Dose


def dose(offsets: list[float] | None, *, orientation: make.Numbers = make.AXIAL, **attributes: Any) -> FileDataset:
    frames = len(offsets) if offsets else 1
    pixels = np.random.default_rng(2).integers(0, 2**32, (frames, 4, 6), np.uint32)
    ds = make.instance(
        sop_class_uid=DOSE,
        modality="RTDOSE",
        DoseUnits="GY",
        DoseGridScaling="1e-9",
        GridFrameOffsetVector=offsets,
        ImagePositionPatient=[1, 2, 30],
        ImageOrientationPatient=list(orientation),
        PixelSpacing=[2, 3],
        **attributes,
    )
    make.set_pixels(ds, pixels)
    return ds


def stored(ds: FileDataset) -> np.ndarray:
    return np.frombuffer(ds.PixelData, "<u4").reshape(-1, 4, 6)


@pytest.mark.parametrize("offsets", [[0, 5, 10], [0, -5, -10], [30, 35, 40], [30, 25, 20]])
def test_relative_and_absolute_offsets_place_the_planes_of_a_dose(offsets: list[float]) -> None:
    ds = dose(offsets)
    (volume,) = volumes(ds)
    z = np.array(offsets) if offsets[0] else np.array(offsets) + 30
    order = np.argsort(z)
    assert np.array_equal(volume.voxels[0], stored(ds)[order])
    assert np.allclose(volume.affine_lps, [[3, 0, 0, 1], [0, 2, 0, 2], [0, 0, 5, z.min()], [0, 0, 0, 1]])
    assert volume.slope == 1e-9
    assert {source.frame_number for source in volume.sources} == {1, 2, 3}


def test_offsets_of_an_oblique_dose_go_along_its_normal() -> None:
    (volume,) = volumes(dose([0, 5, 10], orientation=make.OBLIQUE))
    assert np.allclose(volume.affine_lps[:3, 2], 5 * np.cross(make.OBLIQUE[:3], make.OBLIQUE[3:]))


def test_uneven_planes_of_a_dose_are_flagged_and_made_even_beside() -> None:
    raw, even = volumes(dose([0, 5, 15, 20]))
    assert (raw.geometry, raw.kind) == (Geometry.IRREGULAR, VolumeKind.VOLUME)
    assert raw.warnings
    assert (even.geometry, even.kind) == (Geometry.REGULAR, VolumeKind.RESAMPLED)


def test_a_single_plane_of_dose_needs_no_offsets() -> None:
    [volume] = assemble([dose(None)]).volumes
    assert volume.geometry is Geometry.SINGLE
    assert volume.slope == 1e-9


def planes_of_dose(count: int = 4) -> list[FileDataset]:
    """Doses of one plane each, as some planning systems write them."""
    shared = {"study_uid": "1.2.3", "series_uid": "1.2.3.4", "FrameOfReferenceUID": "1.2.3.5"}
    found = []
    for index in range(count):
        ds = dose(None, **shared)
        make.set_pixels(ds, np.random.default_rng(index).integers(0, 2**32, (4, 6), np.uint32))
        ds.ImagePositionPatient, ds.DoseGridScaling = [1, 2, 30 + 5 * index], f"{index + 1}e-9"
        found.append(ds)
    return found


def test_doses_of_one_plane_each_are_the_slices_of_a_grid() -> None:
    series = planes_of_dose()
    [volume] = assemble(series[::-1]).volumes
    expected = [np.float64(ds.DoseGridScaling) * stored(ds)[0] for ds in series]
    assert np.allclose(volume.voxels[0] * volume.slope, expected, rtol=1e-6)
    assert volume.spacing_mm == (3, 2, 5)


def test_a_plane_of_dose_without_its_scaling_is_left_out() -> None:
    series = planes_of_dose()
    del series[1].DoseGridScaling
    [exclusion] = assemble(series).exclusions
    assert exclusion.reason == "contradictory"


def no_scaling(ds: Dataset) -> None:
    del ds.DoseGridScaling


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (no_scaling, "contradictory"),
        (lambda ds: setattr(ds, "GridFrameOffsetVector", [0, 5]), "bad-geometry"),
        (lambda ds: setattr(ds, "GridFrameOffsetVector", [0, 5, 5]), "bad-geometry"),
        (lambda ds: setattr(ds, "GridFrameOffsetVector", [7, 12, 17]), "bad-geometry"),
        (lambda ds: setattr(ds, "ImageOrientationPatient", [1, 0, 0, 1, 0, 0]), "bad-geometry"),
        (lambda ds: setattr(ds, "ImageOrientationPatient", [0, 0, 0, 0, 0, 0]), "bad-geometry"),
        (lambda ds: setattr(ds, "PixelSpacing", [0, 2]), "bad-geometry"),
        (lambda ds: delattr(ds, "ImagePositionPatient"), "bad-geometry"),
    ],
)
def test_doses_that_cannot_be_placed_or_scaled_are_refused(damage: Any, reason: str) -> None:
    ds = dose([0, 5, 10])
    damage(ds)
    assert refusal(ds).reason == reason


# Neither


def again(ds: Dataset, **changes: Any) -> Dataset:
    """The same object under another SOP Instance UID, made at another time, as a second export gives it."""
    copy = deepcopy(ds)
    copy.SOPInstanceUID, copy.InstanceNumber = generate_uid(), 7
    copy.InstanceCreationTime = copy.ContentTime = "235900"
    return make.changed(copy, **changes)


@pytest.mark.parametrize("make_object", [lambda: dose([0, 5, 10]), lambda: segments(random_masks(2))])
def test_an_object_that_came_again_under_another_uid_is_left_out_and_reported(make_object: Any) -> None:
    instance = make_object()
    alone = assemble([instance]).volumes
    both = assemble([again(instance), instance])
    assert [volume.suffix for volume in both.volumes] == [volume.suffix for volume in alone]
    assert {WarningKind.DUPLICATE_SLICE} == {warning.name for volume in both.volumes for warning in volume.warnings}
    assert [exclusion.reason for exclusion in both.exclusions] == [Reason.DUPLICATE_SLICE]


def test_objects_that_differ_in_more_than_their_names_and_times_are_two() -> None:
    instance = dose([0, 5, 10])
    for changes in ({"DoseSummationType": "BEAM"}, {"PixelData": bytes(len(instance.PixelData))}):
        assembly = assemble([instance, again(instance, **changes)])
        assert len(assembly.volumes) == 2
        assert not assembly.exclusions


def test_objects_that_differ_in_an_item_of_a_sequence_are_two() -> None:
    one = segments(random_masks(2))
    other = again(one)
    other.SegmentSequence[1].SegmentLabel = "another organ"
    found = assemble([one, other])
    assert {source.sop_instance_uid for volume in found.volumes for source in volume.sources} == {
        one.SOPInstanceUID,
        other.SOPInstanceUID,
    }
    assert not found.exclusions


@pytest.mark.parametrize(
    "sop_class_uid",
    [
        uids.EncapsulatedSTLStorage,
        uids.EncapsulatedOBJStorage,
        uids.EncapsulatedPDFStorage,
        uids.EncapsulatedCDAStorage,
        uids.RTStructureSetStorage,
        uids.RealWorldValueMappingStorage,
        uids.KeyObjectSelectionDocumentStorage,
        uids.Comprehensive3DSRStorage,
    ],
)
def test_documents_and_reports_beside_images_are_left_out_by_their_name(sop_class_uid: uids.UID) -> None:
    document = make.instance(sop_class_uid=sop_class_uid, study_uid="1.2", series_uid="1.2.3")
    document.EncapsulatedDocument = b"solid a\0"
    assembly = assemble([*make.ct_series(3, study_uid="1.2", series_uid="1.2.3"), document])
    [volume] = assembly.volumes
    assert volume.shape == (make.COLUMNS, make.ROWS, 3)
    assert WarningKind.PARTLY_NOT_AN_IMAGE in {warning.name for warning in volume.warnings}
    [exclusion] = assembly.exclusions
    assert (exclusion.sop_instance_uid, exclusion.reason) == (document.SOPInstanceUID, Reason.NOT_AN_IMAGE)
    assert exclusion.detail == sop_class_uid.name
    video = make.set_pixels(make.instance(transfer_syntax_uid=uids.MPEG2MPML), make.pattern(1, 8, 8)[0])
    for alone in (document, video):
        [refusal] = assemble([alone]).refusals
        assert refusal.reason is Reason.NOT_AN_IMAGE


def test_a_surface_segmentation_is_refused_with_what_to_send_instead() -> None:
    surfaces = make.instance(sop_class_uid=uids.SurfaceSegmentationStorage, study_uid="1.2", series_uid="1.2.3")
    [refusal] = assemble([surfaces]).refusals
    assert refusal.reason is Reason.SURFACES
    assert "export the segments as Segmentation Storage or as an RT structure set" in refusal.detail


def test_a_surface_segmentation_beside_images_takes_no_slice_from_them() -> None:
    images = make.ct_series(3, study_uid="1.2", series_uid="1.2.3")
    surfaces = make.instance(sop_class_uid=uids.SurfaceSegmentationStorage, study_uid="1.2", series_uid="1.2.3")
    assembly = assemble([*images, surfaces])
    [volume] = assembly.volumes
    assert {warning.name for warning in volume.warnings} == {WarningKind.PARTLY_NOT_AN_IMAGE}
    assert [(each.sop_instance_uid, each.reason) for each in assembly.exclusions] == [
        (surfaces.SOPInstanceUID, Reason.SURFACES)
    ]


def test_instances_without_pixels_are_no_images() -> None:
    assert not objects.is_image(make.structured_report())
    assert objects.is_image(make.rgb_capture())
    assert objects.special_volumes(make.ct_series(1)[0], 0) is None


def test_slides_are_refused_as_tiles() -> None:
    ds = make.rgb_capture()
    ds.DimensionOrganizationType = "TILED_FULL"
    assert refusal(ds).reason == "tiled-slide"
