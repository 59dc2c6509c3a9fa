"""`voxelnode config check` tells before a start what the start would refuse, all of it at once."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from node.control import checks
from node.settings.core import IndexSettings, Storage
from node.settings.model import Settings
from tests.preloaded import run
from tests.protocol.test_worklist import entry

HOOK = '[hooks.one]\non = ["volume-written"]\n'


def check(folder: Path, text: str) -> dict[str, Any]:
    """What is told about a configuration."""
    file = folder / "voxelnode.toml"
    file.write_text(f'[storage]\nroot = "{folder / "root"}"\n{text}')
    done = run("config", "check", "--config", file, "--json")
    reported = dict(json.loads(done.stdout))
    assert done.returncode == (0 if reported["ok"] else 2)
    return reported


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            '[dicom]\ntls_certificate = "/nowhere/a.pem"',
            "[dicom] tls_certificate /nowhere/a.pem cannot be loaded: [Errno 2]",
        ),
        ('[dicom]\ntls_key = "/nowhere/a.pem"', "[dicom] tls_key and tls_client_ca need tls_certificate"),
        (
            '[web]\ntls_certificate = "/nowhere/a.pem"',
            "[web] tls_certificate /nowhere/a.pem cannot be loaded: [Errno 2]",
        ),
        (
            '[peers.CT1]\nae_title = "CT1"\nhost = "ct1"\ntls = true\ntls_ca = "/nowhere/a.pem"',
            "[peers.CT1] tls_ca /nowhere/a.pem of the peer CT1 cannot be loaded: [Errno 2]",
        ),
        (
            f'{HOOK}kind = "command"\ncommand = ["/nowhere/run"]',
            "[hooks.one] command: '/nowhere/run' is not an executable file",
        ),
        (f'{HOOK}kind = "webhook"\nurl = "https://a/"\nsecret_file = "/nowhere/s"', "[hooks.one] "),
        (f'{HOOK}kind = "webhook"\nurl = "https://a/"\nca_file = "/nowhere/s"', "[hooks.one] "),
        (f'{HOOK}kind = "plugin"\nplugin = "nobody"', "[hooks.one] no entry point 'nobody'"),
        ('[audit]\nsyslog = "tls://log"\nsyslog_ca_file = "/nowhere/a.pem"', "[audit] syslog_ca_file"),
        (
            '[web.oidc]\nissuer = "https://idp"\nclient_id = "x"\nread = ["r"]\nclient_secret_file = "/nowhere/s"',
            "[web.oidc] client_secret_file /nowhere/s cannot be read",
        ),
        ('[log]\nfile = "/nowhere/a.log"', "[log] file = '/nowhere/a.log': '/nowhere' is not a folder"),
        ("[dicom]\nport = 8080", "[dicom] port and [web] port are both 8080"),
        ("[dicom]\ntls_port = 2762", "tls_port needs tls_certificate"),
        ("[worklist]\nhl7_port = 8080", "[web] port and [worklist] hl7_port are both 8080"),
        ('[dicom]\nhost = "0.0.0.0"\nopen = true\nport = 8080', "[dicom] port and [web] port are both 8080"),
        ('[dicom]\nhost = "0.0.0.0"', "[dicom] host = 0.0.0.0 is reachable from other machines, and without [peers]"),
        ('[dicom]\nhost = "::"', "[dicom] host = :: is reachable from other machines"),
        ('[web]\nhost = "0.0.0.0"', "requests need an account, but none exists"),
    ],
)
def test_what_a_start_would_refuse_is_a_problem(tmp_path: Path, text: str, problem: str) -> None:
    [reported] = check(tmp_path, text)["problems"]
    assert problem in reported


def test_a_port_for_tls_that_is_taken_is_a_problem(tmp_path: Path) -> None:
    problems = check(tmp_path, '[dicom]\ntls_port = 8080\ntls_certificate = "/nowhere/node.pem"')["problems"]
    assert [problem.partition(":")[0] for problem in problems if "both" in problem] == [
        "[dicom] tls_port and [web] port are both 8080"
    ]


@pytest.mark.parametrize(
    ("parameters", "problems"),
    [
        ("db/v?sslmod=require", ['[index] url: invalid URI query parameter: "sslmod"']),
        ("db/v?pass:geheim", ['[index] url: missing key/value separator "=" in URI query parameter: "..."']),
        ("a:1,b/v?port=1,2,3", ["[index] url has 2 of host and 3 of port: give each server one, or all the same"]),
        (
            "db/v?passfile=/nowhere/p&sslrootcert=/nowhere/ca&sslkey=/",
            [
                f"[index] url: {name} = {file!r} cannot be read: correct the path"
                for name, file in (("passfile", "/nowhere/p"), ("sslkey", "/"), ("sslrootcert", "/nowhere/ca"))
            ],
        ),
        ("a:5433,[::1]/v?target_session_attrs=read-write&sslmode=verify-full&sslrootcert=system", []),
        ("/v?host=a,b&port=5433&passfile={passfile}&keepalives_idle=5", []),
    ],
)
def test_a_url_of_an_index_is_judged_without_a_connection(tmp_path: Path, parameters: str, problems: list[str]) -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    (passfile := tmp_path / "passfile").touch()
    url = f"postgresql+psycopg://v@{parameters.format(passfile=passfile)}"
    settings = Settings(storage=Storage(root=tmp_path / "root"), index=IndexSettings(url=url))
    assert checks.problems(settings) == problems


@pytest.mark.parametrize(
    "text",
    [
        "",
        '[dicom]\nhost = "0.0.0.0"\nopen = true',
        '[dicom]\nhost = "0.0.0.0"\n[peers.CT1]\nae_title = "CT1"',
        "[dicom]\nport = 0\n[web]\nport = 0",
        "[dicom]\nport = 8080\n[web]\nenabled = false",
        '[dicom]\nhost = "127.0.0.2"\nport = 8080',
        f'{HOOK}kind = "command"\ncommand = ["ls"]',
    ],
)
def test_what_starts_is_valid(tmp_path: Path, text: str) -> None:
    assert check(tmp_path, text)["problems"] == []


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    problems = check(
        tmp_path,
        '[dicom]\nhost = "0.0.0.0"\nport = 8080\ntls_certificate = "/nowhere/a"\n[web]\nhost = "0.0.0.0"\n'
        f'{HOOK}kind = "command"\ncommand = ["/nowhere/run"]\n',
    )["problems"]
    assert len(problems) == 5


def test_every_broken_rule_of_one_table_is_reported(tmp_path: Path) -> None:
    problems = check(
        tmp_path,
        '[hooks.one]\nkind = "command"\non = ["series-quiet"]\ncommand = ["{path}", "{nothing}"]\n'
        'where = "slices > 3"\n'
        '[peers.CT1]\nae_title = "CT1"\ncertificate = "sha256:x"\nconfirm_by_find = true\n',
    )["problems"]
    rules = "\n".join(problems)
    for rule in (
        "certificate must be sha256:", "confirm_by_find needs host",
        "{path} in command is not in messages of series-quiet", "unknown placeholder {nothing}",
        "the program in command must be the same", "where uses slices",
    ):  # fmt: skip
        assert rule in rules
    assert len(problems) == 6


DESTINATION = '[peers.WS]\nae_title = "WS1"\nhost = "10.1.2.3"\nmay = []\n'
REJECTED = "all other senders are rejected; the node listens on"
SCANNER = '[peers.CT1]\nae_title = "CT1"\nmay = ["echo", "store"]\n'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", ""),
        (DESTINATION, f"[peers] lists 1 peer, and it may not store: {REJECTED} every address"),
        (SCANNER, f"[peers] lists 1 peer, and it may store: {REJECTED} every address"),
        (DESTINATION + SCANNER, f"[peers] lists 2 peers, and 1 of them may store: {REJECTED} every address"),
        (f'{SCANNER}[dicom]\nhost = "127.0.0.1"', f"[peers] lists 1 peer, and it may store: {REJECTED} 127.0.0.1"),
        (f"{DESTINATION}[dicom]\nenabled = false", ""),
    ],
)
def test_whom_peers_have_the_node_reject_is_reported(tmp_path: Path, text: str, sentence: str) -> None:
    assert check(tmp_path, text)["senders"] == sentence
    shown = run("config", "check", "--config", tmp_path / "voxelnode.toml").stdout.splitlines()
    assert shown[1:] == ([sentence] if sentence else [])


def test_a_host_that_receives_nothing_reports_nothing_of_senders() -> None:
    shared = {
        "index": {"url": "postgresql://v@db/v"},
        "storage": {"url": "file:///srv"},
        "peers": {"CT1": {"ae_title": "CT1"}},
    }
    assert checks.senders(Settings.model_validate(shared)).startswith("[peers] lists 1 peer")
    assert checks.senders(Settings.model_validate({**shared, "cluster": {"roles": ["convert", "web"]}})) == ""


@pytest.mark.slow
def test_peers_of_one_title_and_two_hosts_are_a_warning(tmp_path: Path) -> None:
    def warned(second: str) -> list[str]:
        first = '[peers.A]\nae_title = "CT1"\nnetworks = ["10.1.0.0/16"]\nhost = "10.1.2.3"\n'
        return list(check(tmp_path, f'{first}[peers.B]\nae_title = "CT1"\n{second}')["warnings"])

    assert warned('networks = ["10.2.0.0/16"]') == []
    assert warned('networks = ["fd00::/8"]') == []
    assert warned('networks = ["10.1.0.0/16"]') == []
    [ambiguous] = warned('networks = ["10.2.0.0/16"]\nhost = "10.2.0.1"')
    assert "C-MOVE and commitment reports go to the last, [peers.B]" in ambiguous


def test_an_open_listener_is_refused_unless_the_configuration_says_so(tmp_path: Path) -> None:
    done = run("serve", "--create", "--root", tmp_path / "root", "--host", "0.0.0.0", "--port", "0", "--web-port", "0")
    assert done.returncode == 2
    assert "[dicom] host = 0.0.0.0 is reachable from other machines" in done.stderr
    assert not (tmp_path / "root").exists()


def test_a_folder_of_worklist_entries_that_is_not_there_or_has_others_is_a_warning(tmp_path: Path) -> None:
    folder = tmp_path / "entries"
    [warning] = check(tmp_path, f'[worklist]\nfolder = "{folder}"\n')["warnings"]
    assert warning.startswith("[worklist] folder = ")
    folder.mkdir()
    (folder / "right.json").write_text(entry(1).to_json())
    assert check(tmp_path, f'[worklist]\nfolder = "{folder}"\n')["warnings"] == []
    (folder / "wr\x1bong.json").write_text("{}")
    check(tmp_path, f'[worklist]\nfolder = "{folder}"\n')
    printed = run("config", "check", "--config", tmp_path / "voxelnode.toml", check=True).stdout
    assert "wr\\x1bong.json has no entry: ScheduledProcedureStepSequence (0040,0100) must have one item" in printed


def test_the_whole_configuration_of_the_document_on_results_is_valid(tmp_path: Path) -> None:
    document = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    block = document.partition("## A whole configuration\n")[2].partition("\nCheck it")[0]
    lines = [line.removeprefix("    ") for line in block.splitlines() if line.startswith("    ")]
    storage, dicom = "\n".join(lines).replace("/opt/lungs/bin/python", sys.executable).split("[dicom]")
    assert storage.startswith("[storage]")
    assert check(tmp_path, f"[dicom]{dicom}")["problems"] == []
