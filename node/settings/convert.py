"""[convert], apart from the other tables: to define those takes longer than the conversion of a slice."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from node.settings.section import Seconds, SettingsSection

VolumeFormat = Literal["nifti", "nifti-pair", "analyze", "mhd", "nrrd", "npz"]
OTHER_NAMES = {
    **dict.fromkeys(("metaimage", "mha"), "mhd"),
    **dict.fromkeys(("nii", "nii.gz", "nifti1"), "nifti"),
    **dict.fromkeys(("numpy", "npy"), "npz"),
}
"""Names that formats have elsewhere."""

SuvTypeName = Literal["BW", "LBM", "LBMJAMES128", "BSA"]


class Convert(SettingsSection):
    """[convert]: the files made from a quiet series, and the limits of a conversion."""

    formats: tuple[VolumeFormat, ...] = Field(("nifti", "mhd"), min_length=1, description="File formats of each volume")
    compress: bool = Field(True, description="Write .nii.gz and .zraw instead of .nii and .raw.")
    nifti_extension: bool = Field(
        False, description="Put the sidecar into the header of NIfTI files, too (extension, code 6)."
    )
    thumbnails: bool = Field(True, description="Write a PNG of the middle slice beside each volume.")
    thumbnail_pixels: int = Field(256, ge=16, le=4096, description="Long side of a thumbnail.")
    previews: bool = Field(False, description="Write a PNG of three orthogonal planes.")
    projections: bool = Field(
        False, description="Write PNGs of intensity projections along three axes (of a head, they show the face)."
    )
    montages: bool = Field(False, description="Write a PNG of every fifth slice.")
    slices: bool = Field(False, description="Write a PNG of every slice, of its middle time.")
    body_masks: bool = Field(False, description="Write a label volume of the body beside each CT volume.")
    body_contours: bool = Field(
        False, description="Write the outlines of the body beside each CT volume: polygons in mm, as JSON."
    )
    masked_volumes: bool = Field(
        False, description="Write a second volume beside each CT volume, with air outside of the body."
    )
    body_threshold_hu: float = Field(
        -300.0, ge=-1024, le=3071, description="Value above which a voxel of a CT may belong to the body."
    )
    suv: bool = Field(False, description="Write volumes of standardised uptake values beside each PET volume.")
    suv_types: tuple[SuvTypeName, ...] = Field(
        ("BW",),
        min_length=1,
        description="Uptake by body weight, lean body mass (120 or 128 in the formula of James), or body surface",
    )
    repair: bool = Field(
        True, description="Correct wrong headers where other values prove it, with a warning that names these values."
    )
    workers: int = Field(1, ge=1, le=64, description="Series converted at the same time, each in its own process.")
    memory_bytes: int = Field(
        8_000_000_000, ge=500_000_000, description="Address space of one conversion beyond that of its program."
    )
    deadline_seconds: Seconds = Field(
        1800, description="Time limit of one conversion, for wall time and for processor time."
    )
    keep_superseded_hours: float = Field(
        24, ge=0, description="Hours that files are kept after a newer conversion replaced them."
    )
