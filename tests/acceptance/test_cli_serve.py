import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from node import __version__
from node.cli.look.status import live_of
from node.control.root import locked_root
from node.receive.readiness import intake_of, readiness_of, write_counters
from node.settings.core import Storage
from node.settings.model import Settings
from tests.acceptance.served import Served, until
from tests.preloaded import Process, run

VOXELNODE = [sys.executable, "-m", "node"]
READY = re.compile(r"voxelnode ready: AE (\S+) on (\S+):(\d+), root (.*)\n")


def ready(process: subprocess.Popen[str] | Process) -> tuple[str, str, int, str]:
    """AE title, host, port and root of the one readiness line."""
    line = process.stdout.readline()
    match = READY.fullmatch(line)
    assert match, line
    return match[1], match[2], int(match[3]), match[4]


def echo(title: str, host: str, port: int) -> dict[str, object]:
    return json.loads(run("peers", "echo", f"{title}@{host}:{port}", "--json").stdout)


@pytest.mark.slow
def test_serve_tells_once_that_it_is_ready_answers_and_ends_with_0(tmp_path: Path) -> None:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("VOXELNODE_")}
    with subprocess.Popen(
        [*VOXELNODE, "serve", "--create", "--port", "0", "--web-port", "0", "--root", "here", "--aet", "PACS1"],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            title, host, port, root = ready(process)
            assert (title, host, root) == ("PACS1", "127.0.0.1", str(tmp_path / "here"))
            assert re.fullmatch(r"pages, REST and DICOMweb: http://127\.0\.0\.1:\d+/\n", process.stdout.readline())
            assert echo(title, host, port)["ok"] is True
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out) == (0, "")
    lines = [json.loads(line) for line in err.splitlines()]
    assert [line["version"] for line in lines if line["event"] == "ready"] == [__version__]
    assert lines[-1]["event"] == "stopped"


def test_serve_reports_that_a_peer_which_is_a_destination_alone_closes_the_node(tmp_path: Path) -> None:
    (tmp_path / "voxelnode.toml").write_text('[peers.WS]\nae_title = "WS1"\nhost = "127.0.0.1"\nmay = []\n')
    order = ["serve", "--create", "--port", "0", "--web-port", "0", "--root", "here", "--host", "127.0.0.1"]
    with (tmp_path / "log").open("w") as log:
        process = Process(order, {}, log, tmp_path)
        try:
            with process.stdout:
                title, host, port, _ = ready(process)
                process.stdout.readline()
                sentence = "[peers] lists 1 peer, and it may not store: all other senders are rejected"
                assert process.stdout.readline() == f"{sentence}; the node listens on 127.0.0.1\n"
            assert echo(title, host, port)["ok"] is False
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_to_stop_and_the_second_aborts(first: signal.Signals) -> None:
    code = f"""
import signal, threading
from node.cli.run.serve import stop_at_signal
stop = threading.Event()
stop_at_signal(stop)
with stop._cond:  # as while it begins to wait
    signal.raise_signal({int(first)})
stop.wait()
print("draining", flush=True)
threading.Event().wait()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "draining\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 1


@pytest.mark.slow
def test_systemd_hears_when_the_node_is_ready_alive_and_stopping_though_nobody_reads_its_output(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        with subprocess.Popen(
            [*VOXELNODE, "serve", "--create", "--root", str(tmp_path / "root"), "--port", "0", "--web-port", "0"],
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "9000000"},
            stdout=writer, stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            os.close(writer)
            try:
                told = re.fullmatch(r"READY=1\nSTATUS=AE (\S+) on (\S+):(\d+)", manager.recv(4096).decode())
                assert told
                assert manager.recv(4096) == b"WATCHDOG=1"
                assert echo(told[1], told[2], int(told[3]))["ok"] is True
                process.terminate()
                heard = b"WATCHDOG=1"
                while heard == b"WATCHDOG=1":
                    heard = manager.recv(4096)
                assert heard == b"STOPPING=1\nSTATUS=draining"
                assert process.wait(60) == 0
            finally:
                process.kill()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served") / "root") as node:
        yield node


@pytest.mark.slow
def test_a_second_node_on_one_root_is_refused_with_the_reason(served: Served) -> None:
    second = run("serve", "--root", served.root, "--port", "0", "--web-port", "0")
    assert (second.returncode, second.stdout) == (1, "")
    assert "is in use by another voxelnode process" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_port_in_use_is_reported_in_one_line(served: Served, tmp_path: Path) -> None:
    second = run("serve", "--create", "--root", tmp_path / "two", "--port", served.port, "--web-port", "0")
    assert second.returncode == 2
    reported = second.stderr.splitlines()[-1]
    assert reported.startswith("voxelnode: ")
    assert "in use" in reported
    assert "Traceback" not in second.stderr


@pytest.mark.slow
def test_status_doctor_and_the_database_may_be_asked_while_the_node_runs(served: Served, tmp_path: Path) -> None:
    for command in (["status"], ["db", "check"], ["doctor"], ["db", "path"]):
        done = run(*command, "--root", served.root, "--json", folder=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        json.loads(done.stdout)


@pytest.mark.long
def test_a_node_that_hangs_or_was_killed_is_no_node_that_runs(tmp_path: Path) -> None:
    with Served(tmp_path / "root") as node, ThreadPoolExecutor() as pool:  # what asks a node that hangs waits for it
        port = {"VOXELNODE_DICOM__PORT": str(node.port)}

        def done(command: str) -> subprocess.CompletedProcess[str]:
            return run(command, "--json", "--root", node.root, environment=port)

        def told(command: str) -> dict[str, Any]:
            return json.loads(done(command).stdout)

        until(lambda: told("status")["ready"] == "yes", 30, "the state is written")
        assert told("status")["intake"] == "open"
        assert f"the running node listens at 127.0.0.1:{node.port}" in str(told("doctor"))

        node.process.send_signal(signal.SIGSTOP)
        ordered = pool.submit(done, "reload")
        said: list[str] = []

        def is_late() -> bool:
            said.append(told("status")["ready"])
            return said[-1] != "yes"

        until(is_late, 60, "the node is asked, as its state is late")
        assert "and does not answer: it hangs" in said[-1]
        found = done("doctor")
        findings = {row["check"]: row for row in json.loads(found.stdout)["findings"]}
        assert (found.returncode, findings["node"]["state"]) == (1, "broken")
        assert "restart the node" in findings["node"]["remedy"]
        assert "end the program" not in str(findings)
        asked = ordered.result()
        assert (asked.returncode, "restart it" in asked.stderr) == (1, True)

        node.process.send_signal(signal.SIGCONT)
        until(lambda: told("status")["ready"] == "yes", 30, "the state is written again")
        node.kill()
        status = told("status")
        assert (status["ready"], status["intake"]) == (
            "no node is running: the last one was killed",
            "closed until a node runs",
        )
        assert "the running node" not in str(told("doctor"))


def test_a_node_that_writes_nothing_more_has_an_unknown_state_and_a_disk_is_looked_at_now(tmp_path: Path) -> None:
    settings = Settings(storage=Storage(root=tmp_path))
    with locked_root(tmp_path):
        write_counters({}, tmp_path, {})
        live = live_of(tmp_path)
        assert (intake_of(settings, live), readiness_of(live, tmp_path)) == ("open", "yes")
        assert "are required (twice [storage] reserve_bytes)" in intake_of(settings, {**live, "low_bytes": 1 << 60})
        later = {**live, "age_seconds": 16.0}
        assert intake_of(settings, later) == "unknown"
        assert readiness_of(later, tmp_path).startswith("unknown: the node wrote its state 16 s ago; it hangs, or")
    assert intake_of(settings, live_of(tmp_path)) == "closed until a node runs"
