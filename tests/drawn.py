"""Pictures such as devices make, with lines of text drawn into them: names, numbers and dates of nobody.

`letter_height` is that of capitals, in pixels. Fonts are that of Pillow, and what the machine has of DejaVu and
Liberation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Picture = NDArray[np.float64]
"""(rows, columns) grey values from 0 to 255."""

Box = tuple[int, int, int, int]
"""Left, top, right and bottom; the last two are behind the end."""

_FONTS = Path("/usr/share/fonts/truetype")
_FILES = ("dejavu/DejaVuSansMono.ttf", "liberation/LiberationSans-Bold.ttf", "liberation/LiberationSerif-Regular.ttf")
FONTS = ("", *(str(_FONTS / name) for name in _FILES if (_FONTS / name).exists()))
"""Files; empty: the font of Pillow."""

OF_ALL_SCRIPTS = str(_FONTS / "dejavu/DejaVuSans.ttf")
IDEOGRAPHIC = str(_FONTS / "droid/DroidSansFallbackFull.ttf")

_NAMES = ("DOE^JOHN", "Mueller, Anna", "GARCIA LOPEZ M", "Nguyen Thi Lan", "SMITH, R.", "Ivanova E.S.", "O'Brien Pat")


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture and where its lines of text are."""

    picture: Picture
    boxes: Sequence[Box]


def latin(rng: Generator) -> str:
    """Return a name, a date, a number, or a name with a date."""
    name = _NAMES[rng.integers(len(_NAMES))]
    date = f"{rng.integers(1, 29):02d}/{rng.integers(1, 13):02d}/{rng.integers(1930, 2020)}"
    return [name, date, f"ID {rng.integers(10**5, 10**7)}", f"{name} {date}"][rng.integers(4)]


def ultrasound(rng: Generator) -> Picture:
    """A sector of speckle on black, 800 x 600."""
    rows, columns = np.mgrid[:600, :800]
    depth, angle = np.hypot(columns - 400, rows - 40), np.arctan2(columns - 400, rows - 40)
    sector = rng.rayleigh(30, (600, 800)) * ((depth > 60) & (depth < 520) & (abs(angle) < 0.7))
    image = Image.fromarray(np.clip(sector, 0, 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(1)), np.float64)


def screen(rng: Generator) -> Picture:
    """A window of a workstation without words, 1024 x 768."""
    image = Image.new("L", (1024, 768), int(rng.integers(150, 240)))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 1024, 28), fill=90)
    draw.rectangle((200, 60, 1004, 728), fill=10)
    for number in range(12):
        draw.rectangle((12, 70 + number * 40, 90, 94 + number * 40), outline=80, fill=200)
    for number in range(6):
        draw.ellipse((10 + number * 40, 4, 30 + number * 40, 24), outline=220)
    return np.asarray(image, np.float64) + rng.normal(0, 2, (768, 1024))


def anatomy(rows: int, columns: int, noise: float) -> Callable[[Generator], Picture]:
    """Return what draws a body with organs and noise."""

    def picture(rng: Generator) -> Picture:
        y, x = np.mgrid[:rows, :columns]
        body = ((x - columns / 2) / (columns * 0.4)) ** 2 + ((y - rows / 2) / (rows * 0.42)) ** 2 < 1
        image = body * (50 + 120 * np.exp(-((x - columns / 2) ** 2 + (y - rows / 3) ** 2) / (columns * 0.3) ** 2))
        for _ in range(12):
            across, down = rng.integers(columns * 0.2, columns * 0.8), rng.integers(rows * 0.2, rows * 0.8)
            size = rng.integers(columns * 0.02, columns * 0.12)
            image += (((x - across) / size) ** 2 + ((y - down) / size / 1.5) ** 2 < 1) * rng.integers(-40, 60)
        found: Picture = np.clip(image + rng.normal(0, noise, (rows, columns)), 0, 200)
        return found

    return picture


KINDS: dict[str, Callable[[Generator], Picture]] = {
    "ultrasound, 800 x 600": ultrasound,
    "screen, 1024 x 768": screen,
    "CT, 512 x 512": anatomy(512, 512, 10),
    "MR, 256 x 256": anatomy(256, 256, 8),
    "CR, 1760 x 2048": anatomy(2048, 1760, 12),
}


@cache
def font_of(file: str, letter_height: int) -> ImageFont.FreeTypeFont:
    """Return a font whose capitals have a height in pixels."""
    for size in range(letter_height, 3 * letter_height):
        font = ImageFont.truetype(file, size) if file else ImageFont.load_default(size)
        assert isinstance(font, ImageFont.FreeTypeFont)
        _, top, _, bottom = font.getbbox("H")
        if bottom - top >= letter_height:
            return font
    raise AssertionError(file)


def with_text(
    picture: Picture,
    rng: Generator,
    letter_height: int,
    contrast: int,
    line: Callable[[Generator], str] = latin,
    fonts: Sequence[str] = FONTS,
    lines: int = 4,
) -> Drawn:
    """Draw lines at random places that do not overlap, half of them at the upper or lower edge.

    `contrast`: by how much letters differ from what is below them; 255: white, or black on what is bright.
    """
    picture = picture.copy()
    rows, columns = picture.shape
    boxes: list[Box] = []
    for _ in range(lines * 20):
        if len(boxes) == lines:
            break
        words, font = line(rng), font_of(fonts[rng.integers(len(fonts))], letter_height)
        x, y, right, bottom = font.getbbox(words)
        width, height = int(right - x), int(bottom - y)
        if width + 6 >= columns or height + 6 >= rows:
            continue
        left = int(rng.integers(2, columns - width - 2))
        top = int(rng.choice([3, rows - height - 3, rng.integers(3, rows - height - 2)], p=[0.25, 0.25, 0.5]))
        box = left, top, left + width, top + height
        if any(_is_near(box, other) for other in boxes):
            continue
        ink = Image.new("L", (columns, rows))
        ImageDraw.Draw(ink).text((left - x, top - y), words, fill=255, font=font)
        covered = np.asarray(ink) / 255
        below = picture[top : top + height, left : left + width].mean()
        value = (255 if below < 128 else 0) if contrast == 255 else below + (contrast if below < 128 else -contrast)
        picture = picture * (1 - covered) + value * covered
        boxes.append(box)
    return Drawn(picture, boxes)


def _is_near(one: Box, other: Box) -> bool:
    apart = one[0] > other[2] + 10 or one[2] < other[0] - 10 or one[1] > other[3] + 6 or one[3] < other[1] - 6
    return not apart
