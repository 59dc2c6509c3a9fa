"""Names for people: a template with tokens, by which `voxelnode convert`, ZIP files and ``[storage] names`` name files.

Slashes divide a template: the last part names a series, and what is before it is the folder of a study. Two studies
never share a folder.

The values come from whoever made the files, so nothing but letters, digits and ``- + . _`` of them reaches a name. Text
by which people distinguish two series stays, as far as it can: signs (``+``, ``-``), the star of T2*, all of a text.
Whatever a sender chose becomes part of a path by `safe_name`, or by `folder_name` if it is a UID, and in no other way.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

from node.dicom.attributes import is_uid
from node.errors import UsageError

TOKENS = {
    "series_number": "Series Number (0020,0011)",
    "series_description": "Series Description (0008,103E), else Protocol Name, else Modality",
    "protocol_name": "Protocol Name (0018,1030), else Series Description, else Modality",
    "modality": "Modality (0008,0060); in a folder, all modalities of the study, as CT-PT",
    "series_date": "Series Date (0008,0021), as 20261231",
    "series_time": "Series Time (0008,0031), as 235959",
    "body_part": "Body Part Examined (0018,0015)",
    "manufacturer": "Manufacturer (0008,0070)",
    "model": "Manufacturer's Model Name (0008,1090)",
    "station": "Station Name (0008,1010)",
    "study_date": "Study Date (0008,0020), as 20261231",
    "study_time": "Study Time (0008,0030), as 235959",
    "study_description": "Study Description (0008,1030)",
    "study_id": "Study ID (0020,0010)",
    "accession_number": "Accession Number (0008,0050)",
    "patient_id": "Patient ID (0010,0020)",
    "patient_name": "Patient's Name (0010,0010), else Patient ID",
    "folder": "name of the folder, or of the zip file, that holds the first file of the series",
    "series_uid": "Series Instance UID (0020,000E)",
    "study_uid": "Study Instance UID (0020,000D)",
}
"""Tokens and their meanings."""

COLUMNS = {
    "body_part": "body_part_examined",
    "model": "manufacturer_model_name",
    "station": "station_name",
    "series_uid": "series_instance_uid",
    "study_uid": "study_instance_uid",
}
"""Columns of `node.dicom.attributes` that tokens name more briefly."""

OF_NOBODY = frozenset({"series_number", "modality", "manufacturer", "model", "series_uid", "study_uid"})
"""Tokens whose values nobody typed and that date nothing, for names without personal data."""

OF_SERIES = frozenset(
    {"series_number", "series_description", "protocol_name", "series_date", "series_time", "body_part", "manufacturer"}
    | {"model", "station", "folder", "series_uid"}
)
"""Tokens that no folder has: it is that of a study, whose series differ in them."""

DEFAULT = "{patient_name}_{study_date}_{modality}/{series_number:03}_{series_description}"
ANONYMOUS = "{study_uid}/{series_number:03}_{modality}"

VOLUME = "volume"
"""The beginning of the names of the files of a volume, in the folder of a revision."""

_DATA_FILE = re.compile(rb"(ElementDataFile = )volume[^\n.]*(\.z?raw)")

MAX_NAME_BYTES = 120
"""Longest part of a path, in UTF-8. File systems hold 255 bytes; suffixes and extensions of a volume take up to 60."""

SUFFIX_WORDS = (
    r"ph|real|imag|fieldmap|other|map|derived|lbm|lbmjames128|bsa|suv|resampled|mask|masked|contours|analyze"
    r"|thumbnail|preview|montage|mip|minip|axial|coronal|sagittal|measurements|key_objects|ref|physio|dir[A-Z]{2}|(?:e|ti|i|s|seg|roi|slice|t)?\d+"
)
"""The words between a name and the extension, each after ``_``; see `node.writers.base.stem_of`."""

EXTENSIONS = r"tsv\.gz|nii\.gz|nii|hdr|img|mhd|zraw|raw|nrrd|npz|json|bval|bvec|png"

DCM2NIIX = {
    "d": "{series_description}",
    "e": "",
    "f": "{folder}",
    "g": "{accession_number}",
    "i": "{patient_id}",
    "j": "{series_uid}",
    "k": "{study_uid}",
    "m": "{manufacturer}",
    "n": "{patient_name}",
    "p": "{protocol_name}",
    "s": "{series_number}",
    "t": "{study_date}{study_time}",
    "x": "{study_id}",
}
"""The letters of dcm2niix's ``-f``. ``%e`` is nothing: the echo is added to names of series with several."""

RESERVED = frozenset(
    {"conversion", "manifest", "con", "prn", "aux", "nul"}
    | {f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³"}
)
"""Names that Windows keeps for devices, and those of our lists beside them, whatever follows the first dot."""

_TOKEN = re.compile(r"\{([^{}:]*)(?::([^{}]*))?\}")
_STAR = re.compile(r"(?<=[^\W_])\*(?!\*)")
"""The star of T2*, which BIDS writes as T2starw. Without it, a T2 and a T2* map would have one name."""

_ELSE = {
    "series_description": ("series_description", "protocol_name", "modality"),
    "protocol_name": ("protocol_name", "series_description", "modality"),
}
"""Columns of which a token takes the first with a value."""

_MINUS = "\N{MINUS SIGN}"
_WIDTH = re.compile(r"0?[1-9]")
_LETTER = re.compile(r"%(\d*)(.?)", re.DOTALL)
_LAST_WORD = re.compile(rf"_(?:{SUFFIX_WORDS})\Z")
_OF_VOLUME = re.compile(rf"(?:_(?:{SUFFIX_WORDS}))*(?:\.(?:{EXTENSIONS}))\Z")


@dataclass(frozen=True, slots=True)
class NameTemplate:
    """A template such as ``{patient_id}/{series_number:03}_{series_description}``, checked by `name_template`.

    Values are by token, or by column of `node.dicom.attributes`: as attributes, or as in rows of the views.
    """

    text: str

    @property
    def has_folder(self) -> bool:
        """Whether each study has a folder."""
        return "/" in self.text

    @property
    def folder_tokens(self) -> frozenset[str]:
        """The tokens of the folder of a study."""
        return frozenset(token for token, _ in _TOKEN.findall(self.text.rpartition("/")[0]))

    def folder_of(self, study: Mapping[str, Any], series: Iterable[Mapping[str, Any]]) -> str:
        """Return the folder of a study, whose parts slashes divide; empty if the template has none.

        `series`: all series of the study.
        """
        modalities = "-".join(sorted({row["modality"] for row in series if row.get("modality")}))
        values = {**study, "modality": modalities}
        return "/".join(safe_name(_filled(part, values), "unknown") for part in self.text.split("/")[:-1])

    def name_of(self, values: Mapping[str, Any]) -> str:
        """Return the beginning of the names of the files of a series, whose `values` include those of its study."""
        return safe_name(_filled(self.text.rpartition("/")[2], values))


def name_template(text: str, *, anonymous: bool = False, key: str = "--name") -> NameTemplate:
    """Return a template, from our tokens or from dcm2niix's letters (``%p_%s``).

    Raises UsageError: a token does not exist, a folder has no name or a token of series, or a token could name a person
        and `anonymous` is set. The message names `key`.
    """
    template = from_dcm2niix(text) if "%" in text else text
    if "\\" in template or not all(part.strip(" .") for part in template.split("/")):
        raise UsageError(f"{key} {text!r}: write a name before and behind each slash, other than . and ..")
    for token, width in _TOKEN.findall(template):
        if token not in TOKENS:
            raise UsageError(f"{key} {text!r}: there is no token {{{token}}}; the tokens are {', '.join(TOKENS)}")
        if width and not _WIDTH.fullmatch(width):
            raise UsageError(f"{key} {text!r}: ':{width}' is not a number of digits such as :03")
        if anonymous and token not in OF_NOBODY:
            raise UsageError(
                f"{key} {text!r}: with --anonymous, {{{token}}} would be shown; use {', '.join(sorted(OF_NOBODY))}"
            )
    if "{" in _TOKEN.sub("", template) or "}" in _TOKEN.sub("", template):
        raise UsageError(f"{key} {text!r}: a brace is missing; tokens look like {{series_number:03}}")
    checked = NameTemplate(template)
    if wrong := sorted(checked.folder_tokens & OF_SERIES):
        known = ", ".join(token for token in TOKENS if token not in OF_SERIES)
        raise UsageError(f"{key} {text!r}: {{{wrong[0]}}} cannot be used in the folder of a study; use {known}")
    return checked


def node_template(text: str | None) -> NameTemplate:
    """Return the template of ``[storage] names``, or the default one. Raises UsageError if a node cannot use it."""
    template = name_template(text or DEFAULT, key="names")
    if not template.has_folder:
        example = '"{patient_id}/{study_date}/{series_number:03}_{series_description}"'
        raise UsageError(f"names {text!r}: write the folder of a study and a slash before it, such as {example}")
    if "{folder}" in template.text:
        raise UsageError(f"names {text!r}: {{folder}} cannot be used, since a node finds no files in folders")
    return template


def from_dcm2niix(pattern: str) -> str:
    """Return the template for a pattern of dcm2niix.

    Raises UsageError if the pattern has a letter that no token stands for.
    """

    def token(found: re.Match[str]) -> str:
        digits, letter = found.groups()
        if letter.lower() not in DCM2NIIX:
            known = " ".join(f"%{known}" for known in DCM2NIIX)
            raise UsageError(f"-f {pattern!r}: %{letter} has no equivalent here; of dcm2niix's letters, use {known}")
        named = DCM2NIIX[letter.lower()]
        return named.replace("}", f":0{digits.lstrip('0')}}}", 1) if digits.strip("0") else named

    return _LETTER.sub(token, pattern)


def _filled(template: str, values: Mapping[str, Any]) -> str:
    return _TOKEN.sub(lambda token: _value(token[1], token[2], values), template)


def _value(name: str, width: str | None, values: Mapping[str, Any]) -> str:
    columns = _ELSE.get(name, (COLUMNS.get(name, name),))
    text = next((str(value) for column in columns if (value := values.get(column)) is not None), "")
    if name == "patient_name":  # the first way to write it that is there (PS3.5 6.2.1)
        groups = str(values.get("patient_name") or "").split("=")
        text = next((group for group in groups if group.strip(" ^")), None) or str(values.get("patient_id") or "")
    elif name.endswith(("_date", "_time")):
        text = text and re.sub("[-:]", "", text.partition(".")[0]).ljust(6, "0")
    return text.zfill(int(width)) if width and text.isascii() and text.isdigit() else text


def safe_name(text: str, empty: str = "series") -> str:
    """Return `text` as a name that every file system takes: no folder, not hidden, not reserved, not too long.

    `empty`: the name if nothing of the text remains.
    """
    spoken = _STAR.sub("star", unicodedata.normalize("NFC", text))
    name = re.sub(r"\.{2,}", ".", re.sub(r"_{2,}", "_", "".join(map(_allowed, spoken)))).lstrip("-._").rstrip("._")
    name = _cut(name, MAX_NAME_BYTES)
    if name.partition(".")[0].casefold() in RESERVED:
        name = f"_{name}"
    return name or empty


def folder_name(uid: str) -> str:
    """Return a UID as the name of a file or a folder: itself, or its digest unless it consists of digits and dots."""
    if is_uid(uid):
        return uid
    return "uid-" + hashlib.sha256(uid.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _allowed(letter: str) -> str:
    category = unicodedata.category(letter)
    if category == "Pd" or letter == _MINUS:
        return "-"
    return letter if letter.isalnum() or letter in "+." or category.startswith("M") else "_"


def _cut(name: str, size: int) -> str:
    encoded = name.encode("utf-8")
    return name if len(encoded) <= size else encoded[:size].decode("utf-8", "ignore").rstrip("-._")


def numbered(name: str) -> Iterator[str]:
    """Yield `name`, and then ``name-2``, ``name-3``, ...: no suffix of a volume begins with ``-``.

    Of a path, the last part is numbered.
    """
    yield name
    folders, slash, last = name.rpartition("/")
    for number in count(2):
        end = f"-{number}"
        yield f"{folders}{slash}{_cut(last, MAX_NAME_BYTES - len(end))}{end}"


def free_name(
    name: str, taken: TakenNames, is_free: Callable[[str], bool] = lambda name: True, *, numbers: int = 0
) -> str:
    """Return a name, or the first with a number behind it that is free and not taken; it is taken then.

    `numbers`: how many are not asked for.
    """
    free = next(one for one in islice(numbered(name), numbers, None) if one not in taken and is_free(one))
    taken.add(free)
    return free


def ending_of(name: str) -> str:
    """Return the ending of the name of a file of a revision, after the name of its series."""
    return name.removeprefix(VOLUME) if name.startswith((f"{VOLUME}.", f"{VOLUME}_")) else f"_{name}"


def renamed_header(content: bytes, stem: str) -> bytes:
    """Return the header of a MetaImage whose voxels lie in a file beside it, which is called `stem` now."""
    return _DATA_FILE.sub(lambda found: found[1] + stem.encode() + found[2], content)


def is_file_of(file_name: str, name: str) -> bool:
    """Return whether a file may be one of the series with this name."""
    return file_name.startswith(name) and _OF_VOLUME.match(file_name, len(name)) is not None


class TakenNames:
    """The names of a run, of series or of folders. In one folder, no name is another one with a suffix of a volume."""

    def __init__(self, *, one_folder: bool) -> None:
        self._one_folder = one_folder
        self._names: set[str] = set()
        self._beginnings: set[str] = set()

    def __contains__(self, name: str) -> bool:
        folded = name.casefold()
        return folded in self._beginnings or not self._names.isdisjoint(self._beginnings_of(folded))

    def add(self, name: str) -> None:
        self._names.add(name.casefold())
        self._beginnings.update(self._beginnings_of(name.casefold()))

    def _beginnings_of(self, name: str) -> Iterator[str]:
        """Yield a name and, in one folder, its beginnings without final words that may be a suffix."""
        yield name
        while self._one_folder and (found := _LAST_WORD.search(name)):
            name = name[: found.start()]
            yield name
