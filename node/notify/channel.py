"""What every way of telling has in common."""

from __future__ import annotations

import threading
from typing import Protocol

from node.errors import VoxelnodeError
from node.notify.message import HookMessage


class NotDelivered(VoxelnodeError):
    """The message did not reach whom it is for; the error says why, without patient data.

    Parameters
    ----------
    retry_after : float, optional
        How long the other side wants to be left alone, in seconds.
    is_final : bool
        Another attempt would end in the same way.
    output : str, optional
        The end of what a command wrote: may hold patient data, so it is for the index and never for a log.
    """

    def __init__(
        self, reason: str, *, retry_after: float | None = None, is_final: bool = False, output: str | None = None
    ) -> None:
        super().__init__(reason)
        self.retry_after, self.is_final, self.output = retry_after, is_final, output


class Interrupted(VoxelnodeError):
    """The node stops; whether the message arrived is not known, and it will be told once more."""


class Channel(Protocol):
    """A way of telling, used by one thread."""

    def deliver(self, message: HookMessage, cancelled: threading.Event) -> str | None:
        """Return once the message has arrived, with the end of what a command wrote, if it wrote anything.

        Raises
        ------
        NotDelivered
        Interrupted
            `cancelled` was set first.
        """

    def close(self) -> None:
        """Let go of what is open."""
