"""Instances whose frames must not be mixed with those of others of their series, or are no slices at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydicom import Dataset

from node.errors import ConversionRefused
from node.volume.elements import text
from node.volume.reasons import Reason

SEPARATE_MODALITIES = frozenset({"CR", "DX", "MG", "IO", "PX", "RG", "RTIMAGE", "XC", "ES", "GM", "OP", "OPT", "NM"})
"""Modalities whose instances without a position are separate pictures, even if they all have one size."""

BREAST_PROJECTIONS = frozenset({"1.2.840.10008.5.1.4.1.1.13.1.4", "1.2.840.10008.5.1.4.1.1.13.1.5"})
"""Breast Projection X-Ray Image Storage, for presentation and for processing."""

VOLUME_MODALITIES = frozenset({"MG", "OPT"})
"""Modalities whose multi-frame instances are a volume each, although positions of both sides may be equal."""


def refuse_projections(ds: Dataset, frames: int) -> None:
    """Raise ``projections`` for the projections that a breast tomosynthesis is reconstructed from."""
    if frames > 1 and text(ds, "SOPClassUID") in BREAST_PROJECTIONS:
        raise ConversionRefused(
            Reason.PROJECTIONS,
            f"the {frames} frames are projections from several angles (breast tomosynthesis, PS3.3 A.47); send the "
            "reconstructed slices",
        )


def keep_apart(ds: Dataset, grouped: Sequence[dict[str, Any]]) -> None:
    """Make an instance a stack of its own if another one's frames could be taken for further times of its slices.

    Parameters
    ----------
    ds : Dataset
    grouped : sequence of dict
        Arguments of each `Frame`; their ``split_key`` gets the instance.

    Raises
    ------
    ConversionRefused
        ``unproven-layout``: nothing says where the frames of ophthalmic tomography lie.
    """
    modality = text(ds, "Modality")
    unplaced = [own for own in grouped if own["position"] is None]
    if modality == "OPT" and len(grouped) > 1 and any(own["time_key"]["slice"] is None for own in unplaced):
        raise unplaced_tomography(len(grouped))
    if len(grouped) > 1 and "ConcatenationUID" not in ds and (unplaced or modality in VOLUME_MODALITIES):
        for own in grouped:
            own["split_key"]["instance"] = text(ds, "SOPInstanceUID")


def unplaced_tomography(frames: int) -> ConversionRefused:
    """Return the refusal of an ophthalmic tomography whose frames have no place."""
    return ConversionRefused(
        Reason.UNPROVEN_LAYOUT,
        "neither Image Position (Patient) (0020,0032) nor In-Stack Position Number (0020,9057) says where the "
        f"{frames} frames of the tomography lie in the eye",
    )
