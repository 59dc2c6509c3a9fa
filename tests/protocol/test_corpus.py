"""Every instance of the corpus of real series by DCMTK: none is missing.

Our own sender brings them in tests/acceptance/test_corpus_through_the_node.py.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from node.dicom.uids import is_storage_class
from tests.programs import needs
from tests.protocol.conftest import Running

pytestmark = [pytest.mark.corpus, pytest.mark.long]


def instances(corpus: Path) -> Iterator[tuple[str, Path]]:
    """(SOP Instance UID, file) of what a node takes; the first file of each UID only."""
    seen = set()
    for path in sorted(corpus.rglob("*")):
        if not path.is_file() or path.stat().st_size < 140 or path.read_bytes()[128:132] != b"DICM":
            continue
        ds = dcmread(path, specific_tags=["SOPClassUID", "SOPInstanceUID"], stop_before_pixels=True)
        uid = ds.get("SOPInstanceUID")
        if uid and uid not in seen and is_storage_class(str(ds.SOPClassUID)):
            seen.add(uid)
            yield str(uid), path


@pytest.mark.peer
def test_dcmsend_brings_every_instance(node: Running, corpus: Path) -> None:
    program = needs("dcmsend")
    files = dict(instances(corpus))
    done = subprocess.run(
        [program, "-aec", "VOXELNODE", "--decompress-never", node.host, str(node.port), *map(str, files.values())],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # dcmsend announces no SOP class for a data set that encodes its UIDs with VR UN, and is told so.
    unnamed = {uid for uid, path in files.items() if dcmread(path).get_item("SOPClassUID").VR == "UN"}
    assert node.stored_data_sets().keys() == files.keys() - unnamed
    assert node.count("c_store_answers_total{status=0xA900}") == len(unnamed)
