"""Series whose volumes are known: a head phantom of oblique planes, and evenly spaced CT series.

The head consists of ellipsoids in patient coordinates, so the voxels of any plane can be computed and compared with a
converter's volume. It is not an anatomical atlas, but it is easy to recognise as a head, and a bead on the skin marks
its left side.

The volumes of other series are computed from their files, without the converter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

if TYPE_CHECKING:
    from node.api import Array
    from node.api import Float as Float64

SLICES, ROWS, COLUMNS = 60, 208, 176
PIXEL_MM, STEP_MM = 1.2, 3.4
CENTRE_LPS = np.array([0.0, 2.0, 14.0])
TILT_DEGREES, TURN_DEGREES = 14.0, 6.0
INTERCEPT = -1024
NOISE_HU = 5.0
EDGE_MM = 1.5
"""Width over which one tissue blends into the next, like the point spread of a scanner."""

TOLERANCE_MM = 1e-3
"""Tolerance of positions; NIfTI stores its affine as 32-bit floats."""

Float = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Ellipsoid:
    """A region of one tissue. Centre and radii in mm, LPS; `paired` adds its mirror image across x = 0."""

    hounsfield: float
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    paired: bool = False

    def weight(self, x: Float, y: Float, z: Float) -> Float:
        """Return the weight of the tissue at each point, from 0 (outside) to 1 (inside)."""
        centre_x, centre_y, centre_z = self.centre
        radius_x, radius_y, radius_z = self.radii
        across = np.abs(x) if self.paired else x
        distance = np.sqrt(
            ((across - centre_x) / radius_x) ** 2 + ((y - centre_y) / radius_y) ** 2 + ((z - centre_z) / radius_z) ** 2
        )
        weight: Float = np.clip((1 - distance) * (min(self.radii) / EDGE_MM) + 0.5, 0, 1)
        return weight


OUTSIDE = (
    Ellipsoid(45, (0, 22, -95), (54, 58, 75)),  # neck
    Ellipsoid(40, (0, -40, -42), (60, 54, 66)),  # face
    Ellipsoid(42, (0, -97, -30), (13, 17, 24)),  # nose
    Ellipsoid(45, (79, 14, -14), (7, 17, 27), paired=True),  # ears
    Ellipsoid(42, (32, -62, -8), (27, 30, 25), paired=True),  # lids and brows
    Ellipsoid(38, (0, 6, 24), (77, 98, 88)),  # scalp
)
SKULL = (
    Ellipsoid(1150, (0, 6, 24), (72, 93, 83)),  # outer table
    Ellipsoid(650, (0, 6, 24), (69.5, 90.5, 80.5)),  # diploe
    Ellipsoid(1150, (0, 6, 24), (67, 88, 78)),  # inner table
    Ellipsoid(1000, (33, -56, -10), (21, 27, 20), paired=True),  # rims of the orbits
    Ellipsoid(900, (30, -50, -42), (24, 26, 22), paired=True),  # maxillae
    Ellipsoid(1000, (0, -20, -22), (52, 34, 10)),  # base
    Ellipsoid(1200, (42, 14, -20), (26, 11, 9), paired=True),  # petrous bones
    Ellipsoid(800, (58, 28, -24), (13, 17, 18), paired=True),  # mastoids
    Ellipsoid(1200, (42, -32, -78), (10, 40, 9), paired=True),  # jaw
    Ellipsoid(1300, (0, -78, -80), (34, 12, 9)),  # chin
    Ellipsoid(1700, (0, -78, -68), (24, 9, 5)),  # teeth
    Ellipsoid(700, (0, 38, -90), (22, 19, 60)),  # spine
)
BRAIN = Ellipsoid(36, (0, 6, 24), (64, 85, 75))  # grey matter
INSIDE = (
    Ellipsoid(27, (0, 4, 26), (55, 76, 64)),  # white matter
    Ellipsoid(38, (50, 2, 14), (6, 22, 16), paired=True),  # insulae
    Ellipsoid(6, (57, 2, 14), (2.5, 20, 14), paired=True),  # Sylvian fissures
    Ellipsoid(39, (26, -6, 16), (9, 20, 13), paired=True),  # lentiform nuclei
    Ellipsoid(38, (12, 16, 16), (10, 16, 11), paired=True),  # thalami
    Ellipsoid(5, (10, -22, 28), (6, 21, 9), paired=True),  # frontal horns
    Ellipsoid(5, (14, 8, 36), (6, 30, 8), paired=True),  # bodies of the ventricles
    Ellipsoid(5, (21, 42, 24), (7, 22, 8), paired=True),  # occipital horns
    Ellipsoid(5, (0, 12, 14), (2.6, 15, 10)),  # third ventricle
    Ellipsoid(40, (0, 55, -20), (48, 32, 24)),  # cerebellum
    Ellipsoid(30, (0, 24, -28), (15, 14, 34)),  # brain stem
    Ellipsoid(5, (0, 42, -20), (9, 6, 10)),  # fourth ventricle
    Ellipsoid(280, (0, 32, 18), (3, 3.5, 3)),  # pineal gland
    Ellipsoid(180, (20, 40, 22), (3, 5, 3), paired=True),  # choroid plexus
)
OPENINGS = (
    Ellipsoid(-85, (32, -60, -10), (17, 27, 16), paired=True),  # fat of the orbits
    Ellipsoid(18, (32, -72, -10), (12.5, 12.5, 12.5), paired=True),  # eyes
    Ellipsoid(90, (32, -82, -10), (5, 2.5, 5), paired=True),  # lenses
    Ellipsoid(45, (29, -48, -10), (3, 14, 3), paired=True),  # optic nerves
    Ellipsoid(-980, (28, -54, -42), (14, 16, 14), paired=True),  # maxillary sinuses
    Ellipsoid(-980, (10, -80, 18), (9, 5, 11), paired=True),  # frontal sinuses
    Ellipsoid(-980, (0, -26, -22), (13, 12, 8)),  # sphenoid sinus
    Ellipsoid(-980, (6, -64, -36), (4, 32, 20), paired=True),  # nose
    Ellipsoid(-980, (0, -8, -75), (11, 8, 50)),  # throat
    Ellipsoid(-990, (66, 12, -14), (20, 3.5, 3.5), paired=True),  # ear canals
    Ellipsoid(25, (0, 56, -110), (10, 9, 70)),  # spinal canal
    Ellipsoid(2200, (79, -10, 24), (3.5, 3.5, 3.5)),  # the bead on the left
)


@dataclass(frozen=True, slots=True, eq=False)
class Phantom:
    """The series, and the volume that it must yield.

    `instances`: not in the order of their positions, as from some senders.
    `hounsfield`, (slices, rows, columns) int16: voxels, with slices in order along the normal of the planes.
    `affine_lps`, (4, 4) float64, mm: from (column, row, slice) to LPS+.
    """

    instances: list[Dataset]
    hounsfield: NDArray[np.int16]
    affine_lps: NDArray[np.float64]

    @property
    def series_instance_uid(self) -> str:
        return str(self.instances[0].SeriesInstanceUID)


def head_phantom() -> Phantom:
    """Return an oblique CT series of a head: 60 slices, always the same voxels, but new UIDs."""
    affine = _affine()
    tissue = np.stack([_plane(affine, index) for index in range(SLICES)])
    noise = np.random.default_rng(20240229).normal(0, NOISE_HU, tissue.shape)
    hounsfield = np.clip(np.rint(tissue + noise), INTERCEPT, 3071).astype(np.int16)
    shared = _shared_attributes()
    order = np.random.default_rng(1).permutation(SLICES)
    instances = [_instance(shared, affine, hounsfield[index], int(index)) for index in order]
    return Phantom(instances, hounsfield, affine)


def _affine() -> NDArray[np.float64]:
    """Return the affine to LPS of the planes, tilted about x (front up) and turned about z."""
    tilt, spin = np.radians(TILT_DEGREES), np.radians(TURN_DEGREES)
    about_x = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    about_z = np.array([[np.cos(spin), -np.sin(spin), 0], [np.sin(spin), np.cos(spin), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag([PIXEL_MM, PIXEL_MM, STEP_MM])
    affine[:3, 3] = CENTRE_LPS - affine[:3, :3] @ (np.array([COLUMNS - 1, ROWS - 1, SLICES - 1]) / 2)
    return affine


def _plane(affine: NDArray[np.float64], index: int) -> Float:
    """Return the Hounsfield units of one plane, (rows, columns)."""
    row, column = np.mgrid[:ROWS, :COLUMNS]
    x, y, z = (
        (affine[axis, 0] * column + affine[axis, 1] * row + affine[axis, 2] * index + affine[axis, 3]).astype(
            np.float32
        )
        for axis in range(3)
    )
    plane = np.full((ROWS, COLUMNS), -1000, np.float32)
    for shape in (*OUTSIDE, *SKULL):
        _blend(plane, shape.hounsfield, shape.weight(x, y, z))
    inside = BRAIN.weight(x, y, z)
    brain = np.full_like(plane, BRAIN.hounsfield)
    for shape in INSIDE:
        _blend(brain, shape.hounsfield, shape.weight(x, y, z))
    _blend(brain, 5, _furrows(x, y, z))
    _blend(brain, 60, np.clip(1.2 - np.abs(x) / 1.2, 0, 1) * (z > 42 - 0.0045 * (y - 6) ** 2))  # falx
    _blend(plane, brain, inside)
    for shape in OPENINGS:
        _blend(plane, shape.hounsfield, shape.weight(x, y, z))
    _blend(plane, 120, _headrest(x, y, z))
    return plane


def _furrows(x: Float, y: Float, z: Float) -> Float:
    """Return the weight of the fluid in the sulci."""
    centre_x, centre_y, centre_z = BRAIN.centre
    radius_x, radius_y, radius_z = BRAIN.radii
    u, v, w = (x - centre_x) / radius_x, (y - centre_y) / radius_y, (z - centre_z) / radius_z
    depth = 1 - np.sqrt(u * u + v * v + w * w)
    around = np.arctan2(v, np.abs(u))
    folds = np.sin(17 * around + 2.5 * np.sin(9 * w)) + 0.7 * np.sin(15 * w + 3 * np.sin(5 * around))
    furrows: Float = (
        np.clip((folds - 0.85) * 3, 0, 1) * np.clip((0.2 - depth) / 0.05, 0, 1) * np.clip((w + 0.5) * 6, 0, 1)
    )
    return furrows


def _headrest(x: Float, y: Float, z: Float) -> Float:
    """Return the weight of a headrest: a thin shell under the head."""
    distance = np.hypot(x / 105, y / 112) * 105
    shell: Float = np.clip(1.6 - np.abs(distance - 104), 0, 1) * (y > 45) * (z > -60)
    return shell


def _blend(tissue: Float, other: float | Float, weight: Float) -> None:
    tissue += (other - tissue) * weight


def _shared_attributes() -> Dataset:
    """Return the attributes shared by all instances (PS3.3 A.3, CT Image IOD)."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = CTImageStorage
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = "20240229"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = "120000"
    ds.AccessionNumber = ""
    ds.Modality = "CT"
    ds.Manufacturer = "voxelnode"
    ds.ManufacturerModelName = "head phantom"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "voxelnode demo"
    ds.SeriesDescription = "Oblique head phantom"
    ds.PatientName = "Phantom^Head"
    ds.PatientID = "VOXELNODE-DEMO"
    ds.PatientBirthDate = ""
    ds.PatientSex = "O"
    ds.BodyPartExamined = "HEAD"
    ds.SliceThickness = STEP_MM
    ds.KVP = "120"
    ds.PatientPosition = "HFS"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    ds.StudyID = "1"
    ds.SeriesNumber = 1
    ds.PositionReferenceIndicator = ""
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = ROWS, COLUMNS
    ds.PixelSpacing = [PIXEL_MM, PIXEL_MM]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = INTERCEPT, 1, "HU"
    ds.WindowCenter, ds.WindowWidth = 40, 110
    return ds


def _instance(shared: Dataset, affine: NDArray[np.float64], hounsfield: NDArray[np.int16], index: int) -> Dataset:
    ds = Dataset()
    ds.update(shared)
    ds.SOPInstanceUID = generate_uid()
    ds.InstanceNumber = SLICES - index  # descends along the normal: a converter must order by position
    ds.ImagePositionPatient = list(_decimal(affine[:3, 3] + affine[:3, 2] * index))
    ds.ImageOrientationPatient = [*_decimal(affine[:3, 0] / PIXEL_MM), *_decimal(affine[:3, 1] / PIXEL_MM)]
    ds.PixelData = (hounsfield - INTERCEPT).astype("<u2").tobytes()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def _decimal(numbers: NDArray[Any]) -> Iterator[str]:
    """Yield decimal strings of at most 16 characters (PS3.5 6.2)."""
    for number in numbers:
        yield f"{number:.10f}"[:16]


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The expected volume of one series.

    `title`: descriptive name.
    `voxels`: (slices, rows, columns), Hounsfield units
    `affine_lps`, (4, 4) float64, mm: from (column, row, slice) to LPS+; the slice axis of a single slice is ignored.
    """

    title: str
    voxels: Array
    affine_lps: Float64


def truth_of_files(title: str, paths: Sequence[Path]) -> tuple[str, Truth]:
    """Return the Series Instance UID and the expected volume of an evenly spaced CT series, read from its files.

    PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1.
    """
    instances = [dcmread(path) for path in paths]
    orientation = np.array(instances[0].ImageOrientationPatient, dtype=float)
    along_row, down_column = orientation[:3], orientation[3:]
    normal = np.cross(along_row, down_column)
    instances.sort(key=lambda ds: float(normal @ np.array(ds.ImagePositionPatient, dtype=float)))
    first, last = (np.array(instances[index].ImagePositionPatient, dtype=float) for index in (0, -1))
    between_rows, between_columns = map(float, instances[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0] = along_row * between_columns
    affine[:3, 1] = down_column * between_rows
    affine[:3, 2] = (last - first) / (len(instances) - 1) if len(instances) > 1 else normal
    affine[:3, 3] = first
    voxels = np.stack([ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in instances])
    return str(instances[0].SeriesInstanceUID), Truth(title, voxels, affine)


def difference(truth: Truth, voxels: Array, affine_lps: Float64) -> str | None:
    """Return how a volume differs from the truth, or None if every voxel has the correct value and position.

    Axes may have a different order or direction if the affine agrees.

    `voxels`, (columns, rows, slices): real-world values.
    `affine_lps`, (4, 4) float64, mm: from (column, row, slice) to LPS+.
    """
    expected = truth.voxels.transpose(2, 1, 0)
    right = truth.affine_lps.copy()
    if expected.shape[2] == 1:
        right[:3, 2] = affine_lps[:3, 2]
    # From indices of the volume to indices of the truth: a rotation by quarter turns if the axes are correct.
    between = np.linalg.inv(right) @ affine_lps
    spin = np.rint(between[:3, :3]).astype(int)
    if not np.array_equal(np.abs(spin).sum(axis=0), [1, 1, 1]) or not np.array_equal(
        np.abs(spin).sum(axis=1), [1, 1, 1]
    ):
        return "axes or spacing differ"
    axes = np.abs(spin).argmax(axis=0)
    rotated = expected.transpose(axes)
    rotated = rotated[tuple(slice(None, None, spin[axis, index]) for index, axis in enumerate(axes))]
    if voxels.shape != rotated.shape:
        return f"shape is {voxels.shape}, expected {rotated.shape}"
    off = _farthest_corner_mm(right, affine_lps, spin, expected.shape, voxels.shape)
    if off > TOLERANCE_MM:
        return f"a corner is off by {off:.4f} mm"
    wrong = int(np.count_nonzero(voxels != rotated))
    return f"{wrong} voxels have wrong values" if wrong else None


def _farthest_corner_mm(
    right: Float64, affine: Float64, spin: Array, expected_shape: tuple[int, ...], found_shape: tuple[int, ...]
) -> float:
    """Return the largest distance in mm between corner voxels (centres) of the volume and of the truth."""
    corners = np.array([np.unravel_index(corner, (2, 2, 2)) for corner in range(8)])
    indices = corners * (np.array(found_shape) - 1)
    # On a reversed axis, index 0 is the truth's last index.
    start = np.where(spin.sum(axis=1) < 0, np.array(expected_shape) - 1, 0)
    of_truth = indices @ spin.T + start
    corners_mm = indices @ affine[:3, :3].T + affine[:3, 3]
    return float(np.linalg.norm(of_truth @ right[:3, :3].T + right[:3, 3] - corners_mm, axis=1).max())
