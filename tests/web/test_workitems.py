"""Conversions as workitems over UPS-RS (PS3.18 11, PS3.4 CC)."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import pytest

from node.index.nouns.records import ClaimedSeries
from tests import make
from tests.web.conftest import Site, open_site

STUDY, SERIES = "1.2.3", "1.2.3.1"
STATE, UID, NAME = "00741000", "00080018", "00100010"
WORKITEMS = "/dicom-web/workitems"


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A root with a converted series, and one of a report, which has no volume."""
    site = open_site(tmp_path_factory.mktemp("ended") / "root")
    site.take(*make.ct_series(3, study_uid=STUDY, series_uid=SERIES, PatientName="Doe^Ann", PatientID="4711"))
    site.take(make.structured_report(study_uid="1.2.4", series_uid="1.2.4.1"))
    site.convert()
    yield site
    site.close()


def found(site: Site, **keys: str) -> list[dict[str, Any]]:
    answer = site.client().get(WORKITEMS, params=keys)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()
    return items


def value(item: dict[str, Any], *path: str) -> Any:
    for tag in path:
        item = item[tag]["Value"][0]
    return item


def claim(site: Site) -> ClaimedSeries:
    claimed = site.store.index.series.claim_due(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1))
    assert claimed is not None
    return claimed


def reconvert(site: Site) -> None:
    answer = site.client().post(f"/api/v1/studies/{STUDY}/reconvert?series_instance_uid={SERIES}")
    assert answer.json()["owed"] == 1


@pytest.mark.slow
def test_a_conversion_is_a_workitem_from_the_first_instance_to_its_end(site: Site) -> None:
    site.take(*make.ct_series(3, study_uid=STUDY, series_uid=SERIES))
    (scheduled,) = found(site)
    assert value(scheduled, STATE) == "SCHEDULED"
    claimed = claim(site)
    (running,) = found(site)
    assert (value(running, STATE), value(running, UID)) == ("IN PROGRESS", value(scheduled, UID))
    site.store.index.series.release_claim(claimed, dt.datetime.now(dt.UTC))
    (again,) = found(site)
    assert value(again, STATE) == "IN PROGRESS"  # a workitem never goes back to SCHEDULED (PS3.4 CC.1.1)
    site.convert()
    (completed,) = found(site)
    assert (value(completed, STATE), value(completed, UID)) == ("COMPLETED", value(scheduled, UID))
    assert value(completed, "00741216", "00400254") == "revision 1"
    reconvert(site)
    opened, before = found(site)
    assert [value(item, STATE) for item in (opened, before)] == ["SCHEDULED", "COMPLETED"]
    assert value(before, UID) == value(scheduled, UID) != value(opened, UID)


@pytest.mark.slow
def test_what_is_retrieved_is_what_was_found_and_its_instances(ended: Site) -> None:
    (item,) = found(ended, PatientName="doe*")
    answer = ended.client().get(f"{WORKITEMS}/{value(item, UID)}")
    (whole,) = answer.json()
    references = whole["00404021"]["Value"][0].pop("00081199")["Value"]
    assert whole == item
    assert len(references) == 3
    url = value(item, "00404021", "0040E025", "00081190")
    assert ended.client().get(f"{url}/metadata").status_code == 200
    assert "00081195" not in whole  # the Transaction UID (PS3.18 11.5)


def test_a_conversion_without_volumes_is_cancelled_with_its_reason(ended: Site) -> None:
    (item,) = found(ended, ProcedureStepState="CANCELED")
    assert value(item, "00404021", "0020000D") == "1.2.4"
    assert value(item, "00741002", "00741238").startswith("not-an-image")


@pytest.mark.parametrize(
    ("keys", "number"),
    [
        ({"PatientID": "4711"}, 1),
        ({"00100020": "4711", "ProcedureStepState": "COMPLETED"}, 1),
        ({"PatientID": "4711", "ProcedureStepState": "SCHEDULED"}, 0),
        ({"ReferencedRequestSequence.StudyInstanceUID": "1.2.4"}, 1),
        ({"InputInformationSequence.SeriesInstanceUID": f"1.2.4.1,{SERIES}"}, 2),
        ({"ProcedureStepState": "COMPLETED,CANCELED"}, 2),
        ({"WorklistLabel": "Conversions"}, 2),
        ({"WorklistLabel": "of another"}, 0),
        ({"SOPInstanceUID": "2.25.1"}, 0),
        ({"PatientName": "ann", "fuzzymatching": "true"}, 1),
        ({"limit": "1"}, 1),
        ({"offset": "2"}, 0),
        ({"limit": "0"}, 0),
    ],
)
def test_a_search_matches_its_keys(ended: Site, keys: dict[str, str], number: int) -> None:
    assert len(found(ended, **keys)) == number


@pytest.mark.slow
def test_pages_of_a_search_are_disjoint(site: Site) -> None:
    for number in range(1, 6):
        site.take(*make.ct_series(1, study_uid=f"1.2.{number}", series_uid=f"1.2.{number}.1"))
        if number == 3:
            site.convert()
    pages = [found(site, limit="2", offset=str(offset)) for offset in (0, 2, 4)]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert len({value(item, UID) for page in pages for item in page}) == 5
    more = site.client().get(WORKITEMS, params={"limit": "2"}).headers["warning"]
    assert "additional results" in more


@pytest.mark.parametrize(
    "query",
    ["ProcedureStepState=DONE", "limit=-1", "offset=x", "fuzzymatching=perhaps", "PatientBirthDate=yesterday"],
)
def test_a_value_that_its_key_cannot_have_is_refused(ended: Site, query: str) -> None:
    assert ended.client().get(f"{WORKITEMS}?{query}").status_code == 400


@pytest.mark.parametrize("uid", ["1.2.3", "2.25.1", "2.25." + "9" * 39, "2.25.x", "%00", "2.25." + "1" * 500])
def test_an_unknown_workitem_is_not_found(ended: Site, uid: str) -> None:
    assert ended.client().get(f"{WORKITEMS}/{uid}").status_code == 404
    assert ended.client().post(f"{WORKITEMS}/{uid}/cancelrequest").status_code == 404


@pytest.mark.slow
def test_a_requested_reconversion_can_be_cancelled_once(site: Site) -> None:
    site.take(*make.ct_series(3, study_uid=STUDY, series_uid=SERIES))
    site.convert()
    reconvert(site)
    uid = value(found(site, ProcedureStepState="SCHEDULED")[0], UID)
    reason = json.dumps([{"00741238": {"vr": "LT", "Value": ["not needed"]}}])
    form = {"Content-Type": "application/dicom+json"}
    answer = site.client().post(f"{WORKITEMS}/{uid}/cancelrequest", content=reason, headers=form)
    assert (answer.status_code, answer.content) == (202, b"")
    assert [value(item, STATE) for item in found(site)] == ["CANCELED"]
    assert site.is_settled()
    again = site.client().post(f"{WORKITEMS}/{uid}/cancelrequest")
    assert again.status_code == 202
    assert "already in the requested state of CANCELED" in again.headers["warning"]
    assert any(line["detail"] == "a reconversion was cancelled" for line in site.audited("DICOM Instances Accessed"))
    reconvert(site)
    (next_one,) = found(site, ProcedureStepState="SCHEDULED")
    assert value(next_one, UID) != uid
    site.convert()
    assert [value(item, STATE) for item in found(site)] == ["COMPLETED"], "the last one"


@pytest.mark.slow
def test_a_conversion_that_is_owed_is_not_cancelled(site: Site) -> None:
    images = make.ct_series(4, study_uid=STUDY, series_uid=SERIES)

    def refusal(item: dict[str, Any]) -> str:
        answer = site.client().post(f"{WORKITEMS}/{value(item, UID)}/cancelrequest")
        assert answer.status_code == 409
        return str(answer.headers["warning"])

    site.take(*images[:3])
    assert "Performer chooses not to cancel" in refusal(found(site)[0])
    site.convert()
    assert "already COMPLETED" in refusal(found(site)[0])
    reconvert(site)
    site.take(images[3])  # what is stored is more than what the volumes hold
    assert "Performer chooses not to cancel" in refusal(found(site)[0])
    site.convert()
    reconvert(site)
    claimed = claim(site)
    assert "Performer chooses not to cancel" in refusal(found(site)[0])  # it is running
    site.store.index.series.release_claim(claimed, dt.datetime.now(dt.UTC))
    site.convert()
    assert site.client().delete(f"/api/v1/instances/{images[0].SOPInstanceUID}").is_success
    assert "Performer chooses not to cancel" in refusal(found(site)[0])  # nobody requested it: an instance has left


@pytest.mark.parametrize(
    ("content", "form", "status"),
    [
        (b"{", "application/dicom+json", 400),
        (b"[1]", "application/dicom+json", 400),
        (b"[{}, {}]", "application/dicom+json", 400),
        (b"[" * 60_000, "application/dicom+json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"<x/>", "application/dicom+xml", 400),
        (b"{}", "text/plain", 415),
        (b" " * 65_537, "application/dicom+json", 413),
        (b" " * 1_000_001, "application/dicom+json", 413),
    ],
)
def test_a_payload_that_is_no_data_set_is_refused(ended: Site, content: bytes, form: str, status: int) -> None:
    uid = value(found(ended)[0], UID)
    answer = ended.client().post(f"{WORKITEMS}/{uid}/cancelrequest", content=content, headers={"Content-Type": form})
    assert answer.status_code == status


def test_roles(guarded: Site) -> None:
    guarded.take(*make.ct_series(1, study_uid=STUDY, series_uid=SERIES))
    assert guarded.client().get(WORKITEMS).status_code == 401
    reader = {"Authorization": f"Bearer {guarded.token('reader')}"}
    writer = {"Authorization": f"Bearer {guarded.token('writer')}"}
    (item,) = guarded.client().get(WORKITEMS, headers=reader).json()
    path = f"{WORKITEMS}/{value(item, UID)}/cancelrequest"
    assert guarded.client().post(path, headers=reader).status_code == 403
    assert guarded.client().post(path, headers=writer).status_code == 409


def test_a_deleted_series_has_no_workitems(site: Site) -> None:
    site.take(*make.ct_series(1, study_uid=STUDY, series_uid=SERIES))
    uid = value(found(site)[0], UID)
    assert site.client().delete(f"/api/v1/studies/{STUDY}").status_code in (200, 204)
    assert site.client().get(f"{WORKITEMS}/{uid}").status_code == 404
    site.take(*make.ct_series(1, study_uid=STUDY, series_uid="1.2.3.9"))  # its row has the same number
    assert site.client().get(f"{WORKITEMS}/{uid}").status_code == 404
    assert len(found(site)) == 1
