"""Spectra become NIfTI-MRS whose voxels, place and header say what the instances say, or are refused with a reason."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom import Dataset, FileDataset
from pydicom.uid import generate_uid

from node.conversion.job import ConversionJob, Converted
from node.conversion.pipeline import convert
from tests import make
from tests.signals import OPTIONS, POINTS, classic_spectrum, converted, enhanced_spectra, signal, slabs

RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def image_of(path: Path) -> tuple[Any, dict[str, Any]]:
    image = nib.Nifti2Image.from_filename(path)
    [extension] = image.header.extensions
    assert extension.get_code() == 44
    assert image.header["intent_name"].item() == b"mrs_v0_11"
    assert image.header.get_data_dtype() == np.complex64
    return image, json.loads(extension.text)


def only(series: Sequence[FileDataset], folder: Path) -> tuple[Any, dict[str, Any], Converted]:
    result, out = converted(series, folder)
    assert not result.refusals, result.refusals
    [file] = result.files
    image, meta = image_of(out / file.path)
    return image, meta, result


def refused(series: Sequence[FileDataset], folder: Path) -> tuple[str, str]:
    result, _ = converted(series, folder)
    assert not result.files
    [refusal] = result.refusals
    assert refusal.sop_instance_uids
    return refusal.reason.value, refusal.detail


def averages(count: int, **attributes: Any) -> list[FileDataset]:
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid()}
    return [
        enhanced_spectra(signal(1, 1, 1, POINTS, seed=number), InstanceNumber=number, **uids, **attributes)
        for number in range(1, count + 1)
    ]


def test_the_data_of_the_standard_are_conjugated_and_those_of_the_csa_header_are_not(tmp_path: Path) -> None:
    image, _, _ = only([enhanced_spectra()], tmp_path)
    assert np.array_equal(np.asarray(image.dataobj)[0, 0, 0], np.conj(signal(POINTS)))
    image, _, _ = only([classic_spectrum()], tmp_path)
    assert np.array_equal(np.asarray(image.dataobj)[0, 0, 0], signal(POINTS))


def test_the_header_has_the_required_names_and_the_dwell_time(tmp_path: Path) -> None:
    image, meta, result = only([enhanced_spectra()], tmp_path)
    assert image.header["pixdim"][4] == 1 / 2000
    assert meta["SpectrometerFrequency"] == [123.25]
    assert meta["ResonantNucleus"] == ["1H"]
    assert (meta["EchoTime"], meta["RepetitionTime"], meta["ExcitationFlipAngle"]) == (0.03, 2.0, 90.0)
    [file] = result.files
    assert (file.kind, file.format, file.shape, file.dtype) == ("spectra", "nifti", (1, 1, 1), "complex64")


def test_no_name_of_a_patient_is_in_the_header_or_the_sidecar(tmp_path: Path) -> None:
    typed = {"PatientName": "Kowalska^Maria", "InstitutionName": "Kowalska Clinic", "ProtocolName": "svs Kowalska"}
    result, out = converted([enhanced_spectra(**typed)], tmp_path)
    assert all(b"kowalska" not in (out / file).read_bytes().lower() for file in ("spectra.nii", "spectra.json"))
    assert result.files


def test_averages_are_a_dimension_in_the_order_of_instance_numbers(tmp_path: Path) -> None:
    series = averages(5)
    image, meta, result = only([series[index] for index in (3, 0, 4, 1, 2)], tmp_path)
    assert image.shape == (1, 1, 1, POINTS, 5)
    assert meta["dim_5"] == "DIM_DYN"
    assert [value.real for value in np.asarray(image.dataobj)[0, 0, 0, 0]] == [1001, 2001, 3001, 4001, 5001]
    assert result.files[0].instances == len(result.sources) == 5


def test_a_missing_average_makes_the_series_incomplete(tmp_path: Path) -> None:
    series = averages(5)
    del series[2]
    *_, result = only(series, tmp_path)
    assert (result.completeness.state, result.completeness.rule) == ("incomplete", "instance-numbers")


def test_fewer_averages_than_the_protocol_plans_are_doubtful(tmp_path: Path) -> None:
    *_, whole = only([classic_spectrum(header={"NumberOfAverages": ("64",)}, protocol={"lAverages": "64"})], tmp_path)
    *_, part = only([classic_spectrum(header={"NumberOfAverages": ("1",)}, protocol={"lAverages": "64"})], tmp_path)
    assert whole.completeness.state == "complete"
    assert (part.completeness.state, part.completeness.reason) == (
        "suspect",
        "1 of 64 averages that the protocol plans",
    )


def test_elements_of_the_coil_are_a_dimension_before_the_averages(tmp_path: Path) -> None:
    series = [
        classic_spectrum(
            signal(1, 1, 1, POINTS, seed=number), {"ImaCoilString": (f"H{number % 3}",)}, InstanceNumber=number + 1
        )
        for number in range(6)
    ]
    image, meta, _ = only(series, tmp_path)
    assert image.shape == (1, 1, 1, POINTS, 3, 2)
    assert (meta["dim_5"], meta["dim_6"]) == ("DIM_COIL", "DIM_DYN")
    assert np.asarray(image.dataobj)[0, 0, 0, 0].real.tolist() == [[1, 3001], [1001, 4001], [2001, 5001]]
    assert refused(series[:-1], tmp_path)[0] == "incomplete"


def test_the_box_is_that_of_the_slabs_along_the_axes_of_the_plane(tmp_path: Path) -> None:
    row, column = np.array(make.OBLIQUE[:3]), np.array(make.OBLIQUE[3:])
    normal = np.cross(row, column)
    centre = (5.0, -6.0, 7.0)
    localization = slabs([normal, -column, row], [15, 40, 20], centre)
    ds = enhanced_spectra(orientation=make.OBLIQUE, VolumeLocalizationSequence=localization)
    image, _, result = only([ds], tmp_path)
    expected = np.eye(4)
    expected[:3] = np.column_stack((row * 20, column * 40, normal * 15, centre))
    assert RAS @ image.affine == pytest.approx(expected, abs=1e-6)
    assert image.get_qform() == pytest.approx(image.get_sform(), abs=1e-6)
    assert np.array(result.files[0].affine_lps) == pytest.approx(expected, abs=1e-6)


def test_a_classic_voxel_lies_where_the_volume_of_interest_is_not_at_its_corner(tmp_path: Path) -> None:
    image, _, _ = only([classic_spectrum()], tmp_path)
    assert (RAS @ image.affine) == pytest.approx(
        np.array([[20, 0, 0, 5], [0, 40, 0, -6], [0, 0, 15, 7], [0, 0, 0, 1]]), abs=1e-6
    )


def test_without_a_position_there_is_none_in_the_header(tmp_path: Path) -> None:
    image, _, result = only([classic_spectrum(header={"VoiPosition": ()})], tmp_path)
    assert (image.header["qform_code"], image.header["sform_code"]) == (0, 0)
    assert image.header["pixdim"][1:4].tolist() == [10_000.0] * 3
    assert result.files[0].warnings == ("no-geometry",)


IMAGING = {"PixelSpacing": ("10.0", "8.0"), "SliceThickness": ("15.0",)}
FIELD = {
    "sSliceArray.asSlice[0].dReadoutFOV": "32.0",
    "sSliceArray.asSlice[0].sPosition.dSag": "3.0",
    "sSliceArray.asSlice[0].sPosition.dTra": "7.0",
}


@pytest.mark.parametrize(
    ("position", "first"),
    [
        ((3 - 4 * 4.0, -1.5 * 10.0, 7.0), (-9.0, -10.0, 7.0)),  # the corner of the field
        ((3 - 1.5 * 8, -10.0, 7.0), (-9.0, -10.0, 7.0)),  # the centre of the first voxel
        ((0.0, 0.0, 7.0), None),
    ],
)
def test_a_grid_begins_where_the_field_of_view_places_it(
    tmp_path: Path, position: tuple[float, ...], first: tuple[float, ...] | None
) -> None:
    data = signal(1, 3, 4, POINTS)
    header = {**IMAGING, "ImagePositionPatient": tuple(map(str, position))}
    image, _, result = only([classic_spectrum(data, header, FIELD)], tmp_path)
    voxels = np.asarray(image.dataobj)
    assert voxels.shape == (4, 3, 1, POINTS)
    assert np.array_equal(voxels[2, 1, 0], data[0, 1, 2])
    if first is None:
        assert result.files[0].warnings == ("no-geometry",)
        assert image.header["pixdim"][1:4].tolist() == [8, 10, 15]
    else:
        assert (RAS @ image.affine)[:3, 3] == pytest.approx(first)


def test_frames_of_an_imaging_grid_are_slices_at_their_positions(tmp_path: Path) -> None:
    data = signal(3, 2, 4, POINTS)
    heights = (20.0, 0.0, 10.0)
    frames = [{"position": (5.0, -6.0, height)} for height in heights]
    image, _, _ = only([enhanced_spectra(data, frames=frames, pixel_spacing_mm=(8.0, 6.0))], tmp_path)
    voxels = np.asarray(image.dataobj)
    assert voxels.shape == (4, 2, 3, POINTS)
    for frame, height in enumerate(heights):
        assert np.array_equal(voxels[3, 1, int(height / 10)], np.conj(data[frame, 1, 3]))
    assert (RAS @ image.affine) == pytest.approx(
        np.array([[6, 0, 0, 5], [0, 8, 0, -6], [0, 0, 10, 0], [0, 0, 0, 1]]), abs=1e-6
    )


def test_uneven_frames_of_an_imaging_grid_are_refused(tmp_path: Path) -> None:
    frames = [{"position": (5.0, -6.0, height)} for height in (0.0, 10.0, 25.0)]
    assert refused([enhanced_spectra(signal(3, 2, 4, POINTS), frames=frames)], tmp_path)[0] == "unproven-layout"


def philips(data: Any, kinds: Sequence[int], conditions: Sequence[str] = ()) -> FileDataset:
    ds = enhanced_spectra(data, Manufacturer="Philips Medical Systems")
    items = []
    for index, kind in enumerate(kinds):
        item = Dataset()
        item.add_new((0x2005, 0x0013), "LO", "Philips MR Imaging DD 004")
        item.add_new((0x2005, 0x1304), "SS", kind)
        if conditions:
            item.add_new((0x2005, 0x0015), "LO", "Philips MR Imaging DD 006")
            item.add_new((0x2005, 0x1598), "CS", conditions[index])
        items.append(item)
    ds.add_new((0x2005, 0x0014), "LO", "Philips MR Imaging DD 005")
    ds.add_new((0x2005, 0x140F), "SQ", items)
    if conditions:
        ds.add_new((0x2005, 0x0015), "LO", "Philips MR Imaging DD 006")
        ds.add_new((0x2005, 0x1597), "CS", "Y")
    return ds


def test_the_reference_of_philips_is_a_file_of_its_own(tmp_path: Path) -> None:
    data = signal(2, 1, 1, POINTS)
    result, out = converted([philips(data, (0, 1))], tmp_path)
    assert [(file.suffix, file.stack) for file in result.files] == [("", 0), ("ref", 1)]
    for file, frame in zip(result.files, data, strict=True):
        image, _ = image_of(out / file.path)
        assert np.array_equal(np.asarray(image.dataobj)[0, 0, 0], np.conj(frame[0, 0]))
    assert image_of(out / "spectra_ref.nii")[1]["WaterSuppressed"] is False


def test_edited_spectra_of_philips_have_a_dimension_for_their_condition(tmp_path: Path) -> None:
    data = signal(4, 1, 1, POINTS)
    ds = philips(data, (0, 0, 0, 0), ("1", "0", "1", "0"))
    for number, group in enumerate(ds.PerFrameFunctionalGroupsSequence, start=1):
        group.FrameContentSequence[0].TemporalPositionIndex = number
    image, meta, _ = only([ds], tmp_path)
    assert image.shape == (1, 1, 1, POINTS, 2, 2)
    assert (meta["dim_5"], meta["dim_6"]) == ("DIM_DYN", "DIM_EDIT")
    assert np.array_equal(np.asarray(image.dataobj)[0, 0, 0, :, 1, 0], np.conj(data[2, 0, 0]))
    uneven = philips(data, (0, 0, 0, 0), ("1", "1", "1", "0"))
    for number, group in enumerate(uneven.PerFrameFunctionalGroupsSequence, start=1):
        group.FrameContentSequence[0].TemporalPositionIndex = number
    assert refused([uneven], tmp_path)[0] == "contradictory"


def test_frames_of_one_voxel_that_nothing_orders_are_refused(tmp_path: Path) -> None:
    assert refused([enhanced_spectra(signal(4, 1, 1, POINTS))], tmp_path)[0] == "unproven-layout"
    frames = [{"TemporalPositionIndex": number} for number in (2, 1, 4, 3)]
    image, meta, _ = only([enhanced_spectra(signal(4, 1, 1, POINTS), frames=frames)], tmp_path)
    assert meta["dim_5"] == "DIM_DYN"
    assert np.asarray(image.dataobj)[0, 0, 0, 0].real.tolist() == [1 + POINTS, 1, 1 + 3 * POINTS, 1 + 2 * POINTS]


@pytest.mark.parametrize(
    ("attributes", "reason", "words"),
    [
        ({"DataPointColumns": POINTS * 2}, "contradictory", "128 bytes, but the header announces 256"),
        ({"NumberOfFrames": 2}, "contradictory", "announces 256"),
        ({"DataRepresentation": "MAGNITUDE"}, "unproven-layout", "COMPLEX"),
        ({"SignalDomainColumns": "FREQUENCY"}, "unproven-layout", "TIME"),
        ({"DataPointRows": 4}, "unproven-layout", "two dimensions"),
        ({"SpectralWidth": None}, "incomplete", "Spectral Width"),
        ({"SpectralWidth": 0.0}, "contradictory", "Spectral Width"),
        ({"ResonantNucleus": None}, "incomplete", "Resonant Nucleus"),
        ({"ResonantNucleus": "31P"}, "contradictory", "31P resonates at 51.7 MHz in 3 T"),
    ],
)
def test_a_header_that_contradicts_its_data_is_refused(
    tmp_path: Path, attributes: dict[str, Any], reason: str, words: str
) -> None:
    found, detail = refused([enhanced_spectra(**attributes)], tmp_path)
    assert found == reason
    assert words in detail


def test_data_that_are_lost_or_no_numbers_are_refused(tmp_path: Path) -> None:
    lost = enhanced_spectra()
    del lost[0x5600, 0x0020]
    assert refused([lost], tmp_path)[0] == "incomplete"
    broken = signal(1, 1, 1, POINTS)
    broken[0, 0, 0, 3] = np.nan
    assert refused([enhanced_spectra(broken)], tmp_path)[0] == "contradictory"
    stripped = classic_spectrum()
    del stripped[0x0029, 0x1110]
    assert refused([stripped], tmp_path)[0] == "incomplete"


def test_an_instance_that_repeats_another_is_excluded_and_counted(tmp_path: Path) -> None:
    series = averages(3)
    series.append(enhanced_spectra(signal(1, 1, 1, POINTS, seed=2), InstanceNumber=4))
    image, _, result = only(series, tmp_path)
    assert image.shape[4] == 3
    [exclusion] = result.exclusions
    assert exclusion.reason.value == "duplicate-slice"
    assert {uid for _, uid, _ in result.sources} | {exclusion.sop_instance_uid} == {ds.SOPInstanceUID for ds in series}


def test_spectra_of_other_echo_times_are_files_of_their_own(tmp_path: Path) -> None:
    series = averages(4)
    for ds in series[2:]:
        ds.SharedFunctionalGroupsSequence[0].MREchoSequence[0].EffectiveEchoTime = 144.0
    result, _ = converted(series, tmp_path)
    assert [(file.suffix, file.instances, file.echo_time_ms) for file in result.files] == [
        ("e1", 2, 30),
        ("e2", 2, 144),
    ]


def test_without_the_extension_the_series_is_no_image_as_before(tmp_path: Path) -> None:
    ds = enhanced_spectra()
    ds.save_as(tmp_path / "one.dcm", enforce_file_format=True)
    (tmp_path / "out").mkdir()
    job = ConversionJob(((str(ds.SOPInstanceUID), tmp_path / "one.dcm"),), tmp_path / "out", OPTIONS)
    [refusal] = convert(job).refusals
    assert refusal.reason.value == "not-an-image"
