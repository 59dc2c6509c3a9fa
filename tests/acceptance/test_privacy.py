"""Only the owner may read what a node keeps, whatever the umask and whoever made the folder."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from node.archive.root import others_may
from tests import make
from tests.acceptance.served import Served, until
from tests.acceptance.test_custody import send, voxelnode

pytestmark = pytest.mark.slow


class ServedForAll(Served):
    """A node that was started with umask 0: its files are for everybody, unless it thinks of that."""

    def start(self) -> Served:
        command = [sys.executable, "-m", "node", "serve", "--create", "--root", str(self.root), "--port", "0"]
        environment = {**os.environ, **self.environment}
        with (self.root.parent / "serve.log").open("a") as log:
            self.process = subprocess.Popen(  # type: ignore[assignment]
                command, umask=0, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )
        self.port = self.port_of(self.process.stdout.readline())
        return self


def exposed(root: Path) -> set[str]:
    """What others have rights on, by path below the root."""
    return {str(path.relative_to(root)) for path in [root, *root.rglob("*")] if others_may(path)}


@pytest.mark.sqlite("starts commands that look for the index in the root")
def test_nobody_else_may_read_what_a_node_wrote(tmp_path: Path) -> None:
    with ServedForAll(tmp_path / "root") as node:
        send(node, tmp_path / "out", *make.ct_series(3))
        node.wait_until_idle()
        until(lambda: node.rows("SELECT 1 FROM v_volumes"), 10, "a volume is there")
        assert exposed(node.root) == set()
        assert node.terminate() == 0
    assert exposed(tmp_path / "root") == set()


def test_a_root_that_others_may_read_is_reported_and_mended(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "objects").mkdir(parents=True)
    for folder in (root, root / "objects"):
        folder.chmod(0o755)
    with Served(root) as node:
        assert node.terminate() == 0
    assert "root_open_to_others" in (tmp_path / "serve.log").read_text()
    assert exposed(root) == {".", "objects"}
    before = privacy(root)
    assert (before["state"], "--repair" in before["remedy"]) == ("warning", True)
    assert str(root / "objects") in before["found"]
    assert privacy(root, "--repair")["state"] == "ok"
    assert exposed(root) == set()
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def privacy(root: Path, *options: str) -> dict[str, str]:
    """What ``doctor`` says of the rights on a root."""
    findings: list[dict[str, str]] = voxelnode(root, "doctor", *options)["findings"]
    [found] = [finding for finding in findings if finding["check"] == "privacy"]
    return found
