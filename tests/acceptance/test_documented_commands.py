"""Every command line of the documents does what it says, on a node that has data, or is listed here with the reason."""

import html
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2 as httpx
import pytest
from PIL import Image

from tests import make
from tests.acceptance.served import Served, until
from tests.preloaded import run
from tests.programs import SYSTEM_PATH, needs
from tests.protocol.conftest import make_keys

pytestmark = pytest.mark.slow  # for the node that they share

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])

PROGRAMS = (
    *("voxelnode", "dcmsend", "storescu", "findscu", "getscu", "movescu", "echoscu", "curl", "openssl", "sqlite3"),
    *("rsync", "python", "python3", "pip", "npm", "docker", "systemctl", "useradd", "install", "chgrp", "chmod"),
    *(
        "umask",
        "sudo",
        "rm",
        "cp",
        "mv",
        "mkdir",
        "tar",
        "datasette",
        "uvicorn",
        "ssh",
        "chown",
        "export",
        "uv",
        "echo",
    ),
    *("pip-audit", "aws", "kubectl", "helm", "pg_basebackup", "pg_dump", "pg_restore", "pytest", "run"),
)

NOT_RUN = {
    r"voxelnode share add": "needs a study of this UID: see tests/web/test_shares.py",
    r"voxelnode (init|serve|config check|doctor)\b": "tests/acceptance/test_cli_serve.py, test_commands.py",
    r"voxelnode open\b": "runs until Ctrl-C; tests/web/test_opened_folder.py",
    r"voxelnode ready: ": "output",
    r"voxelnode .*\b(FROM|NAME|ID|NUMBER|PATIENT|UID)\b": "how it is used: capitals stand for values",
    r"voxelnode account add (anna|nightly)": "asks for a password; tests/acceptance/test_cli_account.py",
    r"voxelnode account (token|role anna)": "needs that account; tests/acceptance/test_cli_account.py",
    r"voxelnode (fsck|serve) (.* )?--root /restored": "needs a backup; tests/acceptance has restores",
    r"voxelnode (backup|restore)": "names folders of the machine; tests/integration/test_backup_making.py",
    r"voxelnode viewers install": "needs the npm registry; tests/web/test_ohif.py installs from a file",
    r"npm pack": "needs the npm registry",
    r"/usr/bin/echoscu \+tls|openssl|umask|curl --cacert": "tests/acceptance/test_cluster_deployment.py",
    r"(docker|systemctl|useradd|install|chgrp|sudo|/opt/voxelnode|rm -f /var)": "changes the system it runs on",
    r"chown|export|kubectl|helm": "changes the system it runs on; tests/acceptance/test_cluster_deployment.py",
    r"pip-audit|uv |echo .*uv ": "needs a package registry",
    r"pg_basebackup|pg_dump|pg_restore": "needs two servers of PostgreSQL; tests/integration/test_postgresql.py",
    r"aws ": "needs a bucket; tests/test_docs.py has the rules",
    r"\.venv/bin/pytest|\.ci/run": "is what runs this",
    r"rsync|sqlite3": "tests/acceptance, with rsync's steps in tests/rsync.py; tests/test_docs.py has the SQL",
    r"voxelnode (deidentify|pseudonyms|convert clean)\b": "tests/integration/test_deidentify_command.py",
    r"voxelnode volume (project|mask|slices|montage|rectangles|npz)\b": "needs a volume; "
    "tests/integration/test_opened.py",
    r"voxelnode projects member": "needs an account; tests/integration/test_projects.py",
    r"voxelnode (routes|peers|retention|hooks) (remove|test|replay lungs)": "needs what the line before sets; "
    "tests/integration/test_configuration.py",
    r"voxelnode hooks set mail": "names a file that is not there; tests/integration/test_configuration.py",
    r"datasette": "is no dependency",
    r"python rescue\.py": "the tests of journal.md run this program",
    r"voxelnode bids .*--rules": "needs a file of rules; tests/acceptance/test_bids.py",
    r"python -m tests\.": "takes minutes; tests/reference and tests/crash run what these programs do",
    r"python -m benchmarks\.": "takes minutes, the mutants an hour or more",
    r"python3 -m venv": ".ci/run",
    r"(\.venv/bin/)?pip install (-e '\.|'voxelnode)\[(cluster|s3|fuzz|ocr)\]'": "needs a package registry",
    r"voxelnode archive copy": "needs an object store; tests/integration/test_objects.py",
    r"voxelnode db copy": "needs a server of PostgreSQL; tests/integration/test_postgresql.py",
    r"curl .*pacs\.example\.org": "names a host that is not there",
    r"curl -N ": "does not end",
    r"voxelnode import .*OrthancStorage|curl .*:8042": "needs an Orthanc; tests/interop/test_orthanc.py",
    r"voxelnode hooks test no-volume": "needs that hook; tests/documents/test_alerts.py runs its program",
    r"curl -X DELETE .*'Authorization: Bearer": "needs a token; tests/web/test_stow.py",
    r"curl .*\$(JOB|URL)": "needs the token of a job or an account; tests/web/test_jobs.py has the requests",
    r"curl .*'\{$": "goes on over several lines, with an entry; tests/web has the requests",
    r"movescu": "needs a destination; tests/protocol and tests/interop run it",
}
"""Beginnings of command lines that are not run here, and what runs them, or why nothing does."""


def command_lines() -> Iterator[tuple[str, str]]:
    """(document, command line) of each block, without comments; lines that end in a backslash are one."""
    for document in DOCUMENTS:
        text = re.sub(r" *\\\n +", " ", document.read_text(encoding="utf-8"))
        for line in re.findall(r"^ {4,}(\S.*)$", text, flags=re.MULTILINE):
            command = re.sub(r"\s+#.*$", "", line)
            if command.split()[0].rpartition("/")[2] in PROGRAMS and "=" not in command.split()[:2]:
                yield document.name, command


def reason_not_to_run(command: str) -> str | None:
    return next((reason for pattern, reason in NOT_RUN.items() if re.match(pattern, command)), None)


LINES = sorted(set(command_lines()))
RUN = [(name, command) for name, command in LINES if reason_not_to_run(command) is None]
STOPPED = re.compile(r"voxelnode (journal drain|db rebuild|fsck --repair)")
"""Commands of a root whose node is stopped."""


def test_the_commands_are_found_and_no_reason_is_left_over() -> None:
    assert len(RUN) >= 25
    for pattern in NOT_RUN:
        assert any(re.match(pattern, command) for _, command in LINES), pattern


DCMTK = ("DCMSEND", "FINDSCU", "GETSCU")
"""The AE titles of its programs."""


class Site:
    """A node with one CT, and its peers `pacs` and `workstation`, which are another node with the same CT."""

    def __init__(self, folder: Path, until_the_end: ExitStack) -> None:
        self.folder, self.root = folder, folder / "voxelnode-data"
        for name in ("scans", "folder-with-dicom"):
            (folder / name).mkdir(parents=True)
            for number, ds in enumerate(make.ct_series(3, study_uid="1.2.3", PatientName="Doe^Jane")):
                ds.SeriesInstanceUID = "1.2.3.1"
                ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.1.{number}"
                ds.save_as(folder / name / f"{number}.dcm", enforce_file_format=True)
        (folder / "backup").mkdir()
        for root in (self.root, folder / "peer"):
            run("import", "--root", root, folder / "scans", check=True)
        run("projects", "set", "trial", "--root", self.root, check=True)
        run("projects", "add", "trial", "1.2.3", "--root", self.root, check=True)
        self.peer = until_the_end.enter_context(Served(folder / "peer"))
        configuration = folder / "voxelnode.toml"
        peer = f'host = "127.0.0.1"\nport = {self.peer.port}\nae_title = "VOXELNODE"\n'
        sections = [f'[storage]\nroot = "{self.root}"\n', f"[peers.pacs]\n{peer}", f"[peers.workstation]\n{peer}"]
        for title in DCMTK:
            may = '["echo", "store", "query", "retrieve", "worklist"]'
            sections.append(f'[peers.{title}]\nae_title = "{title}"\nnetworks = ["127.0.0.1/32"]\nmay = {may}\n')
        (folder / "cloud").mkdir()
        sections.append(
            f'[destinations.CLOUD]\nkind = "folder"\nfolder = "{folder / "cloud"}"\n[routes.research]\nto = ["CLOUD"]\n'
        )
        run("pseudonyms", "new", folder / "trial.key", "--name", "trial", check=True)
        (folder / "trial").mkdir()
        sections.append(f'[deidentify.trial]\nkey = "{folder / "trial.key"}"\n')
        sections.append(f'[destinations.TRIAL]\nkind = "folder"\nfolder = "{folder / "trial"}"\n')
        sections.append('[routes.trial]\nto = ["TRIAL"]\ndeidentify = "trial"\n')
        configuration.write_text("".join(sections))
        self.node = until_the_end.enter_context(Served(self.root, VOXELNODE_CONFIG=str(configuration)))
        self.web = re.search(r"http://\S+:\d+", self.node.process.stdout.readline())[0]
        self.node.wait_until_idle()
        taken = "SELECT 1 FROM v_routes WHERE route = 'trial' AND delivered > 0"
        until(lambda: self.node.rows(taken), 60, "what leaves without identities")

    def here(self, command: str) -> str:
        """A command line with the addresses, paths and numbers of this node."""
        command = command.replace("http://127.0.0.1:8080", self.web).replace("/backup/", f"{self.folder}/backup/")
        command = command.replace("/srv/shared", f"{self.folder}/shared")
        command = command.replace("/srv/trial", f"{self.folder}/exported")
        command = re.sub(r"127\.0\.0\.1 11112\b", f"127.0.0.1 {self.node.port}", command)
        if "/volumes/17/" in command:
            [first, *_] = self.node.rows("SELECT id FROM volumes ORDER BY id")
            command = command.replace("/volumes/17/", f"/volumes/{first['id']}/")
        if "/work/ID" in command:
            command = command.replace("/work/ID", f"/work/{self.made_download()}")
        return command

    def made_download(self) -> str:
        """The number of a download that is ready."""
        with httpx.Client(base_url=self.web) as client:
            made = client.post("/api/v1/downloads/medium", json={"study_instance_uids": ["1.2.3"]})
            path = made.headers["location"]
            until(lambda: client.get(path).json()["state"] == "succeeded", 60, "a medium")
        return str(made.json()["id"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as until_the_end:
        yield Site(tmp_path_factory.mktemp("documents") / "site", until_the_end)


@pytest.mark.sample(0, 15)
@pytest.mark.peer
@pytest.mark.parametrize(
    ("document", "command"), [pair for pair in RUN if not STOPPED.match(pair[1])], ids=lambda text: text[:40]
)
def test_a_command_of_the_documents_works(document: str, command: str, site: Site) -> None:
    words = shlex.split(site.here(command))
    if words[0] == "voxelnode":
        done = run(*words[1:], folder=site.folder)
    else:
        program = needs(words[0], "curl" if words[0] == "curl" else "dcmtk")
        if words[0] == "curl":
            words[1:1] = ["--fail", "--silent", "--show-error"]
        done = subprocess.run(
            [program, *words[1:]], cwd=site.folder, capture_output=True, text=True, errors="replace", timeout=60,
            check=False, env={**os.environ, "PATH": SYSTEM_PATH},
        )  # fmt: skip
    assert done.returncode == 0, f"{document}: {command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.sqlite("the notebook opens the file")
def test_the_notebook_runs_and_ends_with_a_picture(site: Site) -> None:
    """Its cells run in one process as they are, one after the other, as Jupyter does it."""
    cells = json.loads((ROOT / "docs" / "explore.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 6
    program = "\n".join([*code, "picture.save('middle.png')"])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=site.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "3 instances, the first one 1.2.3.1." in done.stdout
    assert "coronal (" in done.stdout
    with Image.open(site.folder / "middle.png") as picture:
        assert picture.getextrema() == (0, 255)


@pytest.mark.slow
def test_the_program_of_dicomweb_gets_what_it_finds(site: Site) -> None:
    text = (ROOT / "docs" / "dicomweb.md").read_text(encoding="utf-8")
    [program] = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    for shown, here in (
        ("http://127.0.0.1:8080", site.web),
        (', headers={"Authorization": "Bearer ..."}', ""),  # there are no accounts here
        ("20260101-", "20240101-"),
    ):
        assert program.count(shown) == 1
        program = program.replace(shown, here)
    program += "print(len(instances))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr


@pytest.mark.slow
def test_a_command_for_a_stopped_node_works(tmp_path: Path, site: Site) -> None:
    copied = tmp_path / "copy"
    run("import", "--root", copied, site.folder / "scans", check=True)
    commands = [command for _, command in RUN if STOPPED.match(command)]
    assert len(commands) >= 3
    for command in commands:
        done = run(*shlex.split(command)[1:], "--root", copied)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


PLAIN = "dcmsend -aec VOXELNODE +sd +r --no-halt 127.0.0.1 PORT FOLDER"
DESTINATION = '[peers.WS]\nae_title = "WS1"\nhost = "127.0.0.1"\nmay = ["query"]\n'
SENDERS = '[peers.CT1]\nae_title = "CT1"\ncertificate = "client"\n[peers.CT2]\nae_title = "CT 2"\n'
AS_CT2, OVER_TLS = "-aet 'CT 2' -aec VOXELNODE", "+tls KEY CERTIFICATE +cf CA"
CERTIFICATE = 'tls_certificate = "{keys}/server.pem"\ntls_key = "{keys}/server.key"\n'


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.mark.sample(0, 2)
@pytest.mark.peer
@pytest.mark.parametrize(
    ("configuration", "command"),
    [
        ("", PLAIN),
        (DESTINATION, None),
        (f'{DESTINATION}[peers.CT2]\nae_title = "CT 2"', PLAIN.replace("-aec VOXELNODE", AS_CT2)),
        (f"[dicom]\n{CERTIFICATE}", PLAIN.replace("dcmsend", "storescu +tla +cf CA")),
        (
            f'[dicom]\n{CERTIFICATE}tls_client_ca = "{{keys}}/ca.pem"\n{SENDERS}',
            PLAIN.replace("dcmsend -aec VOXELNODE", f"storescu {OVER_TLS} {AS_CT2}"),
        ),
        (
            f'[dicom]\n{CERTIFICATE}tls_client_ca = "{{keys}}/ca.pem"\ntls_port = 0\n{SENDERS}',
            PLAIN.replace("-aec VOXELNODE", AS_CT2),
        ),
    ],
)
def test_the_command_on_an_empty_page_sends_a_folder_also_to_a_closed_node(
    tmp_path: Path, keys: Path, configuration: str, command: str | None
) -> None:
    scans = tmp_path / "scans"
    (tmp_path / "voxelnode.toml").write_text(configuration.format(keys=keys))
    make.saved(make.ct_series(2), scans)
    names = {"VOXELNODE_CONFIG": str(tmp_path / "voxelnode.toml"), "VOXELNODE_DICOM__HOST": "127.0.0.1"}
    with Served(tmp_path / "root", **names) as node:
        page = httpx.get(re.search(r"http://\S+:\d+", node.process.stdout.readline())[0]).text
        shown = [html.unescape(one) for one in re.findall(r"<pre>(\w+ .*-aec .*?)</pre>", page)]
        if command is None:
            assert shown == []
            assert "No peer may store, and all other senders are rejected" in page
            return
        assert shown == [command.replace("PORT", str(node.port))]
        places = {
            "FOLDER": scans,
            "KEY": keys / "client.key",
            "CERTIFICATE": keys / "client.pem",
            "CA": keys / "ca.pem",
        }
        program, *arguments = (str(places.get(word, word)) for word in shlex.split(shown[0]))
        done = subprocess.run([needs(program), *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        until(lambda: len(node.rows("SELECT 1 FROM v_images")) == 2, 60, "both instances")


def test_no_document_recommends_storescu_for_a_folder() -> None:
    """Pynetdicom has a `storescu` without ``+sd``, which comes first in an active virtual environment.

    ``python -m pynetdicom storescu``, which the tutorial has, is that one wherever it is run.
    """
    assert shutil.which("dcmsend", path=str(ROOT / ".venv" / "bin")) is None  # not shadowed
    pages = [*DOCUMENTS, *(ROOT / "node").rglob("*.py"), *(ROOT / "node").rglob("*.html")]
    recommended = re.compile(r"(?<!python -m pynetdicom )storescu .*-aec")
    assert [page.name for page in pages if recommended.search(page.read_text(encoding="utf-8"))] == []
