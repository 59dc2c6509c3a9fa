"""Look for what leaked: every value that a profile takes out of a data set is searched for in the bytes of the result.

This knows nothing of how `instance.deidentified` works, except which attributes the table lists.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

from node.dicom.uids import STANDARD_ROOT
from node.dicom.values import CONVERSION_ERRORS
from node.extensions.deidentify.elements import DUMMIES, TEXT_VRS, private_creators, safe_private_vr
from node.extensions.deidentify.profile import AttributeAction, Option, Profile
from node.extensions.deidentify.text import is_harmless, vocabulary

MIN_CHARACTERS = 3
_SEARCHED_CHARACTERS = 6
"""Shorter values are found only as whole values or words: as parts of others, they occur by chance."""

_SEARCHED = frozenset(("AE", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UN", "UR", "UT"))
"""Numbers, also as text, are not identities; and pixels are looked at, not searched."""

_HARMLESS = frozenset(str(dummy).casefold() for dummy in DUMMIES.values())

_NUMERIC = frozenset(("DS", "IS"))
_UID = re.compile(r"[0-9.]{6,64}")
_PERSONAL = frozenset(("DA", "DT", "PN", "TM"))
_WORD = re.compile(rb"[0-9A-Za-z\x80-\xff]+")


@dataclass(frozen=True, slots=True)
class Leak:
    """A value of the original in the result: where it was, and the value, which is patient data."""

    tag: str
    value: str


def leaks(original: Dataset, result: bytes, profile: Profile) -> list[Leak]:
    """Return the values that should be gone and are not.

    Values that the original has in another place too, where they may stay, are no leaks; of private elements and
    cleaned texts also not if they are part of such a value. Nor are harmless words of cleaned texts, times of day of
    dates that are shifted, and numbers in UIDs that are kept.

    `original`: as it was received.
    `result`: the de-identified instance without its pixels, or any other file made of it, such as a sidecar.
    """
    kept: set[str] = set()
    removed: dict[str, tuple[BaseTag, str]] = {}
    for tag, vr, texts, stays in _values(original, profile):
        for each in texts:
            if stays:
                kept.add(each.casefold())
            else:
                removed.setdefault(each, (tag, vr))
    content = result.lower()
    words = set(_WORD.findall(content))
    harmless = kept | vocabulary() | _HARMLESS
    uids_kept = "\n".join(each for each in kept if _UID.fullmatch(each))
    texts_kept = "\n".join(kept)
    found = []
    for each, (tag, vr) in removed.items():
        folded = each.casefold()
        loose = tag.is_private or profile.action(tag) is AttributeAction.CLEAN
        if folded in harmless or folded in (texts_kept if loose else uids_kept):
            continue
        if _is_in(each, content, words):
            found.append(Leak(f"({tag.group:04X},{tag.element:04X}) {vr}", each))
    return found


def _is_in(value: str, content: bytes, words: set[bytes]) -> bool:
    forms = {value.casefold().encode("utf-8", "surrogateescape")}
    if value.isascii():
        return any(
            form in content if len(form) >= _SEARCHED_CHARACTERS and not form.isdigit() else form in words
            for form in forms
        )
    forms |= {value.lower().encode(name, "ignore") for name in ("latin-1", "shift_jis", "euc_kr", "gb18030")}
    return any(form in content for form in forms if len(form) >= MIN_CHARACTERS)


def _values(ds: Dataset, profile: Profile) -> Iterator[tuple[BaseTag, str, list[str], bool]]:
    """Yield tag, VR, texts and whether they may stay, of all elements to any depth."""
    creators = private_creators(ds)
    for tag in list(ds.keys()):
        if Option.SAFE_PRIVATE in profile.options and safe_private_vr(tag, creators):
            continue
        try:
            element = ds[tag]
            vr, value = str(element.VR), element.value
        except CONVERSION_ERRORS:
            continue
        if vr == "SQ":
            for item in value or ():
                yield from _values(item, profile)
        elif value is not None and tag.element != 0 and not tag.is_private_creator and vr in _SEARCHED | _NUMERIC:
            yield from _searched(tag, vr, value, profile.action(tag))


def _searched(
    tag: BaseTag, vr: str, value: object, action: AttributeAction | None
) -> Iterator[tuple[BaseTag, str, list[str], bool]]:
    texts = [text for text in _texts(vr, value) if len(text) >= MIN_CHARACTERS]
    listed = action is not None or tag.is_private
    if vr in _NUMERIC:
        if not listed:
            yield tag, vr, texts, True
        return
    if action is AttributeAction.CLEAN and vr in TEXT_VRS:
        texts = [word for text in texts for word in re.findall(r"[^\W_]{3,}", text) if not is_harmless(word)]
    if vr == "UI":
        texts = [text for text in texts if not text.startswith(STANDARD_ROOT)]
    of_shifted_date = action is AttributeAction.CLEAN and (vr == "TM" or tag == 0x00080201)  # times, and their offset
    yield tag, vr, texts, action is AttributeAction.KEEP or of_shifted_date or (not listed and vr not in _PERSONAL)


def _texts(vr: str, value: object) -> list[str]:
    if isinstance(value, bytes):
        try:
            value = value.decode("ascii").strip("\0 ")
        except UnicodeDecodeError:
            return []
        return [value] if value.isprintable() else []
    texts = [str(each).strip() for each in (value if isinstance(value, MultiValue) else [value])]
    if vr == "PN":
        texts += [part for text in texts for part in re.split(r"[\^=\s,]+", text)]
    return texts
