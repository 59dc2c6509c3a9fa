"""pydicom's reading of elements, with heads by `node.dicom.encoding`: pydicom takes unknown VR for implicit ones."""

from collections.abc import Callable, Iterator, MutableSequence
from math import inf
from typing import Any, BinaryIO

from pydicom import config, filereader
from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement, empty_value_for_VR
from pydicom.fileutil import read_undefined_length_value
from pydicom.misc import size_in_bytes
from pydicom.tag import BaseTag
from pydicom.values import convert_string

from node.dicom.encoding import (
    EXPLICIT_BIG_ENDIAN,
    EXPLICIT_LITTLE_ENDIAN,
    IMPLICIT_LITTLE_ENDIAN,
    ITEM,
    ITEM_END,
    LOOK_AHEAD_BYTES,
    SEQUENCE_END,
    UNDEFINED_LENGTH,
    Encoding,
    encoding_of,
    found_syntax,
)

StopWhen = Callable[[BaseTag, str | None, int], bool]

_CHARACTER_SET = 0x00080005
_LONG_HEAD_BYTES = 12


def elements_of(
    fp: BinaryIO,
    is_implicit_VR: bool,
    is_little_endian: bool,
    stop_when: StopWhen | None = None,
    defer_size: int | str | float | None = None,
    encoding: str | MutableSequence[str] = default_encoding,
    specific_tags: list[BaseTag | int] | None = None,
) -> Iterator[RawDataElement | DataElement]:
    """Yield elements to the end of the file or of an item; parameters are those of pydicom's generator."""
    by = _encoding(is_implicit_VR, is_little_endian)
    longest = inf if defer_size is None else size_in_bytes(defer_size) or 0
    wanted = {_CHARACTER_SET, *map(int, specific_tags)} if specific_tags else None
    while len(head := fp.read(LOOK_AHEAD_BYTES)) >= 8:
        begin = fp.tell() - len(head)
        is_whole = len(head) < LOOK_AHEAD_BYTES
        number, encoded_vr, length, start = by.head(head, 0, is_implicit=is_implicit_VR, is_whole=is_whole)
        tag, vr, at = BaseTag(number), encoded_vr.decode("latin-1") or None, begin + start
        if number == ITEM_END:
            fp.seek(at)
            return
        if stop_when is not None and stop_when(tag, vr, length):
            fp.seek(begin)
            return
        fp.seek(at)
        is_wanted = wanted is None or number in wanted
        raw: RawDataElement | DataElement
        if length == UNDEFINED_LENGTH:
            raw = _undefined(
                fp, RawDataElement(tag, vr, length, None, at, is_implicit_VR, is_little_endian), encoding, longest
            )
        else:
            is_kept = is_wanted and (length <= longest or number == _CHARACTER_SET or not _is_found_again(vr, start))
            value = _value(fp, vr, length, at, is_kept)
            raw = RawDataElement(tag, vr, length, value, at, is_implicit_VR, is_little_endian)
            if number == _CHARACTER_SET:
                encoding = convert_encodings(convert_string(value or b"", is_little_endian))
        if is_wanted:
            yield raw


def _value(fp: BinaryIO, vr: str | None, length: int, at: int, is_kept: bool) -> Any:
    """Return a value, and move behind it; None if it is not kept."""
    if not is_kept:
        fp.seek(at + length)
        return None
    return fp.read(length) if length else empty_value_for_VR(vr, raw=True)


def _undefined(
    fp: BinaryIO, raw: RawDataElement, encoding: str | MutableSequence[str], longest: float
) -> RawDataElement | DataElement:
    """Return an element of undefined length with its value: a sequence, or fragments."""
    is_little_endian = raw.is_little_endian
    vr = _of_undefined_length(fp, raw.tag, raw.VR, _encoding(raw.is_implicit_VR, is_little_endian))
    if vr == "SQ":
        items = filereader.read_sequence(fp, raw.is_implicit_VR, is_little_endian, raw.length, encoding)
        return DataElement(raw.tag, vr, items, raw.value_tell, is_undefined_length=True)
    fragments = read_undefined_length_value(fp, is_little_endian, BaseTag(SEQUENCE_END), longest)
    return raw._replace(VR=vr, value=fragments)


def is_implicit(
    fp: BinaryIO, implicit_vr_is_assumed: bool, is_little_endian: bool, stop_when: StopWhen | None, is_sequence: bool
) -> bool:
    """Return whether the VR is implicit in what begins here: a data set, or an item of one that is explicit."""
    head = fp.read(8)
    if len(head) < 6 or (is_sequence and implicit_vr_is_assumed):
        return implicit_vr_is_assumed
    if is_sequence and not (head[4:6].isalpha() and head[4:6].isupper()):
        head += fp.read(int.from_bytes(head[4:6], "little") + 8)
    by = _encoding(implicit_vr_is_assumed, is_little_endian)
    return found_syntax(head, by.transfer_syntax_uid) == IMPLICIT_LITTLE_ENDIAN


def _encoding(is_implicit_vr: bool, is_little_endian: bool) -> Encoding:
    explicit = EXPLICIT_LITTLE_ENDIAN if is_little_endian else EXPLICIT_BIG_ENDIAN
    return encoding_of(IMPLICIT_LITTLE_ENDIAN if is_implicit_vr else explicit)


def _of_undefined_length(fp: BinaryIO, tag: int, vr: str | None, by: Encoding) -> str | None:
    """Return the VR of an element whose length is undefined (PS3.5 6.2.2): a UN is a sequence."""
    if vr == "UN":
        return "SQ" if config.settings.infer_sq_for_un_vr else vr
    if vr is not None:
        return vr
    try:
        return dictionary_VR(tag)
    except KeyError:
        begin = fp.tell()
        head = fp.read(8)
        fp.seek(begin)
        return "SQ" if len(head) == 8 and by.head(head, 0, is_implicit=True)[0] == ITEM else None


def _is_found_again(vr: str | None, head_bytes: int) -> bool:
    """Return whether pydicom finds the head of a value that it reads later: not of a UN with a length of two bytes."""
    return vr != "UN" or head_bytes == _LONG_HEAD_BYTES
