"""Make the tables of node/extensions/deidentify from the standard: python .ci/confidentiality_profile.py part15.xml

part15.xml is the DocBook of PS3.15, https://dicom.nema.org/medical/dicom/current/source/docbook/part15/part15.xml.
"""

from __future__ import annotations

import csv
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "node/extensions/deidentify"
DOCBOOK = "{http://docbook.org/ns/docbook}"
ID = "{http://www.w3.org/XML/1998/namespace}id"
COPYRIGHT = "Copyright NEMA, www.dicomstandard.org"

COLUMNS = {
    "Rtn. Safe Priv. Opt.": "safe_private",
    "Rtn. UIDs Opt.": "uids",
    "Rtn. Dev. Id. Opt.": "device",
    "Rtn. Inst. Id. Opt.": "institution",
    "Rtn. Pat. Chars. Opt.": "patient",
    "Rtn. Long. Full Dates Opt.": "full_dates",
    "Rtn. Long. Modif. Dates Opt.": "modified_dates",
    "Clean Desc. Opt.": "descriptors",
    "Clean Struct. Cont. Opt.": "structured",
    "Clean Graph. Opt.": "graphics",
}
"""Columns of the options by their headings; another heading is an option that the node does not know yet."""

NAMES = {"Attribute Name": "name", "Tag": "tag", "Basic Prof.": "basic"}
NOT_NEEDED = ("Retd. (from PS3.6)", "In Std. Comp. IOD (from PS3.3)")
OPAQUE = ("OB", "OW", "OW/OB", "")


def text_of(element: ElementTree.Element) -> str:
    """Return the text of a cell without the invisible characters at which browsers may break it."""
    return " ".join(re.sub("[\u200b\u00ad\ufeff]", "", "".join(element.itertext())).split())


def edition_of(book: ElementTree.Element) -> str:
    match = re.search(r"PS3\.15 (\d{4}[a-z])", " ".join(map(text_of, book.iter(f"{DOCBOOK}subtitle"))))
    if match is None:
        raise SystemExit("the file does not say which edition of PS3.15 it is")
    return match[1]


def table(book: ElementTree.Element, label: str) -> list[dict[str, str]]:
    [found] = [element for element in book.iter(f"{DOCBOOK}table") if element.get(ID) == label]
    headings, *rows = [[text_of(cell) for cell in row] for row in found.iter(f"{DOCBOOK}tr")]
    return [dict(zip(headings, row, strict=True)) for row in rows]


def profile(book: ElementTree.Element) -> list[list[str]]:
    rows = table(book, "table_E.1-1")
    unknown = set(rows[0]) - {*COLUMNS, *NAMES, *NOT_NEEDED}
    if unknown:
        raise SystemExit(f"Table E.1-1 has new columns, which need an option: {', '.join(sorted(unknown))}")
    lines = []
    for row in rows:
        tag = row["Tag"].split(" where")[0]
        tag = tag if tag.startswith("(g") else tag.upper().replace("X", "x")
        name = row["Attribute Name"].split(" (see Note")[0]
        lines.append([tag, name, row["Basic Prof."], *(row[heading] for heading in COLUMNS)])
    return [["tag", "name", "basic", *COLUMNS.values()], *sorted(lines)]


def safe_private(book: ElementTree.Element) -> list[list[str]]:
    lines = []
    for row in table(book, "table_E.3.10-1"):
        tag, creator, vr = row["Data Element"], row["Private Creator"], row["VR"]
        if vr not in OPAQUE:
            lines.append([tag.upper().replace("X", "x"), creator, vr])
    return [["tag", "creator", "vr"], *sorted(lines, key=lambda line: (line[1], line[0]))]


def write(path: Path, comment: str, rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(f"# {comment}\n")
        csv.writer(file, lineterminator="\n").writerows(rows)


def main(source: str, folder: Path = ROOT) -> None:
    book = ElementTree.parse(source).getroot()
    edition = edition_of(book)
    write(folder / "profile.csv", f"PS3.15 {edition}, Table E.1-1. {COPYRIGHT}", profile(book))
    kept = "Without elements of bytes (OB, OW) or without a VR"
    write(folder / "safe_private.csv", f"PS3.15 {edition}, Table E.3.10-1. {COPYRIGHT}. {kept}", safe_private(book))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: confidentiality_profile.py part15.xml")
    main(sys.argv[1])
