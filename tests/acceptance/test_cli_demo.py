import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.preloaded import Process, run


@pytest.mark.slow
def test_the_demo_fails_when_a_volume_is_not_the_truth(tmp_path: Path) -> None:
    # The scanner's truth is turned upside down: what comes out must no longer pass.
    code = (
        "import node.extensions.demo.known_series as phantom; "
        "from dataclasses import replace; "
        "scan = phantom.head_phantom; "
        "phantom.head_phantom = lambda: (lambda p: replace(p, hounsfield=p.hounsfield[::-1]))(scan()); "
        f"from node.cli import main; main(['demo', '--root', {str(tmp_path / 'demo')!r}])"
    )
    with (tmp_path / "log").open("w") as log:
        process = Process([], {}, log, program=code)
        try:
            with process.stdout:
                process.stdout.read()
            assert process.wait(100) == 1
        finally:
            process.kill()
    reported = (tmp_path / "log").read_text()
    assert "voxels have wrong values" in reported
    assert "oblique head phantom: no nifti volume" in reported
    assert "Traceback" not in reported


def test_the_demo_needs_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    done = run("demo", "--root", tmp_path)
    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["something"]


@pytest.mark.long
def test_a_demo_on_a_terminal_speaks_at_once_opens_the_page_stays_and_cleans_up(tmp_path: Path) -> None:
    # Other signals: test_the_first_signal_asks_to_stop_and_the_second_aborts, which is about the same handler.
    temporary, opened = tmp_path / "tmp", tmp_path / "opened"
    temporary.mkdir()
    (tmp_path / "browser").write_text(f"#!/bin/sh\necho $1 > {opened}\n")
    (tmp_path / "browser").chmod(0o755)
    environment = {"TMPDIR": str(temporary), "DISPLAY": ":9", "BROWSER": f"{tmp_path / 'browser'} %s"}
    ours, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "node", "demo"],
        stdin=terminal, stdout=terminal, stderr=subprocess.DEVNULL, env={**os.environ, **environment},
    )  # fmt: skip
    os.close(terminal)
    try:
        with os.fdopen(ours, encoding="utf-8") as screen:
            assert str(temporary) in screen.readline()
            assert "removed with all that you sent it" in next(line for line in screen if "until Ctrl-C" in line)
            address = next(line for line in screen if line.startswith("look ")).split()[1]
            sender = next(line for line in screen if "dcmsend" in line).split("dcmsend")[1].split()
            title, host, port = sender[1], sender[5], sender[6]
            assert "answers" in run("peers", "echo", f"{title}@{host}:{port}").stdout
            next(line for line in screen if line.startswith("read more"))
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
    finally:
        process.kill()
    assert opened.read_text().strip() == address
    assert list(temporary.iterdir()) == []
