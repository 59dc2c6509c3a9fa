"""A node that is killed while a hook, or a rule of retention, is changed has the old one or the new one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from node.association.client.send import send_files
from node.failpoints import CHANGING, VARIABLE
from tests import make
from tests.acceptance.served import Served, until
from tests.preloaded import run
from tests.receivers import Receiver

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.mark.parametrize("point", CHANGING)
def test_a_kill_leaves_the_old_hook_or_the_new_one(tmp_path: Path, point: str) -> None:
    root = tmp_path / "root"
    settings = {"VOXELNODE_WEB__HOOK_NETWORKS": '["127.0.0.1"]'}
    file = tmp_path / "image.dcm"
    [image] = make.ct_series(1)
    image.save_as(file, enforce_file_format=True)
    with Receiver() as receiver:

        def set_hook(path: str) -> int:
            hook = ("hooks", "set", "mail", "on=instance-stored", f"url={receiver.url}/{path}", "--root", root)
            return int(run(*hook, environment=settings).returncode)

        with Served(root, **settings):
            assert set_hook("old") == 0
        with Served(root, **settings, **{VARIABLE: point}) as node:
            assert set_hook("new") != 0
            assert node.process is not None
            assert node.process.wait(60) == -9
        with Served(root, **settings) as node:
            path = "old" if point == "change-ordered" else "new"
            listed = json.loads(run("hooks", "list", "--json", "--root", root, environment=settings, check=True).stdout)
            assert [row["by"] for row in listed] == [f"{receiver.url}/{path}"]
            send_files([file], node.address, "ANY")
            [told] = receiver.wait_for(1)
            assert told.request == f"POST /told/{path}"
            until(lambda: node.rows("SELECT 1 FROM v_hooks WHERE delivered = 1"), 60, "recorded")
            assert node.terminate() == 0


@pytest.mark.parametrize("point", ["change-ordered", "change-committed"])
def test_a_kill_leaves_the_old_rules_or_the_new_ones(tmp_path: Path, point: str) -> None:
    root = tmp_path / "root"

    def set_days(days: int) -> int:
        return int(run("retention", "set", f"days={days}", "--root", root).returncode)

    with Served(root):
        assert set_days(90) == 0
    with Served(root, **{VARIABLE: point}) as node:
        assert set_days(30) != 0
        assert node.process is not None
        assert node.process.wait(60) == -9
    with Served(root) as node:
        [row] = node.rows("SELECT settings FROM added_retention")
        assert json.loads(row["settings"])["rules"] == {"days": 90 if point == "change-ordered" else 30}
        assert node.terminate() == 0
