"""Every case of the corpus of real series, scored by the corpus' own script."""

import importlib.util
import json
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import pytest

from node.api import Assembly, assemble
from node.writers.base import stem_of
from node.writers.options import WriteOptions
from node.writers.write import write_volume
from tests.conftest import corpus_folder
from tests.reference.cases import corpus_cases, read_series
from tests.reference.test_sidecar import is_of_bids
from tests.unit.writers.test_documented import named_in

pytestmark = pytest.mark.corpus


@pytest.fixture(scope="module")
def check(corpus: Path) -> ModuleType:
    """The corpus' script, as a module."""
    spec = importlib.util.spec_from_file_location("corpus_check", corpus / "check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def written(uid: str, assembly: Assembly, folder: Path) -> dict[str, list[dict[str, str]]]:
    """Write the volumes of one series; return its part of a listing as ``conversion.json`` has it."""
    folder.mkdir()
    reported = [
        {"series_instance_uid": uid, "reason": refusal.reason.value, "detail": refusal.detail}
        for refusal in assembly.refusals
    ]
    made = [
        {"series_instance_uid": uid, "kind": file.kind, "path": str(file.path)}
        for volume in assembly.volumes
        for file in write_volume(volume, folder, stem_of(volume), WriteOptions(formats=("nifti",), thumbnails=False))
    ]
    return {"volumes": made, "refusals": reported}


@pytest.mark.sample(32)
@pytest.mark.filterwarnings("ignore")  # what pydicom says of the values of old scanners
@pytest.mark.parametrize("case", corpus_cases(corpus_folder()))
def test_a_case_gives_the_expected_volumes_refusals_and_warnings(case, corpus, check, tmp_path):
    listing: dict[str, list[dict[str, str]]] = {"volumes": [], "refusals": []}
    expected = json.loads((corpus / "expected.json").read_text())["cases"][case]["series"]
    for number, (uid, datasets) in enumerate(read_series(corpus / case).items()):
        assembly = assemble(datasets)
        assert assembly.unaccounted({str(ds.SOPInstanceUID) for ds in datasets}) == set()
        reported = {warning.name.value for volume in assembly.volumes for warning in volume.warnings}
        assert set(expected[uid].get("warnings", ())) <= reported or not assembly.volumes
        facts = [fact for volume in assembly.volumes for fact in volume.attributes.items()]
        assert {name for name, _ in facts} <= named_in("Sidecar")
        assert [fact for fact in facts if not is_of_bids(*fact)] == []
        for name, entries in written(uid, assembly, tmp_path / str(number)).items():
            listing[name] += entries
    (tmp_path / "conversion.json").write_text(json.dumps(listing))
    asked = Namespace(produced=tmp_path / "conversion.json", expected=corpus / "expected.json", case=[case])
    result = check.check(asked)[case]
    assert result["pass"], result["why"]
