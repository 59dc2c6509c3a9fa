"""``voxelnode info``."""

from __future__ import annotations

import json as jsons
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.options import ConfigFile, Json, Root, load
from node.cli.output import print_fields, print_json, print_table
from node.errors import UsageError

if TYPE_CHECKING:
    from node.index.read import ReadIndex

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

    Higher levels are shown as well, and failures and excluded instances with their reasons.
    """
    folder = load(config, storage__root=root).settings.storage.root

    from node.index.database import reading

    with reading(folder) as index:
        description = _describe(index, uid)
    if not description:
        raise UsageError(f"{uid}: no patient, study, series or instance in the index has this UID or ID; check --root")
    if json:
        print_json(description)
    else:
        _print(description)


def _describe(index: ReadIndex, uid: str) -> Row:
    """Return the level with the UID and the levels above it, or an empty row."""
    return _image(index, uid) or _series(index, uid) or _study(index, uid) or _patients(index, uid)


def _image(index: ReadIndex, uid: str) -> Row:
    row = index.instances.row(uid)
    if row is None:
        return {}
    above = _series(index, row["series_instance_uid"], row["study_instance_uid"])
    volumes = _volumes(index.volumes.holding(row["study_instance_uid"], uid))
    return {
        **above, "level": "instance", "instance": row, "volumes": volumes,
        "exclusions": index.exclusions.of_instance(uid),
    }  # fmt: skip


def _series(index: ReadIndex, uid: str, study: str | None = None) -> Row:
    """Return a series: the one in `study` if given, else the one in the first study that contains it."""
    rows = [row for row in index.series.with_uid(uid) if study in (None, row["study_instance_uid"])]
    if not rows:
        return {}
    study = rows[0]["study_instance_uid"]
    series = {**_study(index, study), "level": "series", "series": rows[0], "waits": _waits(index, study, uid)}
    return series | _outcome(index, study, uid)


def _waits(index: ReadIndex, study: str, uid: str) -> list[Row]:
    """Return what a series waits for, with what was learnt of each sender."""
    learnt = {row["calling_ae_title"]: row for row in index.senders.all()}
    return [{**wait, "learnt": learnt.get(wait["calling_ae_title"])} for wait in index.series.waits(study, uid)]


def _study(index: ReadIndex, uid: str) -> Row:
    row = index.studies.row(uid)
    if row is None:
        return {}
    patient = {name: row.pop(name) for name in PATIENT_COLUMNS}
    return {"level": "study", "patient": patient, "study": row} | _outcome(index, uid)


def _patients(index: ReadIndex, patient_id: str) -> Row:
    """Return the patients with a Patient ID, one for each issuer."""
    rows = index.patients.with_patient_id(patient_id)
    if not rows:
        return {}
    for row in rows:
        del row["id"]  # meaningful only inside the index
    return {"level": "patient", "patients": rows, "study_instance_uids": index.studies.uids_of_patient(patient_id)}


def _outcome(index: ReadIndex, study: str, series: str | None = None) -> Row:
    """Return the current volumes and the failures of a study or a series."""
    failures = sorted(index.failures.of_study(study, series), key=itemgetter("failed_at"))
    return {"volumes": _volumes(index.volumes.current(study, series)), "failures": failures}


def _volumes(rows: list[Row]) -> list[Row]:
    """Return rows of v_volumes with their JSON columns parsed."""
    lists = ("shape", "spacing_mm", "warnings")
    return [{name: jsons.loads(value) if name in lists else value for name, value in row.items()} for row in rows]


def _print_waits(waits: list[Row]) -> None:
    columns = ("sender", "quiet at", "grace until", "learnt quiet seconds", "from series")
    rows = []
    for wait in waits:
        learnt = wait["learnt"] or {"quiet_seconds": None, "series": None}
        moments = (wait["calling_ae_title"], wait["quiet_at"], wait["grace_until"])
        rows.append((*moments, learnt["quiet_seconds"], learnt["series"]))
    print_table("waits for its senders", columns, rows)


def _print(description: Row) -> None:
    for level in ("patient", "study", "series", "instance"):
        if level in description:
            print(level)
            print_fields({f"  {name}": value for name, value in description[level].items()})
    for patient in description.get("patients", ()):
        print("patient")
        print_fields({f"  {name}": value for name, value in patient.items()})
    for uid in description.get("study_instance_uids", ()):
        print(f"study {uid}")
    if description.get("waits"):
        _print_waits(description["waits"])
    if description.get("volumes"):
        rows = [(row["path"], row["kind"], " x ".join(map(str, row["shape"]))) for row in description["volumes"]]
        print_table("volumes", ("file", "kind", "shape"), rows)
    for what in ("failures", "exclusions"):
        if description.get(what):
            rows = [(row["revision"], row["reason"], row["detail"]) for row in description[what]]
            print_table(what, ("revision", "reason", "detail"), rows)
