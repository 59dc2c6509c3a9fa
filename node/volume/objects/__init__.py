"""Instances that are not slices of a stack: those without pixels, and those that are volumes by themselves."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.uid import UID, SurfaceSegmentationStorage

from node.dicom.values import held, items, number, standard_tag, text
from node.errors import ConversionRefused
from node.volume.model import Volume
from node.volume.objects import dose, segmentation, slide
from node.volume.read.pixel_layout import PIXELS
from node.volume.reasons import Reason

_CONFOCAL_PYRAMID = "1.2.840.10008.5.1.4.1.1.77.1.8"
"""Confocal Microscopy Tiled Pyramidal Image Storage."""


def is_image(ds: Dataset) -> bool:
    """Return whether an instance has pixels.

    Plans, reports, key objects, presentation states, value maps, encapsulated documents, waveforms,
    annotations and raw data have none. They are stored, excluded as ``not-an-image``, and never a failure. Surface
    segmentations have none either, and are excluded as ``surfaces``.
    """
    return any(held(ds, standard_tag(keyword)) is not None for keyword in PIXELS)


def without_pixels(ds: Dataset) -> ConversionRefused:
    """Return why an instance without pixels has no volume: its class (PS3.4 B.5) has no pixels, or they were lost."""
    sop_class = UID(text(ds, "SOPClassUID") or "")
    name = sop_class.name
    if sop_class == SurfaceSegmentationStorage:
        detail = (
            f"{name}: the triangles of its surfaces (PS3.3 C.27.1) are not drawn on slices; export the segments as "
            "Segmentation Storage or as an RT structure set"
        )
        return ConversionRefused(Reason.SURFACES, detail)
    if name and "Image" not in name:
        return ConversionRefused(Reason.NOT_AN_IMAGE, name)
    if not name:
        detail = "the instance has neither SOP Class UID (0008,0016) nor Pixel Data (7FE0,0010)"
        return ConversionRefused(Reason.NOT_AN_IMAGE, detail)
    return ConversionRefused(Reason.CUT, f"{name} without Pixel Data (7FE0,0010)")


def _is_of_a_slide(ds: Dataset, sop_class: str) -> bool:
    """Return whether an instance, such as a segmentation or a map of a slide, has the slide's frame of reference.

    PS3.3 C.7.6.17.3, C.8.12.6 and C.8.12.14; Dimension Organization Type (0020,9311) is optional. Only the functional
    groups of segmentations are read: parsing those of a large enhanced image takes seconds.
    """
    if text(ds, "DimensionOrganizationType").startswith("TILED"):
        return True
    if held(ds, standard_tag("TotalPixelMatrixColumns")) is not None:
        return True
    if sop_class not in segmentation.SOP_CLASSES:
        return False
    groups = (*items(ds, "SharedFunctionalGroupsSequence")[:1], *items(ds, "PerFrameFunctionalGroupsSequence")[:1])
    orientations = (orientation for group in groups for orientation in items(group, "PlaneOrientationSequence"))
    return any("PlanePositionSlideSequence" in group for group in groups) or any(
        "ImageOrientationSlide" in orientation for orientation in orientations
    )


def special_volumes(ds: Dataset, stack: int) -> tuple[Volume, ...] | None:
    """Return the volumes of a segmentation, of a dose grid or of a slide; None if the instance is none of these.

    A single plane of dose is an ordinary slice: some planning systems write one instance for each.

    `stack`: number of the volumes' stack in their series.

    Raises ConversionRefused ``tiled-slide``, or another reason why a segmentation, dose or slide has no volume.
    """
    sop_class = text(ds, "SOPClassUID")
    if sop_class == slide.SOP_CLASS:
        return slide.volumes(ds, stack)
    if sop_class == _CONFOCAL_PYRAMID or _is_of_a_slide(ds, sop_class):
        raise ConversionRefused(Reason.TILED_SLIDE, "the tiles of a whole slide microscopy image are not a volume")
    if sop_class in segmentation.SOP_CLASSES:
        return segmentation.volumes(ds, stack)
    if sop_class == dose.SOP_CLASS and (number(ds, "NumberOfFrames") or 1) > 1:
        return dose.volumes(ds, stack)
    return None
