"""What the viewer of a series can show: its volumes, those of the study beside them, and what lies over them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from node.conversion.volume_files import LocalPath, sidecar_beside, stem_of
from node.errors import interpolated
from node.index.database.reading import ReadIndex
from node.web.pages.filters import listed
from node.web.pages.rendering import series_url

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
    number = series["series_number"]
    return (
        f"{'' if number is None else number} {series['series_description'] or series['modality'] or 'series'}".strip()
    )


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
