"""docs/upgrade.md, forward to a version with one migration more and back, block by block as a reader types it.

Both versions are wheels in a virtual environment of their own, whose dependencies are those of this one.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from tests import make
from tests.acceptance.served import until
from tests.newer import NEWER
from tests.programs import SYSTEM_PATH, free_port, needs

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs/upgrade.md").read_text(encoding="utf-8")

MIGRATION = f"""
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "{NEWER}", "r0001", None, None


def upgrade():
    op.add_column("patients", sa.Column("colour", sa.Text()))
    op.execute("UPDATE patients SET colour = 'red'")


def downgrade():
    op.drop_column("patients", "colour")
"""

TREE = ("node", "migrations", "docs", ".ci", "pyproject.toml", "voxelnode.py", "README.md", "LICENSE")
TREE += ("config.example.toml",)
"""What a wheel is built from."""

CHANGES = {
    "node/version.py": (r'PUBLIC = "[^"]+"', 'PUBLIC = "0.2.1.dev0"'),
    "node/index/rows/about_keys.py": ('REVISION = "r0001"', f'REVISION = "{NEWER}"'),
    "node/index/rows/models/levels.py": (
        r'(= "patients"\n)',
        r"\1    colour: Mapped[str | None] = mapped_column(Text)\n",
    ),
}
"""What differs in the newer version, beside its migration."""


def blocks(section: str) -> list[list[str]]:
    """The blocks of commands of a section of the document, by lines."""
    text = DOCUMENT.partition(f"## {section}\n")[2].partition("\n## ")[0]
    found = re.findall(r"(?:^ {4,}\S.*\n)+", text, flags=re.MULTILINE)
    return [[line.strip() for line in block.splitlines()] for block in found]


class Machine:
    """What the commands of the document change, below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.web, self.dicom = folder, free_port(), free_port()
        self.bin = folder / "opt/voxelnode/bin"
        self.node: subprocess.Popen[bytes] | None = None
        for name in ("var/lib", "etc/voxelnode", "shims", "new"):
            (folder / name).mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.bin.parent], check=True)
        [packages] = self.bin.parent.glob("lib/python*/site-packages")
        (packages / "those_of_the_tests.pth").write_text(sysconfig.get_path("purelib"))
        pip = f"{sys.executable} -m pip --python {self.bin}/python"
        self._program(self.bin / "pip", f'{pip} "$@" --no-deps --no-index')
        self._program(folder / "shims/sudo", 'shift 2; "$@"')
        (folder / "etc/voxelnode/voxelnode.toml").write_text(
            f'[storage]\nroot = "{folder}/var/lib/voxelnode"\n[dicom]\nport = {self.dicom}\n[web]\nport = {self.web}\n'
            "[series]\nquiet_seconds = 0.5\n"
        )

    def _program(self, path: Path, line: str) -> None:
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)

    def wheel(self, version: str, changes: dict[str, tuple[str, str]], commit: str) -> Path:
        """The wheel of this tree with changes."""
        tree = self.folder / version
        for path in map(ROOT.joinpath, TREE):
            (shutil.copytree if path.is_dir() else shutil.copy)(path, tree / path.name)
        for name, (pattern, text) in changes.items():
            changed, count = re.subn(pattern, text, (tree / name).read_text(), flags=re.DOTALL)
            assert count == 1, name
            (tree / name).write_text(changed)
        if changes:
            (tree / f"migrations/versions/{NEWER}_newer.py").write_text(MIGRATION)
        environment = {**os.environ, "VOXELNODE_COMMIT": commit * 40}
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel"], cwd=tree, env=environment, check=True
        )
        [wheel] = (tree / "dist").iterdir()
        return wheel

    def type(self, line: str) -> str:
        """Run a line of the document, with the folders of this machine; return its output."""
        if line.startswith("systemctl stop"):
            self.stop()
            return ""
        if line.startswith("systemctl start"):
            self.start()
            return ""
        line = re.sub(r"(?<![\w.])/(?=opt|var|etc|backup)", f"{self.folder}/", line)
        path = f"{self.folder}/shims:{self.bin}:{SYSTEM_PATH}"
        configuration = str(self.folder / "etc/voxelnode/voxelnode.toml")
        done = subprocess.run(
            ["sh", "-c", line], cwd=self.folder / "new", capture_output=True, text=True, check=False,
            env={"PATH": path, "VOXELNODE_CONFIG": configuration, "HOME": str(self.folder)},
        )  # fmt: skip
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        return done.stdout

    def start(self, *options: str) -> None:
        configuration = str(self.folder / "etc/voxelnode/voxelnode.toml")
        with (self.folder / "log").open("ab") as log:
            self.node = subprocess.Popen(
                [self.bin / "voxelnode", "serve", *options, "--config", configuration], stderr=log, stdout=log
            )
        until(self.is_ready, 180, "a node that is ready")

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.web}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        if self.node is not None:
            self.node.terminate()
            assert self.node.wait(60) == 0
            self.node = None

    def send(self, count: int) -> None:
        """Send a series, and wait until it is converted."""
        folder = self.folder / "sent"
        make.saved(make.ct_series(count), folder)
        subprocess.run([needs("dcmsend"), "-aec", "VOXELNODE", "+sd", "127.0.0.1", str(self.dicom), folder], check=True)
        shutil.rmtree(folder)

    def instances(self, of: str = "") -> int:
        return int(json.loads(self.type(f"voxelnode status --json {of}"))["instances"])


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    if machine.node is not None:
        machine.node.kill()
        machine.node.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)  # two builds, and starts of commands that nothing has loaded
def test_the_document_leads_forward_and_back(machine: Machine) -> None:
    old = machine.wheel("old", {}, "a")
    machine.type(f"/opt/voxelnode/bin/pip install {old}")
    machine.start("--create")
    machine.send(4)
    [backup], *forward = blocks("How to upgrade")
    machine.type(backup)
    shutil.copy(old, machine.folder / "backup")
    machine.send(4)

    shutil.copy(machine.wheel("newer", CHANGES, "b"), machine.folder / "new")
    for block in forward:
        for line in block:
            machine.type(line)
    assert machine.type("voxelnode --version").strip().endswith("0.2.1.dev0+gbbbbbbbbbbbb")
    assert machine.instances() == 8
    machine.send(4)

    [back] = blocks("Back to the old version")
    for line in back:
        machine.type(line)
        if line.startswith("systemctl stop"):
            shutil.copytree(machine.folder / "var/lib/voxelnode", machine.folder / "var/lib/newer")
    assert machine.type("voxelnode --version").strip().endswith("+gaaaaaaaaaaaa")
    assert machine.instances() == 12
    machine.stop()
    assert machine.type("voxelnode fsck --hash").endswith("journal, index, archive and volumes agree\n")

    machine.type("voxelnode restore /backup --root /var/lib/restored --ledger /var/lib/newer")
    assert machine.instances("--root /var/lib/restored") == 12
    assert machine.type("voxelnode fsck --root /var/lib/restored").endswith("agree\n")
