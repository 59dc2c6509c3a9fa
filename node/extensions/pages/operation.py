"""Pages of what goes on: queue, upload, status; routes and work, which the node owes to others."""

import datetime as dt
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Path, Query, Response
from fastapi.responses import RedirectResponse

from node.archive.proof import last_proof
from node.errors import VoxelnodeError
from node.extensions.pages.chips import fragment, page
from node.extensions.pages.studies import HEADINGS
from node.index.look.views import ReadIndex, unseen
from node.index.rows.states import Kind as WorkKind
from node.index.rules.work.ledger import WorkEnded
from node.quiet import is_due
from node.receive.readiness import remedy_of
from node.registry import READ_RESULTS, part_of
from node.runtime.metrics import Span
from node.version import __version__
from node.web import actions
from node.web.access import MEMBERS, READERS, WRITERS, Call, CurrentCall, background_request
from node.web.api.models import MAX_ID
from node.web.errors import ResourceNotFound
from node.web.pages.filters import StatusChip, Tone, about, counted, grouped, sized
from node.web.pages.rendering import (
    NO_INTAKE,
    OK,
    SEE_OTHER,
    PageNumber,
    badge_counts,
    intake_of,
    part_of_page,
    rows_of_page,
    serves_studies,
)
from node.web.services import Services

router = APIRouter(include_in_schema=False, dependencies=READERS)


SHOWN_OPEN = 100
SHOWN_DONE = 25

LIBRARIES = ("pynetdicom", "pydicom", "numpy", "nibabel", "SimpleITK", "SQLAlchemy", "fastapi")


@router.get("/badges", dependencies=MEMBERS)
@background_request
def badges(call: CurrentCall) -> Response:
    """The counts in the menu."""
    with call.node.index.reading(wait=False) as index:
        intake = intake_of(call.node) if call.account.scope is None else NO_INTAKE
        return fragment(call, "badges.html", badges=badge_counts(index, call.request), intake=intake)


@router.get("/queue")
def queue(call: CurrentCall) -> Response:
    """The queue, which updates itself."""
    with call.node.index.reading(wait=False) as index:
        shown = _queue(call.node, index)
        call.audit.queried("queue", len(shown["waiting"]) + len(shown["done"]))
        return page(call, "queue.html", **shown, digest="")


@router.get("/queue/rows")
@background_request
def queue_rows(call: CurrentCall) -> Response:
    """The tables of the queue."""
    with call.node.index.reading(wait=False) as index:
        shown = _queue(call.node, index)
        rows = fragment(call, "queue_rows.html", **shown)
    if rows.status_code == OK:  # not 204, when nothing new is shown
        call.audit.queried("queue", len(shown["waiting"]) + len(shown["done"]))
    return rows


def _queue(node: Services, index: ReadIndex) -> dict[str, Any]:
    waiting, done = index.series.under_way(SHOWN_OPEN), index.events.conversions(SHOWN_DONE)
    seconds = index.volumes.mean_seconds(SHOWN_DONE)
    workers = node.settings.convert.workers
    return {
        "waiting": waiting,
        "places": places(waiting, seconds / workers if seconds is not None else None, dt.datetime.now(dt.UTC)),
        "done": done,
        "open": index.series.count_open(),
        "behind": node.ingest.applier.waiting,
    }


def places(series: Sequence[Mapping[str, Any]], seconds: float | None, now: dt.datetime) -> dict[int, str]:
    """Return by their places in a list of open series, earliest due first, which are next to be converted, and when.

    `seconds`: from the end of one conversion to that of the next; None if nothing is known.
    """
    due = [at for at, one in enumerate(series) if one["state"] == "receiving" and is_due(one["due_at"], now)]
    when = [f", in about {about((before + 1) * seconds)}" if seconds is not None else "" for before in range(len(due))]
    return {
        at: (f"after {counted(before, 'other')}" if before else "next") + when[before] for before, at in enumerate(due)
    }


@router.get("/upload", dependencies=WRITERS)
def upload(call: CurrentCall) -> Response:
    """Upload files from a browser, by STOW-RS."""
    if not serves_studies(call.node.settings):
        raise ResourceNotFound("page")
    return page(call, "upload.html", headings=HEADINGS)


@router.get("/status")
def status(call: CurrentCall) -> Response:
    """The state of the node and its configuration."""
    return page(
        call, "status.html", settings=call.node.settings, versions=_versions(call.node), digest="", **_status(call.node)
    )


@router.post("/status/peers/{name}/echo", dependencies=WRITERS)
def echo(call: CurrentCall, name: str) -> Response:
    """Test the connection to a peer (C-ECHO)."""
    if name not in call.node.settings.peers:
        raise ResourceNotFound("peer")
    try:
        seconds, problem = float(call.node.actions["echo"](peer=name)["seconds"]), ""
    except VoxelnodeError as error:
        seconds, problem = 0.0, str(error)
    return fragment(call, "echo.html", seconds=seconds, problem=problem)


@router.get("/status/numbers")
@background_request
def status_numbers(call: CurrentCall) -> Response:
    """The figures of the status page."""
    return fragment(call, "status_numbers.html", intake=intake_of(call.node), **_status(call.node))


def _status(node: Services) -> dict[str, Any]:
    now, counts = node.index.now(), node.index.large_counts
    with node.index.reading(wait=False) as index:
        of_index = {
            "levels": counts.levels(index),
            "states": counts.states(index),
            "due": index.series.count_waiting(now),
            "retried": len(index.series.retried()),
            "oldest": index.series.oldest_unconverted(),
            "hosts": index.hosts.all(now),
            "retention": index.retention.waits_for,
            "lost": index.lost.count(),
        }
    node.actions["recall"]()
    reasons = node.not_ready(None)
    return of_index | {
        "not_ready": [(part, reason, remedy_of(part, reason)) for part, reason in reasons.items()],
        "proof": last_proof(node.archive.root),
        "waiting": node.ingest.applier.waiting,
        "charts": charts(node.metrics.last_hour.spans(), node.metrics.last_day.spans()),
        "senders": node.metrics.last_words.all(),
        "counters": _counters(node.metrics.snapshot(), of_associations=node.settings.dicom.enabled),
    }


def _counters(samples: Mapping[str, float], *, of_associations: bool) -> dict[str, float]:
    """Return the counters since the start of the process, with the labels of the page."""
    stored = samples.get("voxelnode_keep_seconds_count", 0)
    associations = {
        "open associations": samples.get("voxelnode_open_associations", 0),
        "connections": samples.get("voxelnode_connections", 0),
        "associations": _total(samples, "voxelnode_associations_total"),
        "refused": _total(samples, "voxelnode_rejections_total{what=association}"),
        "C-STORE answers": _total(samples, "voxelnode_c_store_answers_total"),
    }
    return {
        **(associations if of_associations else {}),
        "received bytes": samples.get("voxelnode_received_bytes_total", 0),
        "mean time to store an instance": 1000 * samples.get("voxelnode_keep_seconds_sum", 0) / stored if stored else 0,
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
    """A minute or an hour: its place and height in the view box, and what it says."""

    x: float
    y: float
    height: float
    title: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of bars from `since` until now; `summary` says in a sentence what it shows."""

    title: str
    since: str
    figure: str
    summary: str
    bars: tuple[Bar, ...]
    width: float


def charts(minutes: Sequence[Span], hours: Sequence[Span]) -> list[Chart]:
    """Return the charts of what was received and of what waited, the oldest minute or hour at the left."""
    known = [minute.series for minute in minutes if minute.series is not None]
    now = known[-1] if known else 0
    return [
        _received(minutes, "an hour", "minute"),
        _received(hours, "a day", "hour"),
        _chart(
            ("Waiting or converting", "an hour", "minute"),
            counted(now, "series", "series"),
            f"{counted(now, 'series', 'series')} now, at most {grouped(max(known, default=0))} in the last hour",
            minutes,
            lambda minute: minute.series or 0,
            lambda minute: counted(minute.series, "series", "series"),
        ),
    ]


def _received(spans: Sequence[Span], time: str, unit: str) -> Chart:
    instances, bytes_ = sum(span.instances for span in spans), sum(span.bytes for span in spans)
    most = max((span.instances for span in spans), default=0)
    last, each = time.partition(" ")[2], f"an {unit}" if unit == "hour" else f"a {unit}"
    return _chart(
        (f"Received in the last {last}", time, unit),
        f"{counted(instances, 'instance')}, {sized(bytes_)}",
        f"{counted(instances, 'instance')} in the last {last}, at most {grouped(most)} {each}",
        spans,
        lambda span: span.instances,
        lambda span: f"{counted(span.instances, 'instance')}, {sized(span.bytes)}",
    )


def _chart(
    labels: tuple[str, str, str],
    figure: str,
    summary: str,
    spans: Sequence[Span],
    value: Callable[[Span], int],
    words: Callable[[Span], str],
) -> Chart:
    """Return a chart with these labels: its title, the time that it shows, and the unit of its bars."""
    title, time, unit = labels
    step, most = WIDTH / len(spans), max(map(value, spans)) or 1
    bars = []
    for number, span in enumerate(spans):
        if height := value(span) / most * (HEIGHT - 2):
            height = max(height, 1.5)
            ago = len(spans) - 1 - number
            when = f"this {unit}" if ago == 0 else f"{counted(ago, unit)} ago"
            bars.append(
                Bar(round(number * step, 1), round(HEIGHT - height, 1), round(height, 1), f"{when}: {words(span)}")
            )
    return Chart(title, f"{time} ago", figure, summary, tuple(bars), round(step - 1, 1))


SHOWN_MESSAGES = 50
SHOWN_DELIVERED = 20


@router.get("/routes")
def routes(call: CurrentCall) -> Response:
    """The routes, which update themselves."""
    shown = _shown(call.node)
    call.audit.queried("routes", len(shown["messages"]) + len(shown["delivered"]))
    return page(call, "routes.html", **shown, digest="")


@router.get("/routes/rows")
@background_request
def route_rows(call: CurrentCall) -> Response:
    """The tables of the page."""
    return fragment(call, "routes_rows.html", **_shown(call.node))


@router.post("/routes/{route}/{destination}", dependencies=WRITERS)
def change_route(
    call: CurrentCall, route: str, destination: str, action: Annotated[Literal["pause", "resume", "retry"], Form()]
) -> Response:
    """Pause a destination of a route, let it go on, or try again."""
    actions.change_route(call, route, destination, action)
    return RedirectResponse("/routes", SEE_OTHER)


def _shown(node: Services) -> dict[str, Any]:
    with node.index.reading(wait=False) as index:
        rows = index.lanes("route", index.routes.destinations(), node.settings)
        messages = [
            row
            for state in ("given-up", "waiting", "skipped")
            for row in index.routes.messages(SHOWN_MESSAGES, node.settings.routes, state=state)
        ]
        messages += index.quiet_to_come("route", node.settings)[:SHOWN_MESSAGES]
        delivered = index.routes.delivered(SHOWN_DELIVERED)
    # What people may send by hand is shown once somebody did.
    rows = [row for row in rows if row["route"] or row["delivered"] or row["waiting"] or row["given_up"]]
    return {
        "destinations": [{**row, "unseen": unseen(row)} for row in rows],
        "messages": messages,
        "delivered": delivered,
        "by_hand": actions.BY_HAND,
    }


Kind = Annotated[WorkKind | None, Query()]


@router.get("/work")
def work(call: CurrentCall, number: PageNumber = 1, kind: Kind = None) -> Response:
    """Work, newest first, which updates itself while some of it has not ended."""
    shown = _work(call, number, kind)
    call.audit.queried(f"work, page {number}", len(shown["rows"]))
    return page(call, "work.html", **shown, digest="")


@router.get("/work/rows")
@background_request
def work_rows(call: CurrentCall, number: PageNumber = 1, kind: Kind = None) -> Response:
    """The table of the page."""
    shown = _work(call, number, kind)
    rows = fragment(call, "work_rows.html", **shown)
    if rows.status_code == OK:  # not 204, when nothing new is shown
        call.audit.queried(f"work, page {number}", len(shown["rows"]))
    return rows


_TONES: Mapping[Tone, tuple[str, ...]] = {
    "plain": ("waiting", "cancelled", "dropped"),
    "busy": ("running",),
    "good": ("succeeded",),
    "warning": ("incomplete", "skipped"),
    "bad": ("failed", "expired"),
}
WORK_CHIPS = {state: StatusChip(tone, state) for tone, states in _TONES.items() for state in states}
"""Of the states and outcomes of work."""


def _work(call: Call, number: int, kind: WorkKind | None) -> dict[str, Any]:
    with call.node.index.searching() as index:
        found = index.work.newest(*part_of_page(number), kind=kind)
        read_results = part_of(call.node.settings, READ_RESULTS)
        results_of = index.views(read_results).results if read_results is not None else lambda job: []
        rows = [{**row, "results": results_of(row["id"]) if row["kind"] == "job" else []} for row in found]
    return rows_of_page(rows, number) | {"kind": kind, "chips": WORK_CHIPS}


@router.post("/work/{work}", dependencies=WRITERS)
def change(
    call: CurrentCall,
    work: Annotated[int, Path(ge=0, le=MAX_ID)],
    action: Annotated[Literal["cancel", "retry"], Form()],
) -> Response:
    """Cancel work, or do it again; what ended before the button was pressed stays as it is."""
    with suppress(WorkEnded):
        call.act(f"{action}-work", work=work)
    return RedirectResponse("/work", SEE_OTHER)
