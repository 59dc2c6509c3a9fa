"""Text with code extensions (ISO 2022), PS3.5 6.1.2.4 and 6.1.2.5; pydicom decodes all other text.

pydicom decodes each part behind an escape sequence by itself. It therefore keeps the sequence of ISO 2022 IR 58 in the
text, forgets what a sequence designated as soon as the next one comes, and divides a Japanese name within a character
whose code has the byte of ``=``. Here, designations are a state: a sequence changes G0 or G1, and a delimiter sets both
back to those of the first value of Specific Character Set (0008,0005). Sequences that (0008,0005) does not announce are
followed all the same.
"""

import codecs
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby
from typing import Any

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
    from pydicom import charset, filereader  # here: finding files needs no pydicom
    from pydicom.hooks import hooks, raw_element_value
    from pydicom.multival import MultiValue
    from pydicom.valuerep import PersonName

    from node.dicom.element_generator import elements_of, is_implicit

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

    for name, function in {"data_element_generator": elements_of, "_is_implicit_vr": is_implicit}.items():
        setattr(filereader, name, function)
    hooks.register_callback("raw_element_value", value_of)
    charset.python_encoding.update(NEW_CODECS)
    charset.CODES_TO_ENCODINGS[b"\x1b-b"] = "iso8859_15"
    charset.ENCODINGS_TO_CODES["iso8859_15"] = b"\x1b-b"
    charset.custom_encoders["iso_ir_58"] = encoded
