"""Physiological recordings become a table and a sidecar, as BIDS has them (``_physio.tsv.gz``)."""

import gzip
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom import Dataset

from node.completeness import Evidence
from node.conversion.datasets import FileSource, Objects, Output, WrittenObjects
from node.conversion.job import converted_file
from node.dicom.values import PrivateTag, private_bytes, text, texts, value, whole
from node.errors import ConversionRefused, counted
from node.extensions.spectroscopy.physio_log import (
    EVENT_CHANNELS,
    TICKS_PER_SECOND,
    PhysioLog,
    is_log,
    read_log,
    read_xml,
)
from node.index.rows.converted import ConvertedFile
from node.version import __version__
from node.volume.describe.sidecar_fields import describe
from node.volume.model import Frame, Geometry, VolumeKind
from node.volume.reasons import Reason
from node.writers.base import FileGrid, write_file
from node.writers.sidecar import write_sidecar

DATA = tuple(PrivateTag(0x7FE1, creator, 0x10, "OB") for creator in ("SIEMENS CSA NON-IMAGE", "SIEMENS MR IMA"))
"""Where recordings are before XA, and from XA on; XA also has them as Spectroscopy Data (5600,0020)."""

COLUMNS = {
    "PULS": ("cardiac", "pulse, by the finger clip"),
    "RESP": ("respiratory", "breathing, by the belt"),
    "ECG1": ("ecg1", "electrocardiogram, channel 1"),
    "ECG2": ("ecg2", "electrocardiogram, channel 2"),
    "ECG3": ("ecg3", "electrocardiogram, channel 3"),
    "ECG4": ("ecg4", "electrocardiogram, channel 4"),
    "EXT": ("external", "signal of the external trigger input"),
    "EXT1": ("external1", "signal of the first external trigger input"),
    "EXT2": ("external2", "signal of the second external trigger input"),
}
"""Name and description of a column by its channel, in their order; BIDS has the first two names."""

COMPRESSION_LEVEL = 6

PIECE = 100_000
"""Lines that are made of texts at a time."""

DESCRIBED = (
    "Manufacturer", "ManufacturersModelName", "SoftwareVersions", "SeriesNumber", "StudyInstanceUID",
    "SeriesInstanceUID", "FrameOfReferenceUID",
)  # fmt: skip


@dataclass(slots=True)
class _Recording:
    sop_instance_uid: str
    number: int
    log: PhysioLog
    fields: dict[str, Any]


class Recordings(Objects):
    """The physiological recordings of a series (`node.conversion.datasets.Objects`)."""

    def __init__(self) -> None:
        super().__init__()
        self._recordings: dict[str, _Recording] = {}

    def take(self, ds: Dataset) -> bool:
        """See `Objects`."""
        data = _data(ds)
        document = None if data is None else read_xml(data)
        if data is None or (document is None and not is_log(data)):
            if "PHYSIO" not in texts(ds, "ImageType"):
                return False
            raise ConversionRefused(Reason.CONTRADICTORY, "Image Type says PHYSIO, but the instance holds no log")
        uid = text(ds, "SOPInstanceUID")
        if uid in self._recordings:
            return True
        log = document or read_log(data, whole(ds, "AcquisitionNumber") or 0)
        if not log.channels.keys() & COLUMNS.keys():
            raise ConversionRefused(Reason.NOT_AN_IMAGE, "a recording in which no known channel has a signal")
        described = describe(ds, [Frame(uid, 1, lambda: np.zeros((1, 1), np.int16), 1, 1)])
        fields = {name: described[name] for name in DESCRIBED if name in described}
        self._recordings[uid] = _Recording(uid, whole(ds, "InstanceNumber") or 0, log, fields)
        return True

    def evidence(self) -> list[Evidence]:
        """Return which recordings end before the last volume that they announce."""
        found = []
        for recording in self._recordings.values():
            planned, recorded = recording.log.planned_volumes, len(recording.log.volume_starts)
            if planned and recorded < planned:
                fact = f"{recorded} of {counted(planned, 'volume')} that the recording announces"
                found.append(Evidence("times", fact, counted(planned - recorded, "volume"), 0, doubtful=True))
        return found

    def write(self, output: Output) -> WrittenObjects:
        """See `Objects`."""
        files: list[ConvertedFile] = []
        sources: list[FileSource] = []
        ordered = sorted(self._recordings.values(), key=lambda each: (each.number, each.sop_instance_uid))
        for index, recording in enumerate(ordered):
            suffix = f"s{index + 1}" if len(ordered) > 1 else ""
            files.append(_written(recording, output.stack + index, suffix, output))
            sources.append(FileSource(output.stack + index, recording.sop_instance_uid, 1))
        return WrittenObjects(files, sources)


def _data(ds: Dataset) -> bytes | None:
    for tag in DATA:
        if (data := private_bytes(ds, tag)) is not None:
            return data
    data = value(ds, "SpectroscopyData")
    return data if isinstance(data, bytes) else None


def _written(recording: _Recording, stack: int, suffix: str, output: Output) -> ConvertedFile:
    """Write the table and its sidecar.

    BIDS wants one frequency: every channel has the value that it holds at each tick, so that none is interpolated or
    lost, and each start of a volume is a 1 in the column ``trigger``.
    """
    log = recording.log
    channels = [name for name in COLUMNS if name in log.channels]
    samples = log.last - log.first + 1
    trigger = np.zeros(samples)
    trigger[np.array(log.volume_starts) - log.first] = 1
    detected = np.zeros((len(log.detected), samples))
    for index, ticks in enumerate(log.detected.values()):
        detected[index, np.array(ticks) - log.first] = 1
    table = [*(log.sampled(name) for name in channels), *detected, trigger]
    stem = "_".join(filter(None, (output.name, "physio", suffix)))
    path = output.folder / f"{stem}.tsv.gz"
    content = gzip.compress(_lines(table), COMPRESSION_LEVEL, mtime=0)
    shape = (len(table), samples)
    written = write_file(path, content).written(VolumeKind.PHYSIOLOGY, "tsv", FileGrid(shape, (), "int64"))
    write_sidecar(_sidecar(recording, channels, stack, shape, output), output.folder, stem)
    return converted_file(written, output.folder, stack=stack, suffix=suffix, geometry=Geometry.NONE, instances=1)


def _lines(table: list[Any]) -> bytes:
    """Return the columns as lines without a header, which BIDS puts into the sidecar."""
    pieces = []
    for start in range(0, len(table[0]), PIECE):
        columns = [column[start : start + PIECE] for column in table]
        words = [np.where(np.isnan(column), "n/a", np.nan_to_num(column).astype(np.int64)) for column in columns]
        pieces.append("".join("\t".join(line) + "\n" for line in zip(*words, strict=True)).encode("ascii"))
    return b"".join(pieces)


def _sidecar(
    recording: _Recording, channels: list[str], stack: int, shape: tuple[int, ...], output: Output
) -> dict[str, Any]:
    log = recording.log
    first_volume = log.volume_starts[0]
    names = {COLUMNS[name][0]: COLUMNS[name][1] for name in channels}
    fields: dict[str, Any] = {
        **recording.fields,
        **output.fields,
        "SamplingFrequency": TICKS_PER_SECOND,
        "StartTime": (log.first - first_volume) / TICKS_PER_SECOND,
        "Columns": [*names, *log.detected, "trigger"],
    }
    for channel, (name, description) in zip(channels, names.items(), strict=True):
        step_ms = 1000 * log.channels[channel].sample_ticks / TICKS_PER_SECOND
        sampled = "" if channel in EVENT_CHANNELS else f", sampled each {step_ms:g} ms"
        fields[name] = {"Description": description + sampled, "Units": "arbitrary"}
    for name in log.detected:
        fields[name] = {"Description": "1 where the scanner detected an event", "Units": "arbitrary"}
    fields["trigger"] = {"Description": "1 where the first slice of a volume begins", "Units": "arbitrary"}
    return fields | {
        "ConversionSoftware": "voxelnode",
        "ConversionSoftwareVersion": __version__,
        "kind": VolumeKind.PHYSIOLOGY.value,
        "stack": stack,
        "shape": list(shape),
        "channels_left_out": len(log.channels.keys() - COLUMNS.keys()),
        "volumes": len(log.volume_starts),
        "first_volume_s": first_volume / TICKS_PER_SECOND,
        "frames": {recording.sop_instance_uid: [1]},
    }
