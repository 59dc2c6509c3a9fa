"""What earlier runs wrote into the folder of a conversion, by the ``conversion.json`` of the last of them.

``left`` lists the series whose files are there although the run did not write them. The next run therefore knows the
files of all runs before it. Nothing is removed by this list: whose a file is, `node.conversion.out_folder` decides.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from node.conversion.naming import is_file_of

LISTING = "conversion.json"

KEPT = ("path", "kind", "format", "shape", "bytes", "sha256")
"""What ``left`` has of each file."""

OF_PEOPLE = ("patient_id", "patient_name", "study_date", "series_description", "protocol_name")
"""Attributes that no series of a run with `Layout.anonymous` has; others may be named by them."""

DESCRIBED = (*OF_PEOPLE, "series_number", "modality")
"""Attributes of a series in ``conversion.json``."""

Row = dict[str, Any]


def earlier_series(out: Path) -> list[Row]:
    """Return the series of earlier runs with those of their ``files`` that are there.

    None if the list is missing or cannot be read.
    """
    try:
        listing = json.loads((out / LISTING).read_bytes())
        by_series: dict[str, list[Row]] = {}
        for file in listing["volumes"]:
            by_series.setdefault(file["series_instance_uid"], []).append(file)
        found = [_earlier(row, by_series.get(row["series_instance_uid"], ()), out) for row in listing["series"]]
        found += [_earlier(row, row["files"], out) for row in listing.get("left", ())]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return [series for series in found if series["files"]]


def _earlier(row: Row, files: Iterable[Row], out: Path) -> Row:
    described = {name: row.get(name) for name in ("study_instance_uid", "series_instance_uid", "name", *DESCRIBED)}
    own = [{name: file[name] for name in KEPT} for file in files if _is_of(file["path"], row["name"])]
    there = [file for file in own if (out / file["path"]).is_file()]
    for file in there:
        if (out / file["path"]).stat().st_size != file["bytes"]:
            file["sha256"] = None  # somebody has changed it since
    return {**described, "files": there}


def _is_of(path: str, name: str) -> bool:
    """Return whether a path is that of a file of the series with a name, and leads out of no folder."""
    parts = name.split("/")
    if not {"", ".", ".."}.isdisjoint(parts):
        return False
    return is_file_of(path, name) or is_file_of(path, f"{name}/{parts[-1]}")


def change_of(series: Row, files: Sequence[Row], before: Sequence[Row], out: Path) -> Row:
    """Return what a run changes about a series: ``change``, and ``shape_before`` if its first volume had another.

    `series`, `files`: what the listing has of it. `before`: from `earlier_series`.

    ``new``, ``replaced``, ``unchanged``, or ``removed``: it has no file any more. None: it has none, and had none.
    """
    paths = {row["path"] for row in files}
    own = (
        earlier["files"] for earlier in before if _key(earlier) == _key(series) and earlier["name"] == series["name"]
    )
    old = next((rows for rows in own if not files or _is_replaced(rows, paths, out)), None)
    if old is None:
        return {"change": "new" if files else None}
    if not files:
        return {"change": None if any((out / row["path"]).is_file() for row in old) else "removed"}
    if _digests(old) == _digests(files):
        return {"change": "unchanged"}
    shape, now = (next((list(row["shape"]) for row in rows if row["kind"] == "volume"), []) for rows in (old, files))
    return {"change": "replaced", **({"shape_before": shape} if shape and shape != now else {})}


def _is_replaced(rows: Iterable[Row], paths: Collection[str], out: Path) -> bool:
    """Return whether files of an earlier run have others in their place, or went for those of another format."""
    return any(row["path"] in paths for row in rows) or not any((out / row["path"]).is_file() for row in rows)


def _digests(files: Iterable[Row]) -> dict[str, str]:
    return {row["path"]: row["sha256"] for row in files}


def left_over(listing: dict[str, list[Row]], before: Iterable[Row], out: Path, *, anonymous: bool) -> list[Row]:
    """Return the series of earlier runs with files that stay and that a run did not write, each with the ``reason``.

    `listing`: of the run. `before`: from `earlier_series`, before the run. `anonymous`: as in `Layout`; what people
    typed in other runs is left out.
    """
    written = {row["path"] for row in listing["volumes"]}
    names = {
        (row["study_instance_uid"], uid): row["name"]
        for row in listing["series"]
        for uid in row.get("joined_series", (row["series_instance_uid"],))
    }
    places = {row["series_instance_uid"]: row["path"] for row in reversed(listing["volumes"])}
    of_more = {name for row in listing["series"] for name in row.get("lacks", ())}
    not_chosen = {_key(row) for row in listing["not_chosen"]}
    left = []
    for series in before:
        files = [row for row in series["files"] if row["path"] not in written and (out / row["path"]).is_file()]
        if not files:
            continue
        name = names.get(_key(series)) if series["series_instance_uid"] else None
        if series["name"] in of_more:
            reason = "it has instances that are not in IN"
        elif name is not None:
            place = name if name != series["name"] else places.get(series["series_instance_uid"])
            reason = f"its series is {place} now" if place else "its series has no volume now"
        else:
            reason = "its series is left out" if _key(series) in not_chosen else "its series is not in IN"
        if anonymous and any(series[attribute] for attribute in OF_PEOPLE):
            nothing = dict.fromkeys((*OF_PEOPLE, "series_number", "name"))
            series, files, reason = {**series, **nothing}, [], "a run without --anonymous wrote it"
        left.append({**series, "files": files, "reason": reason})
    return left


def _key(series: Row) -> tuple[str, str]:
    """Study and Series Instance UID."""
    return series["study_instance_uid"], series["series_instance_uid"]
