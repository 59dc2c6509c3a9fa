"""The page of a series: viewer, files, header and history."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from node.children.decoder import NotDecoded
from node.children.decoding import elements_of
from node.conversion.volume_files import LocalPath, by_path, sidecar_beside, stem_of
from node.dicom.seen import Seen, seen_as
from node.errors import interpolated
from node.extensions.pages.chips import fragment, page
from node.extensions.pages.studies import namesake, strangers_seen
from node.index.look.views import ReadIndex
from node.index.rows.converted import SeriesKey
from node.index.rows.files import StoredInstance
from node.index.rows.records import RevisionFile
from node.registry import LABELS, part_of
from node.web.access import MEMBERS, CurrentCall, background_request
from node.web.errors import ResourceNotFound
from node.web.files import Unavailable, files_of, local_file
from node.web.pages.filters import listed
from node.web.pages.rendering import series_url, study_links
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
        images, documents = _instances(index, key)
        told = told_of(volumes, local)
        rail = study_series(index, study_instance_uid, local)
        made = [one for one in index.jobs.made(study_instance_uid) if one["source_series_instance_uid"] == key[1]]
        newest_jobs = {one["hook"]: one["job"] for one in made}
        return page(
            call,
            "series.html",
            headers={"Content-Security-Policy": VIEWER_POLICY},
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
            results={one["series_instance_uid"]: one for one in made},
            newest_results={one["series_instance_uid"] for one in made if one["job"] == newest_jobs[one["hook"]]},
            others=[series for series in rail if series["viewable"] and series["series_instance_uid"] != key[1]],
            pictures=_pictures(files),
            failures=index.failures.of_study(*key),
            failed_hooks=index.work.failed(SHOWN_EVENTS, series=key),
            # one more row than is shown, to know whether there are more
            sources=index.volumes.sources(*key, newest, SHOWN_ROWS + 1),
            exclusions=index.volumes.excluded(*key, newest, SHOWN_ROWS + 1),
            events=index.events.of_series(*key, SHOWN_EVENTS),
            viewers=study_links(call.node, study_instance_uid),
            images=images,
            documents=documents,
            marks=labels.marks_of(index, *key) if (labels := part_of(call.node.settings, LABELS)) is not None else None,
            stranger=strangers_seen(call, index, study_instance_uid).get(key[1]),
            digest="",
            shown_rows=SHOWN_ROWS,
        )


def _instances(index: ReadIndex, key: SeriesKey) -> tuple[list[tuple[str, int]], list[tuple[str, str, int | None]]]:
    """Return the first images of a series, by UID and number of frames, and the first of its other instances.

    These are by UID, what each is shown as, and Instance Number.
    """
    images, documents = [], []
    for one in index.files.stored(*key):
        kind = seen_as(one.sop_class_uid, one.transfer_syntax_uid, has_rows=bool(one.rows))
        if kind is Seen.PICTURE:
            images.append((one.sop_instance_uid, max(one.number_of_frames or 1, 1)))
        else:
            documents.append((one.sop_instance_uid, kind.value, one.instance_number))
    return images[:SHOWN_ROWS], documents[:SHOWN_ROWS]


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
        first = next(index.files.stored(*key), None)
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


VIEWED_FORMATS = ("nifti", "mhd", "nifti-pair", "nrrd", "npz", "analyze")
"""Formats that `node.extensions.pages.reduced` reads, best first."""

BROWSER_FORMATS = frozenset(("nifti", "mhd", "nifti-pair"))
"""Formats that the viewer reads by itself; of others it shows the node's copy."""

VIEWED_KINDS = frozenset(("volume", "resampled", "suv", "mask", "masked"))

SIDECAR_FIELDS = ("FrameOfReferenceUID", "ImageType", "Units", "interpolated_slices", "inverted", "roi", "segments")
"""Fields of a sidecar that the viewer reads."""

MAX_DOCUMENT_BYTES = 4_000_000
SHOWN_MEASUREMENTS = 200
"""Measurements of a report on its page, and the size of a JSON file that is read for them; the file has all."""

TOLD_VOLUMES = 20
"""Volumes of a series whose sidecars are read for the sentences of their warnings."""

OVERLAID_MODALITIES = frozenset(("SEG", "RTSTRUCT", "RTDOSE", "PT", "NM"))
"""Modalities whose volumes can be laid over those of another series."""


def viewable(files: Iterable[Mapping[str, Any]], series: Mapping[str, Any], local: LocalPath) -> list[dict[str, Any]]:
    """Return the volumes, masks and resampled copies among the files of a series, each in the best format.

    `files` are rows of ``v_volumes``, also of other series; `local` gives the sidecars, in which masks of a structure
    set have their names.
    """
    best: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for file in files:
        if file["series_instance_uid"] != series["series_instance_uid"] or file["files_removed_at"] is not None:
            continue
        if file["kind"] not in VIEWED_KINDS or file["format"] not in VIEWED_FORMATS:
            continue
        identity = (file["revision"], file["stack"], file["kind"], file["suffix"], stem_of(PurePath(file["path"]).name))
        known = best.get(identity)
        if known is None or VIEWED_FORMATS.index(file["format"]) < VIEWED_FORMATS.index(known["format"]):
            best[identity] = file
    return [_described(file, series, local) for file in best.values()]


def study_series(index: ReadIndex, study_instance_uid: str, local: LocalPath) -> list[dict[str, Any]]:
    """Return the series of the study in order, with ``viewable``, ``title`` and ``thumbnail``: a URL, or ""."""
    files = index.volumes.current(study_instance_uid)
    pictures: dict[str, Mapping[str, Any]] = {}
    for file in files:
        if file["kind"] == "thumbnail" and file["files_removed_at"] is None:
            pictures.setdefault(file["series_instance_uid"], file)
    return [
        {
            **series,
            "viewable": viewable(files, series, local),
            "title": _title(series),
            "thumbnail": _thumbnail(pictures.get(series["series_instance_uid"]), series["modality"]),
        }
        for series in index.series.of_study(study_instance_uid)
    ]


def file_url(revision: Mapping[str, Any], name: str) -> str:
    """Return the URL of a file of a revision."""
    url = series_url(revision["study_instance_uid"], revision["series_instance_uid"])
    return f"{url}/files/{revision['revision']}/{name}"


def _title(series: Mapping[str, Any]) -> str:
    number = "" if series["series_number"] is None else series["series_number"]
    return f"{number} {series['series_description'] or series['modality'] or 'series'}".strip()


def _described(file: Mapping[str, Any], series: Mapping[str, Any], local: LocalPath) -> dict[str, Any]:
    name = PurePath(file["path"]).name
    return {
        **file,
        "name": name,
        "stem": stem_of(name),
        "is_copied": file["format"] not in BROWSER_FORMATS,
        "url": file_url(file, name),
        "sidecar": file_url(file, f"{stem_of(name)}.json"),
        "modality": series["modality"],
        "region": _region(file["path"], file["suffix"], local) if series["modality"] in ("RTSTRUCT", "SEG") else "",
        "is_overlay": file["kind"] == "mask" or series["modality"] in OVERLAID_MODALITIES,
    }


def _region(path: str, suffix: str, local: LocalPath) -> str:
    """Return the name of the region or the segment that a file contains, from its sidecar; "" if there is none."""
    sidecar = sidecar_beside(path, local)
    if "roi" in sidecar:
        return str(sidecar["roi"].get("name") or suffix)
    labels = {f"seg{segment.get('number')}": segment.get("label") for segment in sidecar.get("segments", ())}
    return str(labels.get(suffix) or "")


def sidecar_of(file: Mapping[str, Any], local: LocalPath) -> dict[str, Any]:
    """Return the `SIDECAR_FIELDS` of a file of `viewable`; empty if it has no sidecar."""
    sidecar = sidecar_beside(file["path"], local)
    return {name: sidecar[name] for name in SIDECAR_FIELDS if name in sidecar}


def told_of(volumes: Iterable[Mapping[str, Any]], local: LocalPath) -> dict[str, dict[str, str]]:
    """Return, by the stem of its files, what the sidecar of each current volume tells: warnings by their names.

    `volumes`: of `viewable`; of many with warnings or interpolated slices, only the first are read. A resampled copy
    tells under ``resampled`` which slices are interpolated.
    """
    current = [one for one in volumes if not one["superseded"]]
    told = {}
    for one in [one for one in current if one["kind"] == "resampled" or listed(one["warnings"])][:TOLD_VOLUMES]:
        sidecar = sidecar_beside(one["path"], local)
        told[one["stem"]] = {warning["name"]: warning["detail"] for warning in sidecar.get("warnings", ())}
        if between := sidecar.get("interpolated_slices"):
            told[one["stem"]]["resampled"] = interpolated(between)
    return told


def measurements_of(files: Iterable[Mapping[str, Any]], local: LocalPath) -> list[dict[str, Any]]:
    """Return name, value, unit and sites of the first measurements that the reports of a series state.

    `files` are rows of ``v_volumes``; the values come from the JSON files that conversions make of reports.
    """
    shown: list[dict[str, Any]] = []
    for file in files:
        is_shown = file["kind"] == "measurements" and not file["superseded"] and file["bytes"] <= MAX_DOCUMENT_BYTES
        for group in sidecar_beside(file["path"], local).get("groups", ()) if is_shown else ():
            sites = ", ".join(_meaning(site) for site in group.get("finding_site", ()))
            for one in group.get("measurements", [])[: SHOWN_MEASUREMENTS - len(shown)]:
                unit = one["unit"]
                in_ucum = unit.get("value", "") if unit.get("scheme") == "UCUM" else _meaning(unit)
                shown.append({"name": _meaning(one["concept"]), "value": one["value"], "unit": in_ucum, "sites": sites})
    return shown


def _meaning(code: Mapping[str, str]) -> str:
    return code.get("meaning") or code.get("value", "")


def _thumbnail(file: Mapping[str, Any] | None, modality: str | None) -> str:
    """Return the URL of a picture: that of a segmentation lies on its image."""
    if file is None:
        return ""
    url = file_url(file, PurePath(file["path"]).name)
    return url.replace("/files/", "/overlaid/") if modality == "SEG" else url
