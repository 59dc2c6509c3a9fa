"""Builders of instances of spectroscopy and of physiological recordings, whose signals tell where they are from."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset
from pydicom.uid import generate_uid

from node.conversion.job import ConversionJob, Converted
from node.conversion.pipeline import convert
from node.extensions.spectroscopy import EXTENSION, MR_SPECTROSCOPY, SIEMENS_NON_IMAGE
from node.writers.options import WriteOptions
from tests import make

OPTIONS = WriteOptions(formats=("nifti",), compress=False, thumbnails=False)

POINTS = 16


def signal(*shape: int, seed: int = 0) -> NDArray[np.complex64]:
    """Return complex values that are all different."""
    numbers = np.arange(1, int(np.prod(shape)) + 1, dtype=np.float32) + 1000 * seed
    return (numbers - 1j * (numbers + 0.5)).astype(np.complex64).reshape(shape)


def slabs(axes: Sequence[Sequence[float]], sizes_mm: Sequence[float], centre: Sequence[float]) -> list[Dataset]:
    """Return the items of Volume Localization Sequence."""
    return [
        make.dataset(SlabThickness=float(size), SlabOrientation=list(map(float, axis)), MidSlabPosition=list(centre))
        for axis, size in zip(axes, sizes_mm, strict=True)
    ]


def enhanced_spectra(
    data: NDArray[np.complex64] | None = None,
    *,
    frames: Sequence[Mapping[str, Any]] | None = None,
    pixel_spacing_mm: tuple[float, float] = (20.0, 20.0),
    thickness_mm: float = 20.0,
    orientation: Sequence[float] = make.AXIAL,
    position: Sequence[float] = (5.0, -6.0, 7.0),
    **attributes: Any,
) -> FileDataset:
    """Return an instance of MR Spectroscopy Storage.

    `data`, (frames, rows, columns, points) complex64: as the standard has it; a single voxel by default.
    `frames`: of each frame, ``position``, and what its Frame Content says.
    """
    data = signal(1, 1, 1, POINTS) if data is None else data
    count, rows, columns, points = data.shape
    stated: dict[str, Any] = {
        "modality": "MR",
        "InstanceNumber": 1,
        "MagneticFieldStrength": 3.0,
        "SpectralWidth": 2000.0,
        "TransmitterFrequency": 123.25,
        "ResonantNucleus": "1H",
        "Rows": rows,
        "Columns": columns,
        "NumberOfFrames": count,
        "DataPointRows": 1,
        "DataPointColumns": points,
        "DataRepresentation": "COMPLEX",
        "SignalDomainColumns": "TIME",
    }
    ds = make.instance(sop_class_uid=MR_SPECTROSCOPY, **{**stated, **attributes})
    shared = Dataset()
    shared.PixelMeasuresSequence = [make.dataset(PixelSpacing=list(pixel_spacing_mm), SliceThickness=thickness_mm)]
    shared.PlaneOrientationSequence = [
        make.dataset(ImageOrientationPatient=[make.decimal(part) for part in orientation])
    ]
    shared.MRTimingAndRelatedParametersSequence = [make.dataset(RepetitionTime=2000.0, FlipAngle=90.0)]
    shared.MREchoSequence = [make.dataset(EffectiveEchoTime=30.0)]
    ds.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for stated_frame in frames or [{}] * count:
        content = dict(stated_frame)
        group = Dataset()
        place = [make.decimal(part) for part in content.pop("position", position)]
        group.PlanePositionSequence = [make.dataset(ImagePositionPatient=place)]
        group.FrameContentSequence = [make.dataset(**content)]
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = groups
    ds.add_new((0x5600, 0x0020), "OF", data.astype("<c8").tobytes())
    return ds


CSA_VOXEL: Mapping[str, tuple[str, ...]] = {
    "DataRepresentation": ("COMPLEX",),
    "SignalDomainColumns": ("TIME",),
    "DataPointRows": ("1",),
    "RealDwellTime": ("500000",),
    "ImagingFrequency": ("123.25",),
    "MagneticFieldStrength": ("3.0",),
    "ResonantNucleus": ("1H",),
    "EchoTime": ("30.0",),
    "RepetitionTime": ("2000.0",),
    "InversionTime": ("0.0",),
    "FlipAngle": ("90.0",),
    "ImageOrientationPatient": ("1.0", "0.0", "0.0", "0.0", "1.0", "0.0"),
    "ImagePositionPatient": ("-5.0", "-26.0", "7.0"),
    "PixelSpacing": ("40.0", "20.0"),
    "SliceThickness": ("15.0",),
    "VoiPosition": ("5.0", "-6.0", "7.0"),
    "VoiReadoutFoV": ("20.0",),
    "VoiPhaseFoV": ("40.0",),
    "VoiThickness": ("15.0",),
}
"""Of a single voxel: 20 mm along a row, 40 mm down a column, and 15 mm thick."""


def csa(elements: Mapping[str, Sequence[str]]) -> bytes:
    """Return a CSA header of version 2."""
    out = b"SV10\4\3\2\1" + struct.pack("<II", len(elements), 77)
    for name, values in elements.items():
        out += struct.pack("<64si4siii", name.encode(), len(values), b"LO", 0, len(values), 205)
        for text in values:
            data = text.encode() + b"\0"
            out += struct.pack("<4i", len(data), len(data), 77, len(data)) + data.ljust(-(-len(data) // 4) * 4, b"\0")
    return out


def non_image(data: bytes, data_type: str, **attributes: Any) -> FileDataset:
    """Return an instance of Siemens' CSA Non-Image Storage."""
    ds = make.instance(
        sop_class_uid=SIEMENS_NON_IMAGE, modality="MR", **{"InstanceNumber": 1, "Manufacturer": "SIEMENS"} | attributes
    )
    ds.add_new((0x0029, 0x0010), "LO", "SIEMENS CSA NON-IMAGE")
    ds.add_new((0x0029, 0x1008), "CS", data_type)
    ds.add_new((0x7FE1, 0x0010), "LO", "SIEMENS CSA NON-IMAGE")
    ds.add_new((0x7FE1, 0x1010), "OB", data)
    return ds


def classic_spectrum(
    data: NDArray[np.complex64] | None = None,
    header: Mapping[str, Sequence[str]] | None = None,
    protocol: Mapping[str, str] | None = None,
    **attributes: Any,
) -> FileDataset:
    """Return a spectrum of Siemens before XA; `data` is (slices, rows, columns, points)."""
    data = signal(1, 1, 1, POINTS) if data is None else data
    slices, rows, columns, points = map(str, data.shape)
    sizes = {"NumberOfFrames": (slices,), "Rows": (rows,), "Columns": (columns,), "DataPointColumns": (points,)}
    ds = non_image(data.astype("<c8").tobytes(), "SPEC NUM 4", **attributes)
    ds.add_new((0x0029, 0x0011), "LO", "SIEMENS CSA HEADER")
    ds.add_new((0x0029, 0x1110), "OB", csa({**CSA_VOXEL, **sizes, **(header or {})}))
    lines = "".join(f"{name}\t = \t{value}\n" for name, value in (protocol or {}).items())
    text = f"### ASCCONV BEGIN ###\n{lines}### ASCCONV END ###\n"
    ds.add_new((0x0029, 0x1120), "OB", csa({"MrPhoenixProtocol": (text,)}))
    return ds


def converted(series: Sequence[FileDataset], folder: Path) -> tuple[Converted, Path]:
    """Convert a series as a child process does; return the result and the folder of the files."""
    uid = generate_uid()
    instances = zip((str(ds.SOPInstanceUID) for ds in series), make.saved(series, folder / uid), strict=True)
    out = folder / f"out-{uid}"
    out.mkdir()
    return convert(ConversionJob(tuple(instances), out, OPTIONS, objects=tuple(EXTENSION.objects))), out


UUID = "00000000-1111-2222-3333-444444444444"

FIRST_TICK = 14 * 3600 * 400
"""14:00."""


def log_text(kind: str, lines: Sequence[str], head: str = "", uuid: str = UUID, version: str = "EJA_1") -> str:
    """Return a text of a physiological log."""
    return (
        f"UUID        = {uuid}\nScanDate    = 20300101_140000\nLogVersion  = {version}\nLogDataType = {kind}\n"
        f"{head}\n" + "".join(f"{line}\n" for line in lines)
    )


def times_text(starts: Sequence[int], slices: int = 2, planned: int | None = None, **options: str) -> str:
    """Return the list of the times of slices: volumes that begin at these ticks."""
    lines = ["VOLUME   SLICE   ACQ_START_TICS  ACQ_FINISH_TICS  ECHO", ""]
    for volume, start in enumerate(starts):
        lines += [f"{volume} {index} {start + 20 * index} {start + 20 * index + 16} 0" for index in range(slices)]
    head = f"NumSlices   = {slices}\nNumVolumes  = {planned or len(starts)}\nNumEchoes   = 1\n"
    return log_text(
        "ACQUISITION_INFO", [*lines, f"FirstTime = {starts[0]}", f"LastTime = {starts[-1]}"], head, **options
    )


def samples_text(kind: str, sample_ticks: int, samples: Sequence[tuple[int, str, int]], **options: str) -> str:
    """Return a log of samples: tick, channel and value of each."""
    lines = [
        "ACQ_TIME_TICS  CHANNEL  VALUE  SIGNAL",
        "",
        *(f"{tick} {name} {number}" for tick, name, number in samples),
    ]
    return log_text(kind, lines, f"SampleTime  = {sample_ticks}\n", **options)


def recording(texts: Mapping[str, str], *, rows: int = 4, **attributes: Any) -> FileDataset:
    """Return a physiological recording: `texts` by the ends of their names, in blocks of `rows` KiB."""
    blocks = b""
    for name, content in texts.items():
        full, data = f"Physio_20300101_140000_{UUID}_{name}.log".encode(), content.encode()
        head = struct.pack("<II", len(data), len(full)) + full
        blocks += (head.ljust(1024, b"\0") + data).ljust(rows * 1024, b"\0")
    given = {"ImageType": ["ORIGINAL", "PRIMARY", "RAWDATA", "PHYSIO"], "AcquisitionNumber": rows} | attributes
    return non_image(blocks, "PHYSIO", **given)


def pulse_and_breath(volumes: int = 3, step: int = 400, began: int = FIRST_TICK) -> dict[str, str]:
    """Return logs with a pulse each 2 ticks and a breath each 8, from a second before the first volume."""
    first = began - 400
    count = (volumes * step + 400) // 2
    return {
        "Info": times_text([began + step * volume for volume in range(volumes)]),
        "PULS": samples_text("PULS", 2, [(first + 2 * index, "PULS", 1000 + index) for index in range(count)]),
        "RESP": samples_text("RESP", 8, [(first + 8 * index, "RESP", 5000 + index) for index in range(count // 4)]),
    }
