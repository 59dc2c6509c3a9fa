"""Clean free text: keep words that are known to say nothing of a person, and drop all others.

A list of names to remove is never complete; a list of words to keep fails safely. It has the words of the standard's
own codes and attributes, anatomy above all, and those of common protocols.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

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

_UID = r"(?<![0-9.])(?!1\.2\.840\.10008\.)[0-2](?:\.[0-9]+){5,}"

_TOKEN = re.compile(r"[^\W_]+", re.UNICODE)
_PARAMETER = re.compile(r"[a-z]{0,2}\d{1,4}[a-z]{0,2}")
"""Numbers with units, slice counts, b-values: too short for the number of a patient."""

_YEAR = re.compile(r"(?:19|20)\d\d")
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
MIN_CHARACTERS = 3
"""Shorter identities are part of too many harmless words."""

_SUBSTRING_CHARACTERS = 5
"""Identities of this length are removed from within longer words too."""


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

    Parameters
    ----------
    values : iterable of str
        Names, identifiers, addresses and dates as the data set has them.
    uids : bool
        Remove all UIDs that are not of the standard too.
    """

    def __init__(self, values: Iterable[str], *, uids: bool = False) -> None:
        shown = sorted({value.strip() for value in values if len(value.strip()) >= MIN_CHARACTERS}, key=len)
        patterns = [
            re.escape(value) if len(value) >= _SUBSTRING_CHARACTERS else rf"(?<![^\W_]){re.escape(value)}(?![^\W_])"
            for value in reversed(shown)
        ]
        if uids:
            patterns.insert(0, _UID)
        self._pattern = re.compile("|".join(patterns), re.IGNORECASE) if patterns else None

    def without(self, text: str) -> str:
        """Return a text without these identities; the same object if it has none."""
        if self._pattern is None or not self._pattern.search(text):
            return text
        return " ".join(self._pattern.sub(" ", text).split())

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
