"""The files that a hook leaves as results, and what they are: by their names, or by a manifest.

The fields are those of docs/results.md; messages of a refusal name the field and the rule, never a value, which may
name a patient.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from node.errors import ResultRefused, nearest

MANIFEST = "results.json"
"""The file of a folder of results that says what the others are."""

MAX_RESULTS = 64
"""Results of one job."""

MAX_MANIFEST_BYTES = 1_000_000

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


def _one_value(text: str) -> str:
    r"""Refuse what would be several values of a DICOM text, or none: a backslash, control characters, only spaces."""
    if "\\" in text or not text.strip() or any(ord(letter) < 32 for letter in text):
        raise ValueError("must be text in one line, without a backslash")
    return text.strip()


LongString = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_one_value)]
"""A DICOM value of VR LO (PS3.5 6.2)."""

ShortString = Annotated[str, Field(min_length=1, max_length=16), AfterValidator(_one_value)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Coded(_Model):
    """A code (PS3.3 8.8)."""

    value: ShortString
    scheme: ShortString = Field(description="coding scheme, such as SCT or DCM")
    meaning: LongString


class Label(_Model):
    """A label of a mask."""

    name: LongString
    category: Coded | None = Field(None, description="Segmented Property Category, such as Anatomical Structure")
    type: Coded | None = Field(None, description="Segmented Property Type, such as Lung")


class Algorithm(_Model):
    """What made the results."""

    name: LongString
    version: LongString = "unknown"


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

    results: list[ManifestResult] = Field(max_length=MAX_RESULTS)
    algorithm: Algorithm | None = None

    @classmethod
    def of(cls, content: object) -> Self:
        """Return the manifest of parsed JSON, or raise ResultRefused."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise ResultRefused(f"{MANIFEST}: {_told(error)}") from None


class Measured(_Model):
    """A measurement of a report."""

    name: LongString | Coded
    value: float = Field(allow_inf_nan=False, strict=True)
    unit: ShortString = Field(description="of UCUM, such as mm, mL, [hnsf'U] or 1")
    site: LongString | Coded | None = Field(None, description="finding site")


@dataclass(frozen=True, slots=True)
class Entry:
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


def entries_of(files: Collection[str], manifest: Manifest | None, algorithm: Algorithm) -> list[Entry]:
    """Return what is to be made of the files of a job, by their names in its folder.

    Without a manifest, each file is a result, by its name; `algorithm` made the results if the manifest does not say.
    Raises ResultRefused if the manifest names a file that is not there, or a file has no name of a result.
    """
    if manifest is None:
        if len(files) > MAX_RESULTS:
            raise ResultRefused(f"there are {len(files)} files; a job has at most {MAX_RESULTS} results")
        manifest = Manifest(results=[ManifestResult(file=name) for name in sorted(files)])
    made_by = manifest.algorithm or algorithm
    named: set[str] = set()
    entries = []
    for result in manifest.results:
        ending = next((ending for ending in KINDS if result.file.lower().endswith(ending)), None)
        if result.file not in files:
            raise ResultRefused(
                f"there is no file {result.file[:100]!r} among the results{nearest(result.file, files)}"
            )
        if ending is None:
            known = ", ".join(KINDS)
            raise ResultRefused(
                f"{result.file} is no result: the names of results end in {known}; list them in {MANIFEST}"
            )
        if result.file in named:
            raise ResultRefused(f"{result.file} is listed twice")
        named.add(result.file)
        name = result.file[: -len(ending)]
        labels = {
            value: Label(name=label) if isinstance(label, str) else label for value, label in result.labels.items()
        }
        entries.append(
            Entry(
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
            )
        )
    return entries


def left_in(folder: Path, manifest: Manifest | None, hook: str) -> list[Entry]:
    """Return what is to be made of the files that a hook left in a folder, which may not exist.

    Names that begin with a dot are ignored. Without `manifest`, the files are what a file of the folder says or,
    without that, what their names say. `hook` is the algorithm if the manifest has none. Raises ResultRefused for
    anything else than files with proper names, or as `entries_of`.
    """
    names = set()
    with suppress(FileNotFoundError), os.scandir(folder) as found:
        for entry in found:
            if entry.name.startswith("."):
                continue
            if not entry.is_file(follow_symlinks=False) or FILE_NAME.fullmatch(entry.name) is None:
                raise ResultRefused(f"{entry.name[:100]!r} is no file, or has no name of a result: remove it")
            names.add(entry.name)
    if manifest is None and MANIFEST in names:
        manifest = _read_manifest(folder / MANIFEST)
    return entries_of(names - {MANIFEST}, manifest, Algorithm(name=hook, version="unknown"))


def _read_manifest(path: Path) -> Manifest:
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise ResultRefused(f"{MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        return Manifest.of(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError):
        raise ResultRefused(f"{MANIFEST} is no JSON in UTF-8") from None


def measurements_of(content: Mapping[str, Any]) -> list[Measured]:
    """Return the measurements of a report, or raise ResultRefused."""

    class Report(_Model):
        measurements: list[Measured] = Field(min_length=1, max_length=1000)

    try:
        return Report.model_validate(content).measurements
    except ValidationError as error:
        raise ResultRefused(_told(error)) from None


def _told(error: ValidationError) -> str:
    """Return the first mistakes, without the values."""
    mistakes = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in mistakes[:3])
