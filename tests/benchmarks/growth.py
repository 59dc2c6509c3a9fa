"""Whether taking in slows down, or memory grows, as the index does: from empty to a million instances.

    python tests/benchmarks/growth.py [--instances N] [--folder DIR]

Data sets of a CT slice without pixels, 200 to a series, four series to a study, two studies to a patient, go through
`ingest` from eight threads, as an import does: written, hashed, synced, indexed.  One line for each part of the way.
Needs about 5 KB of disk for each instance.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from node.control.repository import open_for_import  # noqa: E402
from node.receive.ingest import Announced, Ingest, Origin  # noqa: E402
from node.settings.model import Settings, Storage  # noqa: E402
from tests import make  # noqa: E402
from tests.integration.conftest import data_set_bytes  # noqa: E402

THREADS = 8
LINES = 20
SLICES, SERIES, STUDIES = 200, 4, 2


def data_sets(instances: int) -> Iterator[tuple[Announced, bytes]]:
    """One generated header after the other; only what identifies it differs."""
    [ds] = make.ct_series(1, rows=2, columns=2)
    prefix = "1.2.826.0.1.3680043.8.498."
    ds.SOPInstanceUID, ds.SeriesInstanceUID = f"{prefix}1.100000000", f"{prefix}2.100000000"
    ds.StudyInstanceUID, ds.PatientID = f"{prefix}3.100000000", "P100000000"
    ds.PatientName = "Name^100000000"
    template = data_set_bytes(ds)
    for number in range(instances):
        series = number // SLICES
        study = series // SERIES
        patient = study // STUDIES
        data = template
        for mark, value in (("1.", number), ("2.", series), ("3.", study)):
            data = data.replace(f"{prefix}{mark}100000000".encode(), f"{prefix}{mark}{100_000_000 + value}".encode())
        data = data.replace(b"P100000000", b"P%d" % (100_000_000 + patient)).replace(
            b"Name^100000000", b"Name^%d" % (100_000_000 + patient)
        )
        uid = f"{prefix}1.{100_000_000 + number}"
        yield Announced(str(ds.SOPClassUID), uid, str(ds.file_meta.TransferSyntaxUID)), data


def resident_megabytes() -> float:
    """Memory of this process that is in RAM."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise SystemExit("no VmRSS in /proc/self/status")


def take(ingest: Ingest, announced: Announced, data: bytes) -> None:
    arrival = ingest.begin(announced, Origin("import"))
    arrival.write(data)
    arrival.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the root is made; it is removed afterwards")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="voxelnode-growth-", dir=options.folder))
    part = options.instances // LINES
    print("   instances   per second   ms of processor   MB resident   MB of index")
    try:
        settings = Settings(storage=Storage(root=folder / "root", reserve_bytes=0))
        with open_for_import(settings) as ingest, ThreadPoolExecutor(THREADS) as threads:
            coming = data_sets(options.instances)
            for line in range(LINES):
                began, processor = time.perf_counter(), time.process_time()
                queue = [one for _, one in zip(range(part), coming, strict=False)]
                list(threads.map(lambda one: take(ingest, *one), queue))
                if not ingest.applier.catch_up(600):
                    raise SystemExit("the index does not follow")
                seconds = time.perf_counter() - began
                size = (folder / "root" / "index.sqlite").stat().st_size / 1e6
                print(
                    f"{(line + 1) * part:12d} {part / seconds:12.0f} "
                    f"{(time.process_time() - processor) / part * 1e3:17.3f} {resident_megabytes():13.0f} {size:13.0f}",
                    flush=True,
                )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
