"""A folder that is opened where it is: its files are referred to, never copied and never changed."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx2
import pytest

from node.api import import_instances
from tests import make
from tests.preloaded import LIKE_MACOS, run
from tests.rows import view_rows
from tests.web.conftest import StartSite, until

pytestmark = pytest.mark.slow


def folder_of_files(folder: Path) -> list[Path]:
    """A series of five slices, one of them large, one without File Meta Information, and a text."""
    files = make.saved(make.ct_series(5, study_uid="1.2.3", series_uid="1.2.3.1"), folder)
    whole = files[4].read_bytes()
    files[4].write_bytes(whole[132 + 12 + int.from_bytes(whole[140:144], "little") :])
    (folder / "notes.txt").write_text("no DICOM")
    return files


def state_of(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        path.name: (status.st_mode, status.st_mtime_ns, path.read_bytes())
        for path in sorted(folder.iterdir())
        if (status := path.lstat())
    }


def test_a_file_is_referred_to_and_the_folder_stays_whatever_is_done(start_site: StartSite, tmp_path: Path) -> None:
    files = folder_of_files(tmp_path / "scans")
    before = state_of(files[0].parent)
    site = start_site({"dicom": {"enabled": False}})
    report = import_instances([files[0].parent], site.services.ingest, refers=True)
    assert (report.stored, len(report.skipped), report.refused) == (5, 1, [])
    assert import_instances([files[0].parent], site.services.ingest, refers=True).already_there == 5
    site.services.ingest.applier.checkpoint()
    rows = view_rows(site.root, "SELECT path, data_set_offset, bytes, sop_instance_uid FROM v_images ORDER BY path")
    links = {row["path"]: os.readlink(row["path"]) for row in rows if Path(row["path"]).is_symlink()}
    assert sorted(links.values()) == [str(file) for file in files[:4]]  # the fifth has no head that a reader finds
    assert not list((site.root / "incoming").glob("*.*"))

    status = site.client().get("/status").text
    assert "VOXELNODE" not in status
    assert "C-STORE" not in status
    site.convert()
    [volume] = view_rows(site.root, "SELECT shape FROM v_volumes WHERE format = 'nifti'")
    assert volume["shape"].endswith("5]")

    # A file that changes, and one that vanishes.
    linked = [row for row in rows if row["path"] in links]
    changed, gone = linked[0], linked[1]
    Path(links[changed["path"]]).write_bytes(b"changed")
    Path(links[gone["path"]]).unlink()
    answers = [site.client().get(f"/api/v1/instances/{row['sop_instance_uid']}/file") for row in (changed, gone)]
    assert [answer.status_code for answer in answers] == [410, 410]
    assert all("damaged" in answer.json()["detail"] for answer in answers)
    reported = {
        row["sop_instance_uid"] for row in view_rows(site.root, "SELECT * FROM v_events WHERE kind = 'file-damaged'")
    }
    assert changed["sop_instance_uid"] in reported
    Path(links[changed["path"]]).write_bytes(before[Path(links[changed["path"]]).name][2])
    Path(links[gone["path"]]).write_bytes(before[Path(links[gone["path"]]).name][2])
    there = state_of(files[0].parent)
    assert site.client().delete("/api/v1/studies/1.2.3").json()["deleted"]
    assert state_of(files[0].parent) == there
    assert {name: content for name, (_, _, content) in there.items()} == {
        name: content for name, (_, _, content) in before.items()
    }


@pytest.mark.parametrize("system", [{}, LIKE_MACOS], ids=["linux", "macos"])
def test_a_folder_is_opened_without_a_configuration_and_ctrl_c_removes_all_but_the_folder(
    system: dict[str, str], tmp_path: Path
) -> None:
    files = folder_of_files(tmp_path / "scans")
    [other] = make.ct_series(1, study_uid="1.2.4", PatientName="Another^Person")  # a conflict, which the pages show
    other.save_as(files[0].parent / "other.dcm", enforce_file_format=True)
    before, temporary, opened = state_of(files[0].parent), tmp_path / "tmp", tmp_path / "page"
    temporary.mkdir()
    (tmp_path / "browser").write_text(f"#!/bin/sh\necho $1 > {opened}\n")
    (tmp_path / "browser").chmod(0o755)
    environment = {"TMPDIR": str(temporary), "DISPLAY": ":9", "BROWSER": f"{tmp_path / 'browser'} %s"}
    process = subprocess.Popen(
        [sys.executable, "-m", "node", "open", str(files[0].parent)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment, **system},
    )  # fmt: skip
    watchdog = threading.Timer(100, process.kill)
    watchdog.start()
    try:
        with process.stdout as output:
            assert str(files[0].parent) in output.readline()
            address = output.readline().split()[1]
            lines = [next(output).strip() for _ in range(4)]
            assert lines[:2] == ["instances  6", "no DICOM   1"]
            assert lines[2].startswith("no DICOM: ")
            assert "notes.txt: not a DICOM file" in lines[2]
            assert "Ctrl-C" in lines[3]
            assert [path.name[:15] for path in temporary.iterdir()] == ["voxelnode-open-"]
            until(lambda: httpx2.get(f"{address}studies/1.2.3/volumes.zip").status_code == 200, 60)
            assert "Administration" not in httpx2.get(address).text, "nobody signs in here"
            until(opened.exists)
            process.send_signal(signal.SIGINT)
            assert output.read() == ""
        assert process.wait(60) == 0
    finally:
        watchdog.cancel()
        process.kill()
    assert opened.read_text().strip() == address
    assert list(temporary.iterdir()) == []
    assert state_of(files[0].parent) == before


def test_a_folder_without_dicom_is_reported_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no DICOM")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = run("open", temporary)
    assert (done.returncode, done.stderr) == (1, f"voxelnode: there are no files in {temporary}\n")
    done = run("open", tmp_path / "notes.txt")
    assert (done.returncode, done.stderr) == (1, "voxelnode: 1 file, and it is not DICOM\n")
    within = subprocess.run(
        [sys.executable, "-m", "node", "open", str(tmp_path)],
        capture_output=True, text=True, env={**os.environ, "TMPDIR": str(temporary)}, check=False,
    )  # fmt: skip
    assert within.returncode == 2
    assert "set TMPDIR" in within.stderr
    assert list(temporary.iterdir()) == []
