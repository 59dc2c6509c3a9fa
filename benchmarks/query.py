"""How long queries take in an index of a million instances, and what receiving loses while they are asked.

    python benchmarks/query.py [FOLDER] [--postgresql]

makes the index in FOLDER (unless it is there) or in a folder of its own, without files of instances, or a copy of it in
a PostgreSQL server of its own, and asks it directly, by C-FIND and by QIDO-RS on loopback.  Then `storescu` sends to
the same node, in turns alone and beside ten `findscu` that ask again as soon as they are answered.  Needs Debian's
`dcmtk`.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2 as httpx
from pydicom import Dataset

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.in_postgresql import copied  # noqa: E402
from benchmarks.receive import Load, send, write_instances  # noqa: E402
from node.dicom.answers import AnswerEncoder  # noqa: E402
from node.dicom.encoding import EXPLICIT_LITTLE_ENDIAN  # noqa: E402
from node.dicom.key_values import folded_groups  # noqa: E402
from node.dicom.matching import read_query  # noqa: E402
from node.index.database.reading import ReadIndex, reading  # noqa: E402
from node.index.engine.place import FILE_NAME  # noqa: E402
from tests.acceptance.served import Served  # noqa: E402
from tests.postgresql import start  # noqa: E402

PATIENTS, STUDIES, SERIES, INSTANCES = 20_000, 25_000, 100_000, 1_000_000
ROUNDS = 15
RECEIVING_ROUNDS, CLIENTS = 3, 10
RATES, PACED_SECONDS = (100, 500), 20
PACED_QUERIES = ("by patient ID", "by a range of a week", "by the beginning of a name")
LOAD = Load("2000 instances of 9 KB over 4 associations", 2000, 64, 4, "1")

FAMILY = (
    "Schmidt Müller Meyer Weber Wagner Becker Schulz Hoffmann Koch Bauer Richter Klein Wolf Schröder Neumann",
    "Schwarz Zimmermann Braun Krüger Hofmann Hartmann Lange Schmitt Werner Krause Meier Lehmann Schmid Schulze Maier",
)
GIVEN = "Anna Ben Clara David Emma Felix Greta Hans Ida Jonas Karla Leon Mia Noah Olga Paul Rosa Theo Uma Victor"


NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})"
"""The numbers from 1 to another one, as the rows of `n`."""


@contextmanager
def emptied(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a new index that knows its journal, without its rows; what is written is kept at the end."""
    # A series that is never quiet has no volume, whose row would hold its series.
    waits = {"VOXELNODE_SERIES__QUIET_SECONDS": "3600"}
    with tempfile.TemporaryDirectory() as folder, Served(path.parent, **waits) as node:
        # With an instance in it, the index is known to be of this journal; else the node would look for every file.
        send(write_instances(Path(folder), Load("one", 1, 8, 1, "1")), [node.port], "1")
        node.terminate()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA foreign_keys = ON")  # the documents of an instance and a series go with it
        with connection:
            for table in ("images", "series", "studies", "patients"):
                connection.execute(f"DELETE FROM {table}")
        connection.execute("PRAGMA foreign_keys = OFF")
        with connection:
            yield connection


def insert_studies(connection: sqlite3.Connection, patients: int, studies: int) -> None:
    """Insert patients, and studies in ten years."""
    connection.executemany(
        "INSERT INTO patients (id, identity, patient_id, patient_name, patient_name_alphabetic, "
        "patient_birth_date, patient_sex) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (patient(number) for number in range(1, patients + 1)),
    )
    connection.execute(
        f"""
        INSERT INTO studies (id, patient_id, study_instance_uid, study_date, study_time, accession_number, study_id,
            study_description)
        {NUMBERS.format(studies)}
        SELECT i, 1 + (i * 7919) % {patients}, '1.2.826.0.1.' || i, date('2016-01-01', '+' || (i * 3650 / {studies})
            || ' days'), time(28800 + (i * 997) % 36000, 'unixepoch') || '.000000', 'A' || i, i,
            'Study ' || (i % 40) FROM n
        """
    )


def insert_instances(connection: sqlite3.Connection, series: int, instances: int) -> None:
    """Insert instances, as many for each series."""
    connection.execute(
        f"""
        INSERT INTO images (id, series_id, sop_instance_uid, sop_class_uid, transfer_syntax_uid, instance_number,
            "rows", "columns", bytes, sha256, data_set_offset, "key", source, received_at)
        {NUMBERS.format(instances)}
        SELECT i, 1 + (i - 1) * {series} / {instances}, '1.2.826.0.3.' || i, '1.2.840.10008.5.1.4.1.1.2',
            '1.2.840.10008.1.2.1', 1 + i % {instances // series}, 512, 512, 525000, hex(randomblob(32)), 400,
            printf('objects/%08x/%d.dcm', i / 1000, i), 'dicom', '2026-01-01 12:00:00.000000' FROM n
        """
    )


def fill(path: Path) -> None:
    """Make an index as large as asked for; the values depend on the numbers of the rows alone."""
    with emptied(path) as connection:
        insert_studies(connection, PATIENTS, STUDIES)
        connection.execute(
            f"""
            INSERT INTO series (id, study_id, series_instance_uid, modality, series_number, series_description, state,
                last_received_at, receptions, revision, attempts)
            {NUMBERS.format(SERIES)}
            SELECT i, 1 + (i - 1) * {STUDIES} / {SERIES}, '1.2.826.0.2.' || i,
                CASE WHEN i % 4 = 3 THEN 'SR' WHEN i / 4 % 3 = 0 THEN 'CT' WHEN i / 4 % 3 = 1 THEN 'MR' ELSE 'PT' END,
                1 + i % 4, 'Series ' || (i % 300), 'converted', '2026-01-01 12:00:00.000000', 1, 1, 0 FROM n
            """
        )
        insert_instances(connection, SERIES, INSTANCES)


def patient(number: int) -> tuple[Any, ...]:
    families, givens = " ".join(FAMILY).split(), GIVEN.split()
    family, given = families[number % len(families)], givens[number // len(families) % len(givens)]
    name = f"{family}{number % 97}^{given}"
    birth = f"{1930 + number % 90}-{1 + number % 12:02d}-{1 + number % 28:02d}"
    return number, f"\\P{number:06d}", f"P{number:06d}", name, folded_groups(name)[0], birth, "MF"[number % 2]


QUERIES: dict[str, dict[str, str]] = {
    "by patient ID": {"PatientID": "P012345"},
    "by a range of a week": {"StudyDate": "20240301-20240307"},
    "by the beginning of a name": {"PatientName": "MULLER1*"},
    "by modality, within a month": {"ModalitiesInStudy": "PT", "StudyDate": "20240301-20240331"},
    "by a part of a name": {"PatientName": "*stel*"},
    "by accession number": {"AccessionNumber": "A17"},
}
ASKED_BACK = (
    "StudyInstanceUID", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "AccessionNumber", "StudyID", "StudyDescription", "ModalitiesInStudy", "NumberOfStudyRelatedSeries",
    "NumberOfStudyRelatedInstances",
)  # fmt: skip


QUERY_LEVEL = ("QueryRetrieveLevel=STUDY",)


def identifier(level: str, **keys: str) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = level
    for keyword in ASKED_BACK:
        setattr(ds, keyword, None)
    for keyword, value in keys.items():
        setattr(ds, keyword, value)
    return ds


def median_ms(call: Callable[[], int], clock: Callable[[], float] = time.perf_counter) -> tuple[float, int]:
    """Median time of some rounds, after one that does not count, and what the last gave."""
    call()
    seconds = []
    for _ in range(ROUNDS):
        began = clock()
        count = call()
        seconds.append(clock() - began)
    return 1000 * statistics.median(seconds), count


def main(root: Path, *, is_in_postgresql: bool) -> None:
    with served(root, fill, is_in_postgresql=is_in_postgresql) as (node, web, url):
        ask(root, url, node.port, web)
        receive(node.port)
        ask_while_receiving(node.port, web)


@contextmanager
def served(
    root: Path, fill: Callable[[Path], None], *, is_in_postgresql: bool
) -> Iterator[tuple[Served, str, str | None]]:
    """Serve an index, filled unless it is there, or a copy in PostgreSQL; the URLs are of HTTP and of the index."""
    path = root / FILE_NAME
    root.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        began = time.perf_counter()
        fill(path)
        print(f"index made in {time.perf_counter() - began:.0f} s, {path.stat().st_size / 1e6:.0f} MB")
    settings = {
        "VOXELNODE_LOG__LEVEL": "error",
        "VOXELNODE_SERIES__QUIET_SECONDS": "3600",
        "VOXELNODE_STORAGE__RESERVE_BYTES": "0",
        "VOXELNODE_STORAGE__SCRUB_DAYS": "0",
    }
    with ExitStack() as opened:
        url = None
        if is_in_postgresql:
            began = time.perf_counter()
            server = opened.enter_context(start())
            settings["VOXELNODE_INDEX__URL"] = url = copied(path, server, "benchmark")
            print(f"copied to PostgreSQL in {time.perf_counter() - began:.0f} s")
        node = opened.enter_context(Served(root, **settings))
        assert node.process is not None
        assert node.process.stdout is not None
        yield node, node.process.stdout.readline().split()[-1], url


def arguments(description: str) -> tuple[Path | None, bool]:
    """Return the folder, and whether the index is to be in PostgreSQL."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="where the index is, or will be; it stays")
    parser.add_argument("--postgresql", action="store_true", help="ask a copy in PostgreSQL")
    options = parser.parse_args()
    return options.folder, options.postgresql


def ask(root: Path, url: str | None, port: int, web: str) -> None:
    """Print what queries take: of the processor, from key to encoded answers, and of the time of their clients."""
    print(f"{'ms':36} {'answers':>8} {'processor':>9} {'C-FIND':>9} {'QIDO-RS':>9}")
    with httpx.Client(base_url=web, timeout=60) as client, reading(root, url) as index:
        for what, keys in QUERIES.items():
            ds = identifier("STUDY", **keys)
            direct, count = median_ms(partial(asked_directly, index, ds), time.process_time)
            by_find = by_find_ms(port, keys)
            by_qido, _ = median_ms(partial(qido, client, keys))
            print(f"{what:36} {count:8} {direct:9.1f} {by_find:9.1f} {by_qido:9.1f}")
        page, count = median_ms(lambda: qido(client, {"limit": "100"}))
        print(f"{'first page of 100 studies':36} {count:8} {'':9} {'':9} {page:9.1f}")


def receive(port: int) -> None:
    """Print how long receiving takes alone and beside queries, in turns."""
    alone, beside = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(2 * RECEIVING_ROUNDS):
            folders = write_instances(Path(folder) / str(number), LOAD)
            clients = [find_again_and_again(port) for _ in range(CLIENTS)] if number % 2 else []
            time.sleep(2.0)  # until they have connected
            (beside if number % 2 else alone).append(send(folders, [port], LOAD.nodelay))
            for client in clients:
                client.terminate()
                client.wait()
    one, other = statistics.median(alone), statistics.median(beside)
    print(f"{LOAD.name}: alone {one:.2f} s, beside {CLIENTS} clients {other:.2f} s: {other / one:.2f} times as long")


def ask_while_receiving(port: int, web: str) -> None:
    """Print how long a client of QIDO-RS waits that asks again and again while instances arrive at an even pace."""
    for rate in (None, *RATES):
        sender = None
        if rate is not None:
            command = [
                sys.executable,
                str(ROOT / "benchmarks/paced.py"),
                str(port),
                str(rate),
                str(PACED_SECONDS),
            ]
            sender = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            time.sleep(2.0)  # until it sends
        with httpx.Client(base_url=web, timeout=60) as client:
            reported = [f"{what} {median_ms(partial(qido, client, QUERIES[what]))[0]:.0f} ms" for what in PACED_QUERIES]
            reported.append(f"first page {median_ms(lambda: qido(client, {'limit': '100'}))[0]:.0f} ms")
        received = sender.communicate()[0].strip() if sender is not None else "nothing"
        print(f"QIDO-RS while receiving {received}: {', '.join(reported)}")


def find_again_and_again(port: int) -> subprocess.Popen[bytes]:
    """A client that asks on one association, each time as soon as it is answered."""
    keys = [*QUERY_LEVEL, "StudyDate=20240301-20240307", *ASKED_BACK[:5]]
    arguments = [argument for key in keys for argument in ("-k", key)]
    command = ["/usr/bin/findscu", "-S", "--repeat", "100000", "127.0.0.1", str(port), *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def by_find_ms(port: int, keys: dict[str, str]) -> float:
    """Mean time of a C-FIND on an association that is open, as DCMTK's `findscu` sees it."""
    arguments = [argument for keyword in (*ASKED_BACK, *QUERY_LEVEL) for argument in ("-k", keyword)]
    arguments += [argument for keyword, value in keys.items() for argument in ("-k", f"{keyword}={value}")]

    def seconds(repeat: int) -> float:
        command = ["/usr/bin/findscu", "-S", "--repeat", str(repeat), "127.0.0.1", str(port), *arguments]
        began = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        return time.perf_counter() - began

    return 1000 * (seconds(1 + ROUNDS) - seconds(1)) / ROUNDS


def asked_directly(index: ReadIndex, ds: Dataset) -> int:
    query = read_query(ds)
    encode = AnswerEncoder(query.returned, EXPLICIT_LITTLE_ENDIAN).encode
    return len([encode(answer) for answer in index.find(query)])


def qido(client: httpx.Client, keys: dict[str, str]) -> int:
    fields = ",".join(ASKED_BACK)
    response = client.get("dicom-web/studies", params={**keys, "includefield": fields})
    response.raise_for_status()
    return len(response.json())


if __name__ == "__main__":
    folder, is_in_postgresql = arguments(__doc__)
    with tempfile.TemporaryDirectory() as temporary:
        main(folder or Path(temporary), is_in_postgresql=is_in_postgresql)
