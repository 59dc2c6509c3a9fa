"""What a hook runs: a command with the message as its input, or a plugin in a process of its own."""

import datetime as dt
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from textwrap import dedent, indent
from time import monotonic

import pytest

from node.api import HookMessage, Interrupted, NotDelivered
from node.errors import UsageError, with_last_line
from node.extensions.channels.command import OUTPUT_BYTES, HookCommand
from node.extensions.channels.plugins import Plugin
from tests.messages import sample
from tests.waiting import within

NEVER = threading.Event()
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def message(event: str = "volume-written", **content: object) -> HookMessage:
    return HookMessage({**sample(event, "VOXELNODE", NOW).content, **content})  # type: ignore[arg-type]


def python(code: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code, *arguments)


def run(command: Sequence[str], reported: HookMessage | None = None, seconds: float = 30) -> str | None:
    return HookCommand(command, seconds).deliver(reported or message(), NEVER).output


def test_placeholders_become_whole_arguments_without_a_shell() -> None:
    code = "import json, sys; print(json.dumps(sys.argv[1:]))"
    arguments = (
        "{study_instance_uid}",
        "--to={series_instance_uid}/{revision}",
        "{path}",
        "{folder}",
        "$(id) {x y}; *",
    )
    output = run(python(code, *arguments))
    assert json.loads(output) == [
        "1.2.3", "--to=1.2.3.4/1", "/nowhere/1/1.nii.gz", "/nowhere/1", "$(id) {x y}; *"
    ]  # fmt: skip


def test_the_message_is_the_standard_input() -> None:
    reported = message(detail="x" * 1_000_000)  # more than a pipe holds
    assert run(python("import json, sys; print(len(json.load(sys.stdin)['detail']))"), reported) == "1000000"


def test_a_program_that_does_not_read_its_input_succeeds_all_the_same() -> None:
    assert run(("true",), message(detail="x" * 1_000_000)) is None


def test_the_environment_holds_what_happened_and_no_secret_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOXELNODE_STORAGE__ROOT", "/secret")
    monkeypatch.setenv("DATABASE_PASSWORD", "secret")
    environment = json.loads(run(python("import json, os; print(json.dumps(dict(os.environ)))")))
    assert {name: value for name, value in environment.items() if name.startswith("VOXELNODE")} == {
        "VOXELNODE_HOOK_ID": message().id,
        "VOXELNODE_HOOK_EVENT": "volume-written",
        "VOXELNODE_HOOK_STUDY_INSTANCE_UID": "1.2.3",
        "VOXELNODE_HOOK_SERIES_INSTANCE_UID": "1.2.3.4",
        "VOXELNODE_HOOK_REVISION": "1",
        "VOXELNODE_HOOK_PATH": "/nowhere/1/1.nii.gz",
        "VOXELNODE_HOOK_FOLDER": "/nowhere/1",
    }
    assert "DATABASE_PASSWORD" not in environment


@pytest.mark.parametrize(
    "uid", ["--config=/etc/passwd", "1.2;reboot", "$(reboot)", "1.2'", "../../x", "{path}", "`id`"]
)
def test_a_uid_that_is_none_never_reaches_a_command_line(uid: str) -> None:
    with pytest.raises(NotDelivered, match="kept off the command line") as failure:
        run(("true", "--study={study_instance_uid}"), message(study_instance_uid=uid))
    assert failure.value.is_final
    assert run(("true",), message(study_instance_uid=uid)) is None


def test_a_message_without_the_file_that_a_command_wants_is_given_up() -> None:
    with pytest.raises(NotDelivered, match=r"\{path\} has no value") as failure:
        run(("true", "{path}"), message(volumes=[]))
    assert failure.value.is_final


def test_another_exit_status_than_0_is_a_failure_and_keeps_the_end_of_the_output() -> None:
    with pytest.raises(NotDelivered, match="exit status 3") as failure:
        run(python("import sys; print('a' * 100000); print('patient Nemo', file=sys.stderr); sys.exit(3)"))
    assert failure.value.output.endswith("patient Nemo")
    assert len(failure.value.output) <= OUTPUT_BYTES
    assert "Nemo" not in str(failure.value)


def test_a_program_that_a_signal_ends_has_failed() -> None:
    """What it printed is kept, though Python would not have written it yet."""
    with pytest.raises(NotDelivered, match="killed by SIGKILL") as failure:
        run(python("import os; print('half done'); os.kill(os.getpid(), 9)"))
    assert failure.value.output == "half done"


def test_the_last_line_of_a_failure_is_that_of_its_errors() -> None:
    """A program that keeps its output in a buffer writes it last."""
    code = "import os, sys; os.write(2, b'CUDA out of memory\\n'); os.write(1, b'step 3 of 9\\n'); sys.exit(1)"
    with pytest.raises(NotDelivered, match="exit status 1") as failure:
        run(python(code))
    assert failure.value.output == "step 3 of 9\nCUDA out of memory"
    assert with_last_line(str(failure.value), failure.value.output) == "exit status 1; it printed: CUDA out of memory"


def test_a_setting_of_the_node_for_buffers_is_that_of_its_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    for value, expected in ((None, "1"), ("", "")):
        if value is not None:
            monkeypatch.setenv("PYTHONUNBUFFERED", value)
        assert run(python("import json, os; print(json.dumps(os.environ['PYTHONUNBUFFERED']))")) == json.dumps(expected)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_program_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    code = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "print('begun', flush=True)\n"
        "time.sleep(600)\n"
    )
    with pytest.raises(NotDelivered, match="did not finish within 2 s") as failure:
        run(python(code), seconds=2)
    assert failure.value.output == "begun"
    processes = [int(process) for process in (tmp_path / "pids").read_text().split()]
    assert within(10, lambda: not any(map(alive, processes)))


def test_what_a_program_leaves_in_the_background_holds_nobody_up() -> None:
    code = (
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '20'], start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
    )
    started = monotonic()
    output = run(python(code))
    assert monotonic() - started < 15
    os.kill(int(output), 9)


def test_a_stop_of_the_node_ends_the_program() -> None:
    cancelled = threading.Event()
    threading.Timer(0.3, cancelled.set).start()
    with pytest.raises(Interrupted):
        HookCommand(("sleep", "600"), 600).deliver(message(), cancelled)


@pytest.mark.parametrize("program", ["no-such-program-anywhere", "/etc/passwd", "./relative"])
def test_a_program_that_is_not_there_stops_the_start(program: str) -> None:
    with pytest.raises(UsageError, match="is not an executable file"):
        HookCommand((program,), 10)


def test_a_program_that_has_gone_since_is_a_failure(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    command = HookCommand((str(program),), 10)
    program.write_text("exit 0\n")
    with pytest.raises(NotDelivered, match="Exec format error: its first line must be"):
        command.deliver(message(), NEVER)
    program.unlink()
    with pytest.raises(NotDelivered, match=r"cannot be run: No such file or directory$"):
        command.deliver(message(), NEVER)


# Plugins as hooks: a real package with an entry point, in a child process that may raise, hang or die.


Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a package as pip would: its module and its entry points; returns the folder that it may write to."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install_(body: str, function: str = "volume_written", name: str = "recorder") -> Path:
        module = f"{name}_plugin"
        (tmp_path / f"{module}.py").write_text(
            "import os, sys, time\nfrom pathlib import Path\nimport pluggy\n"
            "hookimpl = pluggy.HookimplMarker('voxelnode')\n"
            f"HERE = Path({str(tmp_path)!r})\n"
            f"@hookimpl\ndef {function}(event):\n{indent(dedent(body), '    ')}\n"
        )
        information = tmp_path / f"{module}-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text(f"[voxelnode.plugins]\n{name} = {module}\n")
        return tmp_path

    return install_


@pytest.mark.slow
def test_a_plugin_gets_the_message(install: Install) -> None:
    folder = install(
        """
        import json
        with open(HERE / "told", "a") as file:
            print(json.dumps({"pid": os.getpid(), "event": event}), file=file)
        print("Nemo^Captain")
        """
    )
    with closing(Plugin("recorder", 30)) as plugin:
        plugin.deliver(message(), NEVER)
        plugin.deliver(message(), NEVER)
    lines = [json.loads(line) for line in (folder / "told").read_text().splitlines()]
    assert [line["event"] for line in lines] == [message().content] * 2
    assert len({line["pid"] for line in lines}) == 1  # one child serves many messages


@pytest.mark.sample(0, 1)
@pytest.mark.parametrize(
    ("body", "function", "reported"),
    [
        (
            'raise ValueError("Nemo^Captain")',
            "volume_written",
            "^ValueError at volume_written, line 8 of recorder_plugin.py$",
        ),
        ("os._exit(7)", "volume_written", "the process of the plugin exited with status 7"),
        ("pass", "study_quiet", "has no function volume_written"),
        ("pass", "volume_wirtten", "PluginValidationError"),
    ],
    ids=[
        "raises, and its text is not told",
        "ends its process",
        "has no such function",
        "has one that is in no specification",
    ],
)
def test_a_plugin_has_failed_that(install: Install, body: str, function: str, reported: str) -> None:
    install(body, function)
    with closing(Plugin("recorder", 30)) as plugin:
        with pytest.raises(NotDelivered, match=reported):
            plugin.deliver(message(), NEVER)
        if function == "study_quiet":
            plugin.deliver(message("study-quiet"), NEVER)


@pytest.mark.slow
def test_a_plugin_that_hangs_is_ended_and_gets_the_next_message_in_a_new_process(install: Install) -> None:
    folder = install(
        """
        if not (HERE / "once").exists():
            (HERE / "once").touch()
            time.sleep(600)
        (HERE / "done").touch()
        """
    )
    with closing(Plugin("recorder", 1)) as plugin:  # less than a process takes to start
        with pytest.raises(NotDelivered, match="did not return within 1 s"):
            plugin.deliver(message(), NEVER)
        assert (folder / "once").exists()
        plugin.deliver(message(), NEVER)
    assert (folder / "done").exists()


def test_a_stop_of_the_node_ends_the_plugin(install: Install) -> None:
    install("time.sleep(600)")
    cancelled = threading.Event()
    threading.Timer(0.3, cancelled.set).start()
    with closing(Plugin("recorder", 600)) as plugin, pytest.raises(Interrupted):
        plugin.deliver(message(), cancelled)


def test_a_plugin_that_is_not_installed_stops_the_start(install: Install) -> None:
    install("pass", name="another")
    with pytest.raises(UsageError, match=r"no entry point .recorder.*installed: another"):
        Plugin("recorder", 30)
