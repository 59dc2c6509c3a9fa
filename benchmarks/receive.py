"""How fast the node receives, beside other receivers, in turns within one run: only the ratios count.

    python benchmarks/receive.py [--rounds N] [--only LOAD ...] [--receivers NAME ...] [--before CHECKOUT] [--pin]
                                 [--beside COMMAND]
    python benchmarks/receive.py --idle 64 --receivers voxelnode handlers pynetdicom

The node runs as it does at a site (sync, index, digest, quiet state), Debian's Orthanc with its defaults (SQLite,
synced storage), `storescp --fork` without any of it, `pynetdicom` a bare SCP of that library, which syncs a file for
each instance, `handlers` that library in front of a node, as in docs/pynetdicom.md.  `postgresql` is a node with its
index in PostgreSQL, `hosts` are four receivers of one index, each with its share of the associations, that acknowledge
what is in the index, and `hosts-local` what is in their journals; `before` is the node of another checkout.

Senders are DCMTK's `storescu`, without Nagle's algorithm (`TCP_NODELAY=1`) and with its defaults, as many modalities
send.  The variable is set for the receivers too: those made of DCMTK would else wait for our acknowledgements
themselves.  Needs Debian's `dcmtk` and `orthanc`.

The last columns are the processor time of the receiver for an instance until it rests, how much of it was in user
mode, and that of the server of PostgreSQL in addition. A receiver in Python computes in user mode with the lock of its
interpreter, and waits for the disk and the network without it, so one interpreter ends at about 1000 / user ms
instances a second, however many cores there are: the column `ends at`, 0 for receivers in C++.

`--pin` gives the first half of the cores to the receiver, and the other half to the senders.

`--beside` runs a command again and again while instances are sent, such as a conversion, which takes one core.

With `--idle`, so many associations do nothing instead for ten seconds: what they take of a processor, and the memory of
the receiver before and with them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import astuple, dataclass
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
from pydicom.tag import Tag
from pydicom.uid import generate_uid

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import processor  # noqa: E402
from node.index.rows.backend import ServerPlace  # noqa: E402
from node.index.rows.place import upgrade  # noqa: E402
from tests.make import instance  # noqa: E402
from tests.postgresql import start  # noqa: E402
from tests.programs import SYSTEM_PATH, free_port  # noqa: E402
from tests.protocol.conftest import associate_rq  # noqa: E402

# pynetdicom has programs of the same names, which a virtual environment puts first.
STORESCU = shutil.which("storescu", path=SYSTEM_PATH) or "storescu"
STORESCP = shutil.which("storescp", path=SYSTEM_PATH) or "storescp"


@dataclass(frozen=True)
class Load:
    """So many instances of so many bytes, over so many associations at once.

    `elements`: further ones in each header; one in ten differs from instance to instance.
    """

    name: str
    instances: int
    side: int
    associations: int
    nodelay: str
    elements: int = 0


@dataclass(frozen=True)
class Receiver:
    """Where a receiver listens, and its processes: of itself, and of the server of its index."""

    ports: Sequence[int]
    processes: Sequence[int]
    server: int | None = None

    def used(self) -> tuple[float, float, float]:
        """Return the user and the system time of the receiver, and the processor time of the server, in seconds."""
        server = processor.seconds(self.server) if self.server is not None else 0.0
        user, system = zip(*map(processor.user_and_system, self.processes), strict=True)
        return sum(user), sum(system), server

    def await_rest(self) -> None:
        """Return when everything that was received is indexed."""
        for process in (*self.processes, *([self.server] if self.server is not None else [])):
            processor.await_rest(process)


HOSTS = 4

INTERPRETERS = {"orthanc": 0, "storescp": 0, "hosts": HOSTS, "hosts-local": HOSTS}
"""Of receivers that have not one interpreter of Python."""

LOADS = [
    Load("N ct", 400, 512, 1, "1"),
    Load("N small", 2000, 64, 4, "1"),
    Load("N small x1", 1000, 64, 1, "1"),
    Load("N header", 2000, 64, 4, "1", elements=100),
    Load("N small x16", 4000, 64, 16, "1"),
    Load("D ct", 100, 512, 1, "0"),
    Load("D small", 400, 64, 4, "0"),
]


ALONE = [load.name for load in LOADS if load.name != "N small x16"]
"""Loads that one receiver gets."""


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
            for element in range(load.elements):
                value = number if element % 10 == 0 else element
                ds.add_new(Tag(0x0018, 0x9004 + element), "LO", f"value {value} of element {element}")
            ds.PixelData = random.integers(0, 2000, (load.side, load.side), np.int16).tobytes()
            ds.save_as(place / f"{number:05d}.dcm", enforce_file_format=True)
        folders.append(place)
    return folders


def send(folders: Sequence[Path], ports: Sequence[int], nodelay: str) -> float:
    """Seconds until every sender has ended; they take the ports in turns."""
    began = time.perf_counter()
    senders = [
        subprocess.Popen(
            [STORESCU, "+sd", "-aec", "ANY", "-xe", "-R", "127.0.0.1", str(port), str(folder)],
            env=os.environ | {"TCP_NODELAY": nodelay},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for folder, port in zip(folders, cycle(ports), strict=False)
    ]
    codes = [sender.wait() for sender in senders]
    if any(codes):
        raise SystemExit(f"storescu ended with {codes}")
    return time.perf_counter() - began


@contextmanager
def running(
    command: list[str], port: int, nodelay: str, folder: Path = ROOT, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a receiver in a folder, as soon as it listens."""
    process = subprocess.Popen(
        command,
        env=os.environ | environment | {"TCP_NODELAY": nodelay, "PYTHONPATH": str(folder)},
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
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
def node(
    root: Path, nodelay: str, checkout: Path = ROOT, **environment: str
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Serve a root, with the program of a checkout."""
    port = free_port()
    environment = {
        "VOXELNODE_SERIES__QUIET_SECONDS": "3600",
        "VOXELNODE_LOG__LEVEL": "warning",
        "VOXELNODE_WEB__PORT": "0",
        **environment,
    }
    command = [sys.executable, "-m", "node", "serve", "--create", "--root", str(root), "--port", str(port)]
    with running(command, port, nodelay, checkout, **environment) as process:
        yield port, process


@contextmanager
def voxelnode(folder: Path, nodelay: str, checkout: Path = ROOT) -> Iterator[Receiver]:
    with node(folder / "voxelnode", nodelay, checkout) as (port, process):
        yield Receiver([port], [process.pid])


@contextmanager
def acceptor(folder: Path, nodelay: str) -> Iterator[Receiver]:
    """The node, receiving by pynetdicom's acceptor."""
    with node(folder / "acceptor", nodelay, VOXELNODE_DICOM__ACCEPTOR="pynetdicom") as (port, process):
        yield Receiver([port], [process.pid])


@contextmanager
def in_postgresql(folder: Path, nodelay: str, hosts: int, acknowledge: str) -> Iterator[Receiver]:
    """So many receivers of one index and one object store, with a promise of `[journal] acknowledge`."""
    with ExitStack() as opened:
        server = opened.enter_context(start())
        (store := folder / "store").mkdir()
        environment = {
            "VOXELNODE_INDEX__URL": server.create("benchmark"),
            "VOXELNODE_STORAGE__URL": f"file://{store}",
            "VOXELNODE_JOURNAL__ACKNOWLEDGE": acknowledge,
            "VOXELNODE_CLUSTER__ROLES": '["receive"]' if hosts > 1 else '["receive", "convert", "web"]',
        }
        upgrade(ServerPlace(environment["VOXELNODE_INDEX__URL"], folder))
        served = [
            opened.enter_context(node(folder / name, nodelay, VOXELNODE_CLUSTER__HOST=name, **environment))
            for name in (f"r{number}" for number in range(hosts))
        ]
        yield Receiver([port for port, _ in served], [process.pid for _, process in served], server.process)


@contextmanager
def orthanc(folder: Path, nodelay: str) -> Iterator[Receiver]:
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
    with running([shutil.which("Orthanc") or "/usr/sbin/Orthanc", str(configuration)], port, nodelay) as process:
        yield Receiver([port], [process.pid])


@contextmanager
def storescp(folder: Path, nodelay: str) -> Iterator[Receiver]:
    port, place = free_port(), folder / "storescp"
    place.mkdir()
    with running([STORESCP, "--fork", "+B", "-od", str(place), str(port)], port, nodelay) as process:
        yield Receiver([port], [process.pid])


@contextmanager
def pynetdicom(folder: Path, nodelay: str) -> Iterator[Receiver]:
    port, place = free_port(), folder / "pynetdicom"
    place.mkdir()
    program = ROOT / "benchmarks" / "pynetdicom_scp.py"
    with running([sys.executable, str(program), str(port), str(place)], port, nodelay) as process:
        yield Receiver([port], [process.pid])


@contextmanager
def handlers(folder: Path, nodelay: str) -> Iterator[Receiver]:
    """The program of docs/pynetdicom.md, for more associations than pynetdicom's default of ten."""
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "pynetdicom.md").read_text(), re.DOTALL)
    (folder / "temporary").mkdir()
    environment = {"VOXELNODE_SERIES__QUIET_SECONDS": "3600", "TMPDIR": str(folder / "temporary")}
    command = [
        sys.executable,
        "-c",
        code.replace("ae = pynetdicom.AE(", "pynetdicom.AE.maximum_associations = 128\nae = pynetdicom.AE("),
    ]
    port = free_port()
    with running(
        [*command, str(folder / "root"), str(port), "--create"], port, nodelay, ROOT, **environment
    ) as process:
        yield Receiver([port], [process.pid])


IDLE_SECONDS = 10.0


def idle(receiver: Receiver, associations: int) -> tuple[float, float, float]:
    """Milliseconds of a processor a second for associations that do nothing; megabytes before and with them."""
    receiver.await_rest()
    [process] = receiver.processes
    before = resident_megabytes(process)
    with ExitStack() as opened:
        for _ in range(associations):
            peer = opened.enter_context(socket.create_connection(("127.0.0.1", receiver.ports[0])))
            peer.sendall(associate_rq())
            if peer.recv(1) != b"\x02":
                raise SystemExit("the receiver does not accept so many associations")
        time.sleep(1)
        used = processor.seconds(process)
        time.sleep(IDLE_SECONDS)
        return 1000 * (processor.seconds(process) - used) / IDLE_SECONDS, before, resident_megabytes(process)


def resident_megabytes(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1000


@contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """Have the processes that begin within run on these cores."""
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_cores)


def halves() -> tuple[set[int], set[int]]:
    """Return the cores of the receiver and those of the senders."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("--pin needs two cores")
    return set(cores[: len(cores) // 2]), set(cores[len(cores) // 2 :])


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds until all was sent, and milliseconds of a processor for an instance: of the receiver, of its server."""

    seconds: float
    user: float
    system: float
    server: float

    @property
    def own(self) -> float:
        """Of the receiver."""
        return self.user + self.system


def measured(receiver: Receiver, folders: list[Path], load: Load, senders_cores: set[int]) -> Measured:
    """Send a load, and measure until the receiver rests."""
    receiver.await_rest()  # its start may go on
    before = receiver.used()
    with on_cores(senders_cores):
        seconds = send(folders, receiver.ports, load.nodelay)
    receiver.await_rest()
    used = (1000 * (now - then) / load.instances for then, now in zip(before, receiver.used(), strict=True))
    return Measured(seconds, *used)


@contextmanager
def repeating(command: str | None) -> Iterator[None]:
    """Run a command of the shell again and again within, if there is one."""
    if command is None:
        yield
        return
    shell = ["sh", "-c", f"while :; do {command}; done"]
    with subprocess.Popen(shell, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0) as process:
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def median(rounds: Sequence[Measured]) -> Measured:
    """Return the median of each figure."""
    return Measured(*map(statistics.median, zip(*map(astuple, rounds), strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="names of loads")
    parser.add_argument("--receivers", nargs="*", help="names of receivers")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="another checkout, as the receiver `before`")
    parser.add_argument("--idle", type=int, metavar="ASSOCIATIONS", help="associations that do nothing, and no loads")
    parser.add_argument("--pin", action="store_true", help="cores of their own for the receiver and for the senders")
    parser.add_argument("--beside", metavar="COMMAND", help="run this again and again meanwhile")
    options = parser.parse_args()
    receivers: dict[str, Callable[[Path, str], AbstractContextManager[Receiver]]] = {
        "voxelnode": voxelnode,
        "orthanc": orthanc,
        "storescp": storescp,
        "pynetdicom": pynetdicom,
        "acceptor": acceptor,
        "handlers": handlers,
        "postgresql": partial(in_postgresql, hosts=1, acknowledge="local"),
        "hosts": partial(in_postgresql, hosts=HOSTS, acknowledge="index"),
        "hosts-local": partial(in_postgresql, hosts=HOSTS, acknowledge="local"),
    }
    if options.before is not None:
        receivers["before"] = partial(voxelnode, checkout=options.before.absolute())
    names = options.receivers or [name for name in receivers if name not in ("postgresql", "hosts", "hosts-local")]
    if options.idle:
        os.environ["VOXELNODE_DICOM__MAXIMUM_ASSOCIATIONS"] = "500"  # a quarter of them for one address
        for name in names:
            with tempfile.TemporaryDirectory() as temporary, receivers[name](Path(temporary), "1") as receiver:
                used, before, after = idle(receiver, options.idle)
            print(f"{name:12}{used:8.1f} ms of a processor a second, {before:.0f} MB before, {after:.0f} MB with them")
        return
    all_cores = os.sched_getaffinity(0)
    receivers_cores, senders_cores = halves() if options.pin else (all_cores, all_cores)
    loads = [load for load in LOADS if load.name in (options.only or ALONE)]
    print(
        f"{'load':12}{'receiver':12} seconds  per second  ratio   ms of processor  ratio  in user mode  ends at  "
        "of the server"
    )
    for load in loads:
        rounds: dict[str, list[Measured]] = {name: [] for name in names}
        for number in range(options.rounds):
            for name in names if number % 2 == 0 else reversed(names):
                with tempfile.TemporaryDirectory(prefix="voxelnode-benchmark-") as temporary, ExitStack() as opened:
                    folders = write_instances(Path(temporary, "sent"), load)
                    with on_cores(receivers_cores):
                        receiver = opened.enter_context(receivers[name](Path(temporary), load.nodelay))
                    with repeating(options.beside):
                        rounds[name].append(measured(receiver, folders, load, senders_cores))
        medians = {name: median(rounds[name]) for name in names}
        first = medians[names[0]]
        for name, one in medians.items():
            print(
                f"{load.name:12}{name:12}{one.seconds:8.2f}{load.instances / one.seconds:12.0f}"
                f"{one.seconds / first.seconds:7.2f}{one.own:18.3f}{one.own / first.own:7.3f}{one.user:14.3f}"
                f"{1000 * INTERPRETERS.get(name, 1) / one.user:9.0f}{one.server:15.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
