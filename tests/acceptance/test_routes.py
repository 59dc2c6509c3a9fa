"""A served node forwards each instance at least once and in order, whoever is killed meanwhile."""

import json
import re
from pathlib import Path

import pytest

from node.association.client.send import send_files
from tests import make
from tests.acceptance.served import Served, until
from tests.peers import Pacs
from tests.preloaded import FIRST_WAIT, run

pytestmark = pytest.mark.timeout(240)


@pytest.mark.sample(0, 1)
@pytest.mark.parametrize("how", ["sent again", "put back"])
def test_what_damage_kept_from_a_destination_is_sent_once_the_file_is_whole(tmp_path: Path, how: str) -> None:
    path, config = tmp_path / "sent.dcm", tmp_path / "voxelnode.toml"
    [ds] = make.ct_series(1)
    ds.save_as(path, enforce_file_format=True)
    scrub_days = 1e-7 if how == "put back" else 0  # else the route alone meets the damage, and marks it
    given_up = "SELECT 1 FROM v_route_messages WHERE state = 'given-up'"
    with Pacs() as pacs:
        pacs.answer = lambda uid: 0xA700
        config.write_text(
            f'[storage]\nscrub_days = {scrub_days}\n[peers.SENDER]\nae_title = "SENDER"\n'
            f'[peers.PACS]\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {pacs.port}\n'
            '[routes.now]\nwhen = "instance-stored"\nto = ["PACS"]\n'
        )
        settings = {"VOXELNODE_CONFIG": str(config), "VOXELNODE_DICOM__HOST": "127.0.0.1", FIRST_WAIT: "0.2"}
        settings["VOXELNODE_SERIES__QUIET_SECONDS"] = "3600"
        with Served(tmp_path / "root", **settings) as node:
            send_files([path], node.address, "SENDER")
            [row] = node.rows("SELECT path FROM v_images")
            assert node.terminate() == 0  # the start after a kill would write the file again from the journal
        content = Path(row["path"]).read_bytes()
        Path(row["path"]).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        pacs.forget()
        with Served(tmp_path / "root", **settings) as node:
            until(lambda: node.rows(given_up), 30, "the damaged instance is not sent")
            until(lambda: node.rows("SELECT 1 FROM v_images WHERE file_missing"), 30, "the damage is marked")
            assert not pacs.taken
            if how == "sent again":
                send_files([path], node.address, "SENDER")
            else:
                Path(row["path"]).write_bytes(content)
            until(lambda: pacs.taken, 30, "the destination has the instance")
            until(lambda: not node.rows(given_up), 30, "nothing is given up any more")


@pytest.mark.slow
def test_of_a_destination_that_is_down_every_command_tells_the_same_number(tmp_path: Path) -> None:
    series, config = make.ct_series(2), tmp_path / "voxelnode.toml"
    paths = make.saved(series, tmp_path / "scans")
    config.write_text(
        '[peers.SENDER]\nae_title = "SENDER"\n[peers.PACS]\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 1\n'
        '[routes.archive]\nto = ["PACS"]\n'
    )
    settings = {"VOXELNODE_CONFIG": str(config), "VOXELNODE_DICOM__HOST": "127.0.0.1", FIRST_WAIT: "60"}
    held = "SELECT * FROM v_routes WHERE trouble IS NOT NULL AND coalesce(series_behind, 0) + waiting > 0"

    def told(*command: str) -> str:
        done = run(*command, "--root", tmp_path / "root", environment=settings)
        return done.stdout + done.stderr

    with Served(tmp_path / "root", **settings) as node:
        send_files(paths, node.address, "SENDER")
        until(lambda: node.rows(held), 30, "the destination is held")
        node.wait_until_idle()
        [row] = node.rows(held)
        waiting = "1 series not looked at yet" if row["series_behind"] else f"{row['waiting']} waiting"
        listed = json.loads(told("routes", "list", "--json"))
        assert [one["destination"] for one in listed] == ["PACS"]
        columns = rf"  {row['waiting']} +{'1 series' if row['series_behind'] else ''} +0 +0  [-0-9: ]+UTC$"
        assert re.search(columns, told("routes", "list"), re.MULTILINE), told("routes", "list")
        assert f"1 destination stuck, {waiting}: voxelnode routes list" in told("status")
        if row["series_behind"]:
            [row] = node.rows("SELECT series_instance_uid FROM v_series")
            assert "archive > PACS: 1 series not looked at yet; since " in told("routes", "waiting")
            assert row["series_instance_uid"] in told("routes", "waiting")
        assert re.search(
            r"^ *route +destination +sent +as +confirmed +messages waiting +given up +reason\n *archive +PACS +0 +0 ",
            told("info", series[0].StudyInstanceUID),
            re.MULTILINE,
        )
        assert told("routes", "retry", "archive") == f"{waiting}: tried again now, or by the next start\n"
