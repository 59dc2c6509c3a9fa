"""Convert files without a node, by the same pipeline; ``conversion.json`` lists the results."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
import threading
import time
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from node.conversion.chosen import Chosen
from node.conversion.job import ConversionJob, Converted, Joined, ReferencedSeries, absent, run_with_references
from node.conversion.naming import COLUMNS, DEFAULT, OF_NOBODY, NameTemplate, TakenNames, is_file_of, numbered, parse
from node.conversion.pool import ConverterDied
from node.dicom.attributes import instance_attributes
from node.dicom.header import HeaderCut, read_every, read_header
from node.errors import NotUnderstood
from node.index.nouns.converted import SeriesKey
from node.receive.dicom_files import MediaFile, SkippedFile, find_instances
from node.volume.reasons import Reason, Refusal
from node.writers.options import WriteOptions

WORK_PREFIX = ".converting-"
UNLOCKED_SECONDS = 60
"""A younger folder may belong to a run that has not locked it yet."""

MAX_MOVES = 10
"""Attempts to move a folder to a destination that another run may have just created."""

HEAD_BYTES = (1 << 16, 1 << 20, 16 << 20)
"""Sizes of the beginning of a file in which the attributes of its series are looked for."""

DESCRIBED = ("series_number", "series_description", "protocol_name", "modality")
"""Attributes of a series in ``conversion.json``."""

TYPED = {"series_description": "SeriesDescription", "protocol_name": "ProtocolName"}
"""Attributes that people typed, by their names in BIDS."""

ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
"""Enhanced MR Image Storage."""

SHARED = ("frame_of_reference_uid", "protocol_name", "series_description", "manufacturer", "manufacturer_model_name")
"""Attributes that series of one acquisition have in common."""

if TYPE_CHECKING:
    from node.conversion.acquisition import Header

Read = TypeVar("Read")

Run = Callable[[ConversionJob, threading.Event], Converted]
"""Converts one series, and gives up when the event is set; raises `ConverterDied` if the converter crashes."""

Listing = dict[str, Any]
"""The content of ``conversion.json``."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Names and places of the files.

    Attributes
    ----------
    flat : bool
        All files are in one folder; otherwise each series has its own.
    anonymous : bool
        Neither sidecars nor ``conversion.json`` contain texts that people typed.
    """

    template: NameTemplate = field(default_factory=lambda: parse(DEFAULT))
    flat: bool = False
    anonymous: bool = False


@dataclass(slots=True)
class _Series:
    """The files of one series, and what its first one says of it."""

    study_instance_uid: str
    series_instance_uid: str
    attributes: dict[str, Any]
    instances: list[tuple[str, Path]] = field(default_factory=list)
    transfer_syntax_uids: set[str] = field(default_factory=set)
    sop_class_uids: set[str] = field(default_factory=set)
    name: str = ""
    joined: Joined | None = None

    @property
    def owner(self) -> str:
        """The UID by which its files are known again: of the series, or of the only instance of one without a UID."""
        return self.series_instance_uid or self.instances[0][0]

    @property
    def count(self) -> int:
        """The number of its instances; copies of one instance are one."""
        return len({sop_instance_uid for sop_instance_uid, _ in self.instances})

    @property
    def order(self) -> tuple[str, str, str, int, str]:
        """In the order of their studies, and in these of their numbers, wherever the files were found."""
        number = self.attributes.get("series_number")
        day, hour = (str(self.attributes.get(column) or "") for column in ("study_date", "study_time"))
        return day, hour, self.study_instance_uid, 0 if number is None else number, self.series_instance_uid


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
) -> Listing:
    """Convert the instances in `paths` (see `node.receive.dicom_files`); write and return ``conversion.json``.

    Parameters
    ----------
    paths : iterable of Path
    out : Path
        Created if missing. The files of a series replace those of an earlier conversion of it, and no others.
    run : callable (ConversionJob, threading.Event) -> Converted
        The command line passes `node.conversion.pool.Converters`, so that a crash affects only one series.
    workers : int
        Number of series converted at the same time.
    on_series : callable (listing)
        Called after each series, in their order, with what the listing will have of it.
    layout : Layout or None
        By default, a folder for each series, named by its number and description.
    chosen : Chosen or None
        Which series are converted; by default all. Regions are drawn on images also if these are not chosen.
    shown : callable
        Yields the series that it gets, and may show how many are done.

    Returns
    -------
    dict
        ``series`` with the verdict on each (None if its conversion failed), ``volumes``, ``refusals``, ``exclusions``,
        ``not_chosen``: the series that are not converted, with the reason, and ``not_dicom``: the files that are not
        DICOM instances, with the reason. The result does not depend on `workers`.
    """
    layout = layout or Layout()
    listing = _empty_listing()
    out.mkdir(parents=True, exist_ok=True)
    cancelled = threading.Event()
    with work_folder(out) as work, ThreadPoolExecutor(workers, "series") as pool:
        grouped = _grouped(paths, work, listing["not_dicom"])
        all_series = _chosen(grouped.values(), chosen, out, layout, listing["not_chosen"], join=options.repair)
        try:
            converting = [
                pool.submit(
                    _converted,
                    series,
                    out,
                    work,
                    options,
                    layout,
                    lambda job: run(job, cancelled),
                    partial(_look_up, grouped, (series.study_instance_uid, series.series_instance_uid)),
                )
                for series in all_series
            ]
            for series, future in shown([*zip(all_series, converting, strict=True)]):
                row = _listed(series, future.result(), layout)
                for key, rows in row.items():
                    listing[key].extend(rows)
                on_series(row)
        except BaseException:  # Ctrl-C too
            cancelled.set()
            pool.shutdown(cancel_futures=True)
            raise
        file = work / "conversion.json"
        file.write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8")
        os.replace(file, out / file.name)
    return listing


def planned(
    paths: Iterable[Path], out: Path, layout: Layout, chosen: Chosen | None = None, *, join: bool = True
) -> Listing:
    """Return what `convert_folder` would convert, and under which names; write nothing into `out`.

    `join`: as a conversion with `repair` does, of files that are not in a zip file.

    Returns
    -------
    dict
        ``series`` with the ``name``, the number of ``instances`` and the ``sop_class`` of each; ``not_chosen`` and
        ``not_dicom``.
    """
    from pydicom.uid import UID  # here, because a conversion needs no names of classes

    skipped: list[dict[str, str]] = []
    left_out: list[dict[str, Any]] = []
    grouped = _grouped(paths, None, skipped)
    rows = [
        {
            **_series_row(series),
            "sop_class": UID(series.attributes["sop_class_uid"]).name,
            "instances": series.count,
        }
        for series in _chosen(grouped.values(), chosen, out, layout, left_out, join=join)
    ]
    return {"series": rows, "refusals": [], "not_chosen": left_out, "not_dicom": skipped}


def attributes_of_series(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Yield the attributes of each series, by the columns of `node.dicom.attributes`, with the number of ``instances``.

    They are those of one file of each series; texts that people typed and names of patients are among them.
    """
    for series in _grouped(paths, None, []).values():
        yield {**series.attributes, "instances": series.count}


def _empty_listing() -> Listing:
    return {"series": [], "volumes": [], "refusals": [], "exclusions": [], "not_chosen": [], "not_dicom": []}


def _chosen(
    all_series: Iterable[_Series],
    chosen: Chosen | None,
    out: Path,
    layout: Layout,
    left_out: list[dict[str, Any]],
    *,
    join: bool,
) -> list[_Series]:
    """Return the series to convert, named and in order; append the others to `left_out`.

    `join`: series that are one acquisition are one of them.
    """
    kept, against = [], []
    for series in sorted(all_series, key=lambda series: series.order):
        reason = (chosen or Chosen()).reason_against(series.attributes, series.count)
        if reason is None:
            kept.append(series)
        else:
            against.append((series, reason))
    if join:
        kept = _joined(kept)
    if layout.anonymous:
        _forget_identifiers([*kept, *(series for series, _ in against)])
    left_out += [{**_described(series), "instances": series.count, "reason": reason} for series, reason in against]
    _name(kept, out, layout)
    return sorted(kept, key=lambda series: series.order)


def _joined(all_series: list[_Series]) -> list[_Series]:
    """Return the series with those that are one acquisition as one, at the place of the first."""
    alike: dict[tuple[Any, ...], list[_Series]] = {}
    for series in all_series:
        if series.attributes.get("modality") == "MR" and series.series_instance_uid:
            shared = tuple(series.attributes.get(name) for name in SHARED)
            alike.setdefault((series.study_instance_uid, *shared), []).append(series)
    candidates = [own for own in alike.values() if len(own) > 1]
    if not candidates:
        return all_series
    from node.conversion.acquisition import find_acquisitions  # here: it loads pydicom

    joined: dict[int, _Series | None] = {}
    for own in candidates:
        headers = {number: list(_headers_of(series)) for number, series in enumerate(own)}
        for acquisition in find_acquisitions(headers):
            parts = [own[number] for number in acquisition.series]
            first = replace(
                parts[0],
                instances=[instance for series in parts for instance in series.instances],
                transfer_syntax_uids=set().union(*(series.transfer_syntax_uids for series in parts)),
                sop_class_uids=set().union(*(series.sop_class_uids for series in parts)),
                joined=Joined(tuple(series.series_instance_uid for series in parts), acquisition.proof),
            )
            joined |= {id(series): None for series in parts} | {id(parts[0]): first}
    return [kept for series in all_series if (kept := joined.get(id(series), series)) is not None]


def _headers_of(series: _Series) -> Iterator[Header | None]:
    """Yield the header of each frame of a series; None for a file that cannot be read, or is no MR image in a place."""
    from node.conversion.acquisition import TAGS, TAGS_IN_GROUPS, header_of, headers_of_frames

    tags, in_groups = frozenset(TAGS.values()), frozenset(TAGS_IN_GROUPS.values())
    for file in find_instances(path for _, path in series.instances):
        if isinstance(file, SkippedFile):
            yield None
        elif file.identity.sop_class_uid == ENHANCED_MR:
            values = _read_head(file, partial(read_every, wanted=in_groups))
            yield from (None if values is None else headers_of_frames(values)) or (None,)
        else:
            elements = _read_head(file, partial(read_header, wanted=tags))
            yield None if elements is None else header_of(elements)


@contextmanager
def work_folder(out: Path, prefix: str = WORK_PREFIX) -> Iterator[Path]:
    """Create a folder in `out` for unfinished files; remove it at the end.

    First remove the folders of killed runs: their locks ended with their processes.
    """
    for left in out.glob(f"{prefix}*"):
        with ExitStack() as tried, suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > UNLOCKED_SECONDS and _is_locked(left, tried):
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=out) as work, ExitStack() as held:
        _is_locked(Path(work), held)
        yield Path(work)


def _is_locked(folder: Path, until: ExitStack) -> bool:
    """Lock a folder against other processes; return False if it is locked, or if the file system has no locks."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        until.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _name(all_series: Iterable[_Series], out: Path, layout: Layout) -> None:
    """Give each series a name of its own, in their order: that of the template, with a number if it is taken.

    A name is also taken if `out` has files by it that are not of this series.
    """
    taken = TakenNames(one_folder=layout.flat)
    for series in sorted(all_series, key=lambda series: series.order):
        for name in numbered(layout.template.name_of(series.attributes)):
            if name not in taken and _is_ours(out, name, series, layout):
                break
        taken.add(name)
        series.name = name


def _is_ours(out: Path, name: str, series: _Series, layout: Layout) -> bool:
    """Return whether all files by a name, if there are any, are of an earlier conversion of this series."""
    present = _files_by(out, name, layout)
    if not all(file.is_file() and is_file_of(file.name, name) for file in present):
        return False
    owners = {_owner_in(file) for file in present if file.suffix == ".json"}
    if not series.series_instance_uid and series.owner in owners:
        owners.discard(None)  # the outlines of its volume, which name no series either
    return owners <= {series.owner}


def _files_by(out: Path, name: str, layout: Layout) -> list[Path]:
    """Return everything that a series with a name would replace."""
    if layout.flat:
        return [file for file in out.glob("*") if is_file_of(file.name, name)]
    folder = out / name
    if folder.is_dir() and not folder.is_symlink():
        return list(folder.iterdir())
    return [folder] if folder.exists() or folder.is_symlink() else []


def _owner_in(sidecar: Path) -> str | None:
    """Return whose a sidecar, or the outlines of a volume, are: see `_Series.owner`; None if nothing says it."""
    try:
        content = json.loads(sidecar.read_bytes())
        return str(content.get("SeriesInstanceUID") or next(iter(content["sources"])))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return None


def _converted(
    series: _Series,
    out: Path,
    work: Path,
    options: WriteOptions,
    layout: Layout,
    run: Callable[[ConversionJob], Converted],
    look_up: Callable[[Sequence[SeriesKey]], tuple[ReferencedSeries, ...]],
) -> Converted | Refusal:
    """Convert one series and put its files in place; return a refusal after a crash."""
    folder = work / uuid.uuid4().hex
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
        if not _is_ours(out, series.name, series, layout):
            detail = f"another run took the name {series.name} during the conversion: convert again"
            return Refusal(Reason.FAILED, detail, uids)
        if layout.flat and not all(is_file_of(file.name, series.name) for file in folder.iterdir()):
            return Refusal(Reason.FAILED, "the conversion wrote files of other names: please report it", uids)
        _replace(out, series.name, folder, layout)
        return converted
    except ConverterDied as died:
        _replace(out, series.name, None, layout)
        return Refusal(Reason.FAILED, str(died), uids)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace(out: Path, name: str, folder: Path | None, layout: Layout) -> None:
    """Put the files in `folder`, if there are any, in the place of those of an earlier conversion of the series.

    In one folder, sidecars come first: they tell a later run whose the other files are.
    """
    files = sorted(folder.iterdir(), key=lambda file: file.suffix != ".json") if folder else []
    if layout.flat:
        for old in _files_by(out, name, layout):
            old.unlink(missing_ok=True)
        for file in files:
            os.rename(file, out / file.name)
    elif folder and files:
        _move(folder, out / name)
    else:
        shutil.rmtree(out / name, ignore_errors=True)


def _look_up(
    grouped: Mapping[SeriesKey, _Series], referring: SeriesKey, keys: Sequence[SeriesKey]
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


def _move(folder: Path, destination: Path) -> None:
    """Replace the folder of an earlier conversion or of another run by a finished folder."""
    for _ in range(MAX_MOVES - 1):
        shutil.rmtree(destination, ignore_errors=True)
        try:
            os.rename(folder, destination)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return
    os.rename(folder, destination)


def _grouped(
    paths: Iterable[Path], unpacked: Path | None, not_dicom: list[dict[str, str]]
) -> dict[tuple[str, str], _Series]:
    """Group files by study and series, in order of first appearance; unpack members of zip files into `unpacked`."""
    grouped: dict[tuple[str, str], _Series] = {}
    for number, file in enumerate(find_instances(paths)):
        if isinstance(file, SkippedFile):
            not_dicom.append({"name": file.name, "reason": file.reason})
            continue
        path = file.path or Path(unpacked or "", f"{number}.dcm")
        if file.path is None and unpacked is not None:
            try:
                file.copy_to(path)
            except OSError as error:
                not_dicom.append({"name": file.name, "reason": str(error)})
                continue
        identity = file.identity
        uids = identity.study_instance_uid, identity.series_instance_uid
        # Without a Series Instance UID, two files may be of different patients: each is a series of its own.
        key = uids if identity.series_instance_uid else (identity.study_instance_uid, f"file {number}")
        if key not in grouped:
            grouped[key] = _Series(*uids, _attributes(file))
        grouped[key].instances.append((identity.sop_instance_uid, path))
        grouped[key].transfer_syntax_uids.add(identity.transfer_syntax_uid)
        grouped[key].sop_class_uids.add(identity.sop_class_uid)
    return grouped


def _attributes(file: MediaFile) -> dict[str, Any]:
    """Return the attributes of a series by the columns of `node.dicom.attributes`, from one of its files.

    Of a data set that cannot be understood, there are the UIDs only; its conversion says what is wrong with it.
    """
    identity = file.identity
    known = {
        "series_instance_uid": identity.series_instance_uid,
        "study_instance_uid": identity.study_instance_uid,
        "sop_class_uid": identity.sop_class_uid,
        "folder": Path(file.name.rpartition("!")[0] or file.name).parent.name,
    }
    found = _read_head(file, instance_attributes)
    return known if found is None else {**found.patient, **found.study, **found.series, **known}


def _read_head(file: MediaFile, read: Callable[..., Read]) -> Read | None:
    """Return what `read`, as `read_header`, finds in the beginning of a data set; None if it is damaged."""
    for size in HEAD_BYTES:
        try:
            with file.open_file() as stream:
                stream.read(file.identity.data_set_offset)
                head = stream.read(size)
                return read(head, file.identity.transfer_syntax_uid, is_cut=len(head) == size)
        except HeaderCut:
            continue
        except (OSError, NotUnderstood, zipfile.BadZipFile, zlib.error, EOFError):
            break
    return None


def _forget_identifiers(all_series: Iterable[_Series]) -> None:
    """Take away every attribute that may name a person: texts, and a Series Number that may be an identifier."""
    from node.volume.describe.sidecar_fields import MIN_IDENTIFYING_NUMBER  # here: it loads NumPy

    kept = {COLUMNS.get(token, token) for token in OF_NOBODY} | {"sop_class_uid", "study_date", "study_time"}
    for series in all_series:
        series.attributes = {name: value for name, value in series.attributes.items() if name in kept}
        if (series.attributes.get("series_number") or 0) >= MIN_IDENTIFYING_NUMBER:
            series.attributes["series_number"] = None


def _refusal_row(series_instance_uid: str, refusal: Refusal) -> dict[str, Any]:
    return {
        "series_instance_uid": series_instance_uid,
        "reason": refusal.reason.value,
        "detail": refusal.detail,
        "stack": refusal.stack,
        "instances": len(refusal.sop_instance_uids),
    }


def _series_row(series: _Series) -> dict[str, Any]:
    return {**_described(series), "name": series.name}


def _described(series: _Series) -> dict[str, Any]:
    described = {name: series.attributes.get(name) for name in DESCRIBED}
    uids = {"study_instance_uid": series.study_instance_uid, "series_instance_uid": series.series_instance_uid}
    return {**uids, **described}


def _listed(series: _Series, converted: Converted | Refusal, layout: Layout) -> Listing:
    """Return the rows of one series for ``conversion.json``."""
    listing, own = _empty_listing(), {"series_instance_uid": series.series_instance_uid}
    verdict, refusals = None, [converted] if isinstance(converted, Refusal) else list(converted.refusals)
    if isinstance(converted, Converted):
        verdict = asdict(converted.completeness)
        for file in converted.files:
            path = file.path if layout.flat else f"{series.name}/{file.path}"
            listing["volumes"].append({**own, **asdict(file), "path": path})
        listing["exclusions"] = [{**own, **asdict(exclusion)} for exclusion in converted.exclusions]
    listing["series"] = [{**_series_row(series), "verdict": verdict}]
    if series.joined is not None:
        listing["series"][0]["joined_series"] = list(series.joined.series_instance_uids)
    listing["refusals"] = [_refusal_row(series.series_instance_uid, refusal) for refusal in refusals]
    return listing
