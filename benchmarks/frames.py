"""How fast frames leave over HTTP, compressed and not, beside Orthanc, in turns within one run.

    python benchmarks/frames.py [--instances 500] [--rounds 3]
    python benchmarks/frames.py --beside [--instances 400] [--rounds 3]

A CT of 512 x 512 is made of the slices of the corpus (`dcm_qa_ct/ct-gantry-tilt`), again and again under fresh UIDs,
and stored in a node and in Debian's Orthanc. Six connections, as of a browser, go round its frames for 6 s, as stored
or as a picture (JPEG); for what nobody has asked for before, and for all frames in one answer, they ask once. Orthanc
without its DICOMweb plugin has REST of its own for the same bytes; it makes each picture again.

The last column is the time that this study takes on a line of 100 Mbit/s for its bytes alone.

With `--beside`, the connections go round the frames as stored, then four senders send 2000 small instances, then both
at once, the senders twice: of a node with HTTP in a process of its own, of one without, and of Orthanc.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import generate_uid

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# A disk; tests would take memory (tmpfs), where the kernel does not say whether a read waits, and all go to threads.
os.environ.setdefault("TMPDIR", "/var/tmp")

from benchmarks import processor  # noqa: E402
from benchmarks.receive import LOADS, node, running, send, write_instances  # noqa: E402
from node.volume.read.transfer_syntaxes import ENCODERS  # noqa: E402
from tests.conftest import corpus_folder  # noqa: E402
from tests.programs import free_port  # noqa: E402

CONNECTIONS = 6
SECONDS = 6.0
BEGIN_SECONDS = 0.5
"""How long the connections go round before anything is counted."""

JPEG = "image/jpeg"
LINE_BYTES = 100e6 / 8
NAMES = {"1.2.840.10008.1.2.4.80": ("JPEG-LS", "image/jls"), "1.2.840.10008.1.2.4.201": ("HTJ2K", "image/jphc")}


def written(folder: Path, count: int) -> list[str]:
    """Write a series; return the paths of its instances in DICOMweb."""
    sources = sorted((corpus_folder() / "dcm_qa_ct" / "ct-gantry-tilt").glob("I*"))
    study, series = generate_uid(), generate_uid()
    paths = []
    for number, source in enumerate(islice(cycle(sources), count), 1):
        ds = dcmread(source)
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.InstanceNumber = study, series, number
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.save_as(folder / f"{number:05d}.dcm")
        paths.append(f"/dicom-web/studies/{study}/series/{series}/instances/{ds.SOPInstanceUID}")
    return paths


@dataclass(frozen=True, slots=True, order=True)
class Asked:
    """Seconds for a study of frames, the longest answer, seconds of the processor, and the bytes of a study."""

    seconds: float
    longest: float
    used: float
    bytes: float


@dataclass(frozen=True, slots=True)
class Server:
    """What answers: its process, its port for DICOM and for HTTP, and the paths of its frames with what is accepted."""

    process: int
    port: int
    web: int
    frames: Sequence[str]
    octets: str

    def asked(self, paths: Sequence[str], accept: str, meanwhile: Callable[[], object] | None = None) -> Asked:
        """Ask for each path once, or go round them while `meanwhile` runs."""
        queue, lock, stop = iter(cycle(paths) if meanwhile else paths), threading.Lock(), threading.Event()
        answers: list[tuple[float, float, int]] = []

        def ask() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self.web, timeout=600)
            while not stop.is_set():
                with lock:
                    path = next(queue, None)
                if path is None:
                    break
                began = time.perf_counter()
                connection.request("GET", path, headers={"Accept": accept})
                answer = connection.getresponse()
                body = answer.read()
                if answer.status != 200:
                    raise SystemExit(f"{answer.status} {body[:300]!r}")
                answers.append((time.perf_counter(), began, len(body)))

        with ThreadPoolExecutor(CONNECTIONS) as threads:
            asking = [threads.submit(ask) for _ in range(CONNECTIONS)]
            try:
                if meanwhile is not None:
                    time.sleep(BEGIN_SECONDS)
                before, began = processor.seconds(self.process), time.perf_counter()
                (meanwhile or partial(wait, asking))()
                ended, used = time.perf_counter(), processor.seconds(self.process) - before
            finally:
                stop.set()
        for one in asking:
            one.result()
        counted = [one for one in answers if meanwhile is None or began <= one[0] <= ended]
        studies = len(counted) / len(paths)
        longest = max(end - start for end, start, _ in counted)
        return Asked((ended - began) / studies, longest, used / studies, sum(size for *_, size in counted) / studies)


@contextmanager
def voxelnode(folder: Path, sent: Path, paths: Sequence[str], **environment: str) -> Iterator[Server]:
    web = free_port()
    with node(folder / "root", "1", ROOT, VOXELNODE_WEB__PORT=str(web), **environment) as (port, process):
        send([sent], [port], "1")
        processor.await_rest(process.pid)
        yield Server(process.pid, port, web, [f"{path}/frames/1" for path in paths], "application/octet-stream")


@contextmanager
def orthanc(folder: Path, sent: Path, _: Sequence[str]) -> Iterator[Server]:
    web, port = free_port(), free_port()
    settings: dict[str, object] = {
        "StorageDirectory": str(folder / "orthanc"),
        "IndexDirectory": str(folder / "orthanc"),
    }
    settings |= {"DicomPort": port, "HttpPort": web, "DicomAlwaysAllowStore": True, "DicomCheckCalledAet": False}
    settings |= {"HttpThreadsCount": 50, "KeepAlive": True, "Plugins": []}
    (folder / "orthanc.json").write_text(json.dumps(settings))
    command = [shutil.which("Orthanc") or "/usr/sbin/Orthanc", str(folder / "orthanc.json")]
    with running(command, port, "1") as process:
        send([sent], [port], "1")
        processor.await_rest(process.pid)
        connection = http.client.HTTPConnection("127.0.0.1", web)
        connection.request("GET", "/instances")
        found = json.loads(connection.getresponse().read())
        yield Server(process.pid, port, web, [f"/instances/{one}/frames/0/raw" for one in found], "*/*")


def alone(folder: Path, sent: Path, paths: Sequence[str], rounds: int) -> None:
    """Print how fast each kind of frame leaves: the best of the rounds."""
    with voxelnode(folder, sent, paths) as ours, orthanc(folder, sent, paths) as theirs:
        series = paths[0].partition("/instances/")[0] + "/pixeldata"
        rendered = [f"{path}/rendered" for path in ours.frames]
        pictures = [path.replace("/raw", "/rendered") for path in theirs.frames]
        syntaxes = [NAMES[syntax] for syntax in ENCODERS]
        steady, once = partial(time.sleep, SECONDS), None
        loads: list[tuple[str, Server, Sequence[str], str, Callable[[], object] | None]] = [
            ("Orthanc, raw", theirs, theirs.frames, theirs.octets, steady),
            ("Orthanc, pictures", theirs, pictures, JPEG, steady),
            ("uncompressed", ours, ours.frames, ours.octets, steady),
            ("uncompressed, one answer", ours, [series], "*/*", once),
            ("pictures, warm", ours, rendered, JPEG, steady),
        ]
        for label, kind in syntaxes:
            loads.append((f"{label}, warm", ours, ours.frames, kind, steady))
            loads.append((f"{label}, warm, one answer", ours, [series], f'multipart/related; type="{kind}"', once))
        best = {"pictures, cold": ours.asked(rendered, JPEG)}
        best |= {f"{label}, cold": ours.asked(ours.frames, kind) for label, kind in syntaxes}
        for _ in range(rounds):
            for label, server, its_paths, accept, meanwhile in loads:
                found = server.asked(its_paths, accept, meanwhile)
                best[label] = min(best.get(label, found), found)
    print(f"{'':28} {'seconds':>8} {'frames/s':>9} {'CPU ms':>7} {'longest':>8} {'MB':>7} {'100 Mbit/s':>10}")
    for label, one in best.items():
        row = f"{label:28} {one.seconds:8.2f} {len(paths) / one.seconds:9.0f} {1000 * one.used / len(paths):7.2f}"
        print(f"{row} {one.longest:8.2f} {one.bytes / 1e6:7.1f} {one.bytes / LINE_BYTES:9.1f} s")


def beside(folder: Path, sent: Path, paths: Sequence[str], rounds: int) -> None:
    """Print how fast frames leave, and instances come, alone and at once: each round with empty indexes."""
    load = next(one for one in LOADS if one.name == "N small")
    servers: dict[str, Callable[..., AbstractContextManager[Server]]] = {
        "voxelnode": voxelnode,
        "voxelnode, one process": partial(voxelnode, VOXELNODE_WEB__PROCESS="false"),
        "Orthanc": orthanc,
    }
    print(f"{'':24} {'frames/s':>8} {'beside':>8} {'ratio':>6} {'longest':>8} {'send s':>7} {'beside':>7} {'ratio':>6}")
    for number, (label, serve) in enumerate(islice(cycle(servers.items()), rounds * len(servers))):
        (place := folder / str(number)).mkdir()
        sets = [write_instances(place / f"sent{one}", load) for one in range(3)]
        with serve(place, sent, paths) as server:
            page = partial(server.asked, server.frames, server.octets)
            page()
            frames = page(partial(time.sleep, SECONDS))
            sending = send(sets[0], [server.port], load.nodelay)
            processor.await_rest(server.process)
            seconds: list[float] = []
            again = (send(one, [server.port], load.nodelay) for one in sets[1:])
            both = page(partial(seconds.extend, again))
        shutil.rmtree(place)
        rate, rate_beside, sending_beside = len(paths) / frames.seconds, len(paths) / both.seconds, sum(seconds) / 2
        row = f"{label:24} {rate:8.0f} {rate_beside:8.0f} {rate_beside / rate:6.2f} {both.longest:8.2f}"
        print(f"{row} {sending:7.2f} {sending_beside:7.2f} {sending / sending_beside:6.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beside", action="store_true", help="while four senders send small instances")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        (sent := Path(name, "sent")).mkdir()
        paths = written(sent, arguments.instances)
        (beside if arguments.beside else alone)(Path(name), sent, paths, arguments.rounds)


if __name__ == "__main__":
    main()
