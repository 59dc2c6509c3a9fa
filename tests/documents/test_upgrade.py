"""docs/upgrade.md, forward to a version with one migration more and back, block by block as a reader types it.

Both versions are wheels, and the node is a service.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import make
from tests.documents.blocks import PROJECT, Command
from tests.documents.machine import Machine
from tests.newer import NEWER
from tests.rows import view_rows
from tests.waiting import until

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


def wheel(tree: Path, changes: dict[str, tuple[str, str]], commit: str) -> Path:
    """The wheel of this tree with changes."""
    for path in map(PROJECT.joinpath, TREE):
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tree / path.name)
    for name, (pattern, text) in changes.items():
        changed, count = re.subn(pattern, text, (tree / name).read_text(), flags=re.DOTALL)
        assert count == 1, name
        (tree / name).write_text(changed)
    if changes:
        (tree / f"migrations/versions/{NEWER}_newer.py").write_text(MIGRATION)
    environment = {**os.environ, "VOXELNODE_COMMIT": commit * 40}
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel"], cwd=tree, env=environment, check=True)
    [built] = (tree / "dist").iterdir()
    return built


def send(machine: Machine) -> None:
    """Send a series of four instances, and wait until it is converted."""
    make.saved(make.ct_series(4), machine / "/srv/sent")
    machine.type("dcmsend -aec VOXELNODE +sd 127.0.0.1 11112 /srv/sent && rm -r /srv/sent")
    waiting = "SELECT 1 FROM v_series WHERE state IN ('receiving', 'converting')"
    until(lambda: not view_rows(machine / "/var/lib/voxelnode", waiting), 60, "its volume")


def instances(machine: Machine, root: str) -> int:
    return int(machine.type(f"/opt/voxelnode/bin/voxelnode status --json --root {root} | jq .instances"))


@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.timeout(900)  # two builds, and starts of commands that nothing has loaded
@pytest.mark.sqlite("the document is about one host")
@pytest.mark.runs("docs/upgrade.md")
def test_the_document_leads_forward_and_back(machine: Machine) -> None:
    root, version = "/var/lib/voxelnode", "/opt/voxelnode/bin/voxelnode --version"
    old = wheel(machine / "/srv/old", {}, "a")

    def install(command: Command) -> None:
        machine.type(command.text.replace("install .", f"install /srv/old/dist/{old.name}"))

    machine.follow("docs/deploy.md", "systemd", {"python3 -m venv": install})
    send(machine)
    machine.type("install -d -o voxelnode -g voxelnode -m 0700 /backup && mkdir /srv/new && cd /srv/new")
    shutil.copy(wheel(machine / "/srv/newer", CHANGES, "b"), machine / "/srv/new")

    def back_up(command: Command) -> None:
        machine.type(command.text, errors="all_compared")
        shutil.copy(old, machine / "/backup")
        send(machine)  # behind the backup

    machine.follow(
        "docs/upgrade.md", "How to upgrade", {"sudo -u voxelnode /opt/voxelnode/bin/voxelnode backup": back_up}
    )
    assert machine.type(version).strip().endswith("0.2.1.dev0+gbbbbbbbbbbbb")
    machine.type("curl http://127.0.0.1:8080/readyz")
    assert instances(machine, root) == 8
    send(machine)

    def stop(command: Command) -> None:
        machine.type(f"{command.text} && cp -a {root} /srv/behind")

    machine.follow("docs/upgrade.md", "Back to the old version", {"systemctl stop": stop})
    assert machine.type(version).strip().endswith("+gaaaaaaaaaaaa")
    machine.type("curl http://127.0.0.1:8080/readyz")
    assert instances(machine, root) == 12
    voxelnode = "systemctl stop voxelnode && sudo -u voxelnode /opt/voxelnode/bin/voxelnode"
    assert "journal, index, archive and volumes agree" in machine.type(f"{voxelnode} fsck --hash --root {root}")

    voxelnode = "/opt/voxelnode/bin/voxelnode"
    machine.type(
        f"{voxelnode} restore /backup --root /srv/restored --ledger /srv/behind", errors="all_compared|instances_lost"
    )
    assert instances(machine, "/srv/restored") == 12
    assert "agree" in machine.type(f"{voxelnode} fsck --root /srv/restored")
