"""Headers that are wrong are mended where other values prove it, and only then; the sidecar names these values."""

import numpy as np
import pytest
from pydicom import FileDataset

from node.volume.assemble import assemble
from node.volume.model import Volume
from node.volume.reasons import WarningKind
from tests import make
from tests.mirrored import image, polarity_series
from tests.unit.volume.grids import warned

MATRIX = ("XX", "XY", "XZ", "YY", "YZ", "ZZ")


@pytest.mark.parametrize(("scheme", "stored", "reversed_times"), [(2, "RFRF", (0, 2)), (3, "FRFR", (1, 3))])
def test_mirrored_volumes_are_turned_back_and_apart(scheme: int, stored: str, reversed_times: tuple[int, ...]) -> None:
    assembly = assemble(polarity_series(scheme, stored=stored))
    forward, mirrored = assembly.volumes
    assert (forward.suffix, mirrored.suffix) == ("dirPA", "dirAP")
    assert warned(assembly) == {WarningKind.REPAIRED}
    assert f"(0019,xxB3) of epi_pepolar is {scheme}" in forward.warnings[0].detail
    for volume, times in ((forward, set(range(4)).difference(reversed_times)), (mirrored, reversed_times)):
        for index, time in enumerate(sorted(times)):
            np.testing.assert_array_equal(volume.voxels[index], [image(time, slice_) for slice_ in range(4)])
        np.testing.assert_array_equal(volume.affine_lps, forward.affine_lps)
        assert volume.time_step_s is None
    assert forward.attributes["PhaseEncodingDirection"] == "j-"
    assert mirrored.attributes["PhaseEncodingDirection"] == "j"
    assert mirrored.attributes["PhaseEncodingPolarityGE"] != forward.attributes["PhaseEncodingPolarityGE"]


@pytest.mark.parametrize(
    "series",
    [
        polarity_series(2, stored="RFFR"),  # a volume was lost: the order of the others does not follow the scheme
        polarity_series(2, stored="FFFF"),
        polarity_series(0, stored="FFFF"),
        polarity_series(2, InPlanePhaseEncodingDirection="ROW"),
        polarity_series(2, RectilinearPhaseEncodeReordering=None),
    ],
)
def test_volumes_that_are_not_proved_to_be_mirrored_stay_as_they_are(series: list[FileDataset]) -> None:
    assembly = assemble(series)
    [volume] = assembly.volumes
    assert volume.times == 4
    assert WarningKind.POLARITY_REVERSED in warned(assembly)


def test_no_volume_is_turned_if_that_is_switched_off() -> None:
    [volume] = assemble(polarity_series(2), repair=False).volumes
    np.testing.assert_array_equal(volume.voxels[0, 0], image(0, 0)[::-1])


def matrix_series(written: tuple[float, ...], b_value: float = 1000.0) -> list[FileDataset]:
    series = make.mr_series(
        4, Manufacturer="Bruker BioSpin MRI GmbH", ImageType=r"ORIGINAL\PRIMARY\DIFFUSION\NONE", DiffusionBValue=b_value
    )
    for ds in series:
        ds.DiffusionDirectionality = "BMATRIX"
        ds.DiffusionBMatrixSequence = [
            make.dataset(**{f"DiffusionBValue{name}": value for name, value in zip(MATRIX, written, strict=True)})
        ]
    return series


def elements(direction: tuple[float, float, float], b_value: float = 1000.0) -> np.ndarray:
    return b_value * np.outer(direction, direction)


@pytest.mark.parametrize("direction", [(0.6, 0.0, 0.8), (0.48, 0.6, 0.64), (0.0, 0.6, 0.8), (0.0, 0.0, 1.0)])
@pytest.mark.parametrize("is_right", [False, True])
def test_the_matrix_that_bruker_wrote_into_wrong_attributes_is_put_right(
    direction: tuple[float, float, float], is_right: bool
) -> None:
    matrix = elements(direction)
    written = tuple(matrix[np.triu_indices(3)] if is_right else matrix.ravel()[:6])
    assembly = assemble(matrix_series(written))
    [entry] = assembly.volumes[0].diffusion or ()
    assert abs(np.dot(entry.direction_lps, direction)) == pytest.approx(1, abs=1e-6)
    assert (WarningKind.REPAIRED in warned(assembly)) != is_right


def nine_elements(*matrices: np.ndarray) -> str:
    """What ParaVision writes of its matrices, with its notation for repeated zeros."""
    numbers = " ".join(
        "@3*(0)" if not row.any() else " ".join(map(repr, map(float, row))) for row in np.vstack(matrices)
    )
    return (
        f"##TITLE=Parameters\n##$VisuAcqDiffusionBMatrix=( {len(matrices)}, 3, 3 )\n{numbers}\n##$VisuAcqSize=( 2 )\n"
    )


def test_the_nine_elements_of_bruker_prove_a_matrix_that_imaging_gradients_made_of_several_directions() -> None:
    matrix = elements((0.48, 0.6, 0.64)) + 200 * np.eye(3)  # more than one gradient, and more than the b-value
    series = matrix_series(tuple(matrix.ravel()[:6]))
    alone = assemble(series).volumes[0].diffusion or ()
    for ds in series:
        block = ds.private_block(0x0177, "BRUKER PARAVISION", create=True)
        block.add_new(0x01, "LT", nine_elements(np.zeros((3, 3)), matrix))
    assembly = assemble(series)
    [entry] = assembly.volumes[0].diffusion or ()
    assert alone[0].direction_lps is None
    assert abs(np.dot(entry.direction_lps, (0.48, 0.6, 0.64))) == pytest.approx(1, abs=1e-6)
    [repaired] = [each for each in assembly.volumes[0].warnings if each.name is WarningKind.REPAIRED]
    assert "VisuAcqDiffusionBMatrix" in repaired.detail


@pytest.mark.parametrize(
    "text",
    [
        "##$VisuAcqDiffusionBMatrix=( 1, 3, 3 )\n1 2 3\n",
        "##$VisuAcqDiffusionBMatrix=( 999999999999, 3, 3 )\n@9*(1)",
        "##$VisuAcqDiffusionBMatrix=( 1, 3, 3 )\n@99999999999*(0)",
        "##$VisuAcqDiffusionBMatrix=( 1, 3, 3 )\n@x*(0) a",
    ],
)
def test_no_text_of_bruker_that_is_damaged_gives_a_matrix(text: str) -> None:
    series = matrix_series((200.0, 100.0, 0.0, 300.0, 50.0, 10.0))
    for ds in series:
        ds.private_block(0x0177, "BRUKER PARAVISION", create=True).add_new(0x01, "LT", text)
    [entry] = assemble(series).volumes[0].diffusion or ()
    assert entry.direction_lps is None


@pytest.mark.parametrize("written", [(200.0, 100.0, 0.0, 300.0, 50.0, 10.0), (300.0, 0.0, 0.0, 0.0, 300.0, 0.0)])
def test_a_matrix_that_contradicts_the_b_value_gives_no_direction(written: tuple[float, ...]) -> None:
    assembly = assemble(matrix_series(written))
    [entry] = assembly.volumes[0].diffusion or ()
    assert entry.direction_lps is None
    assert warned(assembly) >= {WarningKind.NO_DIFFUSION_DIRECTIONS}
    assert WarningKind.REPAIRED not in warned(assembly)


def test_no_matrix_is_put_right_if_that_is_switched_off() -> None:
    assembly = assemble(matrix_series(tuple(elements((0.48, 0.6, 0.64)).ravel()[:6])), repair=False)
    [entry] = assembly.volumes[0].diffusion or ()
    assert entry.direction_lps is None
    assert WarningKind.NO_DIFFUSION_DIRECTIONS in warned(assembly)


# GE's sequence for both polarities of the phase encoding: its images may be mirrored, which is told.


@pytest.mark.parametrize(
    ("manufacturer", "sequence", "reported"),
    [
        ("GE MEDICAL SYSTEMS", "/psd/epi_pepolar", True),
        ("GE MEDICAL SYSTEMS", "epi2", False),
        ("SIEMENS", "epi_pepolar", False),
    ],
)
def test_images_that_may_be_mirrored_are_reported(manufacturer: str, sequence: str, reported: bool) -> None:
    series = make.mr_series(4, Manufacturer=manufacturer)
    for ds in series:
        ds.private_block(0x0019, "GEMS_ACQU_01", create=True).add_new(0x9C, "LO", sequence)
    [volume] = assemble(series).volumes
    assert (WarningKind.POLARITY_REVERSED in {warning.name for warning in volume.warnings}) is reported


# Diffusion series whose headers state the b-value of the scan, or no direction of some volumes.


SLICES = 3
NONE = (0.0, 0.0, 0.0)
SIX = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0.6, 0.8, 0), (0, 0.6, 0.8), (0.8, 0, 0.6))
VENDORS = ("GE", "SIEMENS", "PHILIPS", "CANON", "UIH")
PRIVATE_DIRECTIONS = (0x001910BB, 0x001910BC, 0x001910BD, 0x200510B0, 0x200510B1, 0x200510B2, 0x0019100E, 0x00651037)

Weighting = tuple[int, tuple[float, ...] | None]


def weigh(ds: FileDataset, vendor: str, b_value: int, direction: np.ndarray) -> None:
    """Write a weighting as the vendor does."""
    words = [f"{value:.3f}" for value in direction]
    if vendor == "GE":
        ds.Manufacturer, ds.SoftwareVersions = "GE MEDICAL SYSTEMS", "27"
        ds.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x39, "IS", [b_value, 8, 0, 0])
        block = ds.private_block(0x0019, "GEMS_ACQU_01", create=True)
        for offset, word in zip((0xBB, 0xBC, 0xBD), words, strict=True):
            block.add_new(offset, "DS", word)
    elif vendor == "CANON":
        ds.Manufacturer, ds.SoftwareVersions, ds.DiffusionBValue = "CANON_MEC", "V6.0", float(b_value)
        if b_value:
            ds.ImageComments = f"b={b_value}({','.join(words)})"
    elif vendor == "PHILIPS":
        ds.Manufacturer, ds.DiffusionBValue = "Philips Medical Systems", float(b_value)
        ds.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(0x03, "FL", float(b_value))
        block = ds.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
        for offset, word in zip((0xB0, 0xB1, 0xB2), words, strict=True):
            block.add_new(offset, "FL", float(word))
    elif vendor == "SIEMENS":
        ds.Manufacturer, ds.SoftwareVersions = "SIEMENS", "syngo MR E11"
        block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0C, "IS", b_value)
        block.add_new(0x0D, "CS", "DIRECTIONAL" if b_value else "NONE")
        if b_value:
            block.add_new(0x0E, "FD", list(map(float, words)))
    else:
        ds.Manufacturer = "UIH"
        block = ds.private_block(0x0065, "Image Private Header", create=True)
        block.add_new(0x09, "FD", float(b_value))
        block.add_new(0x37, "FD", list(map(float, words)))


def series(vendor: str, weightings: list[Weighting]) -> list[FileDataset]:
    """A time for each b-value and direction; without a direction, its elements are absent."""
    found = make.time_series(len(weightings), SLICES, InPlanePhaseEncodingDirection="COL")
    for index, ds in enumerate(found):
        b_value, direction = weightings[index // SLICES]
        weigh(ds, vendor, b_value, np.array(direction or NONE))
        if direction is None:
            for tag in PRIVATE_DIRECTIONS:
                ds.pop(tag, None)
            ds.pop("ImageComments", None)
    return found


def enhanced(vendor: str, weightings: list[Weighting]) -> FileDataset:
    ds = make.enhanced_mr(SLICES, len(weightings), Manufacturer=vendor)
    for index, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        b_value, direction = weightings[index // SLICES]
        item = make.dataset(
            DiffusionBValue=float(b_value), DiffusionDirectionality="DIRECTIONAL" if b_value else "NONE"
        )
        if direction is not None and b_value:
            item.DiffusionGradientDirectionSequence = [make.dataset(DiffusionGradientOrientation=list(direction))]
        group.MRDiffusionSequence = [item]
    return ds


def b_values(volume: Volume) -> list[float]:
    return [weighting.b_value for weighting in volume.diffusion]


def says(volume: Volume) -> str:
    return "; ".join(
        warning.detail for warning in volume.warnings if warning.name is WarningKind.NO_DIFFUSION_DIRECTIONS
    )


def shell(b_value: int, *directions: tuple[float, ...]) -> list[Weighting]:
    return [(b_value, direction) for direction in directions]


def halved(directions: tuple[tuple[float, ...], ...]) -> list[tuple[float, ...]]:
    return [tuple(part / 2 for part in direction) for direction in directions]


@pytest.mark.parametrize("stated", [1000, 0], ids=["every image states that of the scan", "the first states 0"])
def test_volumes_of_a_tensor_file_of_ge_without_a_gradient_are_unweighted(stated: int) -> None:
    rest = shell(1000, SIX[0], NONE, *SIX[1:], *halved(SIX[:2]))
    [volume] = assemble(series("GE", [(stated, NONE), *rest])).volumes
    assert b_values(volume) == [0, 1000, 0, 1000, 1000, 1000, 1000, 1000, 250, 250]
    assert not says(volume)


@pytest.mark.parametrize("has_orientation", [False, True])
def test_the_b_value_of_the_standard_is_that_of_the_scan_too_in_images_of_ge(has_orientation: bool) -> None:
    weightings = shell(1000, NONE, *halved(SIX))
    images = series("GE", weightings)
    for index, ds in enumerate(images):
        ds.DiffusionBValue = 1000.0
        if has_orientation:
            ds.DiffusionGradientOrientation = list(weightings[index // SLICES][1] or NONE)
    [volume] = assemble(images).volumes
    assert b_values(volume) == [0, *[250] * 6]


def test_enhanced_images_of_ge_without_a_gradient_are_unweighted() -> None:
    [volume] = assemble([enhanced("GE MEDICAL SYSTEMS", shell(1000, NONE, *SIX, *halved(SIX[:1])))]).volumes
    assert b_values(volume) == [0, *[1000] * 6, 250]


@pytest.mark.parametrize(
    ("group", "creator", "offset", "vr"), [(0x0043, "GEMS_PARM_01", 0x30, "SS"), (0x0021, "GEMS_RELA_01", 0x5A, "SL")]
)
def test_images_by_a_tensor_file_of_ge_say_so_and_are_unweighted_without_a_gradient(
    group: int, creator: str, offset: int, vr: str
) -> None:
    images = series("GE", [(0, NONE), *shell(1000, NONE, *SIX[:3], NONE)])
    for ds in images[SLICES:]:
        ds.private_block(group, creator, create=True).add_new(offset, vr, 16)
    [volume] = assemble(images).volumes
    assert b_values(volume) == [0, 0, 1000, 1000, 1000, 0]


def test_combined_images_of_ge_stay_weighted_and_have_a_warning() -> None:
    [volume] = assemble(series("GE", [(0, NONE), *shell(1000, *SIX[:3], NONE)])).volumes
    assert b_values(volume) == [0, 1000, 1000, 1000, 1000]
    assert says(volume).startswith("1 of 4 ")
    flagged = series("GE", [(0, NONE), *shell(1000, *SIX, NONE)])
    for ds in flagged[-SLICES:]:
        ds.private_block(0x0043, "GEMS_PARM_01").add_new(0x30, "SS", 15)
    [volume] = assemble(flagged).volumes
    assert b_values(volume)[-1] == 1000
    assert says(volume).startswith("1 of 7 ")


@pytest.mark.sample(4)
@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("direction", [None, NONE], ids=["absent", "zeros"])
def test_a_weighted_volume_without_a_direction_among_others_is_reported(
    vendor: str, direction: tuple[float, ...] | None
) -> None:
    times = [(0, NONE), (1000, direction), *shell(1000, *SIX)]
    found = assemble(series(vendor, times)).volumes
    if direction == NONE and vendor == "GE":
        assert b_values(found[0])[1] == 0
    elif direction == NONE and vendor == "PHILIPS":  # its trace images have zeros
        assert [volume.suffix for volume in found] == ["", "map"]
    else:
        assert says(found[0]) == "1 of 7 diffusion weighted times have no gradient direction: zeros stand for it"
    [volume] = assemble([enhanced(vendor, times)]).volumes
    assert says(volume).startswith("1 of 7 ") != (vendor == "GE" and direction == NONE)


@pytest.mark.parametrize(
    ("stated", "name", "is_doubtful"),
    [
        (1, "*ep_b1000#{}", True),
        (10, "*ep_b1000t", True),
        (1000, "*ep_b50t", True),
        (1000, "*ep_b1000#{}", False),
        (1025, "*re_b1000t", False),  # the measured b-value
        (45, "*ep_b0", False),
        (1000, "*ep_b50_1000", False),  # the two b-values of a map
        (1000, "epi_b", False),
    ],
)
def test_a_b_value_that_the_sequence_name_contradicts_is_reported(stated: int, name: str, is_doubtful: bool) -> None:
    found = series("SIEMENS", [(0, NONE), *shell(stated, *SIX[:2])])
    for index, ds in enumerate(found):
        ds.SequenceName = name.format(index // SLICES) if index >= SLICES else "*ep_b0"
    [volume] = assemble(found).volumes
    assert b_values(volume) == [0, stated, stated]
    doubts = [warning.detail for warning in volume.warnings if warning.name == "b-values-doubtful"]
    assert bool(doubts) == is_doubtful
    assert not is_doubtful or doubts[0].startswith(f"6 of 9 images state b = {stated}, and ")
