"""What divides the frames of a series into stacks, and how stacks are named."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from node.volume.arrange.stacks import split
from node.volume.assemble import assemble
from node.volume.model import Frame, Volume
from node.volume.reasons import WarningKind
from tests import make, truth
from tests.make import AXIAL, CORONAL
from tests.reference.real_series import judged
from tests.unit.volume.grids import grids, in_turn, numbered, of_one_series


def frame(orientation=AXIAL, rows=4, pixel_spacing=(1.0, 1.0), colour=False, **split_key):
    return Frame(
        sop_instance_uid="1.2",
        frame_number=1,
        read=lambda: np.zeros((rows, 4)),
        rows=rows,
        columns=4,
        colour=colour,
        position=None if orientation is None else np.zeros(3),
        orientation=None if orientation is None else np.array(orientation),
        pixel_spacing=pixel_spacing,
        split_key=split_key,
    )


def suffixes(*frames):
    return [stack.suffix for stack in split(frames)[0]]


def warned(*frames):
    return [warning.name for warning in split(frames)[1]]


def test_frames_that_agree_are_one_stack_without_a_suffix():
    assert suffixes(frame(), frame(echo_time=None)) == [""]
    assert warned(frame(), frame()) == []


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        (frame(echo_time=30.0), frame(echo_time=30.4), ["e1", "e2"]),
        (frame(echo=(1,)), frame(echo=(2,)), ["e1", "e2"]),
        (frame(component="phase"), frame(component="magnitude"), ["", "ph"]),
        (frame(component="real"), frame(component="imaginary"), ["real", "imag"]),
        (frame(inversion_time=900.0), frame(inversion_time=100.0), ["ti1", "ti2"]),
        (frame(coil_element=("H", 2)), frame(coil_element=("H", 10)), ["c1", "c2"]),
        (frame(coil_element=("H", 2)), frame(coil_element=None), ["", "c1"]),
        (frame(), frame(CORONAL), ["i1", "i2"]),
        (frame(), frame(rows=5), ["", ""]),
        (frame(), frame(pixel_spacing=(1.0, 1.1)), ["", ""]),
        (frame(), frame(colour=True), ["", ""]),
        (frame(), frame(None), ["", "i1"]),
        (frame(derived=False), frame(derived=True), ["", "derived"]),
        (frame(map=False), frame(map=True), ["", "map"]),
        (frame(frame_of_reference="1.2"), frame(frame_of_reference="1.3"), ["", ""]),
    ],
)
def test_what_differs_divides_and_names(one, other, names):
    assert sorted(suffixes(one, other)) == sorted(names)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (frame(echo_time=30.0), frame(echo_time=30.001)),
        (frame(inversion_time=900.0), frame(inversion_time=900.3)),
        (frame(), frame(pixel_spacing=(1.0, 1.00001))),
        (frame(), frame(np.array(AXIAL) + 5e-5)),
    ],
)
def test_what_scanners_round_does_not_divide(one, other):
    assert len(suffixes(one, other)) == 1


def test_several_orientations_and_matrices_are_reported():
    assert warned(frame(), frame(CORONAL)) == [WarningKind.SEVERAL_ORIENTATIONS]
    assert warned(frame(), frame(rows=5)) == [WarningKind.SEVERAL_MATRICES]
    assert warned(frame(), frame(pixel_spacing=(2.0, 2.0))) == [WarningKind.SEVERAL_MATRICES]


def test_an_echo_number_that_differs_with_one_echo_time_divides_too():
    assert len(suffixes(frame(echo_time=5.0, echo=(1,)), frame(echo_time=5.0, echo=(2,)))) == 2


# Echoes that only the runs of raw data tell apart.


SLICES = 4


def of_one_echo_by_its_header(times: int, echoes: int, **private: Any) -> list[FileDataset]:
    """Volumes of several echoes, time by time, with the number, time and Instance Numbers of the first one."""
    uids = of_one_series()
    out = []
    for volume in range(times * echoes):
        time, echo = divmod(volume, echoes)
        pixels = make.pattern(SLICES, 16, 12, seed=volume + 1)
        series = make.mr_series(SLICES, Manufacturer="GE MEDICAL SYSTEMS", pixels=pixels, **uids)
        for place, ds in enumerate(series):
            ds.InstanceNumber = time * SLICES + place + 1
            block = ds.private_block(0x0019, "GEMS_ACQU_01", create=True)
            block.add_new(0xA2, "SL", 500 + echo * SLICES + place)
            block.add_new(0xA9, "DS", private.get("reported", str(echoes)))
        out += series
    return out


@pytest.mark.parametrize("times", [1, 3])
def test_echoes_of_ge_that_only_their_raw_data_tell_apart_are_no_times(times: int) -> None:
    series = of_one_echo_by_its_header(times, 2)
    assembly = assemble(series)
    assert [volume.suffix for volume in assembly.volumes] == ["e1", "e2"]
    stored = np.array([ds.pixel_array for ds in series]).reshape(times, 2, SLICES, 16, 12)
    for echo, volume in enumerate(assembly.volumes):
        assert np.array_equal(volume.voxels, stored[:, echo])
        assert [warning.name for warning in volume.warnings] == [WarningKind.PARAMETER_VARIES]


@pytest.mark.parametrize("reported", ["0.000000", "3"])
def test_runs_of_raw_data_that_are_not_as_many_as_echoes_divide_nothing(reported: str) -> None:
    [volume] = assemble(numbered(of_one_echo_by_its_header(3, 2, reported=reported))).volumes
    assert volume.voxels.shape[:2] == (6, SLICES)


# Arterial spin labelling of Philips: label type, phase and repetition tell the times apart, whatever the numbers.


SLICES, PHASES, REPEATS = 4, 3, 2
KINDS = ("CONTROL", "LABEL")

NUMBERED = {
    "volume by volume": lambda repeat, kind, phase, place: (repeat, kind, phase, place),
    "slices of all phases": lambda repeat, kind, phase, place: (repeat, kind, place, phase),
    "slices of label and control": lambda repeat, kind, phase, place: (repeat, phase, place, kind),
    "slice by slice": lambda repeat, kind, phase, place: (place, repeat, kind, phase),
}


def labelled(numbered: str, kinds: tuple[str, ...] = KINDS) -> list[FileDataset]:
    """A multi-phase series, volume by volume; the clock is that of the series."""
    volumes = list(product(range(REPEATS), range(2), range(PHASES)))
    series = make.time_series(
        len(volumes),
        SLICES,
        Manufacturer="Philips Medical Systems",
        AcquisitionTime="101500",
        TriggerTime=[str(300 + 250 * phase) for _, _, phase in volumes],
        TemporalPositionIdentifier=[repeat + 1 for repeat, _, _ in volumes],
    )
    places = [(*volume, place) for volume in volumes for place in range(SLICES)]
    order = sorted(places, key=lambda place: NUMBERED[numbered](*place))
    for ds, place in zip(series, places, strict=True):
        ds.InstanceNumber = order.index(place) + 1
        ds.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(0x08, "IS", place[2] + 1)
        ds.private_block(0x2005, "Philips MR Imaging DD 005", create=True).add_new(0x29, "CS", kinds[place[1]])
    return series


@pytest.mark.sample(4)
@pytest.mark.parametrize("kinds", [KINDS, KINDS[::-1]], ids="-".join)
@pytest.mark.parametrize("numbered", NUMBERED)
def test_phases_of_label_and_control_are_times_in_order_of_acquisition(numbered: str, kinds: tuple[str, ...]) -> None:
    series = labelled(numbered, kinds)
    [volume] = (assembly := assemble(series)).volumes
    assert [one.name for one in volume.warnings] == ["irregular-time-steps"], "phases start again after each label"
    [grid] = grids(assembly)
    wanted = in_turn(series, SLICES)
    assert sorted(grid) == sorted(wanted)
    if numbered != "slices of label and control":  # their numbers run by phase, then by label and control
        assert grid == wanted


def test_without_the_label_type_the_times_of_such_numbers_stay_unknown() -> None:
    series = labelled("slices of all phases")
    for ds in series:
        del ds[0x20051029]
    assert [refused.reason for refused in assemble(series).refusals] == ["same-position-twice"]


def test_an_image_without_label_type_in_the_series_leaves_the_order_to_numbers() -> None:
    series = labelled("volume by volume")
    for ds in series[:SLICES]:
        ds[0x20051029].value = "USERDEF"
    [volume] = assemble(series).volumes
    assert np.shape(volume.voxels)[0] == 2 * PHASES * REPEATS


# Volumes that were acquired without excitation: apart from the images of their series, under a name of their own.


CREATOR = "SIEMENS MR SDI 02"
NOISE = ["ORIGINAL", "PRIMARY", "M", "NOISE", "ND"]

Mark = Callable[[FileDataset], None]


def by_image_type(ds: FileDataset) -> None:
    ds.ImageType = NOISE


def by_private_text(ds: FileDataset) -> None:
    ds.private_block(0x0021, CREATOR, create=True).add_new(0x75, "CS", NOISE)


def with_noise(times: int, first: int, mark: Mark, **options: object) -> truth.Truth:
    """Return a series whose times from `first` on are noise."""

    def edit(ds: FileDataset, time: int, _: int) -> None:
        if time >= first:
            mark(ds)

    return truth.series(times, 5, Manufacturer="SIEMENS", **options).edited(edit)  # type: ignore[arg-type]


def times_by_suffix(volumes: tuple[Volume, ...]) -> dict[str, int]:
    return {volume.suffix: volume.times for volume in volumes}


@pytest.mark.sample(3)
@pytest.mark.parametrize("mark", [by_image_type, by_private_text])
@pytest.mark.parametrize("clock", [False, True])
@pytest.mark.parametrize("noise", [1, 3])
def test_noise_is_apart_from_the_images_of_its_series(mark: Mark, clock: bool, noise: int) -> None:
    series = with_noise(8, 8 - noise, mark, clock=clock, NumberOfTemporalPositions=8)
    assembly = assemble(series.datasets)
    assert times_by_suffix(assembly.volumes) == {"": 8 - noise, "norf": noise}
    assert list(truth.lies(assembly, series)) == []
    assert judged(series.datasets, assembly).state == "complete"


def test_a_series_of_noise_alone_needs_no_name_for_it() -> None:
    assert times_by_suffix(assemble(with_noise(4, 0, by_image_type).datasets).volumes) == {"": 4}


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("files", [1, 6])
def test_noise_of_an_enhanced_series_is_apart(private: bool, files: int) -> None:
    whole = make.enhanced_mr(4, 6, Manufacturer="Siemens Healthineers")
    groups = list(whole.PerFrameFunctionalGroupsSequence)
    for group in groups[4 * 4 :]:
        if private:
            own = Dataset()
            own.private_block(0x0021, CREATOR, create=True).add_new(0x75, "CS", NOISE)
            group.private_block(0x0021, CREATOR, create=True).add_new(0xFE, "SQ", Sequence([own]))
        else:
            group.MRImageFrameTypeSequence = [make.dataset(FrameType=NOISE)]
    series = [whole]
    if files > 1:
        series = []
        for time in range(files):
            own_groups = slice(4 * time, 4 * time + 4)
            [ds] = [make.enhanced_mr(4, 1, pixels=whole.pixel_array[own_groups], Manufacturer="Siemens Healthineers")]
            ds.PerFrameFunctionalGroupsSequence = groups[own_groups]
            ds.StudyInstanceUID, ds.SeriesInstanceUID = whole.StudyInstanceUID, whole.SeriesInstanceUID
            ds.FrameOfReferenceUID = whole.FrameOfReferenceUID
            ds.SOPInstanceUID, ds.InstanceNumber = generate_uid(), time + 1
            series.append(ds)
    assembly = assemble(series)
    assert times_by_suffix(assembly.volumes) == {"": 4, "norf": 2}
    noise = next(volume for volume in assembly.volumes if volume.suffix)
    np.testing.assert_array_equal(noise.voxels.reshape(8, *noise.voxels.shape[2:]), whole.pixel_array[16:])
