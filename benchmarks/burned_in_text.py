"""How much text in pixels the recognition of `voxelnode[ocr]` finds, and what it takes for text that is none.

    python benchmarks/burned_in_text.py [--pictures 2] [--corpus ../shared/corpus] [--part lines]

Pictures are drawn (`tests/drawn.py`) with lines of text of several heights, contrasts, fonts and scripts, and without.
A line is found if nine tenths of it are covered by what would be blanked. Of the corpus, the first and the middle
instance of each series are examined, of these the middle frame, by whatever modality; what is read there is text in
ultrasound and in the test patterns of modality OT, and a false alarm elsewhere.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from node.children.serving import use_one_thread  # noqa: E402

use_one_thread()

from node.dicom.values import text  # noqa: E402
from node.errors import ConversionRefused  # noqa: E402
from node.extensions.deidentify.burned_in_text import is_examined, lines_in, load, pictures  # noqa: E402  # noqa: E402
from node.extensions.deidentify.pixels import covered, has_pixels  # noqa: E402
from node.files.reading import read_instance  # noqa: E402
from node.volume.read.pixels import frame_reader  # noqa: E402
from tests.conftest import corpus_folder  # noqa: E402
from tests.drawn import FONTS, IDEOGRAPHIC, KINDS, OF_ALL_SCRIPTS, latin, with_text  # noqa: E402

HEIGHTS = (6, 8, 10, 12, 16, 24, 48)
CONTRASTS = (255, 60, 30)

Line = Callable[[Generator], str]


def one_of(*lines: str) -> Line:
    """Return what chooses a line."""
    return lambda rng: lines[rng.integers(len(lines))]


SCRIPTS: dict[str, tuple[Line, Sequence[str]]] = {
    "Latin": (latin, FONTS),
    "short: LEE, Li, 11/11/11": (one_of("LEE", "ANNA", "Li", "Bob", "Otto", "11/11/11"), FONTS),
    "Chinese, Japanese": (one_of("王丽", "山田太郎", "陈伟明", "李 娜"), (IDEOGRAPHIC,)),
    "Greek": (one_of("Παπαδόπουλος", "ΝΙΚΟΛΑΟΥ Ε.", "Γεωργίου"), (OF_ALL_SCRIPTS,)),
    "Cyrillic": (one_of("Иванова Елена", "ПЕТРОВ И.И.", "Жукова Щ.", "Смирнов"), (OF_ALL_SCRIPTS,)),
    "Arabic, Hebrew": (one_of("محمد علي", "ישראל כהן", "فاطمة الزهراء"), (OF_ALL_SCRIPTS,)),
    "Korean, Thai": (one_of("김철수", "นายสมชาย", "이영희"), (IDEOGRAPHIC,)),
}


def grey(picture: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def examined(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which pixels would be blanked."""
    return covered(lines_in(picture, lambda: None), *picture.shape[:2])


def found_of(
    kind: str, height: int, contrast: int, count: int, line: Line = latin, fonts: Sequence[str] = FONTS
) -> tuple[int, int]:
    """Return how many lines were found, and how many there are."""
    found = total = 0
    for number in range(count):
        rng = np.random.default_rng((number, height, contrast, list(KINDS).index(kind), 99))
        drawn = with_text(KINDS[kind](rng), rng, height, contrast, line, fonts)
        mask = examined(grey(drawn.picture))
        for left, top, right, bottom in drawn.boxes:
            total += 1
            found += bool(mask[top:bottom, left:right].mean() >= 0.9)
    return found, total


def show(label: str, cells: Sequence[str]) -> None:
    print(f"| {label} | " + " | ".join(cells) + " |", flush=True)


def share(found: int, total: int) -> str:
    return f"{found}/{total}" if total else ""


def recall(count: int) -> None:
    """Print what was found by kind, height and contrast."""
    for contrast in CONTRASTS:
        print(f"\nLines found, contrast {contrast} of 255\n")
        show("Picture", [f"{height} px" for height in HEIGHTS])
        for kind in KINDS:
            show(kind, [share(*found_of(kind, height, contrast, count)) for height in HEIGHTS])


def scripts() -> None:
    """Print what was found by script."""
    heights = (8, 12, 16, 24)
    print("\nLines found by script, contrast 255 and 60, on ultrasound, screen, CT and MR\n")
    show("Script", [f"{height} px" for height in heights])
    for script, (line, fonts) in SCRIPTS.items():
        if not all(not file or Path(file).exists() for file in fonts):
            continue
        cells = []
        for height in heights:
            parts = [
                found_of(kind, height, contrast, 1, line, fonts) for kind in list(KINDS)[:4] for contrast in (255, 60)
            ]
            cells.append(share(sum(found for found, _ in parts), sum(total for _, total in parts)))
        show(script, cells)


def false_alarms(count: int) -> None:
    """Print in how many drawn pictures without text some was seen, and how long one takes."""
    print("\nPictures without text\n")
    show("Picture", ["with text seen", "s of processor time"])
    for kind, draw in KINDS.items():
        seen, used = 0, 0.0
        for number in range(count):
            picture = grey(draw(np.random.default_rng((number, 77))))
            began = time.process_time()
            seen += bool(examined(picture).any())
            used += time.process_time() - began
        show(kind, [f"{seen}/{count}", f"{used / count:.2f}"])


def of_corpus(folder: Path) -> Iterator[Dataset]:
    """Yield the first and the middle instance of each series."""
    series: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            ds = dcmread(path, stop_before_pixels=True)
        except Exception:  # no DICOM file, or a damaged one
            continue
        if "Rows" in ds:
            series[path.parent, text(ds, "SeriesInstanceUID")].append(path)
    for paths in series.values():
        for path in sorted({paths[0], paths[len(paths) // 2]}):
            yield read_instance(path)


def corpus(folder: Path) -> None:
    """Print in how many instances of the corpus text was seen, by modality."""
    seen: Counter[str] = Counter()
    total: Counter[str] = Counter()
    used = 0.0
    for ds in of_corpus(folder):
        if not has_pixels(ds) or not is_examined(ds):
            continue
        try:
            reader = frame_reader(ds)
            shown = list(pictures(ds, reader, reader.frames // 2))
        except ConversionRefused:
            continue
        began = time.process_time()
        modality = text(ds, "Modality")
        seen[modality] += any(examined(picture).any() for picture in shown)
        used += time.process_time() - began
        total[modality] += 1
    print(f"\nCorpus, {used / total.total():.2f} s of processor time for an instance\n")
    show("Modality", ["with text seen"])
    for modality, number in sorted(total.items()):
        show(modality, [f"{seen[modality]}/{number}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2, help="of each kind, height and contrast")
    parser.add_argument("--corpus", type=Path, default=corpus_folder())
    parser.add_argument("--part", action="append", choices=("lines", "scripts", "none", "corpus"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    load()
    parts: dict[str, Callable[[], None]] = {
        "lines": lambda: recall(arguments.pictures),
        "scripts": scripts,
        "none": lambda: false_alarms(10 * arguments.pictures),
        "corpus": lambda: corpus(arguments.corpus),
    }
    for part in arguments.part or parts:
        parts[part]()
    print(f"\n{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB resident at most")


if __name__ == "__main__":
    main()
