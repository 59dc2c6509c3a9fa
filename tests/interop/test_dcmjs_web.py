"""dcmjs over DICOMweb: it reads our metadata, and what it makes of them we store again."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from tests import make
from tests.interop.conftest import NODE_MODULES, needs, run
from tests.web.conftest import Site, open_site

pytestmark = pytest.mark.peer

CLIENT = Path(__file__).parent / "dicomweb.js"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    needs("node", "nodejs")
    if not (NODE_MODULES / "dcmjs").is_dir():
        pytest.skip("dcmjs is not installed (npm ci --prefix tests/interop)")
    with open_site(tmp_path / "root") as site:
        yield site


@pytest.mark.slow
def test_what_dcmjs_makes_of_our_metadata_is_stored_as_the_same_image(site: Site) -> None:
    (one,) = make.ct_series(1, study_uid="1.2.3", series_uid="1.2.3.1")
    site.take(one)
    arguments = (f"{site.url}/dicom-web", "1.2.3", "1.2.3.1.77")
    printed = run(needs("node", "nodejs"), str(CLIENT), *arguments, NODE_PATH=str(NODE_MODULES))
    reported = json.loads(next(line for line in printed.splitlines() if line.startswith('{"name"')))
    assert (reported["name"], reported["rows"], reported["status"]) == (str(one.PatientName), one.Rows, 200), reported
    with site.store.index.reading() as index:
        (stored,) = index.files.stored(sop_instance_uids=["1.2.3.1.77"])
    copy = dcmread(site.store.archive.path(stored.key))
    for element in one:
        if element.keyword != "SOPInstanceUID":
            assert copy[element.tag].value == element.value, element.keyword
