"""How a command reaches the node that holds a root: HTTP/1.1 and JSON on a Unix domain socket in the root.

    curl --unix-socket ROOT/control.sock http://node/actions
    curl --unix-socket ROOT/control.sock http://node/actions/remove-account -d '{"name": "eve", "who": "root"}'

An answer is the JSON of the result, or a problem (RFC 9457) whose ``detail`` says why nothing came of it. The socket is
open to the owner of the root only: its mode is 0600, and the server asks the kernel who is on the other end.

A request is performed at most once, and only while its client waits: the server performs one request at a time, looks
whether the client is still there when its turn comes, and the client never sends a request again. If the node dies
here, the connection ends without an answer and the client says so. The next node replaces the socket that is left; the
lock of the root, which it holds by then, says that nobody listens on it any more.
"""

from __future__ import annotations

import inspect
import json
import os
import select
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any
from urllib.parse import quote, unquote

import structlog

from node.errors import UsageError, VoxelnodeError

log = structlog.get_logger()

SOCKET_NAME = "control.sock"
REQUEST_SECONDS = 20.0
"""Longest wait until the node begins with a request; a request that has begun is waited for without a limit."""

READ_SECONDS = 30.0
"""Longest time from connecting until the request has arrived as a whole."""

MAX_BODY_BYTES = 64 << 20
"""Arguments of half a million series to convert again."""

ACTIONS = "/actions"

Action = Callable[..., Mapping[str, Any]]
"""Does one thing for a command: keyword arguments and result are JSON."""


class NotPerformed(VoxelnodeError):
    """The node did not do what the command asked for; the message says why."""


class NoControlSocket(NotPerformed):
    """No process accepts requests on the control socket of a root."""


class ControlServer:
    """Performs the requests of commands, one after the other.

    Parameters
    ----------
    root : Path
        Held by this process.
    actions : mapping of name to Action
        An action refuses by a `VoxelnodeError`.
    """

    def __init__(self, root: Path, actions: Mapping[str, Action]) -> None:
        self._root, self._actions = root.absolute(), actions
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen. Where the file system holds no socket, the node works all the same and only commands do not."""
        with suppress(OSError):
            (self._root / "requests").rmdir()  # where earlier versions left requests as files
        try:
            with _folder(self._root) as folder:
                with suppress(FileNotFoundError):
                    os.unlink(SOCKET_NAME, dir_fd=folder)  # of a node that died
                users = {0, os.geteuid(), os.stat(folder).st_uid}
                self._server = _Server(_address(folder), self._actions, users)
        except OSError as error:
            log.error("control_socket_failed", path=str(self._root / SOCKET_NAME), error=error.strerror or str(error))
            return
        self._thread = threading.Thread(target=self._server.serve_forever, name="control", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether requests are taken, as far as the file system holds a socket."""
        return self._thread is None or self._thread.is_alive()

    def stop(self) -> None:
        """Accept no more; returns when the request under way is answered. Those that wait are refused."""
        if self._server is None or self._thread is None:
            return
        (self._root / SOCKET_NAME).unlink(missing_ok=True)
        self._server.stop()
        self._thread.join()
        self._server = None


def request_action(root: Path, action: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Have the node that holds `root` perform an action, and return its result.

    Raises
    ------
    NoControlSocket
        No node listens: nothing was done.
    NotPerformed
        The node refused or failed, did not begin within `REQUEST_SECONDS`, or ended while it worked.
    UsageError
        The node says that the arguments are wrong.
    """
    with closing(_Connection(root)) as connection:
        try:
            status, answer = connection.send_request("GET", ACTIONS)
        except TimeoutError as error:
            raise NotPerformed(
                f"the node that holds {root} did not answer within {REQUEST_SECONDS:g} s: nothing was done"
            ) from error
        except (OSError, HTTPException) as error:
            raise NoControlSocket(f"the node that holds {root} ended: nothing was done") from error
        if status != HTTPStatus.OK:
            raise NotPerformed(str(answer.get("detail")))
        connection.wait_without_limit()
        try:
            status, answer = connection.send_request("POST", f"{ACTIONS}/{quote(action, safe='')}", arguments)
        except (OSError, HTTPException) as error:
            raise NotPerformed("the node ended while it worked on this: check what was done, and try again") from error
    if status == HTTPStatus.OK:
        return dict(answer)
    raise (UsageError if status == HTTPStatus.BAD_REQUEST else NotPerformed)(str(answer.get("detail")))


@contextmanager
def _folder(root: Path) -> Iterator[int]:
    descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _address(folder: int) -> str:
    """Return a path of the socket that fits into the 108 bytes of an address, however long that of the root is."""
    return f"/proc/self/fd/{folder}/{SOCKET_NAME}"


class _Connection(HTTPConnection):
    """The client's end of the control socket; two requests, on one connection."""

    auto_open = 0  # a request that was sent is never sent again

    def __init__(self, root: Path) -> None:
        super().__init__("node", timeout=REQUEST_SECONDS)
        self._root = root
        self.connect()

    def connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            connection.settimeout(REQUEST_SECONDS)
            with _folder(self._root) as folder:
                connection.connect(_address(folder))
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as error:  # the last: a full backlog
            connection.close()
            raise NoControlSocket(f"the process that holds {self._root} accepts no requests") from error
        except OSError as error:
            connection.close()
            raise NotPerformed(f"{self._root / SOCKET_NAME}: {error.strerror}") from error
        self.sock = connection

    def wait_without_limit(self) -> None:
        self.sock.settimeout(None)

    def send_request(self, method: str, path: str, arguments: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        """Return the status and the JSON of the answer."""
        body = None if arguments is None else json.dumps(arguments).encode()
        self.request(method, path, body, {"Content-Type": "application/json"} if body is not None else {})
        response = self.getresponse()
        try:
            return response.status, json.loads(response.read())
        except ValueError as error:
            raise HTTPException("the answer is not JSON") from error


class _Refusal(Exception):
    """A request that is answered by a problem; nothing was done, unless the detail says otherwise."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class _Withdrawn(Exception):
    """The client hung up before its turn came; nothing was done."""


class _Server(ThreadingMixIn, UnixStreamServer):
    """Accepts connections, each on a thread of its own; actions are performed one after the other."""

    request_queue_size = 64

    def __init__(self, address: str, actions: Mapping[str, Action], users: Iterable[int]) -> None:
        self.actions, self.users = actions, frozenset(users)
        self.stopping = threading.Event()
        self._turn = threading.Lock()
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        super().server_bind()
        os.chmod(str(self.server_address), 0o600)  # before anybody can connect: the socket does not listen yet

    def serve_forever(self, poll_interval: float = 86400.0) -> None:
        """Accept until `stop`. An idle server sleeps: `stop` wakes it, not the interval."""
        super().serve_forever(poll_interval)

    def stop(self) -> None:
        """End `serve_forever`; requests that have not begun are refused, the one under way is answered."""
        self.stopping.set()
        self.socket.shutdown(socket.SHUT_RDWR)  # wakes serve_forever: a listening socket that is shut down is readable
        self.shutdown()
        for connection in tuple(self._open):
            _hang_up(connection)
        self.server_close()  # waits for the threads

    def get_request(self) -> tuple[Any, Any]:
        try:
            connection, address = super().get_request()
        except OSError:
            self.stopping.wait(1)  # no descriptor is free: serve_forever would try again at once
            raise
        self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if isinstance(sys.exc_info()[1], OSError):  # the client is gone before its request was whole
            log.debug("control_client_gone")
        else:
            log.exception("control_request_failed")

    def perform(self, name: str, arguments: dict[str, Any], connection: socket.socket) -> str:
        """Perform an action when its turn comes, and return the JSON of its result."""
        action = self.actions.get(name)
        if action is None:
            known = ", ".join(sorted(self.actions))
            raise _Refusal(HTTPStatus.NOT_FOUND, f"the node knows no action {name!r}; known: {known}")
        try:
            inspect.signature(action).bind(**arguments)
        except TypeError as error:
            raise _Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, f"arguments of {name}: {error}") from error
        if not self._turn.acquire(timeout=REQUEST_SECONDS):
            raise _Refusal(
                HTTPStatus.SERVICE_UNAVAILABLE, "the node still works on another request: nothing was done, try again"
            )
        try:
            if self.stopping.is_set():
                raise _Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the node is stopping: nothing was done, try again")
            if _has_hung_up(connection):
                raise _Withdrawn
            return _performed(name, action, arguments)
        finally:
            self._turn.release()


def _performed(name: str, action: Action, arguments: dict[str, Any]) -> str:
    try:
        result = json.dumps(dict(action(**arguments)))
    except UsageError as error:
        raise _Refusal(HTTPStatus.BAD_REQUEST, str(error)) from error
    except VoxelnodeError as error:
        raise _Refusal(HTTPStatus.CONFLICT, str(error)) from error
    except Exception as error:  # whatever it is, a client waits for an answer
        log.exception("control_request_failed", action=name)
        raise _Refusal(
            HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__} in the node: see the log of the node"
        ) from error
    log.info("control_request_performed", action=name)
    return result


def _hang_up(connection: socket.socket) -> None:
    """End what is still read; an answer can still be written."""
    with suppress(OSError):  # it has ended already
        connection.shutdown(socket.SHUT_RD)


def _has_hung_up(connection: socket.socket) -> bool:
    """Whether the other end is closed; a client that only says that it sends no more still waits for the answer."""
    poll = select.poll()
    poll.register(connection, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def _user_of(connection: socket.socket) -> int:
    """Return the user ID of the process at the other end, as the kernel knows it (SO_PEERCRED, unix(7))."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", credentials)
    return int(user)


class _Handler(BaseHTTPRequestHandler):
    """One connection: ``GET /actions``, and ``POST /actions/NAME`` with the arguments as a JSON object."""

    server: _Server
    connection: socket.socket
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "voxelnode", ""
    timeout = READ_SECONDS  # of one read or write; the timer bounds all reads together

    def setup(self) -> None:
        super().setup()
        self._reading = threading.Timer(READ_SECONDS, _hang_up, [self.connection])
        self._reading.daemon = True
        self._reading.start()

    def finish(self) -> None:
        self._reading.cancel()
        with suppress(OSError):  # the client is gone
            super().finish()

    def do_GET(self) -> None:
        """List the actions."""
        with self._refusing():
            self._require_user()
            if self.path != ACTIONS:
                raise _Refusal(HTTPStatus.NOT_FOUND, f"ask for {ACTIONS}, or post to {ACTIONS}/NAME")
            self._answer(HTTPStatus.OK, json.dumps({"actions": sorted(self.server.actions)}))

    def do_POST(self) -> None:
        """Perform an action."""
        with self._refusing():
            self.close_connection = True
            self._require_user()
            folder, _, name = self.path.rpartition("/")
            if folder != ACTIONS:
                raise _Refusal(HTTPStatus.NOT_FOUND, f"post to {ACTIONS}/NAME")
            arguments = self._arguments()
            self._reading.cancel()
            self._answer(HTTPStatus.OK, self.server.perform(unquote(name), arguments, self.connection))

    def _require_user(self) -> None:
        if _user_of(self.connection) not in self.server.users:
            raise _Refusal(HTTPStatus.FORBIDDEN, "only the owner of the root and the superuser may ask")

    def _arguments(self) -> dict[str, Any]:
        if "Transfer-Encoding" in self.headers:
            raise _Refusal(HTTPStatus.LENGTH_REQUIRED, "send the body with a Content-Length")
        length = self.headers.get("Content-Length", "0")
        if not length.isascii() or not length.isdigit():
            raise _Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "Content-Length must be a number")
        if int(length) > MAX_BODY_BYTES:
            raise _Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body has at most {MAX_BODY_BYTES} bytes")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise _Withdrawn
        try:
            arguments = json.loads(body or b"{}")
        except (ValueError, RecursionError) as error:
            raise _Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "the body is not JSON") from error
        if not isinstance(arguments, dict):
            raise _Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "the body must be a JSON object of arguments")
        return arguments

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Answer a refusal by its problem."""
        try:
            try:
                yield
            except _Refusal as refusal:
                self._refuse(refusal.status, refusal.detail)
        except _Withdrawn:
            self.close_connection = True
        except OSError as error:  # the client is gone; what was done stays done
            self.close_connection = True
            log.warning("control_request_not_answered", error=error.strerror or str(error))

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        self.close_connection = True
        problem = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail}
        self._answer(status, json.dumps(problem), "application/problem+json")

    def _answer(self, status: HTTPStatus, content: str, media_type: str = "application/json") -> None:
        body = content.encode()
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is not HTTP, or asks by another method, by a problem too."""
        self.request_version = self.protocol_version  # it is HTTP/0.9, without a status line, until it is known
        self._refuse(HTTPStatus(code), explain or message or HTTPStatus(code).phrase)

    def log_message(self, format: str, *args: Any) -> None:
        """Leave it to the log of the server: this would print to standard error."""
