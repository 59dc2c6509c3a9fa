"""Warnings about volumes, and reasons why frames are in none: a fixed name and a sentence.

These are plain records without arrays, which are sent between processes and written to the index and conversion.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class WarningKind(StrEnum):
    """Names of warnings about a volume; the first nine are those of the reference corpus."""

    GANTRY_TILT = "gantry-tilt"
    MISSING_SLICE = "missing-slice"
    IRREGULAR_SPACING = "irregular-spacing"
    DUPLICATE_SLICE = "duplicate-slice"  # a copy under another SOP Instance UID: it is left out
    SAME_POSITION_TWICE = "same-position-twice"  # two frames at one position, neither a copy nor a time
    EQUAL_TIMES = "equal-times"  # times with the same voxels that only numbers separate: copies or not, all are kept
    INCOMPLETE_VOLUME = "incomplete-volume"  # an interrupted last volume was left out
    MISSING_TIME = "missing-time"  # a whole time between others was not received, or was left out
    IRREGULAR_TIME_STEPS = "irregular-time-steps"  # some steps are longer than the others, or times start together
    UNEQUAL_STACKS = "unequal-stacks"  # other echoes or components of the series have more slices or times
    SEVERAL_ORIENTATIONS = "several-orientations"
    SEVERAL_POSITIONS = "several-positions"  # equal stacks overlap at other places: they may be times that moved far
    SEVERAL_MATRICES = "several-matrices"
    SEVERAL_PATIENTS = "several-patients"
    SEVERAL_QUANTITIES = "several-quantities"  # units differ, or some times are signed, the others never
    TIMES_ASSUMED = "times-assumed"  # only numbers tell the times, or counts of times contradict each other
    SLICES_ASSUMED = "slices-assumed"  # frames of one instance, or of CT, are slices by the stated distance alone
    SLOPE_VARIES = "slope-varies"
    NO_GEOMETRY = "no-geometry"
    PARTLY_NOT_AN_IMAGE = "partly-not-an-image"  # e.g. an SR in an image series
    NO_DIFFUSION_DIRECTIONS = "no-diffusion-directions"
    LOSSY = "lossy"  # pixels went through a lossy codec before they were received
    VALUES_AS_STORED = "values-as-stored"  # CT or PET without Rescale Slope or Intercept
    VALUES_DOUBTFUL = "values-doubtful"  # the samples contradict the width or the sign that their header states
    POSITIONS_DOUBTFUL = "positions-doubtful"  # other attributes agree on another order, or distance, of the slices
    NOT_RESAMPLED = "not-resampled"  # a sheared or uneven volume without an upright copy, which would be too large
    B_VALUES_DOUBTFUL = "b-values-doubtful"  # the name of the sequence contradicts the b-value that is stated
    OVERLAYS_LEFT_OUT = "overlays-left-out"  # regions or text that were drawn over the pixels, in bits of their own
    SPACING_ASSUMED = "spacing-assumed"  # pixel or slice spacing is not in the data set; 1 mm is assumed
    PARAMETER_VARIES = "parameter-varies"  # slices of one volume differ in echo time, flip angle, ...
    FRAME_OF_REFERENCE_VARIES = "frame-of-reference-varies"  # a different one in each instance: one is assumed
    POSITIONS_VARY_IN_TIME = "positions-vary-in-time"  # prospective motion correction: the first position is taken
    SLICE_TIMING_DOUBTFUL = "slice-timing-doubtful"  # the clocks of the slices contradict each other, or the protocol
    REPAIRED = "repaired"  # the headers are wrong, other values prove it: the detail names them
    POLARITY_REVERSED = "polarity-reversed"  # GE's epi_pepolar: some images may be mirrored
    CONTOURS_WITHOUT_SLICE = "contours-without-slice"  # contours of a region lie where the images have no slice
    SLICES_WITHOUT_CONTOUR = "slices-without-contour"  # slices between contours have none: nothing is interpolated
    CONTOURS_CROSS = "contours-cross"  # contours of a region cross each other on a slice
    SUV_UNKNOWN = "suv-unknown"  # uptake values were requested, but an attribute that they need is missing


class Reason(StrEnum):
    """Reasons why a series, or a part of it, has no volume: fixed keywords shown to users and stored in the index."""

    NOT_AN_IMAGE = "not-an-image"
    UNDECODABLE = "undecodable"  # codec missing or codestream broken
    CONTRADICTORY = "contradictory"  # attributes that cannot all be true (lengths, dimensions)
    CUT = "cut"  # an image without pixels, or with fewer than its header states: the file was cut on its way
    BAD_GEOMETRY = "bad-geometry"  # singular orientation, NaN or zero spacing
    UNEVEN_SEGMENTATION = "uneven-segmentation"  # of unevenly spaced images: no fault, but no grid has its planes
    UNPROVEN_LAYOUT = "unproven-layout"  # e.g. a mosaic whose tile order cannot be known
    TILED_SLIDE = "tiled-slide"  # whole-slide microscopy: tiles that do not become one picture
    SURFACES = "surfaces"  # meshes, which are not drawn on slices
    PROJECTIONS = "projections"  # from several angles, not reconstructed yet
    SAME_POSITION_TWICE = "same-position-twice"
    INCOMPLETE = "incomplete"
    DUPLICATE_SLICE = "duplicate-slice"
    TOO_LARGE = "too-large"
    UNREADABLE = "unreadable"  # the data set cannot be read, although it is as it was received
    DAMAGED = "damaged"  # a file is missing, or is not as it was received
    FAILED = "failed"  # the converter itself crashed or ran out of time or memory


REMEDIES: Mapping[str, str] = {
    "undecodable": "Run voxelnode doctor to check for missing codecs. Otherwise the image is damaged: send it again.",
    "contradictory": "Attributes contradict each other. Compare the header with the detail, and fix the sender.",
    "cut": "The image was cut on its way: send it again, and the whole one takes its place. If the same comes again, "
    "fix the sender.",
    "bad-geometry": "No volume has this geometry. If the images are not so by design, check the scanner or the "
    "anonymiser.",
    "uneven-segmentation": "No action needed if its images are unevenly spaced: it is kept and sent on as DICOM, and "
    "no volume has uneven planes.",
    "unproven-layout": "Export the series as single images or as Enhanced MR, which give the position of each slice. "
    "If an anonymiser removed private elements, which have the layout, send the originals.",
    "tiled-slide": "Whole-slide microscopy is stored and served as DICOM; only its small levels become pictures.",
    "surfaces": "Export the segments as Segmentation or as an RT structure set: surfaces are not drawn on slices.",
    "projections": "Send the slices that the scanner reconstructs from these projections.",
    "same-position-twice": "Send the parts as separate series, or with attributes that distinguish them.",
    "incomplete": "Send the missing instances; the series is then converted again automatically.",
    "duplicate-slice": "No action needed; one of the copies is used.",
    "too-large": "Raise [convert] memory_bytes if this machine has enough memory, then convert again.",
    "unreadable": "The data set is broken, as it was received. Have the sender correct it.",
    "damaged": "Files of the series are missing or damaged. Send the instances again; earlier volumes stay current.",
    "failed": "The converter crashed or ran out of time or memory. See the log of the node; raise the "
    "limits in [convert], then convert again.",
}
"""Remedies by reason of a failure (docs/conversion.md)."""


@dataclass(frozen=True, slots=True)
class VolumeWarning:
    """A warning about one volume: a fixed name and a sentence without patient data."""

    name: WarningKind
    detail: str


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Frames of one instance that are in no volume, and the reason.

    `frames` counts them; 0 means that the instance is not an image, or that another file of it is used.
    `file`: the excluded file, if another file of the instance counts; empty for a data set without a file. None: the
        whole instance is excluded.
    """

    sop_instance_uid: str
    frames: int
    reason: Reason
    detail: str
    file: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """The reason why a whole series (`sop_instance_uids` lists all instances) or one of its stacks has no volume."""

    reason: Reason
    detail: str
    sop_instance_uids: tuple[str, ...]
    stack: int | None = None
