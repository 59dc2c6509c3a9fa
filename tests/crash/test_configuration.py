"""A node that is killed while its configuration changes has the old file or the new one, and works by it."""

import json
from pathlib import Path

import pytest

from node.association.client.send import send_files
from node.control.configuration import pages_file
from node.runtime.failpoints import CHANGING, VARIABLE
from node.settings.load import load
from tests import make
from tests.acceptance.served import Served, until
from tests.preloaded import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

BEFORE = ("change-ordered", "configuration-written")


@pytest.mark.sample(0, 3)
@pytest.mark.parametrize("point", CHANGING)
def test_a_kill_leaves_the_old_route_or_the_new_one(tmp_path: Path, point: str) -> None:
    folders = {name: tmp_path / name for name in ("old", "new")}
    config = tmp_path / "voxelnode.toml"
    for folder in folders.values():
        folder.mkdir()
    config.write_text(
        "\n".join(f"[destinations.{name}]\nkind = 'folder'\nfolder = '{path}'" for name, path in folders.items())
    )
    root, settings = tmp_path / "root", {"VOXELNODE_CONFIG": str(config)}
    where = ("--root", root)
    night = ("routes", "set", "night", "when=instance-stored")
    file = tmp_path / "image.dcm"
    [image] = make.ct_series(1)
    image.save_as(file, enforce_file_format=True)
    with Served(root, **settings):
        run(*night, "to=old", *where, environment=settings, check=True)
    text = pages_file(root).read_text().replace("to = ", "# the archive\nto = ")
    pages_file(root).write_text(text)
    with Served(root, **settings, **{VARIABLE: point}) as node:
        assert run(*night, "to=new", *where, environment=settings).returncode != 0
        assert node.process.wait(60) == -9
    to = "old" if point in BEFORE else "new"
    assert pages_file(root).read_text() == text.replace("old", to)
    assert load(config, {"storage.root": root}).routes["night"].to == (to,)
    with Served(root, **settings) as node:
        listed = json.loads(run("routes", "list", "--json", *where, environment=settings, check=True).stdout)
        assert [row["destination"] for row in listed if row["route"] == "night"] == [to]
        send_files([file], node.address, "ANY")
        until(lambda: list(folders[to].rglob("*.dcm")), 60, "the next instance by the route that is there")
        until(lambda: node.rows("SELECT 1 FROM v_routes WHERE route = 'night' AND delivered = 1"), 60, "recorded")
        run(*night, "to=new", *where, environment=settings, check=True)  # over what the kill has left
        assert node.terminate() == 0
    lines = [json.loads(line).get("detail", "") for line in (root / "audit.jsonl").read_text().splitlines()]
    orders = [line for line in lines if "[routes.night]" in line and '"new"' in line]
    assert len(orders) == (3 if point in (*BEFORE, "configuration-renamed") else 4), "the log says what was ordered"
    assert [path.name for path in pages_file(root).parent.iterdir()] == ["90-pages.toml"]
