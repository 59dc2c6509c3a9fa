"""Documents do what they show: their commands are run in order, and what they print is compared."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.preloaded import Process, run
from tests.rows import view_rows
from tests.waiting import until

PROJECT = Path(__file__).resolve().parents[2]
VARYING = re.compile(
    r"\b2\.25\.\d+|(?<=/)\d+-[0-9a-f]{8}(?=/)|\b[\d.]+ s\b|\btest-[\d.]+|127\.0\.0\.1:\d+"
    r"|\b20\d\d-\d\d-\d\d \d\d:\d\d UTC|\b[0-9a-f]{32}\b|until 20[\d-]+"
)


def steps(name: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of a document, with its here-document, and the lines that it is said to print."""
    text = (PROJECT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, flags=re.MULTILINE):
        for step in re.split(r"^    \$ ", block, flags=re.MULTILINE)[1:]:
            lines = [line.removeprefix("    ") for line in step.rstrip().split("\n")]
            end = lines.index("END") + 1 if "END" in lines[0] else 1
            yield "\n".join(lines[:end]), lines[end:]


FILES = next(steps("tutorial"))[0]
"""The first command, which sets a variable: every other one has a shell of its own."""


class Reader:
    """Somebody who types the commands of the tutorial, with a node on free ports that sooner finds a series quiet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.node: Process | None = None
        self.port = ""

    def type(self, command: str) -> str:
        if command.startswith("voxelnode serve"):
            return self.serve()
        if command.startswith("voxelnode") and "|" not in command:
            done = run(*shlex.split(command)[1:], folder=self.folder)
        else:
            command = command.replace(" 11112 ", f" {self.port} ")
            command = command.replace("-m pynetdicom ", "-m tests.awaited_answers ")
            done = subprocess.run(
                ["bash", "-c", f"{FILES}; {command}"],
                cwd=self.folder, env={**os.environ, "PYTHONPATH": str(PROJECT)},
                capture_output=True, text=True, timeout=100, check=False,
            )  # fmt: skip
        assert done.returncode in (0, 1), (command, done.stdout, done.stderr)
        return done.stdout

    def serve(self) -> str:
        self.stop()
        variables = {"VOXELNODE_SERIES__QUIET_SECONDS": "1"}
        with (self.folder / "log").open("a") as log:
            self.node = Process(["serve", "--create", "--port", "0", "--web-port", "0"], variables, log, self.folder)
        lines = [self.node.stdout.readline(), self.node.stdout.readline()]
        self.port = lines[0].partition("127.0.0.1:")[2].partition(",")[0]
        return "".join(lines)

    def wait(self, command: str) -> None:
        """Wait as long as the tutorial says: until every series and every job has ended."""
        if self.node is not None:
            root = self.folder / "node"
            waiting = "SELECT 1 FROM v_series WHERE state IN ('receiving', 'converting')"
            until(lambda: not view_rows(root, waiting), 60, command)
            if "replay" in command or "import" in command:
                until(lambda: view_rows(root, "SELECT 1 FROM v_series WHERE modality = 'SEG'"), 60, command)
                until(lambda: not view_rows(root, waiting), 60, command)

    def stop(self) -> None:
        if self.node is not None:
            self.node.kill()
            self.node.wait()
            self.node.stdout.close()


def comparable(lines: list[str], folder: Path) -> list[str]:
    return sorted(" ".join(VARYING.sub("_", line.replace(str(folder), "/tutorial")).split()) for line in lines)


@pytest.mark.timeout(400)  # ten seconds of a processor, in some twenty processes one after the other
@pytest.mark.parametrize(
    "document", [pytest.param("tutorial", marks=pytest.mark.long), pytest.param("model", marks=pytest.mark.slow)]
)
def test_a_document_does_what_it_shows(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")  # the environment is active
    reader = Reader(tmp_path)
    typed = list(steps(document))
    assert len(typed) > 10
    try:
        for command, shown in typed:
            printed = reader.type(command).splitlines()
            if any(word in command for word in ("storescu", "import heart", "replay")):
                reader.wait(command)
            assert comparable(printed, tmp_path) == comparable(shown, tmp_path), command
    finally:
        reader.stop()
