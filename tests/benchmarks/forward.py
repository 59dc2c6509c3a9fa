"""How fast the node forwards what it has, beside other senders of the same files, in turns within one run.

    python tests/benchmarks/forward.py [--rounds N] [--only NAME ...]

The node sends by a route, from its archive, with the digest of each file compared; Debian's Orthanc sends from its
storage by its own job; `storescu` and `dcmsend` send the files of a folder. They send to DCMTK's `storescp`, which
writes files and syncs nothing, and to a second node, which syncs. Without Nagle's algorithm (`TCP_NODELAY=1`). Needs
Debian's `dcmtk` and `orthanc`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pydicom import dcmread  # noqa: E402

from tests.benchmarks.receive import STORESCU, Load, free_port, running, storescp, voxelnode, write_instances  # noqa: E402
from tests.programs import SYSTEM_PATH  # noqa: E402

LOADS = [Load("ct", 400, 512, 1, "1"), Load("small", 1000, 64, 1, "1")]
DCMSEND = shutil.which("dcmsend", path=SYSTEM_PATH) or "dcmsend"
DESTINATIONS = {"storescp": storescp, "node": voxelnode}

Send = Callable[[int], float]
"""Sends everything to a port; returns the seconds that it took."""


def ask(url: str, method: str = "GET", content: Any = None) -> Any:
    body = json.dumps(content).encode() if content is not None else None
    with urlopen(Request(url, body, {"content-type": "application/json"}, method=method), timeout=600) as answer:
        return json.loads(answer.read())


def by_program(program: list[str]) -> Any:
    @contextmanager
    def sender(folder: Path, files: Path, port: int) -> Iterator[Send]:
        def send(port: int) -> float:
            began = time.perf_counter()
            command = [*program, "127.0.0.1", str(port), str(files)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"TCP_NODELAY": "1"})
            return time.perf_counter() - began

        yield send

    return sender


@contextmanager
def route(folder: Path, files: Path, port: int) -> Iterator[Send]:
    root, web, listening = folder / "source", free_port(), free_port()
    config = folder / "source.toml"
    config.write_text(
        f'[dicom]\nae_title = "SOURCE"\nhost = "127.0.0.1"\n[peers.THERE]\nae_title = "ANY"\nhost = "127.0.0.1"\n'
        f"port = {port}\n[web]\nport = {web}\n"
    )
    environment = {"VOXELNODE_CONFIG": str(config), "VOXELNODE_LOG__LEVEL": "warning"}
    base = [sys.executable, "-m", "node"]
    subprocess.run(
        [*base, "import", "--root", str(root), str(files)],
        check=True,
        env=os.environ | environment,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    study = dcmread(next(files.iterdir())).StudyInstanceUID
    environment["VOXELNODE_SERIES__QUIET_SECONDS"] = "3600"
    with running([*base, "serve", "--root", str(root), "--port", str(listening)], web, "1", **environment):
        url = f"http://127.0.0.1:{web}/api/v1"
        while ask(f"{url}/jobs")["items"]:
            time.sleep(0.1)

        def send(port: int) -> float:
            began = time.perf_counter()
            ask(f"{url}/studies/{study}/send?to=THERE", "POST")
            while ask(f"{url}/routes/messages?state=waiting")["items"]:
                time.sleep(0.02)
            assert not ask(f"{url}/routes/messages?state=given-up")["items"]
            return time.perf_counter() - began

        yield send


@contextmanager
def orthanc(folder: Path, files: Path, port: int) -> Iterator[Send]:
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
    with running([shutil.which("Orthanc") or "/usr/sbin/Orthanc", str(configuration)], web, "1"):
        url = f"http://127.0.0.1:{web}"
        for file in files.iterdir():
            with urlopen(Request(f"{url}/instances", file.read_bytes(), method="POST"), timeout=60):
                pass
        [study] = ask(f"{url}/studies")

        def send(port: int) -> float:
            began = time.perf_counter()
            ask(f"{url}/modalities/there/store", "POST", {"Resources": [study], "Synchronous": True})
            return time.perf_counter() - began

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
    options = parser.parse_args()
    senders = {name: SENDERS[name] for name in options.senders or SENDERS}
    print(f"{'load':8}{'to':>10}" + "".join(f"{name:>12}" for name in senders) + "   instances per second, median")
    for load in (load for load in LOADS if not options.only or load.name in options.only):
        for to, destination in DESTINATIONS.items():
            rates: dict[str, list[float]] = {name: [] for name in senders}
            for _ in range(options.rounds):
                for name, sender in senders.items():
                    with tempfile.TemporaryDirectory(prefix="voxelnode-benchmark-") as temporary:
                        [files] = write_instances(Path(temporary, "sent"), load)
                        with (
                            destination(Path(temporary), load.nodelay) as port,
                            sender(Path(temporary), files, port) as send,
                        ):
                            rates[name].append(load.instances / send(port))
            print(
                f"{load.name:8}{to:>10}" + "".join(f"{statistics.median(values):12.0f}" for values in rates.values()),
                flush=True,
            )


if __name__ == "__main__":
    main()
