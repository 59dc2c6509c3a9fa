"""The log of a process that is killed."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from node.runtime import logs

NODE = Path(logs.__file__).parent


@pytest.mark.slow
def test_the_lines_of_a_killed_process_are_in_the_file_and_the_next_one_appends(tmp_path: Path) -> None:
    file = tmp_path / "node.log"
    program = f"""
import os, signal, structlog
from pathlib import Path
import pytest

from node.runtime import logs
logs.configure("info", "json")
logs.write_to_file(Path({str(file)!r}), 1_000_000, 3)
for number in range(100):
    structlog.get_logger().info("instance_kept", count=number)
os.kill(os.getpid(), signal.SIGKILL)
"""
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", program], cwd=NODE.parent, capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL
    assert [json.loads(line)["count"] for line in file.read_text().splitlines()] == [*range(100)] * 2
