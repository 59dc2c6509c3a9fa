"""What peers and programs ask an index by C-FIND and QIDO-RS, for `scale.py`, and what receiving loses meanwhile.

`storescu` sends to the same node, in turns alone and beside ten `findscu` that ask again as soon as they are answered.
Needs Debian's `dcmtk`.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx2 as httpx
from pydicom import Dataset

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.receive import Load, send, write_instances  # noqa: E402
from node.dicom.answers import AnswerEncoder  # noqa: E402
from node.dicom.encoding import EXPLICIT_LITTLE_ENDIAN  # noqa: E402
from node.dicom.matching import read_query  # noqa: E402
from node.index.look.finder import answers, matching_ids  # noqa: E402
from node.index.look.views import ReadIndex  # noqa: E402
from node.index.reading import reading  # noqa: E402

ROUNDS = 15
RECEIVING_ROUNDS, CLIENTS = 3, 10
RATES, PACED_SECONDS = (100, 500), 20
PACED_QUERIES = ("by patient ID", "by a range of a week", "by the beginning of a name")
LOAD = Load("2000 instances of 9 KB over 4 associations", 2000, 64, 4, "1")

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
            command = [sys.executable, str(ROOT / "benchmarks/paced.py"), str(port), str(rate), str(PACED_SECONDS)]
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
    ids = matching_ids(index.connection, query).ids
    return len([encode(answer) for answer in answers(index.connection, query, ids)])


def qido(client: httpx.Client, keys: dict[str, str]) -> int:
    fields = ",".join(ASKED_BACK)
    response = client.get("dicom-web/studies", params={**keys, "includefield": fields})
    response.raise_for_status()
    return len(response.json())
