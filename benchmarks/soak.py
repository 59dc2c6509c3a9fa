"""What grows in a node during a mixed day.

    python benchmarks/soak.py FOLDER [--hours 1] [--clock 1] [--every 10]

A node with a webhook, a command, a route to DCMTK's `storescp` and retention by number runs in FOLDER, which must not
exist.  A study of a CT, an MR and a report comes every so many seconds of the node's clock; one of five lacks slices,
one of seven comes again, one of nine comes again with other bytes; other peers abort, break off or send no DICOM.
Meanwhile pages, REST, DICOMweb and C-FIND are read, archives are downloaded, studies are labelled, converted again and
deleted, and some of these come back.

In the first half, the node is stopped and started six times, twice by `kill -9`.  The second half is one run: in
each minute of it the program notes memory, descriptors and threads of the node's processes, the files below the root
and the rows of each table, and compares the means of the second and the last quarter of that half.

``--clock 10`` sets the clock of day nine minutes forward after each minute, for as many hours of that clock.  The node
moves what waits for quiet by such a step; ages of the trash, of old revisions and of retention pass.  At the end,
`voxelnode fsck` must agree, and nothing that was acknowledged be lost.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2 as httpx
from pydicom import Dataset
from pydicom.uid import CTImageStorage, generate_uid
from pynetdicom import AE, build_context
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, UnifiedProcedureStepPull

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from node.association.client.addresses import Address  # noqa: E402
from tests import make  # noqa: E402
from tests.crash.clock import ShiftedClock  # noqa: E402
from tests.programs import free_port  # noqa: E402
from tests.protocol.conftest import Raw, associate_rq, c_store_rq, p_data, pdu, pdv  # noqa: E402
from tests.receivers import Receiver  # noqa: E402

KEPT_STUDIES = 40
RESTARTS = 6
KILLS = (2, 4)
CONFIG = """
[storage]
root = "{folder}/root"
reserve_bytes = 0
scrub_days = 0.02
[dicom]
open = true
port = {port}
[web]
port = {web}
hook_networks = ["127.0.0.1"]
[series]
quiet_seconds = 5
study_quiet_seconds = 20
[convert]
keep_superseded_hours = 0.05
[retention]
maximum_studies = {kept}
maximum_share = 1.0
only_converted = false
trash_days = 0.01
[hooks.told]
kind = "webhook"
on = ["volume-written", "series-failed", "study-quiet"]
url = "{receiver}"
[hooks.run]
kind = "command"
on = ["volume-written"]
command = ["/bin/test", "-e", "{{path}}"]
[peers.ANY]
ae_title = "SCANNER"
[peers.PACS]
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs}
[routes.all]
when = "series-quiet"
to = ["PACS"]
"""


def study(number: int) -> list[Dataset]:
    """Return the instances of a study: of a small CT, an MR and a report; every fifth lacks slices of its CT."""
    of_study: dict[str, Any] = {"study_uid": generate_uid(), "PatientID": f"P{number % 97}", "PatientName": "Day^Long"}
    of_study |= {"StudyDescription": f"Study {number % 40}", "AccessionNumber": f"A{number}"}
    slices = make.ct_series(12, rows=128, columns=128, SeriesNumber=1, **of_study)
    if number % 5 == 1:
        del slices[4:6]
    renamed = {("StudyInstanceUID" if name == "study_uid" else name): value for name, value in of_study.items()}
    report = make.structured_report(SeriesNumber=3, **renamed)
    return [*slices, *make.mr_series(6, rows=64, columns=64, SeriesNumber=2, **of_study), report]


class Day:
    """The node, who uses it, and what they counted."""

    def __init__(self, folder: Path, options: argparse.Namespace, receiver: str, pacs: int) -> None:
        self.folder, self.options = folder, options
        self.port, self.web = free_port(), free_port()
        self.counts: Counter[str] = Counter()
        self.is_over, self._is_up = threading.Event(), threading.Event()
        self.random = random.Random(0)
        self.process: subprocess.Popen[str] | None = None
        config = CONFIG.format(
            folder=folder, port=self.port, web=self.web, kept=KEPT_STUDIES, receiver=receiver, pacs=pacs
        )
        self.config = folder / "voxelnode.toml"
        self.config.write_text(config)
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "VOXELNODE_LOG__LEVEL": "warning"}
        self.began_at = time.monotonic()
        if options.clock != 1:
            self.clock = ShiftedClock(folder)
            self.environment |= self.clock.environment
            self.often(options.clock * 60, self.hurry)

    def start(self) -> None:
        """Start the node, and return when it is ready."""
        with (self.folder / "serve.log").open("a") as log:
            command = [sys.executable, "-m", "node", "serve", "--create", "--config", str(self.config)]
            self.process = subprocess.Popen(
                command, env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        if "voxelnode ready" not in self.process.stdout.readline():
            raise SystemExit(f"no node: {self.folder}/serve.log")
        self.process.stdout.readline()
        self._is_up.set()

    def stop(self, how: signal.Signals) -> None:
        """End the node."""
        assert self.process is not None
        self._is_up.clear()
        self.process.send_signal(how)
        began = time.monotonic()
        self.counts[f"ended by {how.name}: {self.process.wait(120)}"] += 1
        print(f"ended by {how.name} in {time.monotonic() - began:.1f} s", flush=True)

    def often(self, seconds: float, do: Callable[[], None]) -> threading.Thread:
        """Do something every so many seconds of the node's clock, until the day is over."""

        def run() -> None:
            while not self.is_over.wait(seconds / self.options.clock * self.random.uniform(0.5, 1.5)):
                self._is_up.wait()
                try:
                    do()
                except (httpx.HTTPError, OSError, RuntimeError, AssertionError) as error:  # it was ended meanwhile
                    self.counts[f"{do.__name__}: {type(error).__name__}"] += 1

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def hurry(self) -> None:
        """Set the clock of day forward by what has passed since the beginning, and say that it is right."""
        self.clock.set(int((time.monotonic() - self.began_at) * (self.options.clock - 1)))
        command = [sys.executable, "-m", "node", "retention", "confirm", "--config", str(self.config)]
        done = subprocess.run(command, env=self.environment, capture_output=True, check=False)
        self.counts[f"retention confirm: {done.returncode}"] += 1

    def store(self, instances: list[Dataset]) -> None:
        ae = AE("SCANNER")
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
        for uid in {ds.SOPClassUID for ds in instances}:
            ae.add_requested_context(uid, instances[0].file_meta.TransferSyntaxUID)
        association = ae.associate("127.0.0.1", self.port, ae_title="VOXELNODE")
        if not association.is_established:
            self.counts["associations that failed"] += 1
            return
        for ds in instances:
            status = association.send_c_store(ds)
            self.counts[f"answered 0x{status.Status:04X}" if status else "not answered"] += 1
            if status and status.Status == 0:
                self.counts["acknowledged"] += 1
        association.release()

    def send(self) -> None:
        """Send a study, and some again."""
        number = self.counts["studies sent"]
        self.counts["studies sent"] += 1
        instances = study(number)
        self.store(instances)
        if number % 7 == 1:
            self.store(instances)
        if number % 9 == 1:
            self.store([make.changed(instances[0], ImageComments="another")])

    def disturb(self) -> None:
        """Abort in an instance, break off in a PDU, send what is no PDU, or ask for a service that is not there."""
        began = p_data(pdv(1, 3, c_store_rq(generate_uid(), CTImageStorage)), pdv(1, 0, bytes(5000)))
        with Raw(Address("VOXELNODE", "127.0.0.1", self.port), 20) as peer:
            match self.random.randrange(4):
                case 0:
                    peer.associate(calling="SCANNER").send(began + pdu(0x07, bytes(4)))
                case 1:
                    peer.associate(calling="SCANNER").send(began[:-1234])
                case 2:
                    peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
                    peer.closed()
                case _:
                    peer.send(associate_rq(build_context(UnifiedProcedureStepPull), calling="SCANNER"))
                    peer.receive()
        self.counts["disturbed"] += 1

    def client(self) -> httpx.Client:
        headers = {"Origin": f"http://127.0.0.1:{self.web}"}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.web}", timeout=60, headers=headers)

    def answered(self, what: str, answer: httpx.Response) -> httpx.Response:
        self.counts[f"{what}: {answer.status_code}"] += 1
        return answer

    def some(self, client: httpx.Client) -> str | None:
        """Return a study that is there."""
        items = client.get("/api/v1/studies?limit=40").raise_for_status().json()["items"]
        return self.random.choice(items)["study_instance_uid"] if items else None

    def read(self) -> None:
        """Look at pages, REST and DICOMweb, as people and viewers do."""
        with self.client() as client:
            for path in ("/", "/status", "/api/v1/status", "/api/v1/series", "/metrics", "/dicom-web/studies?limit=20"):
                self.answered("GET " + path, client.get(path))
            if (uid := self.some(client)) is None:
                return
            self.answered("page of a study", client.get(f"/studies/{uid}"))
            found = client.get(f"/dicom-web/studies/{uid}/instances")
            for one in found.json()[:10] if found.status_code == 200 else ():
                series, sop = (one[tag]["Value"][0] for tag in ("0020000E", "00080018"))
                base = f"/dicom-web/studies/{uid}/series/{series}/instances/{sop}"
                self.answered("frame", client.get(f"{base}/frames/1"))
                self.answered("rendered", client.get(f"{base}/rendered"))
            archive = client.get(f"/dicom-web/studies/{uid}", headers={"Accept": "application/zip"})
            self.answered("archive", archive)

    def query(self) -> None:
        """Query by C-FIND."""
        ae, keys = AE("SCANNER"), Dataset()
        ae.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
        keys.QueryRetrieveLevel, keys.PatientID, keys.StudyInstanceUID = "STUDY", f"P{self.random.randrange(97)}", ""
        association = ae.associate("127.0.0.1", self.port, ae_title="VOXELNODE")
        if association.is_established:
            for status, _ in association.send_c_find(keys, StudyRootQueryRetrieveInformationModelFind):
                self.counts[f"C-FIND 0x{status.Status:04X}" if status else "C-FIND not answered"] += 1
            association.release()

    def change(self) -> None:
        """Label a study, convert one again, delete one, and take one out of the trash."""
        with self.client() as client:
            if (uid := self.some(client)) is None:
                return
            label = {"labels": [f"day {self.random.randrange(5)}"]}
            self.answered("labels", client.put(f"/api/v1/studies/{uid}/labels", json=label))
            self.answered("convert again", client.post(f"/api/v1/studies/{uid}/reconvert"))
            items = client.get("/api/v1/studies?limit=500").raise_for_status().json()["items"]
            for one in items[KEPT_STUDIES:]:
                self.answered("delete", client.delete(f"/api/v1/studies/{one['study_instance_uid']}"))
            if trash := client.get("/api/v1/trash").json():
                self.answered("restore", client.post(f"/api/v1/trash/{trash[0]['number']}/restore"))

    def looked_at(self) -> dict[str, float]:
        """Return memory, descriptors and threads of the node's processes, files of the root and rows of its tables."""
        assert self.process is not None
        found: Counter[str] = Counter()
        parents = [(self.process.pid, "receiving"), *((pid, "http or child") for pid in _children(self.process.pid))]
        for pid, role in parents:
            with suppress(OSError):
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                found[f"MB of {role}"] += next(int(x.split()[1]) for x in rollup if x.startswith("Pss:")) / 1000
                found[f"descriptors of {role}"] += len(os.listdir(f"/proc/{pid}/fd"))
                found[f"threads of {role}"] += len(os.listdir(f"/proc/{pid}/task"))
        root = self.folder / "root"
        for top in sorted(root.iterdir()):
            files = [Path(folder, name) for folder, _, names in os.walk(top) for name in names] or [top]
            found[f"files of {top.name}"] = len(files)
            for path in files:
                with suppress(OSError):  # it has gone
                    found[f"MB of {top.name}"] += path.lstat().st_size / 1e6
        with closing(sqlite3.connect(f"file:{root / 'index.sqlite'}?mode=ro", uri=True, timeout=30)) as index:
            tables = index.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE '%VIRTUAL%'")
            for (table,) in tables.fetchall():
                found[f"rows of {table}"] = index.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]
        return dict(found)


def _children(pid: int) -> Iterator[int]:
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, thread.read_text().split()):
                yield child
                yield from _children(child)


@contextmanager
def taker(folder: Path) -> Iterator[int]:
    """Run DCMTK's `storescp`, which throws away what it takes; yield its port."""
    port = free_port()
    process = subprocess.Popen(["storescp", "--ignore", "-aet", "PACS", str(port)], stdout=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


def run(day: Day, seconds: float) -> list[dict[str, float]]:
    """Let the day pass; return what was looked at in its second half."""
    day.start()
    every = day.options.every
    for interval, do in (
        (every, day.send),
        (every, day.read),
        (every / 2, day.query),
        (every * 4, day.change),
        (every, day.disturb),
    ):
        day.often(interval, do)
    began = time.monotonic()
    for number in range(RESTARTS):
        time.sleep(max(0.0, began + (number + 1) * seconds / 2 / RESTARTS - time.monotonic()))
        day.stop(signal.SIGKILL if number in KILLS else signal.SIGTERM)
        day.start()
    looked = []
    while time.monotonic() - began < seconds:
        looked.append(day.looked_at())
        with (day.folder / "looked.jsonl").open("a") as file:
            file.write(json.dumps({"seconds": round(time.monotonic() - began), **looked[-1]}) + "\n")
        time.sleep(min(60.0, seconds / 100))
    return looked


def report(day: Day, looked: list[dict[str, float]], told: int) -> None:
    """Print what was counted, and the means of the second and the last quarter of what was looked at."""
    for name, count in sorted(day.counts.items()):
        print(f"{count:8d}  {name}")
    quarter = max(1, len(looked) // 4)
    for name in sorted(set(itertools.chain.from_iterable(looked))):
        before, after = (
            statistics.mean(one.get(name, 0) for one in part)
            for part in (looked[quarter : 2 * quarter], looked[-quarter:])
        )
        print(f"{name:44} {before:10.1f} {after:10.1f}  {after / before if before else 1:6.2f}")
    print(f"{told} messages of the webhook")
    for command in ("fsck", "status"):
        done = subprocess.run(
            [sys.executable, "-m", "node", command, "--config", str(day.config)],
            env={**day.environment, "LD_PRELOAD": ""}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        print(f"{command}: {done.returncode}\n{done.stdout.strip()[-2000:]}{done.stderr.strip()[-500:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the node is; must not exist")
    parser.add_argument("--hours", type=float, default=1.0, help="of the clock of the node")
    parser.add_argument("--clock", type=float, default=1.0, help="how much faster that clock is")
    parser.add_argument("--every", type=float, default=10.0, help="seconds of that clock between two studies")
    options = parser.parse_args()
    options.folder = options.folder.absolute()
    options.folder.mkdir(parents=True)
    with Receiver() as receiver, taker(options.folder) as pacs:
        day = Day(options.folder, options, receiver.url, pacs)
        looked = run(day, options.hours * 3600 / options.clock)
        day.is_over.set()
        time.sleep(10)
        day.stop(signal.SIGTERM)
        report(day, looked, len(receiver.received))


if __name__ == "__main__":
    main()
