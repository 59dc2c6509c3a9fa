"""Whether taking in slows down, or memory grows, as the index does: from empty to a million instances.

    python benchmarks/growth.py [--instances N] [--folder DIR] [--postgresql]

Data sets of a CT slice without pixels, 200 to a series, four series to a study, two studies to a patient, go through
`ingest` from eight threads, as an import does: written, hashed, synced, indexed.  One line for each part of the way.
Needs about 5 KB of disk for each instance.

With --postgresql, the index is in a server of its own, and only ten thousand instances are taken in at each million of
rows from none to five: SQL inserts the rows in between.
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

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import processor  # noqa: E402
from node.control.repository import open_for_import  # noqa: E402
from node.receive.ingest import Announced, Ingest, Origin  # noqa: E402
from node.settings.cluster import IndexSettings  # noqa: E402
from node.settings.model import Settings  # noqa: E402
from node.settings.storage import Storage  # noqa: E402
from tests import make  # noqa: E402
from tests.integration.conftest import data_set_bytes  # noqa: E402
from tests.postgresql import Server, start  # noqa: E402

THREADS = 8
LINES = 20
SLICES, SERIES, STUDIES = 200, 4, 2
MILLIONS, AT_EACH = 5, 10_000

FILL = (
    """INSERT INTO series (study_id, series_instance_uid, state, last_received_at, receptions, revision, attempts)
    SELECT (SELECT min(id) FROM studies), '1.2.826.0.2.' || i, 'converted', '2026-01-01', 200, 1, 0
    FROM generate_series({first}, {last}, 200) AS i""",
    """INSERT INTO images (series_id, sop_instance_uid, sop_class_uid, transfer_syntax_uid, instance_number, "rows",
        "columns", bytes, sha256, data_set_offset, "key", source, received_at)
    SELECT se.id, '1.2.826.0.3.' || i + n, '1.2.840.10008.5.1.4.1.1.2', '1.2.840.10008.1.2.1', 1 + n, 512, 512, 525000,
        encode(sha256((i + n)::text::bytea), 'hex'), 400,
        'objects/' || lpad(to_hex((i + n) / 1000), 8, '0') || '/' || gen_random_uuid() || '.dcm', 'dicom', '2026-01-01'
    FROM generate_series({first}, {last}, 200) AS i
    JOIN series se ON se.series_instance_uid = '1.2.826.0.2.' || i, generate_series(0, 199) AS n""",
    "ANALYZE",
    "CHECKPOINT",
)
"""Rows of a million instances, as many as a receiver would have inserted."""


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
    incoming = ingest.begin(announced, Origin("import"))
    incoming.take_fragment(data)
    incoming.finish()


def measure(ingest: Ingest, coming: Iterator[tuple[Announced, bytes]], instances: int) -> tuple[float, float]:
    """Take instances in; return how many a second, and the milliseconds of a processor for each."""
    queue = [one for _, one in zip(range(instances), coming, strict=False)]
    began, used = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda one: take(ingest, *one), queue))
        if not ingest.applier.catch_up(600):
            raise SystemExit("the index does not follow")
    return instances / (time.perf_counter() - began), 1e3 * (time.process_time() - used) / instances


def grow(settings: Settings, instances: int) -> None:
    """Take all instances in, in parts."""
    print("   instances   per second   ms of processor   MB resident   MB of index")
    part = instances // LINES
    with open_for_import(settings) as ingest:
        coming = data_sets(instances)
        for line in range(LINES):
            rate, used = measure(ingest, coming, part)
            size = (settings.storage.root / "index.sqlite").stat().st_size / 1e6
            print(
                f"{(line + 1) * part:12d} {rate:12.0f} {used:17.3f} {resident_megabytes():13.0f} {size:13.0f}",
                flush=True,
            )


def grow_in_postgresql(settings: Settings, server: Server, database: str, millions: int) -> None:
    """Take some instances in at each million of rows."""
    print("     rows   per second   ms of processor   of the server   MB of index")
    with open_for_import(settings) as ingest:
        coming = data_sets(2 * AT_EACH * (millions + 1))
        measure(ingest, coming, AT_EACH // 5)  # statements are prepared, and there is a study
        for million in range(millions + 1):
            if million:
                for statement in FILL:
                    server.run(
                        statement.format(first=1_000_000 * million, last=1_000_000 * million + 999_999), database
                    )
            before = processor.seconds(server.process)
            rate, used = measure(ingest, coming, AT_EACH)
            of_server = 1e3 * (processor.seconds(server.process) - before) / AT_EACH
            [[size]] = server.run(f"SELECT pg_database_size('{database}') / 1000000", database)
            print(f"{million:7} M {rate:12.0f} {used:17.3f} {of_server:15.3f} {size:13}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the root is made; it is removed afterwards")
    parser.add_argument("--postgresql", action="store_true")
    parser.add_argument("--millions", type=int, default=MILLIONS, help="of rows, with --postgresql")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="voxelnode-growth-", dir=options.folder))
    try:
        storage = Storage(root=folder / "root", reserve_bytes=0)
        if not options.postgresql:
            grow(Settings(storage=storage), options.instances)
            return
        with start("-c", "max_wal_size=4GB") as server:
            settings = Settings(storage=storage, index=IndexSettings(url=server.create("growth")))
            grow_in_postgresql(settings, server, "growth", options.millions)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
