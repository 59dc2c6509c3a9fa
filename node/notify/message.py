"""Messages to hooks as JSON. The id is that of the event; the content is read from the index at each attempt."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from node.completeness import certainty
from node.errors import VoxelnodeError
from node.settings.core import HookEvent, HookSettings

if TYPE_CHECKING:  # the child process of a plugin needs no index
    from node.archive.base import ArchivedFile
    from node.index.look.views import ReadIndex
    from node.index.rows.converted import SeriesKey
    from node.index.rows.view_rows import Row
    from node.index.rules.work.messages import PendingEvent

MAX_VOLUMES = 10_000
"""Largest number of files of one series, over all revisions."""

_DESCRIPTION = ("modality", "series_description", "body_part_examined", "protocol_name")
_PATIENT = ("patient_id", "patient_name", "patient_birth_date", "patient_sex")
_COUNTS = ("expected_instances", "expected_source", "missing_instances", "missing_detail")


class NothingLeft(VoxelnodeError):
    """The object of the event was deleted."""


@dataclass(frozen=True, slots=True)
class HookMessage:
    """One message, the same for every channel; docs/hooks.md describes `content`."""

    content: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The id of the message, the same for every attempt."""
        return str(self.content["id"])

    @property
    def event(self) -> HookEvent:
        """The kind of event."""
        event: HookEvent = self.content["event"]
        return event

    @property
    def path(self) -> str | None:
        """The file of the message (the instance or the first volume), or None."""
        if self.content["instance"] is not None:
            return str(self.content["instance"]["path"])
        paths = [volume["path"] for volume in self.content["volumes"] if volume["kind"] == "volume"]
        return next((path for path in paths if path is not None), None)

    def encoded(self) -> bytes:
        """Return the message as UTF-8 JSON on one line."""
        return json.dumps(self.content, ensure_ascii=False, separators=(",", ":")).encode()


def compose(index: ReadIndex, pending: PendingEvent, ae_title: str, *, include_patient: bool) -> HookMessage:
    """Return the message of an event.

    Raises NothingLeft if the instance, series or study is no longer in the index.
    """
    content: dict[str, Any] = {
        "id": pending.message_id,
        "event": pending.event,
        "happened_at": _moment(pending.happened_at),
        "node": ae_title,
        "test": False,
        "study_instance_uid": pending.study_instance_uid,
        "series_instance_uid": pending.series_instance_uid,
        "sop_instance_uid": pending.sop_instance_uid,
        "revision": pending.revision,
        "detail": pending.detail,
        "calling_ae_titles": [],
        **dict.fromkeys(_DESCRIPTION),
        "state": None,
        "instances": None,
        "verdict": None,
        "verdict_before": None if pending.verdict_before is None else _verdict(pending.verdict_before),
        "failures": [],
        "volumes": [],
        "series": [],
        "instance": None,
        "job": None,
    }
    if pending.event == "instance-stored":
        content |= _instance(index, pending)
    elif pending.event == "study-quiet":
        content |= _study(index, pending.study_instance_uid)
    else:
        content |= _series(index, pending)
    if include_patient:
        study = _found(index.studies.row(pending.study_instance_uid))
        content["patient"] = {name: study[name] for name in _PATIENT}
    return HookMessage(content)


def compose_test(
    index: ReadIndex, event: HookEvent, series: SeriesKey, ae_title: str, now: dt.datetime, *, include_patient: bool
) -> HookMessage:
    """Return the message of an event of a series as if it happened now, with ``"test": true``.

    Raises NothingLeft if the series is not in the index, or the event needs an instance or a volume that it has not.
    """
    study_instance_uid, series_instance_uid = series
    row = _found(index.series.row(study_instance_uid, series_instance_uid))
    instance = None
    if event == "instance-stored":
        stored = next(iter(index.instances.page(None, 1, **_uids(series))), None)
        instance = _found(stored)["sop_instance_uid"]
    from node.index.rules.work.messages import PendingEvent

    pending = PendingEvent(
        f"test-{now.timestamp():.6f}",
        event,
        now,
        study_instance_uid,
        None if event == "study-quiet" else series_instance_uid,
        instance,
        None if event in ("instance-stored", "study-quiet") else row["revision"],
        "a test message",
    )
    message = compose(index, pending, ae_title, include_patient=include_patient)
    if event == "volume-written" and message.path is None:
        raise NothingLeft
    return HookMessage({**message.content, "test": True})


def message_of_first(
    index: ReadIndex, hook: HookSettings, event: HookEvent, ae_title: str, series: Iterable[Row]
) -> HookMessage | None:
    """Return the message of the first series that has the volume or instance that an event needs; None if none has."""
    now = dt.datetime.now(dt.UTC)
    for row in series:
        key = (row["study_instance_uid"], row["series_instance_uid"])
        with suppress(NothingLeft):
            return compose_test(index, event, key, ae_title, now, include_patient=hook.include_patient)
    return None


def files_of(index: ReadIndex, message: HookMessage) -> list[ArchivedFile]:
    """Return the files of a message that an object store may have: those it names, and those beside its volumes."""
    root = Path(index.root)
    if message.content["instance"] is not None:
        stored = index.instances.current(message.content["sop_instance_uid"])
        return [] if stored is None else [stored]
    paths = [Path(volume["path"]) for volume in message.content["volumes"] if volume["path"] is not None]
    folders = dict.fromkeys(str(path.parent.relative_to(root)) for path in paths)
    return [file for folder in folders for file in index.files.files_in(folder)]


def with_paths(message: HookMessage, paths: Mapping[str, str]) -> HookMessage:
    """Return a message with other paths of its files."""
    volumes = [{**volume, "path": paths.get(volume["path"], volume["path"])} for volume in message.content["volumes"]]
    instance = message.content["instance"]
    if instance is not None:
        instance = {**instance, "path": paths.get(instance["path"], instance["path"])}
    return HookMessage({**message.content, "volumes": volumes, "instance": instance})


def with_job(message: HookMessage, job_id: str, url: str, token: str, folder: str | None) -> HookMessage:
    """Return a message that names the job to which its receiver may give results.

    `url`: of the job in REST, relative to the address of the node's pages if that is not known.
    `token`: valid for this job alone.
    `folder`: empty folder for files, for a receiver on this machine.
    """
    return HookMessage({**message.content, "job": {"id": job_id, "url": url, "token": token, "folder": folder}})


def _uids(series: SeriesKey) -> dict[str, str]:
    return dict(zip(("study_instance_uid", "series_instance_uid"), series, strict=True))


def _instance(index: ReadIndex, pending: PendingEvent) -> dict[str, Any]:
    row = _found(index.instances.row(pending.sop_instance_uid or ""))
    study, series = pending.study_instance_uid, pending.series_instance_uid or ""
    if (row["study_instance_uid"], row["series_instance_uid"]) != (study, series):
        raise NothingLeft
    names = (
        "sop_class_uid", "transfer_syntax_uid", "instance_number", "number_of_frames", "path", "data_set_offset",
        "bytes", "sha256",
    )  # fmt: skip
    return {
        "calling_ae_titles": [row["calling_ae_title"]] if row["calling_ae_title"] else [],
        **_description(_found(index.series.row(study, series))),
        "instance": {name: row[name] for name in names},
    }


def _series(index: ReadIndex, pending: PendingEvent) -> dict[str, Any]:
    study, series, revision = pending.study_instance_uid, pending.series_instance_uid or "", pending.revision
    row = _found(index.series.row(study, series))
    return {
        "calling_ae_titles": index.instances.calling_ae_titles(study, series),
        **_description(row),
        "state": row["state"],
        "instances": row["instances"],
        # The row of a series has only the verdict of the newest revision.
        "verdict": _verdict(row) if row["revision"] == revision else None,
        "failures": index.failures.of_revision(study, series, revision),
        "volumes": _volumes(index, study, series, revision),
    }


def _volumes(index: ReadIndex, study: str, series: str, revision: int | None) -> list[dict[str, Any]]:
    rows = index.volumes.page(None, MAX_VOLUMES, study_instance_uid=study, series_instance_uid=series)
    rows = [row for row in rows if row["revision"] == revision]
    return [_volume(row, index.root) for row in sorted(rows, key=itemgetter("stack", "id"))]


def _volume(row: Mapping[str, Any], root: str) -> dict[str, Any]:
    """Return one file of a message; `url` is relative to the address of the node's pages."""
    names = (
        "stack", "kind", "format", "shape", "spacing_mm", "dtype", "geometry", "orientation", "instances", "warnings",
        "bytes", "sha256",
    )  # fmt: skip
    is_there = row["files_removed_at"] is None
    return {
        "path": f"{root}/{row['path']}" if is_there else None,
        "url": f"/api/v1/volumes/{row['id']}/file/{quote(PurePath(row['path']).name)}" if is_there else None,
        **{name: row[name] for name in names},
    }


def _study(index: ReadIndex, study_instance_uid: str) -> dict[str, Any]:
    series = index.series.of_study(study_instance_uid)
    if not series:
        raise NothingLeft
    names = ("series_instance_uid", *_DESCRIPTION, "state", "revision", "instances")
    return {
        "calling_ae_titles": index.instances.calling_ae_titles(study_instance_uid),
        "instances": sum(row["instances"] for row in series),
        "series": [{name: row[name] for name in names} | {"verdict": _verdict(row)} for row in series],
    }


def _description(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in _DESCRIPTION}


def _verdict(row: Mapping[str, Any]) -> dict[str, Any] | None:
    if row["verdict"] is None:
        return None
    return {
        "state": row["verdict"],
        "certainty": certainty(row["verdict"], row["verdict_rule"]),
        "rule": row["verdict_rule"],
        "reason": row["verdict_reason"],
        **{name: row[name] for name in _COUNTS},
    }


def _found(row: dict[str, Any] | None) -> dict[str, Any]:
    if row is None:
        raise NothingLeft
    return row


def _moment(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
