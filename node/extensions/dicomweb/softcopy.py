"""Pictures of images as a softcopy presentation state has them shown (PS3.3 A.33, PS3.4 N.2).

Grey values go through the Modality LUT, the VOI LUT and the Presentation LUT of the state, never through those of the
image; then come its shutter and overlays, its displayed area, its rotation and flip, and its annotations. What this
module cannot draw, such as a subtraction, refuses the picture: one without it would show something else than was meant.
Everything here runs in a child of `node.children.decoder`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pydicom import Dataset

from node.children.decoding import PictureOrder, encoded_picture
from node.counted import counted
from node.dicom.annotation import visible
from node.dicom.values import items, numbers, text, texts, value, whole
from node.extensions.dicomweb.presentation_states import PRESENTATION_STATES, NotPresented
from node.files.pixel_element import FrameNotFound, header_and_pixels, single_frame
from node.files.reading import read_instance
from node.volume.elements import item
from node.volume.model import Array
from node.volume.read.pixels import FrameReader, LookupTable, frame_reader, lookup_table, palette
from node.volume.read.planes import rescale
from node.volume.rendering import FUNCTIONS, Grey, Picture, linear_exact
from node.writers.lettering import length, write_lines
from node.writers.pictures import resized

GREYSCALE, COLOUR, PSEUDO_COLOUR = (PRESENTATION_STATES + number for number in ("1", "2", "3"))

OVERLAY_GROUPS = range(0x6000, 0x6020, 2)

MAX_LONGEST = 4096
"""Longest side of a picture whose size is not requested, in pixels."""

MAX_AREA = 1 << 28
"""Largest displayed area, in pixels of the frame, which it may exceed."""

CURVE_STEPS = 16
"""Straight pieces between two points of a graphic object INTERPOLATED."""

LETTERS_IN_HEIGHT = 32
"""Lines of text that the height of a picture has room for."""

MIN_LETTERS = 9
"""Least height of letters, in pixels."""

UNSUPPORTED = {
    "MaskSubtractionSequence": "subtracts a mask (PS3.3 C.11.13)",
    "CompoundGraphicSequence": "has compound graphics (PS3.3 C.10.5.1.3)",
}
"""What refuses a picture, by the attribute that asks for it."""

Point = tuple[float, float]
"""Column and row; the upper left corner of the upper left pixel is (0, 0)."""

Colour = tuple[int, int, int]


def references(path: Path) -> list[tuple[str, list[int]]]:
    """Return what a state refers to; see `node.extensions.dicomweb.presentation_states.references_file`."""
    return _references(_state(path))


def presented(path: Path, state_path: Path, order: PictureOrder) -> bytes:
    """Return a picture; see `node.extensions.dicomweb.presentation_states.presented_picture`."""
    state = _state(state_path)
    header, reader, index = _frame(path, order.frame_number)
    image = Presented(state, header, order.frame_number).picture(reader, reader(index), order.size)
    profile = value(state, "ICCProfile")
    return encoded_picture(image, order, header, profile if isinstance(profile, bytes) else "srgb")


def _state(path: Path) -> Dataset:
    state = read_instance(path)
    if text(state, "SOPClassUID") not in (GREYSCALE, COLOUR, PSEUDO_COLOUR):
        raise NotPresented("of presentation states, those of greyscale, colour and pseudo-colour can be applied")
    return state


def _references(state: Dataset) -> list[tuple[str, list[int]]]:
    return [
        (text(image, "ReferencedSOPInstanceUID"), _frames(image))
        for series in items(state, "ReferencedSeriesSequence")
        for image in items(series, "ReferencedImageSequence")
    ]


def _frames(image: Dataset) -> list[int]:
    return [int(number) for number in numbers(image, "ReferencedFrameNumber") or ()]


def _frame(path: Path, frame_number: int) -> tuple[Dataset, FrameReader, int]:
    """Return the header of an image, the reader of its stored values, and the index of a frame in that reader."""
    if frame_number < 1:
        raise FrameNotFound(f"frame {frame_number} does not exist: frames count from 1")
    header, element = header_and_pixels(path)
    if element is not None and element.encapsulated:  # read this frame only
        ds, index = single_frame(header, element, frame_number), 0
    else:
        ds, index = read_instance(path), frame_number - 1
    if "ModalityLUTSequence" in ds:
        del ds.ModalityLUTSequence  # the values go through that of the state
    reader = frame_reader(ds)
    if index >= reader.frames:
        raise FrameNotFound(f"frame {frame_number} does not exist: the instance has {counted(reader.frames, 'frame')}")
    return header, reader, index


@dataclass(frozen=True, slots=True)
class Layer:
    """A graphic layer and the colour that it recommends (PS3.3 C.10.7)."""

    name: str
    order: int
    colour: Colour


class Presented:
    """A presentation state, applied to one frame of an image."""

    def __init__(self, state: Dataset, image: Dataset, frame_number: int) -> None:
        self._state, self._image, self._frame_number = state, image, frame_number
        self._uid = text(image, "SOPInstanceUID")
        if not any(
            uid == self._uid and frame_number in (frames or [frame_number]) for uid, frames in _references(state)
        ):
            raise NotPresented("the presentation state does not refer to this image or frame (PS3.3 C.11.11)")
        for keyword, meaning in UNSUPPORTED.items():
            if items(state, keyword) or any(items(each, keyword) for each in items(state, "GraphicAnnotationSequence")):
                raise NotPresented(f"the presentation state {meaning}, which cannot be drawn")
        layers = {text(layer, "GraphicLayer") for layer in items(state, "GraphicLayerSequence")}
        used = {text(each, "GraphicLayer") for each in items(state, "GraphicAnnotationSequence")}
        used |= {layer for group in OVERLAY_GROUPS if (layer := _activation(state, group))}
        if used - layers:
            raise NotPresented("annotations are in a layer that Graphic Layer Sequence (0070,0060) does not have")

    def picture(self, reader: FrameReader, stored: Array, size: tuple[int, int] | None) -> Image.Image:
        """Return the picture: grey, or RGB if the state has colours; within `size`, if that is given."""
        pixels = self._values(reader, stored)
        pixels = self._shuttered(pixels)
        layers = sorted(self._layers(), key=lambda layer: layer.order)
        for layer in layers:
            pixels = self._overlaid(pixels, layer)
        area = DisplayedArea.of(self._applicable(self._state, "DisplayedAreaSelectionSequence"), pixels, self._turn())
        image = area.image(pixels, size)
        for layer in layers:
            self._annotate(image, area, layer)
        return image

    def _values(self, reader: FrameReader, stored: Array) -> Grey:
        is_colour_state = text(self._state, "SOPClassUID") == COLOUR
        if reader.colour != is_colour_state:
            kinds = "a colour", "a grey"
            state, image = kinds if is_colour_state else kinds[::-1]
            raise NotPresented(f"{state} presentation state cannot be applied to {image} image (PS3.4 N.2)")
        if reader.colour:
            return stored.astype(np.uint8, copy=False)
        unit = self._of_interest(*self._of_modality(stored))
        if text(self._state, "SOPClassUID") == PSEUDO_COLOUR:
            table = palette(self._state).entries
            coloured: Grey = table[np.rint(unit * (len(table) - 1)).astype(np.intp)]
            return coloured
        grey: Grey = np.rint(self._p_values(unit) * 255).astype(np.uint8)
        return grey

    def _of_modality(self, stored: Array) -> tuple[Array, tuple[float, float]]:
        """Return the values behind the Modality LUT, and their range; without one, the stored values (PS3.4 N.2.1)."""
        table = item(self._state, "ModalityLUTSequence")
        if table is not None:
            lut, most = _table(table, self._state, self._is_signed)
            return lut(stored), (0.0, most)
        slope, intercept = rescale(self._state)
        bits = whole(self._image, "BitsStored") or 16
        low = -(2 ** (bits - 1)) if self._is_signed else 0
        ends = sorted((low * slope + intercept, (low + 2**bits - 1) * slope + intercept))
        return stored * slope + intercept, (ends[0], ends[1])

    def _of_interest(self, values: Array, whole_range: tuple[float, float]) -> Array:
        """Return 0..1 behind the VOI LUT of the frame; without one, all values are of interest (PS3.3 C.11.8)."""
        transformation = self._applicable(self._state, "SoftcopyVOILUTSequence")
        low, high = whole_range
        if transformation is None:
            return linear_exact(values, (low + high) / 2, high - low)
        table = item(transformation, "VOILUTSequence")
        if table is not None:
            lut, most = _table(table, self._state, low < 0)
            unit: Array = lut(np.rint(values)) / most
            return unit
        centre, width = (numbers(transformation, f"Window{name}") for name in ("Center", "Width"))
        if not centre or not width or not width[0] > 0:
            raise NotPresented("an item of Softcopy VOI LUT Sequence (0028,3110) has neither a window nor a table")
        function = FUNCTIONS.get(text(transformation, "VOILUTFunction") or "LINEAR")
        if function is None:
            raise NotPresented("the VOI LUT Function (0028,1056) is not one of PS3.3 C.11.2.1.3")
        return function(values, centre[0], width[0])

    def _p_values(self, unit: Array) -> Array:
        """Return 0..1 behind the Presentation LUT; Photometric Interpretation has no part in it (PS3.3 C.11.6)."""
        sequence = item(self._state, "PresentationLUTSequence")
        if sequence is not None:
            lut, most = _table(sequence, self._state, False)
            table = lut.entries / most
            shown: Array = table[np.rint(unit * (len(table) - 1)).astype(np.intp)]
            return shown
        return 1 - unit if text(self._state, "PresentationLUTShape") == "INVERSE" else unit

    @property
    def _is_signed(self) -> bool:
        return whole(self._image, "PixelRepresentation") == 1

    def _applies(self, part: Dataset) -> bool:
        """Return whether an item is meant for this frame: all are, unless the item refers to some (PS3.3 C.11.8)."""
        images = items(part, "ReferencedImageSequence")
        return not images or any(
            text(image, "ReferencedSOPInstanceUID") == self._uid
            and (not _frames(image) or self._frame_number in _frames(image))
            for image in images
        )

    def _applicable(self, ds: Dataset, keyword: str) -> Dataset | None:
        return next((part for part in items(ds, keyword) if self._applies(part)), None)

    def _turn(self) -> tuple[int, bool]:
        """Return how often the picture is turned clockwise by 90 degrees, and whether it is then flipped."""
        degrees = whole(self._state, "ImageRotation") or 0
        if degrees % 90:
            raise NotPresented(f"Image Rotation (0070,0042) is {degrees}; it is a multiple of 90 (PS3.3 C.10.6)")
        return degrees // 90 % 4, text(self._state, "ImageHorizontalFlip") == "Y"

    def _shuttered(self, pixels: Grey) -> Grey:
        """Return the pixels with those outside of the shutter in its colour (PS3.3 C.7.6.11, C.7.6.15)."""
        shapes = texts(self._state, "ShutterShape")
        if not any(shapes):
            return pixels
        rows, columns = pixels.shape[:2]
        seen = np.ones((rows, columns), bool)
        down, along = np.ogrid[1 : rows + 1, 1 : columns + 1]
        for shape in shapes:
            match shape:
                case "RECTANGULAR":
                    left, right, upper, lower = (
                        self._edge(f"Shutter{name}Edge")
                        for name in ("LeftVertical", "RightVertical", "UpperHorizontal", "LowerHorizontal")
                    )
                    seen &= (along >= left) & (along <= right) & (down >= upper) & (down <= lower)
                case "CIRCULAR":
                    centre = numbers(self._state, "CenterOfCircularShutter", 2)
                    radius = self._edge("RadiusOfCircularShutter")
                    if centre is None:
                        raise NotPresented("Center of Circular Shutter (0018,1610) is missing")
                    seen &= (down - centre[0]) ** 2 + (along - centre[1]) ** 2 <= radius**2
                case "POLYGONAL":
                    corners = numbers(self._state, "VerticesOfThePolygonalShutter") or ()
                    seen &= _inside(list(zip(corners[1::2], corners[::2], strict=False)), rows, columns)
                case "BITMAP":
                    group = whole(self._state, "ShutterOverlayGroup")
                    seen &= ~self._bitmap(group or 0, self._state, (rows, columns))
                case _:
                    raise NotPresented("Shutter Shape (0018,1600) is not one of PS3.3 C.7.6.11")
        colour = _colour(self._state, "ShutterPresentationValue", "ShutterPresentationColorCIELabValue", 0)
        return _painted(pixels, ~seen, colour)

    def _edge(self, keyword: str) -> float:
        edge = numbers(self._state, keyword, 1)
        if edge is None:
            raise NotPresented(f"{keyword} of the shutter is missing")
        return edge[0]

    def _layers(self) -> list[Layer]:
        return [
            Layer(
                text(layer, "GraphicLayer"),
                whole(layer, "GraphicLayerOrder") or 0,
                _colour(
                    layer,
                    "GraphicLayerRecommendedDisplayGrayscaleValue",
                    "GraphicLayerRecommendedDisplayCIELabValue",
                    0xFFFF,
                ),
            )
            for layer in items(self._state, "GraphicLayerSequence")
        ]

    def _overlaid(self, pixels: Grey, layer: Layer) -> Grey:
        """Return the pixels with the overlays of a layer: those of the state, and those of the image that it names."""
        for group in OVERLAY_GROUPS:
            if _activation(self._state, group) != layer.name:
                continue
            source = self._state if (group, 0x3000) in self._state else self._image
            pixels = _painted(pixels, self._bitmap(group, source, pixels.shape[:2]), layer.colour)
        return pixels

    def _bitmap(self, group: int, source: Dataset, shape: tuple[int, ...]) -> Array:
        """Return where an overlay is set, in the frame of the image (PS3.3 C.9.2)."""
        if group not in OVERLAY_GROUPS or (group, 0x3000) not in source:
            raise NotPresented(f"the overlay {group:04X} has no Overlay Data ({group:04X},3000)")
        try:
            overlay = np.asarray(source.overlay_array(group), bool)
            row, column = (int(number) - 1 for number in source[group, 0x0050].value)
        except Exception as error:  # a broken overlay makes pydicom raise anything
            raise NotPresented(f"the overlay {group:04X} does not match its description (PS3.3 C.9.2)") from error
        if overlay.ndim == 3:
            origin = source.get((group, 0x0051))
            plane = self._frame_number - (int(origin.value) if origin is not None else 1)
            overlay = overlay[plane] if 0 <= plane < len(overlay) else np.zeros(overlay.shape[1:], bool)
        placed = np.zeros(shape[:2], bool)
        part = overlay[max(0, -row) :, max(0, -column) :]
        room = placed[max(0, row) :, max(0, column) :][: part.shape[0], : part.shape[1]]
        room[:] = part[: room.shape[0], : room.shape[1]]
        return placed

    def _annotate(self, image: Image.Image, area: DisplayedArea, layer: Layer) -> None:
        draw = ImageDraw.Draw(image)
        fill: Any = layer.colour if image.mode == "RGB" else layer.colour[0]
        line = max(1, min(image.size) // 512)
        for annotation in items(self._state, "GraphicAnnotationSequence"):
            if text(annotation, "GraphicLayer") != layer.name or not self._applies(annotation):
                continue
            for graphic in items(annotation, "GraphicObjectSequence"):
                place = area.placing(text(graphic, "GraphicAnnotationUnits"), image)
                _draw_graphic(draw, graphic, place, fill, line)
            for words in items(annotation, "TextObjectSequence"):
                _draw_text(draw, words, area, image, fill)


@dataclass(frozen=True, slots=True)
class DisplayedArea:
    """The part of a frame that is shown, how it is turned, and the proportions of its pixels (PS3.3 C.10.4).

    `left`, `top`, `width`, `height`: in pixels of the frame, which the area may exceed. `pixel_size`: height and width
    of a pixel of the frame. `quarters`: clockwise turns by 90 degrees, before a horizontal flip. `magnification`:
    pixels of the picture to one of the frame.
    """

    left: int
    top: int
    width: int
    height: int
    pixel_size: tuple[float, float]
    quarters: int
    is_flipped: bool
    magnification: float

    @classmethod
    def of(cls, selection: Dataset | None, pixels: Grey, turn: tuple[int, bool]) -> DisplayedArea:
        """Return the area of a frame; without a selection, the whole frame."""
        rows, columns = pixels.shape[:2]
        if selection is None:
            return cls(0, 0, columns, rows, (1.0, 1.0), *turn, 1.0)
        corners = [numbers(selection, f"DisplayedArea{name}HandCorner", 2) for name in ("TopLeft", "BottomRight")]
        if corners[0] is None or corners[1] is None:
            raise NotPresented("the corners of the displayed area (0070,0052), (0070,0053) are missing")
        (left, right), (top, bottom) = (sorted(map(int, pair)) for pair in zip(*corners, strict=True))
        if (right - left) * (bottom - top) > MAX_AREA:
            raise NotPresented(f"the displayed area has more than {MAX_AREA} pixels")
        spacing = numbers(selection, "PresentationPixelSpacing", 2)
        size = spacing or numbers(selection, "PresentationPixelAspectRatio", 2) or (1.0, 1.0)
        if min(size) <= 0 or max(size) / min(size) > 100:
            raise NotPresented("the pixels of the displayed area have no sensible proportions (PS3.3 C.10.4)")
        ratio = numbers(selection, "PresentationPixelMagnificationRatio", 1)
        is_magnified = text(selection, "PresentationSizeMode") == "MAGNIFY" and ratio and ratio[0] > 0
        magnification = ratio[0] if ratio and is_magnified else 1.0
        return cls(left - 1, top - 1, right - left + 1, bottom - top + 1, (size[0], size[1]), *turn, magnification)

    def image(self, pixels: Grey, size: tuple[int, int] | None) -> Image.Image:
        """Return the area as a picture with square pixels; black where it exceeds the frame."""
        area = np.zeros((self.height, self.width, *pixels.shape[2:]), np.uint8)
        part = pixels[max(0, self.top) :, max(0, self.left) :]
        room = area[max(0, -self.top) :, max(0, -self.left) :][: part.shape[0], : part.shape[1]]
        room[:] = part[: room.shape[0], : room.shape[1]]
        turned = np.rot90(area, -self.quarters)
        if self.is_flipped:
            turned = turned[:, ::-1]
        pixel_size = self.pixel_size[::-1] if self.quarters % 2 else self.pixel_size
        image = resized(Picture(turned, pixel_size), MAX_LONGEST)
        if size is None:
            longest = min(MAX_LONGEST, max(image.size) * self.magnification)
            factor = longest / max(image.size)
        else:
            factor = min(size[0] / image.width, size[1] / image.height)
        return image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))))

    def placing(self, units: str, image: Image.Image) -> Callable[[Point], Point]:
        """Return what takes a point of an annotation to a point of the picture (PS3.3 C.10.5.1.2)."""
        if units == "DISPLAY":
            return lambda point: (point[0] * image.width, point[1] * image.height)
        if units != "PIXEL":
            raise NotPresented(f"annotations in units of {units or 'nothing'} cannot be drawn; PIXEL and DISPLAY can")
        return lambda point: self._place(point, image)

    def _place(self, point: Point, image: Image.Image) -> Point:
        x, y, width, height = point[0] - self.left, point[1] - self.top, self.width, self.height
        for _ in range(self.quarters):
            x, y, width, height = height - y, x, height, width
        if self.is_flipped:
            x = width - x
        return x / width * image.width, y / height * image.height


def _table(sequence_item: Dataset, ds: Dataset, is_signed: bool) -> tuple[LookupTable, int]:
    """Return a table, and the largest value that its entries can have by their bits (PS3.3 C.11.1.1)."""
    table = lookup_table(sequence_item, ds)
    bits = int((numbers(sequence_item, "LUTDescriptor", 3) or (0, 0, 0))[2])
    if not 1 <= bits <= 16:
        raise NotPresented("LUT Descriptor (0028,3002) has a number of bits other than 8 to 16 (PS3.3 C.11.1.1)")
    first = table.first - 65536 if is_signed and table.first > 32767 else table.first
    return LookupTable(first, table.entries), 2**bits - 1


def _colour(ds: Dataset, grey_keyword: str, lab_keyword: str, default: int) -> Colour:
    """Return a colour that is given as CIELab, or as a P-value of 16 bits."""
    lab = numbers(ds, lab_keyword, 3)
    if lab is not None:
        return _rgb(lab)
    grey = numbers(ds, grey_keyword, 1)
    level = int((default if grey is None else grey[0]) / 257)
    level = max(0, min(255, level))
    return level, level, level


def _rgb(lab: Sequence[float]) -> Colour:
    """Return the sRGB colour of a CIELab one with D50, coded in 16 bits (PS3.3 C.10.7.1.1)."""
    lightness, a, b = lab[0] / 65535 * 100, lab[1] / 65535 * 255 - 128, lab[2] / 65535 * 255 - 128
    y = (lightness + 16) / 116
    xyz = [f**3 if f > 6 / 29 else (f - 4 / 29) * 3 * (6 / 29) ** 2 for f in (y + a / 500, y, y - b / 200)]
    to_rgb = [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
    linear = np.clip(np.array(to_rgb) @ (np.array(xyz) * (0.96422, 1.0, 0.82521)), 0, 1)
    coded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = np.rint(coded * 255).astype(int).tolist()
    return red, green, blue


def _activation(state: Dataset, group: int) -> str:
    """Return the layer in which an overlay is shown; empty if it is not shown (PS3.3 C.11.7)."""
    element = state.get((group, 0x1001))
    return "" if element is None else str(element.value or "").strip()


def _painted(pixels: Grey, where: Array, colour: Colour) -> Grey:
    """Return a copy of the pixels with some of them in one colour; it is RGB if that colour is."""
    is_grey = len(set(colour)) == 1
    if pixels.ndim == 2 and not is_grey:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    painted = pixels.copy()
    painted[where] = colour[0] if pixels.ndim == 2 else colour
    return painted


def _inside(corners: Sequence[Point], rows: int, columns: int) -> Array:
    """Return which pixels a polygon contains; its corners are columns and rows that count from 1."""
    if len(corners) < 3:
        raise NotPresented("a polygonal shutter has fewer than three vertices (PS3.3 C.7.6.11)")
    mask = Image.new("1", (columns, rows))
    ImageDraw.Draw(mask).polygon([(column - 1, row - 1) for column, row in corners], fill=1, outline=1)
    return np.asarray(mask)


def _draw_graphic(
    draw: ImageDraw.ImageDraw, graphic: Dataset, place: Callable[[Point], Point], fill: Any, line: int
) -> None:
    data = numbers(graphic, "GraphicData") or ()
    points: list[Point] = list(zip(data[::2], data[1::2], strict=False))
    is_filled = text(graphic, "GraphicFilled") == "Y"
    match text(graphic, "GraphicType"), points:
        case "POINT", [point]:
            x, y = place(point)
            draw.ellipse((x - 2 * line, y - 2 * line, x + 2 * line, y + 2 * line), fill=fill)
            return
        case "POLYLINE", [_, _, *_]:
            outline = points
        case "INTERPOLATED", [_, _, *_]:
            outline = _curve(points)
        case "CIRCLE", [centre, edge]:
            radius = math.dist(centre, edge)
            outline = _ellipse(centre, (radius, 0.0), (0.0, radius))
        case "ELLIPSE", [start, end, up, down]:
            middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
            outline = _ellipse(
                middle,
                ((end[0] - start[0]) / 2, (end[1] - start[1]) / 2),
                ((down[0] - up[0]) / 2, (down[1] - up[1]) / 2),
            )
        case _:
            raise NotPresented("Graphic Type (0070,0023) and Graphic Data (0070,0022) do not agree (PS3.3 C.10.5.1.2)")
    placed = [place(point) for point in outline]
    if is_filled and len(placed) > 2:
        draw.polygon(placed, fill=fill)
    draw.line(placed, fill=fill, width=line)


def _ellipse(centre: Point, first: Point, second: Point) -> list[Point]:
    """Return a closed line around a centre, by the two half axes of an ellipse."""
    angles = np.linspace(0, 2 * np.pi, 16 * CURVE_STEPS + 1)
    around = np.outer(np.cos(angles), first) + np.outer(np.sin(angles), second) + centre
    return [(x, y) for x, y in around.tolist()]


def _curve(points: Sequence[Point]) -> list[Point]:
    """Return a smooth line through points: PS3.3 leaves the interpolation open; it is that of Catmull and Rom here."""
    is_closed = points[0] == points[-1]
    before, after = (points[-2], points[1]) if is_closed else (points[0], points[-1])
    p = np.array([before, *points, after])
    t = np.linspace(0, 1, CURVE_STEPS, endpoint=False)[:, None]
    pieces = [
        p[i]
        + t
        / 2
        * (
            (p[i + 1] - p[i - 1])
            + t
            * (2 * p[i - 1] - 5 * p[i] + 4 * p[i + 1] - p[i + 2] + t * (3 * (p[i] - p[i + 1]) + p[i + 2] - p[i - 1]))
        )
        for i in range(1, len(p) - 2)
    ]
    return [(x, y) for x, y in [*np.concatenate(pieces).tolist(), points[-1]]]


def _draw_text(draw: ImageDraw.ImageDraw, words: Dataset, area: DisplayedArea, image: Image.Image, fill: Any) -> None:
    """Write a text object: in its box, or else beside its anchor, with a line to that if it asks for one."""
    shown = [visible(line) for line in str(value(words, "UnformattedTextValue") or "").splitlines()]
    height = max(MIN_LETTERS, image.height // LETTERS_IN_HEIGHT)
    corner, opposite = (numbers(words, f"BoundingBox{name}HandCorner", 2) for name in ("TopLeft", "BottomRight"))
    anchor = numbers(words, "AnchorPoint", 2)
    at: Point | None = None
    if corner is not None and opposite is not None:
        place = area.placing(text(words, "BoundingBoxAnnotationUnits"), image)
        (x0, y0), (x1, y1) = place((corner[0], corner[1])), place((opposite[0], opposite[1]))
        left, right, top = min(x0, x1), max(x0, x1), min(y0, y1)
        width = max((length(line, height) for line in shown), default=0.0)
        spare = {"RIGHT": right - left - width, "CENTER": (right - left - width) / 2}
        at = left + spare.get(text(words, "BoundingBoxTextHorizontalJustification"), 0.0), top
        write_lines(draw, at, shown, height, fill=fill)
    if anchor is not None:
        x, y = area.placing(text(words, "AnchorPointAnnotationUnits"), image)((anchor[0], anchor[1]))
        if at is None:
            write_lines(draw, (x, y), shown, height, fill=fill)
        elif text(words, "AnchorPointVisibility") == "Y":
            draw.line((*at, x, y), fill=fill)
    if anchor is None and at is None:
        raise NotPresented("a text object has neither a bounding box nor an anchor point (PS3.3 C.10.5)")
