"""Letters in pictures: the font of Pillow for ASCII, and fonts of the machine for what that lacks.

A line is written in the first font that has all of it, else each of its words is, else each letter. A letter that no
font has appears as its Latin one without accent, or as ``?``.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from PIL import ImageDraw, ImageFont

FOLDERS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"))
"""Where fonts of the machine are; a confined child may read them (`node.child_process.confinement`)."""

FILES = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "FreeSans.ttf"),
    *("NotoSansCJK-Regular.ttc", "NotoSansCJKjp-Regular.otf", "NotoSansJP-Regular.otf", "NotoSansKR-Regular.otf"),
    *("NotoSansSC-Regular.otf", "NotoSansTC-Regular.otf", "DroidSansFallbackFull.ttf", "DroidSansFallback.ttf"),
    *("ipag.ttf", "wqy-microhei.ttc", "wqy-zenhei.ttc", "NanumGothic.ttf", "unifont.otf"),
    *("NotoSansArabic-Regular.ttf", "NotoSansHebrew-Regular.ttf", "NotoSansThai-Regular.ttf"),
    *("NotoSansDevanagari-Regular.ttf", "NotoSansArmenian-Regular.ttf", "NotoSansGeorgian-Regular.ttf"),
)
"""Fonts that are asked for letters, in this order."""

TRIED_SIZE = 16
"""Height of letters at which a font is asked whether it has them."""

_LETTERS = str.maketrans(
    {"ß": "ss", "ø": "o", "Ø": "O", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ł": "l", "Ł": "L"}
)

_WORD = re.compile(" *[^ ]+ *$| *[^ ]+")
_NO_LETTER = "\U0010ffff"

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_OWN = Path()
"""Stands for the font of Pillow."""


class Run(NamedTuple):
    """A part of a line in one font."""

    text: str
    font: _Font


def runs(line: str, height: int) -> list[Run]:
    """Return the parts of a line, each with a font that has its letters, `height` pixels high."""
    return [Run(text, _font(path, height)) for text, path in _parts(line)]


def length(line: str, height: int) -> float:
    """Return the width of a line in pixels."""
    return sum(run.font.getlength(run.text) for run in runs(line, height))


def write(draw: ImageDraw.ImageDraw, at: tuple[float, float], line: str, height: int, **how: Any) -> None:
    """Write a line whose upper left corner is at a point; `how`: see `PIL.ImageDraw.ImageDraw.text`."""
    own = _font(_OWN, height)
    x, y = at
    baseline = y + (own.getmetrics()[0] if isinstance(own, ImageFont.FreeTypeFont) else height)
    for run in runs(line, height):
        if isinstance(run.font, ImageFont.FreeTypeFont):
            draw.text((x, baseline), run.text, font=run.font, anchor="ls", **how)
        else:
            draw.text((x, y), run.text, font=run.font, **how)
        x += run.font.getlength(run.text)


@lru_cache(maxsize=256)
def _parts(line: str) -> Sequence[tuple[str, Path]]:
    if (path := _font_of(line)) is not None:
        return [(line, path)]
    words = _WORD.findall(line)
    if len(words) > 1:
        return _joined(part for word in words for part in _parts(word))
    known = ((letter, _font_of(letter)) for letter in line)
    return _joined((plain(letter), _OWN) if path is None else (letter, path) for letter, path in known)


def _joined(parts: Iterator[tuple[str, Path]]) -> list[tuple[str, Path]]:
    """Join neighbours in one font: letters of some scripts have other forms within a word."""
    found: list[tuple[str, Path]] = []
    for text, path in parts:
        if found and found[-1][1] == path:
            found[-1] = found[-1][0] + text, path
        else:
            found.append((text, path))
    return found


def _font_of(text: str) -> Path | None:
    """Return the first font that has all letters of a text; None: none has."""
    if text.isascii():
        return _OWN
    return next((path for path in _files() if all(_has(path, letter) for letter in set(text))), None)


@cache
def _files() -> Sequence[Path]:
    found = {
        file: Path(folder, file)
        for place in FOLDERS
        for folder, _, files in os.walk(place)
        for file in set(files) & set(FILES)
    }
    return [found[name] for name in FILES if name in found]


@lru_cache(maxsize=4096)
def _has(path: Path, letter: str) -> bool:
    if letter.isspace():
        return True
    return _drawn(path, letter) != _drawn(path, _NO_LETTER)


@lru_cache(maxsize=4096)
def _drawn(path: Path, letter: str) -> tuple[Any, bytes]:
    mask = _font(path, TRIED_SIZE).getmask(letter)
    return mask.size, bytes(mask)


@lru_cache(maxsize=64)
def _font(path: Path, height: int) -> _Font:
    if path == _OWN:
        return ImageFont.load_default(height)
    return ImageFont.truetype(path, height)


def plain(letter: str) -> str:
    """Return a letter that no font has in ASCII: without accent, or ``?``."""
    decomposed = unicodedata.normalize("NFKD", letter.translate(_LETTERS))
    bare = "".join(c for c in decomposed if not unicodedata.combining(c))
    return bare if bare.isascii() else "?"
