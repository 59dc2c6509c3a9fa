"""What monitoring asks: ``/healthz``, ``/readyz`` and ``/metrics``.

They tell whether the process answers, whether it, or the cluster, can work, and counters and gauges for Prometheus.
"""

import asyncio
import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from node.archive.proof import last_proof
from node.errors import type_and_location
from node.index.look.views import outstanding
from node.index.rows.about_keys import RETENTION, retention_state
from node.index.rows.backend import Failure, Place, backend_at
from node.index.rows.models.levels import SERIES_STATES
from node.index.rows.records import SET_ASIDE
from node.index.rows.scope import within
from node.index.rows.sqlite_file import held_back, wal_bytes
from node.index.rows.states import Kind
from node.index.rows.view_rows import moment
from node.settings.core import Role
from node.version import __version__
from node.web.access import ANYBODY, READERS, CurrentCall, background_request
from node.web.services import Node, Services

router = APIRouter(include_in_schema=False)

PATHS = ("/healthz", "/readyz")
"""Paths that are answered whatever else the server does."""

INDEX_SECONDS = 5.0
"""Longest wait for what the index knows of the cluster."""

NOTED_SECONDS = 0.5
"""Longest wait for what is noted beside readiness."""

NOTED = "lost_instances", "undecided_conflicts", "retention_waits", "clock_differs", "configuration_differs"
"""What a person is to know of a node that is ready nevertheless."""

NUMBERS = {
    "lost_instances": "Instances that were acknowledged and are not here",
    "oldest_unconverted_seconds": (
        "Time of reception of the oldest instance that no conversion has seen; 0 if there is none"
    ),
    "oldest_due_seconds": "For how long a series has been due and no converter has taken it; 0 if there is none",
    "disk_free_bytes": "Free disk space of the root",
    "disk_reserve_bytes": "Free space below which instances are refused ([storage] reserve_bytes)",
    "index_wal_bytes": "Write-ahead log of an index in SQLite, which grows while a program keeps a transaction open",
    "backup_proof_failed": "1 if the last proof of a backup found a difference or failed",
    "backup_proved_timestamp_seconds": "When a proof of a backup succeeded last; 0: never",
}
"""Gauges without labels."""

ROLES: tuple[Role, ...] = get_args(Role)

_threads = ThreadPoolExecutor(1, thread_name_prefix="readiness")
"""The threads of other requests may all be taken."""

_readers = ThreadPoolExecutor(1, thread_name_prefix="cluster-readiness")
"""This one may wait for the index."""


@router.get("/healthz", dependencies=ANYBODY)
@background_request
async def healthz() -> PlainTextResponse:
    """Answer ``ok``."""
    return PlainTextResponse("ok\n")


@router.get("/readyz", dependencies=ANYBODY)
@background_request
async def readyz(node: Node, role: Role | None = None, scope: Literal["host", "cluster"] = "host") -> Response:
    """Answer 200 if instances are accepted and converted, else 503 with the reason of each part that is not ready.

    With `role`, look only at what this role needs; with ``scope=cluster``, ask whether any host can do it.

    ``lost_instances`` counts those that were acknowledged and are not here, if there are any, ``undecided_conflicts``
    conflicts; ``retention_waits`` says why nothing is deleted, ``clock_differs`` and ``configuration_differs`` about
    what hosts do not agree, and ``index_held_back`` who lets the write-ahead log of the index grow: the node is ready
    to receive nevertheless. No account is required: orchestrators have none, and the answer has no secrets.
    """
    if scope == "cluster":
        content = await _answered(node, _readers, lambda: _of_cluster(node, role), INDEX_SECONDS)
    else:
        content = await _answered(node, _threads, lambda: _of_host(node, role), None)
    noted = await _answered(node, _readers, lambda: _noted(node), NOTED_SECONDS)
    content |= {name: noted[name] for name in NOTED if noted.get(name)}
    return JSONResponse(content, 200 if content["ready"] else 503)


async def _answered(
    node: Services, threads: ThreadPoolExecutor, look: Callable[[], dict[str, Any]], seconds: float | None
) -> dict[str, Any]:
    look_at_whole = within(None)(look)  # nobody is asked who they are, and the answer names no series
    try:
        return await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(threads, look_at_whole), seconds)
    except TimeoutError:
        return _content({"index": f"no answer within {seconds:g} s"})
    except Exception as error:  # of ours, of SQLAlchemy or of a driver, whose texts may quote rows and addresses
        return _content({"index": f"cannot be read: {_reason(node.index.place, error)}"})


def _reason(place: Place, error: Exception) -> str:
    """Return why the index cannot be read: who has locked its file, or else where the error was raised."""
    found = backend_at(place)
    if isinstance(place, Path) and Failure.LOCKED in found.failure(error.__cause__ or error):
        return found.lockers(place)
    return type_and_location(error)


def _noted(node: Services) -> dict[str, Any]:
    waits_for = retention_state(node.index.about.get(RETENTION)).waits_for
    with node.index.reading(wait=False) as index:
        problems, conflicts = index.hosts.problems(), sum(index.conflicts.count_open().values())
    lost = node.index.lost.count()
    return {"lost_instances": lost, "undecided_conflicts": conflicts, "retention_waits": waits_for, **problems}


def _content(reasons: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"ready": not reasons, "reasons": reasons, **more}


def _of_host(node: Services, role: Role | None) -> dict[str, Any]:
    if role is not None and role not in node.settings.cluster.roles:
        return _content({"roles": f"this host does not {role} ([cluster] roles)"})
    place = node.index.place
    held = held_back(place) if isinstance(place, Path) else None
    return _content(node.not_ready(role), **({"index_held_back": held} if held else {}))


def _of_cluster(node: Services, role: Role | None) -> dict[str, Any]:
    """Return for which roles no living host is ready; that is this host if it has the index for itself."""
    if reason := node.not_ready("web"):
        return _content(reason)
    with node.index.reading(wait=False) as index:
        now = index.hosts.now()
        hosts, oldest = index.hosts.all(now), index.series.oldest_due(now)
    if not hosts:
        return _of_host(node, role)
    reasons: dict[str, str] = {}
    for each in (role,) if role is not None else ROLES:
        living = [host for host in hosts if host["state"] == "alive" and each in host["roles"]]
        unready = {host["name"]: host["not_ready"][each] for host in living if each in host["not_ready"]}
        if len(unready) == len(living):
            reasons[each] = "; ".join(f"{name}: {why}" for name, why in unready.items()) or "no living host"
    seconds = round((now - oldest).total_seconds(), 1) if oldest is not None else 0.0
    return _content(reasons, hosts={host["name"]: host["state"] for host in hosts}, oldest_due_seconds=seconds)


@router.get("/metrics", dependencies=READERS)
def metrics(call: CurrentCall) -> Response:
    """All counters, and gauges of the current state."""
    registry = CollectorRegistry()
    registry.register(NodeGauges(call.node))
    return Response(call.node.metrics.exposition() + generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


class NodeGauges(Collector):
    """Gauges computed from the index at each request."""

    def __init__(self, node: Services) -> None:
        self._node = node

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges of series, failures and the disk."""
        with self._node.index.reading(wait=False) as index:
            now = self._node.index.now()
            counts, oldest = self._node.index.large_counts, index.series.oldest_unconverted()
            states, failures = counts.states(index).numbers, counts.failures(index).numbers
            due = index.series.oldest_due(now)
            routes = index.routes.destinations()
            work = index.work.counts()
            hosts = index.hosts.all(now)
            standbys = index.standbys().counts
            lost, conflicts = index.lost.count(), index.conflicts.count_open()
        # States without series, and work of no kind: alert rules compare with an hour ago.
        all_states = [([state], states.get(state, 0)) for state in SERIES_STATES]
        no_work = dict.fromkeys(product(get_args(Kind), ("waiting", "running", "failed")), 0)
        cluster = self._node.settings.cluster
        yield _gauge("voxelnode_series", "Series, by state", ["state"], all_states)
        text = "Stacks of series without a volume, by reason"
        yield _gauge("voxelnode_failures", text, ["reason"], [([reason], count) for reason, count in failures.items()])
        text = "Messages, jobs, retrievals and commitments, by kind and by state or outcome"
        yield _gauge("voxelnode_work", text, ["kind", "state"], (no_work | work).items())
        yield from _of_routes(routes)
        text = "Time since a host of this index, unless it was stopped, said that it lives"
        unseen = [([host["name"]], _age(host["seen_at"], now)) for host in hosts if host["state"] != "stopped"]
        yield _gauge("voxelnode_host_unseen_seconds", text, ["host"], unseen)
        text = "1 for each problem of a host that differs from the others: clock_differs, configuration_differs"
        differing = [
            ([host["name"], problem], 1) for host in hosts if host["state"] == "alive" for problem in host["problems"]
        ]
        yield _gauge("voxelnode_host_problem", text, ["host", "problem"], differing)
        text = "1; name, roles and version of this host"  # to be joined with its other metrics
        this_host = [cluster.name, ",".join(cluster.roles), __version__]
        yield _gauge("voxelnode_host_info", text, ["host", "roles", "version"], [(this_host, 1)])
        text = "Standbys of the server of the index, by how they follow: sync, quorum, potential, async, unknown"
        yield _gauge("voxelnode_index_standbys", text, ["state"], [([how], count) for how, count in standbys.items()])
        text = "Conflicts of one UID or Patient ID that nobody has decided, by kind"
        by_kind = dict.fromkeys(SET_ASIDE, 0) | conflicts
        yield _gauge("voxelnode_conflicts", text, ["kind"], [([kind], count) for kind, count in by_kind.items()])
        settings, place = self._node.settings, self._node.index.place
        numbers: dict[str, float] = {
            "lost_instances": lost,
            "oldest_unconverted_seconds": _age(oldest, now),
            "oldest_due_seconds": _age(due, now),
            "disk_free_bytes": self._node.archive.intake.free_bytes(),
            "disk_reserve_bytes": settings.storage.reserve_bytes,
        }
        if isinstance(place, Path):
            numbers["index_wal_bytes"] = wal_bytes(place)
        if settings.index.url is None and settings.storage.url is None:  # else `voxelnode backup` refuses the root
            proof = last_proof(self._node.archive.root)
            numbers["backup_proof_failed"] = proof is not None and not proof.ok
            numbers["backup_proved_timestamp_seconds"] = proof.succeeded_timestamp if proof is not None else 0.0
        for name, number in numbers.items():
            yield GaugeMetricFamily(f"voxelnode_{name}", NUMBERS[name], value=number)


def _gauge(
    name: str, text: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, number in samples:
        family.add_metric(values, number)
    return family


def _age(since: dt.datetime | None, now: dt.datetime) -> float:
    """Return the seconds since a moment; 0 without one."""
    return max(0.0, (now - since).total_seconds()) if since is not None else 0.0


def _of_routes(rows: Sequence[Mapping[str, Any]]) -> Iterator[GaugeMetricFamily]:
    """Yield the gauges of the destinations of routes; what is sent by hand has no name of a route."""
    now = dt.datetime.now(dt.UTC)
    gauges = {
        "waiting": "Messages that wait to be sent, and instances or series that have no message yet",
        "given_up": "Messages that were given up",
        "unconfirmed": "Instances that were sent, and that the destination has not confirmed yet",
        "paused": "1 while a person holds the destination",
        "unreachable_seconds": "For how long the destination could not be reached; 0 if it can",
    }
    values = []
    for row in rows:
        since = moment(row["trouble_since"]) if row["trouble_since"] else None
        values.append({**row, "waiting": outstanding(row), "unreachable_seconds": _age(since, now)})
    for name, text in gauges.items():
        samples = [([row["route"], row["destination"]], row[name]) for row in values]
        yield _gauge(f"voxelnode_route_{name}", text, ["route", "destination"], samples)
