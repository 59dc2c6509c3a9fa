"""The two nodes of docs/deidentify.md, with the lines that it shows: the second one has pseudonyms and no identity."""

import json
import re
from pathlib import Path
from typing import Self

import pytest
from pydicom import dcmwrite

from node.association.client.send import send_files
from node.extensions.deidentify.profile import Profile, options
from tests import make
from tests.acceptance.served import Served, until
from tests.leaks import leaks
from tests.preloaded import Process, run

pytestmark = [pytest.mark.slow, pytest.mark.sqlite("looks for names in all files of a root, the index too")]

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "deidentify.md"

NAMED = {"PatientName": "Whistler^Agatha", "PatientID": "MRN-4711-Q", "AccessionNumber": "ORDER-4711-A1"}


def configurations() -> tuple[str, str]:
    """What the document shows of the first and of the second node."""
    section = DOCUMENT.read_text(encoding="utf-8").partition("### A node without identities\n")[2].partition("\n## ")[0]
    first, second = re.findall(r"(?:^    .*\n)+", section, flags=re.MULTILINE)
    return first, second


class Configured(Served):
    """A node in a folder with a voxelnode.toml. Its `environment` has what differs here: addresses, and senders."""

    def __init__(self, folder: Path, configuration: str, **environment: str) -> None:
        super().__init__(folder / "voxelnode-data", VOXELNODE_DICOM__HOST="127.0.0.1", **environment)
        folder.mkdir()
        (folder / "voxelnode.toml").write_text(configuration)

    def start(self) -> Self:
        folder = self.root.parent
        with (folder / "serve.log").open("a") as log:
            self.process = Process(["serve", "--create", "--port", "0"], self.environment, log, folder)
        self.port = self.port_of(self.process.stdout.readline())
        return self


@pytest.mark.long
def test_a_second_node_has_pseudonyms_and_no_identity(tmp_path: Path) -> None:
    first, second = configurations()
    scans = tmp_path / "scans"
    scans.mkdir()
    originals = make.ct_series(3, **NAMED)
    for number, ds in enumerate(originals):
        dcmwrite(scans / f"{number}.dcm", ds)
    with Configured(tmp_path / "research", second) as research:
        there = {"HOST": "127.0.0.1", "PORT": str(research.port)}
        peers = {f"VOXELNODE_PEERS__RESEARCH__{name}": value for name, value in there.items()}
        clinic = Configured(tmp_path / "clinic", first, **peers, VOXELNODE_PEERS__CT1__AE_TITLE="CT1")
        run("pseudonyms", "new", "trial.key", folder=tmp_path / "clinic", check=True)
        with clinic:
            send_files(sorted(scans.iterdir()), clinic.address, "CT1")
            stored = "SELECT sop_instance_uid FROM v_images"
            until(lambda: len(research.rows(stored)) == 3, 60, "every copy is there")
            research.wait_until_idle()
            assert clinic.terminate() == 0
        mapped = run("pseudonyms", "map", "trial.key", scans, "--json", folder=tmp_path / "clinic", check=True).stdout
        [person] = [line for line in json.loads(mapped) if line["kind"] == "patient"]
        [patient] = research.rows("SELECT patient_id, patient_name FROM v_patients")
        assert set(patient.values()) == {person["pseudonym"]}
        assert research.terminate() == 0
    assert len(list(research.root.rglob("*.dcm"))) == 3
    profile = Profile(options(["modified-dates", "patient"], []))
    found = {
        node: [leak for ds in originals for leak in leaks(ds, everything_in(node.root), profile)]
        for node in (clinic, research)
    }
    assert found[research] == []
    assert found[clinic] != []


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
