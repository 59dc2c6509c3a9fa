"""A command loads what its work needs: imports are nearly all of a start, and half of the idle memory."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from node.conversion.job import ConversionJob
from node.index.rows.place import FILE_NAME, upgrade
from node.registry import installed, objects_of
from node.writers.options import WriteOptions

pytestmark = pytest.mark.slow


COMMAND = """
import atexit, sys
from pathlib import Path
from node.cli import main

def write_modules():
    Path(sys.argv[1]).write_text("\\n".join(name for name, module in sys.modules.items() if module is not None))

atexit.register(write_modules)
main(sys.argv[2:])
"""
"""A command, which tells at its end what it has loaded."""

COMMANDS = """
import json, sys
from pathlib import Path
from node.cli import main

for command in json.loads(sys.argv[2]):
    try:
        main(command)
    except SystemExit as end:
        if end.code:
            sys.exit(f"{command}: {end.code}")
Path(sys.argv[1]).write_text("\\n".join(name for name, module in sys.modules.items() if module is not None))
"""
"""Commands one after the other; none may fail. What one of them loads, the process has loaded at the end."""

CONVERTER = """
import atexit, pickle, sys
from pathlib import Path
from node.conversion.pool import _load_for, _loaded

def write_modules():
    Path(sys.argv[1]).write_text("\\n".join(name for name, module in sys.modules.items() if module is not None))

atexit.register(write_modules)
convert = _loaded()
job = pickle.loads(Path(sys.argv[2]).read_bytes())
_load_for(job)
converted = convert(job)
assert converted.files, converted
"""
"""What the processes of a conversion load, in one process, which tells at its end what it has loaded."""

OF_CHILDREN = {
    "numpy", "PIL", "gdcm", "openjpeg", "pylibjpeg", "rle", "jpeg_ls", "nibabel", "SimpleITK", "highdicom", "isal",
}  # fmt: skip
OF_COMMANDS = {"alembic", "rich", "requests", "tqdm", "pygments"}
OF_HOOKS = {"httpx2", "standardwebhooks", "pluggy"}
OF_SIGN_INS = {"authlib", "joserfc", "cryptography"}
OF_HTTP = {"fastapi", "starlette", "uvicorn", "httptools", "uvloop", "jinja2", "python_multipart", "anyio"}

PROJECT = Path(__file__).parents[2]
EXPLICIT = "1.2.840.10008.1.2.1"
DICOM = 'multipart/related; type="application/dicom"'
UNCOMPRESSED = 'multipart/related; type="application/octet-stream"'


@contextmanager
def serving(folder: Path, **environment: str) -> Iterator[list[str]]:
    """Run the command on a root with an index; yield the lines that tell that it is ready."""
    upgrade(folder / "root" / FILE_NAME)
    command = [
        sys.executable,
        "-c",
        COMMAND,
        folder / "modules",
        "serve",
        "--create",
        "--root",
        folder / "root",
        "--port",
        "0",
    ]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            command, env=environment, cwd=PROJECT, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            lines = [process.stdout.readline() for _ in range(1 if "VOXELNODE_WEB__ENABLED" in environment else 2)]
            assert lines[0].startswith("voxelnode ready"), (folder / "log").read_text()[-2000:]
            yield lines
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()


def loaded(folder: Path) -> set[str]:
    """The packages that the process had loaded at its end."""
    return {name.partition(".")[0] for name in (folder / "modules").read_text().splitlines()}


def loaded_by_node(folder: Path) -> set[str]:
    packages = loaded(folder)
    assert {"node", "pydicom", "pynetdicom", "sqlalchemy"} <= packages
    return packages


def test_a_command_that_looks_loads_no_sqlalchemy_and_nothing_of_pixels(tmp_path: Path) -> None:
    root = ("--root", str(tmp_path / "root"))

    def run(*lines: str) -> set[str]:
        """Run commands one after the other in one process; return what it has loaded at the end."""
        commands = json.dumps([(*words.split(), *(root if words != "config check" else ())) for words in lines])
        line = [sys.executable, "-c", COMMANDS, str(tmp_path / "modules"), commands]
        done = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return loaded(tmp_path)

    run(f"import {get_testdata_file('CT_small.dcm')}")
    unused = OF_CHILDREN | OF_COMMANDS | OF_HOOKS | OF_HTTP | {"sqlalchemy", "structlog", "prometheus_client"}
    looking = (
        *("series", "status", "rejections", "conflicts", "lost list", "trash", "patient list", "hooks list"),
        *("hooks deliveries", "hooks jobs", "routes list", "routes waiting", "account list", "quarantine list"),
        *("worklist list", "worklist performed", "label list", "share list", "projects list", "retention"),
        *("journal status", "archive status", "db path", "db hosts", "config check", "select modality=='CT'"),
    )
    assert run(*looking).isdisjoint(unused | {"pydicom"})
    assert run("db check").isdisjoint(OF_CHILDREN)
    assert run("info 1CT1").isdisjoint(unused)  # pydicom has the names of what the header says
    line = [sys.executable, "-c", COMMAND, str(tmp_path / "modules"), "info", "nobody", *root]
    assert subprocess.run(line, cwd=PROJECT, capture_output=True, timeout=60).returncode == 2
    assert loaded(tmp_path).isdisjoint(OF_CHILDREN | OF_COMMANDS | {"sqlalchemy"})


@pytest.mark.parametrize("web", [{"VOXELNODE_WEB__ENABLED": "false"}, {"VOXELNODE_WEB__PORT": "0"}])
def test_what_receives_loads_neither_the_web_framework_nor_what_decodes_and_converts(
    tmp_path: Path, web: dict[str, str]
) -> None:
    with serving(tmp_path, **web):
        pass
    assert loaded_by_node(tmp_path).isdisjoint(OF_CHILDREN | OF_COMMANDS | OF_HOOKS | OF_SIGN_INS | OF_HTTP)


@pytest.mark.parametrize("name", ["JPEG2000.dcm", pytest.param("MR_small_bigendian.dcm", marks=pytest.mark.long)])
def test_pixels_are_served_by_a_node_that_loads_nothing_that_decodes(tmp_path: Path, name: str) -> None:
    path = Path(str(get_testdata_file(name)))
    ds = dcmread(path)
    place = f"/dicom-web/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
    with (
        serving(tmp_path, VOXELNODE_WEB__PORT="0", VOXELNODE_WEB__PROCESS="false") as lines,
        httpx2.Client(base_url=lines[1].rpartition(" ")[2].strip(), timeout=60) as client,
    ):
        body = b"--XX\r\nContent-Type: application/dicom\r\n\r\n" + path.read_bytes() + b"\r\n--XX--\r\n"
        stow = {"Content-Type": f"{DICOM}; boundary=XX"}
        assert client.post("/dicom-web/studies", content=body, headers=stow).status_code == 200
        (found,) = client.get("/dicom-web/instances").json()
        assert found["00080018"]["Value"] == [ds.SOPInstanceUID]
        (header,) = client.get(f"{place}/metadata").json()
        assert header["00280010"]["Value"] == [ds.Rows]
        assert client.get(f"{place}/rendered", headers={"Accept": "image/png"}).content.startswith(b"\x89PNG")
        frame = part(client.get(f"{place}/frames/1", headers={"Accept": UNCOMPRESSED}))
        assert np.array_equal(np.frombuffer(frame, ds.pixel_array.dtype.newbyteorder("<")), ds.pixel_array.ravel())
        converted = part(client.get(place, headers={"Accept": f"{DICOM}; transfer-syntax={EXPLICIT}"}))
        (tmp_path / "converted.dcm").write_bytes(converted)
        assert np.array_equal(dcmread(tmp_path / "converted.dcm").pixel_array, ds.pixel_array)
    assert "fastapi" in loaded(tmp_path)
    assert loaded_by_node(tmp_path).isdisjoint(OF_CHILDREN | OF_COMMANDS | OF_HOOKS | OF_SIGN_INS)


def part(response: httpx2.Response) -> bytes:
    """The body of the only part of a multipart response."""
    assert response.status_code == 200, response.text
    head = f"Content-Type: {response.headers['content-type']}\r\n\r\n".encode()
    (only,) = BytesParser().parsebytes(head + response.content).get_payload()
    content = only.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content


OF_SERVERS = {"sqlalchemy", "structlog", "pynetdicom", *OF_HTTP, *OF_HOOKS, *OF_SIGN_INS, "alembic"}
OF_DECODING = {"gdcm", "openjpeg", "rle", "jpeg_ls", "pylibjpeg"}


def run(folder: Path, *arguments: object) -> set[str]:
    """Run a command to its end; return the packages that it loaded."""
    command = [sys.executable, "-c", COMMAND, folder / "modules", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VOXELNODE_")}
    subprocess.run(command, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL, check=True, timeout=60)
    return loaded(folder)


def test_the_command_of_a_conversion_loads_nothing_that_only_its_child_needs(tmp_path: Path) -> None:
    packages = run(tmp_path, "convert", get_testdata_file("CT_small.dcm"), "-o", tmp_path / "out", "--json")
    assert (tmp_path / "out" / "conversion.json").is_file()
    assert packages.isdisjoint(OF_SERVERS | OF_CHILDREN | {"pydantic", "pydicom", "rich"})
    assert {"node.settings.model", "node.selector"}.isdisjoint((tmp_path / "modules").read_text().splitlines())


def converting(folder: Path, name: str, **options: Any) -> set[str]:
    """Convert one instance in the process that a child of the command is; return the packages that it loaded."""
    path = Path(str(get_testdata_file(name)))
    (folder / "out").mkdir()
    ds = dcmread(path)
    classes = frozenset((str(ds.SOPClassUID),))
    job = ConversionJob(((ds.SOPInstanceUID, path),), folder / "out", WriteOptions(**options), sop_class_uids=classes)
    (folder / "job").write_bytes(pickle.dumps(job.with_objects(objects_of(installed()))))
    command = [sys.executable, "-c", CONVERTER, folder / "modules", folder / "job"]
    subprocess.run(command, cwd=PROJECT, check=True, timeout=60)
    return loaded(folder)


@pytest.mark.parametrize(
    ("name", "options", "needed", "others"),
    [
        ("CT_small.dcm", {}, {"numpy", "pydicom", "PIL", "SimpleITK"},
         OF_DECODING | OF_SERVERS | OF_COMMANDS | {"typer"}),
        ("CT_small.dcm", {"thumbnails": False}, set(), {"PIL", "pydantic"}),
        pytest.param("CT_small.dcm", {"body_masks": True}, {"SimpleITK"}, set(), marks=pytest.mark.long),
        ("JPEG2000.dcm", {}, {"openjpeg"}, OF_DECODING - {"openjpeg"}),
        pytest.param("JPEG-LL.dcm", {}, {"gdcm"}, OF_DECODING - {"gdcm"}, marks=pytest.mark.long),
        pytest.param("MR_small_RLE.dcm", {}, {"rle"}, OF_DECODING - {"rle"}, marks=pytest.mark.long),
    ],
    ids=["plain", "no pictures", "body masks", "JPEG 2000", "JPEG lossless", "RLE"],
)  # fmt: skip
def test_a_conversion_loads_what_its_frames_and_formats_need(
    tmp_path: Path, name: str, options: dict[str, Any], needed: set[str], others: set[str]
) -> None:
    packages = converting(tmp_path, name, **options)
    assert needed <= packages
    assert packages.isdisjoint(others)


def test_a_conversion_to_nifti_loads_no_simpleitk_no_network_and_no_extension(tmp_path: Path) -> None:
    assert converting(tmp_path, "CT_small.dcm", formats=("nifti",)).isdisjoint({"SimpleITK", "http", "ssl"})
    modules = set((tmp_path / "modules").read_text().splitlines())
    assert not [name for name in modules if name.startswith("node.extensions.")]
