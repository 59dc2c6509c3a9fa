"""A person installs the node as a service, has it backed up, and restores it: install.md, deploy.md, backup.md."""

import pytest

from tests import make
from tests.documents.blocks import Command
from tests.documents.machine import Machine
from tests.rows import view_rows
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.sqlite("what it does is about the file of the index")]


@pytest.mark.timeout(400)
@pytest.mark.peer
@pytest.mark.runs(
    "docs/install.md", "docs/deploy.md: systemd", "docs/backup.md: Every night", "docs/backup.md: Restore"
)
def test_a_node_is_installed_as_a_service_backed_up_and_restored(machine: Machine) -> None:
    machine.follow("docs/install.md", steps={"voxelnode serve": lambda command: machine.start(command.text, 2)})
    machine.stop()
    machine.follow("docs/deploy.md", "systemd")
    make.saved(make.ct_series(3), machine / "/srv/scans")
    machine.type("dcmsend -aec VOXELNODE +sd 127.0.0.1 11112 /srv/scans")
    until(lambda: view_rows(machine / "/var/lib/voxelnode", "SELECT 1 FROM v_volumes"), 60, "a volume")
    machine.follow("docs/backup.md", "Every night")
    machine.type("systemctl start voxelnode-backup")
    machine.type("systemctl stop voxelnode")

    def look(command: Command) -> None:
        machine.start(command.text, 2)
        machine.stop()

    restore = machine.typing(errors="all_compared")
    machine.follow(
        "docs/backup.md",
        "Restore",
        {"voxelnode serve": look, "voxelnode restore": restore, "sudo -u voxelnode": restore},
    )
    assert len(view_rows(machine / "/var/lib/voxelnode", "SELECT 1 FROM v_images")) == 3
