"""How much memory a conversion takes, beside what it may: twice the volumes and 300 MB.

    python benchmarks/memory.py [--only WORD ...]

`voxelnode convert` to NIfTI and MetaImage, with thumbnails.  The peak is that of the largest of its processes, which is
the one that converts.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.uid import JPEG2000Lossless, PositronEmissionTomographyImageStorage

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.convert import ct, epi, usage_of_orphans  # noqa: E402
from node.children.confinement import adopt_orphans  # noqa: E402
from tests.make import ct_series, enhanced_mr, image_series, rgb_capture, tilted_ct_series  # noqa: E402

MEGABYTE = 1e6

OUTPUTS = ("--format", "nifti,mhd", "--thumbnails")


def saved(instances: Iterable[Dataset], folder: Path) -> None:
    for number, ds in enumerate(instances):
        ds.save_as(folder / f"{number:05d}.dcm", enforce_file_format=True)


def noise(slices: int) -> np.ndarray:
    """Pixels of 12 bits that no codec makes much smaller."""
    return np.random.default_rng(0).integers(0, 4096, (slices, 512, 512), dtype=np.int16)


def enhanced(slices: int, times: int, folder: Path) -> None:
    saved([enhanced_mr(slices, times, pixels=noise(slices * times))], folder)


def pet(folder: Path) -> None:
    series = image_series(
        200, pixels=noise(200), sop_class_uid=PositronEmissionTomographyImageStorage, modality="PT", Units="BQML"
    )
    for number, ds in enumerate(series):
        ds.RescaleSlope, ds.RescaleIntercept = f"{1 + number / 1000:.3f}", "0"
    saved(series, folder)


def jpeg_2000(folder: Path) -> None:
    series = ct_series(100, pixels=noise(100))
    for ds in series:
        ds.compress(JPEG2000Lossless)
    saved(series, folder)


LOADS: dict[str, Callable[[Path], None]] = {
    "400 CT of 512 x 512": ct,
    "enhanced multi-frame of 400 frames of 512 x 512": lambda folder: enhanced(400, 1, folder),
    "the same as 40 slices at 10 times": lambda folder: enhanced(40, 10, folder),
    "200 PET of 512 x 512, a slope for each slice, to float32": pet,
    "100 CT of 512 x 512 in JPEG 2000": jpeg_2000,
    "400 CT with a tilted gantry, and the upright volume beside it": lambda folder: saved(
        tilted_ct_series(400, pixels=noise(400)), folder
    ),
    "250 RGB frames of 512 x 512": lambda folder: saved([rgb_capture(512, 512, 250)], folder),
    "20 000 EPI slices of 64 x 64": epi,
}


def measure(name: str, folder: Path) -> dict[str, object]:
    source, out = folder / "in", folder / "out"
    source.mkdir()
    # In a process of its own: a child's peak memory counts from what its parent had when it was started.
    subprocess.run([sys.executable, __file__, "--make", name, str(source)], check=True)
    command = [str(Path(sys.executable).with_name("voxelnode")), "convert", str(source), "-o", str(out), *OUTPUTS]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    peak = max(usage.ru_maxrss for usage in (usage, *usage_of_orphans())) * 1024
    listing = json.loads((out / "conversion.json").read_text(encoding="utf-8"))
    if process.returncode or listing["refusals"]:
        raise SystemExit(f"{name}: status {process.returncode}, {listing['refusals']}")
    volumes = [row for row in listing["volumes"] if row["format"] == "nifti"]
    size = sum(math.prod(row["shape"]) * _voxel_bytes(row["dtype"], source) for row in volumes)
    return {
        "load": name,
        "output_mb": round(size / MEGABYTE),
        "peak_mb": round(peak / MEGABYTE),
        "allowed_mb": round(2 * size / MEGABYTE + 300),
    }


def _voxel_bytes(dtype: str, source: Path) -> int:
    colour = len(list(source.iterdir())) == 1 and dtype == "uint8"
    return np.dtype(dtype).itemsize * (3 if colour else 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="WORD", default=[])
    parser.add_argument("--make", nargs=2, metavar=("LOAD", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.make:
        LOADS[asked.make[0]](Path(asked.make[1]))
        return
    adopt_orphans()
    for name in LOADS:
        if all(word in name for word in asked.only):
            with tempfile.TemporaryDirectory() as folder:
                print(json.dumps(measure(name, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
