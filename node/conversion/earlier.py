"""What earlier runs wrote into the folder of a conversion, by the ``conversion.json`` of the last of them.

A run compares its files with those, and lists in ``left`` what it did not write itself. The next run therefore knows
the files of all runs before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.conversion.naming import is_file_of
from node.conversion.out_folder import Layout, owners_of, replace_files
from node.volume.reasons import Reason

LISTING = "conversion.json"

KEPT = ("path", "kind", "format", "shape", "bytes", "sha256")
"""What ``left`` has of each file."""

OF_PEOPLE = ("patient_id", "patient_name", "study_date", "series_description", "protocol_name")
"""Attributes that no series of a run with `Layout.anonymous` has; others may be named by them."""

DESCRIBED = (*OF_PEOPLE, "series_number", "modality")
"""Attributes of a series in ``conversion.json``."""

FAILED = "its conversion failed now"
"""Why a series is left that no run removes."""


@dataclass(frozen=True, slots=True)
class EarlierSeries:
    """A series of an earlier run, with those of its files that are still there.

    `described`: its UIDs, name and attributes. `files`: rows with `KEPT`.
    """

    described: dict[str, Any]
    files: list[dict[str, Any]]

    @property
    def key(self) -> tuple[str, str]:
        """Study and Series Instance UID."""
        return self.described["study_instance_uid"], self.described["series_instance_uid"]

    @property
    def name(self) -> str:
        """The name of its files behind the folder of its study."""
        return str(self.described["name"])

    @property
    def is_flat(self) -> bool:
        """Whether its files have no folder of their own."""
        return not self.files[0]["path"].startswith(f"{self.name}/")

    @property
    def is_named(self) -> bool:
        """Whether a run that was not anonymous wrote it."""
        return any(self.described.get(name) for name in OF_PEOPLE)

    def is_removable(self, out: Path) -> bool:
        """Return whether all files by its name are its own."""
        folder, name, layout = self._place(out)
        if folder.resolve() != out.resolve() / folder.relative_to(out):  # behind a link
            return False
        owners = owners_of(folder, name, layout)
        owner = self.described["series_instance_uid"]
        return owners is not None and (owners <= {owner} or (not owner and len(owners - {None}) == 1))

    def remove(self, out: Path) -> None:
        """Remove its files, and the folder of its study if that is empty then."""
        folder, name, layout = self._place(out)
        replace_files(folder, name, None, layout)
        with suppress(OSError):  # not empty
            while folder != out:
                folder.rmdir()
                folder = folder.parent

    def _place(self, out: Path) -> tuple[Path, str, Layout]:
        folder, _, name = self.name.rpartition("/")
        return out / folder, name, Layout(flat=self.is_flat)


def earlier_series(out: Path) -> list[EarlierSeries]:
    """Return the series of earlier runs that have files in a folder; none if its list is missing, or is no list."""
    try:
        listing = json.loads((out / LISTING).read_bytes())
        by_series: dict[str, list[dict[str, Any]]] = {}
        for file in listing["volumes"]:
            by_series.setdefault(file["series_instance_uid"], []).append(file)
        found = [_series(row, by_series.get(row["series_instance_uid"], ()), out) for row in listing["series"]]
        found += [_series(row, row["files"], out) for row in listing.get("left", ())]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return [series for series in found if series.files]


def _series(row: dict[str, Any], files: Iterable[dict[str, Any]], out: Path) -> EarlierSeries:
    described = {name: row.get(name) for name in ("study_instance_uid", "series_instance_uid", "name", *DESCRIBED)}
    own = [
        {name: file[name] for name in KEPT}
        for file in files
        if row["name"] and _is_of(file["path"], row["name"]) and (out / file["path"]).is_file()
    ]
    return EarlierSeries(described, own)


def _is_of(path: str, name: str) -> bool:
    """Return whether a path is that of a file of the series with a name, and leads out of no folder."""
    parts = name.split("/")
    if not {"", ".", ".."}.isdisjoint(parts):
        return False
    return is_file_of(path, name) or is_file_of(path, f"{name}/{parts[-1]}")


def change_of(
    series: dict[str, Any],
    files: Sequence[dict[str, Any]],
    before: Sequence[EarlierSeries],
    out: Path,
    *,
    is_flat: bool,
) -> dict[str, Any]:
    """Return what a run changes about a series: ``change``, and ``shape_before`` if its first volume had another.

    `series`, `files`: what the listing has of it. `is_flat`: as in `Layout`.

    ``new``, ``replaced``, ``unchanged``, or ``removed``: it has no file any more. None: it has none, and had none.
    """
    key = series["study_instance_uid"], series["series_instance_uid"]
    same = [one for one in before if (one.key, one.name, one.is_flat) == (key, series["name"], is_flat)]
    if not same:
        return {"change": "new" if files else None}
    old = same[0].files
    if not files:
        return {"change": None if any((out / row["path"]).is_file() for row in old) else "removed"}
    if _digests(old) == _digests(files):
        return {"change": "unchanged"}
    shapes = [next((row["shape"] for row in rows if row["kind"] == "volume"), None) for rows in (old, files)]
    return {"change": "replaced", **({"shape_before": shapes[0]} if shapes[0] and shapes[0] != shapes[1] else {})}


def _digests(files: Iterable[dict[str, Any]]) -> dict[str, str]:
    return {row["path"]: row["sha256"] for row in files}


def _left_over(listing: dict[str, Any], before: Iterable[EarlierSeries], out: Path) -> list[tuple[EarlierSeries, str]]:
    """Return the series of earlier runs of which files stay that a run did not write, each with the reason.

    `listing`: of the run.
    """
    written = {row["path"] for row in listing["volumes"]}
    names = {}
    for row in listing["series"]:
        for uid in row.get("joined_series", (row["series_instance_uid"],)):
            names[row["study_instance_uid"], uid] = row
    not_chosen = {(row["study_instance_uid"], row["series_instance_uid"]) for row in listing["not_chosen"]}
    with_files = {row["series_instance_uid"] for row in listing["volumes"]}
    failed = {row["series_instance_uid"] for row in listing["refusals"] if row["reason"] == Reason.FAILED.value}
    left = []
    for series in before:
        files = [row for row in series.files if row["path"] not in written and (out / row["path"]).is_file()]
        if not files:
            continue
        now = names.get(series.key) if series.key[1] else None
        if now is not None and now["series_instance_uid"] in with_files:
            reason = f"its series is {now['name']} now"
        elif now is not None:
            reason = FAILED if now["series_instance_uid"] in failed else "its series has no volume now"
        else:
            reason = "its series is left out" if series.key in not_chosen else "its series is not in IN"
        left.append((EarlierSeries(series.described, files), reason))
    return left


def settle_left(listing: dict[str, Any], out: Path, *, prune: bool, anonymous: bool) -> None:
    """List in ``left`` what earlier runs wrote and this one did not, or remove it and list it in ``pruned``.

    A run without any volume removes nothing: IN may be a disk that is not mounted.
    """
    for series, reason in _left_over(listing, earlier_series(out), out):
        is_prunable = reason != FAILED and series.is_removable(out)
        if is_prunable and prune and listing["volumes"]:
            series.remove(out)
            listing["pruned"].append(_left_row(series, reason, anonymous=anonymous))
        else:
            row = _left_row(series, reason, anonymous=anonymous)
            listing["left"].append({**row, "is_prunable": is_prunable})


def _left_row(series: EarlierSeries, reason: str, *, anonymous: bool) -> dict[str, Any]:
    """Return the row of what is left of a series; in an anonymous listing, without what people typed."""
    if anonymous and series.is_named:
        nothing = dict.fromkeys((*OF_PEOPLE, "series_number", "name"))
        return {**series.described, **nothing, "files": [], "reason": "a run without --anonymous wrote it"}
    return {**series.described, "files": series.files, "reason": reason}
