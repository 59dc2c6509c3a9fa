"""`voxelnode import` on a root that a running node holds."""

import json
import re
import tempfile
import zipfile
from pathlib import Path

import httpx2
import pytest

from node.control.control_socket import NotPerformed
from node.control.import_beside import hand_over
from tests import make
from tests.acceptance.served import Served, until
from tests.make import PYDICOM_FILES
from tests.preloaded import Process, run

pytestmark = pytest.mark.slow

SHIPPED = PYDICOM_FILES / "dicomdirtests"


def imported(served: Served, *paths: Path) -> tuple[int, dict, str]:
    done = run("import", *paths, "--root", served.root, "--json")
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.mark.long
def test_a_running_node_imports_and_its_page_says_how_far_it_is(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    series = make.ct_series(3, study_uid="1.2", series_uid="1.2.1")
    with zipfile.ZipFile(damaged / "scan.zip", "w") as archive:
        for number, instance in enumerate(series[:2]):
            path = tmp_path / f"{number}.dcm"
            instance.save_as(path, enforce_file_format=True)
            archive.write(path, path.name)
    series[0].PatientName = "Other^Bytes"
    series[0].save_as(damaged / "other.dcm", enforce_file_format=True)
    with Served(tmp_path / "root") as served:
        url = re.search(r"http://\S+", served.process.stdout.readline())
        status, report, _ = imported(served, SHIPPED)
        assert (status, report["stored"], report["already_there"], report["refused"]) == (0, 81, 0, [])
        assert len(report["not_dicom"]) == 10
        assert "imported 91 of 91 files" in httpx2.get(f"{url[0]}status").text
        status, again, _ = imported(served, SHIPPED / "DICOMDIR")
        assert (status, again["stored"], again["already_there"]) == (0, 0, 31)
        status, other, _ = imported(served, damaged)
        assert (status, other["stored"]) == (1, 2)
        # Files are read side by side: either may be the second of its SOP Instance UID.
        assert other["other_bytes"] in ([f"{damaged}/scan.zip!0.dcm"], [f"{damaged}/other.dcm"])
        assert not list((served.root / "work").glob("import-*"))
        assert served.rows("SELECT count(*) AS n FROM v_images WHERE source = 'import'") == [{"n": 83}]
        assert run("audit", "--root", served.root, "--json").stdout.count('"Import"') == 3
        served.wait_until_idle()


def test_a_node_that_is_killed_ends_the_command_and_the_next_one_completes_it(tmp_path: Path) -> None:
    folder = tmp_path / "scan"
    make.saved(make.ct_series(600, study_uid="1.2", series_uid="1.2.1"), folder)
    with Served(tmp_path / "root") as served:
        with tempfile.TemporaryFile("w+") as log:
            command = Process(["import", str(folder), "--root", str(served.root)], {}, log)
            until(lambda: served.rows("SELECT 1 FROM v_images LIMIT 1"), 60, "an instance is imported")
            served.kill()
            assert command.wait(60) == 1
            command.stdout.close()
            log.seek(0)
            assert "the node" in log.read()
        served.start()
        assert not list((served.root / "work").glob("import-*"))
        status, report, _ = imported(served, folder)
        assert (status, report["stored"] + report["already_there"]) == (0, 600)
        assert served.rows("SELECT count(*) AS n FROM v_images") == [{"n": 600}]


def test_a_node_that_ended_between_two_batches_is_named_with_what_to_do(tmp_path: Path) -> None:
    make.ct_series(1)[0].save_as(tmp_path / "1.dcm", enforce_file_format=True)
    (tmp_path / "root" / "work" / "import-1").mkdir(parents=True)
    with pytest.raises(NotPerformed, match="the node ended after 0 files: import again"):
        hand_over(tmp_path / "root", "import-1", [tmp_path / "1.dcm"], 1, lambda: None)
