"""``voxelnode demo``: the whole flow on this machine, with series whose volumes are known in advance."""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

from node.api import (
    Columns,
    Json,
    Sitting,
    UsageError,
    VoxelnodeError,
    browse,
    listing,
    print_fields,
    print_table,
    shipped_with_pydicom,
    sitting,
    sized,
    stop_at_end,
    temporary_root,
)

if TYPE_CHECKING:
    from rich.progress import Progress

    from node.api import Address
    from node.extensions.demo.known_series import Truth

QUIET_SECONDS = 1.0
MAX_WAIT_SECONDS = 60.0
POLL_SECONDS = 0.1
CALLING_AE_TITLE = "DEMO"

REAL_SERIES = {
    "real CT, heart (5 slices cut to 16 x 16)": "dicomdirtests/98892001/CT5N",
    "real CT, one slice": "CT_small.dcm",
}
"""Series among the test files that pydicom ships."""

Row = Mapping[str, Any]


class DemoFailed(VoxelnodeError):
    """A volume is missing or differs from the expected one."""


def demo(
    keep: Annotated[
        bool | None,
        typer.Option("--keep/--no-keep", help="Keep the node running until Ctrl-C. [default: only on a terminal]"),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            "--root", metavar="DIR", help="New or empty folder, which stays. [default: a temporary folder, removed]"
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Try a node with known series, and look at them.

    Starts a node on this machine, sends it two real CT series and a head phantom, and compares every volume with
    the known voxels and positions. Exit 1 if a volume is missing or differs. On a terminal, the node then runs until
    Ctrl-C, and its pages open in the browser if there is a desktop.
    """
    is_on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    stays = keep if keep is not None else is_on_terminal and not json
    with ExitStack() as temporary:
        folder = _empty(root, temporary)
        if not json:
            print(f"Starting a node in {folder} ...", flush=True)
        try:
            _demonstrate(folder, root is not None, stays, stays and is_on_terminal, json)
        except DemoFailed:
            temporary.pop_all()  # its message names files
            raise


def _empty(root: Path | None, temporary: ExitStack) -> Path:
    """Return an empty folder; a temporary one is removed with `temporary`."""
    if root is None:
        return temporary.enter_context(temporary_root("voxelnode-demo-"))
    if root.is_dir() and any(root.iterdir()):
        raise UsageError(f"{root} is not empty; the demo needs a new or empty folder")
    return root.absolute()


def _demonstrate(folder: Path, is_left: bool, stays: bool, opens: bool, json: bool) -> None:
    """Run a node in `folder` with the known series, check what it wrote, and let people look at it if it stays."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    with sitting(folder, QUIET_SECONDS) as node:
        assert node.endpoints.dicom is not None  # by default, a node has all roles
        columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        with Progress(*columns, transient=True, disable=json) as progress:
            truths = _send(node.endpoints.dicom, progress)
            rows, counts = _converted(folder, len(truths), progress)
            verdicts = {row["path"]: _verdict(row, truths) for row in rows}
        _report(folder, rows, verdicts, truths, counts, json)
        _require_right(rows, verdicts, truths, node.settings.convert.formats)
        if stays:
            _stay(node, folder, is_left, opens)
        elif not json:
            print(
                f"Files: {folder}" if is_left else "The files are removed now; --root DIR keeps them, --keep the node."
            )


def _send(address: Address, progress: Progress) -> dict[str, Truth]:
    """Send all series over associations; return the truth of each by Series Instance UID."""
    from node.api import send_files
    from node.extensions.demo.known_series import Truth, head_phantom, truth_of_files

    task = progress.add_task("scanning a head")
    phantom = head_phantom()
    truths = {phantom.series_instance_uid: Truth("oblique head phantom", phantom.hounsfield, phantom.affine_lps)}
    with tempfile.TemporaryDirectory(prefix="voxelnode-scanner-") as scanner:
        files = [Path(scanner, f"{number:03d}.dcm") for number in range(len(phantom.instances))]
        for file, instance in zip(files, phantom.instances, strict=True):
            instance.save_as(file, enforce_file_format=True)
        for title, name in REAL_SERIES.items():
            shipped = shipped_with_pydicom(name)
            files += shipped
            truths |= [truth_of_files(title, shipped)]
        progress.update(task, description=f"sending {len(files)} instances to {address.ae_title}")
        send_files(files, address, CALLING_AE_TITLE)
    progress.remove_task(task)
    return truths


def _converted(folder: Path, series: int, progress: Progress) -> tuple[list[Row], dict[str, int]]:
    """Wait until all series are converted; return the rows of ``v_volumes`` and the number of rows of each view."""
    from node.api import reading

    progress.add_task(f"waiting {QUIET_SECONDS:g} s until the series are quiet, then converting")
    deadline = monotonic() + MAX_WAIT_SECONDS
    pause = threading.Event()
    while _waiting(folder, series):
        if monotonic() > deadline:
            raise DemoFailed(f"not every series was converted within {MAX_WAIT_SECONDS:g} s; see {folder}")
        pause.wait(POLL_SECONDS)
    with reading(folder) as index:
        levels, volumes = index.count_levels(), index.volumes.all()
        counts = {
            "v_patients": levels["patients"],
            "v_studies": levels["studies"],
            "v_series": levels["series"],
            "v_images": levels["instances"],
            "v_volumes": len(volumes),
            "v_failures": index.failures.count(),
        }
        return [*volumes], counts


def _waiting(folder: Path, series: int) -> bool:
    """Return whether fewer series are indexed, or some are not converted yet, as of the latest commit."""
    from node.api import reading

    with reading(folder) as index:
        return index.count_levels()["series"] < series or index.series.count_open() > 0


def _verdict(row: Row, truths: Mapping[str, Truth]) -> str:
    """Return ``right``, or how the file differs from the truth; empty for files that are not volumes."""
    from node.api import read_voxels
    from node.extensions.demo.known_series import difference

    if row["kind"] != "volume" or row["format"] not in ("nifti", "mhd"):
        return ""
    return difference(truths[row["series_instance_uid"]], *read_voxels(Path(row["path"]))) or "right"


def _require_right(
    rows: list[Row], verdicts: Mapping[str, str], truths: Mapping[str, Truth], formats: tuple[str, ...]
) -> None:
    right = {(row["series_instance_uid"], row["format"]) for row in rows if verdicts[row["path"]] == "right"}
    wrong = [f"{path}: {verdict}" for path, verdict in verdicts.items() if verdict not in ("", "right")]
    missing = [
        f"{truth.title}: no {name} volume"
        for uid, truth in truths.items()
        for name in formats
        if (uid, name) not in right
    ]
    if wrong or missing:
        raise DemoFailed("\n".join([*wrong, *missing]))


def _report(
    folder: Path,
    rows: list[Row],
    verdicts: Mapping[str, str],
    truths: Mapping[str, Truth],
    counts: Mapping[str, int],
    json: bool,
) -> None:
    columns: Columns = {
        "series": lambda row: truths[row["series_instance_uid"]].title,
        "kind": "kind",
        "shape": "shape",
        "file": lambda row: Path(row["path"]).name,
        "size": lambda row: sized(row["bytes"]),
        "read back": "verdict",
    }
    files = [{**row, "verdict": verdicts[row["path"]]} for row in rows]
    data = {"root": folder, "rows": counts, "files": files}
    listing("files written (v_volumes)", columns, files, data=data).show(json)
    if json:
        return
    print_table("rows of the index", tuple(counts), [tuple(counts.values())])


def _stay(node: Sitting, folder: Path, is_left: bool, opens: bool) -> None:
    """Name what to try, and serve until a signal."""
    stop = stop_at_end()
    dicom = node.endpoints.dicom
    assert dicom is not None
    goes = f"; {folder} stays" if is_left else ", and is then removed with all that you sent it; --root DIR keeps it"
    print(f"\nThe node runs until Ctrl-C{goes}. Try it, in the browser and in a second terminal:")
    print_fields(
        {
            "look": node.endpoints.web,
            "your own files": f"{node.endpoints.web}upload",
            "a sender": f"dcmsend -aec {dicom.ae_title} +sd +r --no-halt {dicom.host} {dicom.port} FOLDER",
            "series": f"voxelnode series --root {folder}",
            "a selection": f"voxelnode select 'slices >= 50' --root {folder}",
            "SQL": f"sqlite3 {folder / 'index.sqlite'} 'SELECT path, shape FROM v_volumes'",
            "read more": "voxelnode help tutorial",
        }
    )
    sys.stdout.flush()
    if opens and node.endpoints.web is not None:
        browse(node.endpoints.web)
    node.serve_until(stop)
