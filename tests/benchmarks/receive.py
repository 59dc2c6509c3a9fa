"""How fast the node receives, beside other receivers, in turns within one run: only the ratios count.

    python tests/benchmarks/receive.py [--rounds N] [--only NAME ...]

The node runs as it does at a site (sync, index, digest, quiet state), Debian's Orthanc with its defaults (SQLite,
synced storage), `storescp --fork` without any of it.  Senders are DCMTK's `storescu`, without Nagle's algorithm
(`TCP_NODELAY=1`) and with its defaults, as many modalities send.  The variable is set for the receivers too: those made
of DCMTK would else wait for our acknowledgements themselves.  Needs Debian's `dcmtk` and `orthanc`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.uid import generate_uid

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.make import instance  # noqa: E402
from tests.programs import SYSTEM_PATH  # noqa: E402

# pynetdicom has programs of the same names, which a virtual environment puts first.
STORESCU = shutil.which("storescu", path=SYSTEM_PATH) or "storescu"
STORESCP = shutil.which("storescp", path=SYSTEM_PATH) or "storescp"


@dataclass(frozen=True)
class Load:
    """So many instances of so many bytes, over so many associations at once."""

    name: str
    instances: int
    side: int
    associations: int
    nodelay: str


LOADS = [
    Load("N ct", 400, 512, 1, "1"),
    Load("N small", 2000, 64, 4, "1"),
    Load("N small x1", 1000, 64, 1, "1"),
    Load("D ct", 100, 512, 1, "0"),
    Load("D small", 400, 64, 4, "0"),
]


def write_instances(folder: Path, load: Load) -> list[Path]:
    """One folder of files for each association, with fresh UIDs."""
    random = np.random.default_rng(0)
    folders = []
    for sender in range(load.associations):
        place = folder / str(sender)
        place.mkdir(parents=True)
        study, series = generate_uid(), generate_uid()
        for number in range(load.instances // load.associations):
            ds = instance(
                study_uid=study, series_uid=series, InstanceNumber=number + 1, Rows=load.side, Columns=load.side
            )
            ds.BitsAllocated = ds.BitsStored = 16
            ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = 15, 1, 1
            ds.PhotometricInterpretation = "MONOCHROME2"
            ds.PixelData = random.integers(0, 2000, (load.side, load.side), np.int16).tobytes()
            ds.save_as(place / f"{number:05d}.dcm", enforce_file_format=True)
        folders.append(place)
    return folders


def send(folders: list[Path], port: int, nodelay: str) -> float:
    """Seconds until every sender has ended."""
    began = time.perf_counter()
    senders = [
        subprocess.Popen(
            [STORESCU, "+sd", "-aec", "ANY", "-xe", "-R", "127.0.0.1", str(port), str(folder)],
            env=os.environ | {"TCP_NODELAY": nodelay},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for folder in folders
    ]
    codes = [sender.wait() for sender in senders]
    if any(codes):
        raise SystemExit(f"storescu ended with {codes}")
    return time.perf_counter() - began


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], port: int, nodelay: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command,
        env=os.environ | environment | {"TCP_NODELAY": nodelay},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise SystemExit(f"{command[0]} does not listen") from None
                time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def voxelnode(folder: Path, nodelay: str) -> Iterator[int]:
    port = free_port()
    environment = {
        "VOXELNODE_SERIES__QUIET_SECONDS": "3600",
        "VOXELNODE_LOG__LEVEL": "warning",
        "VOXELNODE_WEB__PORT": "0",
    }
    command = [sys.executable, "-m", "node", "serve", "--root", str(folder / "voxelnode"), "--port", str(port)]
    with running(command, port, nodelay, **environment):
        yield port


@contextmanager
def orthanc(folder: Path, nodelay: str) -> Iterator[int]:
    port = free_port()
    configuration = folder / "orthanc.json"
    configuration.write_text(
        json.dumps(
            {
                "StorageDirectory": str(folder / "orthanc"),
                "IndexDirectory": str(folder / "orthanc"),
                "DicomPort": port,
                "HttpPort": free_port(),
                "DicomCheckCalledAet": False,
                "DicomAlwaysAllowStore": True,
                "Plugins": [],
            }
        )
    )
    with running([shutil.which("Orthanc") or "/usr/sbin/Orthanc", str(configuration)], port, nodelay):
        yield port


@contextmanager
def storescp(folder: Path, nodelay: str) -> Iterator[int]:
    port, place = free_port(), folder / "storescp"
    place.mkdir()
    with running([STORESCP, "--fork", "+B", "-od", str(place), str(port)], port, nodelay):
        yield port


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="names of loads")
    parser.add_argument("--receivers", nargs="*", help="names of receivers")
    options = parser.parse_args()
    receivers: dict[str, Callable[[Path, str], AbstractContextManager[int]]] = {
        "voxelnode": voxelnode,
        "orthanc": orthanc,
        "storescp": storescp,
    }
    if options.receivers:
        receivers = {name: receivers[name] for name in options.receivers}
    loads = [load for load in LOADS if not options.only or load.name in options.only]
    print(
        f"{'load':12}" + "".join(f"{name:>18}" for name in receivers) + "   seconds, median; then ratios to voxelnode"
    )
    for load in loads:
        seconds: dict[str, list[float]] = {name: [] for name in receivers}
        for _ in range(options.rounds):
            for name, receiver in receivers.items():
                with tempfile.TemporaryDirectory(prefix="voxelnode-benchmark-") as temporary:
                    folders = write_instances(Path(temporary, "sent"), load)
                    with receiver(Path(temporary), load.nodelay) as port:
                        seconds[name].append(send(folders, port, load.nodelay))
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        ratios = "  ".join(f"{name} {medians[name] / next(iter(medians.values())):.2f}" for name in medians)
        print(f"{load.name:12}" + "".join(f"{medians[name]:18.2f}" for name in receivers) + f"   {ratios}", flush=True)


if __name__ == "__main__":
    main()
