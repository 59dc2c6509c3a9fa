"""Real instances through every option: no value that the profile takes out is found in the bytes of the result."""

import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from pydicom import dcmread

from node.children.pseudonyms import PseudonymKey
from node.extensions.deidentify.deidentification import ALLOWABLE, Deidentification, NotDeidentified, RefusalReason
from node.extensions.deidentify.files import pieces
from node.extensions.deidentify.instance import deidentified
from node.extensions.deidentify.profile import Option, Profile
from node.files.reading import read_instance
from node.receive.dicom_files import MediaFile, find_instances
from tests.leaks import leaks
from tests.make import PYDICOM_FILES
from tests.reference.real_series import PYDICOM_DATA

pytestmark = pytest.mark.corpus

KEY = PseudonymKey("test", bytes(range(32)))
EVERYTHING = tuple(option for option in Option if option is not Option.FULL_DATES)
CHOICES = [(), *((option,) for option in Option), EVERYTHING]

NOT_CLEAN = {RefusalReason.STRUCTURED_REPORT, RefusalReason.ENCAPSULATED_DOCUMENT, RefusalReason.NO_IDENTITY}

DAMAGED = frozenset({"JPEG2000-embedded-sequence-delimiter.dcm"})
"""Files whose pixels nobody decodes, and which are refused for that: a delimiter stands for a size in a codestream."""


def instances(corpus: Path) -> Iterator[Path]:
    for found in find_instances((corpus, PYDICOM_FILES, PYDICOM_DATA)):
        if isinstance(found, MediaFile) and found.path is not None and found.path.name not in DAMAGED:
            yield found.path


def one_of_each_folder(corpus: Path) -> Iterator[Path]:
    seen = set()
    for path in instances(corpus):
        if path.parent not in seen:
            seen.add(path.parent)
            yield path


def what_leaks(path: Path, chosen: tuple[Option, ...]) -> list[object]:
    """Return the leaks of an instance; none if it is refused for what it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        profile = Profile(frozenset(chosen))
        ds = read_instance(path)
        if "TransferSyntaxUID" not in ds.file_meta:
            return []
        try:
            new = deidentified(ds, Deidentification(profile, KEY, frozenset(ALLOWABLE)))
        except NotDeidentified as error:
            return [] if error.reason in NOT_CLEAN else [(path, chosen, error)]
        new.pop("PixelData", None)
        return [(path, chosen, leak) for leak in leaks(dcmread(path), b"".join(pieces(new)), profile)]


@pytest.mark.slow
def test_nothing_leaks_from_a_choice_of_instances(corpus: Path) -> None:
    chosen = list(islice(one_of_each_folder(corpus), 0, None, 6))
    assert len(chosen) > 15
    assert [leak for path in chosen for options in ((), EVERYTHING) for leak in what_leaks(path, options)] == []


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("chosen", CHOICES, ids=lambda chosen: "+".join(chosen) or "basic")
def test_nothing_leaks_from_any_instance_by_any_option(corpus: Path, chosen: tuple[Option, ...]) -> None:
    assert [leak for path in instances(corpus) for leak in what_leaks(path, chosen)] == []
