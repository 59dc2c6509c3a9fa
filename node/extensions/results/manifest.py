"""The files that a hook leaves as results, and what they are: by their names, or by a manifest.

The fields are those of docs/results.md; messages of a refusal name the field and the rule, never a value, which may
name a patient.
"""

import errno
import json
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from node.errors import ResultRefused, broken_rule, nearest

MANIFEST = "results.json"
"""The file of a folder of results that says what the others are."""

MAX_RESULTS = 64
"""Results of one job."""

MAX_MANIFEST_BYTES = 1_000_000

MAX_JOB_BYTES = 8_000_000_000
"""Size of all files of one job; a file with holes counts in full, because whoever reads it reads the holes."""

FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")
"""Names of result files: they become names in a folder of the node, and parts of URLs."""

ResultKind = Literal["segmentation", "report", "document", "instance"]

KINDS: Mapping[str, ResultKind] = {
    ".nii.gz": "segmentation",
    ".nii": "segmentation",
    ".json": "report",
    ".pdf": "document",
    ".dcm": "instance",
}
"""What a file becomes, by the end of its name."""

MAX_BYTES: Mapping[ResultKind, int] = {
    "segmentation": MAX_JOB_BYTES,
    "report": 4_000_000,
    "document": 200_000_000,
    "instance": MAX_JOB_BYTES,
}
"""Size of a file, by what it becomes."""


def _one_value(text: str) -> str:
    r"""Refuse what would be several values of a DICOM text, or none: a backslash, control characters, only spaces."""
    if "\\" in text or not text.strip() or any(ord(letter) < 32 for letter in text):
        raise ValueError("must be text in one line, without a backslash")
    return text.strip()


LongString = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_one_value)]
"""A DICOM value of VR LO (PS3.5 6.2)."""

ShortString = Annotated[str, Field(min_length=1, max_length=16), AfterValidator(_one_value)]


_PREFIX = "Y|Z|E|P|T|G|M|k|h|da|d|c|m|u|n|p|f|a|z|y|Ki|Mi|Gi|Ti"
_METRIC = (
    "m s g rad K C cd mol sr Hz N Pa J W A V F Ohm S Wb Cel T H lm lx Bq Gy Sv l L ar t bar u eV pc kat U gf g% st dyn "
    "erg P Bi St Mx G Oe Gb Lmb sb ph Ky Gal Ci R RAD REM cal cal_th cal_IT cal_m tex bit By Bd Np B mho osm eq Ao"
)
_OTHER = "% ' '' gon deg min h d a a_t a_j a_g wk mo mo_s mo_j mo_g atm AU b att circ sph bit_s Torr"
_NOTE, _FACTOR = r"(\{[!-z|~]*\})", r"10[*^]|[1-9]\d*(?![\d*^])"
_UNIT = (
    rf"((({_PREFIX})?({'|'.join(_METRIC.split())}|[mB]?\[[!-Z^-~]+\])|{'|'.join(_OTHER.split())}|{_FACTOR})([+-]?\d+)?)"
)
_TERM = re.compile(rf"/?({_NOTE}?{_UNIT}{_NOTE}?|{_NOTE})([./]({_UNIT}{_NOTE}?|{_NOTE}))*")
"""A term of UCUM without parentheses: its atoms, and any in brackets."""


def _of_ucum(unit: str) -> str:
    """Refuse what is no unit of UCUM in its case-sensitive form, which the report would call one."""
    left = unit
    while (inner := re.search(r"\(([^()]+)\)", left)) and _TERM.fullmatch(inner[1]):
        left = left[: inner.start()] + "1" + left[inner.end() :]
    if _TERM.fullmatch(left) is None:
        raise ValueError("must be a unit of UCUM, such as mm3, mL, [hnsf'U], /min, {pixels} or 1")
    return unit


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Coded(_Model):
    """A code (PS3.3 8.8)."""

    value: ShortString
    scheme: ShortString = Field(description="coding scheme, such as SCT or DCM")
    meaning: LongString


ARTIFICIAL_INTELLIGENCE = Coded(value="123110", scheme="DCM", meaning="Artificial Intelligence")


class Label(_Model):
    """A label of a mask."""

    name: LongString
    category: Coded | None = Field(None, description="Segmented Property Category, such as Anatomical Structure")
    type: Coded | None = Field(None, description="Segmented Property Type, such as Lung")


class Algorithm(_Model):
    """What made the results."""

    name: LongString
    version: LongString = "unknown"
    family: Coded = Field(
        ARTIFICIAL_INTELLIGENCE,
        description="Algorithm Family of a segmentation, which must have one (PS3.3 10.16): a code of CID 7162",
    )


class ManifestResult(_Model):
    """One result: a file of the job, and what it is."""

    file: str = Field(description="name of the file", min_length=1, max_length=100)
    description: LongString | None = Field(None, description="Series Description; unset: the name of the file")
    labels: dict[Annotated[int, Field(ge=1, le=65535)], LongString | Label] = Field(
        {}, description="name of each value of a mask, or its name with codes", max_length=1000
    )
    encoding: Literal["binary", "labelmap"] = Field(
        "binary", description="of a mask: binary, which every viewer reads, or labelmap, which is shorter"
    )
    stack: int | None = Field(
        None, ge=0, description="stack of the volume that a mask is of; unset: the first that fits"
    )
    series_instance_uid: str | None = Field(
        None, max_length=64, description="series that the result is of; unset: that of the job"
    )


class Manifest(_Model):
    """The results of a job."""

    results: list[Any] = Field(max_length=MAX_RESULTS, description="of ManifestResult; `entries_of` checks each")
    algorithm: Algorithm | None = None

    @classmethod
    def of(cls, content: object) -> Self:
        """Return the manifest of parsed JSON, or raise ResultRefused."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise ResultRefused(f"{MANIFEST}: {_reported(error)}") from None


class Measured(_Model):
    """A measurement of a report."""

    name: LongString | Coded
    value: float = Field(allow_inf_nan=False, strict=True)
    unit: Annotated[ShortString, AfterValidator(_of_ucum)] = Field(description="of UCUM, such as mm, [hnsf'U] or 1")
    site: LongString | Coded | None = Field(None, description="finding site")


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One result to be made of a file; see `ManifestResult`."""

    file: str
    kind: ResultKind
    name: str
    description: str
    algorithm: str
    algorithm_version: str
    labels: Mapping[int, Label] = field(default_factory=dict)
    encoding: Literal["binary", "labelmap"] = "binary"
    stack: int | None = None
    series_instance_uid: str | None = None
    algorithm_family: Coded = ARTIFICIAL_INTELLIGENCE


def entries_of(
    files: Collection[str], manifest: Manifest | None, algorithm: Algorithm, refused: list[str]
) -> list[ManifestEntry]:
    """Return what is to be made of the files of a job, by their names in its folder.

    Without a manifest, each file is a result, by its name; `algorithm` made the results if the manifest does not say.
    Adds to `refused` why an entry of the manifest becomes none: a field is wrong, or its file is not there, or has no
    name of a result.
    Raises ResultRefused for too many files.
    """
    if manifest is None:
        if len(files) > MAX_RESULTS:
            raise ResultRefused(f"there are {len(files)} files; a job has at most {MAX_RESULTS} results")
        manifest = Manifest(results=[{"file": name} for name in sorted(files)])
    made_by = manifest.algorithm or algorithm
    named: set[str] = set()
    entries = []
    for number, listed in enumerate(manifest.results):
        try:
            result = ManifestResult.model_validate(listed)
        except ValidationError as error:
            refused.append(f"{MANIFEST}: {_reported(error, 'results', number)}")
            continue
        ending = next((ending for ending in KINDS if result.file.lower().endswith(ending)), None)
        if result.file not in files:
            refused.append(f"there is no file {result.file[:100]!r} among the results{nearest(result.file, files)}")
            continue
        if ending is None:
            known = ", ".join(KINDS)
            refused.append(
                f"{result.file} is not a result: the names of results end in {known}; list them in {MANIFEST}"
            )
            continue
        if result.file in named:
            refused.append(f"{result.file} is listed twice")
            continue
        named.add(result.file)
        name = result.file[: -len(ending)]
        labels = {
            value: Label(name=label) if isinstance(label, str) else label for value, label in result.labels.items()
        }
        entries.append(
            ManifestEntry(
                result.file,
                KINDS[ending],
                name[:48],
                result.description or name[:64],
                made_by.name,
                made_by.version,
                labels,
                result.encoding,
                result.stack,
                result.series_instance_uid,
                made_by.family,
            )
        )
    return entries


@contextmanager
def opened_folder(folder: Path) -> Iterator[int]:
    """Open the folder of a job; yield its descriptor, by which its files are opened.

    A hook may replace its folder by a link to another one, at any time. Raises ResultRefused in that case.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        raise ResultRefused("the folder of the job is a link or a file: leave results in the folder itself") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def opened_file(folder: int, name: str, max_bytes: int) -> IO[bytes]:
    """Open a regular file in an opened folder; refuse a link, and a file that is too large before any byte is read."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOENT, errno.ENXIO):
            raise
        raise ResultRefused(f"{name} was removed, or is not a file") from None
    stream = os.fdopen(file, "rb")
    status = os.fstat(file)
    if stat.S_ISREG(status.st_mode) and status.st_size <= max_bytes:
        return stream
    stream.close()
    if stat.S_ISREG(status.st_mode):
        raise ResultRefused(f"{name}: the file is larger than {max_bytes} bytes")
    raise ResultRefused(f"{name} is not a file")


def left_in(folder: Path, manifest: Manifest | None, hook: str, refused: list[str]) -> list[ManifestEntry]:
    """Return what is to be made of the files that a hook left in a folder, which may not exist.

    Names that begin with a dot are ignored. Without `manifest`, the files are what a file of the folder says or,
    without that, what their names say. `hook` is the algorithm if the manifest has none. Adds to `refused` why each
    file becomes no result that is not a file with a proper name and size. Raises ResultRefused for a link in place of
    the folder, a manifest that cannot be read, or as `entries_of`: then nobody can tell what the results are.
    """
    if not os.path.lexists(folder):
        return entries_of((), manifest, Algorithm(name=hook, version="unknown"), refused)
    sizes: dict[str, int] = {}
    with opened_folder(folder) as descriptor:
        with os.scandir(descriptor) as found:
            for entry in found:
                if entry.name.startswith("."):
                    continue
                if not entry.is_file(follow_symlinks=False) or FILE_NAME.fullmatch(entry.name) is None:
                    refused.append(
                        f"{entry.name[:100]!r} is not a file, or its name is not that of a result: remove it"
                    )
                    continue
                sizes[entry.name] = entry.stat(follow_symlinks=False).st_size
        if manifest is None and MANIFEST in sizes:
            manifest = _read_manifest(descriptor)
    listed = entries_of(sizes.keys() - {MANIFEST}, manifest, Algorithm(name=hook, version="unknown"), refused)
    entries = [one for one in listed if sizes[one.file] <= MAX_BYTES[one.kind]]
    large = [one for one in listed if one not in entries]
    refused += [f"{one.file}: the file is larger than {MAX_BYTES[one.kind]} bytes" for one in large]
    if sum(sizes[one.file] for one in entries) > MAX_JOB_BYTES:
        raise ResultRefused(f"the files of a job may have {MAX_JOB_BYTES} bytes")
    return entries


def _read_manifest(folder: int) -> Manifest:
    with opened_file(folder, MANIFEST, MAX_MANIFEST_BYTES) as file:
        content = file.read(MAX_MANIFEST_BYTES)
    return Manifest.of(parsed(content, MANIFEST))


def parsed(content: bytes, what: str) -> Any:
    """Return the value of JSON in UTF-8; ResultRefused if it is none, or says two things of one field."""

    def fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise ResultRefused(f"{what} has a field twice (RFC 8259 4)")
        return found

    def refused(constant: str) -> None:
        raise ResultRefused(f"{what} has {constant}, which is not a number (RFC 8259 6)")

    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=fields, parse_constant=refused)
    except (ValueError, RecursionError):
        raise ResultRefused(f"{what} is not JSON in UTF-8") from None


def measurements_of(content: Mapping[str, Any]) -> list[Measured]:
    """Return the measurements of a report, or raise ResultRefused."""

    class Report(_Model):
        measurements: list[Measured] = Field(max_length=1000)

    try:
        return Report.model_validate(content).measurements
    except ValidationError as error:
        raise ResultRefused(_reported(error)) from None


_FORM = re.compile(r"\[|\(|(Coded|Label)$")
"""Parts of the place of a mistake that name a form of a value, and no field."""


def _reported(error: ValidationError, *within: str | int) -> str:
    """Return the first mistakes, without the values; `within`: where the model is."""
    mistakes = error.errors(include_url=False, include_input=False, include_context=False)
    places = [".".join(part for part in map(str, (*within, *one["loc"])) if not _FORM.search(part)) for one in mistakes]
    return "; ".join(
        f"{place}: {broken_rule(one['type'], one['msg'])}" for place, one in zip(places[:3], mistakes, strict=False)
    )
