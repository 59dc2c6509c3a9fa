"""The interface of webhooks, commands and plugins."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Protocol

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


@dataclass(frozen=True, slots=True)
class Delivered:
    """A message was delivered.

    Attributes
    ----------
    output : str or None
        The end of the output of a command. It may contain patient data.
    is_pending : bool
        The receiver reports later what became of the job of the message.
    location : str or None
        Where the receiver shows that job.
    results : object
        What a plugin returned: the manifest of its results, as JSON values.
    """

    output: str | None = None
    is_pending: bool = False
    location: str | None = None
    results: Any = None


class Channel(Protocol):
    """A way to deliver messages. Not thread-safe."""

    def deliver(self, message: HookMessage, cancelled: threading.Event) -> Delivered:
        """Deliver a message; return what the receiver answered.

        Raises NotDelivered. Raises Interrupted if `cancelled` was set first.
        """

    def close(self) -> None:
        """Close connections and child processes."""
