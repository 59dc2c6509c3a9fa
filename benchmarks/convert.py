"""How fast a series becomes a volume, beside dcm2niix, whole processes in turns: only the ratios count.

    python benchmarks/convert.py [--rounds N] [--only NAME ...] [--voxelnode PROGRAM]

PROGRAM is that of an environment with nothing but voxelnode in it: pydicom loads more where there is more to load.
`voxelnode convert` without thumbnails against `dcm2niix -b y`, each started anew, files in the page cache, modules
compiled as an installed package has them (one turn before the measured ones sees to that).  Processor time is that of
the process and of all that it starts.  Peak memory is that of the largest of these, beside twice the output plus
300 MB, which is the most that a conversion may take.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import dcm2niix
import numpy as np
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, generate_uid

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from node.children.confinement import adopt_orphans  # noqa: E402
from tests.make import ct_series, mr_series  # noqa: E402

MEGABYTE = 1 << 20
COMPRESSED_SLICES = 100
SLICE_BYTES = 512 * 512 * 2
CT_BYTES, EPI_BYTES = 400 * SLICE_BYTES, 20_000 * 64 * 64 * 2


def ct(folder: Path) -> None:
    """400 slices of 512 x 512: a body with noise in air, so that it compresses as a CT does."""
    random = np.random.default_rng(0)
    y, x = np.ogrid[-256:256, -256:256]
    body = (x / 200) ** 2 + (y / 150) ** 2 < 1
    planes = np.where(body, 1040, 24) + random.normal(0, 12, (400, 512, 512)).astype(np.int16)
    planes = np.where((x**2 + y**2) > 250**2, 0, np.maximum(planes, 0)).astype(np.int16)
    for number, ds in enumerate(ct_series(400, spacing=1.0, pixel_spacing=(0.8, 0.8), pixels=planes)):
        ds.save_as(folder / f"{number:05d}.dcm", enforce_file_format=True)


def one(folder: Path) -> None:
    """One slice, whose conversion is little more than a start."""
    [ds] = ct_series(1, rows=512, columns=512)
    ds.save_as(folder / "slice.dcm", enforce_file_format=True)


def jpeg_2000(folder: Path) -> None:
    """The first 100 slices of the CT, compressed."""
    _compressed(folder, JPEG2000Lossless)


def jpeg_ls(folder: Path) -> None:
    """The first 100 slices of the CT, compressed."""
    _compressed(folder, JPEGLSLossless)


def _compressed(folder: Path, syntax: str) -> None:
    with tempfile.TemporaryDirectory() as native:
        ct(Path(native))
        for path in sorted(Path(native).iterdir())[:COMPRESSED_SLICES]:
            ds = dcmread(path)
            ds.compress(syntax, generate_instance_uid=False)
            ds.save_as(folder / path.name)


def epi(folder: Path) -> None:
    """A time series of 500 volumes of 40 slices of 64 x 64, an instance each: 20 000 small files."""
    uids = {"study_uid": generate_uid(), "series_uid": generate_uid(), "FrameOfReferenceUID": generate_uid()}
    random = np.random.default_rng(0)
    for time_index in range(500):
        minutes, seconds = divmod(2 * time_index, 60)
        pixels = random.integers(0, 1000, (40, 64, 64), np.int16)
        volume = mr_series(40, pixels=pixels, AcquisitionTime=f"10{minutes:02d}{seconds:02d}.000000", **uids)
        for index, ds in enumerate(volume):
            ds.InstanceNumber = time_index * 40 + index + 1
            ds.save_as(folder / f"{ds.InstanceNumber:05d}.dcm", enforce_file_format=True)


@dataclass(frozen=True)
class Load:
    """One series, how both programs are asked for it, and the most that our time may be of theirs."""

    name: str
    make: Callable[[Path], None]
    voxel_bytes: int
    compress: bool
    ratio: float


LOADS = [
    Load("400 CT slices to .nii.gz", ct, CT_BYTES, compress=True, ratio=0.5),
    Load("400 CT slices to .nii", ct, CT_BYTES, compress=False, ratio=1.5),
    Load("20 000 EPI slices to .nii", epi, EPI_BYTES, compress=False, ratio=1.5),
    Load("100 JPEG 2000 slices to .nii", jpeg_2000, 100 * SLICE_BYTES, compress=False, ratio=1.5),
    Load("100 JPEG-LS slices to .nii", jpeg_ls, 100 * SLICE_BYTES, compress=False, ratio=1.5),
    Load("one CT slice to .nii", one, SLICE_BYTES, compress=False, ratio=15),  # 0.3 s
]


def ours(program: Path, load: Load, source: Path, out: Path) -> list[str]:
    compress = "--compress" if load.compress else "--no-compress"
    return [str(program), "convert", str(source), "-o", str(out), "--format", "nifti", compress]


def theirs(load: Load, source: Path, out: Path) -> list[str]:
    return [str(dcm2niix.bin), "-b", "y", "-z", "i" if load.compress else "n", "-o", str(out), str(source)]


def run(command: list[str], out: Path, bytecode: Path) -> tuple[float, float, int]:
    """Seconds on the clock, seconds of processor time and peak resident bytes of one command.

    Its children are this process's orphans if the command ends before they were waited for; they count as well.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(bytecode)
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    usages = [usage, *usage_of_orphans()]
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}")
    if not any(out.rglob("*.nii*")):
        raise SystemExit(f"{command[0]} wrote no volume")
    processor = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return seconds, processor, max(usage.ru_maxrss for usage in usages) * 1024


def usage_of_orphans() -> Iterator[resource.struct_rusage]:
    """Yield what was used by processes whose parent ended before them."""
    with suppress(ChildProcessError):
        while True:
            yield os.wait4(-1, 0)[2]


def measure(program: Path, load: Load, folder: Path, rounds: int) -> dict[str, object]:
    """Medians of both programs over `rounds` turns."""
    source = folder / load.make.__name__
    if not source.is_dir():
        source.mkdir()
        # In a process of its own: a child's peak memory counts from what its parent had when it was started.
        subprocess.run([sys.executable, __file__, "--make", load.make.__name__, str(source)], check=True)
    mine, other = [], []
    bytecode = folder / "bytecode"
    for _ in range(1 + rounds):
        mine.append(run(ours(program, load, source, folder / "ours"), folder / "ours", bytecode))
        other.append(run(theirs(load, source, folder / "theirs"), folder / "theirs", bytecode))
    del mine[0], other[0]
    (seconds, processor, _), (reference, reference_processor, _) = map(_medians, (mine, other))
    least = [min(processor for _, processor, _ in rounds) for rounds in (mine, other)]
    return {
        "load": load.name,
        "seconds": round(seconds, 2),
        "dcm2niix": round(reference, 2),
        "ratio": round(seconds / reference, 2),
        "processor": round(processor, 2),
        "dcm2niix_processor": round(reference_processor, 2),
        "ratio_processor": round(processor / reference_processor, 2),
        "least_processor": [round(seconds, 3) for seconds in least],
        "allowed": load.ratio,
        "peak_mb": max(peak for _, _, peak in mine) // MEGABYTE,
        "allowed_mb": 2 * load.voxel_bytes // MEGABYTE + 300,
    }


def _medians(rounds: list[tuple[float, float, int]]) -> list[float]:
    return [statistics.median(values) for values in zip(*rounds, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", metavar="WORD", default=[])
    beside = Path(sys.executable).with_name("voxelnode")
    parser.add_argument("--voxelnode", type=Path, default=beside, metavar="PROGRAM", help="by default: %(default)s")
    parser.add_argument("--folder", type=Path, help="keep the series here, and take them from there")
    parser.add_argument("--make", nargs=2, metavar=("SERIES", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.make:
        {load.make.__name__: load.make for load in LOADS}[asked.make[0]](Path(asked.make[1]))
        return
    adopt_orphans()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        for load in LOADS:
            if all(word in load.name for word in asked.only):
                print(json.dumps(measure(asked.voxelnode, load, folder, asked.rounds)), flush=True)


if __name__ == "__main__":
    main()
