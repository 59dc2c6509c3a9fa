"""``voxelnode status``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from json import loads as json_of
from typing import TYPE_CHECKING, Any

from node.cli.options import Root
from node.cli.output import Columns, Listing, described, listing, minute, newest, patient, print_fields, series_name
from node.errors import counted, sized

if TYPE_CHECKING:
    from pathlib import Path

    from node.index.look.views import ReadIndex

SHOWN_FAILURES = 10

HOSTS: Columns = {
    "host": "name",
    "state": lambda row: "not ready" if row["state"] == "alive" and row["not_ready"] else row["state"],
    "problems": lambda row: "; ".join(row["problems"].values()),
    "seen": "seen_at",
    "roles": lambda row: ", ".join(row["roles"]),
    "version": "version",
    "alone has": lambda row: str(row["spooled_instances"] or ""),
}
"""State, last sign of life, roles and version of a host, and how many instances it alone has."""

SENDERS: Columns = {
    "sender": "calling_ae_title",
    "quiet s": "quiet_seconds",
    "from series": "series",
    "longest gap s": "longest_gap_seconds",
    "learnt": "learnt_at",
}
FAILURES: Columns = {
    "failed": "failed_at",
    "patient": patient,
    "no": "series_number",
    "description": lambda row: row["series_description"] or row["modality"],
    "series": "series_instance_uid",
    "reason": "reason",
    "detail": "detail",
}

RETRIED: Columns = {
    "patient": patient,
    "series": series_name,
    "tries": "attempts",
    "next try": "due_at",
    "error": "error",
}

ACKNOWLEDGED = {
    "local": "once in the journal of this host",
    "index": "once in journal and index",
    "object": "once in journal, index and object store",
}
"""What senders wait for, by [journal] acknowledge."""


def status(root: Root) -> Listing:
    """Show what is stored, waiting, converted and failed."""
    from node.index.rows.backend import IndexUnusable
    from node.receive.readiness import readiness_of

    live = live_of(root.folder)
    try:
        with root.looking() as index:
            facts, failures = _facts(root, index, live), index.failures.newest(SHOWN_FAILURES)
    except IndexUnusable as error:
        raise IndexUnusable(f"{error}; node ready: {readiness_of(live, None)}" if live else str(error)) from error
    return described({**facts, "last_failures": failures, "live": live}, lambda: _print(facts, failures))


def _facts(root: Root, index: ReadIndex, live: Mapping[str, Any] | None) -> dict[str, Any]:
    from node.archive.proof import last_proof
    from node.archive.space import free_bytes_of_root
    from node.index.look.views import is_held
    from node.index.rows.backend import FILE_NAME
    from node.index.rows.sqlite_file import held_back
    from node.receive.readiness import intake_of, readiness_of, running
    from node.receive.record import damaged_records, journal_report

    folder, settings, now = root.folder, root.settings, running(live)
    proof = last_proof(folder)
    journal = journal_report(folder, index.applied)
    levels, stored = index.count_levels(), index.instances.totals()
    routes = index.lanes("route", index.routes.destinations(), settings)
    hooks = index.lanes("hook", index.hooks.progress().values(), settings)
    intake, ready = intake_of(settings, live), readiness_of(live, folder)
    return {
        "root": folder,
        "acknowledge": now.get("acknowledge", settings.acknowledge),
        "intake": intake,
        "port": now.get("port"),
        "tls_port": now.get("tls_port"),
        "ready": f"no, intake: {intake}" if ready == "yes" and intake != "open" else ready,
        "patients": levels["patients"],
        "studies": levels["studies"],
        "series": index.series.count_by_state(),
        "series_waiting": index.series.count_waiting(index.hosts.now()),
        "series_retried": index.series.retried(),
        "instances": stored["instances"],
        "bytes": stored["bytes"],
        "index_held_back": held_back(folder / FILE_NAME) if settings.index.url is None else None,
        "queued_instances": journal.waiting,
        "journal_bytes": journal.bytes,
        "journal_damage": [f"{found.segment.name}: {damaged_records(found)}" for found in journal.damage],
        "lost_instances": index.lost.count(),
        "journal_gaps": index.lost.gaps(),
        "undecided_conflicts": index.conflicts.count_open(),
        "conflict_decisions": index.conflicts.count_undecided(),
        "missing_files": index.instances.count_damaged(),
        "scrub": {"current": None, "last": None} | json_of(index.scrub or "{}"),
        "compared": index.compared,
        "retention": index.retention.waits_for,
        "held_routes": [row for row in routes if is_held(row)],
        "held_hooks": [row for row in hooks if is_held(row)],
        "to_come": [row for row in (*routes, *hooks) if row["due_at"]],
        "store_checksums": index.store_checksums,
        "backup_proof": asdict(proof) | {"ok": proof.ok, "text": proof.text} if proof else None,
        "volume_files": index.volumes.count_current(),
        **{f"{state}_series": count for state, count in index.series.count_doubted().items()},
        "failures": index.failures.count(),
        "senders": index.senders.all(),
        "hosts": index.hosts.all(index.hosts.now()),
        "oldest_due_at": index.series.next_due_at(),
        "free_bytes": free_bytes_of_root(folder),
    }


def live_of(root: Path) -> dict[str, Any] | None:
    """Return what the node on a root wrote last.

    ``has_ended``: it holds neither the root nor its control socket. ``hangs``: its state is late, and it
    does not answer.
    """
    from node.receive.readiness import LATE_SECONDS, is_locked, read_counters

    live = read_counters(root)
    if live is None or (is_locked(root) and live["age_seconds"] <= LATE_SECONDS):
        return live
    from node.control.control_socket import hangs, is_served  # of a node in another container the kernel lists no lock

    return {**live, "hangs": hangs(root)} if is_locked(root) else {**live, "has_ended": not is_served(root)}


def _ports(facts: Mapping[str, Any]) -> str:
    beside = f"; TLS alone on {facts['tls_port']}" if facts["tls_port"] is not None else ""
    return f"{facts['port']}{beside}"


def _journal(facts: Mapping[str, Any]) -> str:
    if facts["journal_damage"]:
        return "damaged: voxelnode journal status"
    waiting = facts["queued_instances"]
    return f"{counted(waiting, 'instance')} waiting for the index" if waiting else "nothing waits for the index"


def _lost(count: int, gaps: Sequence[Mapping[str, Any]]) -> str:
    if not count and not gaps:
        return "none"
    of_journal = f" and {counted(len(gaps), 'gap')} of the journal" if gaps else ""
    return f"{counted(count, 'instance')}{of_journal}: voxelnode lost list"


def _conflicts(decisions: int, by_kind: Mapping[str, int]) -> str:
    about = f"{counted(decisions, 'decision')} about {counted(sum(by_kind.values()), 'instance')}"
    return f"{about}: voxelnode conflicts" if by_kind else "none"


def _held(rows: Sequence[Mapping[str, Any]], noun: str, command: str) -> str:
    from node.index.look.views import awaited

    return f"{counted(len(rows), noun)} stuck, {awaited(*rows)}: voxelnode {command} list"


def _to_come(rows: Sequence[Mapping[str, Any]]) -> str:
    to = "route {route} > {destination}", "hook {hook}"
    return "; ".join(f"{to['hook' in row].format(**row)} {minute(row['due_at'])}" for row in rows)


def _scrub(last: Mapping[str, Any] | None) -> str:
    if last is None:
        return "no full pass yet"
    found = f"{last['damaged']} damaged or missing, {last['unreadable']} unreadable"
    return f"ended {minute(last['ended_at'])}, {counted(last['files'], 'file')} compared, {found}"


def _print(facts: Mapping[str, Any], failures: list[dict[str, Any]]) -> None:
    waiting, retried = facts["series_waiting"], len(facts["series_retried"])
    waits = {"waiting for a converter": waiting, "waiting for another try": retried}
    of_them = ", ".join(f"{count} {what}" for what, count in waits.items() if count)
    in_state = {f"{count} {state}": of_them * (state == "receiving") for state, count in facts["series"].items()}
    series = ", ".join(f"{its} ({some})" if some else its for its, some in in_state.items()) or "none"
    doubted = {state: facts[f"{state}_series"] for state in ("incomplete", "suspect")}
    print_fields(
        {
            "root": facts["root"],
            "acknowledged": ACKNOWLEDGED[facts["acknowledge"]],
            "intake": facts["intake"],
            **({"port": _ports(facts)} if facts["port"] is not None else {}),
            "ready": facts["ready"],
            "patients": facts["patients"],
            "studies": facts["studies"],
            "series": series,
            "instances": f"{facts['instances']} ({sized(facts['bytes'])})",
            **({"index": facts["index_held_back"]} if facts["index_held_back"] else {}),
            "journal": _journal(facts),
            "missing files": f"{facts['missing_files']} missing or damaged: voxelnode lost list"
            if facts["missing_files"]
            else "none",
            "acknowledged, not here": _lost(facts["lost_instances"], facts["journal_gaps"]),
            "conflicts": _conflicts(facts["conflict_decisions"], facts["undecided_conflicts"]),
            "last scrub": _scrub(facts["scrub"]["last"]),
            **({"compared": facts["compared"]} if facts["compared"] else {}),
            **({"backup": facts["backup_proof"]["text"]} if facts["backup_proof"] else {}),
            **({"retention": facts["retention"]} if facts["retention"] else {}),
            **({"routes": _held(facts["held_routes"], "destination", "routes")} if facts["held_routes"] else {}),
            **({"hooks": _held(facts["held_hooks"], "hook", "hooks")} if facts["held_hooks"] else {}),
            **({"to come by itself": _to_come(facts["to_come"])} if facts["to_come"] else {}),
            **({"object store": facts["store_checksums"]} if facts["store_checksums"] else {}),
            "volume files": facts["volume_files"],
            **{
                state: f"{count} series: voxelnode series --state {state}" if count else "none"
                for state, count in doubted.items()
            },
            "oldest due": minute(facts["oldest_due_at"]) or "nothing is waiting",
            "free": sized(facts["free_bytes"]),
        }
    )
    if facts["hosts"]:
        listing("hosts of this index", HOSTS, facts["hosts"]).show()
    if facts["senders"]:
        listing('learnt from senders, used where quiet_seconds = "auto"', SENDERS, facts["senders"]).show()
    if facts["series_retried"]:
        rows = facts["series_retried"]
        listing(f"{counted(len(rows), 'series waits', 'series wait')} for another try", RETRIED, rows).show()
    if failures:
        listing(newest(len(failures), facts["failures"], "failure"), FAILURES, failures).show()
