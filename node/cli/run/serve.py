"""``voxelnode serve``; and a node for one sitting: a root that is removed, pages in the browser, an end by Ctrl-C."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from node.cli import SERVING
from node.cli.options import Root
from node.cli.output import stop_printing
from node.dicom.lean_import import load_for_rows
from node.files.durable import IS_LINUX, locked

if TYPE_CHECKING:
    from node.control.node import Endpoints
    from node.receive.ingest import Ingest
    from node.settings.model import Settings

GIVE_UP_SECONDS = 5.0
"""Longest time that a start takes to end after a signal."""


def serve(
    root: Root,
    port: Annotated[
        int | None, typer.Option(metavar="N", help="TCP port for DICOM, 0 for any free port; overrides [dicom] port.")
    ] = None,
    aet: Annotated[str | None, typer.Option(metavar="AET", help="AE title; overrides [dicom] ae_title.")] = None,
    web_port: Annotated[
        int | None, typer.Option(metavar="N", help="TCP port for HTTP, 0 for any free port; overrides [web] port.")
    ] = None,
    roles: Annotated[
        str | None,
        typer.Option(metavar="ROLES", help="What this host does: receive, convert, web; overrides [cluster] roles."),
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Address to listen on for DICOM; overrides [dicom] host.")
    ] = None,
    create: Annotated[
        bool, typer.Option("--create", help="Make the root if there is none, as `voxelnode init` does.")
    ] = False,
) -> None:
    """Receive, archive and convert until SIGTERM or Ctrl-C.

    A folder that is not a root is refused without --create: its disk may not be mounted.

    The first signal refuses new work and lets running work finish within [dicom] drain_seconds; before the node is
    ready, it ends the process. A second signal ends the process at once. SIGHUP reads the configuration again, as
    `voxelnode reload` does.
    """
    gc.disable()  # until the modules are loaded, and exempt
    settings = root.read(
        {
            "--port": ("dicom.port", port),
            "--aet": ("dicom.ae_title", aet),
            "--host": ("dicom.host", host),
            "--web-port": ("web.port", web_port),
            "--roles": ("cluster.roles", roles.split(",") if roles is not None else None),
        }
    )

    gc.set_threshold(*SERVING)
    load_for_rows()  # children decode
    from node.control import web

    manager = ServiceManager()
    web.load_ahead(settings)  # before there are threads
    from node.control import checks
    from node.control.node import Node
    from node.runtime import logs
    from node.runtime.background import share_fairly

    share_fairly()
    gc.freeze()
    gc.enable()
    logs.configure(settings.log.level, settings.log.format)
    if settings.log.file is not None:
        logs.write_to_file(settings.log.file)
    stop = threading.Event()
    start = stop_at_signal(stop)
    try:  # around each instruction at which a signal may end the start
        start.begin()
        node = Node(settings, root_maker="" if create else root.maker)
        endpoints = node.start()
        start.end()
    except StartEnded:
        start.end_process()
    except BaseException:
        start.end()
        raise
    start.when_hung_up(node.reload)  # a thread, which the machine may lack later
    gc.freeze()
    listening = f"host {settings.cluster.name}, {', '.join(settings.cluster.roles)}"
    if endpoints.dicom is not None:
        listening = f"AE {endpoints.dicom.ae_title} on {endpoints.dicom.host}:{endpoints.dicom.port}"
        if endpoints.tls_port is not None:
            listening += f" and, by TLS, {endpoints.tls_port}"
    lines = [f"voxelnode ready: {listening}, root {settings.storage.root.absolute()}"]
    if endpoints.web is not None:
        lines.append(f"pages, REST and DICOMweb: {endpoints.web}")
    if senders := checks.senders(settings):
        lines.append(senders)
    try:
        print(*lines, sep="\n", flush=True)
    except BrokenPipeError:  # the parent does not read our output, which is no reason to stop
        stop_printing()
    manager.ready(listening)
    node.serve_until(stop, manager.alive if manager.watchdog_seconds is not None else None)
    manager.stopping("draining")
    node.stop(settings.dicom.drain_seconds)


class StartEnded(KeyboardInterrupt):
    """A signal has come before the node was ready. At a KeyboardInterrupt, psycopg cancels the statement that waits."""


class Start:
    """The start of a node, which may wait for minutes, or without end: for a server, its standby, or a lock."""

    def __init__(self) -> None:
        self._is_under_way = False
        self._is_over = threading.Event()
        self._signal: int | None = None
        self.hangups: SimpleQueue[None] = SimpleQueue()

    def when_hung_up(self, reload: Callable[[], object]) -> None:
        """Read the configuration again at each SIGHUP, also at one that came before the node was ready."""

        def wait() -> None:
            while True:
                self.hangups.get()
                reload()

        threading.Thread(target=wait, name="reload", daemon=True).start()

    def begin(self) -> None:
        """From here on, a signal breaks off the start.

        Raises StartEnded: one has come before.
        """
        self._is_under_way = True
        if self._signal is not None:
            raise StartEnded

    def end(self) -> None:
        """From here on, a signal breaks off nothing."""
        self._is_under_way = False
        self._is_over.set()

    def on_signal(self, number: int) -> None:
        """Break off the start, in the thread that starts."""
        self._signal = number
        if self._is_under_way:
            raise StartEnded

    def follow_signal(self) -> None:
        """End the process if its start goes on all the same: a library may catch the exception, or not return."""
        if self._is_under_way and not self._is_over.wait(GIVE_UP_SECONDS):
            self.end_process()

    def end_process(self) -> NoReturn:
        """End the process with exit status 0: what is not ready yet has nothing to drain.

        It ends as by a crash, which loses nothing: other threads may wait for the same as the start did.
        """
        import structlog

        detail = f"{signal.Signals(self._signal or signal.SIGTERM).name} has ended the start before the node was ready"
        structlog.get_logger().warning("start_ended", detail=detail)
        sys.stderr.flush()
        os._exit(0)


def stop_at_signal(stop: threading.Event) -> Start:
    """Set `stop` at the first SIGTERM or SIGINT, or the end of the terminal; at the second, exit without draining.

    A signal may come while the main thread holds the lock of `stop`, for which its handler would wait for ever. So the
    handler only puts the signal into a queue, which has no such lock, and another thread sets `stop`.

    The start that it returns is for callers that start a node.
    """
    start = Start()
    signals: SimpleQueue[int] = SimpleQueue()
    is_first = True  # `stop` may be set by `voxelnode db hosts drain`, too

    def on_signal(number: int, _frame: FrameType | None) -> None:
        nonlocal is_first
        if not is_first:
            os._exit(1)
        is_first = False
        signals.put(number)
        start.on_signal(number)

    def wait() -> None:
        signals.get()
        stop.set()
        start.follow_signal()

    threading.Thread(target=wait, name="signals", daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    has_terminal = os.isatty(0)

    def on_hangup(number: int, frame: FrameType | None) -> None:
        if has_terminal and not os.isatty(0):  # its window was closed
            on_signal(number, frame)
        else:
            start.hangups.put(None)

    signal.signal(signal.SIGHUP, on_hangup)
    return start


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
        """Notify that every part is alive, if there is a watchdog."""
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
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
                connection.sendto(message.encode(), address)
        except OSError as error:  # the watchdog notices the silence; until then instances are received
            import structlog  # `serve --help` needs none

            structlog.get_logger().warning("service_manager_not_told", error=error.strerror or str(error))


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
        web=Web(port=0, process=False),
        extensions=ExtensionsSettings(disabled=without),
    )
    node = Node(settings, keeps=receives)
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
    import webbrowser  # here: `serve` needs none

    has_desktop = not IS_LINUX or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return has_desktop and webbrowser.open(url)
