"""Command sets."""

import contextlib
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pynetdicom.dsutils import decode

from node.dicom.command import (
    NO_DATA_SET,
    Element,
    MalformedCommand,
    decode_command,
    encode_c_store_response,
    encode_command,
)
from node.dicom.status import ResponseStatus
from tests import make


def encoded(**attributes: object) -> bytes:
    """A command set as pydicom encodes it."""
    stream = DicomBytesIO()
    stream.is_implicit_VR = stream.is_little_endian = True
    write_dataset(stream, make.dataset(**attributes))
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
    response = decode(BytesIO(encode_c_store_response(request, ResponseStatus(0xA700, "no room"))), True, True)
    assert response.CommandGroupLength == len(encode_c_store_response(request, ResponseStatus(0xA700, "no room"))) - 12
    assert (response.CommandField, response.MessageIDBeingRespondedTo, response.CommandDataSetType) == (
        0x8001,
        7,
        0x0101,
    )
    assert (response.Status, response.ErrorComment) == (0xA700, "no room")
    assert (response.AffectedSOPClassUID, response.AffectedSOPInstanceUID) == ("1.2.840.10008.5.1.4.1.1.2", "1.2.3")
    assert [element.tag for element in response] == sorted(element.tag for element in response)


def test_success_carries_no_comment() -> None:
    response = decode(
        BytesIO(encode_c_store_response(decode_command(encoded(**REQUEST)), ResponseStatus(0))), True, True
    )
    assert "ErrorComment" not in response


@given(noise=st.binary(max_size=200))
def test_noise_is_decoded_or_malformed_and_nothing_else(noise: bytes) -> None:
    with contextlib.suppress(MalformedCommand):
        decode_command(noise)


def test_a_command_set_is_read_by_pydicom_as_it_was_meant() -> None:
    data = encode_command(
        {
            Element.AFFECTED_SOP_CLASS_UID: "1.2.840.10008.5.1.4.1.2.2.2",
            Element.COMMAND_FIELD: 0x8021,
            Element.MESSAGE_ID_RESPONDED_TO: 7,
            Element.DATA_SET_TYPE: NO_DATA_SET,
            Element.STATUS: 0xFF00,
            Element.REMAINING: 3,
        }
    )
    ds = decode(BytesIO(data), True, True)
    assert ds.CommandGroupLength == len(data) - 12
    assert (ds.AffectedSOPClassUID, ds.CommandField) == ("1.2.840.10008.5.1.4.1.2.2.2", 0x8021)
    assert (ds.MessageIDBeingRespondedTo, ds.Status, ds.NumberOfRemainingSuboperations) == (7, 0xFF00, 3)
    command = decode_command(data)
    assert command.is_response
    assert (command.responded_to, command.status, command.number(Element.REMAINING)) == (7, 0xFF00, 3)
    assert command.number(Element.FAILED) is None


def test_a_comment_of_a_peer_cannot_move_the_cursor() -> None:
    data = encoded(CommandField=0x8021, CommandDataSetType=0x0101, MessageIDBeingRespondedTo=1, Status=0xA700)
    assert decode_command(data + b"\x00\x00\x02\x09\x06\x00\x00\x00no\x1b[2J"[: 8 + 6]).comment == "no?[2J"
