"""``kind = "greetings"``: a destination of routes and a receiver of messages, which are lines in a file."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from voxelnode.api import (
    Confirmation,
    Delivered,
    DestinationSettings,
    DueInstance,
    HookMessage,
    NotConfirmable,
    OwedInstance,
    Prepared,
    Settings,
    Unreachable,
)
from voxelnode.api import DeliveredMessage as Received

from voxelnode_hello.settings import GreetingsDestination, GreetingsHook


class Greetings:
    """A file that gets a line for each instance."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def deliver(self, instances: Iterable[Prepared], is_abandoned: Callable[[], bool]) -> Iterator[Delivered]:
        """Add a line for each instance. See `node.routing.destination.Destination.deliver`."""
        for prepared in instances:
            try:
                _add(self._file, f"hello, {prepared.due.sop_instance_uid}")
            except OSError as error:
                raise Unreachable(f"{self._file} cannot be written: {error.strerror}") from error
            yield Delivered(prepared)

    def confirm(
        self, owed: Sequence[OwedInstance], transaction_uid: str, is_abandoned: Callable[[], bool]
    ) -> Confirmation | None:
        """Refuse: a line is no proof."""
        raise NotConfirmable("greetings keep no instances: remove confirm from the route")

    def is_origin(self, due: DueInstance) -> bool:
        """Return False: nothing comes from a file of greetings."""
        return False

    def rest(self) -> None:
        """Do nothing: no file stays open."""


class Greeter:
    """A file that gets a line for each message."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def deliver(self, message: HookMessage, cancelled: threading.Event) -> Received:
        """Add a line for a message. See `node.notify.channel.Channel.deliver`."""
        _add(self._file, f"hello, {message.event}")
        return Received()

    def close(self) -> None:
        """Do nothing: no file stays open."""


def _add(file: Path, line: str) -> None:
    with file.open("a", encoding="utf-8") as lines:
        lines.write(f"{line}\n")


def destination(described: DestinationSettings, is_read_again: bool) -> Greetings:
    """Return the destination of a table. See `node.routing.held.OpenReceiver`."""
    assert isinstance(described, GreetingsDestination)
    return Greetings(described.file)


def channel(settings: Settings, name: str) -> Greeter:
    """Return the receiver of a hook. See `node.notify.channel.OpenChannel`."""
    hook = settings.hooks[name]
    assert isinstance(hook, GreetingsHook)
    return Greeter(hook.file)
