"""Plugins as hooks: a real package with an entry point, in a child process that may raise, hang or die."""

import datetime as dt
import json
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from textwrap import dedent, indent

import pytest

from node.api import HookMessage, Interrupted, NotDelivered, UsageError
from node.extensions.channels.plugins import Plugin
from tests.messages import sample

NEVER = threading.Event()

Install = Callable[..., Path]


def message(event: str = "volume-written") -> HookMessage:
    return sample(event, "VOXELNODE", dt.datetime(2026, 1, 1, tzinfo=dt.UTC))  # type: ignore[arg-type]


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
