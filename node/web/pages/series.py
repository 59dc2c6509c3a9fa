"""The page of a series: its volumes to look at, and all that is known of how they came about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

from fastapi import APIRouter, Request, Response

from node.dicom.dump import Dump, dump
from node.index.database import ReadIndex
from node.web.access import Asked, Reader
from node.web.background_requests import polled
from node.web.pages.errors import NotFound
from node.web.pages.files import revision_files
from node.web.pages.filters import listed
from node.web.pages.rendering import fragment, page, series_url
from node.web.pages.studies import study_row, tell_looked_at
from node.web.pages.viewers import ohif_url
from node.web.services import Node, Services

router = APIRouter()

PICTURES = ("preview", "montage", "projection", "thumbnail")
"""Kinds of files that are pictures, in the order in which they are shown."""

VIEWED_FORMATS = ("nifti", "mhd", "nifti-pair")
"""Formats that the viewer reads, the best first."""

VIEWER_POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
"""As of every page, and pictures that a script holds: NiiVue brings its letters and its light in such."""

SHOWN_ROWS = 500
"""Most rows of a table of instances; the index has all of them."""

SHOWN_CHARACTERS = 1000
"""Of one value in the table of the header."""

_PLACE = "study_instance_uid = :study AND series_instance_uid = :series"


@router.get("/studies/{study_instance_uid}/series/{series_instance_uid}")
def series(
    request: Request, node: Node, account: Reader, asked: Asked, study_instance_uid: str, series_instance_uid: str
) -> Response:
    """A series with its viewer."""
    place = {"study": study_instance_uid, "series": series_instance_uid}
    with node.index.reading() as index:
        of_study = study_row(index, study_instance_uid)
        tell_looked_at(asked, of_study)
        found = series_row(index, **place)
        files = index.rows(f"SELECT * FROM v_volumes WHERE {_PLACE} ORDER BY revision DESC, stack, path", **place)
        return page(
            request,
            node,
            account,
            "series.html",
            {"Content-Security-Policy": VIEWER_POLICY},
            study=of_study,
            series=found,
            origin=_origin(index, place),
            revisions=_revisions(files, lambda revision: revision_files(node, index, **place, revision=revision)),
            volumes=_viewed(files),
            pictures=_pictures(files),
            failures=index.rows(f"SELECT * FROM v_failures WHERE {_PLACE} ORDER BY stack IS NULL, stack", **place),
            sources=_of_revision(index, "v_sources", "stack, frames, sop_instance_uid, sha256", found),
            exclusions=_of_revision(index, "v_exclusions", "sop_instance_uid, frames, reason, detail", found),
            events=_events(index, place),
            ohif=ohif_url(node, study_instance_uid),
            digest="",
            shown_rows=SHOWN_ROWS,
        )


@router.get("/studies/{study_instance_uid}/series/{series_instance_uid}/state")
@polled
def state(request: Request, node: Node, account: Reader, study_instance_uid: str, series_instance_uid: str) -> Response:
    """How far the series is, for as long as it is under way."""
    with node.index.reading() as index:
        found = series_row(index, study_instance_uid, series_instance_uid)
    return fragment(request, account, "series_state.html", series=found)


@router.get("/studies/{study_instance_uid}/series/{series_instance_uid}/header")
def header(
    request: Request, node: Node, account: Reader, asked: Asked, study_instance_uid: str, series_instance_uid: str
) -> Response:
    """Every element of the first instance."""
    with node.index.reading() as index:
        tell_looked_at(asked, study_row(index, study_instance_uid))
        first = next(index.stored_instances(study_instance_uid, series_instance_uid), None)
    if first is None:
        raise NotFound("series")
    found = _dump(node, first.key)
    return fragment(
        request,
        account,
        "series_header.html",
        dump=found,
        sop_instance_uid=first.sop_instance_uid,
        characters=SHOWN_CHARACTERS,
    )


def series_row(index: ReadIndex, study: str, series: str) -> dict[str, Any]:
    """The row of ``v_series``.

    Raises
    ------
    NotFound
        There is none.
    """
    rows = index.rows(f"SELECT * FROM v_series WHERE {_PLACE}", study=study, series=series)
    if not rows:
        raise NotFound("series")
    return rows[0]


def _dump(node: Services, key: str) -> Dump:
    try:
        with open(node.archive.root / key, "rb") as file:
            return dump(file)
    except FileNotFoundError:
        return Dump((), "the file is missing: run voxelnode fsck on this node, and send the instance again")


def _origin(index: ReadIndex, place: Mapping[str, str]) -> dict[str, Any]:
    """What its instances have in common: who sent them, how they are encoded."""
    rows = index.rows(
        "SELECT count(*) AS instances, sum(bytes) AS bytes, min(received_at) AS first_at, max(received_at) AS last_at, "
        'max("rows") AS "rows", max("columns") AS "columns", sum(file_missing) AS missing, '
        "json_group_array(DISTINCT sop_class_uid) AS classes, "
        "json_group_array(DISTINCT transfer_syntax_uid) AS syntaxes, "
        "json_group_array(DISTINCT door || ' ' || coalesce(calling_ae_title, '') || ' ' || coalesce(peer, '')) "
        f"AS senders FROM v_images WHERE {_PLACE}",
        **place,
    )
    lists = {name: listed(rows[0][name]) for name in ("classes", "syntaxes", "senders")}
    return {**rows[0], **lists, "senders": sorted({_without_port(sender) for sender in lists["senders"]})}


def _without_port(sender: str) -> str:
    """Door, AE title and address: the port is another one with every association."""
    before, colon, port = sender.rpartition(":")
    return before if colon and port.isdecimal() else sender.strip()


def _of_revision(index: ReadIndex, view: str, columns: str, series: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the newest revision, one more than are shown so that it can be told when there are more."""
    # these views hold no Study Instance UID: a series that lies in two studies is told apart by its instances
    return index.rows(
        f"SELECT {columns} FROM {view} WHERE series_instance_uid = :series AND revision = :revision "
        "AND sop_instance_uid IN (SELECT sop_instance_uid FROM v_images "
        "WHERE series_instance_uid = :series AND study_instance_uid = :study) LIMIT :limit",
        series=series["series_instance_uid"],
        study=series["study_instance_uid"],
        revision=series["revision"],
        limit=SHOWN_ROWS + 1,
    )


def _events(index: ReadIndex, place: Mapping[str, str]) -> list[dict[str, Any]]:
    return index.rows(
        f"SELECT kind, revision, detail, happened_at FROM v_events WHERE {_PLACE} ORDER BY id DESC LIMIT 50", **place
    )


def _named(file: Mapping[str, Any]) -> dict[str, Any]:
    """A row of ``v_volumes`` with its file name and its URL."""
    name = PurePath(file["path"]).name
    return {**file, "name": name, "url": _file_url(file, name), "warnings": listed(file["warnings"])}


def _file_url(revision: Mapping[str, Any], name: str) -> str:
    place = series_url(revision["study_instance_uid"], revision["series_instance_uid"])
    return f"{place}/files/{revision['revision']}/{name}"


def _revisions(files: list[dict[str, Any]], on_disk: Callable[[int], list[Path]]) -> list[dict[str, Any]]:
    """The files of each revision, the newest first; `beside` are those without a row, such as sidecars."""
    revisions: dict[int, dict[str, Any]] = {}
    for file in files:
        revision = revisions.setdefault(file["revision"], {**file, "files": []})
        revision["files"].append(_named(file))
    for number, revision in revisions.items():
        known = {file["name"] for file in revision["files"]}
        revision["beside"] = [
            {"name": path.name, "url": _file_url(revision, path.name), "bytes": path.stat().st_size}
            for path in on_disk(number)
            if path.name not in known
        ]
    return list(revisions.values())


def _viewed(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the viewer offers: of each volume, mask and resampled copy the format that it reads best."""
    best: dict[tuple[Any, ...], dict[str, Any]] = {}
    for file in files:
        if file["kind"] in PICTURES or file["format"] not in VIEWED_FORMATS or file["files_removed_at"] is not None:
            continue
        identity = (file["revision"], file["stack"], file["kind"], file["suffix"])
        known = best.get(identity)
        if known is None or _rank(file) < _rank(known):
            best[identity] = file
    return [_named(file) for file in best.values()]


def _rank(file: Mapping[str, Any]) -> int:
    return VIEWED_FORMATS.index(file["format"])


def _pictures(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pictures of the newest revision, projections and montages before thumbnails."""
    current = [_named(file) for file in files if file["kind"] in PICTURES and not file["superseded"]]
    return sorted(current, key=lambda file: (PICTURES.index(file["kind"]), file["stack"], file["name"]))
