"""The records of a conversion that its child process needs, apart from the others because each takes time to define."""

from dataclasses import dataclass

SeriesKey = tuple[str, str]
"""Study Instance UID and Series Instance UID: the same Series Instance UID in two studies means two series."""


@dataclass(frozen=True, slots=True)
class ClaimedInstance:
    """One instance of a claimed series, with its archive key, and its data set as received."""

    sop_instance_uid: str
    key: str
    sha256: str
    data_set_offset: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ConvertedFile:
    """One row of `volumes`; `path` is relative to the folder of the job, and in the index relative to the root.

    `affine_lps` leads from voxel index (column, row, slice) of this file to LPS+ in mm; None if the file has none, or
    no voxels. The columns after `sha256` describe the scan; see `node.volume.describe.scan_parameters`.
    """

    stack: int
    suffix: str
    kind: str
    format: str
    path: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    dtype: str
    geometry: str
    orientation: str | None
    instances: int
    warnings: tuple[str, ...]
    bytes: int
    sha256: str
    affine_lps: tuple[tuple[float, ...], ...] | None = None
    slice_thickness_mm: float | None = None
    repetition_time_ms: float | None = None
    echo_time_ms: float | None = None
    inversion_time_ms: float | None = None
    flip_angle_degrees: float | None = None
    magnetic_field_strength_t: float | None = None
    sequence: str | None = None
    weighting: str | None = None
    contrast_agent: str | None = None
    convolution_kernel: str | None = None
