"""A served node forwards each instance at least once and in order, whoever is killed meanwhile."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from node.association.client.send import send_files
from node.failpoints import VARIABLE
from tests import make
from tests.acceptance.served import Served, until
from tests.peers import Pacs
from tests.preloaded import FIRST_WAIT, run
from tests.programs import free_port, needs

pytestmark = pytest.mark.timeout(240)


@pytest.mark.slow
def test_each_instance_arrives_in_order_whoever_is_killed(tmp_path: Path) -> None:
    storescp, kept, port = needs("storescp"), tmp_path / "kept", free_port()
    kept.mkdir()

    def destination() -> subprocess.Popen[bytes]:
        command = [storescp, "-od", str(kept), str(port)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    series = [make.ct_series(6), make.ct_series(6)]
    files = []
    for number, ds in enumerate(one for pair in zip(*series, strict=True) for one in pair):
        files.append(tmp_path / f"{number:02}.dcm")
        ds.save_as(files[-1], enforce_file_format=True)
    sent = [[str(ds.SOPInstanceUID) for ds in one] for one in series]
    with Pacs() as pacs:
        peers = {
            "SENDER": {"ae_title": "SENDER"},
            "PACS": {"ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port},
            "KEEP": {"ae_title": "KEEP", "host": "127.0.0.1", "port": port},
        }
        routes = {
            "now": {"when": "instance-stored", "to": ["PACS"]},
            "whole": {"when": "series-quiet", "to": ["KEEP"]},
        }
        config = tmp_path / "voxelnode.toml"
        config.write_text(
            "\n".join(
                f"[{table}.{name}]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())
                for table, named in (("peers", peers), ("routes", routes))
                for name, keys in named.items()
            )
        )
        settings = {"VOXELNODE_CONFIG": str(config), "VOXELNODE_DICOM__HOST": "127.0.0.1", FIRST_WAIT: "0.3"}
        with Served(tmp_path / "root", **settings, **{VARIABLE: "instance-forwarded:5"}) as node:
            send_files(files, node.address, "SENDER")
            assert node.process is not None
            assert node.process.wait(60) == -9
        assert 5 <= len(pacs.taken) < 12
        with Served(tmp_path / "root", **settings) as node:
            until(lambda: len(set(pacs.taken)) == 12, 60, "the rest after the restart")
            until(lambda: node.rows("SELECT 1 FROM v_routes WHERE trouble LIKE '%does not answer%'"), 60, "it is down")
            listed = json.loads(
                run("routes", "list", "--json", "--root", node.root, environment=settings, check=True).stdout
            )
            assert {row["route"]: bool(row["trouble"]) for row in listed} == {"now": False, "whole": True}
            first = destination()
            until(lambda: any(kept.iterdir()), 60, "the first instance after it is up")
            first.kill()
            first.wait()
            second = destination()
            try:
                run("routes", "retry", "whole", "--root", node.root, environment=settings, check=True)
                until(lambda: len(list(kept.iterdir())) == 12, 60, "every instance in the end")
                until(lambda: node.rows("SELECT 1 FROM v_routes WHERE route = 'whole' AND delivered = 2"), 60, "done")
            finally:
                second.kill()
                second.wait()
            assert node.terminate() == 0
    for uids in sent:
        firsts = list(dict.fromkeys(uid for uid in pacs.taken if uid in uids))
        assert firsts == uids
    assert len(pacs.taken) <= 12 + 5  # what was sent in the second before the kill came twice


@pytest.mark.slow
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
