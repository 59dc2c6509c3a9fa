"""Clean free text: keep words that are known to say nothing of a person, and drop all others.

A list of names to remove is never complete; a list of words to keep fails safely. It has the words of the standard's
own codes and attributes, anatomy above all, and those of common protocols.
"""

import re
import struct
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from functools import cache

from pydicom.charset import python_encoding

from node.dicom.uids import registered_name

_PROTOCOL = """
2d 3d 4d abd abdo acq act adc adj ap art arterial asl avg axi axial b0 bh bold brain brainstem breath breathhold bravo
br bw calf cap card cardiac cervical chest cine ciss clin cor coronal corr cort ct cta ctp cube delay delayed dce
dedicated diff diffusion dir disc dixon dmri dose dti dual dwi dyn dynamic early ecg echo ep ep2d epi fa fast fat
fatsat fgre field fieldmap fiesta fieldmapping fl flair flash flow fmap fmri fov fr fs fse fsdwi full functional gad
gd gradient gre haste head helical high hip hires hr iac in inf inj inv ir ispace iso kidney kv l lat late left leg
lesion liver loc localiser localizer long low lower lumb lumbar lung ma map mapping mask mdc mean mip moco motion mp
mpr mprage mp2rage mr mra mri mrs mrv multi native nav navi neck neuro no noise nm opp opposed pa part pc pcasl pct pd
pelvis perf perfusion pet phase phased philips pix plain plane portal post pre prep prone prostate proton quick r rads
recon ref reformat resp rest resting rf right rotation rs run sag sagittal sat sbref scan scout se sense sequence
series shim short shoulder siemens sinus sl slab slice slices small soft space spair spc spgr spin spine spiral ssfp
stack star state std stir supine swi t1 t2 t2star task te tfe tfl thick thin thorac thoracic thorax time tir tirm tof
topogram tr tra trace tracking trans transversal transverse trig trigger true trufi tse turbo uncorrected upper var
venous vessel vibe view vol volume w wait water wb whole with without wo wip x y z
"""

_UID = r"(?<![0-9.])(?:2\.25\.[0-9]{6,}|[0-2](?:\.[0-9]+){5,})"

_MONTHS = (
    "jan|janv|ene|gen", "feb|fév|fev", "mar|mär|mrt", "apr|avr|abr", "may|mai|maj|mag|mei", "jun|juin|giu",
    "jul|juil|lug", "aug|aoû|aou|ago", "sep|set", "oct|okt|ott|out", "nov", "dec|dez|déc|dic|des",
)  # fmt: skip
"""How months begin in the languages of Western Europe."""

_MONTH = rf"(?:{'|'.join(_MONTHS)})[^\W\d_]*"
_ORDINAL = "(?:st|nd|rd|th)?"
_GAP = r"[\s.,/_-]*"
_WRITTEN_DATES = rf"""
(?<![^\W_]) (?: \d{{1,2}}{_ORDINAL}{_GAP}{_MONTH}{_GAP}(?:\d{{4}}|\d\d)
  | {_MONTH}{_GAP}\d{{1,2}}{_ORDINAL}{_GAP}(?:\d{{4}}|(?<!\d)\d\d)
  | (?:19|20)\d\d{_GAP}{_MONTH}{_GAP}\d{{1,2}}
  | (?:19|20)\d\d([-./_])(?:0?[1-9]|1[0-2])\1(?:0?[1-9]|[12]\d|3[01])
  | (?:0?[1-9]|[12]\d|3[01])([-./_])(?:0?[1-9]|[12]\d|3[01])\2(?:19|20)\d\d
) (?![^\W_])"""
_ADDRESSES = r"""
  [^\s@<>()]{1,64}@[^\s@<>()]{1,255}\.[^\W\d_]+
  | (?:https?|ftp|file)://\S+ | (?<![^\W_])www\.\S+"""
_TELEPHONE = r"""
  (?<![\w.]) (?: \+\d (?:[\s()./-]{0,2}\d){6,} | \(?0\d (?:\d|[\s()/-]{1,2}\d){6,}
  | \(?\d{3}\)?[\s./-]\s?\d{3}[\s./-]\d{4} ) (?![\w])"""
_NUMBER_IN_PARTS = r"(?<![\w.]) \d (?:[\s()./-]{0,2}\d){6,} (?!\w)"
"""Seven digits and more with marks between them: a telephone number or a date, and parameters of some protocols."""


@cache
def _forms(*more: str) -> re.Pattern[str]:
    """Return the pattern of what is an identity by its form, whomever it is of."""
    return re.compile("|".join((_ADDRESSES, _TELEPHONE, *more)), re.IGNORECASE | re.VERBOSE)


_TOKEN = re.compile(
    r"(?<![^\W_])(?<!\.)\d+(?:\.\d+)?(?:x\d+(?:\.\d+)?)*(?:%|[a-zA-Z]{0,2})(?![^\W_]|\.\d)|[^\W_]+", re.IGNORECASE
)
_YEAR = re.compile(r"19\d\d|20(?!00)\d\d")
"""Not 2000, a usual time of repetition and b-value, where a number is named."""

_NUMBER = r"(?:0|[1-9]\d{0,3})"
_SIZE = rf"{_NUMBER}(?:\.\d{{1,3}})?"
_UNITS = (
    "% mm cm ms msec s sec min hz khz mhz kv kvp kev ma mas gy mgy mbq ml cc deg t iso ch channels dir dirs directions"
)
_NAMED = (
    "te tr ti fa etl nex nsa ipat grappa mb dir bed delay dyn dynamic echo phase pass run sense series slab slice step"
    " volume"
)
_PARAMETER = re.compile(
    rf"(?:{_NAMED.replace(' ', '|')}){_NUMBER}(?:ms|deg)?|{_SIZE}(?:{_UNITS.replace(' ', '|')})"
    rf"|[clprsx][1-9]|[1-9]x|b(?:0|[1-9]0?|[1-9]\d?[05]0)|{_SIZE}(?:x{_SIZE}){{1,2}}(?:mm)?|[bdhit]\d\d[fhms]"
)
"""Numbers that name what they measure: times, those with a unit, acceleration, vertebrae, b-values, sizes, kernels."""

_BARE = re.compile(rf"\d\.\d{{1,3}}|[1-9]\d\.0|{_NUMBER}")
_BEFORE = frozenset(f"{_NAMED} b flip angle fov kv kvp ma mas matrix sl slices thick thickness tesla vol".split())
_BEHIND = frozenset(f"{_UNITS} echoes matrix phases slices views vols volumes".split())
"""Words before and behind a number that make it a parameter: alone, it may be an age, a room or a day."""

_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
MIN_CHARACTERS = 3
"""Shorter identities are part of too many harmless words."""

_SUBSTRING_CHARACTERS = 5
"""Identities of this length are removed from within longer words too."""

_IN_BYTES_CHARACTERS = 4
"""Shorter identities are among any bytes by chance."""

_WIDE = ("utf-16-le", "utf-16-be")
_PARTS = {"ascii", "UTF8", "utf_8", "utf8", "latin_1", "iso8859", "GB2312", "GBK", "iso_ir_58", "iso2022_jp"}
_ENCODINGS = ("utf-8", *sorted({*python_encoding.values()} - _PARTS))
"""Of texts in bytes: all that a data set may have (PS3.3 C.12.1.1.2), whatever it says of its own texts; but for those
that are others, or parts of them."""

_LONG_TEXT = 1 << 16
"""A table of all characters takes the time of so many."""

_MAX_REMEMBERED_BYTES = 64
"""Numbers are few and come often."""

_MIN_DIGITS, _MAX_DIGITS = 5, 20
"""Numbers of persons are searched for among numbers from this length on: shorter ones are distances and counts."""

_DIGITS = re.compile(r"\d+")
_DATE = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")
_BINARY = {"FD": "<d", "FL": "<f", "SL": "<i", "SV": "<q", "UL": "<i", "UV": "<q"}

_MIN_IDEOGRAPHS = 2
_FIRST_WITHOUT_SPACES = "\u0e00"
"""From Thai on, most scripts write words without spaces between them, and names of two characters."""

_LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "ı": "i", "ħ": "h", "æ": "ae", "œ": "oe", "þ": "th"})
"""How names are written where the keyboard or the character set lacks a letter; strokes are no accents in Unicode."""

_MARKS = frozenset("'`\u00b4\u05f3\u0640\u2018\u2019\u201b\u2032\ua78c\uff07" + "".join(map(chr, range(0x2B9, 0x2D0))))
"""Apostrophes, primes and tatweel, which are one mark in a folded text, as hyphens and what has no width are."""

_SPELLED = {"a": "a[ae]?", "o": "oe?", "u": "ue?", "s": "ss?"}
"""Letters that may be spelled as two: ä and å, ö, ü, ß."""


@cache
def vocabulary() -> frozenset[str]:
    """Return the words to keep, in lower case."""
    from pydicom.datadict import keyword_dict
    from pydicom.sr.codedict import codes

    keywords = [*keyword_dict, *codes.DCM.dir(), *codes.SCT.dir()]
    words = {word.lower() for keyword in keywords for word in _CAMEL.findall(keyword)}
    return frozenset(words | set(_PROTOCOL.split()) | _BEFORE | _BEHIND)


def is_vocabulary(text: str) -> bool:
    """Return whether a text has only words of the standard: a code such as TEXT, though somebody may be called so."""
    return all(word.lower() in vocabulary() for word in _TOKEN.findall(text.replace("_", " ")))


def is_harmless(word: str, before: str = "", behind: str = "") -> bool:
    """Return whether a word of a cleaned text stays, between two others.

    A number stays as a parameter that is named: by letters of its own, or by a neighbour. A year never does.
    """
    word = word.lower()
    if word in vocabulary() or (_PARAMETER.fullmatch(word) and not _YEAR.search(word)):
        return True
    is_named = before.lower() in _BEFORE or behind.lower() in _BEHIND or "." in word
    return is_named and _BARE.fullmatch(word) is not None and not _YEAR.fullmatch(word)


def _in_32_bits(number: int) -> int:
    """Return what the VR FL holds of a number."""
    [held] = struct.unpack("<f", struct.pack("<f", number))
    return int(held)


class Numbers:
    """The numbers among identities, to be found where a number stays."""

    def __init__(self, values: Iterable[str] = (), dates: Iterable[str] = ()) -> None:
        found = {run for value in values for run in (*_DIGITS.findall(value), "".join(_DIGITS.findall(value)))}
        for year, month, day in filter(None, map(_parts, dates)):
            found |= {year + month + day, day + month + year, month + day + year}
        whole = (run.lstrip("0") for run in found)
        exact = {int(run) for run in whole if _MIN_DIGITS <= len(run) <= _MAX_DIGITS}
        self._numbers = frozenset(exact | {_in_32_bits(number) for number in exact})
        self._stored = {
            vr: [
                struct.pack(form, number)
                for number in self._numbers
                if form in ("<d", "<f") or number < 1 << (8 * struct.calcsize(form) - 1)
            ]
            for vr, form in _BINARY.items()
        }

    def has(self, value: object) -> bool:
        """Return whether a number, or the text of one, is that of a person."""
        try:
            number = Decimal(str(value).strip())
            return number.adjusted() < _MAX_DIGITS and abs(int(number)) in self._numbers
        except (ArithmeticError, ValueError):  # no number, or one without end
            return False

    def are_in(self, stored: bytes | None, vr: str) -> bool:
        """Return whether one of these numbers may be among those that are encoded in little endian."""
        return stored is not None and any(number in stored for number in self._stored.get(vr, ()))


class Identities:
    """The identities in a data set, to be removed from the text that stays.

    Both are compared in one folded form: without case, accents and wide forms, and with one mark for all hyphens and
    apostrophes.

    `values`: names, identifiers and addresses as the data set has them. `dates`: in the form of DA or DT. `uids`:
    remove all UIDs that are not of the standard too. `keeps_dates`: dates of which nobody knows whose they are stay.
    """

    def __init__(
        self, values: Iterable[str], dates: Iterable[str] = (), *, uids: bool = False, keeps_dates: bool = False
    ) -> None:
        values, dates = list(values), list(dates)
        shown = {form for value in values if _is_searched(form := _folded(" ".join(value.split()))[0])}
        spoiled = {_folded(one)[0] for value in values if not value.isascii() for one in _spoiled(value)}
        of_texts = sorted(shown | {*filter(_is_searched, spoiled)}, key=lambda value: (-len(value), value))
        patterns = [_pattern(value) for value in of_texts]
        patterns += sorted({_date_pattern(*parts) for parts in map(_parts, dates) if parts})
        long = (each for each in sorted(shown) if len(each) >= _IN_BYTES_CHARACTERS or not _has_spaces(each))
        self._in_bytes = _compiled([_pattern(each) for each in long])
        self._encodings = [each for each in _ENCODINGS if any(_is_special_in(value, each) for value in values)]
        self._are_in_few_bytes = cache(self._are_in_bytes)
        if uids:
            patterns.insert(0, _UID)
        self._pattern = _compiled(patterns)
        self._dates = () if keeps_dates else (_WRITTEN_DATES,)
        self.numbers = Numbers(values, dates)

    def without(self, text: str, *, forms: bool = False) -> str:
        """Return a text without these identities, however they are accented; the same object if it has none.

        `forms`: nor with what is an identity by its form: telephone numbers, addresses, dates that people wrote.
        """
        text = self._removed(text, self._pattern)
        return self._removed(text, _forms(*self._dates)) if forms else text

    def are_in(self, texts: Iterable[str]) -> bool:
        """Return whether one of the texts has one of these identities."""
        return any(self.without(each) != each for each in texts)

    def are_in_bytes(self, value: bytes) -> bool:
        """Return whether bytes have one of these identities of four characters or more, in whatever encoding."""
        if self._in_bytes is None or len(value) < _IN_BYTES_CHARACTERS:
            return False
        return (self._are_in_few_bytes if len(value) <= _MAX_REMEMBERED_BYTES else self._are_in_bytes)(value)

    def _are_in_bytes(self, value: bytes) -> bool:
        return self._in_bytes is not None and any(
            self._in_bytes.search(_folded_text(text)) for text in self._texts_in(value)
        )

    def _texts_in(self, value: bytes) -> Iterator[str]:
        words = bytearray(value[: len(value) // 2 * 2])
        words[::2], words[1::2] = words[1::2], words[::2]
        yield words.decode("latin-1")  # as words that a system of the other byte order has written
        of_any = () if value.isascii() and b"\x1b" not in value else self._encodings
        for each in ("latin-1", *_WIDE, *of_any):
            for start in range(2 if each in _WIDE else 1):
                yield value[start:].decode(each, "ignore")

    def _removed(self, text: str, pattern: re.Pattern[str] | None) -> str:
        if pattern is None:
            return text
        plain, places = _folded(text)
        kept, end = [], 0
        for match in pattern.finditer(plain):
            if registered_name(match[0]) is not None:
                continue
            kept.append(text[end : places[match.start()]])
            end = places[match.end()]
        return " ".join(" ".join((*kept, text[end:])).split()) if kept else text

    def cleaned(self, text: str) -> str:
        """Return the words of a text that are known to be harmless, and the marks between them."""
        kept: list[str] = []
        end = 0
        without = self._removed(self.without(text), _forms(*self._dates, _NUMBER_IN_PARTS))
        found = [*_TOKEN.finditer(without)]
        words = ["", *(match[0] for match in found), ""]
        for match, before, behind in zip(found, words, words[2:], strict=False):
            between = without[end : match.start()]
            end = match.end()
            if is_harmless(match[0], before, behind):
                kept += [between if kept else "", match[0]]
            elif kept and kept[-1] != " ":
                kept.append(" ")
        return " ".join("".join(kept).split())


def _spoiled(value: str) -> tuple[str, str]:
    """Return a text as programs show it that take it for another character set, and without letters beyond ASCII."""
    return value.encode("utf-8", "replace").decode("latin-1"), re.sub("[^\0-\x7f]", "?", value)


def _is_special_in(value: str, encoding: str) -> bool:
    """Return whether an encoding has all characters of a text, and not by the bytes of Latin-1."""
    try:
        return value.encode(encoding) != value.encode("latin-1", "replace")
    except UnicodeEncodeError:
        return False


def _folded(text: str) -> tuple[str, Sequence[int]]:
    """Return a text as names are compared, and where in `text` each of its characters is, and its end.

    Hyphens and apostrophes of all kinds are ``-``.
    """
    if text.isascii():
        return text.translate(_FOLDED), range(len(text) + 1)
    characters, places = [], []
    for place, character in enumerate(text):
        for each in _FOLDED[ord(character)]:
            characters.append(each)
            places.append(place)
    return "".join(characters), [*places, len(text)]


def _folded_character(character: str) -> str:
    parts = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    bare = "".join(part for part in parts if unicodedata.category(part) != "Mn").translate(_LETTERS)
    bare = "".join(chr(ord(each) - 0x60) if "\u30a1" <= each <= "\u30f6" else each for each in bare)  # to hiragana
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    is_mark = character in _MARKS or unicodedata.category(character) in ("Pd", "Cf")
    return "-" if is_mark else unicodedata.normalize("NFC", bare)


class _Folded(dict[int, str]):
    """What `str.translate` folds characters to."""

    def __missing__(self, character: int) -> str:
        return self.setdefault(character, _folded_character(chr(character)))


_FOLDED = _Folded()


@cache
def _table() -> tuple[re.Pattern[str], Callable[[bytes], bytes]]:
    """Return the pattern of characters that are not folded to one of 16 bits, and what folds UTF-16 of all others."""
    import numpy as np

    folded = [_FOLDED[character] for character in range(1 << 16)]
    single = np.array([ord(each) if len(each) == 1 else 1 << 16 for each in folded])
    others = "".join(re.escape(chr(place)) for place in np.flatnonzero(single >> 16))
    table = single.astype("<u2")
    return re.compile(f"[{others}\U00010000-\U0010ffff]"), lambda data: table[np.frombuffer(data, "<u2")].tobytes()


def _folded_text(text: str) -> str:
    """Return a text as `_folded` does; one of megabytes in a fraction of the time."""
    if text.isascii() or len(text) < _LONG_TEXT:
        return text.translate(_FOLDED)
    others, fold = _table()
    single = others.sub(lambda found: _FOLDED[ord(found[0])], text)
    return str(fold(single.encode("utf-16-le", "surrogatepass")), "utf-16-le", "surrogatepass")


def _has_spaces(value: str) -> bool:
    return all(character < _FIRST_WITHOUT_SPACES for character in value)


def _is_searched(value: str) -> bool:
    characters = sum(map(str.isalnum, value))
    return characters >= (MIN_CHARACTERS if _has_spaces(value) else _MIN_IDEOGRAPHS)


def _pattern(value: str) -> str:
    """Return the regular expression of a folded identity, with any or no marks between its words."""
    words = r"[\W_]*".join(map(_word_pattern, re.findall(r"[^\W_]+", value)))
    if sum(map(str.isalnum, value)) >= _SUBSTRING_CHARACTERS or not _has_spaces(value):
        return words
    edge = r"[^\W\d_]" if value.isalpha() else r"[^\W_]"
    return rf"{words[0]}(?<!{edge}.){words[1:]}(?!{edge})"  # a search is fast if it begins with a letter


def _word_pattern(word: str) -> str:
    """Return the regular expression of a word: a number in parts, or letters as one or two, with marks between.

    Between the letters of a long word, or of one that is written without spaces, any mark or space may be.
    """
    if word.isdecimal() and len(word) > _SUBSTRING_CHARACTERS:
        return r"[\s./-]?".join(word)
    if not word.isalpha():
        return re.escape(word)
    letters = re.sub("a[ae]|oe|ue|ss", lambda found: found[0][0], word)
    if len(letters) < MIN_CHARACTERS:
        letters = word
    mark = r"[\W_]?" if len(letters) >= _SUBSTRING_CHARACTERS or not _has_spaces(word) else "-?"
    return mark.join(_SPELLED.get(each, re.escape(each)) for each in letters)


def _compiled(patterns: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(patterns)) if patterns else None


def _parts(date: str) -> tuple[str, str, str] | None:
    """Return year, month and day of a DA or DT; None if it is no whole day."""
    match = _DATE.match(date.strip())
    return (match[1], match[2], match[3]) if match and 1 <= int(match[2]) <= 12 else None


def _date_pattern(year: str, month: str, day: str) -> str:
    """Return the regular expression of a day as people write it, with any marks or the name of the month."""
    loose_day, name = f"0?{int(day)}{_ORDINAL}", rf"(?:{_MONTHS[int(month) - 1]})[^\W\d_]*"
    loose_month, loose_year = f"0?{int(month)}", f"(?:{year[:2]})?{year[2:]}"
    forms = [r"[\W_]*".join(order) for order in ((year, month, day), (day, month, year), (month, day, year))]
    forms += [
        r"[\W_]+".join(order)
        for order in (
            (loose_day, loose_month, loose_year),
            (loose_month, loose_day, loose_year),
            (loose_year, loose_month, loose_day),
        )
    ]
    forms += [
        r"[\W_]*".join(order)
        for order in ((loose_day, name, loose_year), (name, loose_day, loose_year), (loose_year, name, loose_day))
    ]
    return rf"(?<!\d)(?:{'|'.join(forms)})(?!\d)"
