"""The interface of webhooks, commands and plugins."""

from __future__ import annotations

import threading
from typing import Protocol

from node.errors import VoxelnodeError
from node.notify.message import HookMessage


class NotDelivered(VoxelnodeError):
    """The message was not delivered; the error gives the reason, without patient data.

    Parameters
    ----------
    retry_after : float, optional
        Wait in seconds that the receiver requested.
    is_final : bool
        Whether another attempt would fail in the same way.
    output : str, optional
        The end of the output of a command. It may contain patient data, so it goes into the index, never into a log.
    """

    def __init__(
        self, reason: str, *, retry_after: float | None = None, is_final: bool = False, output: str | None = None
    ) -> None:
        super().__init__(reason)
        self.retry_after, self.is_final, self.output = retry_after, is_final, output


class Interrupted(VoxelnodeError):
    """The node is stopping. Whether the message arrived is unknown; the next start delivers it again."""


class Channel(Protocol):
    """A way to deliver messages. Not thread-safe."""

    def deliver(self, message: HookMessage, cancelled: threading.Event) -> str | None:
        """Deliver a message; return the end of the output if the channel is a command with output.

        Raises
        ------
        NotDelivered
        Interrupted
            `cancelled` was set first.
        """

    def close(self) -> None:
        """Close connections and child processes."""
