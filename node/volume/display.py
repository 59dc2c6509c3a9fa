"""Display settings of a data set (windows, VOI LUT, padding, aspect of a pixel); a single frame, or its picture."""

import math
from dataclasses import replace

from pydicom import Dataset

from node.dicom.values import items, number, stated_numbers, value, whole
from node.volume.elements import item, text
from node.volume.model import Array, Display, Geometry, Volume
from node.volume.planes import Window
from node.volume.read.functional_groups import dataset_of_frame
from node.volume.read.lookup_tables import PARAMETRIC_MAP, plain_entries, real_world_mapping
from node.volume.read.pixels import FrameReader
from node.volume.read.planes import pixel_spacing, rescale
from node.volume.rendering import Picture, Shades
from node.volume.widths import read_as_bytes


def display_of(ds: Dataset, frame_number: int) -> Display:
    """Return the display settings of one frame (from 1) of an instance.

    An enhanced instance keeps windows in Frame VOI LUT Sequence (0028,9132) of the frame, else of all frames
    (PS3.3 C.7.6.16.2.10).
    """
    of_frame = dataset_of_frame(ds, frame_number)
    source = item(of_frame, "FrameVOILUTSequence") or ds
    windows = _windows(source)
    if text(ds, "SOPClassUID") == PARAMETRIC_MAP:  # windows are in stored values, because rescaling is the identity
        real = real_world_mapping(items(of_frame, "RealWorldValueMappingSequence"))
        windows = tuple((centre * real.slope + real.intercept, width * abs(real.slope)) for centre, width in windows)
    return Display(
        windows=windows,
        function=text(source, "VOILUTFunction") or "LINEAR",
        voi_lut=_voi_lut(ds),
        inverted=text(ds, "PhotometricInterpretation") == "MONOCHROME1",
        padding=_padding(ds),
        pixel_aspect=_pixel_aspect(ds),
    )


def _windows(ds: Dataset) -> tuple[tuple[float, float], ...]:
    """Return the usable pairs of Window Center (0028,1050) and Width (0028,1051)."""
    centres, widths = stated_numbers(ds, "WindowCenter") or (), stated_numbers(ds, "WindowWidth") or ()
    pairs = zip(centres, widths, strict=False)
    return tuple(
        (centre, width) for centre, width in pairs if math.isfinite(centre) and math.isfinite(width) and width > 0
    )


def _voi_lut(ds: Dataset) -> tuple[int, Array] | None:
    """Return first input value and table of VOI LUT Sequence (0028,3010), PS3.3 C.11.2.1.1; None if it is unusable."""
    lut = item(ds, "VOILUTSequence")
    descriptor = None if lut is None else stated_numbers(lut, "LUTDescriptor")
    if lut is None or descriptor is None or len(descriptor) != 3 or not all(map(math.isfinite, descriptor)):
        return None
    table = plain_entries(value(lut, "LUTData"), int(descriptor[0]) or 65536, ds)
    if table is None:
        return None
    first = int(descriptor[1])
    signed = number(ds, "PixelRepresentation") == 1
    return (first - 65536 if signed and first > 32767 else first), table


def _padding(ds: Dataset) -> tuple[float, float] | None:
    """Return the range of stored values that are not data.

    Pixel Padding Value (0028,0120) to Pixel Padding Range Limit (0028,0121), either of which may be the larger.
    """
    for kind in ("", "Float", "DoubleFloat"):
        ends = [number(ds, f"{kind}PixelPadding{name}") for name in ("Value", "RangeLimit")]
        if ends[0] is not None:
            stated = [end if kind else _as_stored(ds, end) for end in ends if end is not None]
            return min(stated), max(stated)
    return None


def _as_stored(ds: Dataset, padding: float) -> float:
    """Return a padding value by Pixel Representation (0028,0103); some writers give the other sign."""
    values: int = 2 ** int(number(ds, "BitsAllocated") or 16)
    least = -values // 2 if number(ds, "PixelRepresentation") == 1 else 0
    return padding + values * ((padding < least) - (padding >= least + values))


def _pixel_aspect(ds: Dataset) -> float:
    """Return the height of a pixel over its width: Pixel Aspect Ratio (0028,0034) is vertical, then horizontal."""
    ratio = stated_numbers(ds, "PixelAspectRatio")
    if ratio is None or len(ratio) != 2 or not all(math.isfinite(part) and part > 0 for part in ratio):
        return 1.0
    return ratio[0] / ratio[1]


def rendered_frame(
    ds: Dataset, frame_number: int, reader: FrameReader, index: int, window: Window | None = None
) -> Picture:
    """Return a picture of one frame, by the display rules of PS3.3 C.11.

    `ds`: the header of the instance.
    `frame_number`: number of the frame in that instance, from 1.
    `reader`: reads the frame.
    `index`: index of the frame in `reader`, from 0.
    `window`: replaces the windows and VOI LUT of the data set.

    Raises ConversionRefused: the pixel data do not match the header, or cannot be decoded.
    """
    stored = reader(index)
    # Of a clip, other frames may be brighter.
    if (whole(ds, "NumberOfFrames") or 1) == 1 and read_as_bytes([reader.widths]):
        stored = reader(index)
    volume = _as_volume(ds, reader, frame_number, stored)
    rows_mm, columns_mm, _ = volume.spacing_mm
    return Picture(Shades(volume, window)(stored), (rows_mm, columns_mm))


def _as_volume(ds: Dataset, reader: FrameReader, frame_number: int, stored: Array) -> Volume:
    """Return the frame as a volume of one plane without a position, the input of `Shades`."""
    slope, intercept = (1.0, 0.0) if reader.modality_lut else rescale(dataset_of_frame(ds, frame_number))
    display = display_of(ds, frame_number)
    rows_mm, columns_mm = pixel_spacing(ds, placed=False) or (display.pixel_aspect, 1.0)
    return Volume(
        voxels=stored[None, None],
        affine_lps=None,
        spacing_mm=(rows_mm, columns_mm, 1.0),
        geometry=Geometry.NONE,
        stack=0,
        modality=text(ds, "Modality") or "",
        sources=(),
        slope=slope,
        intercept=intercept,
        display=replace(display, pixel_aspect=1.0),
    )
