"""``voxelnode conflicts``, ``quarantine`` and ``lost``: what people decide about instances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.cli.options import ChangedRoot, Commands, Root, Yes, confirm
from node.cli.output import (
    Answer,
    Columns,
    Listing,
    described,
    listing,
    minute,
    patient,
    person,
    print_fields,
    print_finding,
    print_table,
    print_within,
    printable,
    series_name,
)
from node.errors import UsageError, counted, sized

if TYPE_CHECKING:
    from pathlib import Path

    from node.receive.custody import Compared, Version

VERSIONS = ("", "current version", "version in this conflict")
PATIENTS = ("", "patient of the study", "patient in this conflict")

conflicts_app = Commands(help="List conflicts of one UID or Patient ID, and decide them.", invoke_without_command=True)

Number = Annotated[int, typer.Argument(metavar="ID", help="Number of the conflict, as listed.")]
Uids = Annotated[bool, typer.Option("--uids", help="With the UIDs, and the file that was set aside.")]
Alike = Annotated[
    bool, typer.Option("--alike", help="Also all undecided conflicts of the same kind, study and sender.")
]


@conflicts_app.callback()
def list_conflicts(
    everything: Annotated[bool, typer.Option("--all", help="Also those that are decided.")] = False,
    uids: Uids = False,
    *,
    root: Root,
) -> Listing:
    """List identity conflicts that are not decided: one UID or Patient ID with different content."""
    with root.looking() as index, root.files() as local:
        from node.receive.aside import with_strangers

        rows = with_strangers(index.conflicts.all(decided=everything), index, local)

    def text() -> None:
        decisions: dict[Any, list[dict[str, Any]]] = {}
        for row in rows:  # as `accept --alike` and the page take them together
            key = (row["kind"], row["study_instance_uid"], row["calling_ae_title"], row["decision"])
            decisions.setdefault(key, []).append(row)
        about = f"{counted(len(decisions), 'decision')} about {counted(len(rows), 'instance')}"
        print(about if rows else "no conflicts")
        shown = [alike[-1] for alike in decisions.values()]
        differences = _differences(root, [row["id"] for row in shown if row["path"] is not None])
        for row, alike in zip(shown, decisions.values(), strict=True):
            many = f"{len(alike)} instances, such as: " if len(alike) > 1 else ""
            _print_found(row, f"{many}{_known_by(row)}", differences.get(row["id"], ""), uids=uids)

    return Listing(rows, text, rows=rows)


def _known_by(row: Mapping[str, Any]) -> str:
    """Return patient, date and series of a conflict, as far as they are in the index."""
    from node.receive.aside import came_as, named

    if row["study_date"] is None and row["patient_id"] is None:
        return ""
    series = None if row["series_number"] is None and row["modality"] is None else series_name(row)
    other = came_as(row)
    return ", ".join(filter(None, (named(row) if other else patient(row), row["study_date"], series, other)))


def _differences(root: Root, conflicts: Sequence[int]) -> dict[int, str]:
    """Return the attributes in which the versions of each conflict differ, as current and as it came, or else how."""
    if not conflicts:
        return {}
    with _comparing(root) as (compared, pixels):
        return {
            conflict: "; ".join(
                f"{one.attribute}: {_stated(one.current)}, now {_stated(one.other)}" for one in found.differences
            )
            or ("" if found.files is None else pixels(*found.files))
            for conflict, found in ((conflict, compared(conflict)) for conflict in conflicts)
        }


def _stated(value: Any) -> Any:
    return "nothing" if value is None else value


@contextmanager
def _comparing(root: Root) -> Iterator[tuple[Callable[[int], Compared], Callable[[Path, Path], str]]]:
    """Yield what compares the versions of a conflict, and what compares the pixels of two files."""
    with root.reading() as index, root.files() as local:
        from node.children.decoder import Decoder
        from node.receive.custody import compared  # after the index, of which it loads less then

        with closing(Decoder(workers=1)) as decoder:
            yield lambda conflict: compared(root.folder, index, conflict, local), decoder.differences


def _print_found(row: Mapping[str, Any], *texts: str, uids: bool) -> None:
    facts = (row["calling_ae_title"] and f"from {row['calling_ae_title']}", minute(row["found_at"]), row["decision"])
    of_uids = (row["study_instance_uid"], row["sop_instance_uid"], row["path"]) if uids else ()
    detail = f"{row['kind']}: {row['detail']}"
    print_finding(f"{row['id']:>4}", detail, *texts, ", ".join(filter(None, facts)), *filter(None, of_uids))


@conflicts_app.command()
def show(conflict: Number, uids: Uids = False, *, root: Root) -> Listing:
    """Compare a version with the current one, pixels included."""
    with _comparing(root) as (compared, differences):
        found = compared(conflict)
        pixels = None if found.files is None else differences(*found.files)

    def text() -> None:
        from node.receive.aside import OF_TWO_PATIENTS

        _print_found(found.conflict, uids=uids)
        if found.current is not None and found.other is not None:
            named = ("patient", "patient ID", "born", "sex", "sent by", "received")
            persons = zip(named, _of(found.current), _of(found.other), strict=True)
            heads = PATIENTS if found.conflict["kind"] == OF_TWO_PATIENTS else VERSIONS
            print_table("", heads, list(persons), heads[1:])
        if found.problem is not None:
            print(found.problem)
        elif not found.differences:
            print("the two versions have the same patient, study, series and image attributes")
        else:
            width = max(len(one.attribute) for one in found.differences)
            for one in found.differences:
                head = one.attribute.ljust(width)
                current, other = f"current: {_stated(one.current)}", f"in this conflict: {_stated(one.other)}"
                print_within(f"{head}  {current}; {other}", head, current, other)
        if pixels is not None:
            print(pixels)

    document = {name: value for name, value in asdict(found).items() if name != "files"}
    return Listing({**document, "pixels": pixels}, text, rows=document["differences"])


def _of(version: Version) -> tuple[Any, ...]:
    return (
        person(version.patient_name), version.patient_id, version.patient_birth_date, version.patient_sex,
        version.calling_ae_title or version.source, minute(version.received_at),
    )  # fmt: skip


@conflicts_app.command()
def accept(conflict: Number, alike: Alike = False, *, root: ChangedRoot) -> Answer:
    """Make a version current; the current one goes to quarantine."""
    done = root.order("accept-conflict", conflict=conflict, alike=alike)
    return Answer(done, f"accepted: {counted(len(done['accepted']), 'version')} made current")


@conflicts_app.command()
def keep(conflict: Number, alike: Alike = False, *, root: ChangedRoot) -> Answer:
    """Keep what is current, and list the conflict no more."""
    done = root.order("keep-conflict", conflict=conflict, alike=alike)
    return Answer(done, f"kept: {counted(len(done['kept']), 'conflict')} decided")


quarantine_app = Commands(help="Examine, release or delete the files in quarantine.", no_args_is_help=True)

FILES: Columns = {
    "name": "name",
    "size": lambda row: sized(row["bytes"]),
    "reason": "reason",
    "instance": "sop_instance_uid",
    "detail": "detail",
}

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the file, as listed.")]


@quarantine_app.command("list")
def list_quarantined(root: Root) -> Listing:
    """List the files in quarantine, each with the reason."""
    from node.receive.aside import quarantined

    with root.looking() as index:
        rows = [asdict(file) for file in quarantined(root.folder, index)]
    return listing(f"{counted(len(rows), 'file')} in quarantine", FILES, rows, none="quarantine is empty")


@quarantine_app.command("show")
def show_quarantined(name: Name, root: Root) -> Listing:
    """Compare a file in quarantine with the instance of its UID.

    `voxelnode dump` prints its header.
    """
    with root.reading() as index:  # before the libraries, which load less then
        from node.receive.custody import examined

        found = examined(root.folder, index, name)
    fields = {**asdict(found.file), **{key: value for key, value in asdict(found).items() if key != "file"}}
    return described(fields, lambda: print_fields(fields))


@quarantine_app.command()
def release(
    name: Name,
    replace: Annotated[
        bool, typer.Option("--replace", help="Make it current even if another version is; that one goes to quarantine.")
    ] = False,
    *,
    root: ChangedRoot,
) -> Answer:
    """Take an instance back into the archive. If a node runs on this root, the node does it."""
    done = root.order("release-quarantined", name=name, replace=replace)
    return Answer(done, f"released: {done['sop_instance_uid']} is in the archive")


@quarantine_app.command()
def purge(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Names of the files.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All files in quarantine.")] = False,
    yes: Yes = False,
    *,
    root: ChangedRoot,
) -> Answer:
    """Delete files in quarantine permanently. If a node runs on this root, the node does it."""
    if bool(names) == everything:
        raise UsageError("give either the names of files, or --all")

    from node.receive.aside import quarantined

    wanted = names or []
    if everything:
        with root.looking() as index:
            wanted = [file.name for file in quarantined(root.folder, index)]
    if wanted:
        files = counted(len(wanted), "file")
        question = f"Permanently delete {files} in quarantine? Some may be the only copy of an instance."
        confirm("purging", question, yes)
    for name in wanted:
        root.order("purge-quarantined", name=name)
    return Answer({"purged": wanted}, f"purged: {counted(len(wanted), 'file')}")


lost_app = Commands(help="List or write off lost instances.", no_args_is_help=True)

LOST: Columns = {
    "sent by": "calling_ae_title", "from": "peer", "received": "received_at", "series": "series_instance_uid",
    "instance": "sop_instance_uid",
}  # fmt: skip


@lost_app.command("list")
def list_lost(root: Root) -> Listing:
    """List lost instances, newest first, and gaps of the journal.

    Exit 1 if there are any, or instances whose file is missing or damaged, which are named below. Each instance stays
    in the list until somebody sends it again, a person deletes its series, or writes it off. A gap stays until it is
    written off.
    """
    with root.looking() as index:
        rows, damaged, gaps = index.lost.newest(index.lost.count()), index.instances.damaged(), index.lost.gaps()
    title = f"acknowledged, not here: {len(rows)}"
    none = "the index knows of none; `voxelnode fsck` compares it with the ledger, and checks it"
    below = [f"{gap['noticed_at'][:19]}: {gap['detail']}" for gap in gaps]
    if gaps:
        none = "no single instance is known to be lost; what these gaps of the journal had is unknown:"
        below.append("accept that: voxelnode lost write-off journal --reason TEXT")
    if damaged:
        none = "no other instance is known to be lost"
        below.append(f"missing or damaged: the files of {counted(len(damaged), 'instance')}; send the instances again")
        below += map(_damaged, damaged)
    is_lost = bool(rows or gaps or damaged)
    return listing(title, LOST, rows, none=none, below=below, data=[*rows, *damaged, *gaps], failed=is_lost)


def _damaged(row: dict[str, Any]) -> str:
    from node.receive.aside import named

    uids = (row[f"{level}_instance_uid"] for level in ("study", "series", "sop"))
    return printable("  {}, study {}, series {}, instance {}".format(named(row), *uids))


@lost_app.command("write-off")
def write_off(
    uid: Annotated[
        str | None,
        typer.Argument(metavar="UID", help="SOP Instance UID, UID of a series or a study, or `journal`: its gaps."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All lost instances.")] = False,
    reason: Annotated[str, typer.Option(help="Why nobody sends them again; for the audit log.")] = "",
    yes: Yes = False,
    *,
    root: ChangedRoot,
) -> Answer:
    """Accept that lost instances stay lost. If a node runs on this root, the node does it."""
    if (uid is not None) == everything:
        raise UsageError("give either a UID, or --all")
    if not reason:
        raise UsageError("say in --reason why nobody sends them again: the audit log has it")
    if uid is not None and uid != "journal":
        uid = root.uid_of(uid, "study", "series", "instance")
    confirm("writing off", f"Write off {uid or 'all lost instances'}? They will not be asked for again.", yes)
    done = root.order("write-off-lost", uid=uid, reason=reason)
    return Answer(done, f"written off: {counted(done['instances'], 'instance')}")
