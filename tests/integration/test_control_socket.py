"""Commands reach the process that holds the root, through its control socket."""

import fcntl
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from node.api import Settings, UsageError, VoxelnodeError
from node.control import control_socket, root
from node.control.control_socket import ControlServer, NoControlSocket, NotPerformed, request_action
from node.control.repository import Repository, perform_action
from node.index.rows.place import FILE_NAME
from tests.crash.journal import new_series
from tests.ingest import received, settings_of
from tests.preloaded import run
from tests.waiting import running

WORKING_NODE = """
import sys, threading
from pathlib import Path
from node.control.control_socket import ControlServer
root = Path(sys.argv[1])

def work():
    with (root / "begun").open("a") as file:
        file.write("begun\\n")
    print("begun", flush=True)
    threading.Event().wait()

ControlServer(root, {"work": work}).start()
print("ready", flush=True)
threading.Event().wait()
"""
"""A process that holds the root and never comes to an end with what it is asked for."""

HOLDING_IMPORT = """
import sys
from pathlib import Path
from node.runtime import logs
from node.control.repository import open_for_import
from node.settings.model import Settings
from node.settings.core import Storage
logs.configure("error")
with open_for_import(Settings(storage=Storage(root=Path(sys.argv[1]), reserve_bytes=0))):
    print("ready", flush=True)
    sys.stdin.read()
"""

REQUEST = """
import signal, sys
from pathlib import Path
from node.control.control_socket import request_action
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in what a shell starts in the background
request_action(Path(sys.argv[1]), sys.argv[2], {})
"""


RunChild = Callable[..., subprocess.Popen[str]]


class Gate:
    """An action that says when it has begun, and ends when it may."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()

    def __call__(self) -> dict[str, Any]:
        self.begun.set()
        assert self.may_end.wait(30)
        return {"ended": True}


class Calls:
    """An action that counts its calls."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> dict[str, Any]:
        self.count += 1
        return {"count": self.count}


def add(a: int, b: int) -> dict[str, Any]:
    return {"sum": a + b}


def refuse(**_: Any) -> dict[str, Any]:
    raise VoxelnodeError("it is under a legal hold")


def misuse(**_: Any) -> dict[str, Any]:
    raise UsageError("unknown study")


def fail(**_: Any) -> dict[str, Any]:
    raise RuntimeError("a defect")


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.may_end.set()


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def server(tmp_path: Path, gate: Gate, calls: Calls) -> Iterator[ControlServer]:
    actions = {"add": add, "refuse": refuse, "misuse": misuse, "fail": fail, "gate": gate, "count": calls}
    with running(ControlServer(tmp_path, actions)) as server:
        yield server
        gate.may_end.set()


@pytest.fixture
def run_child() -> Iterator[RunChild]:
    children: list[subprocess.Popen[str]] = []

    def run(program: str, *arguments: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        return child

    yield run
    for child in children:
        child.kill()
        with child:  # closes the pipes and waits
            pass


def line_of(child: subprocess.Popen[str]) -> str:
    return child.stdout.readline().strip()


def in_thread(action: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Run something on a thread; its result, or its error, is put into the list."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(action())
        except VoxelnodeError as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def connect(root: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(str(root / "control.sock"))
    return connection


def post(action: str, body: bytes = b"{}", headers: bytes = b"") -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return b"POST /actions/%s HTTP/1.1\r\nHost: node\r\n%s%s\r\n%s" % (action.encode(), headers, length, body)


def answer(root: Path, request: bytes) -> tuple[int, Any]:
    """Send bytes, and return the status and the JSON of the answer."""
    with connect(root) as connection:
        with suppress(BrokenPipeError):  # the server may answer before it has read all
            connection.sendall(request)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def test_requests_of_many_are_each_answered(server: ControlServer, tmp_path: Path) -> None:
    requests = [
        in_thread(lambda n=n: request_action(tmp_path, "add", {"a": n, "b": n}))  # type: ignore[misc]
        for n in range(16)
    ]
    for thread, _ in requests:
        thread.join()
    assert [outcome for _, outcome in requests] == [[{"sum": 2 * n}] for n in range(16)]


def test_a_refusal_and_wrong_use_arrive_in_the_words_of_the_action(server: ControlServer, tmp_path: Path) -> None:
    with pytest.raises(NotPerformed, match="legal hold"):
        request_action(tmp_path, "refuse", {})
    with pytest.raises(UsageError, match="unknown study"):
        request_action(tmp_path, "misuse", {})


@pytest.mark.parametrize(
    ("action", "arguments", "detail"),
    [
        ("unknown", {}, "unknown action 'unknown'; known: add, count"),
        ("../add", {}, "unknown action"),
        ("add", {"c": 1}, "arguments of add"),
        ("fail", {}, "RuntimeError in the node"),
    ],
)
def test_a_request_that_cannot_be_performed_is_refused_and_the_server_goes_on(
    server: ControlServer, tmp_path: Path, action: str, arguments: dict[str, Any], detail: str
) -> None:
    with pytest.raises(NotPerformed, match=detail):
        request_action(tmp_path, action, arguments)
    assert request_action(tmp_path, "add", {"a": 1, "b": 1}) == {"sum": 2}


def test_plain_http_is_understood_and_errors_are_problem_details(server: ControlServer, tmp_path: Path) -> None:
    listed = answer(tmp_path, b"GET /actions HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
    assert listed == (200, {"actions": ["add", "count", "fail", "gate", "misuse", "refuse"]})
    assert answer(tmp_path, post("add", b'{"a": 1, "b": 2}')) == (200, {"sum": 3})
    assert answer(tmp_path, post("refuse")) == (
        409,
        {"type": "about:blank", "title": "Conflict", "status": 409, "detail": "it is under a legal hold"},
    )


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (post("count", headers=b"Content-Length: 100000000000\r\n"), 413),
        (post("count", headers=b"Content-Length: -1\r\n"), 422),
        (post("count", headers=b"Transfer-Encoding: chunked\r\n"), 411),
        (post("count", b"[" * 100_000), 422),
        (post("count", b"[]"), 422),
        (post("count", b"\xff"), 422),
        (b"POST /actions HTTP/1.1\r\n\r\n", 404),
        (b"GET /other HTTP/1.1\r\n\r\n", 404),
        (b"DELETE /actions/count HTTP/1.1\r\n\r\n", 501),
        (b"nonsense\r\n\r\n", 400),
    ],
)
def test_a_malformed_request_is_refused_and_nothing_is_done(
    server: ControlServer, calls: Calls, tmp_path: Path, request_bytes: bytes, status: int
) -> None:
    assert answer(tmp_path, request_bytes)[0] == status
    assert calls.count == 0


def test_a_silent_client_is_let_go(server: ControlServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_socket, "READ_SECONDS", 0.1)
    with connect(tmp_path) as connection:
        connection.sendall(b"POST /actions/count HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
        assert connection.recv(1) == b""


@pytest.mark.slow
def test_a_request_that_cannot_begin_in_time_is_refused(
    server: ControlServer, gate: Gate, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_socket, "REQUEST_SECONDS", 2.0)  # time for the first one to begin
    thread, outcome = in_thread(lambda: request_action(tmp_path, "gate", {}))
    assert gate.begun.wait(10)
    with pytest.raises(NotPerformed, match="busy with another request; nothing was done"):
        request_action(tmp_path, "count", {})
    gate.may_end.set()
    thread.join()
    assert outcome == [{"ended": True}], "a request that has begun is waited for"
    assert calls.count == 0


def test_a_client_that_hangs_up_before_its_turn_withdraws_its_request(
    server: ControlServer, gate: Gate, calls: Calls, tmp_path: Path
) -> None:
    thread, _ = in_thread(lambda: request_action(tmp_path, "gate", {}))
    assert gate.begun.wait(10)
    with connect(tmp_path) as connection:
        connection.sendall(post("count"))
        while fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0" * 4) != b"\0" * 4:
            os.sched_yield()  # until the server has read it all
    gate.may_end.set()
    thread.join()
    assert request_action(tmp_path, "count", {}) == {"count": 1}


def test_a_client_that_ends_its_half_of_the_connection_is_answered(server: ControlServer, tmp_path: Path) -> None:
    with connect(tmp_path) as connection:
        connection.sendall(post("count"))
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_command_that_is_interrupted_while_it_waits_has_done_nothing(
    server: ControlServer,
    gate: Gate,
    calls: Calls,
    tmp_path: Path,
    run_child: RunChild,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = threading.Event()
    perform = control_socket._Server.perform

    def observed(self: Any, name: str, *arguments: Any) -> str:
        if name == "count":
            waiting.set()
        return perform(self, name, *arguments)

    monkeypatch.setattr(control_socket._Server, "perform", observed)
    thread, _ = in_thread(lambda: request_action(tmp_path, "gate", {}))
    assert gate.begun.wait(10)
    command = run_child(REQUEST, str(tmp_path), "count")
    assert waiting.wait(30)
    command.send_signal(signal.SIGINT)
    assert command.wait(30) != 0
    gate.may_end.set()
    thread.join()
    assert request_action(tmp_path, "count", {}) == {"count": 1}


def test_a_stop_answers_the_request_under_way_and_refuses_those_that_wait(
    server: ControlServer, gate: Gate, calls: Calls, tmp_path: Path
) -> None:
    under_way, answered = in_thread(lambda: request_action(tmp_path, "gate", {}))
    assert gate.begun.wait(10)
    with connect(tmp_path) as silent, connect(tmp_path) as waiting:
        waiting.sendall(post("count"))
        while fcntl.ioctl(waiting, termios.TIOCOUTQ, b"\0" * 4) != b"\0" * 4:
            os.sched_yield()
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert silent.recv(1) == b""
        gate.may_end.set()
        stopping.join()
        assert b"the node is stopping; nothing was done" in waiting.recv(65536)
    under_way.join()
    assert answered == [{"ended": True}]
    assert calls.count == 0
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NoControlSocket):
        request_action(tmp_path, "count", {})


@pytest.mark.slow
def test_an_idle_server_does_not_wake_up(server: ControlServer, tmp_path: Path) -> None:
    assert request_action(tmp_path, "add", {"a": 1, "b": 2}) == {"sum": 3}
    [thread] = [thread for thread in threading.enumerate() if thread.name == "control"]

    def switches() -> int:
        text = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
        return int(text.rpartition("\nvoluntary_ctxt_switches:")[2].split()[0])

    before = switches()
    threading.Event().wait(1.5)
    assert switches() - before <= 1, "socketserver wakes up twice a second by itself"


@pytest.mark.slow
def test_a_node_that_is_killed_at_work_is_told_from_one_that_did_nothing(tmp_path: Path, run_child: RunChild) -> None:
    node = run_child(WORKING_NODE, str(tmp_path))
    assert line_of(node) == "ready"
    thread, outcome = in_thread(lambda: request_action(tmp_path, "work", {}))
    assert line_of(node) == "begun"
    node.kill()
    thread.join()
    assert str(outcome[0]) == "the node ended during this action: check what was done, then try again"
    assert (tmp_path / "control.sock").is_socket(), "a killed node leaves its socket"
    with pytest.raises(NoControlSocket):
        request_action(tmp_path, "work", {})
    assert line_of(run_child(WORKING_NODE, str(tmp_path))) == "ready"
    with pytest.raises(NotPerformed, match="unknown action"):
        request_action(tmp_path, "other", {})
    assert (tmp_path / "begun").read_text() == "begun\n", "performed at most once"


def test_nobody_waits_for_a_stopped_node(tmp_path: Path, run_child: RunChild, monkeypatch: pytest.MonkeyPatch) -> None:
    node = run_child(WORKING_NODE, str(tmp_path))
    assert line_of(node) == "ready"
    monkeypatch.setattr(control_socket, "ANSWER_SECONDS", 0.2)
    node.send_signal(signal.SIGSTOP)
    with pytest.raises(NotPerformed, match=r"did not answer within 0\.2 s: nothing was done\. If .* restart it"):
        request_action(tmp_path, "work", {})
    assert not (tmp_path / "begun").exists()


def test_any_path_of_a_root_can_hold_the_socket(tmp_path: Path) -> None:
    root = tmp_path / ("deep" * 50) / ("deeper" * 30)
    root.mkdir(parents=True)
    with running(ControlServer(root, {"add": add})):
        assert request_action(root, "add", {"a": 1, "b": 2}) == {"sum": 3}


def test_only_the_owner_of_the_root_may_open_the_socket(server: ControlServer, tmp_path: Path) -> None:
    assert (tmp_path / "control.sock").stat().st_mode & 0o777 == 0o600
    assert server._server.socket.family is socket.AF_UNIX


def test_a_process_of_another_user_is_refused(tmp_path: Path, calls: Calls) -> None:
    listening = control_socket._Server(str(tmp_path / "control.sock"), {"count": calls}, users=[os.getuid() + 1])
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    try:
        assert answer(tmp_path, post("count"))[0] == 403
        with pytest.raises(NotPerformed, match="only the owner of the root"):
            request_action(tmp_path, "count", {})
        assert calls.count == 0
    finally:
        listening.stop()
        thread.join()


def test_a_node_works_where_no_socket_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "control.sock").mkdir()
    server = ControlServer(tmp_path, {})
    server.start()
    server.stop()
    with pytest.raises(NotPerformed):
        request_action(tmp_path, "count", {})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = settings_of(tmp_path / "root")
    with Repository(settings):
        pass
    return settings


def test_an_action_is_performed_by_the_command_where_no_process_holds_the_root(settings: Settings) -> None:
    assert perform_action(settings, "reconvert", series=[]) == {"owed": 0}


def test_an_action_is_performed_by_the_process_that_holds_the_root(settings: Settings, calls: Calls) -> None:
    with Repository(settings), running(ControlServer(settings.storage.root, {"count": calls})):
        assert perform_action(settings, "count") == {"count": 1}


@pytest.mark.slow
def test_a_command_waits_for_an_import_and_then_says_so(
    settings: Settings, run_child: RunChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(root, "REQUEST_SECONDS", 0.5)
    assert line_of(run_child(HOLDING_IMPORT, str(settings.storage.root))) == "ready"
    with pytest.raises(NotPerformed, match=r"accepted no request within 0\.5 s; it may be an import"):
        perform_action(settings, "reconvert", series=[])


@pytest.mark.slow
def test_a_command_that_waited_for_an_import_goes_on_when_it_ends(
    settings: Settings, run_child: RunChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = run_child(HOLDING_IMPORT, str(settings.storage.root))
    assert line_of(child) == "ready"
    refused = threading.Event()
    request = root.request_action

    def observed(*arguments: Any) -> dict[str, Any]:
        refused.set()
        return request(*arguments)

    monkeypatch.setattr(root, "request_action", observed)
    thread, outcome = in_thread(lambda: perform_action(settings, "reconvert", series=[]))
    assert refused.wait(20)
    child.stdin.close()
    thread.join()
    assert outcome == [{"owed": 0}]


def test_an_action_of_an_extension_that_is_switched_off_is_named_with_the_remedy(tmp_path: Path) -> None:
    settings = Settings.model_validate({"storage": {"root": tmp_path / "root"}, "extensions": {"disabled": ["labels"]}})
    with pytest.raises(UsageError, match=r"^remove-comment is of an extension that \[extensions\] disabled"):
        perform_action(settings, "remove-comment", may_create_index=True, comment=1, who="ann")


@pytest.mark.slow
@pytest.mark.sqlite("adds rows to the file")
def test_more_series_are_reconverted_than_a_request_names(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive has more series than fit into a request, and each commit holds up those that come behind it."""
    monkeypatch.setattr(control_socket, "MAX_BODY_BYTES", 100_000)
    received(settings, new_series(1))
    with closing(sqlite3.connect(settings.storage.root / FILE_NAME)) as connection, connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(series)") if row[1] != "id"]
        copied = ", ".join("'1.2.3.' || value" if name == "series_instance_uid" else name for name in columns)
        connection.execute("UPDATE series SET state = 'converted', due_at = NULL")
        numbers = "WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < 1499)"
        connection.execute(
            f"INSERT INTO series ({', '.join(columns)}) {numbers} SELECT {copied} FROM n, (SELECT * FROM series)"
        )
    with Repository(settings) as repository, running(ControlServer(settings.storage.root, repository.actions.by_name)):
        where = ("reconvert", "--where", 'modality == "XX"', "--root", settings.storage.root)
        assert run(*where).stdout == "0 series will be converted again\n"
        done = run("reconvert", "--all", "--root", settings.storage.root)
    assert (done.returncode, done.stdout) == (0, "1500 series will be converted again\n"), done.stderr
