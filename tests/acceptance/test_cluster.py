"""Hosts that share one index in PostgreSQL, each with a root of its own, and one archive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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

    def __init__(
        self,
        folder: Path,
        url: str,
        name: str,
        roles: str = '["receive", "convert"]',
        storage: Mapping[str, str] | None = None,
        **more: str,
    ) -> None:
        self.name, self.url = name, url
        shared = {"ARCHIVE": str(folder / "archive")} if storage is None else storage
        super().__init__(
            folder / name,
            VOXELNODE_INDEX__URL=url,
            **{f"VOXELNODE_STORAGE__{key}": value for key, value in shared.items()},
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

    def errors(self, *uids: str) -> list[str | None]:
        """Why series wait, or have no volumes."""
        with reading(self.root, self.url) as index:
            return [row["error"] for uid in uids for row in index.series.with_uid(uid)]

    def spooled(self) -> dict[str, int]:
        """How many instances each host alone has."""
        with reading(self.root, self.url) as index:
            return index.instances.count_by_spool_host()


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


@pytest.mark.long
def test_a_series_waits_for_the_receiver_that_has_it_and_goes_on_when_that_is_back(
    server: Server, tmp_path: Path
) -> None:
    url, store = server.create("stores", "migrated"), tmp_path / "store"
    store.mkdir()
    storage = {"URL": f"file://{store}"}
    first, second = make.ct_series(3), make.ct_series(3)
    uids = [one[0].SeriesInstanceUID for one in (first, second)]
    with (
        Host(tmp_path, url, "r1", '["receive"]', storage) as r1,
        Host(tmp_path, url, "c1", '["convert"]', storage) as c1,
    ):
        send(r1, first)
        until(lambda: c1.states(uids[0]) == ["converted"], 60, "the conversion from the store")
        away = store.rename(tmp_path / "away")
        send(r1, second)
        until(lambda: c1.spooled() == {"r1": 3}, 60, "the rows of what r1 alone has")
        r1.kill()
        away.rename(store)
        waits = "waits: for host r1, which alone has 3 of its instances"
        until(lambda: c1.errors(uids[1]) == [waits], 60, "the reason why the series waits")
        assert c1.states(uids[1]) == ["receiving"]
        r1.start()
        until(lambda: c1.states(uids[1]) == ["converted"], 60, "the conversion after the upload")
        assert c1.errors(uids[1]) == [None]
        assert len(list(store.glob("objects/*-r1/*.dcm"))) == 6
