"""What a person has to settle: series that lack instances or a volume, until they are whole or acknowledged."""

import re

import pytest

from node.completeness import Reported
from tests import make
from tests.web.conftest import Site

KEY = {"study_instance_uid": "1.2.3", "series_instance_uid": "1.2.3.1"}
REASON = "The rest was <never> acquired"


def badge(site: Site) -> int:
    shown = re.search(r'id="badge-wrong".*?</span>(\d+)<', site.client().get("/badges").text)
    return int(shown[1]) if shown and "hidden" not in shown[0] else 0


def problem(site: Site) -> str:
    with site.store.index.reading() as index:
        [row] = index.problems.open(10)
    return str(row["problem"])


def test_a_problem_stays_until_somebody_acknowledges_it_and_returns_when_the_series_changes(site: Site) -> None:
    whole = make.ct_series(9, study_uid="1.2.3", series_uid="1.2.3.1")
    site.take(*whole[:2], *whole[4:7])
    site.take(*make.ct_series(5, study_uid="1.2.3", series_uid="1.2.3.2"))
    site.take(make.structured_report(study_uid="1.2.4", series_uid="1.2.4.1"))
    site.convert()
    client = site.client()
    page = client.get("/problems").text
    assert page.count("Acknowledge…") == badge(site) == 1
    assert "missing-slice" in page

    seen = problem(site)
    assert client.post("/problems/acknowledge", data={**KEY, "problem": seen, "reason": "  "}).status_code == 422
    client.post("/problems/acknowledge", data={**KEY, "problem": "converted complete 0", "reason": REASON})
    assert badge(site) == 1, "what the person saw was not what is there"
    client.post("/problems/acknowledge", data={**KEY, "problem": seen, "reason": REASON})
    assert badge(site) == 0
    assert "Nothing needs a person" in client.get("/problems").text
    for place in ("/problems/acknowledged", "/studies/1.2.3", "/studies/1.2.3/series/1.2.3.1"):
        assert "The rest was &lt;never&gt; acquired" in client.get(place).text
    [line] = [line for line in site.audited("DICOM Instances Accessed") if "acknowledged" in str(line)]
    assert REASON not in str(line), "people may write names into it"
    with site.store.index.reading() as index:
        events = index.events.of_series("1.2.3", "1.2.3.1", 10)
    assert [event["detail"] for event in events if event["kind"] == "problem-acknowledged"] == ["by local"]

    lists = Reported(5, 9, 4, ("1.2.9",))
    site.store.index.series.record_reported(("1.2.3", "1.2.3.1"), lists, site.store.index.now())
    assert badge(site) == 1, "more is missing than the person saw"

    site.take(whole[2])
    site.convert()
    assert badge(site) == 1
    client.post("/problems/acknowledge", data={**KEY, "problem": problem(site), "reason": REASON})
    for _ in range(2):  # the second finds nothing to withdraw
        client.post("/problems/withdraw", data=KEY)
    assert badge(site) == 1
    with site.store.index.reading() as index:
        assert [event["kind"] for event in index.events.of_series("1.2.3", "1.2.3.1", 10)].count(
            "problem-reopened"
        ) == 1
    site.take(whole[3])
    site.convert()
    assert badge(site) == 0


@pytest.mark.slow
def test_one_word_for_certainty_in_rest_and_views(site: Site) -> None:
    site.take(*make.ct_series(3, **{"study_uid": "1.2.3", "series_uid": "1.2.3.1", "ImagesInAcquisition": 3}))
    site.take(*make.ct_series(3, study_uid="1.2.3", series_uid="1.2.3.2"))
    site.take(*make.gap_series(9, (4,), study_uid="1.2.3", series_uid="1.2.3.3"))
    site.convert()
    expected = {"1.2.3.1": "verified", "1.2.3.2": "no gap seen", "1.2.3.3": "incomplete"}
    items = site.client().get("/api/v1/series").json()["items"]
    assert {one["series_instance_uid"]: one["certainty"] for one in items} == expected
    with site.store.index.reading() as index:
        assert {row["series_instance_uid"]: row["certainty"] for row in index.series.of_study("1.2.3")} == expected
        words = [(one.key[1], one.facts["certainty"]) for one in index.facts.all(("certainty",))]
    assert dict(words) == expected
    [study] = site.client().get("/api/v1/studies", params={"condition": "incomplete"}).json()["items"]
    assert study["certainties"] == dict.fromkeys(expected.values(), 1)
    for condition in ("verified", "no-gap-seen", "complete"):
        assert site.client().get("/api/v1/studies", params={"condition": condition}).json()["items"] == []


def broken(site: Site, count: int) -> None:
    """Series that lack a slice each, and one whose pixel data are cut."""
    for number in range(1, count + 1):
        site.take(*make.gap_series(9, (4,), study_uid=f"1.2.{number}", series_uid=f"1.2.{number}.1"))
    cut = make.ct_series(4, study_uid="1.3.1", series_uid="1.3.1.1")
    for ds in cut:
        ds.PixelData = ds.PixelData[:10]
    site.take(*cut)
    site.convert()


@pytest.mark.slow
def test_problems_of_one_cause_are_acknowledged_together(site: Site) -> None:
    broken(site, 3)
    client = site.client()
    assert badge(site) == 4
    overview = client.get("/problems").text
    assert overview.count('href="/problems/causes/') == 1, "a cause of one series is no group"
    page = client.get("/problems/causes/geometry").text
    assert page.count('name="problem"') == 3
    assert "Acknowledge all 3…" in page
    [seen] = re.findall(r'name="seen" value="(\w+)"', page)

    site.take(*make.gap_series(9, (4,), study_uid="1.2.9", series_uid="1.2.9.1"))
    site.convert()
    assert client.post("/problems/causes/geometry", data={"seen": seen, "reason": REASON}).status_code == 409
    assert badge(site) == 5, "one came that the person has not seen"

    [seen] = re.findall(r'name="seen" value="(\w+)"', client.get("/problems/causes/geometry").text)
    assert client.post("/problems/causes/geometry", data={"seen": seen, "reason": " "}).status_code == 422
    assert client.post("/problems/causes/geometry", data={"seen": seen, "reason": REASON}).status_code == 303
    assert badge(site) == 1
    assert client.get("/problems/acknowledged").text.count("/problems/withdraw") == 4
    assert len([line for line in site.audited("DICOM Instances Accessed") if "acknowledged" in str(line)]) == 4
    assert client.get("/problems/causes/nothing").status_code == 200


@pytest.mark.slow
def test_the_badge_rests_until_something_new_turns_up(site: Site) -> None:
    broken(site, 1)
    client = site.client()

    def badge_class() -> str:
        return re.findall(r'id="badge-wrong" class="badge (\w+)"', client.get("/badges").text)[0]

    assert badge_class() == "bad"
    client.get("/problems")
    assert badge_class() == "seen"
    assert badge(site) == 2
    site.take(*make.ct_series(5, study_uid="1.2.8", series_uid="1.2.8.1"))
    site.convert()
    assert badge_class() == "seen", "a series without a problem is no news"
    broken(site, 2)
    assert badge_class() == "bad"
    client.get("/problems")
    for name in ("OTHER^ONE", "SOME^BODY"):
        site.take(*make.ct_series(1, study_uid=f"1.4.{len(name)}", PatientID="shared", PatientName=name))
    assert badge_class() == "bad", "a conflict is news"
    client.get("/problems/conflicts")
    assert badge_class() == "seen"
