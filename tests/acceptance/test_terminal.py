"""Reports on a terminal: they fit its columns, with the finding first, and UIDs only if they are asked for."""

import os
import pty
import tempfile
import termios
from pathlib import Path
from unicodedata import combining, east_asian_width

import pydicom
import pytest

from tests import make
from tests.preloaded import Process, run

pytestmark = pytest.mark.slow


STUDY, SERIES = f"1.2.3.{'8' * 50}", f"1.2.3.{'9' * 50}"
NAME, DESCRIPTION = "山田花子" * 4 + "^太郎", "胸部 CT axial thin slices after contrast medium, second pass"


def on_terminal(columns: int, *arguments: object) -> list[str]:
    """Run a command on a terminal with so many columns; return the lines that it shows."""
    ours, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, columns))
    shown = b""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = Process([*map(str, arguments)], {}, log, terminal=terminal)
        os.close(terminal)
        try:
            while piece := os.read(ours, 1 << 16):
                shown += piece
        except OSError:  # the command has closed the terminal
            pass
        finally:
            os.close(ours)
            process.stdout.close()
        assert process.wait(60) == 0, log.seek(0) or log.read()
    return shown.decode().splitlines()


def width(line: str) -> int:
    return sum(0 if combining(letter) else 2 if east_asian_width(letter) in "WF" else 1 for letter in line)


def printed(*arguments: object, status: int = 0) -> str:
    done = run(*arguments)
    assert done.returncode == status, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("terminal")
    images = [
        make.changed(one, SpecificCharacterSet="ISO_IR 192", PatientName=NAME, SeriesDescription=DESCRIPTION)
        for one in make.ct_series(4, study_uid=STUDY, series_uid=SERIES)
    ]
    make.saved(images, folder / "in")
    make.saved([make.changed(images[0], PatientName="Other^Person")], folder / "again")
    printed("import", folder / "in", "--root", folder / "root")
    printed("import", folder / "again", "--root", folder / "root", status=1)  # other bytes of one instance
    return folder


def test_series_fit_the_terminal_and_uids_are_there_if_asked_for(root: Path) -> None:
    lines = on_terminal(80, "series", "--root", root / "root")
    assert lines[1].split() == ["state", "no", "patient", "date", "mod", "images", "description"]
    assert lines[2].split()[0] in ("receiving", "waiting")
    assert max(map(width, lines)) <= 80
    assert lines[2].endswith("…")
    wide = on_terminal(140, "series", "--root", root / "root")
    assert wide[2].endswith(DESCRIPTION)
    assert not any(SERIES in line for line in (*lines, *wide))
    assert on_terminal(140, "series", "--uids", "--root", root / "root")[2].endswith(SERIES)
    assert SERIES in printed("series", "--tsv", "--root", root / "root")
    assert printed("series", "--root", root / "root").splitlines()[2].endswith(DESCRIPTION)


def test_a_conversion_reports_within_the_terminal(root: Path, tmp_path: Path) -> None:
    command = ("convert", root / "in", "-o", tmp_path / "out", "--name", "{series_number}_{modality}")
    lines = on_terminal(80, *command)
    assert lines[0].split()[1] == "CT"
    assert max(map(width, lines[:-1])) <= 80, "the last line has the path of the folder that was given"
    assert lines[-3].endswith(".nii.gz")
    assert printed(*command).splitlines()[0].split()[0] == lines[0].split()[0]


def test_a_conflict_is_compared_within_the_terminal(root: Path) -> None:
    uid = pydicom.dcmread(root / "again" / "0000.dcm").SOPInstanceUID
    listed = on_terminal(80, "conflicts", "--root", root / "root")
    assert listed[1].endswith(" instance-bytes: the instance came again with other bytes; the first is")
    assert (max(map(width, listed)) <= 80, uid in "".join(listed)) == (True, False)
    assert uid in "".join(on_terminal(80, "conflicts", "--uids", "--root", root / "root"))
    words = [line.split()[0] for line in printed("conflicts", "--root", root / "root").splitlines()[1:]]
    numbers = [word for word in words if word.isdigit()]
    assert numbers
    for number in numbers:
        lines = on_terminal(80, "conflicts", "show", number, "--root", root / "root")
        assert lines[0].split()[0] == number
        assert max(map(width, lines)) <= 80
        assert STUDY not in "\n".join(lines)
        assert STUDY in "\n".join(on_terminal(80, "conflicts", "show", number, "--uids", "--root", root / "root"))
