"""How fast the node forwards what it has, beside other senders of the same files, in turns within one run.

    python benchmarks/forward.py [--rounds N] [--only NAME ...] [--senders NAME ...] [--to NAME ...]

The node sends by a route, from its archive, with the digest of each file compared, on one association and on four;
Debian's Orthanc sends from its storage by its own job; `storescu` and `dcmsend` send the files of a folder. They send
to DCMTK's `storescp`, which writes files and syncs nothing, and to a second node, which syncs. Without Nagle's
algorithm (`TCP_NODELAY=1`). Behind the rate is the processor time of the sender for an instance, which other work on
the machine changes least; the last column is the load of the machine, which must be near the number of its processors
for the rates to say more than an order. Needs Debian's `dcmtk` and `orthanc`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
from pydicom.uid import generate_uid

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.receive import STORESCU, Load, running, storescp, voxelnode  # noqa: E402
from tests.make import instance  # noqa: E402
from tests.programs import SYSTEM_PATH, free_port  # noqa: E402

LOADS = {
    "ct": (Load("ct", 400, 512, 1, "1"), 1),
    "ct x8": (Load("ct x8", 400, 512, 1, "1"), 8),
    "small": (Load("small", 3000, 64, 1, "1"), 1),
    "small x8": (Load("small x8", 3000, 64, 1, "1"), 8),
}
"""By name: the instances, and the number of series of one study in which they are."""

DCMSEND = shutil.which("dcmsend", path=SYSTEM_PATH) or "dcmsend"
DESTINATIONS = {"storescp": storescp, "node": voxelnode}

Send = Callable[[int], tuple[float, float]]
"""Sends everything to a port; returns the seconds that it took, and those of a processor."""


def write_study(folder: Path, load: Load, series: int) -> tuple[Path, str]:
    """Write the files of one study; return their folder and its UID."""
    folder.mkdir()
    random, study = np.random.default_rng(0), generate_uid()
    uids = [generate_uid() for _ in range(series)]
    for number in range(load.instances):
        ds = instance(
            study_uid=study, series_uid=uids[number * series // load.instances], InstanceNumber=number + 1,
            Rows=load.side, Columns=load.side,
        )  # fmt: skip
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = 15, 1, 1
        ds.PhotometricInterpretation = "MONOCHROME2"
        ds.PixelData = random.integers(0, 2000, (load.side, load.side), np.int16).tobytes()
        ds.save_as(folder / f"{number:05d}.dcm", enforce_file_format=True)
    return folder, study


def ask(url: str, method: str = "GET", content: Any = None) -> Any:
    body = json.dumps(content).encode() if content is not None else None
    with urlopen(Request(url, body, {"content-type": "application/json"}, method=method), timeout=600) as answer:
        return json.loads(answer.read())


def worked_seconds(process: int) -> float:
    """The processor time that the threads of a process have used."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def by_program(program: list[str]) -> Any:
    @contextmanager
    def sender(folder: Path, files: Path, study: str, port: int) -> Iterator[Send]:
        def send(port: int) -> tuple[float, float]:
            began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            command = [*program, "127.0.0.1", str(port), str(files)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"TCP_NODELAY": "1"})
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            return time.perf_counter() - began, worked

        yield send

    return sender


@contextmanager
def route(folder: Path, files: Path, study: str, port: int) -> Iterator[Send]:
    root, web, listening = folder / "source", free_port(), free_port()
    config = folder / "source.toml"
    config.write_text(
        '[dicom]\nae_title = "SOURCE"\nhost = "127.0.0.1"\n'
        f'[peers.THERE]\nae_title = "ANY"\nhost = "127.0.0.1"\nport = {port}\n'
        f'[routes.all]\nto = ["THERE"]\n[web]\nport = {web}\n'
    )
    # No series becomes quiet: its conversion would take time from the sending.
    quiet = {"VOXELNODE_SERIES__QUIET_SECONDS": "3600", "VOXELNODE_SERIES__STUDY_QUIET_SECONDS": "3600"}
    environment = {"VOXELNODE_CONFIG": str(config), "VOXELNODE_LOG__LEVEL": "warning"} | quiet
    base = [sys.executable, "-m", "node"]
    command = [*base, "import", "--root", str(root), str(files)]
    subprocess.run(command, check=True, env=os.environ | environment, cwd=ROOT, stdout=subprocess.DEVNULL)
    command = [*base, "serve", "--create", "--root", str(root), "--port", str(listening)]
    with running(command, web, "1", **environment) as process:
        url = f"http://127.0.0.1:{web}/api/v1"
        while ask(f"{url}/work?state=waiting")["items"]:
            time.sleep(0.1)

        def send(port: int) -> tuple[float, float]:
            """The index is looked at from here: questions to the node would take time from its sending."""
            began, before = time.perf_counter(), worked_seconds(process.pid)
            ask(f"{url}/studies/{study}/send?to=THERE", "POST")
            with closing(sqlite3.connect(f"file:{root / 'index.sqlite'}?mode=ro", uri=True)) as index:
                while True:
                    [state] = index.execute("SELECT state FROM v_route_messages").fetchone()
                    if state != "waiting":
                        break
                    time.sleep(0.01)
            assert state == "delivered"
            return time.perf_counter() - began, worked_seconds(process.pid) - before

        yield send


@contextmanager
def orthanc(folder: Path, files: Path, study: str, port: int) -> Iterator[Send]:
    web, place = free_port(), folder / "orthanc"
    configuration = folder / "orthanc.json"
    modalities = {"there": {"AET": "ANY", "Host": "127.0.0.1", "Port": port}}
    configuration.write_text(
        json.dumps(
            {
                "StorageDirectory": str(place), "IndexDirectory": str(place), "DicomPort": free_port(),
                "HttpPort": web, "DicomModalities": modalities, "AuthenticationEnabled": False, "Plugins": [],
            }
        )
    )  # fmt: skip
    with running([shutil.which("Orthanc") or "/usr/sbin/Orthanc", str(configuration)], web, "1") as process:
        url = f"http://127.0.0.1:{web}"
        for file in files.iterdir():
            with urlopen(Request(f"{url}/instances", file.read_bytes(), method="POST"), timeout=60):
                pass
        [resource] = ask(f"{url}/studies")

        def send(port: int) -> tuple[float, float]:
            began, before = time.perf_counter(), worked_seconds(process.pid)
            ask(f"{url}/modalities/there/store", "POST", {"Resources": [resource], "Synchronous": True})
            return time.perf_counter() - began, worked_seconds(process.pid) - before

        yield send


SENDERS: dict[str, Any] = {
    "route": route,
    "orthanc": orthanc,
    "storescu": by_program([STORESCU, "+sd", "-aec", "ANY", "-xe", "-R"]),
    "dcmsend": by_program([DCMSEND, "+sd", "-aec", "ANY"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="names of loads")
    parser.add_argument("--senders", nargs="*", help="names of senders")
    parser.add_argument("--to", nargs="*", help="names of receivers")
    options = parser.parse_args()
    senders = {name: SENDERS[name] for name in options.senders or SENDERS}
    print(
        f"{'load':10}{'to':>10}" + "".join(f"{name:>24}" for name in senders)
        + "   instances/s, median (least-most), and processor time"
    )  # fmt: skip
    for load_name in options.only or LOADS:
        load, series = LOADS[load_name]
        for to in options.to or DESTINATIONS:
            rates: dict[str, list[float]] = {name: [] for name in senders}
            times: dict[str, list[float]] = {name: [] for name in senders}
            loads = []
            for _ in range(options.rounds):
                for name, sender in senders.items():
                    with tempfile.TemporaryDirectory(prefix="voxelnode-benchmark-") as temporary:
                        files, study = write_study(Path(temporary, "sent"), load, series)
                        with (
                            DESTINATIONS[to](Path(temporary), load.nodelay) as receiver,
                            sender(Path(temporary), files, study, receiver.ports[0]) as send,
                        ):
                            seconds, worked = send(receiver.ports[0])
                            rates[name].append(load.instances / seconds)
                            times[name].append(worked / load.instances * 1e6)
                            loads.append(os.getloadavg()[0])
            cells = (
                f"{statistics.median(of):.0f} ({min(of):.0f}-{max(of):.0f}) {statistics.median(times[name]):.0f} us"
                for name, of in rates.items()
            )
            print(
                f"{load.name:10}{to:>10}" + "".join(f"{cell:>24}" for cell in cells)
                + f"   load {min(loads):.1f}-{max(loads):.1f}",
                flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
