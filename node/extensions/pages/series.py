"""The page of a series: viewer, files, header and history."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from node.children.decoder import NotDecoded
from node.children.decoding import elements_of
from node.conversion.volume_files import by_path, stem_of
from node.extensions.pages.studies import namesake, strangers_seen
from node.extensions.pages.viewable import file_url, measurements_of, sidecar_of, study_series, told_of, viewable
from node.index.nouns.converted import SeriesKey
from node.index.nouns.records import RevisionFile
from node.index.search.selection import StoredInstance
from node.registry import LABELS, part_of
from node.web.access import MEMBERS, CurrentCall, background_request
from node.web.errors import ResourceNotFound
from node.web.files import Unavailable, files_of, local_file
from node.web.pages.filters import listed
from node.web.pages.rendering import fragment, page, study_links
from node.web.pages.selected import seen_study, series_row
from node.web.services import Services

router = APIRouter(include_in_schema=False, dependencies=MEMBERS)

PICTURES = ("preview", "montage", "projection", "thumbnail")
"""Kinds of picture files, in display order."""

VIEWER_POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
"""The default policy plus images from data: URLs, in which NiiVue has its font and its lighting."""

SHOWN_ROWS = 500
"""Maximum rows in a table of instances; the index has all of them."""

SHOWN_EVENTS = 50

SHOWN_ELEMENTS = 2000
"""Maximum rows in the header table, those of nested elements included."""

SHOWN_CHARACTERS = 1000
"""Maximum characters of a value in the header table."""


def _requested_series(study_instance_uid: str, series_instance_uid: str) -> SeriesKey:
    return study_instance_uid, series_instance_uid


RequestedSeries = Annotated[SeriesKey, Depends(_requested_series)]
"""Parameter of a route: the series in its path."""


@router.get("/studies/{study_instance_uid}/series/{series_instance_uid}")
def series(call: CurrentCall, key: RequestedSeries) -> Response:
    """The page of a series."""
    study_instance_uid, _ = key
    with call.node.index.reading() as index:
        of_study = seen_study(call, index, study_instance_uid)
        row = series_row(index, *key)
        files = index.volumes.of_series(*key)
        newest, summary = row["revision"], index.instances.summary(*key)
        local = by_path(call.node.archive.root, index, call.node.archive.local)
        volumes = viewable(files, row, local)
        told = told_of(volumes, local)
        rail = study_series(index, study_instance_uid, local)
        made = [one for one in index.jobs.made(study_instance_uid) if one.source_series_instance_uid == key[1]]
        newest_jobs = {one.hook: one.job for one in made}
        return page(
            call,
            "series.html",
            {"Content-Security-Policy": VIEWER_POLICY},
            target=key,
            study=of_study,
            namesake=namesake(index, of_study),
            series=row,
            current=[file for file in files if not file["superseded"]],
            origin={**summary, "senders": sorted({_without_port(sender) for sender in summary["senders"]})},
            told=told,
            revisions=_revisions(files, lambda revision: files_of(call.node, index, *key, revision)),
            volumes=volumes,
            sidecar=sidecar_of(volumes[0], local) if volumes else {},
            measurements=measurements_of(files, local),
            rail=rail,
            results={one.series_instance_uid: one for one in made},
            newest_results={one.series_instance_uid for one in made if one.job == newest_jobs[one.hook]},
            others=[series for series in rail if series["viewable"] and series["series_instance_uid"] != key[1]],
            pictures=_pictures(files),
            failures=index.failures.of_study(*key),
            failed_hooks=index.work.failed(SHOWN_EVENTS, series=key),
            # one more row than is shown, to know whether there are more
            sources=index.volumes.sources(*key, newest, SHOWN_ROWS + 1),
            exclusions=index.exclusions.of_revision(*key, newest, SHOWN_ROWS + 1),
            events=index.events.of_series(*key, SHOWN_EVENTS),
            viewers=study_links(call.node, study_instance_uid),
            marks=labels.marks_of(index, *key) if (labels := part_of(call.node.settings, LABELS)) is not None else None,
            stranger=strangers_seen(call, index, study_instance_uid).get(key[1]),
            digest="",
            shown_rows=SHOWN_ROWS,
        )


@router.get("/studies/{study_instance_uid}/series/{series_instance_uid}/state")
@background_request
def state(call: CurrentCall, key: RequestedSeries) -> Response:
    """The state of an open series."""
    with call.node.index.reading() as index:
        seen_study(call, index, key[0])
        row = series_row(index, *key)
        current = index.volumes.current(*key)
        local = by_path(call.node.archive.root, index, call.node.archive.local)
        told = told_of(viewable(current, row, local), local)
    return fragment(call, "series_state.html", series=row, current=current, told=told)


@router.get("/studies/{study_instance_uid}/series/{series_instance_uid}/header")
def header(call: CurrentCall, key: RequestedSeries) -> Response:
    """The elements of the first instance."""
    with call.node.index.reading() as index:
        seen_study(call, index, key[0])
        first = next(index.instances.stored(*key), None)
    if first is None:
        raise ResourceNotFound("series")
    return fragment(call, "series_header.html", dump=_dump(call.node, first), sop_instance_uid=first.sop_instance_uid)


def _dump(node: Services, instance: StoredInstance) -> Mapping[str, Any]:
    """Return the fields of a `node.dicom.dump.Dump`, which a child has made."""
    try:
        listed = node.decoder.run(elements_of, local_file(node, instance), SHOWN_ELEMENTS, SHOWN_CHARACTERS)
        return {"elements": (), "error": None, **json.loads(listed)}
    except (Unavailable, NotDecoded) as error:
        return {"elements": (), "error": str(error)}
    except FileNotFoundError:
        missing = "the file is missing: run voxelnode fsck on this node, then send the instance again"
        return {"elements": (), "error": missing}


def _without_port(sender: str) -> str:
    """Return source, AE title and address; the port changes with every association."""
    before, colon, port = sender.rpartition(":")
    return before if colon and port.isdecimal() else sender.strip()


def _named(file: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of ``v_volumes`` with file name and URL added."""
    name = PurePath(file["path"]).name
    warnings = listed(file["warnings"])
    return {**file, "name": name, "stem": stem_of(name), "url": file_url(file, name), "warnings": warnings}


def _revisions(files: list[dict[str, Any]], noted_files: Callable[[int], list[RevisionFile]]) -> list[dict[str, Any]]:
    """Return the files of each revision, newest first; `beside` are files without a row, such as sidecars."""
    revisions: dict[int, dict[str, Any]] = {}
    for file in files:
        revision = revisions.setdefault(file["revision"], {**file, "files": []})
        revision["files"].append(_named(file))
    for number, revision in revisions.items():
        known = {file["name"] for file in revision["files"]}
        revision["beside"] = [
            {"name": name, "url": file_url(revision, name), "bytes": file.bytes}
            for file in noted_files(number)
            if (name := PurePath(file.key).name) not in known
        ]
    return list(revisions.values())


def _pictures(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the pictures of the newest revision, thumbnails last."""
    current = [_named(file) for file in files if file["kind"] in PICTURES and not file["superseded"]]
    return sorted(current, key=lambda file: (PICTURES.index(file["kind"]), file["stack"], file["name"]))
