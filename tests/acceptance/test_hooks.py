"""A served node tells hooks what happens: after the commit, never before, and at least once whatever kills it."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests import make
from tests.acceptance.served import Served, send, until
from tests.preloaded import run
from tests.receivers import Answer, Received, Receiver, with_kind

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def hook(name: str, on: tuple[str, ...], **keys: Any) -> dict[str, str]:
    """The environment that configures a hook."""
    values = {
        key: one if isinstance(one, str) else json.dumps(one) for key, one in with_kind({"on": on, **keys}).items()
    }
    return {f"VOXELNODE_HOOKS__{name}__{key.upper()}": value for key, value in values.items()}


def test_files_and_rows_of_a_message_exist_when_a_webhook_receives_it(tmp_path: Path) -> None:
    series = make.ct_series(4)
    found: list[str] = []

    def look(received: Received) -> Answer:
        """What the one who is told finds on the disk and in the index."""
        for volume in received.content["volumes"]:
            size = Path(volume["path"]).stat().st_size
            [row] = node.rows(f"SELECT bytes FROM v_volumes WHERE path = '{volume['path']}'")
            with urlopen(f"{web}{volume['url']}", timeout=10) as answer:
                digest = hashlib.sha256(answer.read()).hexdigest()
            is_right = size == row["bytes"] == volume["bytes"] and digest == volume["sha256"]
            found.append(f"{volume['format']} {is_right}")
        if received.content["instance"] is not None:
            uid = received.content["sop_instance_uid"]
            [row] = node.rows(f"SELECT path FROM v_images WHERE sop_instance_uid = '{uid}'")
            found.append(
                f"instance {Path(row['path']).exists() and row['path'] == received.content['instance']['path']}"
            )
        return Answer()

    with Receiver(look) as receiver:
        on = ("instance-stored", "series-quiet", "volume-written", "study-quiet")
        settings = hook("pipeline", on, url=receiver.url) | {"VOXELNODE_SERIES__STUDY_QUIET_SECONDS": "1"}
        with Served(tmp_path / "root", **settings) as node:
            web = re.findall(r"http://\S+\d", node.process.stdout.readline())[0]
            send(node.port, *series)
            reported = receiver.wait_for(7, 120)
            assert node.terminate() == 0
    assert [one.content["event"] for one in reported] == [
        *["instance-stored"] * 4, "series-quiet", "volume-written", "study-quiet"
    ]  # fmt: skip
    files = ["nifti True", "mhd True", "png True"]  # the message that the series is quiet may go when they are there
    assert found in (["instance True"] * 4 + files, ["instance True"] * 4 + files * 2)


def test_a_message_that_was_given_up_is_retried_by_the_running_node_on_command(tmp_path: Path) -> None:
    works = tmp_path / "works"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho no licence\ntest -e {works}\n")
    program.chmod(0o700)
    settings = hook("one", ("series-quiet",), command=[str(program)], attempts=1)
    with Served(tmp_path / "root", **settings) as node:
        send(node.port, *make.ct_series(1))
        until(lambda: node.rows("SELECT 1 FROM v_deliveries WHERE state = 'given-up'"), 60, "the failure")
        told = run("status", "--root", node.root, environment=settings, check=True).stdout
        assert "1 hook stuck, 1 given up: voxelnode hooks list" in told
        works.touch()
        why, retry = ("deliveries", "--hook", "one", "--state", "given-up"), ("retry", "one")
        for command, says in ((why, "it printed: no licence"), (retry, "1 message waiting for another attempt\n")):
            assert says in run("hooks", *command, "--root", node.root, environment=settings, check=True).stdout
        until(lambda: node.rows("SELECT 1 FROM v_deliveries WHERE state = 'delivered'"), 30, "the second try")


def test_a_test_message_names_files_that_exist() -> None:
    found: list[tuple[str, bool, bool]] = []

    def look(received: Received) -> Answer:
        content = received.content
        path = content["instance"]["path"] if content["instance"] else content["volumes"][0]["path"]
        found.append((content["event"], content["test"], Path(path).is_file()))
        return Answer()

    with Receiver(look) as receiver:
        settings = hook("one", ("volume-written", "instance-stored"), url=receiver.url)
        for event in ("volume-written", "instance-stored"):
            done = run("hooks", "test", "one", "--event", event, "--json", environment=settings, check=True)
            message = json.loads(done.stdout)["message"]
            assert message["modality"] == "CT"
    assert found == [("volume-written", True, True), ("instance-stored", True, True)]
    assert not Path(message["instance"]["path"]).exists()


@pytest.mark.long
def test_a_replay_sends_what_is_here_with_the_ids_of_the_events(tmp_path: Path) -> None:
    small, large = make.ct_series(2), make.ct_series(4)
    with Served(tmp_path / "root") as node:
        for series in (small, large):
            send(node.port, *series)
        until(lambda: len(node.rows("SELECT 1 FROM v_series WHERE state = 'converted'")) == 2, 60, "two conversions")
        assert node.terminate() == 0
    with Receiver() as receiver:
        settings = hook("one", ("volume-written",), url=receiver.url, where={"slices": ">=3"})
        uid = large[0].SeriesInstanceUID
        options = ("--root", tmp_path / "root", "--json")

        def replay(*more: str, where: str = "slices >= 4") -> dict[str, Any]:
            done = run("hooks", "replay", "one", "--where", where, *more, *options, environment=settings)
            assert done.returncode == 0, done.stderr
            return dict(json.loads(done.stdout))

        tried = run("hooks", "test", "one", "--series", uid, *options, environment=settings, check=True)
        assert Path(json.loads(tried.stdout)["message"]["volumes"][0]["path"]).is_file()
        assert len(replay("--dry-run")["queued"]) == 0
        left_out = replay(where="slices < 4")
        assert (left_out["series"], left_out["queued"], left_out["filtered_out"]) == (1, [], 1)
        [queued] = replay()["queued"]
        assert replay()["waiting"] == 1
        with Served(tmp_path / "root", **settings) as node:
            receiver.wait_for(2, 60)
            until(lambda: node.rows("SELECT 1 FROM v_deliveries WHERE state = 'delivered'") != [], 60, "the outcome")
            assert replay()["delivered"] == 1
            assert replay("--again")["queued"] == [queued]
            reported = receiver.wait_for(3, 60)
            assert node.terminate() == 0
    assert [one.content["id"] for one in reported[1:]] == [queued, queued]
    assert [one.content["series_instance_uid"] for one in reported] == [uid] * 3
    assert [one.content["test"] for one in reported] == [True, False, False]
