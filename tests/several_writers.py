"""A process that adds the same 500 instances as others do at the same time, from four threads.

    python -m tests.several_writers URL ROOT NUMBER

It begins when it gets a line, and prints how many instances had which outcome.
"""

import datetime as dt
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache
from pathlib import Path

from node.api import Index
from node.dicom.attributes import instance_attributes
from node.index.rows.records import Received, StoredFile
from node.runtime.metrics import Metrics
from node.settings.core import OverwritePolicy
from tests import make
from tests.integration.conftest import data_set_bytes
from tests.preloaded import PROJECT

INSTANCES, SERIES, THREADS = 500, 5, 4


@cache
def template() -> tuple[bytes, str]:
    """A data set, and its transfer syntax; the UIDs of its instance, series and study end in 1000000."""
    [ds] = make.ct_series(1, rows=2, columns=2, PatientID="SHARED", FrameOfReferenceUID="1.2.4")
    ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID = "1.2.1.1000000", "1.2.2.1000000", "1.2.3.1000000"
    return data_set_bytes(ds), str(ds.file_meta.TransferSyntaxUID)


def received(
    writer: int,
    number: int,
    *,
    series: int | None = None,
    study: int | None = None,
    sha256: str = "0",
    policy: OverwritePolicy = "never",
) -> Received:
    """One of the instances, as a writer received it; by default, two series are of one study."""
    series = number % SERIES if series is None else series
    data, syntax = template()
    for level, value in ((b"1", number), (b"2", series), (b"3", series // 2 if study is None else study)):
        data = data.replace(b"1.2.%s.1000000" % level, b"1.2.%s.%d" % (level, 1_000_000 + value))
    name = f"{writer}-{number}-{sha256}.dcm"
    file = StoredFile(
        key=f"objects/00000000/{name}",
        quarantine_key=f"quarantine/{name}",
        bytes=len(data),
        sha256=sha256,
        data_set_offset=0,
        transfer_syntax_uid=syntax,
        source="dicom",
        calling_ae_title=f"HOST{writer}",
        called_ae_title="VOXELNODE",
        peer="",
        received_at=dt.datetime.now(dt.UTC),
    )
    return Received(instance_attributes(data, syntax), file, 60, policy)


def receptions(writer: int) -> list[Received]:
    """The same instances for each writer, in an order of its own."""
    made = [received(writer, number) for number in range(INSTANCES)]
    random.Random(writer).shuffle(made)
    return made


def batches(made: Sequence[Received], writer: int) -> list[list[Received]]:
    sizes, rest, cut = random.Random(writer), list(made), []
    while rest:
        size = sizes.randint(1, 40)
        cut.append(rest[:size])
        del rest[:size]
    return cut


def begin(url: str, root: Path, number: int) -> subprocess.Popen[str]:
    """Start a process that waits for `go`."""
    command = [sys.executable, "-m", "tests.several_writers", url, str(root), str(number)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=PROJECT, text=True)


def go(process: subprocess.Popen[str]) -> None:
    """Have a process begin, once it is ready."""
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()


def main(url: str, root: Path, writer: int) -> None:
    metrics = Metrics()
    with closing(Index(root, metrics, url=url, host=f"host{writer}")) as index, ThreadPoolExecutor(THREADS) as threads:
        work = batches(receptions(writer), writer)
        print("ready", flush=True)
        sys.stdin.readline()
        outcomes = Counter(kept.outcome.name for batch in threads.map(index.instances.add, work) for kept in batch)
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
