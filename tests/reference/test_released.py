"""Real files of all kinds with a person planted in each, released without identities, before judges of others.

They are searched for the person in all bytes; Presidio looks for forms of identities in their texts; dciodvfy compares
each with its original.
"""

import re
import warnings
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

import pytest
from pydicom import DataElement, Dataset, config, dcmread

from node.children.pseudonyms import PseudonymKey
from node.extensions.deidentify.deidentification import ALLOWABLE, Deidentification, NotDeidentified
from node.extensions.deidentify.files import write
from node.extensions.deidentify.instance import deidentified
from node.extensions.deidentify.profile import AttributeAction, Option, Profile, rows
from node.files.reading import read_instance
from tests.dciodvfy import new_errors
from tests.planted import GIVEN, NAME, NUMBER, TELEPHONE, left_in
from tests.reference.test_deidentification import instances
from tests.scanner import identities_in

pytestmark = [pytest.mark.corpus, pytest.mark.slow, pytest.mark.timeout(900)]

FILES = [60, pytest.param(200, marks=pytest.mark.long)]
"""How many are released: of each kind of file the first one comes before any second one."""

KIND = ("SOPClassUID", "Manufacturer", "ManufacturerModelName")
OF_DEVICES = re.compile(r"SoftwareVersions|CoilName|CodeValue")
"""Dates of software, numbers of parts and codes look like those of persons."""

RETAINED = {
    int(row.tag.replace(",", ""), 16) for row in rows() if row.options.get(Option.DEVICE) is AttributeAction.KEEP
}
"""What the option that retains devices keeps: serial numbers, which look like telephone numbers as well."""

MAX_BYTES = 4 << 20
CLEANED = frozenset((Option.DESCRIPTORS, Option.STRUCTURED, Option.GRAPHICS))
CHOICES = [
    frozenset[Option](),
    CLEANED | {Option.MODIFIED_DATES, Option.SAFE_PRIVATE, Option.DEVICE},
    CLEANED | {Option.INSTITUTION, Option.PATIENT},
]


@dataclass(frozen=True)
class Released:
    """An original with a person planted into it, and its copy without."""

    original: Path
    copy: Path
    options: frozenset[Option]


@pytest.fixture(scope="module", params=FILES)
def released(corpus: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> list[Released]:
    folder = tmp_path_factory.mktemp("released")
    key = PseudonymKey("test", bytes(range(32)))
    found: list[Released] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of old instances
        for number, path in enumerate(_chosen(corpus)):
            original, copy = folder / f"{number}.dcm", folder / f"{number}-released.dcm"
            options = CHOICES[number % len(CHOICES)]
            how = Deidentification(Profile(options), key, frozenset(ALLOWABLE))
            try:
                _plant(path, original)
                write(deidentified(read_instance(original), how), copy)
            except NotDeidentified:
                continue
            found.append(Released(original, copy, options))
            if len(found) == request.param:
                break
    assert len(found) == request.param
    return found


def _chosen(corpus: Path) -> Iterator[Path]:
    """Yield one file of each kind, then a second one of each: the same ones wherever the folders are."""
    kinds: dict[tuple[str, ...], list[tuple[str, int, Path]]] = defaultdict(list)
    for path in instances(corpus):
        if (size := path.stat().st_size) <= MAX_BYTES:
            ds = dcmread(path, stop_before_pixels=True, force=True, specific_tags=[*KIND, "SOPInstanceUID"])
            if "TransferSyntaxUID" in ds.get("file_meta", ()):
                kind = tuple(str(ds.get(key, "")) for key in KIND)
                kinds[kind].append((f"{ds.get('SOPInstanceUID')} {ds.file_meta.TransferSyntaxUID}", size, path))
    for found in chain.from_iterable(zip_longest(*(sorted(kinds[kind]) for kind in sorted(kinds)))):
        if found is not None:
            yield found[-1]


def _plant(path: Path, into: Path) -> None:
    ds = dcmread(path)
    text = f"{GIVEN} {NAME} Feb 3 1971 {NUMBER} +4930{TELEPHONE}"
    for element in [*ds, *(each for item in _items(ds) for each in item)]:
        if element.VR in ("LT", "ST", "UT") or (element.VR in ("LO", "UC") and element.value and not element.VM > 1):
            element.validation_mode = config.IGNORE
            element.value = f"{element.value} {NAME} {NUMBER}"[-64:]
    for keyword, vr in (("ImageComments", "LT"), ("SeriesDescription", "LO"), ("ProtocolName", "LO")):
        ds.add(DataElement(keyword, vr, f"{ds.get(keyword, '')} {text}"[-64:]))
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = f"{NAME}^{GIVEN}", f"H-{NUMBER}", "19710203"
    ds.PatientTelephoneNumbers = f"+49 30 {TELEPHONE}"
    ds.KVP, ds.ExposureTime = NUMBER, NUMBER
    ds.file_meta.SourceApplicationEntityTitle = NAME.upper()
    ds.add(DataElement(0x00990010, "LO", NAME))
    ds.add(DataElement(0x00991001, "UN", text.encode()))
    ds.save_as(into)


def _items(ds: Dataset) -> Iterator[Dataset]:
    for element in ds:
        for item in element.value if element.VR == "SQ" else ():
            yield item
            yield from _items(item)


@pytest.mark.long
def test_nothing_of_the_person_is_in_any_byte(released: list[Released]) -> None:
    assert [(one.copy, left) for one in released if (left := left_in(one.copy.read_bytes(), short=False))] == []


def test_another_program_sees_no_identity_in_the_texts(released: list[Released]) -> None:
    keywords: dict[str, set[str]] = defaultdict(set)
    for one in released:
        retained = RETAINED if Option.DEVICE in one.options else ()
        ds = dcmread(one.copy, stop_before_pixels=True)
        for item in (ds, *_items(ds)):
            for element in item:
                if element.VR in ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"):
                    for value in element.value if element.VM > 1 else [element.value]:
                        if value and element.tag not in retained and not OF_DEVICES.search(element.keyword):
                            keywords[str(value)].add(element.keyword)
    assert len(keywords) > 200
    assert [(keywords[text], kind, part, text) for text, kind, part in identities_in(list(keywords))] == []


def test_the_copies_are_as_valid_as_the_originals(released: list[Released]) -> None:
    with ThreadPoolExecutor(2) as threads:
        wrong = list(threads.map(lambda one: new_errors(one.original, one.copy), released))
    assert [(one.original, errors) for one, errors in zip(released, wrong, strict=True) if errors] == []
