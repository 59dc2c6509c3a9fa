"""The files for administrators agree with the program: ports, folders, times."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from node import __version__
from node.cli import main
from node.cli.run.doctor import SQLITE_WITHOUT_WAL_RESET_BUG
from node.settings.load import load
from node.settings.model import Settings

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "voxelnode.service"
PUBLIC = __version__.partition("+")[0]
STATING = {DEPLOY / "Containerfile", *DEPLOY.glob("compose*.yaml"), *DEPLOY.glob("*.service"), *DEPLOY.glob("*.timer")}
STATING |= {ROOT / "docs" / name for name in ("cluster.md", "conformance.md", "deploy.md")}
DEFAULTS = Settings()
WAITS_AT_THE_END = 6
"""Associations, HTTP, routes, conversions, hooks and the disk of a host are each given ``[dicom] drain_seconds``."""


@pytest.fixture
def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read_string(UNIT.read_text(encoding="utf-8"))
    return parser


@pytest.fixture
def containerfile() -> list[str]:
    """The instructions of the last stage and of those before it, one a line."""
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    return [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]


@pytest.fixture
def service() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    node: dict[str, Any] = content["services"]["node"]
    return node


def cluster_services() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.cluster.yaml").read_text(encoding="utf-8"))["services"]
    return services


def test_every_file_that_states_the_version_states_that_of_the_program() -> None:
    stated = {
        path: set(re.findall(r"voxelnode[: ](\d+\.[\w.]*\w)", path.read_text(encoding="utf-8")))
        for path in (*DEPLOY.glob("*.*"), *(ROOT / "docs").glob("*.md"), *STATING, ROOT / "README.md")
    }
    assert {path: versions for path, versions in stated.items() if versions} == {path: {PUBLIC} for path in STATING}
    chart, citation = (
        yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in (DEPLOY / "helm/voxelnode/Chart.yaml", ROOT / "CITATION.cff")
    )
    assert (chart["appVersion"], citation["version"]) == (PUBLIC, PUBLIC)
    assert chart["version"] == PUBLIC.replace(".dev", "-dev."), "SemVer"


def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze: this machine has no systemd")
    program = str(Path(sys.executable).with_name("voxelnode"))
    for special, escaped in (("\\", r"\\"), ('"', r"\""), ("%", "%%")):
        program = program.replace(special, escaped)
    here = tmp_path / UNIT.name
    here.write_text(UNIT.read_text(encoding="utf-8").replace("/opt/voxelnode/bin/voxelnode", f'"{program}"'))
    done = subprocess.run([analyze, "verify", str(here)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if UNIT.name in line]) == (0, [])


def test_a_disk_that_is_not_mounted_is_not_served(
    unit: configparser.ConfigParser, containerfile: list[str], service: dict[str, Any]
) -> None:
    *_, root = unit["Service"]["ExecStart"].split()
    assert unit["Unit"]["RequiresMountsFor"] == root == "/var/lib/voxelnode"
    commands = [unit["Service"]["ExecStart"], *containerfile, str(service)]
    assert [one for one in commands if "--create" in one or "voxelnode init" in one] == [], "a person makes the root"


def test_the_unit_waits_until_the_node_has_drained(unit: configparser.ConfigParser) -> None:
    assert int(unit["Service"]["TimeoutStopSec"]) > WAITS_AT_THE_END * DEFAULTS.dicom.drain_seconds


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code in (None, 0)
    return capsys.readouterr().out


def test_the_unit_starts_a_real_command(unit: configparser.ConfigParser, capsys: pytest.CaptureFixture[str]) -> None:
    _, command, *options = unit["Service"]["ExecStart"].split()
    said = help_of(command, capsys)
    assert command == "serve"
    assert [option for option in options if option.startswith("--") and option not in said] == []


def test_the_unit_of_the_backup_starts_a_command_that_exists_as_the_user_of_the_node(
    unit: configparser.ConfigParser, capsys: pytest.CaptureFixture[str]
) -> None:
    backup = configparser.ConfigParser(strict=True, interpolation=None)
    backup.read_string((DEPLOY / "voxelnode-backup.service").read_text(encoding="utf-8"))
    program, command, folder, *options = backup["Service"]["ExecStart"].split()
    said = help_of(command, capsys)
    assert [option for option in options if option.startswith("--") and option not in said] == []
    assert program == unit["Service"]["ExecStart"].split()[0]
    assert backup["Service"]["User"] == unit["Service"]["User"]
    assert backup["Service"]["ReadWritePaths"] == folder
    assert "/var/lib/voxelnode" in options
    assert backup["Service"]["StateDirectory"] == "voxelnode"
    assert (DEPLOY / "voxelnode-backup.timer").is_file()


def test_the_container_has_ports_and_keys_of_the_configuration(
    containerfile: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exposed = next(line.split()[1:] for line in containerfile if line.startswith("EXPOSE"))
    assert [int(port) for port in exposed] == [DEFAULTS.dicom.port, DEFAULTS.web.port]
    environment = next(line for line in containerfile if line.startswith("ENV"))
    assert re.findall(r"VOXELNODE_\w+__\w+", environment) == [], "the environment wins over the mounted file"
    assert "VOXELNODE_DEFAULTS=/etc/voxelnode/container.toml" in environment
    assert "COPY deploy/container.toml /etc/voxelnode/container.toml" in containerfile
    monkeypatch.setenv("VOXELNODE_DEFAULTS", str(DEPLOY / "container.toml"))
    settings = load(None, {})
    assert settings.storage.root == Path("/var/lib/voxelnode")
    assert (settings.bind_host, settings.web.host) == ("127.0.0.1", "0.0.0.0")
    mounted = tmp_path / "voxelnode.toml"
    mounted.write_text('[storage]\nroot = "/data"\n[peers.CT1]\nae_title = "CT1"\n')
    settings = load(mounted, {})
    assert settings.storage.root == Path("/data")
    assert settings.bind_host == "0.0.0.0"
    assert settings.loaded_from.origins["web.host"] == "defaults file"
    check = next(line for line in containerfile if "HEALTHCHECK" in line)
    assert f"127.0.0.1:{DEFAULTS.web.port}/healthz" in check


def test_images_of_others_are_named_by_their_digests(containerfile: list[str]) -> None:
    compose = [path.read_text(encoding="utf-8") for path in DEPLOY.glob("compose*.yaml")]
    images = re.findall(r"^(?:FROM| *image:) (\S+)", "\n".join([*containerfile, *compose]), flags=re.MULTILINE)
    unpinned = {one for one in images if not re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", one)}
    built, other = f"voxelnode:{PUBLIC}", "docker.io/library/haproxy:3.0"
    assert unpinned == {built, other}, "built here; no digest that two sources agree on"
    assert len(set(images)) == 5


def test_the_container_takes_files_that_are_here(containerfile: list[str]) -> None:
    copied = [
        name
        for line in containerfile
        if line.startswith("COPY") and "--from" not in line
        for name in line.split()[1:-1]
    ]
    assert {"node", "docs", "migrations", "config.example.toml"} <= set(copied)  # `voxelnode help` shows documents
    assert ".ci/build_hook.py" in copied
    assert [line for line in containerfile if line.startswith("RUN VOXELNODE_COMMIT=$COMMIT ")] != []
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_the_container_does_not_run_as_root(containerfile: list[str]) -> None:
    assert [line for line in containerfile if line.startswith("USER")] == ["USER voxelnode"]


def test_the_sqlite_of_the_container_is_none_that_doctor_notes(containerfile: list[str]) -> None:
    [number] = re.findall(r"SQLITE=sqlite-autoconf-(\d{7})$", "\n".join(containerfile), flags=re.MULTILINE)
    assert (int(number[0]), int(number[1:3]), int(number[3:5])) >= SQLITE_WITHOUT_WAL_RESET_BUG
    assert "-DSQLITE_SECURE_DELETE" in "".join(containerfile), "what is erased is overwritten"


def test_compose_publishes_the_ports_of_the_configuration_to_this_machine_only(service: dict[str, Any]) -> None:
    published = [port.rpartition(":") for port in service["ports"]]
    assert [int(inside) for _, _, inside in published] == [DEFAULTS.dicom.port, DEFAULTS.web.port]
    assert all(outside.startswith("127.0.0.1:") for outside, _, _ in published)


def test_compose_builds_from_the_containerfile_and_waits_until_the_node_has_drained(service: dict[str, Any]) -> None:
    assert ((DEPLOY / service["build"]["context"]).resolve() / service["build"]["dockerfile"]).is_file()
    minutes = int(service["stop_grace_period"].removesuffix("m"))
    assert minutes * 60 > WAITS_AT_THE_END * DEFAULTS.dicom.drain_seconds


def test_a_host_of_compose_hears_sigterm_from_its_first_moment(service: dict[str, Any]) -> None:
    assert service["init"] is True  # for the first process of a container, the kernel drops signals without a handler
    for name, host in cluster_services().items():
        assert host.get("init", False) is host["image"].startswith("voxelnode:"), name


def test_hosts_wait_for_the_server_that_stays_and_not_for_a_bucket_for_ever() -> None:
    services = cluster_services()
    check = services["index"]["healthcheck"]["test"]
    assert check[check.index("-h") + 1] == "127.0.0.1"  # the image makes the database with a server on a socket
    assert services["bucket"]["command"][0].startswith("timeout ")


def test_compose_writes_only_where_a_volume_is(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert "data:/var/lib/voxelnode" in service["volumes"]
