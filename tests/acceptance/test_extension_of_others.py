"""A package of somebody else adds to the node by an entry point: examples/voxelnode-hello (docs/extensions.md)."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from difflib import ndiff
from pathlib import Path

import httpx2
import pytest

from tests import make
from tests.waiting import until

pytestmark = pytest.mark.slow


ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "voxelnode-hello"
GROUP = "voxelnode.extensions"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages in which the example is installed: its modules, and what an installer writes of it."""
    folder = tmp_path_factory.mktemp("site-packages")
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shutil.copytree(EXAMPLE / "voxelnode_hello", folder / "voxelnode_hello")
    about = folder / f"voxelnode_hello-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n", encoding="utf-8"
    )
    points = [f"{name} = {place}" for name, place in project["entry-points"][GROUP].items()]
    (about / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *points, ""]), encoding="utf-8")
    return folder


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    file = tmp_path / "voxelnode.toml"
    file.write_text(
        f'[storage]\nroot = "{tmp_path / "root"}"\nreserve_bytes = 0\n[dicom]\nport = 0\n[web]\nport = 0\n'
        f'[hello]\nname = "Ann"\nfile = "{tmp_path / "greetings"}"\n',
        encoding="utf-8",
    )
    return file


@pytest.fixture
def kinds(configuration: Path) -> Path:
    """The configuration with tables of the kinds that the example adds."""
    folder = configuration.parent
    tables = (
        f'[destinations.lines]\nkind = "greetings"\nfile = "{folder / "sent"}"\n'
        f'[hooks.lines]\nkind = "greetings"\non = ["instance-stored"]\nfile = "{folder / "heard"}"\n'
        '[routes.greet]\nwhen = "instance-stored"\nto = ["lines"]\n'
    )
    configuration.write_text(configuration.read_text(encoding="utf-8") + tables, encoding="utf-8")
    return configuration


def environment(packages: Path | None) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("VOXELNODE_")}
    return own | {"PYTHONPATH": os.pathsep.join(map(str, filter(None, (packages, ROOT))))}


def run(packages: Path | None, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "node", *map(str, arguments)]
    return subprocess.run(command, env=environment(packages), capture_output=True, text=True, timeout=60)


def test_it_adds_a_command_and_a_table_that_are_known_only_where_it_is_installed(installed: Path, kinds: Path) -> None:
    greeted = run(installed, "hello", "--config", kinds)
    assert (greeted.returncode, greeted.stdout) == (0, "hello, Ann\n")
    assert "  hello " in run(installed, "--help").stdout
    assert run(installed, "hello", "--help").stdout.rstrip().endswith("voxelnode hello")
    assert run(installed, "config", "check", "--config", kinds).returncode == 0
    example = run(installed, "config", "example").stdout
    assert ("[hello]" in example, 'file = "' in example) == (True, False)
    assert run(installed, "config", "check", "--config", kinds.with_name("absent.toml")).returncode == 2
    without = run(None, "config", "check", "--config", kinds)
    assert without.returncode == 2
    unknown = "kind = 'greetings' is none of "
    for reported in ("[hello]: unknown section", f"[destinations.lines]: {unknown}", f"[hooks.lines]: {unknown}"):
        assert reported in without.stderr
    assert run(None, "hello").returncode == 2


def test_it_adds_a_line_to_the_conformance_statement(installed: Path) -> None:
    with_it, without = (run(packages, "conformance").stdout.splitlines() for packages in (installed, None))
    changed = {one for one in ndiff(without, with_it) if not one.startswith((" ", "?"))}
    assert changed == {"+ Each study is greeted within a minute; no instance is changed by it.", "+ "}


@pytest.fixture
def serving(installed: Path, configuration: Path, request: pytest.FixtureRequest) -> Iterator[httpx2.Client]:
    disabled = json.dumps(request.param)
    command = [sys.executable, "-m", "node", "serve", "--create", "--config", str(configuration)]
    own = environment(installed) | {"VOXELNODE_EXTENSIONS__DISABLED": disabled}
    with subprocess.Popen(command, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            lines = [process.stdout.readline() for _ in range(2)]
            assert lines[0].startswith("voxelnode ready"), process.stderr
            with httpx2.Client(base_url=lines[1].rpartition(" ")[2].strip(), timeout=30) as client:
                yield client
            process.terminate()
            process.communicate(timeout=60)
            assert process.returncode == 0
        finally:
            process.kill()


@pytest.mark.parametrize("serving", [[]], indirect=True)
def test_it_adds_a_route_a_service_tables_and_a_kind_of_destinations_and_of_hooks_to_a_node(
    kinds: Path, serving: httpx2.Client, installed: Path, tmp_path: Path
) -> None:
    assert serving.get("/api/v1/hello").json() == {"greeting": "hello, Ann", "studies": 0}
    assert set(serving.get("/api/v1/openapi.json").json()["paths"]["/api/v1/hello"]) == {"get", "post"}
    assert serving.post("/api/v1/hello", json={"greeting": "good day"}).json() == {"greeting": "good day", "studies": 0}
    assert serving.post("/api/v1/hello", json={"greeting": ""}).status_code == 422
    greetings = kinds.with_name("greetings")
    until(greetings.exists, 30, "a greeting of the service")
    assert greetings.read_text(encoding="utf-8").startswith("hello, Ann\n")

    [ds] = make.ct_series(1)
    ds.save_as(tmp_path / "one.dcm", enforce_file_format=True)
    part = b"--part\r\nContent-Type: application/dicom\r\n\r\n" + (tmp_path / "one.dcm").read_bytes()
    content_type = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=part'}
    assert serving.post("/dicom-web/studies", content=part + b"\r\n--part--", headers=content_type).status_code == 200
    for name, line in (("sent", f"hello, {ds.SOPInstanceUID}\n"), ("heard", "hello, instance-stored\n")):
        file = kinds.with_name(name)
        until(lambda file=file: file.exists() and file.stat().st_size, 30, f"a line in {name}")
        assert file.read_text(encoding="utf-8") == line

    for packages, names in ((installed, []), (None, ["hello"])):
        checked = json.loads(run(packages, "db", "check", "--root", kinds.with_name("root"), "--json").stdout)
        assert (checked["problems"], checked["not_installed"]) == ([], names)


@pytest.mark.parametrize("serving", [["hello"]], indirect=True)
def test_it_is_switched_off_by_the_configuration(serving: httpx2.Client, configuration: Path) -> None:
    assert serving.get("/api/v1/hello").status_code == 404
    assert "/api/v1/hello" not in serving.get("/api/v1/openapi.json").json()["paths"]
    assert not configuration.with_name("greetings").exists()


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        ("voxelnode_hello:ABSENT", "cannot be loaded: "),
        ("voxelnode_hello.command:hello", "is not an instance of node.hookspecs.Extension"),
        ("node.extensions.worklist:EXTENSION", "two extensions are called worklist"),
        ("voxelnode_hello.absent:EXTENSION", "cannot be loaded: No module named 'voxelnode_hello.absent'"),
    ],
)
def test_one_that_cannot_be_used_is_named_with_why(installed: Path, tmp_path: Path, place: str, problem: str) -> None:
    packages = tmp_path / "packages"
    shutil.copytree(installed, packages)
    [points] = packages.glob("*.dist-info/entry_points.txt")
    points.write_text(f"[{GROUP}]\nhello = {place}\n", encoding="utf-8")
    refused = run(packages, "status")
    assert (refused.returncode, problem in refused.stderr) == (2, True), refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.sample(0, 3)
@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('name = "hello"', 'name = "hello"\n    destination = ()', 'no destination, did you mean "destinations"?'),
        ("def run(self, node: Parts)", "def run(self)", "run is not a method with the parameters (self, node)"),
        ('hello.settings:HelloSettings"),)', 'hello.settings:HelloSettings"))', "tables is not a tuple of Table"),
        ("settings:HelloSettings", "settings:Absent", "voxelnode_hello.settings:Absent cannot be loaded: "),
        ("settings:HelloSettings", "rows:GreetingViews", "rows:GreetingViews is not a subclass of SettingsSection"),
        ("settings:GreetingsHook", "settings:Absent", "voxelnode_hello.settings:Absent cannot be loaded: "),
        ("settings:GreetingsHook", "settings:HelloSettings", 'HelloSettings has no key kind of Literal["greetings"]'),
        ("tables:TABLES", "tables:Base", "voxelnode_hello.tables:Base is not an instance of IndexTables"),
        ('Table("hello"', 'Table("web"', "there is a table [web] already"),
        ("Cross-Service Considerations", "Greetings", "the statement has 0 sections 'Greetings', and not one"),
    ],
)
def test_what_it_brings_and_cannot_be_used_is_named_with_its_entry_point(
    installed: Path, kinds: Path, tmp_path: Path, old: str, new: str, problem: str
) -> None:
    packages = tmp_path / "packages"
    shutil.copytree(installed, packages)
    module = packages / "voxelnode_hello" / "__init__.py"
    text = module.read_text(encoding="utf-8")
    assert old in text
    module.write_text(text.replace(old, new, 1), encoding="utf-8")
    by = {"tables:TABLES": ("db", "upgrade"), "Cross-Service Considerations": ("conformance",)}
    refused = run(packages, *by.get(old, ("config", "check")), "--config", kinds)
    assert refused.returncode == 2, refused
    assert refused.stderr.count("\n") == 1, refused.stderr
    assert "the extension hello (voxelnode_hello:EXTENSION): " in refused.stderr
    assert problem in refused.stderr
