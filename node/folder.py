"""Convert what lies in folders, without a node: the same pipeline, and ``conversion.json`` for what came of it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from node.convert import ConversionJob, Converted, convert
from node.media import LeftOut, find_instances
from node.revisions import folder_name
from node.writers.base import WriteOptions


def convert_folder(
    paths: Iterable[Path],
    out: Path,
    options: WriteOptions,
    on_series: Callable[[str, Converted], None] = lambda series_instance_uid, converted: None,
) -> dict[str, Any]:
    """Convert what lies in `paths` (see `node.media.find_instances`); writes and returns ``conversion.json``.

    Parameters
    ----------
    paths : iterable of Path
    out : Path
        Made when missing; each series gets a folder of its own in it, which replaces that of an earlier conversion.
    on_series : callable (Series Instance UID, Converted)
        Called after each series.

    Returns
    -------
    dict
        ``series`` with the verdict on each, ``volumes``, ``refusals``, ``exclusions``, and ``not_dicom``: the files
        that are no instance, with the reason.
    """
    listing: dict[str, Any] = {"series": [], "volumes": [], "refusals": [], "exclusions": [], "not_dicom": []}
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=out) as unpacked:
        taken: set[str] = set()
        for (study, series_instance_uid), instances in _grouped(paths, Path(unpacked), listing["not_dicom"]).items():
            name = folder_name(series_instance_uid)
            if name in taken:  # the series has turned up in another study too: never one volume, never one folder
                name = folder_name(f"{study} {series_instance_uid}")
            taken.add(name)
            folder = out / f".converting-{uuid.uuid4().hex}"
            folder.mkdir()
            try:
                converted = convert(ConversionJob(tuple(instances), folder, options))
                place = out / name
                shutil.rmtree(place, ignore_errors=True)
                if converted.files:
                    os.rename(folder, place)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            known = study if series_instance_uid else ""
            identity = {"study_instance_uid": known, "series_instance_uid": series_instance_uid}
            listing["series"].append({**identity, "verdict": asdict(converted.verdict)})
            _list(listing, series_instance_uid, converted, name)
            on_series(series_instance_uid, converted)
    (out / "conversion.json").write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8")
    return listing


def _grouped(
    paths: Iterable[Path], unpacked: Path, not_dicom: list[dict[str, str]]
) -> dict[tuple[str, str], list[tuple[str, Path]]]:
    """Files by study and series, in the order in which series turn up; members of zip files are unpacked.

    A file that names no series is one by itself: others without a name may be of another patient.
    """
    series: dict[tuple[str, str], list[tuple[str, Path]]] = {}
    for number, found in enumerate(find_instances(paths)):
        if isinstance(found, LeftOut):
            not_dicom.append({"name": found.name, "reason": found.reason})
            continue
        path = found.path or unpacked / f"{number}.dcm"
        if found.path is None:
            try:
                found.copy_to(path)
            except OSError as error:
                not_dicom.append({"name": found.name, "reason": str(error)})
                continue
        identity = found.identity
        nameless = f"no series, instance {identity.sop_instance_uid}"
        place = (
            identity.study_instance_uid if identity.series_instance_uid else nameless,
            identity.series_instance_uid,
        )
        series.setdefault(place, []).append((identity.sop_instance_uid, path))
    return series


def _list(listing: dict[str, Any], series_instance_uid: str, converted: Converted, folder: str) -> None:
    """Add one series to what becomes conversion.json."""
    for file in converted.files:
        row = {"series_instance_uid": series_instance_uid, **asdict(file), "path": f"{folder}/{file.path}"}
        listing["volumes"].append(row)
    for refusal in converted.refusals:
        row = {"series_instance_uid": series_instance_uid, "reason": refusal.reason.value, "detail": refusal.detail}
        listing["refusals"].append({**row, "stack": refusal.stack, "instances": len(refusal.sop_instance_uids)})
    for exclusion in converted.exclusions:
        row = {"series_instance_uid": series_instance_uid, **asdict(exclusion)}
        listing["exclusions"].append(row)
