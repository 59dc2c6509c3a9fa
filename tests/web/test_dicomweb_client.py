"""The reference client of DICOMweb against a served node: store, search and retrieve."""

import warnings
from collections.abc import Iterator

import numpy as np
import pytest

from tests import make
from tests.web.conftest import Site

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the libraries that it imports
    from dicomweb_client.api import DICOMwebClient

STORED = (("application/dicom", "*"),)


@pytest.fixture
def web(site: Site) -> Iterator[DICOMwebClient]:
    client = DICOMwebClient(f"{site.url}/dicom-web")
    yield client
    client._session.close()


@pytest.mark.slow
def test_a_series_goes_in_and_comes_out_the_same(site: Site, web: DICOMwebClient) -> None:
    series = make.ct_series(5, study_uid="1.2.3", series_uid="1.2.3.1")
    reported = web.store_instances(series)
    assert len(reported.ReferencedSOPSequence) == 5
    assert "FailedSOPSequence" not in reported
    assert [study["0020000D"]["Value"] for study in web.search_for_studies()] == [["1.2.3"]]
    assert len(web.search_for_series("1.2.3")) == 1
    assert len(web.search_for_instances("1.2.3", "1.2.3.1", search_filters={"InstanceNumber": 2})) == 1
    for got in (
        web.retrieve_series("1.2.3", "1.2.3.1"),
        web.retrieve_study("1.2.3", media_types=STORED),
        list(web.iter_series("1.2.3", "1.2.3.1", media_types=STORED)),
    ):
        assert got == series
    assert len(web.retrieve_study_metadata("1.2.3")) == 5
    one = series[0]
    place = ("1.2.3", "1.2.3.1", one.SOPInstanceUID)
    assert web.retrieve_instance(*place) == one
    (metadata,) = [web.retrieve_instance_metadata(*place)]
    assert metadata["00280010"]["Value"] == [one.Rows]
    (frame,) = web.retrieve_instance_frames(*place, [1])
    np.testing.assert_array_equal(np.frombuffer(frame, one.pixel_array.dtype).reshape(one.Rows, -1), one.pixel_array)
    (pixels,) = web.retrieve_bulkdata(
        f"{site.url}/dicom-web/studies/{place[0]}/series/{place[1]}/instances/{place[2]}/bulkdata/7FE00010"
    )
    assert pixels == one.PixelData
    assert web.retrieve_instance_rendered(*place, media_types=("image/png",)).startswith(b"\x89PNG")
    assert web.retrieve_instance_frames_rendered(*place, [1], media_types=("image/jpeg",)).startswith(b"\xff\xd8")


def test_pages_of_a_search_are_put_together(site: Site, web: DICOMwebClient) -> None:
    web.store_instances([make.instance(study_uid=f"1.2.{number}") for number in range(7)])
    assert len(web.search_for_studies(limit=3)) == 3
    assert len(web.search_for_studies(limit=3, get_remaining=True)) == 7
