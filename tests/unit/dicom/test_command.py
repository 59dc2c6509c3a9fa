"""Command sets."""

from __future__ import annotations

import contextlib
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pynetdicom.dsutils import decode

from node.dicom.command import MalformedCommand, decode_command, encode_c_store_response
from node.dicom.status import Answer


def encoded(**attributes: object) -> bytes:
    """A command set as pydicom encodes it."""
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    stream = DicomBytesIO()
    stream.is_implicit_VR = stream.is_little_endian = True
    write_dataset(stream, ds)
    return stream.getvalue()


REQUEST = {
    "AffectedSOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
    "CommandField": 1,
    "MessageID": 7,
    "Priority": 0,
    "CommandDataSetType": 1,
    "AffectedSOPInstanceUID": "1.2.3",
    "MoveOriginatorApplicationEntityTitle": "OTHER",
    "MoveOriginatorMessageID": 3,
}


def test_a_request_is_decoded() -> None:
    command = decode_command(encoded(**REQUEST))
    assert (command.field, command.message_id, command.has_data_set, command.complete) == (1, 7, True, True)
    assert (command.sop_class_uid, command.sop_instance_uid) == ("1.2.840.10008.5.1.4.1.1.2", "1.2.3")


@pytest.mark.parametrize("missing", ["AffectedSOPClassUID", "AffectedSOPInstanceUID", "MessageID", "Priority"])
def test_a_request_that_lacks_something_is_incomplete(missing: str) -> None:
    assert not decode_command(encoded(**{key: value for key, value in REQUEST.items() if key != missing})).complete


def test_a_response_reads_back_as_pydicom_reads_it() -> None:
    request = decode_command(encoded(**REQUEST))
    response = decode(BytesIO(encode_c_store_response(request, Answer(0xA700, "no room"))), True, True)
    assert response.CommandGroupLength == len(encode_c_store_response(request, Answer(0xA700, "no room"))) - 12
    assert (response.CommandField, response.MessageIDBeingRespondedTo, response.CommandDataSetType) == (
        0x8001,
        7,
        0x0101,
    )
    assert (response.Status, response.ErrorComment) == (0xA700, "no room")
    assert (response.AffectedSOPClassUID, response.AffectedSOPInstanceUID) == ("1.2.840.10008.5.1.4.1.1.2", "1.2.3")
    assert [element.tag for element in response] == sorted(element.tag for element in response)


def test_success_carries_no_comment() -> None:
    response = decode(BytesIO(encode_c_store_response(decode_command(encoded(**REQUEST)), Answer(0))), True, True)
    assert "ErrorComment" not in response


@given(noise=st.binary(max_size=200))
def test_noise_is_decoded_or_malformed_and_nothing_else(noise: bytes) -> None:
    with contextlib.suppress(MalformedCommand):
        decode_command(noise)
