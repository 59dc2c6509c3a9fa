"""[hooks.NAME] of the kinds webhook, command and plugin."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal, get_args
from urllib.parse import urlsplit

from pydantic import Field

from node.api import RESULT_EVENTS, HookEvent, HookSettings, is_loopback

PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
"""A placeholder in the command of a hook, replaced by a value of the message."""

_SERIES_EVENTS: tuple[HookEvent, ...] = (
    *("series-quiet", "volume-written", "volume-superseded", "verdict-changed", "series-failed"),
)
PLACEHOLDERS: Mapping[str, tuple[HookEvent, ...]] = {
    "id": get_args(HookEvent),
    "event": get_args(HookEvent),
    "study_instance_uid": get_args(HookEvent),
    "series_instance_uid": ("instance-stored", *_SERIES_EVENTS),
    "sop_instance_uid": ("instance-stored",),
    "revision": _SERIES_EVENTS,
    "path": ("instance-stored", "volume-written"),
    "folder": ("volume-written",),
    "out": RESULT_EVENTS,
}
"""Placeholders, and the events whose messages have a value for them."""


class WebhookSettings(HookSettings):
    """[hooks.NAME]: messages are posted to an address, as JSON."""

    is_here: ClassVar[bool] = False

    kind: Literal["webhook"] = "webhook"
    url: str = Field(
        description="Address that messages are posted to, as JSON.", examples=["https://pipeline.example.org/events"]
    )
    secret_file: Path | None = Field(
        None, description="File with the secret that signs messages: whsec_ and 24 to 64 bytes in base64."
    )
    secret: str | None = Field(
        None,
        max_length=4000,
        pattern=r"^[!-~]+$",
        description="The secret itself, in place of a file: of a hook that the pages have written; never shown.",
        repr=False,
        exclude=True,
    )
    ca_file: Path | None = Field(None, description="PEM file of another CA for the receiver's certificate.")

    @property
    def receiver(self) -> str:
        """The address."""
        return self.url

    @property
    def host(self) -> str:
        """The host of the address."""
        return urlsplit(self.url).hostname or ""

    def _mistakes(self) -> Iterator[str]:
        if self.secret is not None and self.secret_file:
            yield "secret is in place of a file"
        parts = urlsplit(self.url)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            yield "url must begin with https:// or http:// and name a host"
        if parts.username or parts.password:
            yield "url must not contain a user name or password: use secret_file to sign messages instead"
        is_plain = parts.scheme == "http" and not is_loopback(parts.hostname or "")
        if is_plain and self.include_patient:
            yield "url must be https:// where the patient is named, unless the host is this machine"
        yield from super()._mistakes()
        if is_plain and self.results:
            yield "results needs an https:// url, unless the host is this machine: messages have a token"


class CommandSettings(HookSettings):
    """[hooks.NAME]: a program of this machine is run for each message."""

    kind: Literal["command"] = "command"
    command: tuple[str, ...] = Field(
        min_length=1,
        description='Program and arguments, such as ["/usr/local/bin/segment", "{path}"]; its input is the message.',
    )

    @property
    def receiver(self) -> str:
        """The program and its arguments."""
        return " ".join(self.command)

    def _mistakes(self) -> Iterator[str]:
        for name in dict.fromkeys(name for argument in self.command for name in PLACEHOLDER.findall(argument)):
            events = PLACEHOLDERS.get(name)
            if events is None:
                yield f"unknown placeholder {{{name}}} in command; known: {', '.join(PLACEHOLDERS)}"
            elif lacking := [event for event in self.on if event not in events]:
                yield f"{{{name}}} in command is not in messages of {', '.join(lacking)}"
        if PLACEHOLDER.search(self.command[0]):
            yield "the program in command must be the same for every message"
        if not self.results and any("{out}" in argument for argument in self.command):
            yield "{out} in command needs results = true"
        yield from super()._mistakes()


class PluginSettings(HookSettings):
    """[hooks.NAME]: a function of a package that is installed beside the node is called for each message."""

    kind: Literal["plugin"] = "plugin"
    plugin: str = Field(description='Entry point in the group "voxelnode.plugins".')

    @property
    def receiver(self) -> str:
        """The plugin."""
        return f"plugin {self.plugin}"
