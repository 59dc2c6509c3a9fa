"""Real series, changed as senders, archives and losses change them: no wrong volume in silence, no time lost unsaid.

Each property holds for any real series. A run of the ordinary tests tries a few, always the same; the tests marked
``long`` try many, also of the large ones.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydicom import FileDataset
from pydicom.uid import generate_uid

from node.dicom.values import whole
from node.volume.assemble import assemble
from node.volume.model import Assembly, Volume
from node.volume.reasons import Reason, WarningKind
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
    pytest.mark.corpus,
    pytest.mark.filterwarnings("ignore"),
]  # what pydicom says of the values of old scanners

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
LONG_EXAMPLES = 300
LONG_BYTES = 16 << 20

CLOCKS = (
    *("AcquisitionTime", "AcquisitionDateTime", "ContentTime", "TriggerTime", "TemporalPositionIdentifier"),
    *("AcquisitionNumber", "FrameReferenceTime"),
)
"""Attributes that an anonymiser may take away together."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def few_series(corpus: Path) -> Library:
    return {case: tuple(sorted((corpus / case).iterdir())) for case in CASES}


@pytest.fixture(scope="module")
def all_series(corpus: Path) -> Library:
    return find_series(corpus, LONG_BYTES)


# What a change may do


def numbered(datasets: Sequence[FileDataset]) -> list[FileDataset]:
    return sorted(datasets, key=lambda ds: whole(ds, "InstanceNumber") or 0)


def reals(volume: Volume) -> np.ndarray:
    return np.stack(
        [real_plane(volume, time, index) for time in range(volume.times) for index in range(volume.shape[2])]
    )


def assert_same_volumes(first: Assembly, second: Assembly) -> None:
    one, other = (sorted(volumes_of(each), key=lambda volume: volume.suffix) for each in (first, second))
    assert [(volume.suffix, volume.shape) for volume in one] == [(volume.suffix, volume.shape) for volume in other]
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(reals(mine), reals(theirs))
        np.testing.assert_array_equal(mine.affine_lps, theirs.affine_lps)
        assert mine.time_step_s == theirs.time_step_s
        assert [str(entry) for entry in mine.diffusion or ()] == [str(entry) for entry in theirs.diffusion or ()]


def told(assembly: Assembly) -> set[WarningKind]:
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
    assert WarningKind.DUPLICATE_SLICE in told(assembly)


def copies_with_numbers_of_their_own_are_told(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    again = draw(st.lists(st.sampled_from(range(len(origin.datasets))), min_size=1, unique=True))
    last = max(whole(ds, "InstanceNumber") or 0 for ds in origin.datasets)
    copies = [
        with_new_identity(origin.datasets[index], InstanceNumber=last + 1 + rank) for rank, index in enumerate(again)
    ]
    assembly = assemble([*origin.datasets, *copies])
    assert {volume.shape[:3] for volume in volumes_of(assembly)} <= {volume.shape[:3] for volume in origin.volumes}
    assert assembly.refusals or told(assembly) - told(origin.assembly)


def blank_pixels_take_no_time_away(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    volume = draw(st.sampled_from(origin.volumes))
    times = origin.instances_by_time(volume)
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


def a_lost_time_is_told(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    volume = draw(st.sampled_from([volume for volume in origin.volumes if volume.times > 2] or [None]))
    assume(volume is not None)
    times = origin.instances_by_time(volume)
    lost = times[draw(st.integers(1, volume.times - 2))]
    left = [ds for ds in origin.datasets if str(ds.SOPInstanceUID) not in lost]
    assembly = assemble(left)
    assert_sound(assembly, left, origin)
    assert judged(left, assembly).state != "complete"
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
    assembly = assemble(left)
    assert_sound(assembly, left, origin)


def a_lost_run_is_told(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    count = len(origin.datasets)
    assume(count > 9 and is_numbered(origin.datasets))
    assume(judged(origin.datasets, origin.assembly).state == "complete")
    first = draw(st.integers(1, count - 2))
    last = draw(st.integers(first, count - 2))
    left = [*origin.datasets[:first], *origin.datasets[last + 1 :]]
    assembly = assemble(left)
    assert_sound(assembly, left, origin)
    assert judged(left, assembly).state != "complete"


def an_echo_that_lost_slices_is_told(origin: RealSeries, draw: Draw, _: Sibling) -> None:
    assume(len(origin.volumes) > 1 and len({volume.shape for volume in origin.volumes}) == 1)
    assume(all(volume.suffix in ("", "ph", "e1", "e2", "e3") for volume in origin.volumes))
    volume = draw(st.sampled_from(origin.volumes))
    own = sorted({source.sop_instance_uid for source in volume.sources})
    lost = set(draw(st.lists(st.sampled_from(own), min_size=1, max_size=len(own) - 1, unique=True)))
    left = [ds for ds in origin.datasets if str(ds.SOPInstanceUID) not in lost]
    assembly = assemble(left)
    assert_sound(assembly, left, origin)
    assert judged(left, assembly).state != "complete"
    assert assembly.refusals or told(assembly) & {
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


@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda holds: holds.__name__)
@settings(max_examples=EXAMPLES, derandomize=True, database=None, suppress_health_check=CHECKS)
@given(data=st.data())
def test_a_change_of_a_real_series(few_series: Library, holds: Property, data: st.DataObject) -> None:
    check(few_series, holds, data)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda holds: holds.__name__)
@settings(max_examples=LONG_EXAMPLES, suppress_health_check=CHECKS)
@given(data=st.data())
def test_many_changes_of_real_series(all_series: Library, holds: Property, data: st.DataObject) -> None:
    check(all_series, holds, data)
