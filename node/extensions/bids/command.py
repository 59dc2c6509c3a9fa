"""``voxelnode bids``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.options import Root
from node.cli.output import Answer, printable
from node.errors import counted

if TYPE_CHECKING:
    from node.extensions.bids.export import ExportReport
    from node.extensions.bids.planned import Skipped
    from node.extensions.bids.rules import Rules
    from node.extensions.bids.sources import PatientSource
    from node.selector import Selector
    from node.settings.model import Settings

MAX_SKIPPED_SHOWN = 10
"""Volumes under one reason."""


def bids(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the data set; created if missing.")],
    sources: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            metavar="IN",
            exists=True,
            help="Export DICOM files (folders, files, zip files) without a node; may be given several times.",
        ),
    ] = None,
    rules: Annotated[
        Path | None,
        typer.Option(
            "--rules", metavar="FILE", help="Rules (`voxelnode help bids`). [default: rules for common protocols]"
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            metavar="EXPRESSION",
            help="Add only series that fit (`voxelnode help select`); those in the data set stay, and are updated.",
        ),
    ] = None,
    project: Annotated[
        str | None,
        typer.Option("--project", metavar="NAME", help="Only series of this project, as its members see it."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show what would be written, and why other series would not; write nothing."),
    ] = False,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune", help="Remove volumes whose series was deleted, is not complete any more or fits no rule."
        ),
    ] = False,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key",
            metavar="FILE",
            help="Key of the pseudonyms; made if missing. [default: bids.key in the root; with --from, here]",
        ),
    ] = None,
    draft_rules: Annotated[
        Path | None,
        typer.Option(
            "--draft-rules",
            metavar="FILE",
            help="Write a file of rules with those of --rules and proposed ones for series without a name, and exit.",
        ),
    ] = None,
    uids: Annotated[bool, typer.Option("--uids", help="With the UIDs of the series that are not exported.")] = False,
    *,
    root: Root,
) -> Answer | None:
    """Write complete series as a BIDS data set, and update it.

    A second run changes nothing, unless series were received, converted again or deleted meanwhile. Exit 1 if a file is
    in the way or could not be written.
    """
    from node.children.pseudonyms import PATIENT_CHARACTERS, made_key
    from node.control.audited_export import ExportOutcome, audited_export
    from node.errors import UsageError
    from node.extensions.bids.export import Exporter, read_only
    from node.extensions.bids.rules import read_rules
    from node.extensions.bids.subjects import KEY_FILE, UNKNOWN, Pseudonyms, UnknownLabels
    from node.selector import compile_selector

    if sources and project is not None:
        raise UsageError("--project is for the series of a node, and --from for files without one")
    settings = root.settings
    read = read_rules(rules)
    selector = compile_selector(where) if where is not None else None
    with _from_files(sources, read, selector, settings) if sources else _from_node(root, project) as (source, home):
        if draft_rules is not None:
            own = {"--key": key, "--where": where, "--project": project}
            given = [f"--from={path}" for path in sources or ()]
            given += [f"{option}={value}" for option, value in own.items() if value is not None]
            _write_draft(draft_rules, source, read, rules, selector, [str(out), *given, *root.given])
            return None
        file = key or home / KEY_FILE
        if dry_run and not file.exists():
            pseudonyms: Pseudonyms = UnknownLabels()
            if read.subjects.labels == "pseudonym" and read.subjects.map is None:
                print(
                    f"voxelnode: {file} does not exist yet, and labels follow from it: {UNKNOWN}1 stands for "
                    f"{PATIENT_CHARACTERS} letters and digits",
                    file=sys.stderr,
                )
        else:
            if not file.exists():  # a data set that was begun has another key
                with read_only(out) as dataset:
                    dataset.require_key("")
            pseudonyms = Pseudonyms(made_key(file))
        exporter = Exporter(source, read, pseudonyms, selector, prune=prune)
        order = f"voxelnode bids to {out.absolute()}, key {pseudonyms.key_name}"
        order += f", of project {project}" if project is not None else ""
        with nullcontext(ExportOutcome()) if dry_run else audited_export(settings, order) as outcome:
            report = exporter.export(out, dry_run=dry_run)
            outcome.counts = f"{_written(report)}, {len(report.skipped)} left out"
    clauses = [] if where is None else ["select", where, "--why", *root.given]
    if sources and where is not None:
        clauses = ["convert", *map(str, sources), "-o", "volumes", "--include", where]
    return Answer(
        asdict(report),
        lambda: _print(report, out, clauses, dry_run=dry_run, uids=uids),
        failed=not report.is_up_to_date,
    )


def _write_draft(
    file: Path, source: PatientSource, rules: Rules, before: Path | None, where: Selector | None, given: list[str]
) -> None:
    """Write the rules of the file `before` and proposed ones to a new file; print the command that tries them."""
    from node.errors import UsageError
    from node.extensions.bids.draft import draft

    if file.exists():
        raise UsageError(f"{file}: is there already; give the name of a new file")
    if rules.subjects.map is not None and before is not None and file.resolve().parent != before.resolve().parent:
        raise UsageError(f"{file}: write it beside {before}, whose table of subjects is found from there")
    made = draft(source, rules, where, before.read_text(encoding="utf-8") if before is not None else "")
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(made.text)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error
    print(f"{file}: {counted(made.proposed, 'rule')} proposed, {made.undecided} of them not decided. Read it, then:")
    print(f"    {printable(shlex.join(['voxelnode', 'bids', *given, '--rules', str(file), '--dry-run']))}")


@contextmanager
def _from_node(root: Root, project: str | None) -> Iterator[tuple[PatientSource, Path]]:
    """Open the index of a root, or what a project has of it; yield it as a source, and the folder for the key."""
    from node.errors import UsageError
    from node.extensions.bids.sources import IndexSource

    if not root.folder.exists():
        raise UsageError(f"no folder {root.folder}: is the root right? --from IN exports DICOM files without a node")
    with root.reading_of(project) as index, root.files() as local:
        yield IndexSource(index, local), root.folder


@contextmanager
def _from_files(
    paths: list[Path], rules: Rules, where: Selector | None, settings: Settings
) -> Iterator[tuple[PatientSource, Path]]:
    """Convert files in a temporary folder; yield them as a source, and the folder for the key."""
    from contextlib import closing
    from tempfile import TemporaryDirectory

    from node.conversion.found_series import Chosen
    from node.conversion.job import limits
    from node.conversion.pool import Converters
    from node.extensions.bids.sources import FolderSource, require_known
    from node.registry import enabled, objects_of

    require_known(rules, where)
    bounds = limits(settings.convert)
    with TemporaryDirectory(prefix="voxelnode-bids-") as work:
        with closing(Converters(objects=objects_of(enabled(settings)))) as converters:
            source = FolderSource(
                paths,
                Path(work),
                lambda job, cancelled: converters.run(job, bounds, cancelled),
                settings.convert.workers,
                Chosen(include=where),
            )
        yield source, Path()


def _print(report: ExportReport, out: Path, clauses: list[str], *, dry_run: bool, uids: bool) -> None:
    """`clauses`: the command that names what does not fit, and why."""
    change = report.change
    lines = [("add", path + _of_late(report, path)) for path in change.added]
    lines += [("replace", path) for path in change.replaced]
    lines += [("rename", f"{old} -> {new}") for old, new in change.renamed]
    lines += [("remove", path) for path in change.removed]
    for verb, path in lines:
        print(f"{verb:<8} {printable(path)}")
    for path, reason in change.conflicts:
        print(f"conflict {printable(path)} {reason}")
    for path, reason in change.failed:
        print(f"failed   {printable(path)}: {reason}")
    for left in report.left:
        print(f"left     {left.path}: {printable(left.reason)}; --prune removes it")
    _print_skipped(report, uids=uids)
    if report.not_selected and clauses:
        which = printable(shlex.join(["voxelnode", *clauses]))
        print(f"{report.not_selected} series do not fit --where. Their clauses: {which}")
    if report.kept:
        print(
            f"kept     dataset_description.json: it is yours, and has another {', '.join(report.kept)} than the rules"
        )
    changes = len(lines)
    end = "nothing was written" if dry_run else counted(changes, "change") if changes else "nothing changed"
    print(f"{_written(report)}, {len(report.skipped)} not exported: {out}; {end}")


def _of_late(report: ExportReport, path: str) -> str:
    """Return the remark on an added volume whose session is older than a session with a lower number."""
    earlier = next((other for folder, other in report.late.items() if path.startswith(f"{folder}/")), None)
    return "" if earlier is None else f"  (older than {earlier.rpartition('/')[2]}, which keeps its number)"


def _written(report: ExportReport) -> str:
    return f"{counted(report.volumes, 'volume')} of {counted(report.subjects, 'subject')}"


def _print_skipped(report: ExportReport, *, uids: bool) -> None:
    """Print the series that are not exported, under the kinds of reasons."""
    by_kind: dict[str, list[Skipped]] = {}
    for skipped in report.skipped:
        by_kind.setdefault(skipped.reason.partition(": ")[0], []).append(skipped)
    for kind, found in sorted(by_kind.items(), key=lambda item: len(item[1]), reverse=True):
        reasons = {skipped.reason for skipped in found}
        print(f"not exported, {len(found)}: {printable(reasons.pop() if len(reasons) == 1 else kind)}")
        for skipped in found[:MAX_SKIPPED_SHOWN]:
            detail = skipped.reason.partition(": ")[2] if reasons else ""
            what = (skipped.patient_id, skipped.study_date, f"{skipped.description} {skipped.volume}".strip(), detail)
            of_uid = (skipped.series_instance_uid,) if uids else ()
            print(f"         {printable('  '.join(filter(None, (*what, *of_uid))))}")
        if len(found) > MAX_SKIPPED_SHOWN:
            print(f"         and {len(found) - MAX_SKIPPED_SHOWN} more: --json lists all")
