"""The forms of what administrators set: peers, routes, hooks and the rules of retention.

Each returns the keys of its table in the configuration. `seen` is the digest of the files that it was made from: what
somebody else has changed is not overwritten.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, get_args

from pydantic import BaseModel, Field

from node.errors import UsageError
from node.registry import sections_of
from node.settings.hooks import HookEvent
from node.settings.model import Settings
from node.settings.peers import Verb
from node.settings.routes import Route, RouteEvent
from node.settings.section import SettingsSection
from node.settings.series import RetentionSettings

_NAMES = re.compile(r"[,\s]+")
"""What is between the networks of a peer in its form."""

Text = Annotated[str, Field(max_length=4000)]
Short = Annotated[str, Field(max_length=256)]


class Form(BaseModel):
    """What every form has. `drops`: how many messages may be dropped."""

    name: Annotated[str, Field(max_length=64)] = ""
    is_new: bool = False
    drops: Annotated[int, Field(ge=0)] = 0
    seen: Annotated[str | None, Field(max_length=64)] = None


class PeerForm(Form):
    """The form of a peer."""

    ae_title: Short
    networks: Text = ""
    host: Short = ""
    port: int = 104
    may: tuple[Verb, ...] = ()
    tls: bool = False
    certificate: Short = ""

    def keys(self) -> dict[str, Any]:
        """Return the table of the peer."""
        values = {"ae_title": self.ae_title, "port": self.port, "may": self.may, "tls": self.tls}
        texts = {"host": self.host.strip(), "certificate": self.certificate.strip()}
        networks = [one for one in _NAMES.split(self.networks) if one]
        return {**values, "networks": networks, **{key: text for key, text in texts.items() if text}}


class RouteForm(Form):
    """The form of a route."""

    to: tuple[str, ...] = ()
    when: str
    where: Text = ""
    otherwise: tuple[str, ...] = ()
    priority: str = "medium"
    between: Short = ""
    transfer_syntax: str = "keep"
    set: Text = ""
    replace: Text = ""
    remove: Text = ""
    deidentify: Short = ""
    confirm: bool = False
    attempts: int = 12

    def keys(self) -> dict[str, Any]:
        """Return the table of the route. Raises UsageError."""
        if not self.to:
            raise UsageError("to: choose at least one destination")
        plain = {"to", "when", "otherwise", "priority", "transfer_syntax", "confirm"}
        values = self.model_dump(include={*plain, "attempts"}) | {
            "where": self.where.strip() or None,
            "between": self.between.strip() or None,
            "set": dict(_pairs("set", self.set)),
            "replace": dict(_pairs("replace", self.replace)),
            "remove": tuple(_lines(self.remove)),
            "deidentify": self.deidentify.strip() or None,
        }
        return _chosen(values, Route)


class HookForm(Form):
    """The form of a hook; an empty secret leaves the one that it has."""

    url: Text
    on: tuple[HookEvent, ...] = ()
    calling_ae_titles: Text = ""
    where: Text = ""
    include_patient: bool = False
    timeout_seconds: float = 30
    attempts: int = 12
    secret: Text = ""
    no_secret: bool = False

    def keys(self) -> dict[str, Any]:
        """Return the table of the hook."""
        values = self.model_dump(include={"on", "include_patient", "timeout_seconds", "attempts"}) | {
            "url": self.url.strip(),
            "calling_ae_titles": tuple(title.strip() for title in self.calling_ae_titles.split(",") if title.strip()),
            "where": self.where.strip() or None,
            "secret": "" if self.no_secret else self.secret.strip() or None,
        }
        return _chosen(values, sections_of("hooks")["webhook"])


class RulesForm(Form):
    """The form of the rules of retention."""

    days: Short = ""
    days_by_calling_ae_title: Text = ""
    maximum_studies: Short = ""
    only_converted: bool = False
    keep_where: Text = ""
    dry_run: bool = False

    def keys(self) -> dict[str, Any]:
        """Return the table of the rules. Raises UsageError."""
        values = {
            "days": self.days.strip() or None,
            "days_by_calling_ae_title": dict(_pairs("days_by_calling_ae_title", self.days_by_calling_ae_title)),
            "maximum_studies": self.maximum_studies.strip() or None,
            "only_converted": self.only_converted,
            "keep_where": self.keep_where.strip() or None,
            "dry_run": self.dry_run,
        }
        return _chosen(values, RetentionSettings)


def choices(settings: Settings) -> dict[str, Any]:
    """Return what the form of a route offers."""
    fields = {key: get_args(Route.model_fields[key].annotation) for key in ("priority", "transfer_syntax")}
    targets, others = [*settings.destinations, *settings.called_peers], list(settings.routes)
    return {"targets": targets, "events": get_args(RouteEvent), "others": others, **fields}


def _chosen(values: dict[str, Any], model: type[SettingsSection]) -> dict[str, Any]:
    """Return the values that are not the defaults."""
    return {key: value for key, value in values.items() if value != model.model_fields[key].default}


def _pairs(key: str, text: str) -> Iterator[tuple[str, str]]:
    for line in _lines(text):
        name, equals, value = line.partition("=")
        if not equals:
            raise UsageError(f"{key}: {line!r}: write a line as NAME = value")
        yield name.strip(), value.strip()


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
