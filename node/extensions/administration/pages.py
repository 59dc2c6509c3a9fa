"""Pages for administrators, beside accounts.

Peers, routes, hooks and rules of retention, which they set here; the configuration with where each value comes from;
the newest changes and log lines. Hooks are in REST as well.
"""

import datetime as dt
import json
import pathlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, get_args

from fastapi import APIRouter, Depends, Form, Path, Request, Response
from fastapi.responses import RedirectResponse

from node.audit.audit_files import audit_files
from node.audit.audit_log import AuditAction, AuditEvent, EventType
from node.control import checks
from node.errors import VoxelnodeError
from node.extensions.administration.forms import keys_of, posted
from node.index.look.views import ReadIndex, outstanding
from node.lifecycle.expired import SPARED, due_now
from node.runtime import logs
from node.settings.load import values_of
from node.settings.tables import LIMITS, as_toml
from node.web import actions
from node.web.access import ADMINS, Call, CurrentCall
from node.web.api.models import Moment, Resource
from node.web.api.routing import OF_CHANGES, Change, api_router, problems
from node.web.audit_trail import of_study
from node.web.errors import ResourceNotFound
from node.web.pages.rendering import SEE_OTHER, fragment, page, require_session

router = APIRouter(include_in_schema=False, dependencies=ADMINS)

PAGE = "/administration/connections"
RETENTION = "/administration/retention"

TABLES = tuple(LIMITS)
"""What is set on the page."""

Section = Annotated[Literal["peers", "routes", "hooks"], Path()]
Settable = Literal["peers", "routes", "hooks", "retention"]
Name = Annotated[str, Path(max_length=64)]


async def _posted(request: Request) -> dict[str, list[str]]:
    """Return the texts of each field that was sent."""
    found: dict[str, list[str]] = {}
    for name, text in (await request.form()).multi_items():
        if isinstance(text, str):
            found.setdefault(name, []).append(text)
    return found


Posted = Annotated[dict[str, list[str]], Depends(_posted)]


@router.get(PAGE)
def connections(call: CurrentCall) -> Response:
    """Peers with a test of each, routes, and hooks with what waits for each."""
    settings, sources = call.node.settings, call.node.settings.loaded_from
    waiting = Counter[tuple[str, str]]()
    with call.node.index.reading(wait=False) as view:
        lanes = view.lanes("hook", view.hooks.progress().values(), settings)
        progress = {row["hook"]: row for row in lanes}
        hooks = [
            {**progress.get(name, {}), "name": name, "hook": hook, "where": _text(hook.where)}
            for name, hook in settings.hooks.items()
        ]
        for row in view.routes.destinations():
            waiting["routes", row["route"]] += outstanding(row)
            waiting["peers", row["destination"]] += outstanding(row) if not row["route"] else 0
        for name, row in progress.items():
            waiting["hooks", name] = outstanding(row)
    known: dict[str, Mapping[str, Any]] = {table: getattr(settings, table) for table in TABLES}
    own = {table: [name for name in known[table] if sources.is_of_pages(f"{table}.{name}")] for table in TABLES}
    files = {table: {name: sources.file_of(f"{table}.{name}") for name in known[table]} for table in TABLES}
    values: dict[str, Any] = {"peers": settings.peers, "hooks": hooks, "seen": sources.digest}
    values |= {"known": known, "own": own, "files": files, "waiting": waiting}
    values["forms"] = {
        table: {name: keys_of(settings, f"{table}.{name}") for name in ("", *own[table])} for table in TABLES
    }
    values |= {"doubts": checks.warnings(settings)}
    values |= {"wheres": {name: _text(route.where) for name, route in settings.routes.items()}}
    return page(call, "connections.html", part="connections", alone=not settings.shares_index, **values)


@router.post("/administration/set/{section}")
def set_table(call: CurrentCall, section: Annotated[Settable, Path()], form: Posted) -> Response:
    """Add a peer, a route or a hook, or change one that was set here, or the rules of retention."""
    require_session(call)
    table = f"{section}.{_last(form, 'name')}" if section in LIMITS else section
    keys, unset = posted(call.node.settings, table, form)
    drops = _last(form, "drops")
    call.act(
        "set-table",
        table=table,
        keys=keys,
        unset=unset,
        drops=int(drops[:9]) if drops.isdecimal() else 0,
        digest=_last(form, "seen") or None,
        is_new=_last(form, "is_new") == "true",
    )
    return _back(section)


@router.post("/administration/remove/{section}/{name}")
def remove(
    call: CurrentCall,
    section: Section,
    name: Name,
    drops: Annotated[int, Form(ge=0)] = 0,
    seen: Annotated[str | None, Form(max_length=64)] = None,
) -> Response:
    """Remove what was set here, and drop as many messages as the page showed."""
    require_session(call)
    call.act("remove-table", table=f"{section}.{name}", drops=drops, digest=seen)
    return _back(section)


@router.post("/administration/hooks/{hook}/test")
def test_hook(call: CurrentCall, hook: Name) -> Response:
    """Send a message of the newest series, marked as a test, and tell what the receiver answered."""
    if hook not in call.node.settings.hooks:
        raise ResourceNotFound("hook")
    try:
        problem = call.act("test-hook", name=hook)["reason"] or ""
    except VoxelnodeError as error:
        problem = str(error)
    return fragment(call, "hook_tested.html", problem=problem, name=hook)


@router.post("/administration/hooks/{hook}")
def hook_action(
    call: CurrentCall, hook: Name, action: Annotated[Literal["pause", "resume", "retry"], Form()]
) -> Response:
    """Pause a hook, let it go on, or deliver again what was given up or waits for its next attempt."""
    actions.change_hook(call, hook, action)
    return _back("hooks")


def _last(form: Mapping[str, Sequence[str]], name: str) -> str:
    return form.get(name, [""])[-1]


def _back(section: str) -> Response:
    return RedirectResponse(RETENTION if section == "retention" else f"{PAGE}#{section}-title", SEE_OTHER)


def _text(where: str | Mapping[str, Any] | None) -> str:
    """Return a selector as the configuration has it, on one line."""
    return where if isinstance(where, str) else as_toml(where) if where else ""


EXPIRED_STUDIES = 50


@router.get(RETENTION)
def retention(call: CurrentCall) -> Response:
    """The rules of retention, and the studies that the next pass would delete."""
    settings, now = call.node.settings, dt.datetime.now(dt.UTC)
    sources, rules = settings.loaded_from, settings.retention
    with call.node.index.searching() as index:
        due = due_now(index, rules, now)
        due_bytes = index.studies.bytes_of([one.study.study_instance_uid for one in due.expired])
        shown = [(one, index.studies.row(one.study.study_instance_uid)) for one in due.expired[:EXPIRED_STUDIES]]
        state = index.retention
    known = [study for _, study in shown if study is not None]
    call.audit.accessed([of_study(one["study_instance_uid"], one["patient_id"]) for one in known], "pages: retention")
    given = [row for row in _values(call) if row[0].startswith("retention.")]
    values: dict[str, Any] = {"rules": rules, "given": given, "keys": keys_of(settings, "retention")}
    values |= {"seen": sources.digest, "due": due, "why_spared": SPARED, "bytes": due_bytes}
    values |= {"rows": shown, "state": state, "alone": not settings.shares_index}
    values |= {"others": not sources.is_of_pages("retention") and sources.keys_of("retention")}
    return page(call, "retention.html", part="retention", **values)


@router.post(f"{RETENTION}/confirm")
def confirm(call: CurrentCall) -> Response:
    """Confirm that the clock is right, or that what is due may go."""
    call.act("confirm-retention")
    return RedirectResponse(RETENTION, SEE_OTHER)


@router.get("/administration/configuration")
def configuration(call: CurrentCall) -> Response:
    """Each key with its value, and where that comes from; those that were set first."""
    sources = call.node.settings.loaded_from
    return page(call, "configuration.html", part="configuration", rows=_values(call), sources=sources)


def _values(call: CurrentCall) -> list[tuple[str, str, str]]:
    """Return each key, its value as a file has it, "" if it is unset, and where it comes from."""
    known = values_of(call.node.settings)
    return [(key, "" if value is None else as_toml(value), origin) for key, value, origin in known]


@router.post("/administration/configuration/apply")
def apply(call: CurrentCall) -> Response:
    """Read the files again, and put in force what needs no restart."""
    require_session(call)
    call.act("reload")
    return RedirectResponse("/administration/configuration", SEE_OTHER)


Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = get_args(Level)


@router.get("/administration/log")
def log_lines(call: CurrentCall, level: Level = "info", requests: bool = False, download: bool = False) -> Response:
    """The newest lines that this process has logged, newest first; as a file, the oldest first."""
    wanted = LEVELS[LEVELS.index(level) :]
    rows = [line for line in logs.newest() if line.get("level") in wanted]
    rows = [line for line in rows if requests or line["event"] != logs.HTTP_REQUEST]
    if download:
        disposition = {"Content-Disposition": 'attachment; filename="voxelnode-log.jsonl"', "Cache-Control": "no-store"}
        content = "".join(f"{json.dumps(line)}\n" for line in rows)
        return Response(content, media_type="application/x-ndjson", headers=disposition)
    return page(call, "log.html", part="log", rows=rows[::-1], level=level, levels=LEVELS, requests=requests)


READ_BYTES = 4 << 20
"""How much of the end of the audit log is read; a line has about 800 bytes."""

SHOWN_CHANGES = 200

SHOWN_STUDIES = 3
"""Studies of a change that are named."""

_CHANGES = frozenset({AuditAction.UPDATE.value, AuditAction.DELETE.value})
_ACTIVITY = AuditEvent.APPLICATION_ACTIVITY.value[0]
_CONFIGURATION = EventType.SOFTWARE_CONFIGURATION.value[0]


@router.get("/administration/changes")
def changes(call: CurrentCall) -> Response:
    """The newest changes, newest first."""
    lines = list(_lines(call.node.archive.root))
    rows = [_row(line) for line in lines if line is not None and _is_change(line)][: -SHOWN_CHANGES - 1 : -1]
    call.audit.queried("changes of the audit log", len(rows))
    uids = dict.fromkeys(uid for row in rows for uid in [*row["studies"]][:SHOWN_STUDIES])
    with call.node.index.reading() as index:
        known = {uid: index.studies.row(uid) for uid in uids}
    return page(call, "changes.html", part="changes", rows=rows, known=known, damaged=lines.count(None))


def _lines(root: pathlib.Path) -> Iterator[Mapping[str, Any] | None]:
    """Yield the last lines of the audit log, oldest first; None for one that is damaged."""
    left = READ_BYTES
    ends: list[bytes] = []
    for path in reversed(audit_files(root)):
        with path.open("rb") as file:
            start = max(file.seek(0, 2) - left, 0)
            file.seek(start)
            content = file.read(left)
        ends.append(content.partition(b"\n")[2] if start else content)
        left -= len(content)
        if left <= 0:
            break
    for line in b"".join(reversed(ends)).splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            yield None


def _is_change(line: Mapping[str, Any]) -> bool:
    is_of_node = line["event"]["code"] == _ACTIVITY or line["event"].get("type", {}).get("code") == _CONFIGURATION
    return (line["action"] in _CHANGES or is_of_node) and line.get("stage") != "ordered"


def _row(line: Mapping[str, Any]) -> dict[str, Any]:
    who = next((one for one in line["participants"] if one["requestor"]), {"user": "the node"})
    detail = line.get("detail") or ""
    return {
        "at": line["at"],
        "who": who["user"],
        "address": who.get("address") or "",
        "what": detail.removeprefix("done: ") or line["event"]["meaning"],
        "meaning": line["event"]["meaning"],
        "is_done": line["outcome"] == 0,
        "studies": {
            one["study_instance_uid"]: one.get("patient_id") or ""
            for one in line.get("objects", ())
            if "study_instance_uid" in one
        },
    }


hooks_router = api_router(ADMINS, "hooks")


class HookResource(Resource):
    """A hook with what waits for it; `trouble`: why the last attempt of what waits failed.

    `study_quiet_at`: when the first message is due that waits for a quiet study. `due_at`: when anything
    happens next by itself.
    """

    hook: str
    paused: bool
    waiting: int
    given_up: int
    delivered: int
    trouble: str | None
    study_quiet_at: Moment | None
    due_at: Moment | None


class Hooks(Resource):
    """All hooks."""

    items: list[HookResource]


class HookChange(Resource):
    """What an action on a hook changed: whether it was paused or let go on, or messages that are tried again."""

    action: Literal["pause", "resume", "retry"]
    changed: int


@hooks_router.get("/hooks")
def list_hooks(call: CurrentCall) -> Hooks:
    """All hooks, with what waits for each."""
    with call.node.index.reading(wait=False) as index:
        return Hooks(items=[_hook(call, name, index) for name in call.node.settings.hooks])


@hooks_router.post("/hooks/{hook}/{action}", responses=problems(*OF_CHANGES))
def change_hook(
    call: CurrentCall,
    change: Change,
    hook: Annotated[str, Path(min_length=1, max_length=64, description="name of the hook")],
    action: Annotated[Literal["pause", "resume", "retry"], Path(description="what to do")],
) -> HookChange:
    """Pause a hook, let it go on, or try again what waits or was given up."""
    return change.make(HookChange, partial(_hook, call, hook), lambda _: actions.change_hook(call, hook, action))


def _hook(call: Call, name: str, index: ReadIndex) -> HookResource:
    begun = index.hooks.progress().get(
        name, {"hook": name, "paused": 0, "given_up": 0, "delivered": 0, "trouble": None}
    )
    [row] = index.lanes("hook", [begun], call.node.settings)
    return HookResource.of({**row, "waiting": outstanding(row)})
