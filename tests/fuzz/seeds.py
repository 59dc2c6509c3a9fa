"""Seeds: a few instances of each series of the corpus, with so few pixels that thousands are converted in a minute."""

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.uid import UID

from tests import make
from tests.fuzz.target import joined

PIXELS = 4
"""Rows and columns that stay."""
INSTANCES = 3
"""Instances of a series."""


def write_seeds(corpus: Path, folder: Path, max_bytes: int) -> None:
    """Write a few instances of each series of a corpus, as an input of `tests.fuzz.target`."""
    series: defaultdict[str, list[bytes]] = defaultdict(list)
    for path in sorted(path for path in corpus.rglob("*") if path.is_file()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for ds in _read(path):
                if len(chosen := series[ds.SeriesInstanceUID]) < INSTANCES:
                    chosen.append(with_few_pixels(ds))
    for files in series.values():
        data = joined(files)
        if len(data) <= max_bytes:
            (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def _read(path: Path) -> Iterator[Dataset]:
    try:
        ds = dcmread(path)
        syntax = UID(ds.file_meta.TransferSyntaxUID)
        if not syntax.is_compressed:  # codecs run in C, where no coverage is seen and a crash is expected
            yield ds
    except Exception:  # many files of the corpus are no DICOM
        return


def with_few_pixels(ds: Dataset) -> bytes:
    """Return the file of an instance of which only the first pixels are left."""
    if "PixelData" in ds and "Rows" in ds and "Columns" in ds:
        frames = int(ds.get("NumberOfFrames") or 1)
        ds.Rows, ds.Columns = min(ds.Rows, PIXELS), min(ds.Columns, PIXELS)
        size = ds.Rows * ds.Columns * frames * ds.SamplesPerPixel * ds.BitsAllocated // 8
        ds.PixelData = ds.PixelData[:size] + b"\0" * (size % 2)
    return make.as_file(ds)
