"""Actions that REST and the pages share because they check or record more than `Call.act` does."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from node.audit.audit_log import AuditAction, AuditEvent
from node.errors import UsageError, counted, nearest
from node.index.rows.converted import SeriesKey
from node.index.rows.records import Lane, Level, SeriesProblem
from node.index.rows.repositories import Terms
from node.index.rules.work.routes import lane_to
from node.web.access import Call
from node.web.audit_trail import of_study
from node.web.errors import ResourceNotFound
from node.web.services import Services

BY_HAND = "-"
"""Stands for a route in addresses where people send by hand."""


def reconvert(
    call: Call, study_instance_uid: str, series_instance_uids: Sequence[str], terms: Terms | None = None
) -> Mapping[str, Any]:
    """Request and record the reconversion of series of a study; the result has their number as ``owed``."""
    series = [(study_instance_uid, series_instance_uid) for series_instance_uid in series_instance_uids]
    with call.changing(*series):
        done = call.node.actions["reconvert"](series=series, terms=terms)
    detail = f"{done['owed']} series converted again"
    _record(call, AuditEvent.INSTANCES_ACCESSED, AuditAction.EXECUTE, study_instance_uid, detail)
    return done


def send(call: Call, to: str, study_instance_uid: str, series_instance_uid: str | None = None) -> Mapping[str, Any]:
    """Queue a study or a series for a configured destination; the result has the number of its ``instances``."""
    if to not in call.node.settings.receivers:
        raise UsageError(f"there is no destination {to!r}{nearest(to, call.node.settings.receivers)}")
    done = call.node.actions["send"](
        to=to, study_instance_uid=study_instance_uid, series_instance_uid=series_instance_uid
    )
    if not done["instances"]:
        raise ResourceNotFound("study" if series_instance_uid is None else "series")
    _record(
        call,
        AuditEvent.EXPORT,
        AuditAction.READ,
        study_instance_uid,
        f"{counted(done['instances'], 'instance')} queued for {to}",
    )
    return done


def change_route(
    call: Call, route: str, destination: str, action: Literal["pause", "resume", "retry"]
) -> Mapping[str, Any]:
    """Pause a destination of a route, let it go on, or try again; the result says how much ``changed``."""
    changed = _change(call, lane_to(*require_destination(call.node, route, destination)), action)
    call.audit.configured(AuditAction.UPDATE, f"route {route} to {destination}: {action}")
    return {"action": action, "changed": changed}


def change_hook(call: Call, hook: str, action: Literal["pause", "resume", "retry"]) -> Mapping[str, Any]:
    """Pause a hook, let it go on, or try again; the result says how much ``changed``."""
    if hook not in call.node.settings.hooks:
        raise ResourceNotFound("hook")
    changed = _change(call, Lane("hook", hook), action)
    done = f"retry of {counted(changed, 'message')}" if action == "retry" else action
    call.audit.configured(AuditAction.UPDATE, f"hook {hook}: {done}")
    return {"action": action, "changed": changed}


def _change(call: Call, lane: Lane, action: Literal["pause", "resume", "retry"]) -> int:
    if action == "retry":
        return int(call.node.actions["retry-deliveries"](lanes=[lane])["waiting"])
    return int(call.node.actions["pause-deliveries"](lanes=[lane], paused=action == "pause")["changed"])


def require_destination(node: Services, route: str, destination: str) -> tuple[str, str]:
    """Return the names of a route and of a destination that it has, or raise ResourceNotFound."""
    name = "" if route == BY_HAND else route
    to = node.settings.routes[name].to if name in node.settings.routes else ()
    if destination not in (to if name else node.settings.receivers):
        raise ResourceNotFound("destination of a route")
    return name, destination


def acknowledge(call: Call, problems: Sequence[SeriesProblem], reason: str) -> None:
    """Acknowledge the problems of series that a person saw, and record it; those that have changed since stay."""
    done = call.node.index.problems.acknowledge(problems, reason, call.account.name, dt.datetime.now(dt.UTC))
    for series, problem in done:
        _record(call, AuditEvent.INSTANCES_ACCESSED, AuditAction.UPDATE, series[0], f"problem acknowledged: {problem}")


def withdraw_acknowledgment(call: Call, series: SeriesKey) -> None:
    """Withdraw the acknowledgment of the problem of a series, and record it."""
    call.node.index.problems.withdraw(series, call.account.name, dt.datetime.now(dt.UTC))
    _record(call, AuditEvent.INSTANCES_ACCESSED, AuditAction.UPDATE, series[0], "acknowledgment of a problem withdrawn")


def _record(call: Call, event: AuditEvent, action: AuditAction, study_instance_uid: str, detail: str) -> None:
    with call.node.index.reading(wait=False) as index:
        objects = [of_study(study_instance_uid, index.studies.patient_id(study_instance_uid))]
    call.audit.changed(event, action, objects, detail)


def delete(
    call: Call,
    level: Level,
    uid: str,
    study_instance_uid: str | None,
    terms: Terms | None = None,
    *,
    erase: bool = False,
) -> Mapping[str, Any]:
    """Delete an object, into the trash unless `erase`; `node.lifecycle.deletion` writes the audit log."""
    whose = {"level": level, "uid": uid, "study_instance_uid": study_instance_uid}
    return call.act("delete", **whose, reason="by HTTP", terms=terms, erase=erase)
