"""A structured report as a browser gets it."""

import pytest

from tests.unit.extensions.dicomweb.test_report import Reader, sample
from tests.web.conftest import Site


@pytest.mark.slow
def test_a_report_is_given_as_html_with_every_item(site: Site) -> None:
    ds = sample()
    site.take(ds)
    path = f"/dicom-web/studies/1.2.4/series/1.2.4.1/instances/{ds.SOPInstanceUID}/rendered"
    for accept in ("text/html", "*/*"):
        answer = site.client().get(path, headers={"Accept": accept})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["content-security-policy"].startswith("default-src 'none';")
        assert answer.headers["content-security-policy"].endswith("; sandbox")
        assert answer.headers["x-content-type-options"] == "nosniff"
    text = Reader(answer.text).text
    for shown in (
        "Imaging Report", "Grün^Ärzte", "Findings", "Finding: first line", "second line", "Diameter: 12.5 mm",
        "Volume: no value", "Site: Liver", "has obs context Observer: Doe^Jane", "Day: 20260102", "Identifier: 1.2.5",
        "Source: image 1.2.3.4 frames 2, 5", "Outline: POLYLINE 1.0, 2.5", "Of the future: [TABLE: not shown]",
        "inferred from see item 1.2", "UNVERIFIED",
    ):  # fmt: skip
        assert shown in text, shown
    assert site.client().get(path, headers={"Accept": "image/png"}).status_code == 406
    assert site.audited("DICOM Instances Accessed")[-1]["detail"] == "rendered"
