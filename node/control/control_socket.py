"""The control socket: commands reach the node that holds a root by HTTP/1.1 and JSON on a Unix domain socket.

    curl --unix-socket ROOT/control.sock http://node/actions
    curl --unix-socket ROOT/control.sock http://node/actions/remove-account -d '{"name": "eve", "who": "root"}'

The answer is the result as JSON, or a problem (RFC 9457) whose ``detail`` gives the reason. Only the owner of the root
and the superuser may connect: the mode of the socket is 0600, and the server asks the kernel for the peer's user ID.

A request is performed at most once, and only while its client waits. The server performs one request at a time and
first checks that the client is still connected; the client never repeats a request. If the node dies meanwhile, the
connection ends without an answer, and the client reports it. The next node replaces the old socket: it holds the lock
of the root, so no other process is listening.
"""

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
from node.files.durable import IS_LINUX
from node.runtime.background import SupervisedThread

log = structlog.get_logger()

SOCKET_NAME = "control.sock"
REQUEST_SECONDS = 20.0
"""Longest wait for the node to start a request; once started, the wait has no limit."""

ANSWER_SECONDS = 10.0
"""Longest wait for the node to say that it is there, which it does whatever else it is doing."""

LOOK_SECONDS = 5.0
"""As `ANSWER_SECONDS`, of a look at a node that has not written its state in time."""

READ_SECONDS = 30.0
"""Longest time from connecting until the whole request has arrived."""

MAX_BODY_BYTES = 64 << 20
"""Enough for the UIDs of half a million series to reconvert."""

ACTIONS = "/actions"

Action = Callable[..., Mapping[str, Any]]
"""Performs one action for a command; keyword arguments and result are JSON values."""


class NotPerformed(VoxelnodeError):
    """The node did not perform the action; the message gives the reason."""


class NoControlSocket(NotPerformed):
    """No process accepts requests on the control socket of a root."""


class ControlServer:
    """Performs the requests of commands, one at a time.

    `root`: locked by this process. `actions`: an action raises `VoxelnodeError` to refuse.
    """

    def __init__(self, root: Path, actions: Mapping[str, Action]) -> None:
        self._root, self._actions = root.absolute(), actions
        self._server: _Server | None = None
        self.thread: SupervisedThread | None = None

    def start(self) -> None:
        """Start listening. If the file system does not support sockets, the node runs without commands, as on macOS."""
        if not IS_LINUX:
            return
        try:
            with _folder(self._root) as folder:
                with suppress(FileNotFoundError):
                    os.unlink(SOCKET_NAME, dir_fd=folder)  # left by a node that died
                users = {0, os.geteuid(), os.stat(folder).st_uid}
                self._server = _Server(_address(folder), self._actions, users)
        except OSError as error:
            log.error("control_socket_failed", path=str(self._root / SOCKET_NAME), error=error.strerror or str(error))
            return
        self.thread = SupervisedThread("control", self._server.serve_forever)
        self.thread.start()

    def stop(self) -> None:
        """Stop accepting requests, refuse those that wait, and return once the one under way is answered."""
        if self._server is None or self.thread is None:
            return
        (self._root / SOCKET_NAME).unlink(missing_ok=True)
        self._server.stop()
        self.thread.join()
        self._server = None


def request_action(root: Path, action: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Have the node that holds `root` perform an action, and return its result.

    Raises NoControlSocket if no node is listening; nothing was done. Raises NotPerformed if the node refused or failed,
    did not answer within `ANSWER_SECONDS`, did not start the action within `REQUEST_SECONDS`, or died during it. Raises
    UsageError if the node rejected the arguments.
    """
    with closing(_Connection(root)) as connection:
        try:
            status, answer = connection.send_request("GET", ACTIONS)
        except TimeoutError as error:
            raise NotPerformed(
                f"the node that holds {root} did not answer within {ANSWER_SECONDS:g} s: nothing was done. If "
                "`voxelnode status` says that it hangs, restart it"
            ) from error
        except (OSError, HTTPException) as error:
            raise NoControlSocket(f"the node that holds {root} ended: nothing was done") from error
        if status != HTTPStatus.OK:
            raise NotPerformed(str(answer.get("detail")))
        connection.sock.settimeout(None)
        try:
            status, answer = connection.send_request("POST", f"{ACTIONS}/{quote(action, safe='')}", arguments)
        except (OSError, HTTPException) as error:
            raise NotPerformed("the node ended during this action: check what was done, then try again") from error
    if status == HTTPStatus.OK:
        return dict(answer)
    raise (UsageError if status == HTTPStatus.BAD_REQUEST else NotPerformed)(str(answer.get("detail")))


def hangs(root: Path) -> bool:
    """Return whether the node that holds `root` takes a request and does not answer it."""
    try:
        with closing(_Connection(root, LOOK_SECONDS)) as connection:
            connection.send_request("GET", ACTIONS)
    except TimeoutError:
        return True
    except (NotPerformed, OSError, HTTPException):  # it has no socket, is another user's, or is ending
        return False
    return False


def is_served(root: Path) -> bool:
    """Return whether a node that accepts requests holds `root`."""
    try:
        _Connection(root).close()
    except NoControlSocket:
        return False
    except NotPerformed:  # it is busy
        return True
    return True


@contextmanager
def _folder(root: Path) -> Iterator[int]:
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _address(folder: int) -> str:
    """Return a path of the socket that fits the 108 bytes of an address, for a root of any length."""
    return f"/proc/self/fd/{folder}/{SOCKET_NAME}"


class _Connection(HTTPConnection):
    """The client's end of the control socket: one connection for two requests."""

    auto_open = 0  # never reconnect and repeat a request

    def __init__(self, root: Path, seconds: float | None = None) -> None:
        super().__init__("node", timeout=ANSWER_SECONDS if seconds is None else seconds)
        self._root = root
        self.connect()

    def connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self.timeout)
            with _folder(self._root) as folder:
                connection.connect(_address(folder))
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as error:  # the last: a full backlog
            connection.close()
            raise NoControlSocket(f"the process that holds {self._root} does not accept requests") from error
        except OSError as error:
            connection.close()
            raise NotPerformed(f"{self._root / SOCKET_NAME}: {error.strerror}") from error
        self.sock = connection

    def send_request(self, method: str, path: str, arguments: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        """Send a request; return the status and the decoded JSON of the answer."""
        body = None if arguments is None else json.dumps(arguments).encode()
        self.request(method, path, body, {"Content-Type": "application/json"} if body is not None else {})
        response = self.getresponse()
        try:
            return response.status, json.loads(response.read())
        except ValueError as error:
            raise HTTPException("the answer is not JSON") from error


class _Refusal(Exception):
    """A request to be answered with a problem; nothing was done unless the detail says otherwise."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class _Withdrawn(Exception):
    """The client disconnected before its turn; nothing was done."""


class _Server(ThreadingMixIn, UnixStreamServer):
    """Accepts connections, each on a thread of its own; performs actions one at a time."""

    request_queue_size = 64

    def __init__(self, address: str, actions: Mapping[str, Action], users: Iterable[int]) -> None:
        self.actions, self.users = actions, frozenset(users)
        self.stopping = threading.Event()
        self._turn = threading.Lock()
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        super().server_bind()
        os.chmod(str(self.server_address), 0o600)  # before the socket listens, so nobody can connect earlier

    def serve_forever(self, poll_interval: float = 86400.0) -> None:
        """Accept connections until `stop`, which wakes an idle server; the interval need not."""
        super().serve_forever(poll_interval)

    def stop(self) -> None:
        """End `serve_forever`; refuse requests that have not started, and answer the one under way."""
        self.stopping.set()
        self.socket.shutdown(socket.SHUT_RDWR)  # wakes serve_forever: after shutdown, a listening socket is readable
        self.shutdown()
        for connection in tuple(self._open):
            _hang_up(connection)
        self.server_close()  # joins the threads

    def get_request(self) -> tuple[Any, Any]:
        try:
            connection, address = super().get_request()
        except OSError:
            self.stopping.wait(1)  # out of file descriptors: serve_forever would retry at once
            raise
        self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if isinstance(sys.exc_info()[1], OSError):  # the client disconnected before its request was complete
            log.debug("control_client_gone")
        else:
            log.exception("control_request_failed")

    def perform(self, name: str, arguments: dict[str, Any], connection: socket.socket) -> str:
        """Wait for the turn of an action, perform it, and return its result as JSON."""
        action = self.actions.get(name)
        if action is None:
            known = ", ".join(sorted(self.actions))
            raise _Refusal(HTTPStatus.NOT_FOUND, f"unknown action {name!r}; known: {known}")
        try:
            inspect.signature(action).bind(**arguments)
        except TypeError as error:
            raise _Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, f"invalid arguments of {name}: {error}") from error
        if not self._turn.acquire(timeout=REQUEST_SECONDS):
            raise _Refusal(
                HTTPStatus.SERVICE_UNAVAILABLE, "the node is busy with another request; nothing was done, try again"
            )
        try:
            if self.stopping.is_set():
                raise _Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the node is stopping; nothing was done, try again")
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
    except Exception as error:  # any error: the client waits for an answer
        log.exception("control_request_failed", action=name)
        raise _Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__} in the node; see its log") from error
    log.info("control_request_performed", action=name)
    return result


def _hang_up(connection: socket.socket) -> None:
    """Shut down the reading side; an answer can still be written."""
    with suppress(OSError):  # already closed
        connection.shutdown(socket.SHUT_RD)


def _has_hung_up(connection: socket.socket) -> bool:
    """Return whether the client is gone. A client that shut down only its writing side still waits for the answer."""
    poll = select.poll()
    poll.register(connection, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def _user_of(connection: socket.socket) -> int:
    """Return the user ID of the connected process, from the kernel (SO_PEERCRED, unix(7))."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", credentials)
    return int(user)


class _Handler(BaseHTTPRequestHandler):
    """One connection: ``GET /actions``, and ``POST /actions/NAME`` with the arguments as a JSON object."""

    server: _Server
    connection: socket.socket
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "voxelnode", ""
    timeout = READ_SECONDS  # per read or write; a timer limits the total of all reads

    def setup(self) -> None:
        super().setup()
        self._reading = threading.Timer(READ_SECONDS, _hang_up, [self.connection])
        self._reading.daemon = True
        self._reading.start()

    def finish(self) -> None:
        self._reading.cancel()
        with suppress(OSError):  # the client has disconnected
            super().finish()

    def do_GET(self) -> None:
        """List the actions."""
        with self._refusing():
            self._require_user()
            if self.path != ACTIONS:
                raise _Refusal(HTTPStatus.NOT_FOUND, f"not found; use GET {ACTIONS} or POST {ACTIONS}/NAME")
            self._answer(HTTPStatus.OK, json.dumps({"actions": sorted(self.server.actions)}))

    def do_POST(self) -> None:
        """Perform an action."""
        with self._refusing():
            self.close_connection = True
            self._require_user()
            folder, _, name = self.path.rpartition("/")
            if folder != ACTIONS:
                raise _Refusal(HTTPStatus.NOT_FOUND, f"not found; use POST {ACTIONS}/NAME")
            arguments = self._arguments()
            self._reading.cancel()
            self._answer(HTTPStatus.OK, self.server.perform(unquote(name), arguments, self.connection))

    def _require_user(self) -> None:
        if _user_of(self.connection) not in self.server.users:
            raise _Refusal(HTTPStatus.FORBIDDEN, "only the owner of the root and the superuser may send requests")

    def _arguments(self) -> dict[str, Any]:
        if "Transfer-Encoding" in self.headers:
            raise _Refusal(HTTPStatus.LENGTH_REQUIRED, "the request needs a Content-Length")
        length = self.headers.get("Content-Length", "0")
        if not length.isascii() or not length.isdigit():
            raise _Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "Content-Length must be a number")
        if int(length) > MAX_BODY_BYTES:
            raise _Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body must not exceed {MAX_BODY_BYTES} bytes")
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
        """Answer a refusal with a problem."""
        try:
            try:
                yield
            except _Refusal as refusal:
                self._refuse(refusal.status, refusal.detail)
        except _Withdrawn:
            self.close_connection = True
        except OSError as error:  # the client has disconnected; completed actions stay done
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
        """Answer malformed HTTP and other methods with a problem, too."""
        self.request_version = self.protocol_version  # until set, it means HTTP/0.9, without a status line
        self._refuse(HTTPStatus(code), explain or message or HTTPStatus(code).phrase)

    def log_message(self, format: str, *args: Any) -> None:
        """Do nothing: the base class would print to standard error."""
