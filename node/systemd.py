"""What systemd is told of a node that it runs: ready, alive, stopping (sd_notify(3), ``Type=notify``)."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

import structlog

log = structlog.get_logger()


class ServiceManager:
    """The service manager that started this process, if one did; without one, telling it anything does nothing.

    Parameters
    ----------
    environment : mutable mapping of str
        ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are taken out of it, so that no child process
        speaks in our name.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        self._socket = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        watched = environment.pop("WATCHDOG_PID", "") in ("", str(os.getpid()))
        self.watchdog_seconds = int(microseconds) / 1e6 if self._socket and watched and microseconds.isdigit() else None
        """Silence after which it takes us for dead and starts another process; None if it does not watch us."""

    def ready(self, status: str) -> None:
        """Say that associations are accepted; `status` is a line for ``systemctl status``."""
        self._tell(f"READY=1\nSTATUS={status}")

    def alive(self) -> None:
        """Say that every part works."""
        if self.watchdog_seconds is not None:
            self._tell("WATCHDOG=1")

    def stopping(self, status: str) -> None:
        """Say that the node ends in good order, and `status` how."""
        self._tell(f"STOPPING=1\nSTATUS={status}")

    def _tell(self, message: str) -> None:
        if not self._socket:
            return
        # A leading "@" stands for the null byte of an abstract address.
        address = f"\0{self._socket[1:]}" if self._socket.startswith("@") else self._socket
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
                connection.sendto(message.encode(), address)
        except OSError as error:  # it will judge our silence; the instances need us all the same
            log.warning("service_manager_not_told", error=error.strerror or str(error))
