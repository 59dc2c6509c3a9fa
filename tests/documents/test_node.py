"""Documents about a node: their commands are typed on a machine with a node, a peer, and the files that they name."""

import shutil
from pathlib import Path

import pytest

from tests import make
from tests.documents.blocks import PROJECT, Command
from tests.documents.machine import Machine, Step
from tests.rows import view_rows
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.peer, pytest.mark.timeout(560)]

DCMTK = ("DCMSEND", "FINDSCU", "GETSCU", "MOVESCU", "ECHOSCU")
PEER = 'host = "127.0.0.1"\nport = 104\nae_title = "VOXELNODE"\n'
CONFIGURATION = f"""
[peers.pacs]
{PEER}
[peers.workstation]
{PEER.replace("VOXELNODE", "WORKSTATION")}
[destinations.CLOUD]
kind = "folder"
folder = "/srv/cloud"
[destinations.TRIAL]
kind = "folder"
folder = "/srv/for-trial"
[routes.research]
to = ["CLOUD"]
[routes.trial]
to = ["TRIAL"]
deidentify = "trial"
[deidentify.trial]
key = "/etc/voxelnode/trial.key"
[hooks.no-volume]
kind = "command"
on = ["series-failed"]
command = ["/bin/cat"]
[hooks.lungs]
kind = "command"
on = ["volume-written"]
command = ["/root/site/lungs", "{{path}}", "{{out}}"]
results = true
[index]
path = ""
"""
MAY = 'networks = ["127.0.0.1/32"]\nmay = ["echo", "store", "query", "retrieve", "worklist"]\n'
LUNGS = """#!/bin/bash
cp "$1" "$2/lungs.nii.gz"
"""


def furnish(machine: Machine) -> Path:
    """A folder with what documents name, and a peer at port 104 that has the same study."""
    site = machine / "/root/site"
    instances = make.ct_series(3, study_uid="1.2.3", PatientName="Doe^Jane", PatientID="4711")
    for number, ds in enumerate(instances):
        ds.SeriesInstanceUID = "1.2.3.1"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.1.{number}"
    for name in ("scans", "folder-with-dicom", "OrthancStorage", "/data/scans"):
        make.saved(instances, machine / f"/root/site/{name}" if name[0] != "/" else machine / name)
    for name in ("cloud", "for-trial"):
        (machine / f"/srv/{name}").mkdir()
    titles = (f'[peers.{title}]\nae_title = "{title}"\n{MAY}' for title in DCMTK)
    (site / "voxelnode.toml").write_text("".join([CONFIGURATION.partition("[index]")[0], *titles]))
    (machine / "/etc/voxelnode").mkdir()
    (site / "pipeline.secret").write_text(f"whsec_{'c2VjcmV0' * 4}\n")
    shutil.copy(PROJECT / "examples/pynetdicom_program.py", site)
    (site / "lungs").write_text(LUNGS)
    (site / "lungs").chmod(0o755)
    machine.run("cd /root/site && voxelnode pseudonyms new /etc/voxelnode/trial.key --name trial")
    make.saved(make.ct_series(2, PatientName="Roe^Richard", PatientID="P2"), machine / "/srv/second")
    machine.run("voxelnode import --root /srv/peer scans && voxelnode import /srv/second")
    machine.start("VOXELNODE_CONFIG=/dev/null voxelnode serve --root /srv/peer --port 104 --web-port 8081")
    return site


def wait_until_idle(root: Path) -> None:
    """Return when every series has been converted."""
    waiting = "SELECT 1 FROM v_series WHERE state IN ('receiving', 'converting')"
    until(lambda: view_rows(root, "SELECT 1 FROM v_series") and not view_rows(root, waiting), 60, "conversions")


NODE = ("README.md", "docs/select.md", "docs/query.md", "docs/routes.md", "docs/data.md", "docs/dicomweb.md")

FILES = ("docs/conversion.md", "docs/convert.md", "docs/sidecar.md", "docs/open.md", "docs/deidentify.md")

ELSEWHERE = {"curl -X DELETE -H": "tests/web/test_stow.py"}
"""Beginnings of commands for which the machine lacks what they are about, and what tests them instead."""


@pytest.mark.runs(*FILES, *NODE, "docs/from-orthanc.md")
def test_a_node_does_what_documents_say(machine: Machine) -> None:
    site = furnish(machine)
    root = site / "voxelnode-data"

    def init(command: Command) -> None:
        machine.run("mv voxelnode.toml ours.toml")
        machine.type(command.text)
        machine.run("mv ours.toml voxelnode.toml")

    def serve(command: Command) -> None:
        machine.start(command.text, 2 if "voxelnode serve" in command.text else 1)

    steps: dict[str, Step] = {
        "voxelnode open": serve,
        "voxelnode serve": serve,
        "voxelnode init": init,
        "findscu": lambda command: machine.type(command.text, errors="^I:|^$"),  # where DCMTK prints what is found
        **dict.fromkeys(ELSEWHERE, lambda command: None),
    }
    for name in FILES:
        machine.follow(name, steps=steps)
        machine.type("rm -rf volumes clean remaining.csv")
    machine.follow("docs/from-orthanc.md", steps=steps)
    for name in NODE:
        machine.follow(name, steps=steps)
        wait_until_idle(root)
