"""``voxelnode audit`` and ``rejections``: who did what, and what was refused."""

import json as jsons
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from node.cli.options import Limit, Root
from node.cli.output import Listing, bounded, minute, newest, print_finding, problems_of
from node.errors import UsageError

MAX_OBJECTS = 5
"""Objects of a line that are printed."""

FOREVER = math.inf
"""Deadline of a search for lines that name somebody."""

MAX_OFFER_CHARACTERS = 120
"""Of an offer in a list; it may be of 128 presentation contexts."""

_UID = re.compile(r"\b1\.2\.840\.10008(\.[0-9]+)+")


def shown_offer(offered: str | None) -> str:
    """Return what a sender offered, with the names of the standard, for a list."""
    from node.dicom.uids import registered_name

    named = _UID.sub(lambda found: registered_name(found[0]) or found[0], offered or "")
    return named if len(named) <= MAX_OFFER_CHARACTERS else f"{named[:MAX_OFFER_CHARACTERS].rpartition(', ')[0]}, ..."


def audit(
    limit: Limit = 20,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the hash chain of all lines; exit 1 if it is broken.")
    ] = False,
    of_patient: Annotated[
        str | None, typer.Option("--patient", metavar="ID", help="Only lines with this Patient ID, in this root.")
    ] = None,
    uid: Annotated[
        str | None, typer.Option("--uid", metavar="UID", help="Only lines with this UID of any level, in this root.")
    ] = None,
    *,
    root: Root,
) -> Listing:
    """Show the audit log: who stored, deleted or changed what. Hosts that share an index have one view of all logs."""
    settings = root.settings
    has_hosts = settings.index.url is not None

    from node.audit.audit_files import FILE_NAME, audit_files, last_lines
    from node.audit.audit_files import verify as audit_files_problems
    from node.index.rows.backend import IndexUnusable

    path = root.folder / FILE_NAME
    if not audit_files(root.folder) and not has_hosts:
        raise UsageError(f"no audit log at {path}: check the root")
    if verify:
        problems = audit_files_problems(root.folder)
        if has_hosts:
            problems += _problems_of_copies(root)
        return problems_of(path, problems, "the hash chain is intact")
    if uid is not None:
        with suppress(IndexUnusable):  # the log is there without an index, too
            uid = root.uid_of(uid, "study", "series", "instance")
    sought = [text for text in (of_patient, uid) if text is not None]
    if sought:
        named = _lines_with(root.folder, sought)
        lines = [*islice(named, limit)][::-1]
        return _listed(str(path), lines, len(lines) + sum(1 for _ in named))
    if has_hosts:
        return _listed(f"audit logs in {settings.index.url}", *_of_all_hosts(root, limit))
    last, total = last_lines(root.folder, limit)
    return _listed(str(path), [*filter(None, map(_parsed, last))], total)


def _lines_with(folder: Path, sought: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the lines with an object that has all of some values, newest first."""
    from node.audit.audit_files import lines_naming

    for line in filter(None, map(_parsed, lines_naming(folder, sought[0], FOREVER))):
        values = [{*map(str, one.values())} for one in line["objects"]]
        if any(of_one.issuperset(sought) for of_one in values):
            yield line


def _listed(where: str, lines: list[dict[str, Any]], total: int) -> Listing:
    """Return the last of `total` lines for people: when and who, then what, and below it whose it is."""
    title = where if len(lines) == total else f"{where}: {newest(len(lines), total, 'line')}"

    def text() -> None:
        print(title if lines else f"{where}: no such line")
        for line in lines:
            who = ", ".join(_participant(one) for one in line["participants"] if one["requestor"])
            failed = "" if line["outcome"] == 0 else f"failed ({line['outcome']})"
            what = ", ".join(filter(None, (line["event"]["meaning"], failed, who and f"by {who}", line.get("log"))))
            objects = list(dict.fromkeys(map(_object, line["objects"])))
            more = [f"and {len(objects) - MAX_OBJECTS} more; --json lists all"] if len(objects) > MAX_OBJECTS else []
            print_finding(minute(line["at"]), what, line["detail"], *objects[:MAX_OBJECTS], *more)

    return bounded(Listing(lines, text, rows=lines), title, total)


def _participant(one: dict[str, Any]) -> str:
    return f"{one['user']} {one['address']}".strip()


def _object(named: dict[str, Any]) -> str:
    """Return whose and what an object of a line is: the patient, then its UIDs and the rest."""
    known = {name: value for name, value in named.items() if value not in (None, "", [], {})}
    patient = " ".join(str(known.pop(name)) for name in ("patient_id", "patient_name") if name in known)
    if known.get("uid") == known.get("study_instance_uid"):
        known.pop("uid", None)
    rest = (f"{name} {value if isinstance(value, str | int) else jsons.dumps(value)}" for name, value in known.items())
    return ", ".join(filter(None, (patient and f"patient {patient}", *rest)))


def _of_all_hosts(root: Root, limit: int) -> tuple[list[dict[str, Any]], int]:
    """Return the last lines of the file of this host and of the copies of others, and how many lines there are."""
    from node.audit.audit_files import last_lines

    own = root.settings.cluster.name
    last, total = last_lines(root.folder, limit)
    lines = [(own, line) for line in last]
    with root.reading() as index:
        copies = index.audit_lines.newest(limit, own, others=True)
        total += index.audit_lines.count_of_others(own)
    lines += [(name, line.encode()) for name, line in copies]
    shown = [{"log": name, **line} for name, line in ((name, _parsed(line)) for name, line in lines) if line]
    return sorted(shown, key=lambda line: str(line["at"]))[-limit:], total


def _problems_of_copies(root: Root) -> Iterator[str]:
    """Yield what is wrong with the copies of logs, and whether the log here lacks lines that were copied."""
    from node.audit.audit_files import copy_problems, digest_of, position_behind

    own = root.settings.cluster.name
    with root.reading() as index:
        for name in index.audit_lines.hosts():
            for problem in copy_problems(index.audit_lines.of_host(name)):
                yield f"{name}: {problem}"
            newest = index.audit_lines.newest(1, own) if name == own else []
            if newest and position_behind(root.folder, digest_of(f"{newest[0][1]}\n".encode())) is None:
                yield f"{name}: the last line that was copied is not in {root.folder} any more: its end was removed"


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        return dict(jsons.loads(line))
    except ValueError:  # torn by a power cut; --verify reports it
        return {}


def rejections(limit: Limit = 20, *, root: Root) -> Listing:
    """List recent refusals with sender, reason and remedy."""
    from node.errors import kind_of

    with root.looking() as index:
        rows = index.rejections.newest(limit)
    title = newest(len(rows), rows.total, "refusal")

    def text() -> None:
        alike: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for row in rows:
            names = ("what", "rule", "peer", "calling_ae_title", "called_ae_title", "offered")
            kinds = kind_of(row["reason"]), kind_of(row["remedy"])
            alike.setdefault((*kinds, *(row[name] for name in names)), []).append(row)
        print(f"{title}, the newest first" if rows else "no refusals")
        for of_one in alike.values():
            row, times = of_one[0], sum(one["count"] for one in of_one)
            named = " at ".join(filter(None, (row["calling_ae_title"], row["peer"]))) or "an unknown sender"
            called = f" to {row['called_ae_title']}" if row["called_ae_title"] else ""
            since = f", {times} times since {minute(of_one[-1]['first_at'])}" if times > 1 else ""
            offered = shown_offer(row["offered"])
            what = f"{row['what']} of {named}{called}{since}"
            print_finding(
                minute(row["last_at"]),
                what,
                row["reason"],
                row["remedy"],
                *([f"offered: {offered}"] if offered else []),
            )

    return bounded(Listing(rows, text, rows=rows), title, rows.total)
