"""Pages for administrators: queue, problems, upload, status."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field, StringConstraints

from node import __version__
from node.errors import VoxelnodeError
from node.index.database.reading import ReadIndex
from node.metrics import Minute
from node.web import actions
from node.web.access import Reader, RequestAudit, Writer
from node.web.background_requests import background_request
from node.web.errors import ResourceNotFound
from node.web.pages.filters import counted, grouped, sized
from node.web.pages.rendering import badge_counts, fragment, page
from node.web.pages.studies import HEADINGS
from node.web.services import Node, Services

router = APIRouter(include_in_schema=False)

OK = 200
SEE_OTHER = 303

SHOWN_OPEN = 100
SHOWN_DONE = 25
PAGE_ROWS = 50

LIBRARIES = ("pynetdicom", "pydicom", "numpy", "nibabel", "SimpleITK", "SQLAlchemy", "fastapi")

Page = Annotated[int, Query(ge=1, le=100_000)]


@router.get("/badges")
@background_request
def badges(request: Request, node: Node, account: Reader) -> Response:
    """The counts in the menu."""
    with node.index.reading(wait=False) as index:
        return fragment(request, account, "badges.html", badges=badge_counts(index))


@router.get("/queue")
def queue(request: Request, node: Node, account: Reader, audit: RequestAudit) -> Response:
    """The queue, which updates itself."""
    with node.index.reading(wait=False) as index:
        shown = _queue(index)
        audit.queried("queue", len(shown["waiting"]) + len(shown["done"]))
        return page(request, node, account, "queue.html", **shown, digest="")


@router.get("/queue/rows")
@background_request
def queue_rows(request: Request, node: Node, account: Reader, audit: RequestAudit) -> Response:
    """The tables of the queue."""
    with node.index.reading(wait=False) as index:
        shown = _queue(index)
        rows = fragment(request, account, "queue_rows.html", **shown)
    if rows.status_code == OK:  # not 204, when nothing new is shown
        audit.queried("queue", len(shown["waiting"]) + len(shown["done"]))
    return rows


def _queue(index: ReadIndex) -> dict[str, Any]:
    waiting, done = index.series.under_way(SHOWN_OPEN), index.events.conversions(SHOWN_DONE)
    return {"waiting": waiting, "done": done, "open": index.series.count_open()}


@router.get("/problems")
def unsettled(request: Request, node: Node, account: Reader, audit: RequestAudit, number: Page = 1) -> Response:
    """Series that are suspect, incomplete or without a volume, and that nobody has acknowledged."""
    return problems(request, node, account, audit, "unsettled", lambda index: index.problems.open, number)


@router.get("/problems/acknowledged")
def acknowledged(request: Request, node: Node, account: Reader, audit: RequestAudit, number: Page = 1) -> Response:
    """Such series that somebody has acknowledged, with the reason."""
    return problems(request, node, account, audit, "acknowledged", lambda index: index.problems.acknowledged, number)


class ProblemOfSeries(BaseModel):
    """The series of a form on a page of problems."""

    study_instance_uid: Annotated[str, Field(max_length=64)]
    series_instance_uid: Annotated[str, Field(max_length=64)]


class Acknowledgment(ProblemOfSeries):
    """The form that acknowledges a problem; `problem` is what the person saw."""

    problem: Annotated[str, Field(max_length=64)]
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]


@router.post("/problems/acknowledge")
def acknowledge(node: Node, account: Writer, audit: RequestAudit, form: Annotated[Acknowledgment, Form()]) -> Response:
    """Acknowledge the problem of a series; if the series has changed since, it stays in the list as it is now."""
    actions.acknowledge(
        node, account, audit, (form.study_instance_uid, form.series_instance_uid), form.problem, form.reason
    )
    return RedirectResponse("/problems", SEE_OTHER)


@router.post("/problems/withdraw")
def withdraw(node: Node, account: Writer, audit: RequestAudit, form: Annotated[ProblemOfSeries, Form()]) -> Response:
    """Withdraw the acknowledgment of the problem of a series."""
    actions.withdraw_acknowledgment(node, account, audit, (form.study_instance_uid, form.series_instance_uid))
    return RedirectResponse("/problems/acknowledged", SEE_OTHER)


@router.get("/problems/unconvertible")
def unconvertible(request: Request, node: Node, account: Reader, audit: RequestAudit, number: Page = 1) -> Response:
    """Series, or single stacks, without a volume about which nobody can do anything."""
    return problems(request, node, account, audit, "unconvertible", lambda index: index.failures.beyond_mending, number)


@router.get("/problems/rejections")
def rejections(request: Request, node: Node, account: Reader, audit: RequestAudit, number: Page = 1) -> Response:
    """Refused connections, associations and instances."""
    return problems(request, node, account, audit, "rejections", lambda index: index.rejections.newest, number)


def problems(
    request: Request,
    node: Services,
    account: Reader,
    audit: RequestAudit,
    problem: str,
    rows_of: Callable[[ReadIndex], Callable[[int, int], list[dict[str, Any]]]],
    number: int,
) -> Response:
    """Return one section of the problems page."""
    with node.index.searching() as index:
        counts = problem_counts(index)
        rows = rows_of(index)(PAGE_ROWS + 1, (number - 1) * PAGE_ROWS)
    audit.queried(f"problems: {problem}, page {number}", len(rows[:PAGE_ROWS]))
    return page(
        request,
        node,
        account,
        f"{problem}.html",
        problem=problem,
        counts=counts,
        rows=rows[:PAGE_ROWS],
        number=number,
        more=len(rows) > PAGE_ROWS,
    )


def problem_counts(index: ReadIndex) -> dict[str, int]:
    """Return the numbers on the tabs: what a person has to settle."""
    return {"unsettled": index.problems.count(), "conflicts": index.conflicts.count_undecided()}


@router.get("/upload")
def upload(request: Request, node: Node, account: Writer) -> Response:
    """Upload files from a browser."""
    return page(
        request,
        node,
        account,
        "upload.html",
        headings=HEADINGS,
    )


@router.get("/status")
def status(request: Request, node: Node, account: Reader) -> Response:
    """The state of the node and its configuration."""
    return page(
        request,
        node,
        account,
        "status.html",
        settings=node.settings,
        versions=_versions(node),
        digest="",
        **_status(node),
    )


@router.post("/status/peers/{name}/echo")
def echo(request: Request, node: Node, account: Writer, name: str) -> Response:
    """Test the connection to a peer (C-ECHO)."""
    if name not in node.settings.peers:
        raise ResourceNotFound("peer")
    try:
        seconds, problem = float(node.actions["echo"](peer=name)["seconds"]), ""
    except VoxelnodeError as error:
        seconds, problem = 0.0, str(error)
    return fragment(request, account, "echo.html", seconds=seconds, problem=problem)


@router.get("/status/numbers")
@background_request
def status_numbers(request: Request, node: Node, account: Reader) -> Response:
    """The figures of the status page."""
    return fragment(request, account, "status_numbers.html", **_status(node))


def _status(node: Services) -> dict[str, Any]:
    with node.index.reading(wait=False) as index:
        counts, oldest = node.index.large_counts, index.series.oldest_unconverted()
        levels, states = counts.levels(index), counts.states(index)
        hosts = index.hosts.all(node.index.now())
    return {
        "levels": levels,
        "states": states,
        "hosts": hosts,
        "oldest": oldest,
        "disk": _disk(node),
        "refusal": node.ingest.refusal(),
        "waiting": node.ingest.applier.lag,
        "charts": hour_charts(node.metrics.last_hour.minutes()),
        "senders": node.metrics.last_words.all(),
        "counters": _counters(node.metrics.snapshot()),
    }


def _disk(node: Services) -> dict[str, int]:
    """Return the size and the free and used bytes of the disk of the root."""
    disk = os.statvfs(node.archive.root)
    size = disk.f_blocks * disk.f_frsize
    return {"size": size, "free": disk.f_bavail * disk.f_frsize, "used": size - disk.f_bfree * disk.f_frsize}


def _counters(samples: Mapping[str, float]) -> dict[str, float]:
    """Return the counters since the start of the process, with the labels of the page."""
    stored = samples.get("voxelnode_keep_seconds_count", 0)
    return {
        "open associations": samples.get("voxelnode_open_associations", 0),
        "connections": samples.get("voxelnode_connections", 0),
        "associations": _total(samples, "voxelnode_associations_total"),
        "refused": _total(samples, "voxelnode_rejections_total"),
        "C-STORE answers": _total(samples, "voxelnode_c_store_answers_total"),
        "received bytes": samples.get("voxelnode_received_bytes_total", 0),
        "milliseconds per instance": 1000 * samples.get("voxelnode_keep_seconds_sum", 0) / stored if stored else 0,
    }


def _total(samples: Mapping[str, float], name: str) -> float:
    return sum(value for sample, value in samples.items() if sample == name or sample.startswith(f"{name}{{"))


def _versions(node: Services) -> dict[str, str]:
    database, version_of_database = node.index.software()
    return {
        "voxelnode": __version__,
        "Python": platform.python_version(),
        database: version_of_database,
        **{name: version(name) for name in LIBRARIES},
    }


WIDTH, HEIGHT = 360, 56
"""Of a chart, in the units of its view box."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A minute: its place and height in the view box, and what it says."""

    x: float
    y: float
    height: float
    title: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of bars; `summary` says in a sentence what it shows."""

    title: str
    figure: str
    summary: str
    bars: tuple[Bar, ...]
    width: float


def hour_charts(minutes: Sequence[Minute]) -> list[Chart]:
    """Return the charts of what was received and of what waited, the oldest minute at the left."""
    instances, bytes_ = sum(minute.instances for minute in minutes), sum(minute.bytes for minute in minutes)
    most = max((minute.instances for minute in minutes), default=0)
    known = [minute.series for minute in minutes if minute.series is not None]
    now = known[-1] if known else 0
    return [
        _chart(
            "Received",
            f"{counted(instances, 'instance')}, {sized(bytes_)}",
            f"{counted(instances, 'instance')} in the last hour, at most {grouped(most)} a minute",
            minutes,
            lambda minute: minute.instances,
            lambda minute: f"{counted(minute.instances, 'instance')}, {sized(minute.bytes)}",
        ),
        _chart(
            "Waiting or converting",
            counted(now, "series", "series"),
            f"{counted(now, 'series', 'series')} now, at most {grouped(max(known, default=0))} in the last hour",
            minutes,
            lambda minute: minute.series or 0,
            lambda minute: counted(minute.series, "series", "series"),
        ),
    ]


def _chart(
    title: str,
    figure: str,
    summary: str,
    minutes: Sequence[Minute],
    value: Callable[[Minute], int],
    words: Callable[[Minute], str],
) -> Chart:
    step, most = WIDTH / len(minutes), max(map(value, minutes)) or 1
    bars = []
    for number, minute in enumerate(minutes):
        if height := value(minute) / most * (HEIGHT - 2):
            height = max(height, 1.5)
            ago = len(minutes) - 1 - number
            when = "this minute" if ago == 0 else f"{counted(ago, 'minute')} ago"
            bars.append(
                Bar(round(number * step, 1), round(HEIGHT - height, 1), round(height, 1), f"{when}: {words(minute)}")
            )
    return Chart(title, figure, summary, tuple(bars), round(step - 1, 1))
