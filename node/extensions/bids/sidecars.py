"""Sidecars of a data set: what BIDS defines or allows of the node's own, and what it requires of each suffix.

Tables of a data set are text separated by tabs; rows and columns that others added stay.
"""

import fcntl
import hashlib
import json
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

from isal import igzip

from node.extensions.bids.names import Named
from node.extensions.bids.rules import NotExported
from node.volume.describe.sidecar_fields import MIN_IDENTIFYING_NUMBER

_OF_BIDS = re.compile(r"[A-Z][A-Za-z0-9]*")
"""Names of fields that BIDS defines, or that follow its form; keys of the node itself are in small letters."""

TYPED = {"SeriesDescription": "series_description", "ProtocolName": "protocol_name"}
"""Texts that people typed, and the facts that have them."""

TIMES_OF_DAY = frozenset({"AcquisitionTime", "SeriesTime"})

MAX_TASK_LETTERS = 64

_EMISSION = (
    *("Manufacturer", "ManufacturersModelName", "Units", "TracerName", "TracerRadionuclide", "InjectedRadioactivity"),
    *("InjectedRadioactivityUnits", "InjectedMass", "InjectedMassUnits", "SpecificRadioactivity"),
    *("SpecificRadioactivityUnits", "ModeOfAdministration", "TimeZero", "ScanStart", "InjectionStart"),
    *("FrameTimesStart", "FrameDuration", "AcquisitionMode", "ImageDecayCorrected", "ImageDecayCorrectionTime"),
    *("ReconMethodName", "ReconMethodParameterLabels", "ReconFilterType", "AttenuationCorrection"),
)
_LABELLED = (
    *("ArterialSpinLabelingType", "PostLabelingDelay", "BackgroundSuppression", "M0Type", "TotalAcquiredPairs"),
    *("RepetitionTimePreparation", "EchoTime", "MagneticFieldStrength", "MRAcquisitionType"),
)
_SPECTRA = ("EchoTime", "ResonantNucleus", "SpectrometerFrequency", "SpectralWidth")
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "bold": ("RepetitionTime|VolumeTiming",),
    "phasediff": ("EchoTime1", "EchoTime2"),
    "phase1": ("EchoTime",),
    "phase2": ("EchoTime",),
    "fieldmap": ("Units",),
    "epi": ("PhaseEncodingDirection", "TotalReadoutTime|EffectiveEchoSpacing"),
    "asl": _LABELLED,
    "m0scan": ("RepetitionTimePreparation", "EchoTime"),
    "pet": _EMISSION,
    "svs": _SPECTRA,
    "mrsi": _SPECTRA,
    "mrsref": _SPECTRA,
    "VFA": ("PulseSequenceType", "RepetitionTimeExcitation"),
    "MP2RAGE": ("FlipAngle", "RepetitionTimeExcitation", "RepetitionTimePreparation", "NumberShots"),
    "MTS": ("RepetitionTimeExcitation",),
    "MPM": ("RepetitionTimeExcitation",),
}
"""Fields without which a file of a suffix is not valid; of names separated by a bar, one is enough."""

REQUIRED_BY_ENTITY = {"echo": "EchoTime", "flip": "FlipAngle", "inv": "InversionTime", "mt": "MTState"}


def sidecar_of(
    sidecar: Mapping[str, Any], facts: Mapping[str, Any], named: Named, *, anonymous: bool, times_of_day: bool
) -> dict[str, Any]:
    """Return the sidecar of a file in a data set.

    `sidecar`: as the node wrote it: names and units of BIDS (docs/sidecar.md); `facts`: by the names of
    `node.extensions.bids.rules.RULE_FIELDS`; `anonymous`: without UIDs, texts that people typed, and numbers
    that may be identifiers; `times_of_day`: with the times at which the images were made.
    """
    fields = {name: content for name, content in sidecar.items() if _OF_BIDS.fullmatch(name)}
    if anonymous:
        left_out = {name for name in fields if name.endswith("UID")} | TYPED.keys()
        number = fields.get("SeriesNumber", 0)
        left_out |= {"SeriesNumber"} if not isinstance(number, int) or number >= MIN_IDENTIFYING_NUMBER else set()
        fields = {name: content for name, content in fields.items() if name not in left_out}
    else:
        fields |= {name: facts[fact] for name, fact in TYPED.items() if facts.get(fact)}
    if not times_of_day:
        fields = {name: content for name, content in fields.items() if name not in TIMES_OF_DAY}
    if "VolumeTiming" in fields:  # BIDS excludes one by the other
        fields.pop("DelayTime", None)
    if "task" in named.entities:
        fields["TaskName"] = named.entities["task"][:MAX_TASK_LETTERS]
    if "ReconMethodParameterLabels" in fields:  # of the node, these are numbers of subsets and of iterations
        fields["ReconMethodParameterUnits"] = ["none"] * len(fields["ReconMethodParameterLabels"])
    if named.kind.datatype == "mrs":  # where BIDS has other values for it than DICOM
        fields.pop("ScanningSequence", None)
    if named.entities.get("part") == "phase":
        fields["Units"] = "arbitrary"  # the scale of phase images is the vendor's
    return fields


def missing_fields(named: Named, fields: Mapping[str, Any]) -> list[str]:
    """Return the fields that BIDS requires of a file and that its sidecar lacks."""
    required = [*REQUIRED.get(named.kind.suffix, ())]
    required += [name for entity, name in REQUIRED_BY_ENTITY.items() if entity in named.entities]
    if named.kind.suffix == "asl":
        pulsed = fields.get("ArterialSpinLabelingType") == "PASL"
        required += ["BolusCutOffFlag"] if pulsed else ["LabelingDuration"]
        if pulsed and fields.get("BolusCutOffFlag"):
            required += ["BolusCutOffDelayTime", "BolusCutOffTechnique"]
        if fields.get("MRAcquisitionType") == "2D":
            required.append("SliceTiming")
    if named.kind.suffix == "pet":
        if "none" not in fields.get("ReconMethodParameterLabels", ()):
            required += ["ReconMethodParameterValues", "ReconMethodParameterUnits"]
        if fields.get("ReconFilterType") not in ("none", ["none"]):
            required.append("ReconFilterSize")
    return [names for names in required if not any(name in fields for name in names.split("|"))]


def json_text(content: Mapping[str, Any]) -> bytes:
    """Return JSON with one field on a line, so that a change of one field is a change of one line."""
    lines = (f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in content.items())
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode("utf-8", "replace")


MISSING = "n/a"

Rows = dict[str, dict[str, str]]
"""Rows by the value of their first column."""


def read_table(file: Path, key: str) -> tuple[list[str], Rows]:
    """Return columns and rows of a table; a missing file is a table with the column `key` and no rows."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        lines = []
    cells = [line.split("\t") for line in lines if line.strip()]
    if not cells or key not in cells[0]:
        return [key], {}
    columns, place = cells[0], cells[0].index(key)
    rows = [row + [MISSING] * (len(columns) - len(row)) for row in cells[1:]]
    return columns, {row[place]: dict(zip(columns, row, strict=False)) for row in rows}


def table_text(columns: Iterable[str], rows: Mapping[str, Mapping[str, str]]) -> bytes:
    """Return a table with its rows in the order of their keys; cells without a value are ``n/a``."""
    columns = list(columns)
    lines = ["\t".join(columns)]
    lines += ["\t".join(rows[key].get(column) or MISSING for column in columns) for key in sorted(rows)]
    return ("\n".join(lines) + "\n").encode()


def with_columns(columns: list[str], added: Iterable[str]) -> list[str]:
    """Return columns with those of `added` that are not among them, at the end."""
    return [*columns, *(column for column in added if column not in columns)]


CHUNK_BYTES = 1 << 20

_Readable = BufferedReader | igzip.GzipFile
COMPRESSION_LEVEL = 1

FICLONE = 0x40049409
"""ioctl of Linux that makes a file share the blocks of another one (Btrfs, XFS, bcachefs)."""

_EXTENSION = {348: (352, "<f", 108), 540: (544, "<q", 168)}
"""By the size of a NIfTI header: where the voxels begin without extension, and format and place of that number."""


@dataclass(frozen=True, slots=True)
class NiftiCopy:
    """A volume of a node, compressed; with its header extension, which has its sidecar, or without it.

    `local` gives the place from which `file` can be read now, and raises an OSError.
    """

    file: Path
    sha256: str
    without_extension: bool
    local: Callable[[Path], Path] = Path

    @property
    def identity(self) -> str:
        """What the content depends on."""
        return self.sha256 if self.without_extension else f"{self.sha256}+"

    def write(self, path: Path, *, link: bool) -> str:
        """Write the copy to a new file, and return its SHA-256.

        `link`: make a hard link of a file that is not to be changed, if the file system can. Raises NotExported: the
        volume is no longer there, or its bytes are not those that the node wrote. Raises OSError: it cannot be read
        now.
        """
        try:
            local = self.local(self.file)
            with local.open("rb") as source:
                if hashlib.file_digest(source, "sha256").hexdigest() != self.sha256:
                    raise NotExported(
                        "its file is not the one that the node wrote: `voxelnode fsck` shows the difference"
                    )
                source.seek(0)
                compressed = self.file.name.endswith(".gz")
                if compressed and not (self.without_extension and _has_extension(source)):
                    return self._as_it_is(source, local, path, link=link)
                return self._rewritten(source, path)
        except FileNotFoundError:
            raise NotExported("its files were replaced or removed meanwhile: the next run has the new ones") from None

    def _as_it_is(self, source: BufferedReader, local: Path, path: Path, *, link: bool) -> str:
        if link and _linked(local, path):
            return self.sha256
        with path.open("xb") as out:
            if not _cloned(source, out):
                for chunk in _chunks(source):
                    out.write(chunk)
        return self.sha256

    def _rewritten(self, source: BufferedReader, path: Path) -> str:
        """Compress, without the header extension if so; neither time nor name are in the header of the copy."""
        plain: _Readable = igzip.GzipFile(fileobj=source) if self.file.name.endswith(".gz") else source
        with path.open("xb") as out, igzip.GzipFile("", "wb", COMPRESSION_LEVEL, out, 0) as packed:
            if self.without_extension:
                packed.write(_header_alone(plain))
            for chunk in _chunks(plain):
                packed.write(chunk)
        with path.open("rb") as written:
            return hashlib.file_digest(written, "sha256").hexdigest()


Content = bytes | NiftiCopy


def identity_of(content: Content) -> str:
    """Return what tells a content from another one."""
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else content.identity


def digest_of(file: Path) -> str | None:
    """Return the SHA-256 of a file; None if it cannot be read, as one whose content is elsewhere (git-annex)."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None


def _has_extension(source: IO[bytes]) -> bool:
    header = igzip.GzipFile(fileobj=source).read(max(_EXTENSION) + 4)
    source.seek(0)
    size = int.from_bytes(header[:4], "little")
    return size in _EXTENSION and header[size] != 0  # the byte after the header says whether one follows


def _header_alone(stream: _Readable) -> bytes:
    """Read up to the voxels, and return the header as it is without extensions."""
    size = int.from_bytes(start := stream.read(4), "little")
    if size not in _EXTENSION:
        raise NotExported("its file does not begin with a header of NIfTI in little endian")
    begin, form, place = _EXTENSION[size]
    header = bytearray(start + stream.read(size - 4))
    left = int(struct.unpack_from(form, header, place)[0]) - size
    while left > 0:
        left -= len(stream.read(min(left, CHUNK_BYTES))) or left
    struct.pack_into(form, header, place, begin)
    return bytes(header) + bytes(4)


def _chunks(stream: _Readable) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


def _linked(source: Path, path: Path) -> bool:
    try:
        os.link(source, path)
    except OSError:  # another file system, or one without links
        return False
    return True


def _cloned(source: IO[bytes], out: IO[bytes]) -> bool:
    try:
        fcntl.ioctl(out.fileno(), FICLONE, source.fileno())
    except OSError:
        return False
    return True
