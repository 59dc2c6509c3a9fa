"""What webhooks, commands and plugins have in common."""

from __future__ import annotations

import threading
from typing import Protocol

from node.errors import VoxelnodeError
from node.notify.message import HookMessage


class NotDelivered(VoxelnodeError):
    """The message was not delivered; the error says why, without patient data.

    Parameters
    ----------
    retry_after : float, optional
        Seconds that the receiver asks to wait.
    is_final : bool
        Another attempt would fail in the same way.
    output : str, optional
        The end of the output of a command. It may hold patient data: it belongs in the index, never in a log.
    """

    def __init__(
        self, reason: str, *, retry_after: float | None = None, is_final: bool = False, output: str | None = None
    ) -> None:
        super().__init__(reason)
        self.retry_after, self.is_final, self.output = retry_after, is_final, output


class Interrupted(VoxelnodeError):
    """The node stops. Whether the message arrived is unknown; it is delivered again after the next start."""


class Channel(Protocol):
    """A way to deliver messages; used by one thread."""

    def deliver(self, message: HookMessage, cancelled: threading.Event) -> str | None:
        """Return once the message has arrived, with the end of the output of a command, if there is any.

        Raises
        ------
        NotDelivered
        Interrupted
            `cancelled` was set first.
        """

    def close(self) -> None:
        """Close connections and child processes."""
