"""How fast frames leave over HTTP, compressed and not, beside Orthanc, in turns within one run.

    python benchmarks/frames.py [--instances 500] [--rounds 3] [--times 1]

A CT of 512 x 512 is made of the slices of the corpus (`dcm_qa_ct/ct-gantry-tilt`), again and again under fresh UIDs,
and stored in a node and in Debian's Orthanc. Six connections, as of a browser, ask for each frame once, as stored or as
a picture (JPEG), or for all frames in one answer. Orthanc without its DICOMweb plugin has REST of its own for the same
bytes; it makes each picture again.

The last column is the time that this study takes on a line of 100 Mbit/s for its bytes alone.
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
from collections.abc import Callable, Sequence
from contextlib import ExitStack
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
from benchmarks.receive import node, running, send  # noqa: E402
from node.volume.read.transfer_syntaxes import ENCODERS  # noqa: E402
from tests.conftest import corpus_folder  # noqa: E402
from tests.programs import free_port  # noqa: E402

CONNECTIONS = 6
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


def asked(port: int, paths: Sequence[str], accept: str) -> tuple[float, int]:
    """Ask for each path once; return the seconds, and the bytes of the bodies."""
    queue, lock, total = iter(paths), threading.Lock(), [0]

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        while True:
            with lock:
                path = next(queue, None)
            if path is None:
                break
            connection.request("GET", path, headers={"Accept": accept})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise SystemExit(f"{answer.status} {body[:300]!r}")
            with lock:
                total[0] += len(body)

    threads = [threading.Thread(target=ask) for _ in range(CONNECTIONS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began, total[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=int, default=1, help="how often a round asks for the same, in one burst")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name, ExitStack() as opened:
        folder = Path(name)
        (folder / "sent").mkdir()
        paths = written(folder / "sent", arguments.instances)
        web, orthanc_web, orthanc_port = free_port(), free_port(), free_port()
        port, served = opened.enter_context(node(folder / "root", "1", VOXELNODE_WEB__PORT=str(web)))
        settings: dict[str, object] = {
            "StorageDirectory": str(folder / "orthanc"),
            "IndexDirectory": str(folder / "orthanc"),
        }
        settings |= {"DicomPort": orthanc_port, "HttpPort": orthanc_web, "DicomAlwaysAllowStore": True}
        settings |= {"DicomCheckCalledAet": False, "HttpThreadsCount": 50, "KeepAlive": True, "Plugins": []}
        (folder / "orthanc.json").write_text(json.dumps(settings))
        command = [shutil.which("Orthanc") or "/usr/sbin/Orthanc", str(folder / "orthanc.json")]
        other = opened.enter_context(running(command, orthanc_port, "1"))
        send([folder / "sent"], [port], "1")
        send([folder / "sent"], [orthanc_port], "1")
        processor.await_rest(served.pid)
        connection = http.client.HTTPConnection("127.0.0.1", orthanc_web)
        connection.request("GET", "/instances")
        raw = [f"/instances/{one}/frames/0/raw" for one in json.loads(connection.getresponse().read())]
        pictures = [path.replace("/raw", "/rendered") for path in raw]
        series = paths[0].partition("/instances/")[0] + "/pixeldata"
        frames = [f"{path}/frames/1" for path in paths]
        rendered = [f"{path}/rendered" for path in frames]
        syntaxes = [NAMES[syntax] for syntax in ENCODERS]
        loads: list[tuple[str, int, Callable[[], tuple[float, int]]]] = [
            ("Orthanc, raw", other.pid, partial(asked, orthanc_web, raw, "*/*")),
            ("Orthanc, pictures", other.pid, partial(asked, orthanc_web, pictures, JPEG)),
            ("uncompressed", served.pid, partial(asked, web, frames, "application/octet-stream")),
            ("uncompressed, one answer", served.pid, partial(asked, web, [series], "*/*")),
            ("pictures, warm", served.pid, partial(asked, web, rendered, JPEG)),
        ]
        for label, kind in syntaxes:
            in_parts = partial(asked, web, [series], f'multipart/related; type="{kind}"')
            loads.append((f"{label}, warm", served.pid, partial(asked, web, frames, kind)))
            loads.append((f"{label}, warm, one answer", served.pid, in_parts))
        best: dict[str, tuple[float, int, float]] = {}
        for label, its_paths, kind in (
            ("pictures", rendered, JPEG),
            *((label, frames, kind) for label, kind in syntaxes),
        ):
            before = processor.seconds(served.pid)
            seconds, total = asked(web, its_paths, kind)
            best[f"{label}, cold"] = seconds, total, processor.seconds(served.pid) - before
        for _ in range(arguments.rounds):
            for label, process, load in (each for each in loads for _ in range(arguments.times)):
                before = processor.seconds(process)
                seconds, total = load()
                found = seconds, total, processor.seconds(process) - before
                best[label] = min(best.get(label, found), found)
        print(f"{'':28} {'seconds':>8} {'frames/s':>9} {'CPU ms':>7} {'MB':>7} {'100 Mbit/s':>10}")
        for label, (seconds, total, used) in best.items():
            count = arguments.instances
            row = f"{label:28} {seconds:8.2f} {count / seconds:9.0f} {1000 * used / count:7.2f}"
            print(f"{row} {total / 1e6:7.1f} {total / LINE_BYTES:9.1f} s")


if __name__ == "__main__":
    main()
