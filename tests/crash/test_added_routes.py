"""A node that is killed while a route is changed has the old route or the new one, and sends by it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from node.association.client.send import send_files
from node.failpoints import CHANGING, VARIABLE
from tests import make
from tests.acceptance.served import Served, until
from tests.preloaded import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.mark.parametrize("point", CHANGING)
def test_a_kill_leaves_the_old_route_or_the_new_one(tmp_path: Path, point: str) -> None:
    folders = {name: tmp_path / name for name in ("old", "new")}
    config = tmp_path / "voxelnode.toml"
    for folder in folders.values():
        folder.mkdir()
    config.write_text("\n".join(f"[destinations.{name}]\nfolder = '{path}'" for name, path in folders.items()))
    root, settings = tmp_path / "root", {"VOXELNODE_CONFIG": str(config)}
    where = ("--root", root)
    night = ("routes", "set", "night", "when=instance-stored")
    file = tmp_path / "image.dcm"
    [image] = make.ct_series(1)
    image.save_as(file, enforce_file_format=True)
    with Served(root, **settings):
        run(*night, "to=old", *where, environment=settings, check=True)
    with Served(root, **settings, **{VARIABLE: point}) as node:
        assert run(*night, "to=new", *where, environment=settings).returncode != 0
        assert node.process is not None
        assert node.process.wait(60) == -9
    with Served(root, **settings) as node:
        listed = json.loads(run("routes", "list", "--json", *where, environment=settings, check=True).stdout)
        [to] = [row["destination"] for row in listed if row["route"] == "night"]
        assert to == ("old" if point == "change-ordered" else "new")
        send_files([file], node.address, "ANY")
        until(lambda: list(folders[to].rglob("*.dcm")), 60, "the next instance by the route that is there")
        until(lambda: node.rows("SELECT 1 FROM v_routes WHERE route = 'night' AND delivered = 1"), 60, "recorded")
        assert node.terminate() == 0
    assert [name for name, path in folders.items() if list(path.rglob("*.dcm"))] == [to]
    kept = [json.loads(line) for line in (root / "audit.jsonl").read_text().splitlines()]
    orders = [line["detail"] for line in kept if "route night" in line.get("detail", "") and '"new"' in line["detail"]]
    assert len(orders) == (1 if point == "change-ordered" else 2), "the log says what was ordered"
