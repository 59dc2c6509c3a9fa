"""The last steps of a rendered picture: colours of a space with its ICC profile, burned-in text (PS3.18 8.3.5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

from PIL import Image, ImageCms, ImageDraw

from node.errors import ConversionRefused
from node.extensions.dicomweb.colour_profiles import ColourSpace, adobe_rgb, romm_rgb
from node.extensions.dicomweb.lettering import length, write
from node.volume.reasons import Reason

LINES_IN_HEIGHT = 32
"""Lines of text that the height of a picture has room for, unless the letters were too small to read."""

MIN_LETTERS, MAX_LETTERS = 9, 48
"""Height of letters in pixels."""

MARGIN = 4


def with_profile(
    image: Image.Image, source: bytes | ColourSpace, wanted: ColourSpace | None
) -> tuple[Image.Image, bytes]:
    """Return a picture in a colour space, and the ICC profile of that space.

    Grey pictures become colour ones: their levels are those of sRGB.

    `source`: the profile of the picture, or a well-known colour space.
    `wanted`: None: the colours stay as they are.

    Raises ConversionRefused: the profile of the picture is not one of RGB.
    """
    given = profile_of("srgb" if image.mode != "RGB" else source)
    colour = image.convert("RGB")
    if wanted is None:
        return colour, given
    target = profile_of(wanted)
    if given == target:
        return colour, target
    try:
        before, after = (ImageCms.ImageCmsProfile(BytesIO(profile)) for profile in (given, target))
        converted = ImageCms.profileToProfile(colour, before, after, ImageCms.Intent.RELATIVE_COLORIMETRIC)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise _unusable() from error
    assert converted is not None
    return converted, target


def profile_of(source: bytes | ColourSpace) -> bytes:
    """Return a profile, or that of a well-known colour space.

    Raises ConversionRefused if it is not a profile of RGB.
    """
    match source:
        case "srgb":
            return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        case "adobergb":
            return adobe_rgb()
        case "rommrgb":
            return romm_rgb()
    data = bytes(source)
    try:
        is_rgb = ImageCms.ImageCmsProfile(BytesIO(data)).profile.xcolor_space.strip() == "RGB"
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise _unusable() from error
    if not is_rgb:
        raise _unusable()
    return data


def _unusable() -> ConversionRefused:
    detail = "the ICC Profile (0028,2000) is not one of RGB (PS3.3 C.11.15); ask for iccprofile=no"
    return ConversionRefused(Reason.UNDECODABLE, detail)


def annotated(image: Image.Image, top: Sequence[str], bottom: Sequence[str]) -> Image.Image:
    """Return a picture with lines of text in its upper and lower left corners, white with a black edge.

    Letters become smaller until all lines fit, but never too small to be read: what does not fit then ends with dots,
    and the picture must be larger to show it.
    """
    height = max(MIN_LETTERS, min(MAX_LETTERS, image.height // LINES_IN_HEIGHT))
    room = image.width - 2 * MARGIN
    lines = [*top, *bottom]
    while height > MIN_LETTERS and not _fits(lines, height, room, image.height):
        height -= 1
    step = _step(height)
    rows = max(0, (image.height - 2 * MARGIN) // step)
    marked = image.convert("RGB" if image.mode != "L" else "L")
    draw = ImageDraw.Draw(marked)
    above = [*top[:rows]]
    if len(above) < len(lines) and len(above) == rows and above:
        above[-1] += " ..."
    below = bottom[: rows - len(above)]
    shown = [(MARGIN + row * step, line) for row, line in enumerate(above)]
    shown += [(image.height - MARGIN - (len(below) - row) * step, line) for row, line in enumerate(below)]
    white, black = ((255, 255, 255), (0, 0, 0)) if marked.mode == "RGB" else (255, 0)
    for y, line in shown:
        how = {"fill": white, "stroke_width": max(1, height // 12), "stroke_fill": black}
        write(draw, (MARGIN, y), _cut(line, height, room), height, **how)
    return marked


def _fits(lines: Sequence[str], height: int, width: int, rows: int) -> bool:
    return len(lines) * _step(height) <= rows - 2 * MARGIN and all(length(line, height) <= width for line in lines)


def _step(height: int) -> int:
    return height + max(2, height // 4)


def _cut(line: str, height: int, width: int) -> str:
    if length(line, height) <= width:
        return line
    while line and length(f"{line}...", height) > width:
        line = line[:-1]
    return f"{line}..."
