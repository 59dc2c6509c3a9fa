"""Plugins: Python packages that receive messages, each in a child process of its own.

A plugin is an entry point in the group "voxelnode.plugins": a module or an object with functions from
`Specifications`, marked by ``pluggy.HookimplMarker("voxelnode")``. It runs only if a hook of the configuration names
it; installing it is not enough. `serve` runs in the child, `Plugin` in the node.
"""

import json
import threading
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

import pluggy

from node.api import (
    Child,
    ChildCancelled,
    ChildDied,
    ChildLate,
    ChildPipes,
    DeliveredMessage,
    HookMessage,
    Interrupted,
    NotDelivered,
    Settings,
    UsageError,
    type_and_location,
)
from node.extensions.channels.settings import PluginSettings

PROJECT = "voxelnode"
GROUP = "voxelnode.plugins"

START_SECONDS = 60.0
"""How long the process of a plugin has to load this program, which a busy machine does slowly."""

MAX_CAUSE_CHARACTERS = 1000
MAX_ANSWER_BYTES = 1 << 20

RETURNED = b"="
"""First byte of the answer of a call that returned; behind it the value as JSON."""

_specification = pluggy.HookspecMarker(PROJECT)


class Specifications:
    """The functions that a plugin may define; docs/hooks.md describes the message `event`.

    A function that raises is called again later with the same ``event["id"]``. One that left results in
    ``event["job"]["folder"]`` may return their manifest (docs/results.md).
    """

    @_specification
    def instance_stored(self, event: Mapping[str, Any]) -> Any:
        """An instance is durable and indexed."""

    @_specification
    def series_quiet(self, event: Mapping[str, Any]) -> Any:
        """A series is quiet, and its conversion begins."""

    @_specification
    def volume_written(self, event: Mapping[str, Any]) -> Any:
        """A conversion of a series produced at least one volume."""

    @_specification
    def volume_superseded(self, event: Mapping[str, Any]) -> Any:
        """A newer revision replaced one that had volumes."""

    @_specification
    def series_failed(self, event: Mapping[str, Any]) -> Any:
        """A conversion of a series produced no volume: it was refused, or the converter crashed too often."""

    @_specification
    def study_quiet(self, event: Mapping[str, Any]) -> Any:
        """No series of a study has been open for the configured time."""


class Plugin:
    """Delivers messages to one plugin, in a child process that is replaced if it dies or hangs.

    Raises UsageError if the plugin is not installed.
    """

    def __init__(self, name: str, timeout_seconds: float) -> None:
        installed = entry_points(group=GROUP).names
        if name not in installed:
            known = f"; installed: {', '.join(sorted(installed))}" if installed else "; none are installed"
            raise UsageError(f"no entry point {name!r} in the group {GROUP!r}{known}")
        self._timeout_seconds = timeout_seconds
        self._child = Child(serve, name, name=f"voxelnode-{name}", max_answer_bytes=MAX_ANSWER_BYTES)

    def deliver(self, message: HookMessage, cancelled: threading.Event) -> DeliveredMessage:
        """Call the plugin and wait for it. See `ChildPipes.deliver`."""
        if not self._child.is_running:  # the time of the plugin begins when it can be called
            self._ask(None, START_SECONDS, "start", cancelled)
        answer = self._ask(dict(message.content), self._timeout_seconds, "return", cancelled)
        if answer[:1] != RETURNED:
            raise NotDelivered(answer.decode("utf-8", "replace")[:MAX_CAUSE_CHARACTERS])
        try:
            return DeliveredMessage(results=json.loads(answer[1:]))
        except (ValueError, RecursionError):
            raise NotDelivered("the process of the plugin gave an invalid answer") from None

    def _ask(self, request: object, seconds: float, what: str, cancelled: threading.Event) -> bytes:
        try:
            return self._child.call(request, seconds, cancelled)
        except ChildCancelled:
            raise Interrupted from None
        except ChildLate:
            raise NotDelivered(f"the plugin did not {what} within {seconds:g} s") from None
        except ChildDied as died:
            raise NotDelivered(f"the process of the plugin exited with status {died.exitcode}") from died

    def close(self) -> None:
        """Kill the child process, even during a call."""
        self._child.close()


def serve(channel: ChildPipes, name: str) -> None:
    """Call the plugin for each message until the channel closes; answer what it returned, or the cause of a failure.

    A request of None asks whether the process has started.
    """
    manager: pluggy.PluginManager | None = None
    for event in channel.requests():
        if event is None:
            channel.answer(b"")
            continue
        try:
            if manager is None:
                manager = _loaded(name)
            answer = RETURNED + json.dumps(_called(manager, name, event)).encode()
            if len(answer) > MAX_ANSWER_BYTES:
                raise _NotCalled(f"the plugin {name} returned more than {MAX_ANSWER_BYTES} bytes")
        except _NotCalled as error:
            answer = str(error).encode()
        except Exception as error:  # the boundary of the process
            answer = type_and_location(error).encode("utf-8", "replace")
        channel.answer(answer)


def _loaded(name: str) -> pluggy.PluginManager:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Specifications)
    manager.load_setuptools_entrypoints(GROUP, name=name)
    manager.check_pending()  # rejects misspelled functions, which would never be called
    return manager


class _NotCalled(Exception):
    """The plugin cannot be called, or returned what cannot be passed on; the text is ours."""


def _called(manager: pluggy.PluginManager, name: str, event: Mapping[str, Any]) -> Any:
    """Return what the plugin returned: its first value that is not None."""
    function = event["event"].replace("-", "_")
    caller = getattr(manager.hook, function)
    if not caller.get_hookimpls():
        raise _NotCalled(f"the plugin {name} has no function {function} marked by pluggy.HookimplMarker({PROJECT!r})")
    returned = next(iter(caller(event=event)), None)
    return returned if event["job"] is not None else None


def opened(settings: Settings, name: str) -> Plugin:
    """Return the plugin of a hook. See `node.notify.channel.OpenChannel`."""
    hook = settings.hooks[name]
    assert isinstance(hook, PluginSettings)
    return Plugin(hook.plugin, hook.timeout_seconds)
