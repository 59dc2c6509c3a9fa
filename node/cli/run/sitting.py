"""A node for one sitting at this machine: a root that is removed, pages in the browser, and an end by Ctrl-C."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from node.cli.run.serve import stop_at_signal
from node.files.durable import locked

if TYPE_CHECKING:
    from node.control.node import Endpoints
    from node.receive.ingest import Ingest
    from node.settings.model import Settings

SECONDS_TO_LOCK = 600.0
"""Age from which a folder without a lock is one that was left: that of a new one is taken when its node is made."""


@contextmanager
def temporary_root(prefix: str) -> Iterator[Path]:
    """Yield a new folder that only this user can read, and remove it; links in it are removed, not what is behind."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def remove_left(prefix: str) -> None:
    """Remove roots of this user that no node has locked, which each does with its root, and that are not new.

    A folder without the lock file of a root is somebody's own, whatever its name, and stays.
    """
    from node.control.root import LOCK_FILE

    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):  # somebody else removes it
            there = folder.lstat()
            is_root = (folder / LOCK_FILE).is_file()
            if not is_root or there.st_uid != os.getuid() or time.time() - there.st_mtime < SECONDS_TO_LOCK:
                continue
            lock = locked(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            if lock is not None:
                try:
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(lock)


@dataclass(frozen=True, slots=True)
class Sitting:
    """A node that runs for one sitting."""

    settings: Settings
    endpoints: Endpoints
    ingest: Ingest
    serve_until: Callable[[threading.Event], None]
    """Wait until the event is set, or a part of the node dies; see `Node.serve_until`."""


@contextmanager
def sitting(
    root: Path,
    quiet_seconds: float,
    *,
    receives: bool = True,
    without: tuple[str, ...] = (),
    logs_from: Literal["warning", "error"] = "warning",
) -> Iterator[Sitting]:
    """Run a node that only this machine reaches, on ports that are free, until this is left.

    `receives`: whether it accepts associations; `without`: extensions that are switched off; `logs_from`: the lowest
    level that is written to standard error.
    """
    from node.control.node import Node
    from node.runtime import logs
    from node.settings.core import SeriesSettings, Storage, Web
    from node.settings.model import ExtensionsSettings, Settings
    from node.settings.peers import Dicom

    logs.configure_command(level=logs_from)
    settings = Settings(
        storage=Storage(root=root, reserve_bytes=0),
        dicom=Dicom(host="127.0.0.1", port=0) if receives else Dicom(enabled=False),
        series=SeriesSettings(quiet_seconds=quiet_seconds),
        web=Web(port=0),
        extensions=ExtensionsSettings(disabled=without),
    )
    node = Node(settings)
    endpoints = node.start()
    try:
        yield Sitting(settings, endpoints, node.listener.ingest, node.serve_until)
    finally:
        node.stop(drain_seconds=5)


def stop_at_end() -> threading.Event:
    """Return an event that Ctrl-C, SIGTERM and the end of the terminal set; see `stop_at_signal`."""
    stop = threading.Event()
    stop_at_signal(stop)
    signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))
    return stop


def browse(url: str) -> bool:
    """Open a page in the browser, if there is a desktop; return whether there is one."""
    has_desktop = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return has_desktop and webbrowser.open(url)
