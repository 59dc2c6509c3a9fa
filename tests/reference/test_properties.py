"""Real series, changed as senders, archives and losses change them: no wrong volume in silence, no time lost unsaid.

Each property holds for any real series. A run of the ordinary tests tries a few, always the same; the tests marked
``long`` try many, also of the large ones.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydicom import FileDataset, dcmread, dcmwrite
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from node.api import Assembly, Reason, Volume, WarningKind, assemble, whole
from node.volume.model import Diffusion, Geometry
from tests.reference.real_series import (
    RealSeries,
    assert_sound,
    edited,
    find_series,
    judged,
    read,
    real_plane,
    volumes_of,
)

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.corpus,
    pytest.mark.filterwarnings("ignore"),  # what pydicom says of the values of old scanners
]

Draw = Callable[[st.SearchStrategy[Any]], Any]
Sibling = Callable[[], RealSeries]
Property = Callable[[RealSeries, Draw, Sibling], None]

Library = dict[str, tuple[Path, ...]]
"""The files of each series, by name."""

CASES = (
    *("dcm_qa_me/multi-echo-mosaic", "dcm_qa_philips/classic-fmri", "dcm_qa_sag/sagittal-nonsquare-matrix"),
    *("dcm_qa_stc/ge-epirt", "dcm_qa_stc/siemens-xa10-enhanced-fmri", "dcm_qa_uih/grid-dwi", "derived/ct-tilt-exact"),
    *("derived/localizer-3-orientations", "derived/magnitude-and-phase", "derived/pet-dynamic-slope-per-slice"),
    *("dicom2nifti/ge-dwi-signa", "dicom2nifti/ge-fmri", "dicom2nifti/siemens-dwi-classic"),
)
"""Small series of the corpus, of many kinds, one in each case."""

EXAMPLES = 8
EXAMPLES_WRITTEN_WRONGLY = 2
LONG_EXAMPLES = 300
LONG_BYTES = 16 << 20

CLOCKS = (
    *("AcquisitionTime", "AcquisitionDateTime", "ContentTime", "TriggerTime", "TemporalPositionIdentifier"),
    *("AcquisitionNumber", "FrameReferenceTime"),
)
"""Attributes that an anonymiser may take away together."""


@pytest.fixture(scope="module")
def few_series(corpus: Path) -> Library:
    return {case: tuple(sorted((corpus / case).iterdir())) for case in CASES}


@pytest.fixture(scope="module")
def all_series(corpus: Path) -> Library:
    return find_series(corpus, LONG_BYTES)


# What a change may do


def reals(volume: Volume) -> np.ndarray:
    return np.stack(
        [real_plane(volume, time, index) for time in range(volume.times) for index in range(volume.shape[2])]
    )


def rounded(entry: Diffusion) -> str:
    """Return an entry as text, without the last digits of its direction: they depend on the order of a sum."""
    direction = entry.direction_lps
    return str(entry if direction is None else replace(entry, direction_lps=np.round(direction, 9) + 0.0))


def assert_same_volumes(first: Assembly, second: Assembly) -> None:
    one, other = (sorted(volumes_of(each), key=lambda volume: volume.suffix) for each in (first, second))
    assert [(volume.suffix, volume.shape) for volume in one] == [(volume.suffix, volume.shape) for volume in other]
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(reals(mine), reals(theirs))
        np.testing.assert_array_equal(mine.affine_lps, theirs.affine_lps)
        assert mine.time_step_s == theirs.time_step_s
        assert [*map(rounded, mine.diffusion or ())] == [*map(rounded, theirs.diffusion or ())]


def reported(assembly: Assembly) -> set[WarningKind]:
    return {warning.name for volume in assembly.volumes for warning in volume.warnings}


def with_new_identity(ds: FileDataset, **values: Any) -> FileDataset:
    return edited(ds, SOPInstanceUID=generate_uid(), **values)


def any_order_gives_the_same(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    assert_same_volumes(assemble(draw(st.permutations(origin.datasets))), origin.assembly)


def new_identities_give_the_same(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    """Instances of one number keep the order of their identities: it decides which stack is the first."""
    first = draw(st.integers(1, 2**64))
    ranks = {uid: rank for rank, uid in enumerate(sorted(str(ds.SOPInstanceUID) for ds in origin.datasets))}
    renamed = [
        edited(ds, SOPInstanceUID=f"2.25.{2**96 + first + ranks[str(ds.SOPInstanceUID)]}") for ds in origin.datasets
    ]
    assert_same_volumes(assemble(draw(st.permutations(renamed))), origin.assembly)


def copies_are_left_out(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    again = draw(st.lists(st.sampled_from(range(len(origin.datasets))), min_size=1, unique=True))
    exported = draw(st.sampled_from(({}, {"ContentTime": "235959"}, {"SeriesDate": "20300101"})))
    # Blank copies with another Content Time may be times: they are not left out as copies.
    assume("ContentTime" not in exported or any(np.ptp(origin.datasets[index].pixel_array) > 0 for index in again))
    copies = [with_new_identity(origin.datasets[index], **exported) for index in again]
    assembly = assemble([*origin.datasets, *copies])
    assert_same_volumes(assembly, origin.assembly)
    assert sum(exclusion.reason is Reason.DUPLICATE_SLICE for exclusion in assembly.exclusions) == len(copies)
    assert WarningKind.DUPLICATE_SLICE in reported(assembly)


def copies_with_numbers_of_their_own_are_told(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    again = draw(st.lists(st.sampled_from(range(len(origin.datasets))), min_size=1, unique=True))
    last = max(whole(ds, "InstanceNumber") or 0 for ds in origin.datasets)
    copies = [
        with_new_identity(origin.datasets[index], InstanceNumber=last + 1 + rank) for rank, index in enumerate(again)
    ]
    assembly = assemble([*origin.datasets, *copies])
    assert {volume.shape[:3] for volume in volumes_of(assembly)} <= {volume.shape[:3] for volume in origin.volumes}
    assert assembly.refusals or reported(assembly) - reported(origin.assembly)


def blank_pixels_take_no_time_away(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    times = origin.instances_by_time(draw(st.sampled_from(origin.volumes)))
    blank = set().union(*draw(st.lists(st.sampled_from(times), min_size=1)))
    clocks = draw(st.sampled_from(((), CLOCKS)))
    datasets = [without_values(ds, clocks, blank=str(ds.SOPInstanceUID) in blank) for ds in origin.datasets]
    plain = assemble([without_values(ds, clocks) for ds in origin.datasets])
    assert [each.shape for each in volumes_of(assemble(datasets))] == [each.shape for each in volumes_of(plain)]
    if not clocks:
        found = [entry.sop_instance_uid for each in volumes_of(assemble(datasets)) for entry in each.sources]
        assert found == [entry.sop_instance_uid for each in origin.volumes for entry in each.sources]


def without_values(ds: FileDataset, keywords: Sequence[str], *, blank: bool = False) -> FileDataset:
    pixels = (
        {"PixelData": bytes(len(ds.PixelData))} if blank and not ds.file_meta.TransferSyntaxUID.is_compressed else {}
    )
    return edited(ds, **dict.fromkeys(keywords), **pixels)


def periodic_pixels_take_no_time_away(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    volume = draw(st.sampled_from([volume for volume in origin.volumes if volume.times > 2] or [None]))
    assume(volume is not None)
    period = draw(st.integers(1, volume.times - 1))
    by_place: dict[tuple[int, int], str] = {
        (entry.time_index, entry.slice_index): entry.sop_instance_uid for entry in volume.sources
    }
    pixels = {str(ds.SOPInstanceUID): ds.PixelData for ds in origin.datasets}
    source = {uid: by_place[time % period, index] for (time, index), uid in by_place.items()}
    clocks = draw(st.sampled_from(((), CLOCKS)))
    plain = assemble([edited(ds, **dict.fromkeys(clocks)) for ds in origin.datasets])
    assembly = assemble(
        [
            edited(
                ds,
                PixelData=pixels[source.get(str(ds.SOPInstanceUID), str(ds.SOPInstanceUID))],
                **dict.fromkeys(clocks),
            )
            for ds in origin.datasets
        ]
    )
    assert [each.shape for each in volumes_of(assembly)] == [each.shape for each in volumes_of(plain)]


def incomplete(left: Sequence[FileDataset], origin: RealSeries) -> Assembly:
    """Return what is assembled of the instances that are left of a series, which is sound and not called complete."""
    assembly = assemble(left)
    assert_sound(assembly, left, origin)
    assert judged(left, assembly).state != "complete"
    return assembly


def a_lost_time_is_told(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    volume = draw(st.sampled_from([volume for volume in origin.volumes if volume.times > 2] or [None]))
    assume(volume is not None)
    lost = origin.instances_by_time(volume)[draw(st.integers(1, volume.times - 2))]
    left = [ds for ds in origin.datasets if str(ds.SOPInstanceUID) not in lost]
    assembly = incomplete(left, origin)
    for each in volumes_of(assembly):
        if WarningKind.MISSING_TIME in {warning.name for warning in each.warnings}:
            assert each.time_step_s is None


def is_numbered(datasets: Sequence[FileDataset]) -> bool:
    """Return whether Instance Numbers count all instances: the series is no excerpt of a larger one."""
    numbers = {whole(ds, "InstanceNumber") or 0 for ds in datasets}
    return len(numbers) == max(numbers) - min(numbers) + 1 == len(datasets)


def losses_mix_no_times(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    kept = draw(st.lists(st.booleans(), min_size=len(origin.datasets), max_size=len(origin.datasets)))
    left = [ds for ds, keep in zip(origin.datasets, kept, strict=True) if keep]
    assume(left and is_numbered(origin.datasets) and not is_numbered(left))  # an unbroken part may be a whole series
    assert_sound(assemble(left), left, origin)


def a_lost_run_is_told(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    count = len(origin.datasets)
    assume(count > 9 and is_numbered(origin.datasets))
    assume(judged(origin.datasets, origin.assembly).state == "complete")
    first = draw(st.integers(1, count - 2))
    last = draw(st.integers(first, count - 2))
    left = [*origin.datasets[:first], *origin.datasets[last + 1 :]]
    incomplete(left, origin)


def an_echo_that_lost_slices_is_told(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    assume(len(origin.volumes) > 1 and len({volume.shape for volume in origin.volumes}) == 1)
    assume(all(volume.suffix in ("", "ph", "e1", "e2", "e3") for volume in origin.volumes))
    volume = draw(st.sampled_from(origin.volumes))
    own = sorted({source.sop_instance_uid for source in volume.sources})
    lost = set(draw(st.lists(st.sampled_from(own), min_size=1, max_size=len(own) - 1, unique=True)))
    left = [ds for ds in origin.datasets if str(ds.SOPInstanceUID) not in lost]
    assembly = incomplete(left, origin)
    assert assembly.refusals or reported(assembly) & {
        WarningKind.UNEQUAL_STACKS,
        WarningKind.MISSING_TIME,
        WarningKind.MISSING_SLICE,
        WarningKind.INCOMPLETE_VOLUME,
    }


def two_series_in_one_are_not_mixed(origin: RealSeries, draw: Draw, sibling: Sibling) -> None:
    other = sibling()
    first = origin.datasets[0]
    shared = {
        "SeriesInstanceUID": first.SeriesInstanceUID,
        "PatientID": first.get("PatientID"),
        "FrameOfReferenceUID": first.get("FrameOfReferenceUID"),
    }
    mixed = [*origin.datasets, *(edited(ds, **shared) for ds in other.datasets)]
    assert_sound(assemble(mixed), mixed, origin, other)


def truncated_pixels_are_in_no_volume(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    cut = set(draw(st.lists(st.sampled_from(range(len(origin.datasets))), min_size=1, unique=True)))
    share = draw(st.floats(0, 0.9))
    datasets = [
        edited(ds, PixelData=ds.PixelData[: 2 * int(share * len(ds.PixelData) / 2)]) if index in cut else ds
        for index, ds in enumerate(origin.datasets)
    ]
    damaged = {str(datasets[index].SOPInstanceUID) for index in cut}
    assembly = assemble(datasets)
    assert_sound(assembly, datasets, origin)
    for volume in volumes_of(assembly):
        assert damaged.isdisjoint(source.sop_instance_uid for source in volume.sources)
        assert {WarningKind.INCOMPLETE_VOLUME, WarningKind.MISSING_SLICE} & {
            warning.name for warning in volume.warnings
        }


# What senders write wrongly


def raw(ds: FileDataset, keyword: str, content: bytes) -> FileDataset:
    """Return an instance with the bytes of one element replaced."""
    out, tag = edited(ds), Tag(keyword)
    out[tag] = RawDataElement(tag, dictionary_VR(tag), len(content), content, 0, False, True)
    return out


def some_of(origin: RealSeries, draw: Draw) -> set[int]:
    return set(draw(st.lists(st.sampled_from(range(len(origin.datasets))), min_size=1, unique=True)))


def assert_values_kept(assembly: Assembly, datasets: Sequence[FileDataset], origin: RealSeries) -> None:
    """Check that each slice has the values that its own instance states, whatever others state."""
    rescaled = {str(ds.SOPInstanceUID): (rescaling(ds), rescaling(before)) for ds, before in pairs(datasets, origin)}
    before = {
        (source.sop_instance_uid, source.frame_number): real_plane(volume, source.time_index, source.slice_index)
        for volume in origin.volumes
        for source in volume.sources
    }
    for volume in volumes_of(assembly):
        for source in volume.sources:
            (slope, intercept), (old_slope, old_intercept) = rescaled[source.sop_instance_uid]
            stored = (before[source.sop_instance_uid, source.frame_number] - old_intercept) / old_slope
            found = real_plane(volume, source.time_index, source.slice_index)
            scale = max(1.0, float(np.abs(stored).max()) * abs(slope))
            np.testing.assert_allclose(found, stored * slope + intercept, atol=2e-5 * scale)


def assert_all_accounted(assembly: Assembly, origin: RealSeries) -> None:
    """Check that no frame of a whole series is lost without a word."""
    before, after = (sum(len(volume.sources) for volume in volumes_of(each)) for each in (origin.assembly, assembly))
    assert after >= before or assembly.refusals or assembly.exclusions


def pairs(datasets: Sequence[FileDataset], origin: RealSeries) -> Iterator[tuple[FileDataset, FileDataset]]:
    known = {str(ds.SOPInstanceUID): ds for ds in origin.datasets}
    return ((ds, known[str(ds.SOPInstanceUID)]) for ds in datasets)


def rescaling(ds: FileDataset) -> tuple[float, float]:
    return float(ds.get("RescaleSlope") or 1), float(ds.get("RescaleIntercept") or 0)


def is_classic(origin: RealSeries) -> bool:
    """Return whether each instance is one slice with one rescaling."""
    first = origin.datasets[0]
    frames = sum(len(volume.sources) for volume in origin.volumes)
    return frames == len(origin.datasets) and "PerFrameFunctionalGroupsSequence" not in first


def other_encodings_give_the_same(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    syntax = draw(st.sampled_from((ExplicitVRBigEndian, ImplicitVRLittleEndian, ExplicitVRLittleEndian)))
    assume(not any(ds.file_meta.TransferSyntaxUID.is_compressed for ds in origin.datasets))
    assume(all(ds.BitsAllocated >= 8 for ds in origin.datasets))  # bits that share a byte are not swapped
    again = []
    for ds in origin.datasets:
        stream = BytesIO()
        other = deepcopy(ds)
        if syntax.is_little_endian != ds.file_meta.TransferSyntaxUID.is_little_endian:
            other.PixelData = np.frombuffer(ds.PixelData, f"u{ds.BitsAllocated // 8}").byteswap().tobytes()
            other["PixelData"].VR = "OW"
        other.file_meta.TransferSyntaxUID = syntax
        dcmwrite(stream, other, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
        stream.seek(0)
        again.append(dcmread(stream))
    assert_same_volumes(assemble(again), origin.assembly)


def a_jitter_of_positions_is_small_or_told(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    assume(all("ImagePositionPatient" in ds for ds in origin.datasets))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    width_mm = draw(st.sampled_from((1e-5, 1e-3, 0.01, 0.05, 0.3)))
    moved = [
        edited(
            ds,
            ImagePositionPatient=[
                f"{value + step:.6g}"
                for value, step in zip(ds.ImagePositionPatient, random.uniform(-1, 1, 3) * width_mm, strict=True)
            ],
        )
        for ds in origin.datasets
    ]
    assembly = assemble(moved)
    shapes = [sorted(volume.shape for volume in volumes_of(each)) for each in (assembly, origin.assembly)]
    if width_mm <= 0.01:
        assert_sound(assembly, moved, origin)
    assert shapes[0] == shapes[1] or (
        width_mm > 1e-3 and (assembly.refusals or reported(assembly) - reported(origin.assembly))
    )


UNEVEN = {WarningKind.IRREGULAR_SPACING, WarningKind.MISSING_SLICE, WarningKind.SAME_POSITION_TWICE}

BROKEN_NUMBERS = (b"nan", b"inf\0\0", b"1e9\0\0", b"-1e30\0\0", b"1,5\0\0", b"\\", b"0", b"1\\2\\3\\4", b"\xff\0\0")


def a_broken_position_is_in_no_volume(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    broken = some_of(origin, draw)
    assume(all("ImagePositionPatient" in origin.datasets[index] for index in broken))
    assume(is_classic(origin) and len(broken) < len(origin.datasets))
    content = draw(st.sampled_from(BROKEN_NUMBERS))
    datasets = [
        raw(ds, "ImagePositionPatient", content) if index in broken else ds for index, ds in enumerate(origin.datasets)
    ]
    assembly = assemble(datasets)
    assert_sound(assembly, [ds for index, ds in enumerate(datasets) if index not in broken] + datasets, origin)
    wrong = {str(datasets[index].SOPInstanceUID) for index in broken}
    for volume in volumes_of(assembly):
        has_place = volume.geometry is not Geometry.NONE  # else the volume says that it has none
        assert not has_place or wrong.isdisjoint(source.sop_instance_uid for source in volume.sources)


def missing_positions_are_told(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    lacking = some_of(origin, draw)
    assume(is_classic(origin) and len(lacking) < len(origin.datasets))
    datasets = [
        edited(ds, ImagePositionPatient=None) if index in lacking else ds for index, ds in enumerate(origin.datasets)
    ]
    assembly = assemble(datasets)
    wrong = {str(datasets[index].SOPInstanceUID) for index in lacking}
    assert assembly.refusals or assembly.exclusions or reported(assembly) - reported(origin.assembly)
    for volume in volumes_of(assembly):
        uids = {source.sop_instance_uid for source in volume.sources}
        assert uids <= wrong or uids.isdisjoint(wrong)


def missing_numbers_mix_no_times(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    lacking = some_of(origin, draw)
    datasets = [edited(ds, InstanceNumber=None) if index in lacking else ds for index, ds in enumerate(origin.datasets)]
    assembly = assemble(datasets)
    assert_sound(assembly, datasets, origin)
    assert_all_accounted(assembly, origin)


def slopes_of_slices_are_applied(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    assume(is_classic(origin) and all("RescaleSlope" in ds for ds in origin.datasets))
    changed = some_of(origin, draw)
    slope, intercept = draw(st.sampled_from((("2", "0"), ("0.5", "-7"), ("1.25", "-1024"), ("0.001", "3"))))
    datasets = [
        edited(ds, RescaleSlope=slope, RescaleIntercept=intercept) if index in changed else ds
        for index, ds in enumerate(origin.datasets)
    ]
    assert_values_kept(assemble(datasets), datasets, origin)


def signs_and_bits_of_slices_change_no_value(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    """Instances state another Bits Stored or Pixel Representation, both of which hold their values."""
    assume(is_classic(origin) and not any(ds.file_meta.TransferSyntaxUID.is_compressed for ds in origin.datasets))
    assume(all(ds.BitsAllocated == 16 and ds.get("PixelRepresentation") == 0 for ds in origin.datasets))
    assume(all(np.frombuffer(ds.PixelData, "<u2").max() < 1 << 15 for ds in origin.datasets))
    changed = some_of(origin, draw)
    own = draw(
        st.sampled_from(
            ({"PixelRepresentation": 1, "BitsStored": 16, "HighBit": 15}, {"BitsStored": 16, "HighBit": 15})
        )
    )
    masked = {"SmallestImagePixelValue": None, "LargestImagePixelValue": None, "PixelPaddingValue": None}
    datasets = [edited(ds, **own, **masked) if index in changed else ds for index, ds in enumerate(origin.datasets)]
    assembly = assemble(datasets)
    assert_values_kept(assembly, datasets, origin)
    assert_sound(assembly, datasets, origin)
    assert_all_accounted(assembly, origin)


def the_same_series_elsewhere_is_not_mixed(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    """Two series of one UID: the other one is moved, or turned, and has instances of its own."""
    assume(is_classic(origin) and all("ImagePositionPatient" in ds for ds in origin.datasets))
    assume(all(volume.shape[2] > 2 for volume in origin.volumes))  # two slices are never uneven
    turned = draw(st.booleans())
    shift = draw(st.sampled_from(((7.3, 0, 0), (0, -13.1, 0), (0, 0, 1000), (0.4, 0.4, 0.4))))
    moved = []
    for ds in origin.datasets:
        orientation = [float(value) for value in ds.ImageOrientationPatient]
        position = np.array(ds.ImagePositionPatient, float) + shift
        values = {"ImagePositionPatient": [f"{value:.6g}" for value in position]}
        if turned:
            values["ImageOrientationPatient"] = [*orientation[3:], *orientation[:3]]
        moved.append(with_new_identity(ds, **values))
    own = {str(ds.SOPInstanceUID) for ds in origin.datasets}
    for volume in volumes_of(assemble([*origin.datasets, *moved])):
        from_origin = {source.sop_instance_uid in own for source in volume.sources}
        assert len(from_origin) == 1 or {warning.name for warning in volume.warnings} & UNEVEN


def equal_identities_are_told(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    assume(len(origin.datasets) > 1)
    first, second = draw(st.lists(st.sampled_from(range(len(origin.datasets))), min_size=2, max_size=2, unique=True))
    blank = draw(st.booleans()) and not origin.datasets[0].file_meta.TransferSyntaxUID.is_compressed
    pair = [origin.datasets[index] for index in (first, second)]
    told_by = [(ds.get("ImagePositionPatient"), b"" if blank else ds.PixelData) for ds in pair]
    assume(told_by[0] != told_by[1])  # else the two files are one instance, which came twice
    datasets = [
        edited(
            ds,
            SOPInstanceUID=str(origin.datasets[first].SOPInstanceUID) if index == second else str(ds.SOPInstanceUID),
            **({"PixelData": bytes(len(ds.PixelData))} if blank and index in (first, second) else {}),
        )
        for index, ds in enumerate(origin.datasets)
    ]
    told_of = judged(datasets, assembly := assemble(datasets)).state
    assert assembly.refusals or assembly.exclusions or told_of != "complete"


def without_private_elements_nothing_is_mixed(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    bare = []
    for ds in origin.datasets:
        out = edited(ds)
        for tag in [tag for tag in list(out.keys()) if tag.is_private]:
            del out[tag]
        bare.append(out)
    assembly = assemble(bare)
    assert_sound(assembly, bare, origin)
    assert_all_accounted(assembly, origin)


def a_slice_lost_of_each_time_is_told(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    volume = draw(st.sampled_from([volume for volume in origin.volumes if volume.times > 1] or [None]))
    assume(volume is not None and is_classic(origin) and volume.shape[2] > 2)
    at = {(entry.time_index, entry.slice_index): entry.sop_instance_uid for entry in volume.sources}
    places = [
        (time, draw(st.integers(0, volume.shape[2] - 1)))
        for time in range(volume.times)
        if time == 0 or draw(st.booleans())
    ]
    # Without numbers, nobody knows of a first or last slice that all times have lost.
    assume(is_numbered(origin.datasets) or len(places) < volume.times or len({index for _, index in places}) > 1)
    lost = {at[place] for place in places}
    left = [ds for ds in origin.datasets if str(ds.SOPInstanceUID) not in lost]
    incomplete(left, origin)


def dropped_frames_are_told(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    ds = origin.datasets[draw(st.sampled_from(range(len(origin.datasets))))]
    groups = ds.get("PerFrameFunctionalGroupsSequence")
    assume(groups and len(groups) > 3 and not ds.file_meta.TransferSyntaxUID.is_compressed)
    lost = draw(st.integers(1, len(groups) - 2))
    size = len(ds.PixelData) // len(groups)
    pixels = ds.PixelData[: lost * size] + ds.PixelData[(lost + 1) * size : len(groups) * size]
    left = {"PerFrameFunctionalGroupsSequence": [group for number, group in enumerate(groups) if number != lost]}
    cut = edited(ds, NumberOfFrames=len(groups) - 1, PixelData=pixels + bytes(len(pixels) % 2), **left)
    datasets = [cut if each is ds else each for each in origin.datasets]
    assembly = assemble(datasets)
    assert (
        judged(datasets, assembly).state != "complete"
        or assembly.refusals
        or reported(assembly) - reported(origin.assembly)
    )


def a_negative_spacing_changes_nothing(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    assume(is_classic(origin) and all("ImagePositionPatient" in ds for ds in origin.datasets))
    value = draw(st.sampled_from((b"-3", b"-0.001", b"nan", b"1e30", b"0")))
    datasets = [raw(ds, "SpacingBetweenSlices", value) for ds in origin.datasets]
    plain = assemble([edited(ds, SpacingBetweenSlices=None) for ds in origin.datasets])
    assume(not plain.refusals and all(volume.shape[2] > 1 for volume in volumes_of(plain)))
    one, other = (
        [(volume.shape, volume.suffix) for volume in volumes_of(each)] for each in (assemble(datasets), plain)
    )
    assert sorted(one) == sorted(other)
    for mine in volumes_of(assemble(datasets)):
        assert np.isfinite(mine.affine_lps).all()


def far_away_is_the_same_shape(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    assume(is_classic(origin) and all("ImagePositionPatient" in ds for ds in origin.datasets))
    shift = draw(st.sampled_from((1e4, -5e4, 9e5)))
    moved = [
        edited(ds, ImagePositionPatient=[f"{float(value) + shift:.10f}"[:16] for value in ds.ImagePositionPatient])
        for ds in origin.datasets
    ]
    assembly = assemble(moved)
    assert_sound(assembly, moved, origin)
    assert sorted(each.shape for each in volumes_of(assembly)) == sorted(each.shape for each in origin.volumes)


PROPERTIES: tuple[Property, ...] = (
    any_order_gives_the_same,
    new_identities_give_the_same,
    copies_are_left_out,
    copies_with_numbers_of_their_own_are_told,
    blank_pixels_take_no_time_away,
    periodic_pixels_take_no_time_away,
    a_lost_time_is_told,
    losses_mix_no_times,
    a_lost_run_is_told,
    an_echo_that_lost_slices_is_told,
    two_series_in_one_are_not_mixed,
    truncated_pixels_are_in_no_volume,
)

WRITTEN_WRONGLY: tuple[Property, ...] = (
    other_encodings_give_the_same,
    a_jitter_of_positions_is_small_or_told,
    a_broken_position_is_in_no_volume,
    missing_positions_are_told,
    missing_numbers_mix_no_times,
    slopes_of_slices_are_applied,
    signs_and_bits_of_slices_change_no_value,
    the_same_series_elsewhere_is_not_mixed,
    equal_identities_are_told,
    without_private_elements_nothing_is_mixed,
    a_slice_lost_of_each_time_is_told,
    dropped_frames_are_told,
    a_negative_spacing_changes_nothing,
    far_away_is_the_same_shape,
)


def check(known: Library, holds: Property, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(known)))
    origin = read(name, known[name])
    assume(origin.usable)

    def sibling() -> RealSeries:
        other = data.draw(st.sampled_from(sorted(set(known) - {name})))
        found = read(other, known[other])
        assume(found.usable)
        return found

    holds(origin, data.draw, sibling)


CHECKS = list(HealthCheck)


@pytest.mark.sample(0, 3)
@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda holds: holds.__name__)
@settings(max_examples=EXAMPLES, derandomize=True, database=None, suppress_health_check=CHECKS)
@given(data=st.data())
def test_a_change_of_a_real_series(few_series: Library, holds: Property, data: st.DataObject) -> None:
    check(few_series, holds, data)


@pytest.mark.slow
@pytest.mark.parametrize("holds", WRITTEN_WRONGLY, ids=lambda holds: holds.__name__)
@settings(max_examples=EXAMPLES_WRITTEN_WRONGLY, derandomize=True, database=None, suppress_health_check=CHECKS)
@given(data=st.data())
def test_a_real_series_written_wrongly(few_series: Library, holds: Property, data: st.DataObject) -> None:
    check(few_series, holds, data)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("holds", [*PROPERTIES, *WRITTEN_WRONGLY], ids=lambda holds: holds.__name__)
@settings(max_examples=LONG_EXAMPLES, suppress_health_check=CHECKS)
@given(data=st.data())
def test_many_changes_of_real_series(all_series: Library, holds: Property, data: st.DataObject) -> None:
    check(all_series, holds, data)
