"""Files made of the array of a volume file: PNG pictures of slices, NPZ with labels, masks without specks and holes.

Arrays are (i, j, k) or (i, j, k, time), as `node.writers.reading.read_voxels` returns them; affines are in LPS+, in mm.
Pictures show the middle time, as radiologists view a plane; slices count from 1, from the feet, the front or the right.

Rectangles on slices are read from a table: CSV, or the first sheet of an XLSX file.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image, ImageDraw

from node.errors import no_label
from node.registry import require_extra
from node.volume.derived import named_plane, placed, require_numbers
from node.volume.model import Array, Display, Float, Geometry, Volume
from node.volume.planes import PlaneName
from node.volume.rendering import Picture, Shades, slices
from node.writers.pictures import MONTAGE_STEP, SLICE_PIXELS, TILE_PIXELS, arranged, resized
from node.writers.write import arrays_of, write_arrays

Window = tuple[float, float]
"""Centre and width, in values of the array."""

DRAWN_PIXELS = 512
"""A picture with rectangles is enlarged up to this longer side, so that their labels can be read."""

LINE_PIXELS = 256
"""A line is a pixel wide for each so many of the longer side of a picture."""

YELLOW = (255, 220, 0)

COLUMNS = ("slice", "left", "top", "width", "height")
"""Columns that a table must have; ``label`` may be another, and others are not read."""

MAX_ROWS = 1_000_000


def write_slices(
    folder: str | PathLike[str],
    array: Array,
    affine_lps: Float,
    plane: PlaneName = "axial",
    step: int = 1,
    window: Window | None = None,
    modality: str = "",
) -> list[Path]:
    """Write every `step`-th slice of a plane as a PNG, into a folder that is made if it is not there.

    `window`: by default that of the `modality`, else the 1st to the 99th percentile.

    Raises ValueError: the array has colours, or there is no such plane or step.
    """
    volume = _volume(array, affine_lps, window, modality)
    Path(folder).mkdir(parents=True, exist_ok=True)
    written = []
    for number, picture in _pictures(volume, plane, step):
        path = Path(folder, _name(volume, plane, number))
        resized(picture, SLICE_PIXELS).save(path)
        written.append(path)
    return written


def write_montage(
    path: str | PathLike[str],
    array: Array,
    affine_lps: Float,
    plane: PlaneName = "axial",
    step: int = MONTAGE_STEP,
    columns: int = 0,
    window: Window | None = None,
    modality: str = "",
) -> int:
    """Write every `step`-th slice of a plane in a grid, as one PNG; return how many there are.

    `columns` is by default what makes the grid nearly square. Errors and others are those of `write_slices`.
    """
    if columns < 0:
        raise ValueError(f"columns = {columns}: there is no such grid")
    volume = _volume(array, affine_lps, window, modality)
    tiles = [resized(picture, TILE_PIXELS) for _, picture in _pictures(volume, plane, step)]
    arranged(tiles, columns or int(np.ceil(np.sqrt(len(tiles))))).save(path, "PNG")
    return len(tiles)


def write_rectangles(
    folder: str | PathLike[str],
    array: Array,
    affine_lps: Float,
    rectangles: Sequence[Rectangle],
    plane: PlaneName = "axial",
    window: Window | None = None,
    modality: str = "",
) -> list[Path]:
    """Write each slice that has rectangles as a PNG with these drawn on it.

    Errors and others are those of `write_slices`; also raises ValueError if a rectangle is not within its slice, and
    then writes nothing.
    """
    volume = _volume(array, affine_lps, window, modality)
    wanted: dict[int, list[Rectangle]] = {}
    for one in rectangles:
        wanted.setdefault(one.slice, []).append(one)
    drawn = {
        number: _drawn(picture, wanted.pop(number))
        for number, picture in _pictures(volume, plane, 1)
        if number in wanted
    }
    if wanted:
        absent = next(iter(wanted.values()))[0]
        raise ValueError(f"{absent.place}: there is no {plane} slice {absent.slice}")
    Path(folder).mkdir(parents=True, exist_ok=True)
    written = []
    for number, image in drawn.items():
        path = Path(folder, _name(volume, plane, number))
        image.save(path)
        written.append(path)
    return written


def _drawn(picture: Picture, rectangles: Sequence[Rectangle]) -> Image.Image:
    height, width = picture.pixels.shape[:2]
    image = resized(picture, SLICE_PIXELS).convert("RGB")
    larger = max(1, DRAWN_PIXELS // max(image.size))
    image = image.resize((image.width * larger, image.height * larger), Image.Resampling.LANCZOS)
    across, down = image.width / width, image.height / height
    draw = ImageDraw.Draw(image)
    for one in rectangles:
        if one.left < 0 or one.top < 0 or one.left + one.width > width or one.top + one.height > height:
            raise ValueError(f"{one.place}: the rectangle is not within the slice of {width} x {height} pixels")
        left, top = one.left * across, one.top * down
        right, bottom = (one.left + one.width) * across - 1, (one.top + one.height) * down - 1
        line = max(1, max(image.size) // LINE_PIXELS)
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=YELLOW, width=line)
        if one.label:
            draw.text((left + 2 * line, top + line), one.label, fill=YELLOW)
    return image


def write_labelled_npz(
    path: str | PathLike[str],
    array: Array,
    affine_lps: Float,
    labels: Sequence[tuple[Array, Float]],
    fields: Mapping[str, Any] | None = None,
    label_fields: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """Write a volume and label volumes of it as one NPZ: the arrays of `node.writers.write.write_npz`, and these.

    ``labels`` : (slices, rows, columns), on the grid of the volume; of several label volumes, these come first.
    ``labels_json`` : text, `label_fields` as JSON: the sidecars of the label volumes.

    `fields`: the sidecar of the volume.

    Return a sentence for each label volume with ``unlabelled_slices``: slices of the volume, from 0, that were
    interpolated and have no label. Their 0 does not mean that somebody looked there and saw nothing.

    Raises ValueError if labels are not whole numbers, or have another grid: see `node.volume.derived.placed`.
    """
    if not labels:
        raise ValueError("there are no labels")
    fields = {name: value for name, value in (fields or {}).items() if name != "completeness"}
    _require_true_places(fields, label_fields)
    here = [placed(one, its_affine, affine_lps, array.shape[:3]).transpose() for one, its_affine in labels]
    volume = _volume(array, affine_lps, None, "")
    between = fields.get("interpolated_slices", ())
    unlabelled = [[index for index in between if not one[index].any()] for one in here]
    told: list[dict[str, Any]] = [dict(one) for one in label_fields] or [{} for _ in here if any(unlabelled)]
    for its_fields, indexes in zip(told, unlabelled, strict=False):
        if indexes:
            its_fields["unlabelled_slices"] = indexes
    text = {"json": fields, "labels_json": told}
    arrays = arrays_of(volume) | {
        "series_uid": np.str_(fields.get("SeriesInstanceUID", "")),
        "labels": here[0] if len(here) == 1 else np.stack(here),
        **{name: np.str_(json.dumps(value, ensure_ascii=False)) for name, value in text.items()},
    }
    part = Path(path).with_name(f".{Path(path).name}.part")
    part.unlink(missing_ok=True)
    write_arrays(part, arrays)
    part.replace(path)
    return [no_label(indexes) for indexes in unlabelled if indexes]


def _require_true_places(fields: Mapping[str, Any], label_fields: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError if slices of only one of two volumes are uneven: its affine is right for the first one alone."""
    is_uneven = fields.get("geometry") == "irregular"
    for one in label_fields:
        if "geometry" in one and (one["geometry"] == "irregular") != is_uneven:
            whose = "the volume" if is_uneven else "the labels"
            remedy = ": give its resampled copy, which has each of them in its place" if is_uneven else ""
            raise ValueError(f"the slices of {whose} are uneven, and one distance stands for all of them{remedy}")


def refined(mask: Array, opening: int = 0, fill: bool = False) -> Array:
    """Return a mask without holes in its slices, with `fill`, and then of the squares alone that fit into it.

    `mask`: (i, j, k) or (i, j, k, t) array; a slice has one k. `opening`: side of the squares in voxels.

    A hole is what no path of neighbouring voxels of the slice, outside of the mask, connects with its border.

    Raises ValueError if the side is below 0.
    """
    found: Array = mask != 0
    if fill:
        import SimpleITK as sitk  # pictures do not need it, and it loads slowly

        for index in np.ndindex(found.shape[2:]):
            plane = sitk.GetImageFromArray(found[:, :, *index].astype(np.uint8))
            found[:, :, *index] = sitk.GetArrayFromImage(sitk.BinaryFillhole(plane)) != 0
    if opening:
        found = np.pad(found, [(opening - 1, opening - 1)] * 2 + [(0, 0)] * (found.ndim - 2))
        for reduced in (np.all, np.any):  # where squares fit, then what they cover
            for axis in (0, 1):
                found = reduced(sliding_window_view(found, opening, axis), axis=-1)
    return np.asarray(found, np.uint8)


def _volume(array: Array, affine_lps: Float, window: Window | None, modality: str) -> Volume:
    require_numbers(array)
    if array.ndim not in (3, 4):
        raise ValueError(f"the array has {array.ndim} dimensions, not three or four")
    voxels = (array[..., None] if array.ndim == 3 else array).transpose()
    spacing = np.linalg.norm(affine_lps[:3, :3], axis=0).tolist()
    windows = () if window is None else (window,)
    return Volume(
        voxels, affine_lps, tuple(spacing), Geometry.REGULAR, 0, modality, (),
        display=Display(windows, "LINEAR_EXACT"),
    )  # fmt: skip


def _pictures(volume: Volume, plane: PlaneName, step: int) -> Any:
    return slices(volume, Shades(volume), named_plane(plane), step)


def _name(volume: Volume, plane: str, number: int) -> str:
    return f"{plane}{number:0{len(str(max(volume.shape[:3])))}}.png"


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A rectangle on a slice, which counts from 1; in pixels of the slice as it is viewed, from the top left corner.

    `place`: where it stands in the table, for messages.
    """

    slice: int
    left: float
    top: float
    width: float
    height: float
    label: str = ""
    place: str = "a rectangle"


def read_rectangles(table: str | PathLike[str]) -> list[Rectangle]:
    """Return the rectangles of a table whose first row names the columns.

    Raises ValueError: a column is missing, or a value is no number; OSError; and UsageError, with the extra to install,
    if XLSX cannot be read here.
    """
    path = Path(table)
    rows = _sheet(path) if path.suffix.lower() == ".xlsx" else _csv(path)
    names = [str(name or "").strip().lower() for name in next(rows, ())]
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise ValueError(f"{path}: the first row has no column {', '.join(missing)}; it names {', '.join(COLUMNS)}")
    found = []
    for number, row in enumerate(rows, 2):
        if number > MAX_ROWS:
            raise ValueError(f"{path}: there are more than {MAX_ROWS} rows")
        values = dict(zip(names, row, strict=False))
        if any(value not in (None, "") for value in row):
            found.append(_rectangle(values, f"{path}: row {number}"))
    return found


def _rectangle(values: dict[str, Any], place: str) -> Rectangle:
    numbers = {name: _number(values.get(name), name, place) for name in COLUMNS}
    slice_ = numbers.pop("slice")
    if slice_ != int(slice_):
        raise ValueError(f"{place}: slice is not a whole number")
    if numbers["width"] <= 0 or numbers["height"] <= 0:
        raise ValueError(f"{place}: width and height are more than 0")
    return Rectangle(int(slice_), **numbers, label=str(values.get("label") or "").strip(), place=place)


def _number(value: Any, name: str, place: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{place}: {name} is not a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{place}: {name} is not a number")
    return number


def _csv(path: Path) -> Iterator[Sequence[Any]]:
    """Yield rows; commas, semicolons or tabs are between the values, by which of them the first row has."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            yield from csv.reader(file, delimiter=max(",;\t", key=first.count))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not CSV in UTF-8") from error


def _sheet(path: Path) -> Iterator[Sequence[Any]]:
    require_extra("a table in XLSX", "excel")

    from zipfile import BadZipFile

    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        book = load_workbook(path, read_only=True, data_only=True)
    except (BadZipFile, InvalidFileException, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not an XLSX file") from error
    try:
        yield from book.worksheets[0].iter_rows(values_only=True)
    finally:
        book.close()
