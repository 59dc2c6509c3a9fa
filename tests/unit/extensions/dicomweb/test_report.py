"""Structured reports as HTML: every item is shown, and nothing that a report holds is active."""

from html.parser import HTMLParser
from typing import Any

import pytest
from pydicom import Dataset, FileDataset, dcmread

from node.extensions.dicomweb import report
from node.extensions.dicomweb.report import NotReport, report_html
from tests import make
from tests.make import PYDICOM_FILES

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&\x00\x1b\u202e"
PLAIN = {
    "html", "head", "meta", "title", "body", "h1", "table", "tr", "th", "td", "ol", "li", "b", "small", "p", "bdi",
    "br",
}  # fmt: skip
"""Elements that do nothing."""


class Reader(HTMLParser):
    """Collects elements, their attributes and the text of a document."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def code(meaning: str, value: str = "1", scheme: str = "DCM") -> Dataset:
    return make.coded(value, scheme, meaning)


def item(kind: str, name: str, relationship: str = "CONTAINS", **attributes: Any) -> Dataset:
    return make.content_item(relationship, kind, ("1", "DCM", name), **attributes)


def measured(name: str, number: str, unit: str) -> Dataset:
    return make.measured(("1", "DCM", name), number, unit)


def sample() -> FileDataset:
    ds = make.structured_report(
        study_uid="1.2.4", series_uid="1.2.4.1", PatientName="Grün^Ärzte", SpecificCharacterSet="ISO_IR 192"
    )
    ds.ConceptNameCodeSequence = [code("Imaging Report")]
    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4"
    image.ReferencedFrameNumber = [2, 5]
    by_reference = Dataset()
    by_reference.RelationshipType, by_reference.ReferencedContentItemIdentifier = "INFERRED FROM", [1, 2]
    ds.ContentSequence = [
        item("CONTAINER", "Findings", ContentSequence=[
            item("TEXT", "Finding", TextValue="first line\r\nsecond line"),
            measured("Diameter", "12.5", "mm"),
            item("NUM", "Volume"),
            item("CODE", "Site", ConceptCodeSequence=[code("Liver")]),
        ]),
        item("PNAME", "Observer", "HAS OBS CONTEXT", PersonName="Doe^Jane"),
        item("DATE", "Day", Date="20260102"),
        item("UIDREF", "Identifier", UID="1.2.5"),
        item("IMAGE", "Source", ReferencedSOPSequence=[image]),
        item("SCOORD", "Outline", GraphicType="POLYLINE", GraphicData=[1.0, 2.5]),
        item("TABLE", "Of the future"),
        by_reference,
    ]  # fmt: skip
    return ds


@pytest.mark.filterwarnings("ignore::UserWarning")  # of pydicom, about the values
def test_nothing_in_a_report_is_active() -> None:
    ds = sample()
    ds.PatientName = ds.StudyDescription = HOSTILE
    ds.ConceptNameCodeSequence = [code(HOSTILE)]
    ds.ContentSequence = [
        item("TEXT", HOSTILE, HOSTILE, TextValue=HOSTILE),
        item(HOSTILE[:16], HOSTILE),
        item("IMAGE", HOSTILE, ReferencedSOPSequence=[code(HOSTILE)]),
        measured(HOSTILE, "1", HOSTILE[:16]),
        item("SCOORD", "x", GraphicType=HOSTILE[:16]),
    ]
    document = report_html(ds)
    reader = Reader(document)
    assert reader.elements <= PLAIN
    assert reader.attributes <= {"lang", "charset"}
    assert not any(character in document for character in "\x00\x1b\u202e")


def test_endless_and_deep_reports_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ds = sample()
    for _ in range(report.MAX_DEPTH + 1):
        ds.ContentSequence = [item("CONTAINER", "deeper", ContentSequence=ds.ContentSequence)]
    with pytest.raises(NotReport, match="too deeply"):
        report_html(ds)
    monkeypatch.setattr(report, "MAX_ITEMS", 5)
    with pytest.raises(NotReport, match="more than 5"):
        report_html(sample())
    with pytest.raises(NotReport, match="no content tree"):
        report_html(Dataset())


@pytest.mark.parametrize("name", ["test-SR.dcm", "reportsi.dcm"])
def test_reports_of_others_are_shown(name: str) -> None:
    reader = Reader(report_html(dcmread(PYDICOM_FILES / name)))
    assert "not shown" not in reader.text
    assert reader.elements <= PLAIN
