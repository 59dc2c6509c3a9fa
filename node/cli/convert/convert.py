"""``voxelnode convert``."""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from node.cli.options import Configured, Given, Json
from node.cli.output import WIDTH, Answer, each_shown, named_files, print_within, printable
from node.completeness import COPIES_LEFT_OUT
from node.errors import counted, interpolated
from node.registry import enabled, installed, objects_of
from node.settings import DEADLINE_SECONDS, MEMORY_BYTES, VolumeFormat, is_configured
from node.writers.options import WriteOptions, write_options

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from node.conversion.found_series import Chosen
    from node.conversion.out_folder import Layout
    from node.hookspecs import ObjectKind

MAX_PEOPLE = 3
"""Patient IDs that are printed, if there are several people."""

MAX_LEFT_OUT = 5
"""Series that are printed although they are not converted."""

MAX_FILES = 3
"""Files that a line names."""

MAX_REASONS = 5
"""Reasons that are printed of the instances of one series."""

MAX_HEAD = 12
"""Columns of number and modality, and of the gap behind them."""


def convert(
    paths: Annotated[
        list[Path], typer.Argument(metavar="IN", exists=True, help="Folders, files, zip files or DICOMDIRs.")
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="OUT", file_okay=False, help="Folder for the volumes; created if missing."),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            "-f",
            metavar="TEMPLATE",
            help="Names of the files, such as '{patient_id}/{series_number:03}', or with dcm2niix's letters, such as "
            "'%i/%s'. `voxelnode help convert` has the tokens. [default: {series_number:03}_{series_description}, in a "
            "folder {patient_name}_{study_date}_{modality} if there are several studies]",
        ),
    ] = None,
    flat: Annotated[
        bool,
        typer.Option("--flat", help="Write all files into OUT, or the folders of --name, without a folder per series."),
    ] = False,
    include: Annotated[
        str | None,
        typer.Option(
            "--include",
            metavar="EXPRESSION",
            help="Only series that fit, such as 'modality == \"MR\" and instances >= 20' (`voxelnode help select`).",
        ),
    ] = None,
    exclude: Annotated[
        str | None, typer.Option("--exclude", metavar="EXPRESSION", help="Do not convert series that fit.")
    ] = None,
    list_only: Annotated[
        bool, typer.Option("--list", help="Show each series with the name of its files, and write nothing.")
    ] = False,
    format: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="nifti, nifti-pair, analyze, mhd, nrrd or npz; several with commas. [default: [convert] formats if it "
            "is set, else nifti]",
        ),
    ] = None,
    compress: Annotated[
        bool | None, typer.Option("--compress/--no-compress", help="Compress the files. Overrides [convert] compress.")
    ] = None,
    split_times: Annotated[
        bool, typer.Option("--split-times", help="Write a 3-D file for each time of a 4-D volume.")
    ] = False,
    thumbnails: Annotated[
        bool | None,
        typer.Option(
            "--thumbnails/--no-thumbnails",
            help="Write a small PNG beside each volume. [default: [convert] thumbnails if it is set, else no]",
        ),
    ] = None,
    montage: Annotated[bool, typer.Option("--montage", help="Write a PNG of every fifth slice.")] = False,
    mip: Annotated[
        bool, typer.Option("--mip", help="Write PNGs of maximum and minimum intensity projections along three axes.")
    ] = False,
    png: Annotated[bool, typer.Option("--png", help="Write each slice as a PNG, of the middle time.")] = False,
    mask: Annotated[bool, typer.Option("--mask", help="Write a label volume of the body beside each CT.")] = False,
    anonymous: Annotated[
        bool,
        typer.Option(
            "--anonymous",
            help="Leave series description and protocol name out of names, sidecars and conversion.json. Pixels and "
            "UIDs stay as they are.",
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            "-j",
            metavar="N",
            help="Series to convert at once, each in its own process. Overrides [convert] workers.",
        ),
    ] = None,
    repair: Annotated[
        bool | None,
        typer.Option(
            "--repair/--no-repair",
            help="Correct wrong headers where other values prove it, and name these values in the sidecar. "
            "Overrides [convert] repair.",
        ),
    ] = None,
    *,
    configured: Configured,
    json: Json = False,
) -> Answer:
    """Convert DICOM files to volumes without a node.

    The voxels are the same as those of a node. OUT/conversion.json lists the volumes, the refusals with their reasons
    and the skipped files. Exit 1 if there is no volume, or if the conversion of a series broke off (`failed`); a series
    that is refused for what is in its files is no failure.
    """
    began = time.monotonic()
    settings, objects = _settings(
        configured,
        {
            "--format": (
                "convert.formats",
                tuple(name for names in format or () for name in names.split(",") if name) or None,
            ),
            "--compress": ("convert.compress", compress),
            "--thumbnails": ("convert.thumbnails", thumbnails),
            "--workers / -j": ("convert.workers", workers),
            "--montage": ("convert.montages", montage or None),
            "--mip": ("convert.projections", mip or None),
            "--png": ("convert.slices", png or None),
            "--mask": ("convert.body_masks", mask or None),
            "--repair": ("convert.repair", repair),
        },
    )
    layout = _layout(name, flat=flat, anonymous=anonymous)

    from node.conversion.found_series import chosen

    selection = chosen(include, exclude)
    if list_only:
        return _planned(paths, out, layout, selection, join=settings.repair)

    from node.cli import converters
    from node.conversion.job import limits
    from node.conversion.offline import convert_folder

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # runs the cleanup of unfinished files
    bounds = limits(settings)
    converters().objects = objects
    done: list[str] = []

    def on_series(listing: dict[str, Any]) -> None:
        done.append(_outcome(listing))
        if not json:
            _print_series(listing, out)

    try:
        listing = convert_folder(
            paths,
            out,
            replace(write_options(settings), split_times=split_times),
            lambda job, cancelled: converters().run(job, bounds, cancelled),
            settings.workers,
            on_series,
            layout,
            selection,
            partial(each_shown, "converting"),
            partial(_report_people, anonymous=anonymous),
        )
    except (KeyboardInterrupt, SystemExit):  # Ctrl-C and SIGTERM
        print(f"voxelnode: stopped after {len(done)} series; run it again for all of them", file=sys.stderr)
        raise
    took = time.monotonic() - began
    failed = not listing["volumes"] or any(row["reason"] == "failed" for row in listing["refusals"])
    return Answer(listing, lambda: _print_rest(listing, done, out, took), failed)


@dataclass(frozen=True, slots=True)
class Unconfigured(WriteOptions):
    """[convert] where there is no configuration, and each option is as it may be: pydantic need not check it."""

    formats: tuple[VolumeFormat, ...] = ("nifti",)
    thumbnails: bool = False
    workers: int = 1
    memory_bytes: int = MEMORY_BYTES
    deadline_seconds: float = DEADLINE_SECONDS


def _settings(configured: Configured, given: Given) -> tuple[Any, tuple[ObjectKind, ...]]:
    """Return [convert] of the configuration with the options of the command, and what extensions convert.

    Without configuration and options, NIfTI alone is written. Without a configuration, no other table is defined or
    checked.
    """
    unset = {"formats": ("nifti",), "thumbnails": False}
    if configured.file is None and not is_configured():
        values = {key.removeprefix("convert."): value for key, value in given.values() if value is not None}
        formats = set(values.get("formats", ())).issubset(get_args(VolumeFormat))
        if formats and values.get("workers", 1) in range(1, 65):  # else `read` explains it
            return Unconfigured(**values), objects_of(installed())
    settings = configured.read(given)
    section = settings.convert.model_copy(
        update={key: unset[key] for key in unset if f"convert.{key}" not in settings.loaded_from.keys_of("convert")}
    )
    return section, objects_of(enabled(settings))


def _layout(name: str | None, *, flat: bool, anonymous: bool) -> Layout:
    from node.conversion.naming import name_template
    from node.conversion.out_folder import Layout
    from node.errors import UsageError

    if name in get_args(VolumeFormat):
        raise UsageError(f"-f {name}: -f names the files, as in dcm2niix; for the format {name}, use --format {name}")
    template = name_template(name, anonymous=anonymous) if name else None
    if template and name and "%" in name:
        flat_too = "" if flat else " --flat"
        print(f"voxelnode: -f {name!r}, of dcm2niix, is --name {template.text!r}{flat_too}", file=sys.stderr)
    return Layout(template, flat, anonymous)


def _planned(paths: list[Path], out: Path, layout: Layout, selection: Chosen, *, join: bool) -> Answer:
    """Return what would become what; only headers are read."""
    from node.conversion.offline import planned

    plan = planned(paths, out, layout, selection, partial(_report_people, anonymous=layout.anonymous), join=join)

    def show() -> None:
        for row in plan["series"]:
            head, name = f"{_head(row)}  {row['instances']:>5}", printable(row["sop_class"])
            target = f"-> {printable(str(out / row['path']))}" if row["path"] else "no image"
            print_within(f"{head}  {name}  {target}", head, name, target)
            _print_kept(head, row)
        _print_problems(plan)
        if selection.told:
            names = ", ".join(sorted(selection.told))
            print(f"{names}: known only after the conversion, which may keep fewer of these series")
        instances = sum(row["instances"] for row in plan["series"])
        print(f"{len(plan['series'])} series with {counted(instances, 'instance')}; nothing was written")

    return Answer(plan, show)


def _head(series: dict[str, Any]) -> str:
    number = "" if series["series_number"] is None else series["series_number"]
    return f"{number:>4}  {printable(series['modality'] or '?'):<3}"


def _print_series(listing: dict[str, Any], out: Path) -> None:
    """Print one series: its first volume and what else there is to know, and a line for each part without a volume."""
    [series] = listing["series"]
    head = _head(series)
    grids = [row for row in listing["volumes"] if row["format"] != "json"]
    volumes = [row for row in grids if row["kind"] == "volume"] or grids
    copies = [row for row in grids if row["kind"] == "resampled"]
    reports = [row for row in listing["volumes"] if row["format"] == "json"]
    for row in reports:
        path = printable(row["path"])
        print_within(f"{head}  report: {path}", head, "report:", *_parts(path))
    refused = [refusal.get("files") for refusal in listing["refusals"] if not _is_no_image(refusal)]
    for refusal in listing["refusals"]:
        if _is_no_image(refusal):
            if not reports and refusal.get("files") not in refused:  # else its files are refused as a whole
                _print_line(head, f"no image: {printable(refusal['detail'])}{_in_files(refusal.get('files', ()))}")
            continue
        subject = series["name"] if refusal["stack"] is None else f"{series['name']}, stack {refusal['stack'] + 1}"
        said = f"refused {printable(subject)}: {refusal['reason']}: {printable(refusal['detail'])}"
        _print_line(head, said + _in_files(refusal.get("files", ())))
    if volumes:
        _print_volumes(head, series, volumes, copies, out)
    _print_kept(head, series)
    _print_exclusions(head, listing["exclusions"])


def _print_kept(head: str, series: dict[str, Any]) -> None:
    """Print which files of earlier runs a series does not replace, because it lacks instances that they have."""
    for name, lacking in series.get("lacks", {}).items():
        made_of = f"{counted(lacking, 'instance')} of this series that {'is' if lacking == 1 else 'are'} not in IN"
        _print_line(head, f"kept {printable(name)}: it has {made_of}; convert all files of the series together")


def _in_files(files: Sequence[str]) -> str:
    """Return the names of a few files for the end of a sentence; of a whole series, nothing."""
    return f": {', '.join(map(printable, files))}" if 0 < len(files) <= MAX_FILES else ""


def _print_exclusions(head: str, exclusions: list[dict[str, Any]]) -> None:
    """Print the instances, and the files, that are in no volume, a line for each of the first reasons."""
    by_reason: dict[tuple[str, str, bool], list[dict[str, Any]]] = {}
    for row in exclusions:
        by_reason.setdefault((row["reason"], row["detail"], "used_file" in row), []).append(row)
    for (reason, detail, of_files), rows in [*by_reason.items()][:MAX_REASONS]:
        if of_files:
            count, names = counted(len(rows), "file"), _instead(rows)
        else:
            count = counted(len({row["sop_instance_uid"] for row in rows}), "instance")
            names = _in_files([*dict.fromkeys(name for row in rows for name in row.get("files", []))])
        _print_line(head, f"left out {count}: {reason}: {printable(detail)}{names}")
    if len(by_reason) > MAX_REASONS:
        _print_line(head, f"left out more, for {len(by_reason) - MAX_REASONS} other reasons; --json lists all")


def _instead(rows: Sequence[dict[str, Any]]) -> str:
    """Return which files are left out, and which are used in their places, for the end of a sentence."""
    pairs = [
        f"left out {printable(name)}" + (f", used {printable(row['used_file'])}" if row["used_file"] else "")
        for row in rows
        for name in row.get("files", ())
    ]
    if not pairs:
        return ""
    more = f"; {len(pairs) - MAX_FILES} more; --json lists all" if len(pairs) > MAX_FILES else ""
    return f": {'; '.join(pairs[:MAX_FILES])}{more}"


def _is_no_image(refusal: dict[str, Any]) -> bool:
    """Return whether a refusal only says that the series has no images, such as a series of reports."""
    return bool(refusal["reason"] == "not-an-image")


def _print_volumes(
    head: str, series: dict[str, Any], volumes: list[dict[str, Any]], copies: list[dict[str, Any]], out: Path
) -> None:
    first = volumes[0]
    shape = " x ".join(map(str, first["shape"]))
    spacing = " x ".join(f"{length:.3g}" for length in first["spacing_mm"])
    spacing += " mm" if spacing else ""
    stacks = len({row["stack"] for row in volumes})
    notes = [f"and {stacks - 1} more"] if stacks > 1 else []
    verdict = series["verdict"]
    doubted = verdict if verdict and verdict["state"] in ("incomplete", "suspect") else None
    notes += [f"{doubted['state']}: {printable(doubted['reason'])}"] if doubted else []
    notes += _warnings(volumes, out, doubted["reason"] if doubted else "")
    if verdict and not doubted and verdict["reason"].endswith(COPIES_LEFT_OUT):
        notes.append(verdict["reason"].rpartition("; ")[2])
    for copy in copies[:1]:
        is_uneven = first["geometry"] == "irregular"
        said = "its slices are uneven: use the resampled copy" if is_uneven else "a resampled copy is beside it"
        between = _sidecar(out, copy).get("interpolated_slices") if copy["stack"] == first["stack"] else None
        notes.append(f"{said}, in which {interpolated(between)}" if between else said)
    path = printable(first["path"])
    notes_text = f"  ({'; '.join(notes)})" if notes else ""
    line = f"{head}  {shape:<20}  {spacing:<24}  {path}{notes_text}"
    print_within(line, head, "; ".join(notes), ", ".join(filter(None, (shape, spacing))), *_parts(path))


def _print_line(head: str, text: str) -> None:
    print_within(f"{head}  {text}", head, text)


def _parts(path: str) -> tuple[str, ...]:
    """Return a path, or its folder and its file, if they need two lines of a terminal."""
    folder, slash, name = path.rpartition("/")
    return (path,) if not folder or len(path) < WIDTH - MAX_HEAD else (folder + slash, name)


def _warnings(volumes: Iterable[dict[str, Any]], out: Path, told: str) -> list[str]:
    """Return the warnings about volumes that `told` does not have, each with its sentence if it is that of all."""
    details: dict[str, dict[str, None]] = {}
    for row in volumes:
        if row["warnings"]:
            sentences = {each["name"]: each["detail"] for each in _sidecar(out, row).get("warnings", ())}
            for name in row["warnings"]:
                details.setdefault(name, {})[sentences.get(name, "")] = None
    return [
        f"{name}: {printable(next(iter(found)))}" if len(found) == 1 and any(found) else name
        for name, found in sorted(details.items())
        if f"{name}: " not in told
    ]


def _sidecar(out: Path, volume: dict[str, Any]) -> dict[str, Any]:
    from node.conversion.volume_files import sidecar_beside

    return sidecar_beside(volume["path"], lambda path: out / path)


def _report_people(people: Sequence[str | None], *, anonymous: bool) -> None:
    """Print that the input has several people, on standard error: most conversions are of one."""
    if len(people) > 1:
        named = ", ".join(printable(id or "no Patient ID") for id in people[:MAX_PEOPLE])
        more = f" and {len(people) - MAX_PEOPLE} more" if len(people) > MAX_PEOPLE else ""
        who = f"{len(people)} people" + ("" if anonymous else f": {named}{more}")
        said = f"voxelnode: {who}. If you expected one, check IN."
        print(fill(said, WIDTH, subsequent_indent="  ", break_long_words=False), file=sys.stderr)


def _print_problems(listing: dict[str, Any]) -> None:
    """Print the series that are not chosen, and the files that are not DICOM."""
    left_out = listing["not_chosen"]
    for series in left_out[:MAX_LEFT_OUT]:
        instances = counted(series["instances"], "instance")
        subject = series["series_description"] or series["protocol_name"] or series["series_instance_uid"] or "a file"
        _print_line(_head(series), f"left out {printable(subject)}, {instances}: it {printable(series['reason'])}")
    if len(left_out) > MAX_LEFT_OUT:
        print(f"left out {len(left_out) - MAX_LEFT_OUT} more series; --json lists all")
    for line in named_files("skipped", ((file["name"] or "a file", file["reason"]) for file in listing["not_dicom"])):
        print(line)


def _outcome(listing: dict[str, Any]) -> str:
    """Return what became of one series."""
    refusals = listing["refusals"]
    is_refused = not all(map(_is_no_image, refusals))
    if listing["volumes"]:
        return "in part" if is_refused else "converted"
    return "refused" if is_refused or not refusals else "without image"


def _print_rest(listing: dict[str, Any], outcomes: Sequence[str], out: Path, seconds: float) -> None:
    _print_problems(listing)
    parts = outcomes.count("in part")
    converted = f"{outcomes.count('converted') + parts} converted" + (f", {parts} of them in part" if parts else "")
    counts = [f"{converted} ({counted(len(listing['volumes']), 'file')})"]
    counts += [f"{outcomes.count(word)} {word}" for word in ("without image", "refused") if word in outcomes]
    if listing["not_chosen"]:
        counts.append(f"{len(listing['not_chosen'])} left out")
    series = f"{len(listing['series']) + len(listing['not_chosen'])} series: "
    nothing = "no DICOM file was found: "
    print(_balance(listing["files"]))
    print(
        f"{series if outcomes or listing['not_chosen'] else nothing}{', '.join(counts)} in {seconds:.1f} s: "
        f"{out / 'conversion.json'}"
    )


def _balance(files: dict[str, int]) -> str:
    """Return how many files were found, and what became of them."""
    fates = [f"{count} {fate.replace('_', ' ')}" for fate, count in files.items() if fate != "found" and count]
    return f"{counted(files['found'], 'file')}{': ' if fates else ''}{', '.join(fates)}"
