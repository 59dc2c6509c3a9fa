"""Hosts that share one index in PostgreSQL and one object store, each with a root of its own."""

import json
import socket
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from pydicom import FileDataset
from pynetdicom import AE

from node.index.look.views import ReadIndex
from node.index.reading import reading
from node.receive.readiness import read_counters
from tests import make
from tests.acceptance.served import Served, send, until
from tests.postgresql import Server
from tests.preloaded import Process, run
from tests.protocol.conftest import Raw, c_store_rq, data_set_bytes, p_data, pdv, status_of
from tests.silent_line import line_to

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.sqlite("has databases of its own")]


def store_of(folder: Path) -> Path:
    """Return the folder that hosts below a folder have as their object store, if they have no other."""
    return folder / "store"


def in_folder(folder: Path) -> dict[str, str]:
    """Return the settings of hosts that share the object store of a folder."""
    store_of(folder).mkdir(exist_ok=True)
    return {"URL": f"file://{store_of(folder)}"}


class Host(Served):
    """A served host, with a root of its own in a folder in which the object store is, too."""

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
        shared = in_folder(folder) if storage is None else storage
        self.environment = {
            "VOXELNODE_INDEX__URL": url,
            **{f"VOXELNODE_STORAGE__{key}": value for key, value in shared.items()},
            "VOXELNODE_CLUSTER__HOST": name,
            "VOXELNODE_CLUSTER__ROLES": roles,
            "VOXELNODE_CLUSTER__LEASE_SECONDS": "4",
            "VOXELNODE_CONVERT__FORMATS": '["nifti"]',
            **more,
        }
        super().__init__(folder / name, **self.environment)

    def command(self, *arguments: str) -> str:
        """Run a command on this host; return what it prints."""
        environment = {**self.environment, "VOXELNODE_STORAGE__ROOT": str(self.root)}
        return run(*arguments, environment=environment, check=True).stdout

    def port_of(self, line: str) -> int:
        """A host that does not receive has none."""
        return 0 if line.startswith(f"voxelnode ready: host {self.name}, ") else super().port_of(line)

    def restart(self, **environment: str) -> None:
        """Start again, with other variables."""
        self.environment |= environment
        self.start()

    def hosts(self) -> dict[str, Any]:
        """The hosts of the index by name."""
        with reading(self.root, self.url) as index:
            return {row["name"]: row for row in index.hosts.all(index.hosts.now())}

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
            rows = index.hosts.all(index.hosts.now())
        return {row["name"]: row["spooled_instances"] for row in rows if row["spooled_instances"]}


def events_until(client: httpx2.Client, kind: str, after: int) -> tuple[int, list[str]]:
    """Follow the stream of events behind one until one of a kind comes; return its id, and the kinds up to it."""
    kinds: list[str] = []
    number = after
    with client.stream("GET", f"/api/v1/events?after={after}") as answer:
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                kinds.append(value)
            elif name == "id":
                number = int(value)
            elif not line and kind in kinds:
                break
    return number, kinds


def ready(client: httpx2.Client, query: str = "") -> tuple[int, dict[str, Any]]:
    answer = client.get(f"/readyz{query}")
    return answer.status_code, answer.json()


def test_hosts_receive_and_convert_for_each_other_and_each_tells_of_all(server: Server, tmp_path: Path) -> None:
    url = server.create("hosts", "migrated")
    first, second, late = make.ct_series(4), make.ct_series(4), make.ct_series(1)
    uids = [str(one[0].SeriesInstanceUID) for one in (first, second, late)]
    with line_to(server) as line, ExitStack() as running:
        b = running.enter_context(Host(tmp_path, url, "b", '["convert"]'))
        cut = line.url("hosts", tcp_user_timeout="300", connect_timeout="2")
        own = {"VOXELNODE_JOURNAL__ACKNOWLEDGE": "local"}
        a = running.enter_context(Host(tmp_path, cut, "a", '["receive", "web"]', **own))
        address = a.process.stdout.readline().split()[-1]
        client = running.enter_context(httpx2.Client(base_url=address, timeout=60))
        send(a.port, *first)
        last, kinds = events_until(client, "series-converted", 0)  # by the other host
        reconvert = f"/api/v1/studies/{first[0].StudyInstanceUID}/reconvert?series_instance_uid={uids[0]}"
        assert client.post(reconvert).json() == {"owed": 1}
        _, again = events_until(client, "series-unchanged", last)
        assert ("series-quiet" in kinds, "series-reopened" in again) == (True, True)
        until(lambda: ready(client) == (200, {"ready": True, "reasons": {}}), 30, "a host that is ready")
        reason = {"roles": "this host does not convert ([cluster] roles)"}
        assert ready(client, "?role=convert") == (503, {"ready": False, "reasons": reason})
        assert client.get("/readyz?role=store").status_code == 422

        with reading(a.root, url) as index:
            stored = [in_store(tmp_path, volume) for volume in of_series(index, first[0])]
        until(lambda: stored and all(path.is_file() for path in stored), 30, "the volumes in the store")
        b.kill()
        c = running.enter_context(Host(tmp_path, url, "c", '["receive", "convert"]'))
        send(c.port, *second)
        until(lambda: c.states(uids[1]) == ["converted"], 60, "the conversion without that host")
        with reading(a.root, url) as index:
            hosts = {row["name"]: row for row in index.hosts.all(index.hosts.now())}
            volumes = [row for one in (first, second) for row in of_series(index, one[0])]
        assert {name: row["roles"] for name, row in hosts.items()} == {
            "a": ["receive", "web"], "b": ["convert"], "c": ["receive", "convert"],
        }  # fmt: skip
        assert len(volumes) >= 2
        paths = [in_store(tmp_path, volume) for volume in volumes]
        until(lambda: all(path.is_file() for path in paths), 30, "all volumes in the store")

        alive = {"a": "alive", "b": "lost", "c": "alive"}

        def of_cluster() -> tuple[int, dict[str, str]]:
            status, content = ready(client, "?scope=cluster")
            return status, content.get("hosts", {})

        until(lambda: of_cluster() == (200, alive), 30, "the truth of the cluster")
        assert c.command("db", "hosts", "forget", "b").startswith("b is forgotten\n")

        def logs() -> set[str]:
            return {line["log"] for line in json.loads(c.command("audit", "--json"))["items"]}

        until(lambda: logs() >= {"a", "c"}, 30, "lines of several audit logs at one host")
        c.command("audit", "--verify")

        line.silence()
        send(a.port, *late)
        assert ready(client, "?role=receive") == (200, {"ready": True, "reasons": {}})
        until(lambda: ready(client)[0] == 503, 30, "that the host says that it is cut off")
        for query in ("", "?role=web", "?scope=cluster"):
            status, content = ready(client, query)
            assert (status, "no answer from PostgreSQL" in content["reasons"]["cluster"]) == (503, True)
        assert client.get("/healthz").text == "ok\n"
        until(lambda: "cluster" in (read_counters(a.root) or {"reasons": {}})["reasons"], 30, "what commands are told")
        line.heal()
        until(lambda: c.states(uids[2]) != [], 60, "what came meanwhile in the index")
        until(lambda: ready(client)[0] == 200, 60, "the host to be back")
        assert a.terminate() == c.terminate() == 0
    (a.root / "audit.jsonl").write_bytes(b"")
    environment = {**a.environment, "VOXELNODE_STORAGE__ROOT": str(a.root), "VOXELNODE_INDEX__URL": url}
    done = run("audit", "--verify", environment=environment)
    assert (done.returncode, "its end was removed" in done.stdout) == (1, True)


def test_a_start_that_waits_ends_when_it_is_told_to_stop(server: Server, tmp_path: Path) -> None:
    urls = {name: server.create(name, "migrated") for name in ("blocked", "unfollowed")}
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type "
    with ExitStack() as opened:
        silent = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        silent.settimeout(60)
        port = silent.getsockname()[1]
        urls["silent"] = f"postgresql://voxelnode@127.0.0.1:{port}/voxelnode?connect_timeout=600"

        def starts(name: str) -> Process:
            log = opened.enter_context((tmp_path / name).open("w"))
            variables = {"VOXELNODE_INDEX__URL": urls[name], "VOXELNODE_CLUSTER__HOST": name}
            process = Process(
                ["serve", "--create", "--root", str(tmp_path / f"root-{name}"), "--port", "0"], variables, log
            )
            opened.callback(process.stdout.close)
            opened.callback(process.kill)
            return process

        def ends(name: str, process: Process) -> None:
            process.terminate()
            assert process.wait(60) == 0
            assert "SIGTERM has ended the start before the node was ready" in (tmp_path / name).read_text()

        process = starts("silent")
        opened.enter_context(silent.accept()[0])
        ends("silent", process)

        other = opened.enter_context(psycopg.connect(urls["blocked"].replace("+psycopg", "")))
        other.execute("SELECT pg_advisory_lock(%s)", [0x766F78656C])
        process = starts("blocked")
        until(lambda: server.run(f"{waiting} = 'Lock'", "blocked"), 60, "a start that waits for the end of a migration")
        ends("blocked", process)
        until(lambda: not server.run(f"{waiting} = 'Lock'", "blocked"), 60, "the end of its statement")

        opened.callback(server.run, "SELECT pg_reload_conf()")
        opened.callback(server.run, "ALTER SYSTEM RESET synchronous_standby_names")
        server.run("ALTER SYSTEM SET synchronous_standby_names = 'standby1'")
        server.run("SELECT pg_reload_conf()")
        process = starts("unfollowed")
        until(lambda: server.run(f"{waiting} = 'IPC'", "unfollowed"), 60, "a start that waits for the standby")
        ends("unfollowed", process)


def in_store(folder: Path, volume: dict[str, Any]) -> Path:
    return store_of(folder) / "volumes" / volume["path"].partition("volumes/")[2]


def of_series(index: ReadIndex, ds: FileDataset) -> list[dict[str, Any]]:
    return index.volumes.of_series(str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID))


class Modality(threading.Thread):
    """Sends a series, a few instances on each association, to one of some hosts, and to another when that fails."""

    def __init__(self, hosts: list[Host]) -> None:
        super().__init__(daemon=True)
        self.hosts = hosts
        self.done = threading.Event()
        self.statuses: Counter[int] = Counter()
        self.attempts: dict[str, int] = {}
        self.instances = make.ct_series(600)  # more than it sends

    def run(self) -> None:
        while not self.done.wait(0.5):
            waiting = [self.instances.pop() for _ in range(3)]
            while waiting:
                self._send(waiting)
                if waiting:
                    self.hosts.append(self.hosts.pop(0))

    def _send(self, waiting: list[Any]) -> None:
        """Send instances on one association, as far as it goes."""
        ae = AE("MODALITY")
        ae.network_timeout = ae.dimse_timeout = ae.acse_timeout = 60
        ae.add_requested_context(waiting[0].SOPClassUID, waiting[0].file_meta.TransferSyntaxUID)
        assoc = ae.associate("127.0.0.1", self.hosts[0].port, ae_title="VOXELNODE")
        while waiting and assoc.is_established:
            uid = str(waiting[0].SOPInstanceUID)
            self.attempts[uid] = self.attempts.get(uid, 0) + 1
            with suppress(RuntimeError):  # the association has ended meanwhile
                status = assoc.send_c_store(waiting[0])
                if "Status" in status:
                    self.statuses[status.Status] += 1
                    waiting.pop(0)
        if assoc.is_established:
            assoc.release()


@pytest.mark.long
def test_hosts_are_replaced_one_after_the_other_under_a_sender(server: Server, tmp_path: Path) -> None:
    url = server.create("rolling", "migrated")
    settings = {
        "VOXELNODE_CLUSTER__LEASE_SECONDS": "600",
        "VOXELNODE_CLUSTER__ANNOUNCE_SECONDS": "0.1",
        "VOXELNODE_CLUSTER__FINISH_SECONDS": "60",
        "VOXELNODE_SERIES__ABORTED_GRACE_SECONDS": "1",
    }
    with Host(tmp_path, url, "a", '["receive", "web"]', **settings) as a, Host(tmp_path, url, "b", **settings) as b:
        pages = a.process.stdout.readline().split()[-1]
        until(lambda: a.hosts()["a"]["leases"], 30, "what one host does alone")
        alone = set(a.hosts()["a"]["leases"])
        modality = Modality([a, b])
        modality.start()
        until(lambda: modality.statuses[0], 60, "instances through the first host")

        # One host drains: the others do what it did alone, while it waits for the end of an instance.
        ds = make.ct_series(1)[0]
        data = data_set_bytes(ds)
        with Raw(SimpleNamespace(host="127.0.0.1", port=a.port)).associate() as peer:
            peer.send(p_data(pdv(1, 3, c_store_rq(ds.SOPInstanceUID))) + p_data(pdv(1, 0, data[:100])))
            a.process.terminate()
            until(lambda: alone <= set(b.hosts()["b"]["leases"]), 60, "the other host takes over")
            assert b.hosts()["a"]["state"] == "draining"
            ready = httpx2.get(f"{pages}readyz", timeout=60)
            assert (ready.status_code, "drain" in ready.json()["reasons"]) == (503, True)
            until(lambda: modality.hosts[0] is b, 60, "the sender goes on with the other host")
            peer.send(p_data(pdv(1, 2, data[100:])))
            assert status_of(peer.receive()) == 0x0000
        assert a.process.wait(60) == 0
        assert (b.hosts()["a"]["state"], b.hosts()["a"]["left_behind"]) == ("stopped", 0)

        # It comes back; then the other one goes.
        sent = modality.statuses[0]
        a.restart()
        until(lambda: modality.statuses[0] > sent + 3, 60, "instances through the other host")
        drained = run("db", "hosts", "drain", "b", "--root", a.root, environment=a.environment)
        assert (drained.returncode, drained.stdout) == (0, "b has stopped, and nothing is on its disk only\n")
        assert b.process.wait(60) == 0
        until(lambda: modality.hosts[0] is a, 60, "the sender goes on with the first host")
        b.start()
        modality.done.set()
        modality.join()
        assert set(modality.statuses) == {0x0000}
        assert max(modality.attempts.values()) <= 2
        uids = modality.instances[0].SeriesInstanceUID, ds.SeriesInstanceUID
        until(lambda: a.states(*uids) == ["converted"] * 2, 60, "the conversions")
        assert server.run("SELECT count(*) FROM images", "rolling") == [(len(modality.attempts) + 1,)]
        twice = "SELECT series_id, instances FROM conversions GROUP BY 1, 2 HAVING count(*) > 1"
        assert server.run(twice, "rolling") == []
