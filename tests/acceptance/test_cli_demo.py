import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.preloaded import Process, run


@pytest.mark.slow
def test_the_demo_converts_a_real_series_and_a_phantom_and_both_read_back_right(tmp_path: Path) -> None:
    done = run("demo", "--root", tmp_path / "demo", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["rows"]["v_series"], told["rows"]["v_images"], told["rows"]["v_failures"]) == (3, 66, 0)
    volumes = [file for file in told["files"] if file["kind"] == "volume"]
    assert sorted((file["format"], json.loads(file["shape"])) for file in volumes) == [
        (name, shape) for name in ("mhd", "nifti") for shape in ([16, 16, 5], [128, 128, 1], [176, 208, 60])
    ]
    assert {file["verdict"] for file in volumes} == {"right"}
    assert [file["kind"] for file in told["files"]].count("thumbnail") == 3
    for file in told["files"]:
        assert Path(file["path"]).stat().st_size == file["bytes"]


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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    assert "voxels have wrong values" in done.stderr
    assert "oblique head phantom: no nifti volume" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_demo_needs_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    done = run("demo", "--root", tmp_path)
    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["something"]


@pytest.mark.slow
def test_a_kept_demo_answers_until_it_is_stopped(tmp_path: Path) -> None:
    # Other signals: test_the_first_signal_asks_to_stop_and_the_second_aborts, which is about the same handler.
    with (tmp_path / "log").open("w") as log:
        process = Process(["demo", "--root", str(tmp_path / "demo"), "--keep"], {}, log)
    try:
        with process.stdout:
            line = next(line for line in process.stdout if "dcmsend" in line)
            _, _, title, _, _, _, host, port, *_ = line.split()
            done = run("echo", f"{title}@{host}:{port}")
            assert "answers" in done.stdout, done.stderr
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
    finally:
        process.kill()
