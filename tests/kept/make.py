"""Make the kept root of a released version, by that version: run once for it, and never again.

    python -m tests.kept.make VERSION

writes ``tests/kept/VERSION/root.zip``: a root whose node was killed, `backup`, which is older, and `voxelnode.toml`.
``kept.json`` beside it has what tests require of them: the acknowledged instances, and the rows of each table.
"""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from contextlib import closing
from copy import deepcopy
from pathlib import Path

from pydicom import Dataset

from tests import make
from tests.acceptance.served import sent
from tests.programs import free_port
from tests.rows import read_rows, wait_until_applied
from tests.waiting import until

CONFIGURATION = """
[dicom]
port = {port}

[web]
port = {web}

[series]
quiet_seconds = 1

[hooks.away]
kind = "webhook"
on = ["volume-written"]
url = "http://127.0.0.1:1/"

[hooks.model]
kind = "command"
on = ["volume-written"]
command = ["/bin/true"]

[routes.out]
to = ["pacs"]

[peers.pacs]
ae_title = "PACS"
host = "127.0.0.1"
port = 1

[peers.SENDER]
ae_title = "SENDER"
networks = ["127.0.0.1/32"]
may = ["echo", "store"]
"""


def study(patient: str, series: Iterable[Dataset]) -> list[Dataset]:
    """A study with one series of a patient."""
    made = list(series)
    for ds in made:
        ds.PatientID, ds.PatientName, ds.StudyInstanceUID = patient, f"{patient}^Ann", made[0].StudyInstanceUID
    return made


def main(version: str) -> None:
    """Let a node of this version have of everything."""
    folder = Path(tempfile.mkdtemp())
    root, port = folder / "root", free_port()
    (folder / "voxelnode.toml").write_text(CONFIGURATION.format(port=port, web=free_port()))

    def command(line: str) -> str:
        done = [sys.executable, "-m", "node", *line.split(), "--config", folder / "voxelnode.toml", "--root", root]
        return subprocess.run(done, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout

    def started() -> subprocess.Popen[bytes]:
        line = [
            sys.executable,
            "-m",
            "node",
            "serve",
            "--create",
            "--config",
            folder / "voxelnode.toml",
            "--root",
            root,
        ]
        node = subprocess.Popen(line, stdout=subprocess.PIPE)
        assert b"ready" in node.stdout.readline()
        return node

    def idle() -> None:
        wait_until_applied(root)
        open_series = "SELECT 1 FROM series WHERE state IN ('receiving', 'converting')"
        until(lambda: not read_rows(root, open_series), 60, "all series converted")

    node = started()
    whole, gaps, gone, late = (
        study("WHOLE", make.ct_series(4)), study("GAPS", make.gap_series(6, missing=(3,))),
        study("GONE", make.mr_series(3)), study("LATE", make.ct_series(5)),
    )  # fmt: skip
    others = [make.changed(deepcopy(ds), RescaleIntercept="-1000") for ds in (whole[0], gaps[0])]
    scans = [*whole, *gaps, *gone, study("WRONG", [make.structured_report()])[0]]
    for series in (whole, gaps, gone, scans[-1:], others):
        assert sent(port, series).statuses == [0] * len(series)
    idle()
    command(f"delete {gone[0].StudyInstanceUID} --yes")
    for line in (
        "patient correct WRONG --id RIGHT", "patient merge GAPS WHOLE", f"label add seen {whole[0].StudyInstanceUID}",
        "account add anna --no-password", "projects set trial --rule slices>1", "retention set days=3650",
        f"share add {whole[0].StudyInstanceUID}", "conflicts keep 1", f"reconvert {whole[0].StudyInstanceUID}",
    ):  # fmt: skip
        command(line)
    idle()
    node.terminate()
    assert node.wait() == 0
    (root / "objects/00000000/junk.dcm").write_bytes(b"no DICOM")
    command("fsck --repair")
    command(f"backup {folder}/backup --no-prove")

    node = started()
    with closing(sqlite3.connect(root / "index.sqlite", isolation_level=None)) as held:
        held.execute("BEGIN IMMEDIATE")  # the journal has it, and the index will not
        assert sent(port, late).statuses == [0] * len(late)
        node.send_signal(signal.SIGKILL)
        node.wait()
    with closing(sqlite3.connect(root / "index.sqlite")) as index:
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'study_grams%'"
        rows = {name: index.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for (name,) in index.execute(query)}
    deleted = {ds.SOPInstanceUID for ds in gone}
    uids = sorted({str(ds.SOPInstanceUID) for ds in [*scans, *late]} - deleted)
    kept = Path(__file__).parent / version
    kept.mkdir(exist_ok=True)
    (kept / "kept.json").write_text(json.dumps({"instances": uids, "rows": rows}, indent=1) + "\n")
    with zipfile.ZipFile(kept / "root.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() or path.is_dir():
                archive.write(path, path.relative_to(folder))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
