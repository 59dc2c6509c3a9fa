"""Text with code extensions (ISO 2022), PS3.5 6.1.2.4 and 6.1.2.5; pydicom decodes all other text.

pydicom decodes each part behind an escape sequence by itself. It therefore keeps the sequence of ISO 2022 IR 58 in the
text, forgets what a sequence designated as soon as the next one comes, and divides a Japanese name within a character
whose code has the byte of ``=``. Here, designations are a state: a sequence changes G0 or G1, and a delimiter sets both
back to those of the first value of Specific Character Set (0008,0005). Sequences that (0008,0005) does not announce are
followed all the same.

Elements are read by pydicom, with heads by `node.dicom.encoding`: pydicom takes unknown VR for implicit ones.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Iterator, MutableSequence, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby
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

ESCAPE = b"\x1b"

LINE_DELIMITERS = frozenset(b"\t\n\f\r")
DELIMITERS = {"PN": LINE_DELIMITERS | frozenset(b"\\^="), **dict.fromkeys(("LO", "SH", "UC"), LINE_DELIMITERS | {0x5C})}
"""Bytes that end designations, by value representation (PS3.5 6.1.2.5.3); `LINE_DELIMITERS` of other ones."""

NEW_CODECS = {"ISO_IR 203": "iso8859_15", "ISO 2022 IR 203": "iso8859_15"}
"""Python's codecs of defined terms that pydicom does not know: Latin alphabet No. 9 (PS3.3 C.12.1.1.2)."""

_SINGLE = frozenset(("ST", "LT", "UT"))  # a backslash is text in them
_TEXT = _SINGLE | DELIMITERS.keys()
_BINARY = frozenset(("OB", "OW", "OF", "OD", "OL", "OV"))

WITHOUT_EXTENSIONS = frozenset(("utf8", "gb18030", "gbk"))
"""Codecs of character sets in which escape sequences are not allowed."""

_ESCAPE_SEQUENCE = re.compile(rb"(\x1b[\x20-\x2f]+[\x30-\x7e])")
_TWO_BYTES = {  # in G0: the sequence is that of Python's codec
    b"\x1b$@": "iso2022_jp",  # JIS C 6226: the first edition of JIS X 0208
    b"\x1b$B": "iso2022_jp",
    b"\x1b$(D": "iso2022_jp_2",
}
_ONE_BYTE = frozenset((b"\x1b(B", b"\x1b(J"))  # in G0: ISO 646, as ASCII or as its Japanese variant
_HIGH = {
    b"\x1b)I": "shift_jis",  # katakana of JIS X 0201
    b"\x1b$)A": "gb2312",
    b"\x1b$)C": "euc_kr",
    b"\x1b-A": "latin_1",
    b"\x1b-B": "iso8859_2",
    b"\x1b-C": "iso8859_3",
    b"\x1b-D": "iso8859_4",
    b"\x1b-F": "iso8859_7",
    b"\x1b-G": "iso8859_6",
    b"\x1b-H": "iso8859_8",
    b"\x1b-L": "iso8859_5",
    b"\x1b-M": "iso8859_9",
    b"\x1b-T": "iso8859_11",
    b"\x1b-b": "iso8859_15",
}  # in G1
_OF_FIRST = {
    "iso2022_jp": "latin_1", "iso2022_jp_2": "latin_1", "iso8859": "latin_1", "iso_ir_58": "gb2312",
    "iso_ir_166": "iso8859_11",
}  # fmt: skip
"""Codecs for the high bytes of the character sets that have others, or none, where pydicom names their codecs."""

_TO_HIGH = {codecs.lookup(codec).name: escape for escape, codec in _HIGH.items()}
_TO_TWO_BYTES = {"iso2022_jp": b"\x1b$B", "iso2022_jp_2": b"\x1b$(D"}

StopWhen = Callable[[BaseTag, str | None, int], bool]

_CHARACTER_SET = 0x00080005
_LONG_HEAD_BYTES = 12


def decoded(raw: bytes, encodings: Iterable[str], vr: str) -> str:
    """Return the text of a value; what is not encoded as it should be becomes U+FFFD.

    `raw`: the value, with all its components and values.
    `encodings`: Python's names of the character sets, as `pydicom.charset.convert_encodings` gives them.
    """
    first = next(iter(encodings), "iso8859")
    if first.lower() in WITHOUT_EXTENSIONS:
        return raw.decode(first, "replace")
    delimiters, initial = DELIMITERS.get(vr, LINE_DELIMITERS), _OF_FIRST.get(first, first)
    two_bytes, high, text = b"", initial, []
    for part in _ESCAPE_SEQUENCE.split(raw):
        if part in _TWO_BYTES:
            two_bytes = part
        elif part in _ONE_BYTE:
            two_bytes = b""
        elif part in _HIGH:
            high = _HIGH[part]
        elif part:
            # In two-byte codes, the byte of a printable delimiter is half of a character.
            ends = LINE_DELIMITERS if two_bytes else delimiters
            end = next((at for at, byte in enumerate(part) if byte in ends), None)
            designated = part[:end]
            text.append((two_bytes + designated).decode(_TWO_BYTES.get(two_bytes, high), "replace"))
            if end is not None:
                two_bytes, high = b"", initial
                text.append(part[end:].decode(initial, "replace"))
    return "".join(text)


@dataclass(frozen=True, slots=True)
class CharacterSet:
    """How the text of a data set is encoded: values of (0008,0005), and Python's names of their character sets."""

    terms: tuple[str, ...]
    encodings: tuple[str, ...]

    def encode(self, text: str, vr: str) -> bytes:
        """Return the bytes of a value, from which `decoded` returns the text; raise UnicodeError if they lack a sign.

        Designations begin anew behind each delimiter (PS3.5 6.1.2.5.3).
        """
        if text.isascii() or self is UTF_8:
            return text.encode()
        if self.encodings[0].lower() in WITHOUT_EXTENSIONS:
            encoded = text.encode(self.encodings[0])
        else:
            delimiters = re.escape(bytes(DELIMITERS.get(vr, LINE_DELIMITERS)).decode("ascii"))
            encoded = b"".join(map(self._designated, re.split(f"([{delimiters}])", text)))
        if vr not in _TEXT or decoded(encoded, self.encodings, vr) != text:
            raise UnicodeError
        return encoded

    def _designated(self, part: str) -> bytes:
        """Return text without a delimiter, with the escape sequences of what the first character set lacks."""
        high, chunks = codecs.lookup(_OF_FIRST.get(self.encodings[0], self.encodings[0])).name, []
        for codec, run in groupby(part, self._holding):
            text = "".join(run)
            if codec in _TO_TWO_BYTES:
                back = b"\x1b(J" if self.encodings[0] == "shift_jis" else b"\x1b(B"
                chunks.append(text.encode(codec).removesuffix(b"\x1b(B") + back)
                continue
            if codec not in ("ascii", high):
                chunks.append(_TO_HIGH[codec])
                high = codec
            chunks.append(text.encode(codec))
        return b"".join(chunks)

    def _holding(self, sign: str) -> str:
        """Return the codec of the first character set that has a sign, or raise UnicodeError."""
        if sign.isascii():
            return "ascii"
        for encoding in self.encodings:
            codec = encoding if encoding in _TO_TWO_BYTES else codecs.lookup(_OF_FIRST.get(encoding, encoding)).name
            encoded = sign.encode(codec, "ignore") if encoding != "iso8859" else b""  # which is ISO 646 alone
            if codec in _TO_TWO_BYTES:
                is_held = encoded.startswith(_TO_TWO_BYTES[codec])
            else:
                is_held = len(encoded) == 1 if codec == "shift_jis" else bool(encoded)
            if is_held:
                return codec
        raise UnicodeError


UTF_8 = CharacterSet(("ISO_IR 192",), ("utf8",))


def character_set_of(terms: Sequence[str]) -> CharacterSet:
    """Return the character set that values of (0008,0005) name, with their usual misspellings; else UTF-8."""
    complete_pydicom()
    from pydicom.charset import STAND_ALONE_ENCODINGS, python_encoding

    known = {plain_term(term): term for term in python_encoding}
    found = tuple(known.get(plain_term(term), "unknown") for term in terms)
    if not any(found) or "unknown" in found or (len(found) > 1 and not {*STAND_ALONE_ENCODINGS}.isdisjoint(found)):
        return UTF_8
    return UTF_8 if found == UTF_8.terms else CharacterSet(found, tuple(python_encoding[term] for term in found))


def plain_term(term: str) -> str:
    """Return the letters and digits of a name of a character set, by which its spellings are the same."""
    return re.sub("[^0-9A-Z]", "", term.upper())


def encoded(value: str, errors: str = "strict") -> bytes:
    """Return text in ISO 646 and GB 2312, with its escape sequence before the Chinese of each line (PS3.5 K.3)."""
    lines = re.split("([\t\n\f\r\\\\]+)", value)
    return b"".join((b"" if line.isascii() else b"\x1b$)A") + line.encode("gb2312", errors) for line in lines)


@cache
def complete_pydicom() -> None:
    """Let pydicom decode code extensions by `decoded`, write ISO 2022 IR 58 by `encoded`, and know `NEW_CODECS`.

    It also reads the heads of elements as `node.dicom.encoding` does.
    """
    from pydicom import charset  # here: finding files needs no pydicom
    from pydicom.hooks import hooks, raw_element_value
    from pydicom.multival import MultiValue
    from pydicom.valuerep import PersonName

    class DecodedName(PersonName):
        """A name whose text is right: decoding its bytes again would be wrong, as `decoded` tells."""

        def decode(self, encodings: Any = None) -> PersonName:
            return self

    def value_of(raw: Any, data: dict[str, Any], *, encoding: Any = None, **others: Any) -> None:
        # Half a million values of a time series come through here: their VR is asked for only if one has a sequence.
        has_sequence = raw.VR not in _BINARY and isinstance(raw.value, bytes) and ESCAPE in raw.value
        vr = str(data["VR"]) if has_sequence else ""
        if vr not in _TEXT:
            raw_element_value(raw, data, encoding=encoding, **others)
            return
        encodings = [encoding] if isinstance(encoding, str) else encoding or ()
        text = decoded(raw.value, encodings, vr)
        stripped = [value.rstrip("\0 ") for value in ([text] if vr in _SINGLE else text.split("\\"))]
        kind = partial(DecodedName, encodings=encodings) if vr == "PN" else str
        data["value"] = kind(stripped[0]) if len(stripped) == 1 else MultiValue(kind, stripped)

    replace_generator()
    hooks.register_callback("raw_element_value", value_of)
    charset.python_encoding.update(NEW_CODECS)
    charset.CODES_TO_ENCODINGS[b"\x1b-b"] = "iso8859_15"
    charset.ENCODINGS_TO_CODES["iso8859_15"] = b"\x1b-b"
    charset.custom_encoders["iso_ir_58"] = encoded


def replace_generator() -> None:
    """Let pydicom read elements, on all levels, by `elements_of` and `is_implicit`."""
    for name, function in {"data_element_generator": elements_of, "_is_implicit_vr": is_implicit}.items():
        setattr(filereader, name, function)


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
