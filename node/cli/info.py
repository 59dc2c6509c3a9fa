"""``voxelnode info``."""

from __future__ import annotations

import json as jsons
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.options import ConfigFile, Json, Root, load
from node.cli.output import print_fields, print_json, print_table
from node.errors import UsageError

if TYPE_CHECKING:
    from node.index.database import ReadIndex

Row = dict[str, Any]

PATIENT_COLUMNS = ("patient_id", "patient_name", "patient_birth_date", "patient_sex")
"""Columns of v_studies that belong to the patient."""


def info(
    uid: Annotated[str, typer.Argument(metavar="UID", help="UID of a study, series or instance, or a Patient ID.")],
    config: ConfigFile = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Show a patient, study, series or instance with its volumes.

    The levels above it are shown as well, and failures and excluded instances with their reasons.
    """
    folder = load(config, storage__root=root).settings.storage.root

    from node.index.database import reading

    with reading(folder) as index:
        found = _found(index, uid)
    if not found:
        raise UsageError(
            f"{uid}: no patient, study, series or instance in the index has this UID or ID; is --root right?"
        )
    if json:
        print_json(found)
    else:
        _print(found)


def _found(index: ReadIndex, uid: str) -> Row:
    """Return the level that has the UID and the levels above it; empty if there is none."""
    return _image(index, uid) or _series(index, uid) or _study(index, uid) or _patients(index, uid)


def _image(index: ReadIndex, uid: str) -> Row:
    rows = index.rows("SELECT * FROM v_images WHERE sop_instance_uid = :uid", uid=uid)
    if not rows:
        return {}
    above = _series(index, rows[0]["series_instance_uid"], rows[0]["study_instance_uid"])
    volumes = index.rows(
        "SELECT DISTINCT v.* FROM v_volumes v JOIN v_sources s ON s.series_instance_uid = v.series_instance_uid "
        "AND s.revision = v.revision AND s.stack = v.stack "
        "WHERE s.sop_instance_uid = :uid AND v.study_instance_uid = :study AND NOT v.superseded ORDER BY v.path",
        uid=uid, study=rows[0]["study_instance_uid"],
    )  # fmt: skip
    exclusions = index.rows(
        "SELECT revision, frames, reason, detail FROM v_exclusions WHERE sop_instance_uid = :uid ORDER BY revision",
        uid=uid,
    )
    return {**above, "level": "instance", "instance": rows[0], "volumes": _volumes(volumes), "exclusions": exclusions}


def _series(index: ReadIndex, uid: str, study: str | None = None) -> Row:
    """Return a series, from `study` if it is in two studies, else from the first of them."""
    rows = index.rows("SELECT * FROM v_series WHERE series_instance_uid = :uid ORDER BY study_instance_uid", uid=uid)
    rows = [row for row in rows if study in (None, row["study_instance_uid"])]
    if not rows:
        return {}
    found = _study(index, rows[0]["study_instance_uid"])
    return {**found, "level": "series", "series": rows[0]} | _outcome(
        index,
        "series_instance_uid = :uid AND study_instance_uid = :study",
        uid=uid,
        study=rows[0]["study_instance_uid"],
    )


def _study(index: ReadIndex, uid: str) -> Row:
    rows = index.rows("SELECT * FROM v_studies WHERE study_instance_uid = :uid", uid=uid)
    if not rows:
        return {}
    patient = {name: rows[0].pop(name) for name in PATIENT_COLUMNS}
    return {"level": "study", "patient": patient, "study": rows[0]} | _outcome(
        index, "study_instance_uid = :uid", uid=uid
    )


def _patients(index: ReadIndex, patient_id: str) -> Row:
    """Return the patients of a Patient ID; there are several if the issuers differ."""
    rows = index.rows("SELECT * FROM v_patients WHERE patient_id = :id ORDER BY id", id=patient_id)
    if not rows:
        return {}
    studies = index.rows(
        "SELECT study_instance_uid FROM v_studies WHERE patient_id = :id ORDER BY study_date, study_instance_uid",
        id=patient_id,
    )
    for row in rows:
        del row["id"]  # meaningful inside the index only
    uids = [row["study_instance_uid"] for row in studies]
    return {"level": "patient", "patients": rows, "study_instance_uids": uids}


def _outcome(index: ReadIndex, condition: str, **values: Any) -> Row:
    """Return the current volumes and the failures that a condition selects."""
    volumes = index.rows(f"SELECT * FROM v_volumes WHERE {condition} AND NOT superseded ORDER BY path", **values)
    failures = index.rows(f"SELECT * FROM v_failures WHERE {condition} ORDER BY failed_at", **values)
    return {"volumes": _volumes(volumes), "failures": failures}


def _volumes(rows: list[Row]) -> list[Row]:
    """Return rows of v_volumes with their JSON columns parsed."""
    lists = ("shape", "spacing_mm", "warnings")
    return [{name: jsons.loads(value) if name in lists else value for name, value in row.items()} for row in rows]


def _print(found: Row) -> None:
    for level in ("patient", "study", "series", "instance"):
        if level in found:
            print(level)
            print_fields({f"  {name}": value for name, value in found[level].items()})
    for patient in found.get("patients", ()):
        print("patient")
        print_fields({f"  {name}": value for name, value in patient.items()})
    for uid in found.get("study_instance_uids", ()):
        print(f"study {uid}")
    if found.get("volumes"):
        rows = [(row["path"], row["kind"], " x ".join(map(str, row["shape"]))) for row in found["volumes"]]
        print_table("volumes", ("file", "kind", "shape"), rows)
    for what in ("failures", "exclusions"):
        if found.get(what):
            rows = [(row["revision"], row["reason"], row["detail"]) for row in found[what]]
            print_table(what, ("revision", "reason", "detail"), rows)
