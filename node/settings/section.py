"""What all tables of the configuration have in common, and [convert].

Child processes read [convert] without the others: to define those takes longer than the conversion of a slice.
"""

import re
from collections.abc import Iterator, Sized
from contextlib import suppress
from ipaddress import ip_address
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from node.settings import DEADLINE_SECONDS, MEMORY_BYTES, VolumeFormat

AETitle = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=16, pattern=r"^[ -\[\]-~]+$")
]
"""An AE title, PS3.5 6.2: 1 to 16 characters, no backslash, no control characters; surrounding spaces are removed."""

PeerTitle = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=16, pattern=r"^[ -~\u00a1-\u00ac\u00ae-\u00ff]+$"
    ),
]
"""The AE title of another device, which may have a backslash and Latin-1: real devices have such."""


def _host(text: str) -> str:
    if port := re.fullmatch(r"([^\s/:@]+):(\d+)", text):
        raise ValueError(f'has a port: write host = "{port[1]}" and port = {port[2]}')
    if re.search(r"[\s/:@]", text):
        with suppress(ValueError):
            ip_address(text)
            return text
        raise ValueError('must be a name or an address, such as "10.1.2.7"')
    return text


def _hours(text: str) -> str:
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d", text):
        raise ValueError('must be two times of a day, such as "20:00-06:00"')
    return text


Hours = Annotated[str, AfterValidator(_hours)]
"""Hours in which something may happen, in the time zone of the machine."""

Host = Annotated[str, AfterValidator(_host)]
"""The name or the address of a machine; its port is a key of its own."""

Seconds = Annotated[float, Field(gt=0, le=7 * 86400)]
Days = Annotated[float, Field(gt=0, le=36525)]
HookName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


def table_of(annotation: Any) -> Any:
    """Return the type of the tables of a section: its own, or that of the tables with names in it, [peers.CT1]."""
    table = get_args(annotation)[1] if get_origin(annotation) is dict else annotation
    return get_args(table)[0] if get_origin(table) is Annotated else table  # one of several kinds


class SettingsSection(BaseModel):
    """A table of the configuration: unknown keys are errors, and values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _is_not_empty(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse ``""``, which is this folder as a path and every address as a host; a default may be empty.

        A list or a table that restricts is unset by default: an empty one, from which each name has vanished, is not
        "all".
        """
        field = cls.model_fields[str(info.field_name)]
        is_empty = value == "" or (field.default is None and isinstance(value, Sized) and len(value) == 0)
        if is_empty and field.default != "":
            raise ValueError("is empty" if field.is_required() else "is empty; leave it out for the default")
        return value

    @model_validator(mode="after")
    def _breaks_no_rule(self) -> Self:
        if mistakes := list(self._mistakes()):
            raise ValueError("\n".join(mistakes))
        return self

    def _mistakes(self) -> Iterator[str]:
        """Yield a line for each rule between keys that the values break."""
        return iter(())


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
        MEMORY_BYTES, ge=500_000_000, description="Address space of one conversion beyond that of its program."
    )
    deadline_seconds: Seconds = Field(
        DEADLINE_SECONDS, description="Time limit of one conversion, for wall time and for processor time."
    )
    keep_superseded_hours: float = Field(
        24, ge=0, description="Hours that files are kept after a newer conversion replaced them."
    )
