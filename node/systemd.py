"""Notify systemd that a node is ready, alive or stopping (sd_notify(3), ``Type=notify``)."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

import structlog

log = structlog.get_logger()


class ServiceManager:
    """The service manager that started this process. Without one, its methods do nothing.

    `environment`: ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are removed, so that no child process
        notifies in our name.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        self._socket = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        watched = environment.pop("WATCHDOG_PID", "") in ("", str(os.getpid()))
        self.watchdog_seconds = int(microseconds) / 1e6 if self._socket and watched and microseconds.isdigit() else None
        """Time without notification after which the service manager restarts the node; None if there is no watchdog."""

    def ready(self, status: str) -> None:
        """Notify that associations are accepted; `status` is a line for ``systemctl status``."""
        self._notify(f"READY=1\nSTATUS={status}")

    def alive(self) -> None:
        """Notify that every part is alive."""
        if self.watchdog_seconds is not None:
            self._notify("WATCHDOG=1")

    def stopping(self, status: str) -> None:
        """Notify that the node is stopping; `status` is a line for ``systemctl status``."""
        self._notify(f"STOPPING=1\nSTATUS={status}")

    def _notify(self, message: str) -> None:
        if not self._socket:
            return
        # A leading "@" stands for the null byte of an abstract address.
        address = f"\0{self._socket[1:]}" if self._socket.startswith("@") else self._socket
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
                connection.sendto(message.encode(), address)
        except OSError as error:  # the watchdog notices the silence; until then instances are received
            log.warning("service_manager_not_told", error=error.strerror or str(error))
