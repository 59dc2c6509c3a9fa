"""The interface of channels: webhooks, commands and plugins."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from node.errors import UsageError, VoxelnodeError
from node.notify.message import HookMessage, with_job
from node.registry import opened_by
from node.settings.model import Settings

HOOK_VARIABLES = "VOXELNODE_HOOK_"
"""Of the variables by which programs of hooks know their message."""


class NotDelivered(VoxelnodeError):
    """The message was not delivered; the error gives the reason, without patient data.

    `retry_after`: wait in seconds that the receiver requested.
    `is_final`: whether another attempt would fail in the same way.
    `output`: the end of the output of a command. It may contain patient data, so it goes into the index, never into a
        log.
    """

    def __init__(
        self, reason: str, *, retry_after: float | None = None, is_final: bool = False, output: str | None = None
    ) -> None:
        super().__init__(reason)
        self.retry_after, self.is_final, self.output = retry_after, is_final, output


@dataclass(frozen=True, slots=True)
class DeliveredMessage:
    """A message was delivered.

    `output`: the end of the output of a command. It may contain patient data.
    `is_pending`: the receiver reports the outcome of the job later.
    `location`: where the receiver shows that job.
    `results`: what a plugin returned: the manifest of its results, as JSON values.
    """

    output: str | None = None
    is_pending: bool = False
    location: str | None = None
    results: Any = None


class Channel(Protocol):
    """A way to deliver messages. Not thread-safe."""

    def deliver(self, message: HookMessage, cancelled: threading.Event) -> DeliveredMessage:
        """Deliver a message; return what the receiver answered.

        Raises NotDelivered. Raises Interrupted if `cancelled` was set first.
        """

    def close(self) -> None:
        """Close connections and child processes."""


OpenChannel = Callable[[Settings, str], Channel]
"""Opens the channel of a hook by its name. Raises `UsageError` if the hook cannot be used."""


def hook_channel(settings: Settings, name: str) -> Channel:
    """Return the channel of a hook.

    Raises UsageError if the hook is misconfigured; the message names it.
    """
    try:
        opened: OpenChannel = opened_by(settings, "hooks", settings.hooks[name].kind)
        return opened(settings, name)
    except UsageError as error:
        raise UsageError(f"[hooks.{name}] {error}") from error


@contextmanager
def delivered_test(
    settings: Settings, name: str, message: HookMessage
) -> Iterator[tuple[DeliveredMessage, str | None]]:
    """Deliver a test message; yield the answer of the hook, and the folder with its results, removed after the block.

    Raises NotDelivered.
    """
    hook = settings.hooks[name]
    folder = None
    with ExitStack() as opened, closing(hook_channel(settings, name)) as channel:
        if hook.results and hook.is_here:
            folder = opened.enter_context(TemporaryDirectory(prefix="voxelnode-test-"))
            message = with_job(message, "test", "", "", folder)
        yield channel.deliver(message, threading.Event()), folder


def end_leftovers(folder: Path) -> None:
    """Kill the programs that an earlier attempt has left, perhaps of a node that was killed, with a folder for results.

    They would write into the folder of the next attempt. Programs know the folder by their environment, and so do their
    children.
    """
    mark = f"{HOOK_VARIABLES}OUT={folder}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is of another user
            if mark in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)
