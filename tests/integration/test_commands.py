import datetime as dt
import errno
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args
from unittest.mock import Mock

import pytest
from pydicom.data import get_testdata_file
from typer.main import get_command

from node import __version__
from node.api import Settings
from node.cli.application import OF_PROGRAM, application, commands
from node.cli.look.series import PrintedState
from node.control.root import locked_root
from node.hookspecs import Panel
from node.index.rows import sqlite
from node.receive.readiness import write_counters
from node.selector.fields import STATES
from tests import make
from tests.made_once import IN_POSTGRESQL
from tests.rows import write_rows
from tests.test_docs import unknown_commands


def test_the_version_is_that_of_the_package(run) -> None:
    assert run("--version") == (0, f"voxelnode {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "--port", "many"], "voxelnode serve: Invalid value for '--port': must be a whole number. See"),
        (["convert", ".", "-o", "x", "-f"], "voxelnode convert: Option '-f' requires an argument. See `voxelnode conv"),
        (
            ["convert", ".", "-o", __file__],
            f"voxelnode convert: Invalid value for '--out' / '-o': '{__file__}' is a file",
        ),
        (["import", "absent"], "voxelnode import: Invalid value for 'PATH'"),
        (["convert", "."], "voxelnode convert: Missing option '--out OUT'. See"),
        (
            ["convert", "-z", "y", "-f", "%p_%s", "-b", "y", "-ba", "y", "-x", "y", "-o", "out", "my scans"],
            "voxelnode convert: -z is an option of dcm2niix. The same, but for -x: "
            "voxelnode convert -o out -f %p_%s --flat 'my scans'. See `voxelnode help dcm2niix`.",
        ),
        (
            ["convert", "-9", "-bn", "-v", "-x", "n", "-w", "0", "scans"],
            "voxelnode convert: -9 is an option of dcm2niix. The same, but for -b, -w: "
            "voxelnode convert -o OUT --flat --no-compress scans. See",
        ),
        (["conflicts", "show", "9" * 22], f"voxelnode conflicts show: Invalid value for 'ID': {'9' * 22} is more than"),
        (["series", "--state", "failing"], "voxelnode series: Invalid value for '--state': 'failing' is"),
        (["help", "selcet"], "voxelnode: 'selcet' is not a document, did you mean \"select\"?"),
        (["help", "xyzzy"], "voxelnode: 'xyzzy' is not a document; `voxelnode help` lists them"),
        (["help", "queue"], "voxelnode: 'queue' is not a document; it is mentioned in on-call, "),
        (["queue"], "voxelnode: No such command 'queue'. See `voxelnode help queue`."),
        (
            ["reconvert", "1.2.3", "--all"],
            "voxelnode reconvert: Invalid value: Give UIDs, or one of --where, --failed and --all. See",
        ),
        (["select", "xyzzy"], 'voxelnode: at character 1: unknown field "xyzzy"; `voxelnode help select` lists them'),
        (["severe"], "voxelnode: No such command 'severe'"),
        (["send", "1.2"], "voxelnode: No such command 'send': that is `voxelnode peers send`. See"),
        (["ls"], "voxelnode: No such command 'ls': that is `voxelnode series`, `voxelnode info`. See"),
        (["peers", "ls"], "voxelnode peers: No such command 'ls': that is `voxelnode peers list`. See"),
        (["logs"], "voxelnode: No such command 'logs': that is `journalctl -u voxelnode`"),
        (["-v"], "voxelnode: No such option: -v: that is `voxelnode --version`"),
        (["status", "-v"], "voxelnode status: No such option: -v: that is `voxelnode --version`"),
        (["-ba", "y", "in"], "voxelnode: -ba is an option of dcm2niix. The same: voxelnode convert -o OUT --flat"),
        (["peers", "echo", "PACS"], "voxelnode: 'PACS' is neither a name in [peers] nor AET@HOST:PORT"),
        (
            ["peers", "echo", "PACS@host:99999"],
            "voxelnode: 'PACS@host:99999' is neither a name in [peers] nor AET@HOST:PORT",
        ),
        (["serve", "--host", ""], "voxelnode: --host: '': is empty; leave it out for the default"),
        (["serve", "--port", "70000"], "voxelnode: --port: 70000: must be at most 65535"),
        (["status", "now"], "voxelnode status: Unexpected argument: now. See"),
        (["peers", "find", "--from", "PACS", "-k", "x"], "voxelnode peers find: No such option: -k. See"),
        (["info", " "], "voxelnode: an empty name is that of nobody"),
        (
            ["series", "--limit", "0"],
            "voxelnode series: Invalid value for '--limit' / '--last': must be at least 1. See",
        ),
        (["series", "--stat", "x"], "voxelnode series: No such option: --stat. Did you mean --state? See"),
        (["convert", "--output", "x"], "voxelnode convert: No such option: --output. Did you mean --out? See"),
        (["convert", "--quiet"], "voxelnode convert: No such option: --quiet. See"),
        (["stauts"], "voxelnode: No such command 'stauts'. Did you mean 'status'? See"),
        (["projects", "ad"], "voxelnode projects: No such command 'ad'. Did you mean 'add'? See"),
        (
            ["--config", "a.toml", "status"],
            "voxelnode: No such option: --config: options come after the command, as in `voxelnode status ",
        ),
        (["serve", "--config", "absent.toml"], "voxelnode: absent.toml: cannot be read"),
        (["convert", ".", "-o", "out", "--format", "niftii"], "voxelnode: --format: 'niftii'"),
    ],
)
def test_wrong_use_is_reported_in_one_line_with_status_2(run, arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.status == 2
    assert result.out == ""
    assert result.err.startswith(message)
    assert result.err.count("\n") == 1


def test_without_a_command_the_help_is_shown(run) -> None:
    result = run()
    assert result.status == 2
    assert "serve" in result.out
    assert result.err == ""


def test_help_shows_every_text_as_it_is_written() -> None:
    shown = list(help_pages(get_command(application()), "voxelnode"))
    assert len(shown) > 40
    lost = [
        f"{path}: {text}"
        for path, page, texts in shown
        for text in texts
        if "".join(text.split()) not in "".join(page.split())  # wrapping moves spaces only
    ]
    assert lost == []
    assert sum("[peers]" in page for _, page, _ in shown) >= 4


def test_the_commands_are_grouped_and_no_line_is_cut() -> None:
    [(_, page, _), *others] = help_pages(get_command(application()), "voxelnode")
    titles = [line for line in page.splitlines() if line and not line.startswith(" ")]
    assert titles[1:] == ["Options:", *(f"{title}:" for title in get_args(Panel))]
    for text in (page, *(page for _, page, _ in others)):
        assert [line for line in text.splitlines() if line.endswith("...") and not line.startswith("Usage:")] == []


def test_every_command_has_examples_that_fit_it() -> None:
    every = {"": OF_PROGRAM} | {command.name: command.examples for command in commands()}
    for name, lines in every.items():
        assert lines
        assert all(line.startswith(f"voxelnode {name}".strip()) for line in lines), name
    lines_of = [line.removeprefix("voxelnode ") for lines in every.values() for line in lines]
    assert unknown_commands([part for line in lines_of for part in line.split(" && voxelnode ")]) == []
    pages = {path: page for path, page, _ in help_pages(get_command(application()), "voxelnode")}
    for name, lines in every.items():
        assert pages[f"voxelnode {name}".strip()].rstrip().endswith("\n".join(f"    {line}" for line in lines))


@pytest.mark.slow
def test_an_empty_path_is_refused_by_every_command_and_is_not_this_folder(run) -> None:
    def with_paths(command: Any, path: list[str]) -> Iterator[list[str]]:
        for name, each in getattr(command, "commands", {}).items():
            yield from with_paths(each, [*path, name])
        for parameter in command.params:
            of = parameter.type_descriptor.annotation
            if Path in (of, *get_args(of)):
                yield [*path, *(parameter.opts[-1:] if parameter.param_type_name == "option" else ()), ""]

    wrong = list(with_paths(get_command(application()), []))
    assert len(wrong) > 200
    of_commands = {tuple(word for word in one if not word.startswith("-")): one for one in wrong}
    assert {("serve", ""), ("trash", ""), ("open", ""), ("pseudonyms", "new", "")} <= of_commands.keys()
    for arguments in of_commands.values():
        status, out, err = run(*arguments)
        assert (status, out) == (2, ""), arguments
        assert "is empty" in err or "Missing argument" in err, (arguments, err)


NOT_READING = {
    *("init", "serve", "open"),
    *("db hosts drain", "db hosts forget", "pseudonyms new", "pseudonyms rotate"),
    *("account role", "account remove", "account revoke", "account reset-factor"),
    *("viewers install", "viewers remove"),
}


LISTING = {
    *("series", "select", "rejections", "audit", "conflicts", "help", "retention", "trash", "doctor", "peers find"),
    *("config show", "hooks deliveries", "routes waiting", "account sessions", "db hosts", "worklist performed"),
    *("fsck", "status", "info", "dump", "backup", "restore", "archive status", "journal status", "quarantine show"),
    *("conflicts show", "config check", "db check", "hooks jobs", "hooks jobs show"),
}


def test_every_command_that_reads_prints_json_and_every_listing_lines_of_fields() -> None:
    def with_own_rows(command: Any, path: str) -> Iterator[tuple[str, set[str]]]:
        for name, each in getattr(command, "commands", {}).items():
            yield from with_own_rows(each, f"{path} {name}".strip())
        if not getattr(command, "commands", {}) or (path and command.params):
            yield path, {name for parameter in command.params for name in parameter.opts}

    options = dict(with_own_rows(get_command(application()), ""))
    assert {path for path, names in options.items() if "--json" not in names} == NOT_READING
    named = {path for path in options if path.endswith(" list")}
    assert len(named) > 10
    assert {path for path, names in options.items() if "--tsv" in names} == named | LISTING
    bounded = {path for path, names in options.items() if "--limit" in names}
    assert bounded == {command.partition(" '")[0] for command in BOUNDED} | {"peers find"}


def test_what_is_known_of_one_thing_is_lines_of_names_and_values(run) -> None:
    run("import", str(get_testdata_file("CT_small.dcm")), "--root", "here")
    names, *lines = run("status", "--root", "here", "--tsv").out.splitlines()
    assert names == "name\tvalue"
    reported = dict(line.split("\t") for line in lines)
    whole = json.loads(run("status", "--root", "here", "--json").out)
    assert (reported["instances"], reported["series.receiving"]) == ("1", str(whole["series"]["receiving"]))
    reported = dict(
        line.split("\t") for line in run("info", "CompressedSamples", "--root", "here", "--tsv").out.splitlines()
    )
    assert reported["studies.0.series"] == "1"


def test_a_wrong_configuration_is_lines_of_mistakes(run) -> None:
    Path("wrong.toml").write_text("[dicom]\nae_titel = 'X'\n")
    result = run("config", "check", "--config", "wrong.toml", "--tsv")
    assert result.status == 2
    assert result.out.splitlines()[0] == "kind\tdetail"
    assert "ae_titel: unknown key" in result.out


def test_names_of_the_configuration_are_completed(tmp_path: Path) -> None:
    config = tmp_path / "site.toml"
    config.write_text(
        '[peers.PACS]\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 104\n'
        '[hooks.mail]\nkind = "command"\non = ["study-quiet"]\ncommand = ["true"]\n'
    )
    whole = get_command(application())
    for words, option, offered in (
        (["peers", "send", "--config", str(config)], "to", ["PACS"]),
        (["peers", "find", "--config", str(config)], "source", ["PACS"]),
        (["peers", "echo", "--config", str(config)], "peer", ["PACS"]),
        (["hooks", "deliveries", "--config", str(config)], "hook", ["mail"]),
        (["peers", "send", "--config", str(tmp_path / "absent")], "to", []),
    ):
        assert _completed(whole, words, option) == offered


def _completed(command: Any, words: list[str], parameter: str) -> list[str]:
    context = None
    while getattr(command, "commands", {}):
        context = command.make_context(command.name, words, parent=context, resilient_parsing=True)
        command, words = command.commands[words[0]], words[1:]
    context = command.make_context(command.name, words, parent=context, resilient_parsing=True)
    [wanted] = [each for each in command.params if each.name == parameter]
    return [item.value for item in wanted.shell_complete(context, "")]


def help_pages(command: Any, path: str, parent: Any = None) -> Iterator[tuple[str, str, list[str]]]:
    """Yield each command with its help page, and the texts of its definition."""
    context = command.context_class(command, info_name=path.split()[-1], parent=parent)
    yield path, command.get_help(context), [command.help, *(p.help for p in command.params if getattr(p, "help", None))]
    for name, subcommand in getattr(command, "commands", {}).items():
        yield from help_pages(subcommand, f"{path} {name}", context)


def test_init_writes_a_valid_configuration_and_never_overwrites_one(run, tmp_path: Path) -> None:
    assert run("init", "site").status == 0
    file = tmp_path / "site" / "voxelnode.toml"
    assert tomllib.loads(file.read_text(encoding="utf-8"))
    assert run("config", "check", "--config", str(file)).status == 0
    assert (tmp_path / "voxelnode-data" / "objects").is_dir(), "the root of this configuration"
    lines = file.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 15
    every = Settings.model_validate(tomllib.loads("\n".join(re.sub("^#(?! )", "", line) for line in lines)))
    assert every.storage.root == tmp_path / "voxelnode-data", "from whatever folder it is named"
    others = every.model_copy(update={"peers": {}, "storage": Settings().storage})
    assert others == Settings(), "its other keys have their defaults"
    assert (every.peers["CT1"].ae_title, "store" in every.peers["CT1"].may) == ("CT1", True)
    file.write_text("[dicom]\nport = 104\n", encoding="utf-8")
    (tmp_path / "voxelnode-data" / "objects").rmdir()
    made = run("init", "site")
    assert (made.status, made.out.partition(";")[0]) == (0, "kept site/voxelnode.toml")
    again = run("init", "site")
    assert again.status == 2
    assert "already exists" in again.err
    assert file.read_text(encoding="utf-8") == "[dicom]\nport = 104\n"


def test_init_makes_the_root_that_it_is_given_and_names_it(run, tmp_path: Path) -> None:
    made = run("init", "site", "--root", "disk/root")
    assert made.status == 0
    assert f"the root is {tmp_path / 'disk' / 'root'}; next: voxelnode serve --config site/voxelnode.toml" in made.out
    values = tomllib.loads((tmp_path / "site" / "voxelnode.toml").read_text(encoding="utf-8"))
    assert values["storage"] == {"root": str(tmp_path / "disk" / "root")}
    assert [path.name for path in (tmp_path / "disk" / "root").iterdir()] == ["objects"]
    assert (tmp_path / "disk" / "root").stat().st_mode & 0o777 == 0o700


def test_show_names_the_origin_of_each_value(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "voxelnode.toml").write_text("[dicom]\nport = 104\n", encoding="utf-8")
    monkeypatch.setenv("VOXELNODE_SERIES__QUIET_SECONDS", "5")
    shown = json.loads(run("config", "show", "--json", "--root", "x").out)
    assert shown["file"] == "voxelnode.toml"
    assert shown["values"]["dicom.port"] == {"value": 104, "origin": "voxelnode.toml"}
    assert shown["values"]["series.quiet_seconds"] == {"value": 5.0, "origin": "environment"}
    assert shown["values"]["storage.root"] == {"value": "x", "origin": "--root"}
    assert shown["values"]["dicom.ae_title"] == {"value": "VOXELNODE", "origin": "default"}
    table = run("config", "show").out
    assert "environment" in table
    assert "quiet_seconds" in table


def test_check_lists_all_mistakes_also_as_json(run, tmp_path: Path) -> None:
    (tmp_path / "voxelnode.toml").write_text('[dicom]\nport = "x"\naet = "Y"\n', encoding="utf-8")
    text = run("config", "check")
    assert text.status == 2
    assert len(text.err.splitlines()) == 2
    as_json = run("config", "check", "--json")
    assert as_json.status == 2
    assert [f"voxelnode: {problem}" for problem in json.loads(as_json.out)["problems"]] == text.err.splitlines()


def test_the_example_is_printed_and_its_settings_are_reported_as_json(run) -> None:
    assert json.loads(run("config", "example", "--json").out)["properties"].keys() >= {"storage", "dicom"}
    assert tomllib.loads(run("config", "example").out).keys() >= {"storage", "dicom", "series", "convert", "log"}


@pytest.mark.sqlite("the file")
def test_the_database_is_found_created_and_checked(run, tmp_path: Path) -> None:
    database = tmp_path / "here" / "index.sqlite"
    assert run("db", "path", "--root", "here").out == f"{database}\n"
    assert json.loads(run("db", "path", "--root", "here", "--json").out) == {"path": str(database), "exists": False}
    missing = run("db", "check", "--root", "here")
    assert missing.status == 1
    assert "voxelnode serve --create" in missing.out
    done = json.loads(run("db", "upgrade", "--root", "here", "--json").out)
    assert (done["before"], done["after"] is None) == (None, False)
    assert "already at schema" in run("db", "upgrade", "--root", "here").out
    assert json.loads(run("db", "check", "--root", "here", "--json").out)["ok"]


def test_status_without_an_index_names_the_remedy(run) -> None:
    result = run("status", "--root", "nowhere")
    assert result.status == 1
    right = "is [index] url right?" if IN_POSTGRESQL else "is the root right? `voxelnode serve --create` makes"
    assert right in result.err


@pytest.mark.parametrize("command", [("journal", "status"), ("db", "rebuild")])
def test_a_root_that_is_not_there_is_refused_and_not_made(run, tmp_path: Path, command: tuple[str, ...]) -> None:
    result = run(*command, "--root", str(tmp_path / "rot"))
    assert (result.status, result.err) == (2, f"voxelnode: no folder {tmp_path / 'rot'}: is the root right?\n")
    assert not (tmp_path / "rot").exists()


def test_an_import_says_that_it_makes_a_root(run, tmp_path: Path) -> None:
    file, root = str(get_testdata_file("CT_small.dcm")), tmp_path / "rot"
    assert f"{root} would be a new root" in run("import", file, "--root", str(root), "--dry-run").err
    assert not root.exists()
    assert f"{root} is a new root" in run("import", file, "--root", str(root)).err
    assert run("import", file, "--root", str(root)).err == ""


def test_names_in_a_zip_file_reach_the_terminal_without_control_characters(run, tmp_path: Path) -> None:
    name = "\x1b[2J\x1b]0;evil\x07\u202e.txt"
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr(name, "no DICOM")
    for arguments in (["--dry-run"], []):
        status, out, err = run("import", str(tmp_path / "images.zip"), "--root", str(tmp_path / "root"), *arguments)
        assert (status, out.splitlines()[-1]) == (1, "no DICOM file was found")
        assert "evil" in out
        assert all(character.isprintable() or character == "\n" for character in out + err)


def test_echo_to_a_closed_port_fails_with_the_address(run) -> None:
    result = run("peers", "echo", "PACS@127.0.0.1:1", "--timeout", "2")
    assert result.status == 1
    assert "127.0.0.1" in result.err
    answer = json.loads(run("peers", "echo", "PACS@127.0.0.1:1", "--timeout", "2", "--json").out)
    assert (answer["ok"], answer["ae_title"], answer["port"]) == (False, "PACS", 1)


def test_the_doctor_finds_this_machine_fit_and_a_folder_that_is_not_ours_broken(run) -> None:
    make.saved([make.instance()], Path("one"))
    run("import", "one", "--root", "here")
    fit = run("doctor", "--root", "here", "--json")
    findings = json.loads(fit.out)["findings"]
    assert {"python", "sqlite", "decoder", "root", "disk", "index", "port", "clock"} <= {f["check"] for f in findings}
    decoders = [finding["found"].split()[:2] for finding in findings if finding["check"] == "decoder"]
    assert not [uid for uid, name in decoders if name.startswith(uid)], "a UID stands in the place of its name"
    assert fit.status == 0, [finding for finding in findings if finding["state"] == "broken"]
    sick = run("doctor", "--root", "/proc/voxelnode", "--json")
    assert sick.status == 1
    (finding,) = (f for f in json.loads(sick.out)["findings"] if f["check"] == "root")
    assert finding["state"] == "broken"
    assert finding["remedy"]
    *lines, last = run("doctor", "--root", "/proc/voxelnode").out.splitlines()
    assert "`voxelnode status`" in last
    states = [line.split()[0] for line in lines if line[0] != " "]
    assert states == sorted(states, key=["broken", "warning", "ok", "note"].index), "what is wrong stands first"


def test_an_unexpected_error_is_one_line(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.settings.tables.example_toml", lambda: 1 / 0)
    monkeypatch.delenv("VOXELNODE_TRACEBACK", raising=False)
    result = run("config", "example")
    assert result.status == 1
    assert result.err.startswith("voxelnode: unexpected ZeroDivisionError: division by zero (please report it")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "no more memory or threads"),
        (RuntimeError("can't start new thread"), "TasksMax="),
        (OSError(errno.EFBIG, "File too large", "root/journal"), "root/journal: File too large"),
        (OSError(errno.EFBIG, "File too large"), "LimitFSIZE="),
    ],
)
def test_an_error_of_a_limit_has_a_remedy(run, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    monkeypatch.setattr("node.settings.tables.example_toml", Mock(side_effect=error))
    monkeypatch.delenv("VOXELNODE_TRACEBACK", raising=False)
    result = run("config", "example")
    assert result.status == 1
    assert words in result.err
    assert "unexpected" not in result.err


def test_help_loads_no_library_that_only_the_work_needs() -> None:
    code = (
        "import sys; from node.cli.application import application; application(); "
        "heavy = {'pydicom', 'pynetdicom', 'numpy', 'sqlalchemy', 'alembic', 'nibabel', 'SimpleITK', 'pydantic'}; "
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []


def test_the_conformance_statement_has_the_values_of_the_configuration(run, tmp_path: Path) -> None:
    configuration = tmp_path / "voxelnode.toml"
    configuration.write_text('[dicom]\nae_title = "ARCHIVE1"\nmaximum_associations = 32\n', encoding="utf-8")
    done = run("conformance", "--json", "--config", str(configuration))
    sections = {section["title"]: section for section in json.loads(done.out)["sections"]}
    assert '"ARCHIVE1" Application Entity' in sections
    association = sections["General Association Parameters"]["tables"]["association"]
    assert {"Parameter": "Maximum number of associations as acceptor", "Value": "32"} in association
    assert "that of one site" in sections["Remarks"]["text"]


def test_a_listing_without_rows_is_a_line_for_people_and_nothing_for_programs(run) -> None:
    run("import", str(get_testdata_file("CT_small.dcm")), "--root", "here")
    assert run("series", "--root", "here", "--study", "1.2").out == "0 series\n"
    assert run("account", "list", "--root", "here").out == "0 accounts\n"
    assert run("series", "--root", "here", "--study", "1.2", "--tsv") == (0, "", "")


@pytest.mark.slow
def test_each_state_that_is_printed_of_a_series_selects_it(run, tmp_path: Path) -> None:
    past, future = "2020-01-01 00:00:00.000000", "9999-01-01 00:00:00.000000"
    values: dict[str, tuple[str | None, ...]] = {
        "waiting": ("receiving", None, None, past),
        "receiving": ("receiving", None, None, future),
        **{
            state: (state, "incomplete", "geometry", None)
            for state in STATES
            if state not in ("receiving", "converted")
        },
        "verified": ("converted", "complete", "mpps", None),
        "no gap seen": ("converted", "complete", "quiet", None),
        "suspect": ("converted", "suspect", "headers", None),
        "incomplete": ("converted", "incomplete", "geometry", None),
        "converted": ("converted", None, None, None),
    }
    assert set(values) == set(get_args(PrintedState))
    make.saved([make.ct_series(1, SeriesNumber=number)[0] for number in range(len(values))], tmp_path / "scans")
    run("import", "scans", "--root", "here")
    for number, (state, verdict, rule, due_at) in enumerate(values.values()):
        write_rows(
            tmp_path / "here",
            "UPDATE series SET state = :state, verdict = :verdict, verdict_rule = :rule, due_at = :due_at, "
            "verdict_reason = 'one is missing' WHERE series_number = :number",
            **{"state": state, "verdict": verdict, "rule": rule, "due_at": due_at, "number": number},
        )

    def printed(*options: str) -> set[str]:
        title, head, *lines = run("series", "--root", "here", *options).out.splitlines()
        return {line[: head.index("  no")].strip() for line in lines[: int(title.split()[0])]}

    assert printed() == set(values)
    of_converted = {name for name, row in values.items() if row[0] == "converted"}
    several = {"receiving": {"receiving", "waiting"}, "converted": of_converted}
    for state in values:
        assert printed("--state", state) == several.get(state, {state})
    for pair in (("incomplete", "suspect"), ("waiting", "failed")):
        assert printed("--state", pair[0], "--state", pair[1]) == {*pair}
    assert "one is missing" in run("series", "--root", "here", "--state", "suspect").out


def test_series_are_listed_by_patient_modality_and_day(run, tmp_path: Path) -> None:
    ct, mr = make.ct_series(1, PatientID="P1")[0], make.ct_series(1, PatientID="P2", Modality="MR")[0]
    make.saved([ct, mr], tmp_path / "scans")
    run("import", "scans", "--root", "here")
    day = dt.datetime.now().astimezone().date()

    def listed(*options: str) -> set[str]:
        return {
            row["patient_id"] for row in json.loads(run("series", "--root", "here", "--json", *options).out)["items"]
        }

    assert listed("--patient", "P1") == {"P1"}
    assert listed("--modality", "mr") == {"P2"}
    assert listed("--patient", "P1", "--modality", "MR") == set()
    assert listed("--since", f"{day - dt.timedelta(days=1)}") == {"P1", "P2"}
    assert listed("--since", f"{day + dt.timedelta(days=2)}") == set()


BOUNDED = {
    "series": ("series", ""),
    "select 'instances > 0'": ("series", ""),
    "audit": ("lines", ""),
    "rejections": (
        "refusals",
        "INSERT INTO rejections (what, rule, peer, calling_ae_title, called_ae_title, offered, reason, remedy, count, "
        "first_at, last_at) VALUES ('connection', 'TLS', '', :key, '', '', 'no TLS', 'use it', 1, :at, :at)",
    ),
    **{
        command: (
            noun,
            "INSERT INTO work (kind, name, destination, key, happened_at, requested_by, state, attempts, payload, "
            f"created_at, changed_at) VALUES ('{kind}', 'x', '', :key, :at, '', 'waiting', 0, '{{}}', :at, :at)",
        )
        for command, noun, kind in (
            ("hooks deliveries", "messages", "hook"), ("routes waiting", "messages", "route"),
            ("hooks jobs", "jobs", "job"),
        )
    },
    "worklist list": (
        "entries",
        "INSERT INTO scheduled_steps (source, source_key, attributes, state, created_at, changed_at) "
        "VALUES ('hl7', :key, '{}', 'SCHEDULED', :at, :at)",
    ),
    "worklist performed": (
        "steps",
        "INSERT INTO performed_steps (sop_instance_uid, state, series, instances, attributes, calling_ae_title, "
        "created_at, changed_at) VALUES (:key, 'IN PROGRESS', 0, 0, '{}', 'CT1', :at, :at)",
    ),
}  # fmt: skip
"""Lists that a limit cuts, with their nouns, and what adds a row to those that no import fills."""


@pytest.mark.parametrize("command", BOUNDED)
def test_a_list_says_how_many_rows_it_leaves_out(run, tmp_path: Path, command: str) -> None:
    noun, added = BOUNDED[command]
    for key in ("1", "2", "3"):
        make.saved(make.ct_series(1), tmp_path / key)
        run("import", key, "--root", "here")
        if added:
            write_rows(tmp_path / "here", added, key=key, at=f"2026-01-01 12:00:0{key}.000000")
    listed = (*shlex.split(command), "--root", "here")
    whole = json.loads(run(*listed, "--json").out)
    total = whole.get("total", whole.get("selected"))
    assert total >= 3
    assert run(*listed, "--json").err == "" == run(*listed, "--tsv").err
    for option in ("--limit", "--last"):
        assert "the newest 2" in run(*listed, option, "2").out.splitlines()[0]
    as_json, as_tsv = run(*listed, "--limit", "2", "--json"), run(*listed, "--limit", "2", "--tsv")
    cut = json.loads(as_json.out)
    assert (cut.get("total", cut.get("selected")), len(cut.get("items", cut.get("series")))) == (total, 2)
    assert len(as_tsv.out.splitlines()) == 3
    assert as_json.err == as_tsv.err
    assert as_tsv.err.endswith(f"the newest 2 of {total} {noun}; --limit N shows more\n")


def test_a_misspelt_hook_route_or_account_is_no_empty_list(run) -> None:
    run("import", str(get_testdata_file("CT_small.dcm")), "--root", "here")
    hook = run("hooks", "deliveries", "--hook", "mial", "--root", "here")
    assert hook == (2, "", "voxelnode: there is no hook 'mial'; none are configured\n")
    route = run("routes", "waiting", "nothing", "--root", "here")
    assert (route.status, "there is no route 'nothing'" in route.err) == (2, True)
    assert run("hooks", "deliveries", "--root", "here").out == "0 messages\n"
    sessions = run("account", "sessions", "nobody", "--root", "here")
    assert (sessions.status, "there is no account 'nobody'" in sessions.err) == (2, True)


SHORT = "/data: 61.0 GB free, but 140.0 GB are required (twice [storage] reserve_bytes); remove files from its disk"


def test_the_doctor_reports_a_short_disk_once_and_no_restart(run, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path("here").absolute()
    root.mkdir()
    with locked_root(root):
        write_counters({}, root, {"intake": SHORT})

        def of_node_and_disk() -> list[dict[str, Any]]:
            findings = json.loads(run("doctor", "--root", "here", "--json").out)["findings"]
            return [finding for finding in findings if finding["check"] in ("node", "disk")]

        [node] = (finding for finding in of_node_and_disk() if finding["check"] == "node")
        assert (node["state"], node["remedy"]) == ("broken", "free space on its disk; it resumes by itself")
        monkeypatch.setenv("VOXELNODE_STORAGE__RESERVE_BYTES", str(1 << 60))
        [disk] = of_node_and_disk()
        assert (disk["check"], disk["state"]) == ("disk", "broken")
        assert "are required (twice [storage] reserve_bytes)" in disk["found"]
        assert "restart" not in disk["remedy"]
        write_counters({}, root, {"intake": "intake has stopped: the disk failed"})
        [node] = (finding for finding in of_node_and_disk() if finding["check"] == "node")
        assert node["remedy"] == "see the log; restart the node"
        write_counters({}, root, {"apply": f"has failed 3 times in a row: {sqlite.lockers(root)}"})
        [node] = (finding for finding in of_node_and_disk() if finding["check"] == "node")
        assert "end that program" in node["remedy"]
        assert f"and {os.getpid()}, that of voxelnode itself" in node["found"]


@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE])
def test_a_disk_that_does_not_answer_is_reported_and_hides_nothing_else(
    run, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    run("import", str(get_testdata_file("CT_small.dcm")), "--root", "here")
    monkeypatch.setattr(os, "statvfs", Mock(side_effect=OSError(error, os.strerror(error), "here")))
    status = json.loads(run("status", "--root", "here", "--json").out)
    assert (os.strerror(error) in status["intake"], status["instances"]) == (True, 1)
    findings = json.loads(run("doctor", "--root", "here", "--json").out)["findings"]
    [disk] = (finding for finding in findings if finding["check"] == "disk")
    assert (disk["state"], disk["remedy"]) == ("broken", "check disk, mount and owner")
    assert "clock" in {finding["check"] for finding in findings}


def test_status_says_that_a_node_is_starting_while_the_root_is_locked(run) -> None:
    run("import", str(get_testdata_file("CT_small.dcm")), "--root", "here")
    assert json.loads(run("status", "--root", "here", "--json").out)["ready"] == "no node is running"
    with locked_root(Path("here").absolute()):
        ready = json.loads(run("status", "--root", "here", "--json").out)["ready"]
    assert ready == "not yet: the node is starting, or a command works on the root"


@pytest.mark.slow
def test_info_names_a_study_in_the_trash_of_a_patient_that_has_others(run, tmp_path: Path) -> None:
    studies = [make.ct_series(1, PatientID="ID-7", PatientName="Trash^Tom")[0] for _ in range(3)]
    make.saved(studies, tmp_path / "scans")
    assert run("import", "scans").status == 0
    assert run("delete", str(studies[0].StudyInstanceUID), "--yes").status == 0
    for sought in ("ID-7", "tom"):
        found = run("info", sought).out
        assert f"study {studies[1].StudyInstanceUID}" in found
        assert "in the trash: `voxelnode trash restore NUMBER`" in found
        assert re.search(rf"(?m)^ +1  study  {studies[0].StudyInstanceUID} ", found), found
        [row] = json.loads(run("info", sought, "--json").out)["trash"]
        assert row["uid"] == studies[0].StudyInstanceUID
    [command] = re.findall("`voxelnode (.+)`", run("delete", "--patient", "ID-7", "--yes").out)
    assert command == "trash restore 2 3"
    assert run(*command.split()) == (0, "2 instances brought back; 0 had come again\n", "")


def test_what_lists_does_so_with_and_without_the_word_list(run) -> None:
    run("import", str(get_testdata_file("CT_small.dcm")), "--root", "here")
    for group in ("trash", "quarantine", "lost", "conflicts", "retention"):
        alone, with_word = run(group), run(group, "list")
        assert alone == with_word, group
        for result in (run(group, "--root", "here"), run(group, "list", "--root", "here")):
            assert result.status == 0, (group, result)
    assert run("trash", "list", "--root", "here").out == "the trash is empty\n"
    assert run("quarantine", "list", "--root", "here", "--json").out == "[]\n"
    assert "No such command 'lsit'" in run("trash", "lsit").err
