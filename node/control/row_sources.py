"""The rows behind `node.open`: the index of a root, or the listing of a folder of volumes."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from node.conversion.volume_files import stem_of
from node.errors import UsageError
from node.index.looking import looking
from node.index.rows.backend import Place
from node.index.rows.converted import SeriesKey
from node.index.rows.view_rows import moment, parsed
from node.selector import compile_selector
from node.volume.model import VolumeKind

Row = Mapping[str, Any]


LISTING = "conversion.json"


SUFFIXES = (".nii.gz", ".nii", ".mhd", ".mha", ".nrrd")
"""Volume files that are read here, the preferred first."""


def name_of(row: Row) -> str:
    """Return the name of the file of a row."""
    return PurePath(row["path"]).name


def _series_of(row: Row) -> tuple[str, str]:
    """Return Study and Series Instance UID of a row."""
    return row["study_instance_uid"], row["series_instance_uid"]


def one_file_each(rows: Iterable[Row], kind: VolumeKind = VolumeKind.VOLUME, *, is_read: bool = True) -> list[Row]:
    """Return one file of each volume of a kind among the rows of files: NIfTI if there is one.

    `is_read`: only of those that have a file that is read here.
    """
    best: dict[tuple[Any, ...], tuple[int, Row]] = {}
    for row in rows:
        ending = next((place for place, suffix in enumerate(SUFFIXES) if name_of(row).endswith(suffix)), len(SUFFIXES))
        if row["kind"] != kind or (is_read and ending == len(SUFFIXES)):
            continue
        # A folder of conversions may have one Series Instance UID in two studies, or series without one.
        key = row.get("study_instance_uid"), row["series_instance_uid"], row["stack"], row["suffix"], stem_of_row(row)
        if key not in best or ending < best[key][0]:
            best[key] = ending, row
    return [best[key][1] for key in sorted(best)]


def stem_of_row(row: Row) -> str:
    """Return what the files of a volume in every format begin with."""
    path = PurePath(row["path"])
    return str(path.with_name(stem_of(path.name)))


class RootRows:
    """The rows of the index of a root."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.studies({"id": 0})  # of nobody: raises IndexUnusable if it cannot be read

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
        from node.index.reading import reading  # here, because a look needs no SQLAlchemy

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
            return _told(index.volumes.excluded(*uids, series["revision"], _ALL))

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
    """Return rows of views with their lists as such, and moments as REST has them."""
    return [{name: _value(name, value) for name, value in parsed({**row}).items()} for row in rows]


def _value(name: str, value: Any) -> Any:
    if value and name.endswith(_MOMENTS):
        return moment(value).isoformat().replace("+00:00", "Z")
    return value


class FolderRows:
    """The rows of conversion.json, with the names of the views."""

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
        return one_file_each(self._files(), is_read=False)

    def _files(self) -> list[Row]:
        return [{**row, "path": str(self._folder / row["path"])} for row in self._listing("volumes")]

    def skipped(self) -> list[Row]:
        return [*self._listing("not_dicom")]


RowSource = RootRows | FolderRows
"""Where rows come from; the names of columns are those of the views (docs/data.md)."""
