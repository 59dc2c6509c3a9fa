"""Hosts that share one index in PostgreSQL, each with a root of its own, and one archive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from node.index.backend import ServerPlace
from node.index.database import reading
from node.index.engine import upgrade
from tests import make
from tests.acceptance.served import Served, until
from tests.acceptance.test_kill import Sender
from tests.made_once import IN_POSTGRESQL
from tests.postgresql import Server, start

pytest.importorskip("psycopg", reason="psycopg is not installed")

pytestmark = pytest.mark.skipif(IN_POSTGRESQL, reason="has databases of its own")


class Host(Served):
    """A served host, with a root of its own in a folder in which the archive is, too."""

    def __init__(self, folder: Path, url: str, name: str, roles: str = '["receive", "convert"]', **more: str) -> None:
        self.name, self.url = name, url
        super().__init__(
            folder / name,
            VOXELNODE_INDEX__URL=url,
            VOXELNODE_STORAGE__ARCHIVE=str(folder / "archive"),
            VOXELNODE_CLUSTER__HOST=name,
            VOXELNODE_CLUSTER__ROLES=roles,
            VOXELNODE_CLUSTER__LEASE_SECONDS="4",
            VOXELNODE_CONVERT__FORMATS='["nifti"]',
            **more,
        )

    def port_of(self, line: str) -> int:
        """A host that does not receive has none."""
        return 0 if line.startswith(f"voxelnode ready: host {self.name}, ") else super().port_of(line)

    def states(self, *uids: str) -> list[str]:
        """The states of series."""
        with reading(self.root, self.url) as index:
            return [row["state"] for uid in uids for row in index.series.with_uid(uid)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start() as server:
        upgrade(ServerPlace(server.create("migrated"), tmp_path_factory.mktemp("root")))
        yield server


def send(host: Host, instances: list) -> None:
    sender = Sender(host.port, instances, seconds=30)
    sender.start()
    sender.join()
    assert len(sender.acknowledged) == len(instances)


def test_hosts_receive_and_convert_for_each_other(server: Server, tmp_path: Path) -> None:
    url = server.create("hosts", "migrated")
    first, second = make.ct_series(4), make.ct_series(4)
    uids = [one[0].SeriesInstanceUID for one in (first, second)]
    with Host(tmp_path, url, "a", '["receive"]') as a, Host(tmp_path, url, "b", '["convert"]') as b:
        send(a, first)
        until(lambda: a.states(uids[0]) == ["converted"], 60, "the conversion by the other host")
        b.kill()
        with Host(tmp_path, url, "c", '["receive", "convert"]') as c:
            send(c, second)
            until(lambda: c.states(uids[1]) == ["converted"], 60, "the conversion without that host")
            with reading(a.root, url) as index:
                hosts = {row["name"]: row for row in index.hosts.all(index.hosts.now())}
                volumes = [row for uid in uids for row in index.volumes.of_series(first[0].StudyInstanceUID, uid)]
            assert {name: row["roles"] for name, row in hosts.items()} == {
                "a": ["receive"], "b": ["convert"], "c": ["receive", "convert"],
            }  # fmt: skip
            assert all((tmp_path / "archive" / volume["path"]).is_file() for volume in volumes)
            assert c.terminate() == 0
        assert a.terminate() == 0
