"""How an index of ten million instances answers, and what grows with it.

    python benchmarks/scale.py FOLDER [--instances N] [--single] [--postgresql] [--only PART ...]

makes the index in FOLDER, unless it is there, and measures it.  A node receives and converts one study.  SQL then
copies its rows with other UIDs, names, dates and keys, so that each row has the columns that a node fills; at the end,
the node receives another study, and the columns of its rows are compared with those of the copies.

A study has 40 instances in four series; with --single it has one instance, and there are as many studies as instances.
Files exist of the received studies alone; the part `keep` takes in up to 100 000 instances with files.  With
--postgresql, the same rows are in a server of its own, which ends with the program.  Needs 1.1 KB of disk for an
instance, 1.6 KB in PostgreSQL, and with --single six times as much.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2 as httpx
from pydicom import FileDataset
from pydicom.uid import PositronEmissionTomographyImageStorage, generate_uid

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import query, studies  # noqa: E402
from benchmarks.in_postgresql import copied  # noqa: E402
from benchmarks.receive import send  # noqa: E402
from node.control.repository import open_for_import  # noqa: E402
from node.dicom.key_values import folded_groups  # noqa: E402
from node.index.look.views import ReadIndex  # noqa: E402
from node.index.looking import looking  # noqa: E402
from node.index.rows.place import FILE_NAME, place_of  # noqa: E402
from node.lifecycle.expired import due_now  # noqa: E402
from node.receive.ingest import Announced, Ingest, Origin  # noqa: E402
from node.settings.core import IndexSettings, RetentionSettings, Storage  # noqa: E402
from node.settings.model import Settings  # noqa: E402
from tests import make  # noqa: E402
from tests.acceptance.served import Served, peak_bytes, until  # noqa: E402
from tests.integration.conftest import data_set_bytes  # noqa: E402
from tests.postgresql import Server, start  # noqa: E402

SLICES = 13
YEARS = 10
STUDIES_OF_PATIENT = 1.67

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})"
"""The numbers from 1 to another one, as the rows of `n`."""

_NUMBER = "printf('%08d', i)"
_MOMENT = "strftime('%Y-%m-%d %H:%M:%f000', '2016-01-01', '+' || (i * {days} * 86400 / {copies}) || ' seconds')"
_UIDS = ("study_instance_uid", "series_instance_uid", "sop_instance_uid", "frame_of_reference_uid")
_LEVELS = {"study_id": "studies", "series_id": "series", "image_id": "images", "conversion_id": "conversions"}

TABLES = (
    "studies", "series", "series_documents", "images", "image_documents", "conversions", "volumes", "volume_sources",
    "failures", "events",
)  # fmt: skip
"""With the rows of a study, in the order in which they can be inserted."""

VARIED: Mapping[tuple[str, str], str] = {
    ("studies", "patient_id"): "1 + (i * 7919) % {patients}",
    ("studies", "study_id"): "i",
    ("studies", "accession_number"): "'A' || i",
    ("studies", "study_description"): "'Study ' || (i % 40)",
    ("studies", "study_date"): "date('2016-01-01', '+' || (i * {days} / {copies}) || ' days')",
    ("studies", "study_time"): "time(28800 + (i * 997) % 36000, 'unixepoch') || '.000000'",
    ("series", "series_description"): "'Series ' || ((id + i * {series}) % 300)",
    ("series", "state"): "CASE WHEN i % 5003 = 1 AND state = 'converted' THEN 'refused' ELSE state END",
    ("series", "verdict"): "CASE WHEN (id + i * {series}) % 997 = 0 THEN 'incomplete' ELSE verdict END",
    ("series", "verdict_rule"): "CASE WHEN i % 7 < 4 THEN verdict_rule ELSE 'headers' END",
    ("images", "key"): "printf('objects/%08x/', (id + i * {images}) / 1000) || lower(hex(randomblob(16))) || '.dcm'",
    ("images", "sha256"): "lower(hex(printf('%032d', id + i * {images})))",
    ("volumes", "sha256"): "lower(hex(randomblob(32)))",
    ("volumes", "path"): "replace(path, '/1-', printf('-%08d/1-', i))",
    ("conversions", "input_sha256"): "lower(hex(randomblob(32)))",
    ("volume_sources", "sha256"): "lower(hex(printf('%032d', id + i * {volume_sources})))",
}
"""What a column of a copy has, by its table; other UIDs, times and numbers of rows vary in each."""


@dataclass(frozen=True)
class Shape:
    """How large an index is, and whether its studies have one instance each."""

    instances: int
    is_single: bool

    @property
    def studies(self) -> int:
        return self.instances // (1 if self.is_single else 3 * SLICES + 1)

    @property
    def patients(self) -> int:
        return max(1, int(self.studies / STUDIES_OF_PATIENT))


FAMILY = (
    "Schmidt Müller Meyer Weber Wagner Becker Schulz Hoffmann Koch Bauer Richter Klein Wolf Schröder Neumann",
    "Schwarz Zimmermann Braun Krüger Hofmann Hartmann Lange Schmitt Werner Krause Meier Lehmann Schmid Schulze Maier",
)
GIVEN = "Anna Ben Clara David Emma Felix Greta Hans Ida Jonas Karla Leon Mia Noah Olga Paul Rosa Theo Uma Victor"

PATIENT_COLUMNS = "id identity patient_id patient_name patient_name_alphabetic patient_birth_date patient_sex"


def patient(number: int) -> tuple[Any, ...]:
    """Return a patient: `PATIENT_COLUMNS`."""
    families, givens = " ".join(FAMILY).split(), GIVEN.split()
    family, given = families[number % len(families)], givens[number // len(families) % len(givens)]
    name = f"{family}{number % 97}^{given}"
    birth = f"{1930 + number % 90}-{1 + number % 12:02d}-{1 + number % 28:02d}"
    return number, f"\\P{number:06d}", f"P{number:06d}", name, folded_groups(name)[0], birth, "MF"[number % 2]


def study(shape: Shape) -> list[FileDataset]:
    """Return the instances of one study, with pixels of 32 bytes."""
    of_study = {"study_uid": generate_uid(), "StudyDescription": "Study 0", "AccessionNumber": "A0"}
    of_study |= {"PatientID": "P000000", "PatientName": "Schmidt^Anna", "PatientBirthDate": "19600102"}
    small = {"rows": 4, "columns": 4}
    if shape.is_single:
        return make.ct_series(1, SeriesDescription="Series 0", **small, **of_study)
    pet = {"modality": "PT", "sop_class_uid": PositronEmissionTomographyImageStorage}
    report = make.structured_report(
        SeriesDescription="Series 3",
        **{("StudyInstanceUID" if name == "study_uid" else name): value for name, value in of_study.items()},
    )
    return [
        *make.ct_series(SLICES, SeriesNumber=1, SeriesDescription="Series 0", **small, **of_study),
        *make.mr_series(SLICES, SeriesNumber=2, SeriesDescription="Series 1", **small, **of_study),
        *make.ct_series(SLICES, SeriesNumber=3, SeriesDescription="Series 2", **small, **of_study, **pet),
        report,
    ]


def receive_study(root: Path, shape: Shape) -> None:
    """Let a node receive and convert one study, until the study is quiet."""
    settings = {"VOXELNODE_SERIES__STUDY_QUIET_SECONDS": "1", "VOXELNODE_STORAGE__SCRUB_DAYS": "0"}
    with tempfile.TemporaryDirectory() as folder, Served(root, **settings) as node:
        make.saved(study(shape), Path(folder))
        send([Path(folder)], [node.port], "1")
        node.wait_until_idle()
        node.wait_until_released()
        until(lambda: not node.rows("SELECT id FROM studies WHERE quiet_at IS NULL"), 60, "every study quiet")
        node.terminate()


def fill(path: Path, shape: Shape) -> None:
    """Make an index of a shape in SQLite."""
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    receive_study(path.parent, shape)
    with closing(sqlite3.connect(path)) as connection:
        for pragma in ("synchronous = OFF", "cache_size = -4000000", "temp_store = MEMORY", "journal_mode = OFF"):
            connection.execute(f"PRAGMA {pragma}")
        for table, (columns, rows) in copies(connection, shape).items():
            began = time.perf_counter()
            statement = f"INSERT INTO main.{table} ({', '.join(columns)}) "
            if isinstance(rows, str):
                connection.execute(statement + rows)
            else:
                connection.executemany(f"{statement} VALUES ({', '.join('?' * len(columns))})", rows)
            connection.commit()
            print(f"{table:20} {time.perf_counter() - began:8.1f} s", flush=True)
        # The copies have no files: no start compares what was there before it.
        last = "SELECT max(id) FROM conversions"
        for note, compared in (("swept_folder", "'ffffffff 0'"), ("compared_volumes", f"({last})")):
            connection.execute(f"INSERT OR REPLACE INTO about VALUES ('{note}', {compared})")
        connection.commit()
        connection.execute("PRAGMA journal_mode = WAL")
    compare_rows(path, shape)


def fill_in_postgresql(path: Path, shape: Shape, server: Server) -> str:
    """Make an index of a shape in a database, with the rows that `fill` would insert; return its URL."""
    if not path.exists():
        receive_study(path.parent, shape)
    with closing(sqlite3.connect(path)) as connection:
        added = {
            table: (columns, connection.execute(rows) if isinstance(rows, str) else rows)
            for table, (columns, rows) in copies(connection, shape).items()
        }
        return copied(connection, added, path.parent, server, "benchmark")


def copies(
    connection: sqlite3.Connection, shape: Shape
) -> dict[str, tuple[list[str], str | Iterator[tuple[Any, ...]]]]:
    """Return columns and rows, or the SELECT of rows, of all studies but the one that is there, by table."""
    connection.execute("ATTACH ':memory:' AS template")
    for table in TABLES:
        connection.execute(f"CREATE TABLE template.{table} AS SELECT * FROM main.{table}")
    connection.commit()
    numbers = {
        table: connection.execute(f"SELECT coalesce(max(rowid), 0) FROM {table}").fetchone()[0] for table in TABLES
    }
    numbers |= {"patients": shape.patients, "copies": shape.studies - 1, "days": 365 * YEARS}
    return {
        "patients": (PATIENT_COLUMNS.split(), map(patient, range(2, shape.patients + 1))),
        **{table: _copies(connection, table, numbers) for table in TABLES},
        "labels": (
            ["study_instance_uid", "series_instance_uid", "label", "given_by", "given_at"],
            f"{NUMBERS.format(numbers['copies'])} SELECT substr(study_instance_uid, 1, 40) || {_NUMBER}, '', "
            "CASE i % 3 WHEN 0 THEN 'checked' ELSE 'phase 2' END, 'somebody', '2026-01-01 12:00:00.000000' "
            "FROM n CROSS JOIN template.studies WHERE i % 3 = 0 OR i % 5000 = 1",
        ),
    }


def compare_rows(path: Path, shape: Shape) -> None:
    """Let the node receive another study, and refuse copies whose columns have values where its rows have none."""
    with closing(sqlite3.connect(path)) as connection:
        last = {
            table: connection.execute(f"SELECT coalesce(max(rowid), 0) FROM {table}").fetchone()[0] for table in TABLES
        }
    receive_study(path.parent, shape)
    with closing(sqlite3.connect(path)) as connection:
        for table in TABLES:
            columns = [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]
            kinds = ", ".join(f'typeof("{name}")' for name in columns)
            rows = f"SELECT DISTINCT {kinds} FROM {table} WHERE rowid"
            received = set(connection.execute(f"{rows} > ?", [last[table]]))
            copied = set(connection.execute(f"{rows} BETWEEN ? AND ?", [last[table] - 1000, last[table]]))
            if received != copied:
                raise SystemExit(f"{table}: the node fills {received}, and the copies have {copied}")


def _copies(connection: sqlite3.Connection, table: str, numbers: Mapping[str, int]) -> tuple[list[str], str]:
    """Return the columns of a table, and the SELECT of all copies of its rows; `numbers`: rows of a study, by table."""
    values = {}
    for _, name, kind, *_ in connection.execute(f"PRAGMA table_info({table})"):
        quoted = f'"{name}"'
        if (table, name) in VARIED:
            value = VARIED[table, name].format(**numbers)
        elif name == "id":
            value = f"id + i * {numbers[table]}"
        elif name in _LEVELS:
            value = f"{name} + i * {numbers[_LEVELS[name]]}"
        elif name in _UIDS:
            value = f"substr({name}, 1, 40) || {_NUMBER}"
        elif kind == "DATETIME":
            value = f"CASE WHEN {name} IS NOT NULL THEN {_MOMENT.format(**numbers)} END"
        else:
            value = quoted
        values[quoted] = value
    rows = f"SELECT {', '.join(values.values())} FROM n CROSS JOIN template.{table}"
    return list(values), f"{NUMBERS.format(numbers['copies'])} {rows}"


@contextmanager
def served(
    path: Path, make_index: Callable[[Path], None], in_postgresql: Callable[[Path, Server], str] | None = None
) -> Iterator[tuple[Served, str, str | None]]:
    """Serve an index, made unless it is there, or one in PostgreSQL; the URLs are of HTTP and of the index."""
    settings = {
        "VOXELNODE_LOG__LEVEL": "error",
        "VOXELNODE_SERIES__QUIET_SECONDS": "3600",
        "VOXELNODE_STORAGE__RESERVE_BYTES": "0",
        "VOXELNODE_STORAGE__SCRUB_DAYS": "0",
    }
    with ExitStack() as opened:
        began, url = time.perf_counter(), None
        if in_postgresql is not None:
            server = opened.enter_context(start("-c", "max_wal_size=4GB"))
            settings["VOXELNODE_INDEX__URL"] = url = in_postgresql(path, server)
            [[size]] = server.run("SELECT pg_database_size('benchmark')")
            print(f"index made in {time.perf_counter() - began:.0f} s, {size} bytes")
        elif not path.exists():
            make_index(path)
            print(f"index made in {time.perf_counter() - began:.0f} s, {path.stat().st_size} bytes")
        node = opened.enter_context(Served(path.parent, **settings))
        assert node.process is not None
        assert node.process.stdout is not None
        yield node, node.process.stdout.readline().split()[-1], url


# What is measured


@dataclass(frozen=True)
class Known:
    """Identities of a study in the middle of an index."""

    study: str
    series: str
    instance: str
    patient_id: str


def known(index: ReadIndex) -> Known:
    """Return the identities of a study that was not received last."""
    [row] = index.studies._rows(
        "SELECT st.study_instance_uid AS study, se.series_instance_uid AS series, i.sop_instance_uid AS instance, "
        "p.patient_id FROM studies st JOIN patients p ON p.id = st.patient_id JOIN series se ON se.study_id = st.id "
        "JOIN images i ON i.series_id = se.id WHERE st.id = (SELECT max(id) / 2 FROM studies) LIMIT 1"
    )
    return Known(**row)


def asked_by_commands(index: ReadIndex, one: Known) -> dict[str, Callable[[], object]]:
    """Return what commands ask an index, by name."""
    series, instances, now = index.series, index.instances, dt.datetime.now(dt.UTC)
    return {
        "series": lambda: series.newest(100),
        "series --study": lambda: series.newest(100, study=one.study),
        "series --patient": lambda: series.newest(100, patient=one.patient_id),
        "series --modality PT": lambda: series.newest(100, modality="PT"),
        "series --modality, that nothing has": lambda: series.newest(100, modality="XA"),
        "series --state refused": lambda: series.newest(100, states=("refused",)),
        "series --state receiving": lambda: series.newest(100, states=("receiving",)),
        "series --state verified": lambda: series.newest(100, states=("verified",)),
        "series --state suspect": lambda: series.newest(100, states=("suspect",)),
        "info, of an instance": lambda: (instances.row(one.instance), index.volumes.holding(one.study, one.instance)),
        "info, of a study": lambda: (index.studies.row(one.study), index.volumes.current(one.study)),
        "info, of a Patient ID": lambda: index.patients.with_patient_id(one.patient_id),
        "info, of an accession number": lambda: index.studies.with_accession_number("A77"),
        "info, of the end of a UID": lambda: series.ending(one.series[-20:]),
        "info, of a part of a name": lambda: index.patients.named("qqqq", 10),
        "status: studies, series, instances": index.count_levels,
        "status: bytes": instances.totals,
        "status: series by state": series.count_by_state,
        "status: files of volumes": index.volumes.count_current,
        "status: incomplete series": series.count_doubted,
        "status: files that are missing": instances.damaged,
        "status: failures": lambda: (index.failures.count(), index.failures.newest(5)),
        "status: next due": lambda: (series.next_due_at(), series.count_waiting(now)),
        "doctor: newest instance": series.last_received_at,
        "retention, if nothing is old enough": lambda: due_now(index, RetentionSettings(days=36500.0), now),
        "retention, if all is": lambda: sum(1 for _ in index.studies.by_age(with_senders=False)),
        "retention, if all is, by sender": lambda: sum(1 for _ in index.studies.by_age(with_senders=True)),
    }


def timed(name: str, call: Callable[[], object], used: Callable[[], float]) -> None:
    """Print the milliseconds of a call, of the best of two more, and those of a processor of the latter."""
    times = []
    for _ in range(3):
        began, before = time.perf_counter(), used()
        call()
        times.append((1e3 * (time.perf_counter() - began), used() - before))
    best, processor = min(times[1:])
    print(f"{name:44} first {times[0][0]:8.1f} ms, again {best:8.1f} ms, processor {processor:8.1f} ms", flush=True)


def ask_as_commands(root: Path, url: str | None) -> None:
    """Print how long the queries of commands take."""
    with looking(place_of(root, url)) as index:
        for name, call in asked_by_commands(index, known(index)).items():
            timed(name, call, lambda: 1e3 * time.process_time())


LISTS = (
    "studies", "studies?order=date", "series", "series?modality=PT", "series?modality=XA", "series?state=converted",
    "instances", "volumes", "patients", "failures", "status", "history",
)  # fmt: skip
"""Of REST."""


def ask_as_programs(web: str, pid: int) -> None:
    """Print how long the lists of REST take."""
    with httpx.Client(base_url=f"{web.rstrip('/')}/api/v1/", timeout=600) as client:
        for path in LISTS:
            ask = partial(client.get, path)
            timed(f"GET {path}", lambda ask=ask: ask().raise_for_status(), lambda: studies.processor_ms(pid))


RECEIVED, ROUNDS, THREADS = 5_000, 3, 8


def data_sets(instances: int) -> Iterator[tuple[Announced, bytes]]:
    """Yield CT slices without pixels, 200 to a series, four series to a study, which differ in their identities."""
    [ds] = make.ct_series(1, rows=2, columns=2)
    marked = {"SOPInstanceUID": 1, "SeriesInstanceUID": 200, "StudyInstanceUID": 800}
    prefixes = {keyword: generate_uid()[:40] for keyword in marked}
    for keyword, prefix in prefixes.items():
        setattr(ds, keyword, f"{prefix}.1{0:08d}")
    template = data_set_bytes(ds)
    for number in range(instances):
        data = template
        for keyword, each in marked.items():
            data = data.replace(
                b"%s.1%08d" % (prefixes[keyword].encode(), 0),
                b"%s.1%08d" % (prefixes[keyword].encode(), number // each),
            )
        uid = f"{prefixes['SOPInstanceUID']}.1{number:08d}"
        yield Announced(str(ds.SOPClassUID), uid, str(ds.file_meta.TransferSyntaxUID)), data


def take(ingest: Ingest, announced: Announced, data: bytes) -> None:
    incoming = ingest.begin(announced, Origin("import"))
    incoming.take_fragment(data)
    incoming.finish()


def take_all(ingest: Ingest, coming: list[tuple[Announced, bytes]]) -> tuple[float, float]:
    """Take instances in, from eight threads; return how many a second, and the milliseconds of a processor for each."""
    began, used = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda one: take(ingest, *one), coming))
        if not ingest.applier.catch_up(600):
            raise SystemExit("the index does not follow")
    return len(coming) / (time.perf_counter() - began), 1e3 * (time.process_time() - used) / len(coming)


def receive(root: Path, url: str | None = None) -> tuple[float, float]:
    """Take instances in; return how many a second, and the milliseconds of a processor of this process for each."""
    settings = Settings(storage=Storage(root=root, reserve_bytes=0), index=IndexSettings(url=url))
    with open_for_import(settings) as ingest:
        measured = [take_all(ingest, list(data_sets(RECEIVED))) for _ in range(ROUNDS)]
    rates, used = zip(*measured, strict=True)
    return statistics.median(rates), statistics.median(used)


def compare_receiving(root: Path, url: str | None) -> None:
    """Print how fast instances are taken in with an index, and with an empty one beside it."""
    empty = None if url is None else Server(Path(url.partition("host=")[2])).create("empty")
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        for name, where, its in (("empty", Path(folder) / "root", empty), ("filled", root, url)):
            rate, used = receive(where, its)
            print(f"receiving, index {name:26} {rate:9.0f} a second, processor {used:.3f} ms each", flush=True)


COMMANDS = (
    ("status",), ("series",), ("series", "--modality", "PT"), ("select", 'modality == "PT" and slices > 5'),
    ("retention",), ("fsck",), ("db", "check"),
)  # fmt: skip


def run_commands(root: Path, url: str | None, commands: Sequence[tuple[str, ...]] = COMMANDS) -> None:
    """Print how long whole commands take, with their starts; and of a processor, without a server."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | ({"VOXELNODE_INDEX__URL": url} if url else {})
    for command in commands:
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "node", *command, "--root", str(root)],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        said = f", exit {done.returncode}: {done.stderr.strip()[-60:]}" if done.returncode else ""
        print(f"{' '.join(command[:3]):42} {seconds:9.1f} s, processor {used:7.1f} s{said}", flush=True)


def start_again(root: Path) -> None:
    """Print how long a start takes after a stop and after a kill, and how much memory the node has then."""
    for before in ("a stop", "a kill"):
        began = time.perf_counter()
        with Served(root, VOXELNODE_LOG__LEVEL="error", VOXELNODE_STORAGE__SCRUB_DAYS="0") as node:
            seconds = time.perf_counter() - began
            assert node.process is not None
            used, memory = studies.processor_ms(node.process.pid) / 1e3, peak_bytes(node.process.pid) / 1e6
            print(
                f"start after {before:30} {seconds:9.1f} s, processor {used:7.1f} s, peak {memory:.0f} MB", flush=True
            )
            node.kill()


def keep(folder: Path, instances: int) -> None:
    """Take in instances that have files, and print how long a backup takes, once and again, and a rebuild."""
    root, backup = folder / "with-files" / "root", folder / "with-files" / "backup"
    if not root.exists():
        with open_for_import(Settings(storage=Storage(root=root, reserve_bytes=0))) as ingest:
            take_all(ingest, list(data_sets(instances)))
    made = ("backup", "--no-prove", str(backup))
    run_commands(root, None, (made, made, ("backup", "--prove", str(backup)), ("fsck", "--hash"), ("db", "rebuild")))


def measure(root: Path, node: Served, web: str, url: str | None, parts: set[str]) -> None:
    """Measure parts: first those that need the node."""
    assert node.process is not None
    if "commands" in parts:
        ask_as_commands(root, url)
        ask_as_programs(web, node.process.pid)
    if "pages" in parts:
        with httpx.Client(base_url=web, timeout=600) as client:
            print(f"badges {studies.asked_badges(client):.0f} ms, and again {studies.asked_badges(client):.0f} ms")
            studies.report(client, node.process.pid)
    if "queries" in parts:
        query.ask(root, url, node.port, web)
    if "beside" in parts:
        query.receive(node.port)
        query.ask_while_receiving(node.port, web)
        studies.ask_while_receiving(web, node.port)
    node.terminate(120)
    if "receive" in parts:
        compare_receiving(root, url)
    if "maintain" in parts:
        run_commands(root, url)
    if "start" in parts and url is None:
        start_again(root)


PARTS = ("commands", "pages", "queries", "beside", "receive", "maintain", "start", "keep")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the index is, or will be; it stays")
    parser.add_argument("--instances", type=int, default=10_000_000)
    parser.add_argument("--single", action="store_true", help="one instance to a study")
    parser.add_argument("--postgresql", action="store_true", help="with the index in PostgreSQL")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    options = parser.parse_args()
    shape = Shape(options.instances, options.single)
    if "keep" in options.only:
        keep(options.folder, min(options.instances, 100_000))
    if set(options.only) == {"keep"}:
        return
    path = options.folder / ("in-postgresql" if options.postgresql else "root") / FILE_NAME
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    in_postgresql = (lambda path, server: fill_in_postgresql(path, shape, server)) if options.postgresql else None
    with served(path, partial(fill, shape=shape), in_postgresql) as (node, web, url):
        measure(path.parent, node, web, url, set(options.only))


if __name__ == "__main__":
    main()
