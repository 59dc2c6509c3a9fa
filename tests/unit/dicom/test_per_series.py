"""Facts are those of the data set, whatever was found in the data set before."""

from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset

from node.dicom.reading import with_elements
from node.dicom.values import held_elements, number, numbers, once_per_series, standard_tag, text
from node.files.reading import read_instance
from tests import make


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Return a function that writes a data set with changed attributes, and reads it as a conversion does."""
    [made] = make.ct_series(1)

    def written(ds: Dataset = made, **changes: Any) -> Dataset:
        make.changed(ds, **changes)
        ds.save_as(tmp_path / "1.dcm", enforce_file_format=True)
        return read_instance(tmp_path / "1.dcm")

    return written


class Calls:
    """A function that counts how often it was called."""

    def __init__(self, function: Any) -> None:
        self.count = 0
        self._function = function

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.count += 1
        return self._function(*arguments, **named)


def test_a_fact_is_found_again_only_if_a_declared_element_differs(read: Any) -> None:
    function = Calls(lambda ds: (text(ds, "Modality"), number(ds, "KVP")))
    fact = once_per_series("Modality", "KVP")(function)
    assert fact(read(KVP=120)) == ("CT", 120)
    assert fact(read(InstanceNumber=7)) == ("CT", 120)
    assert function.count == 1
    assert fact(read(KVP=100)) == ("CT", 100)
    assert function.count == 2


def test_an_element_that_was_absent_and_an_other_argument_count(read: Any) -> None:
    function = Calls(lambda ds, factor, plus=0: (number(ds, "EchoTime") or 0) * factor + plus)
    fact = once_per_series("EchoTime")(function)
    assert [fact(read(), 2), fact(read(), 2), fact(read(), 3), fact(read(), 3, plus=1)] == [0, 0, 0, 1]
    assert function.count == 3
    assert fact(read(EchoTime=5), 3, plus=1) == 16


def test_the_character_set_counts_although_only_the_text_is_looked_up(read: Any) -> None:
    fact = once_per_series("SeriesDescription")(lambda ds: text(ds, "SeriesDescription"))
    utf_8 = read(SpecificCharacterSet="ISO_IR 192", SeriesDescription="Schädel")
    latin = read(SpecificCharacterSet="ISO_IR 100", SeriesDescription="Schädel".encode().decode("latin-1"))
    tag = standard_tag("SeriesDescription")
    latin = with_elements(latin, {**held_elements(latin), tag: held_elements(utf_8)[tag]})  # as the reader shares it
    assert fact(utf_8) == "Schädel"
    assert fact(latin) == "Schädel".encode().decode("latin-1")


def test_an_element_that_is_not_declared_is_never_seen(read: Any) -> None:
    fact = once_per_series("Modality")(lambda ds: (text(ds, "Modality"), number(ds, "KVP"), len(ds)))
    assert fact(read(KVP=120)) == ("CT", None, 1)


def test_a_data_set_that_is_changed_between_two_calls_gives_the_new_fact(read: Any) -> None:
    fact = once_per_series("PixelSpacing")(lambda ds: numbers(ds, "PixelSpacing"))
    ds = read()
    ds.PixelSpacing = [1, 2]
    assert fact(ds) == (1, 2)
    ds.PixelSpacing[1] = 3
    assert fact(ds) == (1, 3)


def test_a_fact_within_a_fact_counts(read: Any) -> None:
    inner = once_per_series("KVP")(lambda ds: number(ds, "KVP"))
    outer = once_per_series("KVP")(lambda ds: inner(ds))
    assert inner(read(KVP=120)) == 120
    assert [outer(read()), outer(read(KVP=80)), outer(read())] == [120, 80, 80]
