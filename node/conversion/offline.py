"""Convert files without a node, by the same pipeline; conversion.json lists the results."""

import json
import os
import re
import shutil
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from node.conversion.found_series import (
    FATES,
    NOT_CHOSEN,
    SKIPPED,
    Chosen,
    FilesOfSeries,
    FolderSeries,
    grouped_series,
    joined_series,
    known_facts,
)
from node.conversion.job import ConversionJob, Converted, ReferencedSeries, absent, run_with_references
from node.conversion.naming import COLUMNS, OF_NOBODY, TakenNames, free_name, is_file_of
from node.conversion.out_folder import (
    Layout,
    is_of_study,
    is_ours,
    only_run,
    replace_files,
    studies_in_folders,
    work_folder,
)
from node.conversion.pool import ConverterDied
from node.index.rows.converted import SeriesKey
from node.volume.reasons import Reason, Refusal
from node.writers.options import WriteOptions

LISTING = "conversion.json"

DESCRIBED = (
    "patient_id", "patient_name", "study_date", "series_description", "protocol_name", "series_number", "modality",
)  # fmt: skip
"""Attributes of a series in conversion.json."""

WITHOUT_FILES = re.compile("(Waveform|Plan|Treatment Record|Presentation State|PDF|CDA|Selection Document) Storage$")
"""Names of SOP classes of which no file is ever made; others may turn out to have no image."""

STOPPED = "was not converted before the run was stopped"
"""Why a series is not in the listing of a run that ended early."""

TYPED = {"series_description": "SeriesDescription", "protocol_name": "ProtocolName"}
"""Attributes that people typed, by their names in BIDS."""


Run = Callable[[ConversionJob, threading.Event], Converted]
"""Converts one series, and gives up when the event is set; raises `ConverterDied` if the converter crashes."""

OnPeople = Callable[[Sequence[str | None]], None]

Listing = dict[str, Any]
"""The content of conversion.json."""


def convert_folder(
    paths: Iterable[Path],
    out: Path,
    options: WriteOptions,
    run: Run,
    workers: int = 1,
    on_series: Callable[[Listing], None] = lambda listing: None,
    layout: Layout | None = None,
    chosen: Chosen | None = None,
    shown: Callable[[Sequence[Any]], Iterable[Any]] = iter,
    on_people: OnPeople = lambda people: None,
) -> Listing:
    """Convert the instances in `paths` (see `node.receive.dicom_files`); write and return conversion.json.

    `out`: created if missing. The files of a series replace those of an earlier conversion of it, and no others.
    `run`: the command line passes `node.conversion.pool.Converters`, so that a crash affects only one series.
    `workers`: number of series converted at the same time.
    `on_series`: called after each series, in their order, with what the listing will have of it.
    `layout`: by default, a folder for each series, named by its number and description, or if there are several
        studies, for each study.
    `chosen`: which series are converted; by default all. Regions are drawn on images also if these are not chosen.
    `shown`: yields the series that it gets, and may show how many are done.
    `on_people`: called before the first series, with the Patient ID of each person; None if none may be shown.

    ``series`` with the verdict on each (None if its conversion failed), ``volumes``, ``refusals``, ``exclusions``,
    ``not_chosen``: the series that are not converted, with the reason, and ``not_dicom``: the files that are not DICOM
    instances, with the reason. ``files``: how many files were ``found``, and what became of them, which adds up to as
    many (`node.conversion.found_series`). The result does not depend on `workers`.

    A run that is stopped lists what it has written, and the other series in ``not_chosen``; if it has written nothing,
    the conversion.json of the last run stays.

    Raises VoxelnodeError: another run writes into `out`.
    """
    listing = _empty_listing()
    layout = layout or Layout()
    chosen = replace(chosen or Chosen(), is_anonymous=layout.anonymous)
    out.mkdir(parents=True, exist_ok=True)
    cancelled = threading.Event()
    with only_run(out), work_folder(out, alone=True) as work, ThreadPoolExecutor(workers, "series") as pool:
        grouped = grouped_series(paths, work, listing["not_dicom"])
        if layout.anonymous:
            listing["not_dicom"] = [{**row, "name": None} for row in listing["not_dicom"]]
        layout, all_series = _chosen(
            grouped.values(), chosen, out, layout, listing["not_chosen"], on_people, join=options.repair
        )
        noted, fates = list[FolderSeries](), Counter[str]()
        converting: list[Future[Converted | Refusal | str]] = []

        def note(series: FolderSeries, converted: Converted | Refusal | str) -> Listing:
            row, own = _outcome(series, converted, layout)
            _add(row, listing)
            noted.append(series)
            fates.update(own)
            return row

        def write() -> None:
            listing["files"] = _balance(grouped.values(), all_series, fates, len(listing["not_dicom"]))
            file = work / LISTING
            file.write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8")
            os.replace(file, out / file.name)

        try:
            for series in all_series:
                look_up = partial(_look_up, grouped, (series.study_instance_uid, series.series_instance_uid))
                own = series, out, work, options, layout, chosen, lambda job: run(job, cancelled), look_up
                converting.append(pool.submit(_converted, *own))
            for series, future in shown([*zip(all_series, converting, strict=True)]):
                row = note(series, future.result())
                if row["series"]:
                    on_series(row)
        except BaseException:  # Ctrl-C too
            cancelled.set()
            pool.shutdown(cancel_futures=True)
            for series, ended in [*zip_longest(all_series, converting)][len(noted) :]:
                note(series, _ended(ended))
            if listing["volumes"]:
                with suppress(OSError):  # a full disk may be why it ends
                    write()
            raise
        write()
    return listing


def planned(
    paths: Iterable[Path],
    out: Path,
    layout: Layout,
    chosen: Chosen | None = None,
    on_people: OnPeople = lambda people: None,
    *,
    join: bool = True,
) -> Listing:
    """Return what `convert_folder` would convert, and under which names; write nothing into `out`.

    `join`: as a conversion with `repair` does, of files that are not in a zip file.

    ``series`` with the ``name``, the beginning of the ``path`` of its files (None: its classes have no image), the
    number of ``instances`` and the ``sop_class`` of each; ``not_chosen`` and ``not_dicom``.
    """
    from node.dicom.uids import registered_name  # here, because a conversion needs no names of classes

    skipped: list[dict[str, str]] = []
    left_out: list[dict[str, Any]] = []
    grouped = grouped_series(paths, None, skipped)
    chosen = replace(chosen or Chosen(), is_anonymous=layout.anonymous)
    layout, all_series = _chosen(grouped.values(), chosen, out, layout, left_out, on_people, join=join)
    rows = [
        {
            **_series_row(series),
            "path": None
            if all(WITHOUT_FILES.search(registered_name(uid) or "") for uid in series.sop_class_uids)
            else _path_of(series, series.name, layout),
            "sop_class": registered_name(uid := series.attributes["sop_class_uid"]) or uid,
            "instances": series.count,
        }
        for series in all_series
    ]
    return {"series": rows, "refusals": [], "not_chosen": left_out, "not_dicom": skipped}


def _empty_listing() -> Listing:
    keys = ("series", "volumes", "refusals", "exclusions", "not_chosen", "not_dicom")
    return {key: [] for key in keys}


def _add(rows: Listing, listing: Listing) -> None:
    for key, own in rows.items():
        listing[key] += own


def _balance(
    found: Iterable[FolderSeries], converted: Iterable[FolderSeries], fates: Counter[str], skipped: int
) -> dict[str, int]:
    """Return how many files were found, and how many have each fate.

    `fates`: of the files of the series that were chosen before their conversion, `converted`.
    """
    instances = sum(len(series.instances) for series in found)
    fates[NOT_CHOSEN] += instances - sum(len(series.instances) for series in converted)
    fates[SKIPPED] = skipped
    return {"found": instances + skipped, **{fate: fates[fate] for fate in FATES}}


def _chosen(
    all_series: Iterable[FolderSeries],
    chosen: Chosen,
    out: Path,
    layout: Layout,
    left_out: list[dict[str, Any]],
    on_people: OnPeople,
    *,
    join: bool,
) -> tuple[Layout, list[FolderSeries]]:
    """Return the layout of the run, and the series to convert, named and in order.

    `left_out`: gets the other series. `join`: series that are one acquisition are one of them.
    """
    wanted, against = [], []
    ordered = sorted(all_series, key=lambda series: series.order)
    for series in ordered:
        series.facts = known_facts(series.attributes, series.count)
        reason = chosen.reason_against(series.facts)
        if reason is None:
            wanted.append(series)
        else:
            against.append((series, reason))
    if join:
        wanted = joined_series(wanted)
    people = sorted({series.person for series in wanted})
    on_people([None if layout.anonymous else patient_id for patient_id, _ in people])
    if layout.anonymous:
        _forget_identifiers(ordered)
    left_out += [_left_out(series, reason) for series, reason in against]
    studies = {series.study_instance_uid for series in wanted}
    layout = layout.of_studies(several=len(studies) > 1 or not studies.isdisjoint(studies_in_folders(out)))
    _name(wanted, ordered, out, layout)
    return layout, wanted


def _name(wanted: Iterable[FolderSeries], of_studies: Sequence[FolderSeries], out: Path, layout: Layout) -> None:
    """Give each study a folder of its own, if there are any, and each series a name, in their order.

    `of_studies`: all series of their studies.

    A folder or a name is also taken if `out` has files by it that are not of this study, or of this series.
    """
    assert layout.template is not None
    folders, folder_of, names = TakenNames(one_folder=False), dict[str, str](), dict[str, TakenNames]()
    for series in wanted:
        study = series.study_instance_uid
        if study not in folder_of:
            rows = [other.attributes for other in of_studies if other.study_instance_uid == study]
            folder = layout.template.folder_of(series.attributes, rows)
            folder_of[study] = free_name(folder, folders, partial(is_of_study, out, study)) if folder else ""
        series.folder = folder_of[study]
        taken = names.setdefault(series.folder, TakenNames(one_folder=layout.flat))
        is_free = partial(is_ours, out / series.folder, series=series, layout=layout)
        series.name = free_name(layout.template.name_of(series.attributes), taken, is_free)


def _converted(
    series: FolderSeries,
    out: Path,
    work: Path,
    options: WriteOptions,
    layout: Layout,
    chosen: Chosen,
    run: Callable[[ConversionJob], Converted],
    look_up: Callable[[Sequence[SeriesKey]], tuple[ReferencedSeries, ...]],
) -> Converted | Refusal | str:
    """Convert one series and put its files in place.

    Returns a refusal after a crash, and the reason if the series is not chosen by what its conversion tells.
    """
    folder, place = work / uuid.uuid4().hex, out / series.folder
    folder.mkdir()
    instances = tuple(series.instances)
    uids = tuple(uid for uid, _ in instances)
    try:
        job = ConversionJob(
            instances,
            folder,
            options,
            name=series.name,
            descriptions={name: text for column, name in TYPED.items() if (text := series.attributes.get(column))},
            transfer_syntax_uids=frozenset(series.transfer_syntax_uids),
            sop_class_uids=frozenset(series.sop_class_uids),
            joined=series.joined,
        )
        converted = run_with_references(job, run, look_up)
        against = chosen.reason_against(series.facts, converted) if chosen.told else None
        if against is not None:
            return against
        if not is_ours(place, series.name, series, layout):
            detail = f"another run took the name {series.path} during the conversion: convert again"
            return Refusal(Reason.FAILED, detail, uids)
        if layout.flat and not all(is_file_of(file.name, series.name) for file in folder.iterdir()):
            return Refusal(Reason.FAILED, "the conversion wrote files of other names: please report it", uids)
        replace_files(place, series.name, folder, layout)
        return converted
    except ConverterDied as died:
        replace_files(place, series.name, None, layout)
        return Refusal(Reason.FAILED, str(died), uids)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ended(future: Future[Converted | Refusal | str] | None) -> Converted | Refusal | str:
    """Return what a conversion of a run that was stopped has returned, or `STOPPED` if it did not come to its end."""
    return STOPPED if future is None or future.cancelled() or future.exception() else future.result()


def _outcome(
    series: FolderSeries, converted: Converted | Refusal | str, layout: Layout
) -> tuple[Listing, Counter[str]]:
    """Return the rows of one series for conversion.json, and how many of its files have each fate.

    `converted`: from `_converted`.
    """
    listing, own = _empty_listing(), {"series_instance_uid": series.series_instance_uid}
    if isinstance(converted, str):
        listing["not_chosen"] = [_left_out(series, converted)]
        return listing, Counter({NOT_CHOSEN: len(series.instances)})
    files = FilesOfSeries(series, converted)
    verdict, refusals = None, [converted] if isinstance(converted, Refusal) else converted.refusals
    if isinstance(converted, Converted):
        verdict = converted.completeness.document()
        listing["volumes"] = [
            {**own, **asdict(file), "path": _path_of(series, file.path, layout)} for file in converted.files
        ]
        for one in converted.exclusions:
            row = {name: value for name, value in asdict(one).items() if name != "file"}
            listing["exclusions"].append({**own, **row, **files.of_exclusion(one)})
    described = {**_series_row(series), "verdict": verdict}
    if series.joined is not None:
        described["joined_series"] = list(series.joined.series_instance_uids)
    if rows := files.rows():
        described["files"] = rows
    listing["series"] = [described]
    for refusal in refusals:
        row = {"reason": refusal.reason.value, "detail": refusal.detail, "stack": refusal.stack}
        uids = refusal.sop_instance_uids
        listing["refusals"].append({**own, **row, "instances": len(uids), **files.of(uids)})
    return listing, files.fates()


def _look_up(
    grouped: Mapping[SeriesKey, FolderSeries], referring: SeriesKey, keys: Sequence[SeriesKey]
) -> tuple[ReferencedSeries, ...]:
    """Return the series to which the series `referring` refers: that of the named study, else of its own, else any."""
    found = []
    for key in keys:
        study, uid = key
        there = [other for other in grouped if other[1] == uid and other != referring]
        there.sort(key=lambda other: (other[0] != study, other[0] != referring[0]))
        if there:
            found.append(ReferencedSeries(key, tuple(grouped[there[0]].instances)))
        else:
            found.append(ReferencedSeries(key, problem=(Reason.INCOMPLETE, absent(uid))))
    return tuple(found)


def _forget_identifiers(all_series: Iterable[FolderSeries]) -> None:
    """Take away every attribute that may name a person: texts, and a Series Number that may be an identifier."""
    from node.volume.describe.sidecar_fields import MIN_IDENTIFYING_NUMBER  # here: it loads NumPy

    wanted = {COLUMNS.get(token, token) for token in OF_NOBODY} | {"sop_class_uid"}
    for series in all_series:
        series.attributes = {name: value for name, value in series.attributes.items() if name in wanted}
        series.file_names = {}
        if (series.attributes.get("series_number") or 0) >= MIN_IDENTIFYING_NUMBER:
            series.attributes["series_number"] = None


def _series_row(series: FolderSeries) -> dict[str, Any]:
    return {**_described(series), "name": series.path, **({"lacks": series.lacks} if series.lacks else {})}


def _path_of(series: FolderSeries, file: str, layout: Layout) -> str:
    """Return the path of a file of a series, relative to the folder of the conversion."""
    return "/".join(part for part in (series.folder, "" if layout.flat else series.name, file) if part)


def _described(series: FolderSeries) -> dict[str, Any]:
    described = {name: series.attributes.get(name) for name in DESCRIBED}
    if (day := described["study_date"]) is not None:
        described["study_date"] = day.isoformat()
    uids = {"study_instance_uid": series.study_instance_uid, "series_instance_uid": series.series_instance_uid}
    return {**uids, **described}


def _left_out(series: FolderSeries, reason: str) -> dict[str, Any]:
    return {**_described(series), "instances": series.count, "reason": reason}
