"""What volumes lose by de-identification: facts of MR images that are in private elements, and few of them stay.

The functions of the conversion say what an image states, so that nothing that they read is forgotten here.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from importlib import import_module

from pydicom import Dataset

from node.dicom.values import CONVERSION_ERRORS, text, texts
from node.errors import ConversionRefused
from node.extensions.deidentify.profile import Option


class Loss(StrEnum):
    """What a volume is made with, in the words of messages. Without the first, there is no volume."""

    PLANES = "places of planes"
    B_VALUES = "b-values"
    DIRECTIONS = "gradient directions"
    SLICE_TIMES = "slice times"
    PHASE_ENCODING = "phase encoding direction"
    READOUT = "readout time"
    ECHO_TIMES = "echo times of a field map"


_ANY_SLICES, _ANY_SECONDS = 60, 2.0
"""A volume whose slices GE's protocol times, if it times those of any."""


def load() -> None:
    """Load what `lost` imports."""
    import_module("node.volume.describe.sidecar_fields")
    import_module("node.volume.read.frames")


def lost(original: Dataset, copy: Dataset) -> frozenset[Loss]:
    """Return the facts that an image states and its copy lacks; nothing unless its modality is MR.

    Both data sets are read for this alone: an element that was read may be kept or encoded in another way.
    """
    stated = _stated(original)
    return stated - _stated(copy) if stated else stated


def in_words(losses: Collection[Loss]) -> str:
    """Return losses in the order of `Loss`; the first one makes the others pointless."""
    if Loss.PLANES in losses:
        return f"{Loss.PLANES}, without which there is no volume"
    return ", ".join(loss for loss in Loss if loss in losses)


def remedy(losses: Collection[Loss], options: Collection[Option]) -> str:
    """Return the remedy for losses; `options`: those of the de-identification."""
    is_kept_by_option = Option.SAFE_PRIVATE not in options and not {Loss.B_VALUES, Loss.DIRECTIONS}.isdisjoint(losses)
    kept = "; safe-private keeps b-values and directions of some vendors" if is_kept_by_option else ""
    ways = "`voxelnode bids`, or by `voxelnode convert --anonymous`, which keeps UIDs and times"
    return f"for volumes, convert the originals by {ways}{kept}"


def _stated(ds: Dataset) -> frozenset[Loss]:
    if text(ds, "Modality") != "MR":
        return frozenset()
    from node.volume import vendors  # here, because they load NumPy
    from node.volume.describe.sidecar_fields import describe
    from node.volume.read.diffusion import UNWEIGHTED_B_VALUE
    from node.volume.read.frames import frames_of

    try:
        frames = frames_of(ds)
        fields = describe(ds, frames)
        planned = vendors.has_slice_timer(ds) or vendors.planned_slice_timings(ds, _ANY_SLICES, _ANY_SECONDS)
    except (ConversionRefused, *CONVERSION_ERRORS):
        return frozenset()  # it becomes no volume
    known = {Loss.PLANES}
    for one in (frame.diffusion for frame in frames if frame.diffusion is not None):
        known |= {Loss.B_VALUES} if one.b_value > UNWEIGHTED_B_VALUE else set()
        known |= {Loss.DIRECTIONS} if one.direction_lps is not None else set()
    known |= {Loss.READOUT} if fields.keys() & {"TotalReadoutTime", "EstimatedTotalReadoutTime"} else set()
    known |= {Loss.ECHO_TIMES} if fields.keys() & {"EchoTime1", "EchoTime2"} else set()
    if "EP" in texts(ds, "ScanningSequence") or text(ds, "EchoPlanarPulseSequence") == "YES":
        known |= {Loss.SLICE_TIMES} if planned or len({frame.acquisition_time_s for frame in frames}) > 1 else set()
        known |= {Loss.PHASE_ENCODING} if "PhaseEncodingDirection" in fields else set()
    return frozenset(known)
