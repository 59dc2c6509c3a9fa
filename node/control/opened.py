"""What a program sees of a node or of a folder of ``voxelnode convert``: patients, studies, series and volumes.

Nothing is kept open: each call reads what is there then, also beside a running node. The objects are the same for
every `RowSource`, a root and a folder.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from pydantic import ValidationError

from node.control.root import is_root
from node.conversion.volume_files import stem_of
from node.errors import UsageError
from node.index.database.look import looking
from node.index.engine.backend import IndexUnusable, Place, place_of
from node.index.engine.view_rows import moment, parsed
from node.registry import require_extra
from node.selector import compile_selector
from node.settings.load import load, mistakes
from node.settings.section import Convert
from node.volume.derived import masked, montage, project, threshold
from node.volume.model import Array, Float, VolumeKind
from node.volume.planes import PlaneName, ProjectionName
from node.writers.from_arrays import (
    Rectangle,
    read_rectangles,
    refined,
    write_labelled_npz,
    write_montage,
    write_rectangles,
    write_slices,
)
from node.writers.pictures import outlines, points_lps
from node.writers.reading import read_affine, read_voxels

if TYPE_CHECKING:
    import pandas
    import polars

    from node.index.nouns.converted import SeriesKey

__all__ = [
    "Rectangle", "contours", "convert", "masked", "montage", "open", "project", "read_rectangles", "refined",
    "threshold", "write_labelled_npz", "write_montage", "write_rectangles", "write_slices",
]  # fmt: skip

Row = Mapping[str, Any]

LISTING = "conversion.json"
SUFFIXES = (".nii.gz", ".nii", ".mhd", ".mha", ".nrrd")
"""Volume files that are read here, the preferred first."""

VOXELS = (".zraw", ".raw")
"""Suffixes of the data file of a MetaImage header."""

BESIDE = (".json", ".bval", ".bvec")
"""Suffixes of what lies beside a volume file in any format."""


class RowSource(Protocol):
    """Where rows come from; the names of columns are those of the views (docs/data.md)."""

    def patients(self) -> list[Row]: ...
    def studies(self, patient: Row | None = None) -> list[Row]: ...
    def series(self, study_instance_uid: str | None = None, where: str | None = None) -> list[Row]: ...
    def volumes(self, study_instance_uid: str, series_instance_uid: str) -> list[Row]: ...
    def exclusions(self, series: Row) -> list[Row]: ...
    def failures(self, study_instance_uid: str, series_instance_uid: str) -> list[Row]: ...
    def sources(self, volume: Row) -> list[Row]: ...
    def catalog(self, where: str | None = None) -> list[Row]: ...
    def skipped(self) -> list[Row]: ...


@dataclass(frozen=True, slots=True)
class OpenedVolume:
    """A volume file.

    `row`: columns of ``v_volumes``, such as ``shape``, ``spacing_mm``, ``geometry``, ``warnings`` and ``sha256``.
    `resampled`: the copy on an even, upright grid, which a volume with sheared or uneven slices has.
    """

    name: str
    row: Row
    _source: RowSource = field(repr=False)
    resampled: OpenedVolume | None = field(default=None, repr=False)

    @property
    def geometry(self) -> str:
        """``regular``, ``sheared``, ``irregular`` (uneven slices), ``single`` or ``none``, as in ``v_volumes``."""
        return str(self.row["geometry"])

    @property
    def path(self) -> Path:
        """The file; `save` copies it."""
        return Path(self.row["path"])

    @property
    def affine_lps(self) -> Float:
        """(4, 4) float64, mm: from (i, j, k) of `array` to LPS+, as DICOM and ITK have it (PS3.3 C.7.6.2.1.1).

        If `geometry` is ``irregular``, it is right for the first slice alone: take `resampled`.
        """
        return read_affine(self.path)

    @property
    def affine_ras(self) -> Float:
        """(4, 4) float64, mm: from (i, j, k) of `array` to RAS+, as NIfTI has it."""
        return np.diag((-1.0, -1.0, 1.0, 1.0)) @ self.affine_lps

    def array(self) -> Array:
        """Return the voxels: (i, j, k) or (i, j, k, time), real values such as HU, or colours.

        Colours are a structured type of ``R``, ``G`` and ``B``.

        Raises OSError: the file is missing: it was replaced or deleted, or only the object store has it.
        Raises ValueError: the file is no volume any more.
        """
        return read_voxels(self.path)[0]

    @property
    def sidecar(self) -> dict[str, Any]:
        """The fields of the JSON file beside the volume (docs/sidecar.md); none if there is no such file."""
        with suppress(FileNotFoundError):
            fields: dict[str, Any] = json.loads(self.path.with_name(f"{stem_of(self.name)}.json").read_bytes())
            return fields
        return {}

    def save(self, folder: str | PathLike[str]) -> Path:
        """Copy the file into a folder, with what lies beside it: sidecar, gradients, the data of a header.

        `folder`: created if missing. A copy that breaks off leaves no file in it.

        Returns the path of the copy; raises as `array`.

        Raises FileExistsError: another volume has its name there: many volumes of a node are called ``volume.nii.gz``.
        """
        there = Path(folder, self.name)
        with suppress(FileNotFoundError), there.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != self.row["sha256"]:
                raise FileExistsError(f"{there} is another volume: give each volume a folder of its own")
        there.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=there.parent) as copied:
            for suffix in (*BESIDE, *(VOXELS if self.name.endswith(".mhd") else ())):
                with suppress(FileNotFoundError):
                    beside = self.path.with_name(f"{stem_of(self.name)}{suffix}")
                    shutil.copyfile(beside, Path(copied, beside.name))
            shutil.copyfile(self.path, Path(copied, self.name))
            for path in Path(copied).iterdir():
                path.replace(there.with_name(path.name))
        return there

    @property
    def provenance(self) -> dict[str, Any]:
        """From what the volume was made: ``revision``, ``converter``, ``created_at``, ``sha256`` and ``instances``.

        Each of the instances has ``sop_instance_uid``, ``sha256`` and ``frames``. A folder has only the digest.
        """
        known = {name: self.row.get(name) for name in ("revision", "converter", "created_at", "sha256")}
        return known | {"instances": self._source.sources(self.row)}

    def project(self, plane: PlaneName, projection: ProjectionName = "mip", time: int = 0) -> Array:
        """Return a projection of the whole volume at one time; see `node.volume.derived.project`."""
        return self._apply(project, time, plane, projection)

    def montage(self, plane: PlaneName = "axial", step: int = 1, columns: int = 0, time: int = 0) -> Array:
        """Return slices of one time in a grid; see `node.volume.derived.montage`."""
        return self._apply(montage, time, plane, step, columns)

    def _apply(self, function: Any, time: int, *arguments: Any) -> Array:
        array, affine = read_voxels(self.path)
        result: Array = function(array[..., time] if array.ndim == 4 else array, affine, *arguments)
        return result


@dataclass(frozen=True, slots=True)
class OpenedSeries:
    """A series, and what became of it.

    `verdict`: ``complete``, ``incomplete`` or ``suspect``; None while it is not converted, or if its conversion failed.
    `reason`: of the verdict, in words.
    `row`: columns of ``v_series``; of a folder, what ``conversion.json`` has.
    """

    uid: str
    study_uid: str
    verdict: str | None
    reason: str | None
    row: Row
    _source: RowSource = field(repr=False)

    def files(self) -> list[Row]:
        """Return the rows of all current files: volumes in every format, masks, pictures."""
        return self._source.volumes(self.study_uid, self.uid)

    def volumes(self) -> list[OpenedVolume]:
        """Return the current volumes, of each one file: NIfTI if there is one."""
        files = self.files()
        copies = {
            _stem(row): OpenedVolume(_name_of(row), row, self._source)
            for row in _one_file_each(files, VolumeKind.RESAMPLED)
        }
        return [
            OpenedVolume(_name_of(row), row, self._source, copies.get(f"{_stem(row)}_resampled"))
            for row in _one_file_each(files)
        ]

    @property
    def exclusions(self) -> list[Row]:
        """The instances that are in no volume: ``sop_instance_uid``, ``frames``, ``reason`` and ``detail``."""
        return self._source.exclusions(self.row)

    @property
    def failures(self) -> list[Row]:
        """What was refused: ``stack`` (None: all), ``reason`` and ``detail``."""
        return self._source.failures(self.study_uid, self.uid)


@dataclass(frozen=True, slots=True)
class Study:
    """A study; `row` has the columns of ``v_studies``."""

    uid: str
    row: Row
    _source: RowSource = field(repr=False)

    def series(self) -> list[OpenedSeries]:
        """Return its series, the last received first."""
        return _series(self._source, self.uid)


@dataclass(frozen=True, slots=True)
class OpenedPatient:
    """A patient; `row` has the columns of ``v_patients``."""

    patient_id: str | None
    name: str | None
    row: Row
    _source: RowSource = field(repr=False)

    def studies(self) -> list[Study]:
        """Return the studies of the patient."""
        rows = self._source.studies(self.row)
        return [Study(row["study_instance_uid"], row, self._source) for row in rows]


def _name_of(row: Row) -> str:
    """Return the name of the file of a row."""
    return PurePath(row["path"]).name


def _series_of(row: Row) -> tuple[str, str]:
    """Return Study and Series Instance UID of a row."""
    return row["study_instance_uid"], row["series_instance_uid"]


def _one_file_each(rows: Iterable[Row], kind: VolumeKind = VolumeKind.VOLUME, *, is_read: bool = True) -> list[Row]:
    """Return one file of each volume of a kind among the rows of files: NIfTI if there is one.

    `is_read`: only of those that have a file that is read here.
    """
    best: dict[tuple[Any, ...], tuple[int, Row]] = {}
    for row in rows:
        ending = next((place for place, suffix in enumerate(SUFFIXES) if _name_of(row).endswith(suffix)), len(SUFFIXES))
        if row["kind"] != kind or (is_read and ending == len(SUFFIXES)):
            continue
        # A folder of conversions may have one Series Instance UID in two studies, or series without one.
        key = row.get("study_instance_uid"), row["series_instance_uid"], row["stack"], row["suffix"], _stem(row)
        if key not in best or ending < best[key][0]:
            best[key] = ending, row
    return [best[key][1] for key in sorted(best)]


def _stem(row: Row) -> str:
    """Return what the files of a volume in every format begin with."""
    path = PurePath(row["path"])
    return str(path.with_name(stem_of(path.name)))


def _series(source: RowSource, study_instance_uid: str | None = None, where: str | None = None) -> list[OpenedSeries]:
    return [
        OpenedSeries(
            row["series_instance_uid"], row["study_instance_uid"], row["verdict"], row["verdict_reason"], row, source
        )
        for row in source.series(study_instance_uid, where)
    ]


class Opened:
    """A node, or a folder of conversions."""

    def __init__(self, source: RowSource) -> None:
        self._source = source

    def patients(self) -> list[OpenedPatient]:
        """Return all patients, by name; a folder of conversions has none."""
        return [
            OpenedPatient(row["patient_id"], row["patient_name"], row, self._source) for row in self._source.patients()
        ]

    def studies(self) -> list[Study]:
        """Return all studies."""
        return [Study(row["study_instance_uid"], row, self._source) for row in self._source.studies()]

    def series(self, where: str | None = None) -> list[OpenedSeries]:
        """Return all series, or those that a selector selects (docs/select.md), the last received first.

        Raises UsageError: the selector is wrong, or it is a folder of conversions, which has no index.
        """
        return _series(self._source, where=where)

    def catalog(self, where: str | None = None) -> list[Row]:
        """Return a row for each current volume; of a node, with the columns of ``v_catalog`` (docs/data.md).

        `where`: only volumes of series that fit, as ``voxelnode select`` has it (docs/select.md); of a node.

        Raises UsageError: the expression is wrong, or this is a folder of conversions.
        """
        return self._source.catalog(where)

    def skipped(self) -> list[Row]:
        """Return the ``name`` and the ``reason`` of each file that a conversion of a folder skipped as not DICOM."""
        return self._source.skipped()

    def to_pandas(self, where: str | None = None) -> pandas.DataFrame:
        """Return the `catalog` as a frame of pandas, which must be installed. Raises UsageError if it is not."""
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise UsageError("to_pandas needs a library that is not installed: pip install pandas") from error

        return pandas.DataFrame(self.catalog(where))

    def to_polars(self, where: str | None = None) -> polars.DataFrame:
        """Return the `catalog` as a frame of polars, which comes with the extra `frames`. Raises as `to_pandas`."""
        require_extra("to_polars", "frames")
        import polars

        return polars.DataFrame(self.catalog(where), infer_schema_length=None)

    def to_parquet(self, path: str | PathLike[str], where: str | None = None) -> None:
        """Write the `catalog` as a Parquet file, by polars, which comes with the extra `frames`."""
        self.to_polars(where).write_parquet(Path(path))


class _Root:
    """The rows of the index of a root."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.studies()  # raises IndexUnusable if it cannot be read

    def patients(self) -> list[Row]:
        with looking(self._place) as index:
            return _told(index.patients.all())

    def studies(self, patient: Row | None = None) -> list[Row]:
        with looking(self._place) as index:
            return _told(index.studies.all() if patient is None else index.studies.of_patients([patient["id"]]))

    def series(self, study_instance_uid: str | None = None, where: str | None = None) -> list[Row]:
        selected = None if where is None else self._selected(where)
        with looking(self._place) as index:
            rows = _told(index.series.newest(_ALL, study=study_instance_uid))
        return rows if selected is None else [row for row in rows if _series_of(row) in selected]

    def _selected(self, where: str) -> set[SeriesKey]:
        from node.index.database.reading import reading  # here, because a look needs no SQLAlchemy

        selector, place = compile_selector(where), self._place
        of = (place.parent, None) if isinstance(place, Path) else (place.root, place.url)
        with reading(*of) as index:
            return set(index.facts.selected(selector))

    def volumes(self, study_instance_uid: str, series_instance_uid: str) -> list[Row]:
        with looking(self._place) as index:
            return _told(index.volumes.current(study_instance_uid, series_instance_uid))

    def exclusions(self, series: Row) -> list[Row]:
        uids = series["study_instance_uid"], series["series_instance_uid"]
        with looking(self._place) as index:
            return _told(index.exclusions.of_revision(*uids, series["revision"], _ALL))

    def failures(self, study_instance_uid: str, series_instance_uid: str) -> list[Row]:
        with looking(self._place) as index:
            return _told(index.failures.of_study(study_instance_uid, series_instance_uid))

    def sources(self, volume: Row) -> list[Row]:
        uids = volume["study_instance_uid"], volume["series_instance_uid"]
        with looking(self._place) as index:
            found = index.volumes.sources(*uids, volume["revision"], _ALL)
        return [row for row in found if row["stack"] == volume["stack"]]

    def catalog(self, where: str | None = None) -> list[Row]:
        selected = None if where is None else self._selected(where)
        with looking(self._place) as index:
            rows = _told(index.volumes.catalog())
        return rows if selected is None else [row for row in rows if _series_of(row) in selected]

    def skipped(self) -> list[Row]:
        return []


_ALL = 0x7FFFFFFF
"""More rows than there are."""

_MOMENTS = "_at", "_since"
"""Ends of the names of columns that are moments."""


def _told(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Return rows of views with their lists as such, and moments and times of day as REST has them."""
    return [{name: _value(name, value) for name, value in parsed({**row}).items()} for row in rows]


def _value(name: str, value: Any) -> Any:
    if value and name.endswith(_MOMENTS):
        return moment(value).isoformat().replace("+00:00", "Z")
    return dt.time.fromisoformat(value).isoformat() if value and name.endswith("_time") else value


class _Folder:
    """The rows of ``conversion.json``, with the names of the views."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _listing(self, key: str) -> list[dict[str, Any]]:
        try:
            content = json.loads((self._folder / LISTING).read_bytes())
            return list(content[key])
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{self._folder / LISTING} is not the list of a conversion: convert the folder again"
            ) from error

    def patients(self) -> list[Row]:
        return []

    def studies(self, patient: Row | None = None) -> list[Row]:
        uids = dict.fromkeys(row["study_instance_uid"] for row in self._listing("series"))
        return [{"study_instance_uid": uid} for uid in uids]

    def series(self, study_instance_uid: str | None = None, where: str | None = None) -> list[Row]:
        if where is not None:
            raise UsageError("a folder of conversions has no index to select from: compare `row` of each series")
        found = []
        for row in self._listing("series"):
            if study_instance_uid not in (None, row["study_instance_uid"]):
                continue
            verdict = row["verdict"] or {}
            found.append({**row, "verdict": verdict.get("state"), "verdict_reason": verdict.get("reason")})
        return [*found]

    def volumes(self, study_instance_uid: str, series_instance_uid: str) -> list[Row]:
        return [row for row in self._files() if row["series_instance_uid"] == series_instance_uid]

    def exclusions(self, series: Row) -> list[Row]:
        return self._of_series("exclusions", series["series_instance_uid"])

    def failures(self, study_instance_uid: str, series_instance_uid: str) -> list[Row]:
        return self._of_series("refusals", series_instance_uid)

    def _of_series(self, key: str, uid: str) -> list[Row]:
        return [row for row in self._listing(key) if row["series_instance_uid"] == uid]

    def sources(self, volume: Row) -> list[Row]:
        return []

    def catalog(self, where: str | None = None) -> list[Row]:
        if where is not None:
            raise UsageError("where: selects series of a node; this is a folder of conversions, which has few facts")
        return _one_file_each(self._files(), is_read=False)

    def _files(self) -> list[Row]:
        return [{**row, "path": str(self._folder / row["path"])} for row in self._listing("volumes")]

    def skipped(self) -> list[Row]:
        return [*self._listing("not_dicom")]


def open(folder: str | PathLike[str], keys: Mapping[str, Any] | None = None) -> Opened:
    """Open the root of a node, or a folder that ``voxelnode convert`` or `convert` wrote, for reading.

    `keys`: of the configuration of a node, such as ``{"index.url": "postgresql://..."}``.

    Raises UsageError: the configuration is wrong.
    Raises FileNotFoundError: there is no such folder.
    Raises IndexUnusable: it is neither a root nor has it a ``conversion.json``, or the index cannot be read.
    """
    root = Path(folder).absolute()
    if (root / LISTING).is_file():
        return Opened(_Folder(root))
    settings = load(flags={**(keys or {}), "storage.root": root})
    place = place_of(root, settings.index.url)
    if isinstance(place, Path):  # a database server has rows also where the files are not
        root.stat()
        if not is_root(root):
            raise IndexUnusable(
                f"{root} is not the root of a node, nor a folder of `voxelnode convert`: "
                "`node.convert(folder, out)` reads DICOM files"
            )
    return Opened(_Root(place))


def convert(
    paths: str | PathLike[str] | Iterable[str | PathLike[str]], out: str | PathLike[str], **options: Any
) -> Opened:
    """Convert DICOM files without a node, as ``voxelnode convert`` does, and open the folder.

    `paths`: folders, files, zip files or DICOMDIRs.
    `out`: created if missing. The files of a series replace those of an earlier conversion of it, and no others.
    `options`: keys of ``[convert]`` (docs/configuration.md), such as ``formats=("nifti", "nrrd")`` or
        ``body_masks=True``; by default ``formats=("nifti",)`` and no thumbnails.

    Files that are not DICOM are `skipped`.

    Raises UsageError: there is no such option, or it has another value; or `out` is not a folder.
    Raises FileNotFoundError: one of `paths` does not exist; nothing is converted.
    Raises OSError: `out` cannot be written.
    """
    from node.conversion.job import limits
    from node.conversion.offline import convert_folder
    from node.conversion.pool import Converters
    from node.registry import installed, objects_of
    from node.writers.options import write_options

    given = [Path(path) for path in ([paths] if isinstance(paths, str | PathLike) else paths)]
    for path in given:
        path.stat()
    try:
        section = Convert(**{"formats": ("nifti",), "thumbnails": False, **options})
    except ValidationError as error:
        raise mistakes(error, "convert") from error
    if Path(out).exists() and not Path(out).is_dir():
        raise UsageError(f"{out} is not a folder: volumes are written into one")
    bounds = limits(section)

    with closing(Converters(objects=objects_of(installed()))) as converters:

        def run(job: Any, cancelled: threading.Event) -> Any:
            return converters.run(job, bounds, cancelled)

        convert_folder(given, Path(out), write_options(section), run, section.workers)
    return open(out)


def contours(mask: Array, affine_lps: Float) -> Iterator[tuple[int, Float]]:
    """Yield the outlines of a mask along the edges of its pixels, slice by slice.

    `mask`, (i, j, k) array: not 0 inside.
    `affine_lps`, (4, 4) float, mm: from (i, j, k) to LPS+.

    An outline is k, and the corners of a closed polygon, (n, 3) float, mm, LPS. The inside is on the right as the slice
    is displayed, of holes on the left.
    """
    for index, plane in enumerate(np.moveaxis(mask, 2, 0)):
        for outline in outlines(plane.T):
            yield index, points_lps(outline, index, affine_lps)
