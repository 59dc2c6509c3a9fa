"""Clean free text: keep words that are known to say nothing of a person, and drop all others.

A list of names to remove is never complete; a list of words to keep fails safely. It has the words of the standard's
own codes and attributes, anatomy above all, and those of common protocols.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache

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

_UID = r"(?<![0-9.])(?:2\.25\.[0-9]{6,}|(?!1\.2\.840\.10008\.)[0-2](?:\.[0-9]+){5,})"

_TOKEN = re.compile(r"[^\W_]+", re.UNICODE)
_PARAMETER = re.compile(r"[a-z]{0,2}\d{1,4}[a-z]{0,2}")
"""Numbers with units, slice counts, b-values: too short for the number of a patient."""

_YEAR = re.compile(r"(?:19|20)\d\d")
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
MIN_CHARACTERS = 3
"""Shorter identities are part of too many harmless words."""

_SUBSTRING_CHARACTERS = 5
"""Identities of this length are removed from within longer words too."""

_MIN_IDEOGRAPHS = 2
_FIRST_WITHOUT_SPACES = "\u0e00"
"""From Thai on, most scripts write words without spaces between them, and names of two characters."""

_SPELLED_OUT = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa", "æ": "ae", "ß": "ss"})
_STROKES = str.maketrans("øØłŁđĐıħ", "oOlLdDih")
"""How names are written where the keyboard or the character set lacks a letter; strokes are no accents in Unicode."""


@cache
def vocabulary() -> frozenset[str]:
    """Return the words to keep, in lower case."""
    from pydicom.datadict import keyword_dict
    from pydicom.sr.codedict import codes

    keywords = [*keyword_dict, *codes.DCM.dir(), *codes.SCT.dir()]
    words = {word.lower() for keyword in keywords for word in _CAMEL.findall(keyword)}
    return frozenset(words | set(_PROTOCOL.split()))


def is_harmless(word: str) -> bool:
    """Return whether a word of a cleaned text stays."""
    word = word.lower()
    return word in vocabulary() or bool(_PARAMETER.fullmatch(word) and not _YEAR.fullmatch(word))


class Identities:
    """The identities in a data set, to be removed from the text that stays.

    `values`: names, identifiers, addresses and dates as the data set has them. `uids`: remove all UIDs that are not of
    the standard too.
    """

    def __init__(self, values: Iterable[str], *, uids: bool = False) -> None:
        shown = {form for value in values for form in _spellings(" ".join(value.split())) if _is_searched(form)}
        patterns = [_pattern(value) for value in sorted(shown, key=lambda value: (-len(value), value))]
        if uids:
            patterns.insert(0, _UID)
        self._pattern = re.compile("|".join(patterns), re.IGNORECASE) if patterns else None

    def without(self, text: str) -> str:
        """Return a text without these identities, however they are accented; the same object if it has none."""
        if self._pattern is None:
            return text
        plain, places = _plain(text)
        kept, end = [], 0
        for match in self._pattern.finditer(plain):
            kept.append(text[end : places[match.start()]])
            end = places[match.end()]
        return " ".join(" ".join((*kept, text[end:])).split()) if kept else text

    def cleaned(self, text: str) -> str:
        """Return the words of a text that are known to be harmless, and the marks between them."""
        kept: list[str] = []
        end = 0
        without = self.without(text)
        for match in _TOKEN.finditer(without):
            between = without[end : match.start()]
            end = match.end()
            if is_harmless(match[0]):
                kept += [between if kept else "", match[0]]
            elif kept and kept[-1] != " ":
                kept.append(" ")
        return " ".join("".join(kept).split())


def _spellings(value: str) -> tuple[str, ...]:
    """Return an identity without accents, and as it is spelled without the letters that have them."""
    spelled = unicodedata.normalize("NFC", value).lower().translate(_SPELLED_OUT)
    return _plain(value)[0], _plain(spelled)[0]


def _plain(text: str) -> tuple[str, Sequence[int]]:
    """Return a text without accents and wide forms, and where in `text` each of its characters is, and its end."""
    if text.isascii():
        return text, range(len(text) + 1)
    characters, places = [], []
    for place, character in enumerate(text):
        for each in unicodedata.normalize("NFC", _without_marks(character)):
            characters.append(each)
            places.append(place)
    return "".join(characters), [*places, len(text)]


@lru_cache(maxsize=4096)
def _without_marks(character: str) -> str:
    parts = unicodedata.normalize("NFKD", character)
    return "".join(part for part in parts if unicodedata.category(part) != "Mn").translate(_STROKES)


def _has_spaces(value: str) -> bool:
    return all(character < _FIRST_WITHOUT_SPACES for character in value)


def _is_searched(value: str) -> bool:
    characters = len(value) - value.count(" ")
    return characters >= (MIN_CHARACTERS if _has_spaces(value) else _MIN_IDEOGRAPHS)


def _pattern(value: str) -> str:
    """Return the regular expression of an identity, with any or no marks between its words."""
    words = r"[\W_]*".join(map(re.escape, value.split()))
    if len(value) - value.count(" ") >= _SUBSTRING_CHARACTERS or not _has_spaces(value):
        return words
    return rf"(?<![^\W_]){words}(?![^\W_])"
