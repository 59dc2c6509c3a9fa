"""Documents about a node: their commands are typed on a machine with a node, a peer, and the files that they name."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from pydicom import FileDataset

from tests import make
from tests.acceptance.test_results import thorax
from tests.documents.blocks import PROJECT, Command, blocks, inline
from tests.documents.machine import Machine, Step, with_values
from tests.documents.test_tutorial import sent_safely
from tests.rows import read_rows, view_rows
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
[hooks.remote]
kind = "webhook"
on = ["volume-written"]
url = "http://127.0.0.1:9000/"
results = true
[web]
hook_networks = ["127.0.0.1"]
[index]
path = ""
"""
MAY = 'networks = ["127.0.0.1/32"]\nmay = ["echo", "store", "query", "retrieve", "worklist"]\n'


def study() -> list[FileDataset]:
    """The study that documents name, with other bytes each time."""
    instances = make.ct_series(3, study_uid="1.2.3", PatientName="Doe^Jane", PatientID="4711")
    for number, ds in enumerate(instances):
        ds.SeriesInstanceUID = "1.2.3.1"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.1.{number}"
    return instances


def furnish(machine: Machine) -> Path:
    """A folder with what documents name, and a peer at port 104 that has the same study."""
    site = machine / "/root/site"
    instances = study()
    for ds, plane in zip(instances, thorax()[4:], strict=False):
        make.set_pixels(ds, plane)
    for name in ("scans", "folder-with-dicom", "OrthancStorage", "/data/scans"):
        make.saved(instances, machine / f"/root/site/{name}" if name[0] != "/" else machine / name)
    for name in ("cloud", "for-trial"):
        (machine / f"/srv/{name}").mkdir()
    titles = (f'[peers.{title}]\nae_title = "{title}"\n{MAY}' for title in DCMTK)
    [lungs, *_] = [block.text for block in blocks(PROJECT / "docs/results.md") if block.language == "toml"]
    (machine / "/opt/lung").symlink_to("/root/voxelnode/docs/examples/lung")
    (site / "voxelnode.toml").write_text("\n".join([CONFIGURATION.partition("[index]")[0], lungs, *titles]))
    (machine / "/etc/voxelnode").mkdir()
    (site / "pipeline.secret").write_text(f"whsec_{'c2VjcmV0' * 4}\n")
    machine.run("cd /root/site && voxelnode pseudonyms new /etc/voxelnode/trial.key --name trial")
    trial = make.ct_series(2, study_uid="1.2.840.1.2.3", PatientName="Roe^Richard", PatientID="TRIAL-1")
    make.saved(trial, machine / "/srv/second")
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
        "findscu": machine.typing(errors="^I:|^$"),  # where DCMTK prints what is found
        **dict.fromkeys(ELSEWHERE, lambda command: None),
    }
    for name in FILES:
        machine.follow(name, steps=steps)
        machine.type("rm -rf volumes clean remaining.csv")
    machine.follow("docs/from-orthanc.md", steps=steps)
    for name in NODE:
        machine.follow(name, steps=steps)
        wait_until_idle(root)

    cells = json.loads((PROJECT / "docs/explore.ipynb").read_text(encoding="utf-8"))["cells"]
    notebook = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    (site / "notebook.py").write_text("\n".join([*notebook, "picture.save('middle.png')"]))
    printed = machine.type("python3 -W error notebook.py")
    assert "3 instances, the first one 1.2.3.1." in printed
    assert "coronal (" in printed
    with Image.open(site / "middle.png") as picture:
        assert picture.getextrema() == (0, 255)

    [program] = [block.text for block in blocks(PROJECT / "docs/dicomweb.md") if block.language == "python"]
    for shown, here in ((', headers={"Authorization": "Bearer ..."}', ""), ("20260101-", "20240101-")):
        assert program.count(shown) == 1  # there are no accounts here
        program = program.replace(shown, here)
    (site / "program.py").write_text(f"{program}\nprint(study['0020000D']['Value'][0], len(instances))")
    uid, count = machine.type("python3 program.py").split()
    assert len(view_rows(root, "SELECT 1 FROM v_images WHERE study_instance_uid = :uid", uid=uid)) == int(count) > 2


RECEIVER = """
import ssl, sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        message = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.server_port == 9000:
            Path("message.json").write_bytes(message)
        self.send_response(202)
        self.end_headers()

plain, secure = HTTPServer(("127.0.0.1", 9000), Receiver), HTTPServer(("127.0.0.1", 443), Receiver)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("pipeline.pem", "pipeline.key")
secure.socket = context.wrap_socket(secure.socket, server_side=True)
threading.Thread(target=plain.serve_forever).start()
print("receives", flush=True)
secure.serve_forever()
"""
CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout pipeline.key -out pipeline.pem "
    "-days 2 -subj /CN=pipeline.example.org -addext subjectAltName=DNS:pipeline.example.org"
)
PASSWORD = "correct horse battery"


def served(machine: Machine) -> Path:
    """Start a node, and what receives its messages; return its folder. The volumes of both studies are written."""
    site = furnish(machine)
    (site / "receiver.py").write_text(RECEIVER)
    machine.run(CERTIFICATE)
    machine.run("export SSL_CERT_FILE=/root/site/pipeline.pem")
    machine.start("python3 receiver.py")
    machine.start("voxelnode serve", 2)
    machine.type("voxelnode import scans /srv/second")
    wait_until_idle(site / "voxelnode-data")
    return site


@pytest.mark.runs(
    "docs/configuration.md", "docs/hooks.md", "docs/alerts.md", "docs/results.md", "docs/access.md", "docs/web.md",
    "docs/worklist.md", "docs/retrieve.md", "docs/media.md", "docs/bids.md", "docs/lifecycle.md",
    "docs/deploy.md: Monitoring", "docs/cluster.md: Convert a whole archive again", "docs/on-call.md",
)  # fmt: skip
def test_a_node_is_looked_after(machine: Machine) -> None:
    site = served(machine)
    follow, root = machine.follow, site / "voxelnode-data"

    follow("docs/configuration.md")
    follow("docs/hooks.md", "Webhooks")
    follow("docs/hooks.md", "Hooks that the pages set")
    follow("docs/alerts.md")
    follow_results(machine, site)
    machine.type("rm volume.nii.gz")

    def with_password(command: Command) -> None:
        typed = command.text.replace("voxelnode", "python3 -m node")
        machine.type(f"{typed} <<< '{PASSWORD}'")

    follow("docs/access.md", steps={"voxelnode account add anna": with_password})

    [volume, *_] = read_rows(root, "SELECT id FROM volumes ORDER BY id")
    made = "not made yet"

    def request(command: Command) -> None:
        nonlocal made
        text = command.text.replace("/volumes/17/", f"/volumes/{volume['id']}/")
        answer = machine.type(text.replace("/ID", f"/{made}"))
        if "downloads" in command.text:
            made = json.loads(answer)["id"]
            until(lambda: "succeeded" in machine.run(f"curl {HERE}/work/{made}").stdout, 60, "a download")

    without_end: Step = lambda command: machine.type(f"timeout 1 {command.text}", statuses=(124,))  # noqa: E731
    follow("docs/web.md", steps={"curl -N": without_end, "curl": request})
    for name in ("worklist", "retrieve", "media", "bids", "lifecycle", "on-call"):
        follow(f"docs/{name}.md", steps={"findscu": machine.typing(errors="^I:|^$")})
    follow("docs/deploy.md", "Monitoring")
    follow("docs/cluster.md", "Convert a whole archive again")

    machine.run("voxelnode backup /backup")
    for text in inline("docs/on-call.md"):
        name = NAMED.get(text.partition(" NAME")[0], "pacs")
        if text not in NO_REMEDY:
            command = Command(with_values(text, {**VALUES, "NAME": name}))
            (with_password if "account add" in text else machine.typing(errors="all_compared"))(command)


NO_REMEDY = ("voxelnode info", "voxelnode routes replay")
"""Commands that the text names without their arguments."""
VALUES = {
    "WHAT": "1.2.3", "STUDY-UID": "1.2.3", "UID": "1.2.3", "OLD": "4711", "ID": "4711", "NEW": "4712", "AET": "CT9",
    "ADDRESS": "10.1.2.3", "ROUTE": "research", "FOLDER": "/backup",
}  # fmt: skip
NAMED = {"voxelnode hooks retry": "lungs", "voxelnode peers set": "CT9", "voxelnode account add": "bert"}

HERE = "http://127.0.0.1:8080/api/v1"


def follow_results(machine: Machine, site: Path) -> None:
    """Type results.md: the hook `lungs` is a command, and `remote` a webhook, whose message has arrived."""
    machine.run("voxelnode account add reader --role read --no-password")
    machine.run("READER=$(voxelnode account token reader --label results)")
    until((site / "message.json").exists, 60, "a message")

    def put(command: Command) -> None:
        machine.run("python3 /opt/lung/lung.py volume.nii.gz .")
        machine.type(command.text)

    def test(command: Command) -> None:
        said = machine.type(command.text)
        assert "lungs.nii.gz: segmentation 'Lungs'" in said
        assert "volumes.json: report 'Lung volumes'" in said

    def cancel(command: Command) -> None:
        jobs = [line.split() for line in machine.run("voxelnode hooks jobs").stdout.splitlines()]
        running = next(words[-1] for words in jobs if {"remote", "running"} <= {*words})
        machine.type(command.text.replace(reported, running))

    reported = str(json.loads((site / "message.json").read_bytes())["job"]["id"])
    steps = {"curl -X PUT": put, "voxelnode hooks jobs cancel": cancel, "voxelnode hooks test": test}
    machine.follow("docs/results.md", steps=steps, UID="1.2.3.1", ID=reported)


@pytest.mark.runs(
    "docs/custody.md", "docs/reliability.md", "docs/journal.md",
    "docs/backup.md: Make a backup", "docs/backup.md: Prove a backup", "docs/backup.md: When something is damaged",
    "docs/backup.md: A new index",
)  # fmt: skip
def test_a_person_decides_and_deletes(machine: Machine) -> None:
    site = served(machine)
    root = site / "voxelnode-data"

    make.saved(study(), machine / "/srv/changed")
    machine.run("voxelnode import /srv/changed")  # exits with 1: other bytes
    aside: list[str] = []
    conflicts = iter(view_rows(root, "SELECT id FROM v_conflicts ORDER BY id"))

    def decide(command: Command) -> None:
        machine.type(command.text.replace("ID", str(next(conflicts)["id"])))

    def purge(command: Command) -> None:
        confirm(replace(command, text=command.text.replace(aside[0], aside[1])))

    confirm = machine.typing(behind=" --yes")
    steps: dict[str, Step] = {
        "voxelnode conflicts": decide,
        "voxelnode delete": confirm,
        "voxelnode trash empty": lambda command: machine.type("voxelnode trash empty 2 --yes"),
        "voxelnode lost write-off": confirm,
        "voxelnode quarantine purge": purge,
        "voxelnode quarantine release": machine.typing(behind=" --replace"),
    }
    machine.follow("docs/custody.md", "Decisions", steps)
    named = {"FROM": "TRIAL-1", "INTO": "4711", "OLD": "4711", "NEW": "4712", "NAME": "Doe^Janet", "PATIENT": "4712"}
    machine.follow("docs/custody.md", "Who is who", steps, **named)
    aside += sorted(path.name for path in (root / "quarantine").glob("*.dcm"))
    machine.follow("docs/custody.md", "Quarantine", steps, NAME=aside[0])
    machine.follow("docs/custody.md", "Deletion", steps, UID="1.2.3", ID="4711")
    machine.follow("docs/custody.md", "Trash", steps, NUMBER="1")
    machine.follow("docs/custody.md", "Rules that the pages set", steps)

    wait_until_idle(root)
    # A program that is no part of the node may copy a file that is being written.
    proving = machine.typing(errors="all_compared|part_set_aside|quarantined_file_not_read")
    steps = {"voxelnode backup": proving, **dict.fromkeys(("install", "systemctl"), left_to_test_service)}
    machine.follow("docs/backup.md", "Make a backup", steps)
    machine.follow("docs/backup.md", "Prove a backup", steps)

    def stopped(command: Command) -> None:
        machine.stop()
        machine.type(command.text)

    [program] = [block.text for block in blocks(PROJECT / "docs/journal.md") if block.language == "python"]
    (site / "rescue.py").write_text(program)
    machine.follow("docs/journal.md", steps={"voxelnode journal drain": stopped})
    machine.start("voxelnode serve", 2)
    machine.follow("docs/backup.md", "When something is damaged", {"voxelnode fsck --repair": stopped})
    machine.follow(
        "docs/backup.md", "A new index", {"voxelnode db rebuild": machine.typing(errors="attributes-differ")}
    )

    [lost, *_] = view_rows(root, "SELECT sop_instance_uid, path FROM v_images")
    (root / lost["path"]).unlink()
    assert machine.run("voxelnode db rebuild").returncode == 1
    steps = {"voxelnode lost list": machine.typing(statuses=(1,)), "voxelnode lost write-off": confirm}
    machine.follow("docs/reliability.md", steps=steps, UID=lost["sop_instance_uid"], TEXT="gone")


def left_to_test_service(command: Command) -> None:
    """Pass over a command: the machine of tests/documents/test_service.py has the units of systemd."""


@pytest.mark.runs("docs/pynetdicom.md")
def test_a_program_of_pynetdicom_gets_volumes(machine: Machine) -> None:
    folder = machine / "/root/program"
    make.saved(make.ct_series(3), folder / "scans")
    shutil.copy(PROJECT / "examples/pynetdicom_program.py", folder)
    machine.type("cd /root/program")

    def run(command: Command) -> None:
        machine.start(command.text, 0)
        until(lambda: machine.run("echo > /dev/tcp/127.0.0.1/11112").returncode == 0, 60, "its port")

    send: Step = lambda command: machine.type(sent_safely(command.text))  # noqa: E731
    machine.follow("docs/pynetdicom.md", steps={"python pynetdicom_program.py": run, "python -m pynetdicom": send})
    until(lambda: "volume" in (machine / "/run/served").read_text(), 60, "a volume")
