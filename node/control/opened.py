"""What a program sees of a node or of a folder of ``voxelnode convert``: patients, studies, series and volumes.

Nothing is kept open: each call reads what is there then, also beside a running node. The objects are the same for
every `RowSource`, a root and a folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from node.control.root import is_root
from node.control.row_sources import LISTING, FolderRows, RootRows, Row, RowSource, name_of, one_file_each, stem_of_row
from node.conversion.volume_files import stem_of
from node.errors import UsageError
from node.index.rows.backend import IndexUnusable, place_of
from node.registry import require_extra
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


__all__ = [
    "Rectangle", "contours", "convert", "masked", "montage", "open", "project", "read_rectangles", "refined",
    "threshold", "write_labelled_npz", "write_montage", "write_rectangles", "write_slices",
]  # fmt: skip


VOXELS = (".zraw", ".raw")
"""Suffixes of the data file of a MetaImage header."""

BESIDE = (".json", ".bval", ".bvec")
"""Suffixes of what lies beside a volume file in any format."""


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

        Raises FileExistsError: another volume has its name there: many volumes of a node are called volume.nii.gz.
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
    `row`: columns of ``v_series``; of a folder, what conversion.json has.
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
            stem_of_row(row): OpenedVolume(name_of(row), row, self._source)
            for row in one_file_each(files, VolumeKind.RESAMPLED)
        }
        return [
            OpenedVolume(name_of(row), row, self._source, copies.get(f"{stem_of_row(row)}_resampled"))
            for row in one_file_each(files)
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


def open(folder: str | PathLike[str], keys: Mapping[str, Any] | None = None) -> Opened:
    """Open the root of a node, or a folder that ``voxelnode convert`` or `convert` wrote, for reading.

    `keys`: of the configuration of a node, such as ``{"index.url": "postgresql://..."}``.

    Raises UsageError: the configuration is wrong.
    Raises FileNotFoundError: there is no such folder.
    Raises IndexUnusable: it is neither a root nor has it a conversion.json, or the index cannot be read.
    """
    root = Path(folder).absolute()
    if (root / LISTING).is_file():
        return Opened(FolderRows(root))
    settings = load(flags={**(keys or {}), "storage.root": root})
    place = place_of(root, settings.index.url)
    if isinstance(place, Path):  # a database server has rows also where the files are not
        root.stat()
        if not is_root(root):
            raise IndexUnusable(
                f"{root} is not the root of a node, nor a folder of `voxelnode convert`: "
                "`node.convert(folder, out)` reads DICOM files"
            )
    return Opened(RootRows(place))


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
