"""The command that a page without studies shows sends a folder, also to a node that not everybody may send to."""

import html
import re
import shlex
import subprocess
from pathlib import Path

import httpx2 as httpx
import pytest

from tests import make
from tests.acceptance.served import Served, until
from tests.programs import needs
from tests.protocol.conftest import make_keys

pytestmark = pytest.mark.slow

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
        (f"[dicom]\n{CERTIFICATE}", PLAIN.replace("dcmsend", "storescu +tla +cf CA -aet SENDER")),
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
def test_the_command_on_an_empty_page_sends_a_folder(
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
