"""Documents of instances are the same whether all elements are read, or only those that differ from one before."""

import zlib
from io import BytesIO
from random import Random

import pytest
from pydicom import Dataset, dcmwrite
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from node.dicom.documents import OTHERS, DocumentKey, SeriesDocument, document_of, holds, single_precision
from node.dicom.header import Head, read_changed, read_elements
from tests import make

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)


def item(value: str) -> Dataset:
    return make.dataset(CodeValue=value, CodingSchemeDesignator="99X")


def head_of(chance: Random, syntax: str) -> Head:
    """An instance of a series; some of its elements are its own, too long, absent or in another form."""
    ds = make.instance(transfer_syntax_uid=syntax, study_uid="1.2.3", series_uid="1.2.3.1", KVP=chance.choice("89"))
    ds.ImageComments = "x" * chance.choice((2, 2, 2, 1030, 1040))
    ds.ProcedureCodeSequence = [item(chance.choice("1112")) for _ in range(chance.choice((1, 1, 1, 0, 2)))]
    ds["ProcedureCodeSequence"].is_undefined_length = chance.random() < 0.3
    ds.add_new(0x00290010, "LO", chance.choice(("EXAMPLE 1", "EXAMPLE 1", "EXAMPLE 2")))
    ds.add_new(0x00291001, "LO", chance.choice(("first", "second")))
    ds.add_new(0x00291002, "OB", bytes(chance.choice((4, 2000, 2002))))
    if chance.random() < 0.2:
        ds.InstitutionName = "Klinik"
    if chance.random() < 0.2:
        ds.SpecificCharacterSet = "ISO_IR 192"
    if chance.random() < 0.2:
        ds.add_new(Tag(0x7FE00010), "OW", bytes(8))
    stream = BytesIO()
    is_implicit, is_little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    dcmwrite(stream, Dataset(ds), implicit_vr=is_implicit, little_endian=is_little)
    data = stream.getvalue()
    if syntax == DeflatedExplicitVRLittleEndian:
        data = zlib.compress(data, wbits=-zlib.MAX_WBITS)
    return Head(b"file" + data, 4, syntax)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_what_differs_is_all_that_is_to_be_read(syntax: str) -> None:
    chance = Random(5)
    first = head_of(chance, syntax)
    base = SeriesDocument(document_of(read_elements(first)))
    compared = 0
    for _ in range(60):
        head, before = head_of(chance, syntax), read_elements(first)
        compared += read_changed(head, before) is not None
        assert base.own(head) == SeriesDocument(base.document).own(head)
        first = head
    assert compared > 2


def test_a_head_that_is_cut_is_never_taken_for_the_whole() -> None:
    whole = head_of(Random(5), ExplicitVRLittleEndian)
    header = read_elements(whole)
    for length in range(4, len(whole.data)):
        cut = Head(whole.data[:length], 4, ExplicitVRLittleEndian, is_cut=True)
        assert OTHERS in document_of(read_elements(cut))
        assert read_changed(cut, header) is None


@pytest.mark.parametrize("vr", ["", "FL"])
@pytest.mark.parametrize("written", ["1.7e+38", "1.7E38", "1.6999999760721821e+38", "17" + 37 * "0"])
def test_a_value_of_32_bits_is_found_however_a_program_writes_it(written: str, vr: str) -> None:
    key = DocumentKey("2005,EXAMPLE,10", 0x20051010, "EXAMPLE", vr, (written,), restricts=True)
    assert holds([key], {key.name: ["FL", "1.7e+38"]}) is True
    assert holds([key], {key.name: ["FL", "1.7000002e+38"]}) is False


@pytest.mark.parametrize("written", ["", "a", "1-2", "1e99", "nan", "0.5"])
def test_what_is_no_number_of_32_bits_stays_as_it_is(written: str) -> None:
    assert single_precision(written) == written
