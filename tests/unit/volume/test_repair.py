"""Headers that are wrong are mended where other values prove it, and only then; the sidecar names these values."""

import numpy as np
import pytest
from pydicom import FileDataset

from node.volume.assemble import assemble
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
