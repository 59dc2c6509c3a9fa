"""[convert], apart from the other tables: to define those takes longer than the conversion of a slice."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from node.settings.section import Seconds, SettingsSection

VolumeFormat = Literal["nifti", "nifti-pair", "analyze", "mhd", "nrrd", "npz"]
PlaneName = Literal["axial", "coronal", "sagittal"]
SuvTypeName = Literal["BW", "LBM", "LBMJAMES128", "BSA"]


class Convert(SettingsSection):
    """[convert]: the files made from a quiet series, and the limits of a conversion."""

    formats: tuple[VolumeFormat, ...] = Field(("nifti", "mhd"), min_length=1, description="file formats of each volume")
    compress: bool = Field(True, description="write .nii.gz and .zraw instead of .nii and .raw")
    nifti_extension: bool = Field(
        False, description="put the sidecar into the header of NIfTI files, too (extension, code 6)"
    )
    thumbnails: bool = Field(True, description="write a PNG of the middle slice beside each volume")
    previews: bool = Field(False, description="write a PNG of three orthogonal planes beside each volume")
    projections: bool = Field(
        False,
        description="write PNGs of the maximum and minimum intensity projections along three axes (of a head, "
        "they show the face)",
    )
    montages: bool = Field(False, description="write a PNG of every fifth slice beside each volume")
    slices: bool = Field(False, description="write a PNG of every slice beside each volume, of its middle time")
    projected_planes: tuple[PlaneName, ...] = Field(
        (),
        description="write the maximum and minimum intensity projections on these planes as volumes of one slice",
    )
    mask_above: float | None = Field(
        None,
        allow_inf_nan=False,
        description="write a mask beside each volume, of every voxel with at least this real value, such as 300 HU",
    )
    mask_below: float | None = Field(
        None, allow_inf_nan=False, description="the same with at most this value; with both, the values between them"
    )
    body_masks: bool = Field(False, description="write a label volume of the body beside each CT volume")
    body_contours: bool = Field(
        False, description="write the outlines of the body beside each CT volume: polygons in mm, as JSON"
    )
    masked_volumes: bool = Field(
        False, description="write a second volume beside each CT volume, with air outside of the body"
    )
    suv: bool = Field(
        False,
        description="write volumes of standardised uptake values beside each PET volume, one for each of suv_types",
    )
    suv_types: tuple[SuvTypeName, ...] = Field(
        ("BW",),
        min_length=1,
        description="uptake by BW (body weight), LBM (lean body mass, formula with 120), LBMJAMES128 (with 128), "
        "BSA (body surface)",
    )
    repair: bool = Field(
        True,
        description="mend wrong headers where other values prove it; the warning repaired names these values",
    )
    workers: int = Field(1, ge=1, le=64, description="series converted at the same time, each in its own process")
    memory_bytes: int = Field(
        8_000_000_000,
        ge=500_000_000,
        description="address space of one conversion beyond that of its program, in bytes; up to four processes "
        "that decode for it have a quarter each",
    )
    deadline_seconds: Seconds = Field(
        1800, description="time limit of one conversion, for wall time and for processor time"
    )
    keep_superseded_hours: float = Field(
        24, ge=0, description="time that files are kept after a newer conversion replaced them"
    )
