"""Which losses the verdict on a series notices: real series, from which instances are taken away.

    python benchmarks/completeness.py [--folder FOLDER] [--rounds N] [--seed N] [--source] [--missed]

FOLDER holds DICOM files, by default the corpus in VOXELNODE_CORPUS. Every series of several image instances is judged
as it is, then after each pattern of loss, by the pipeline of the node; each series is alone, without others of its
study. Markdown tables go to standard output. Losses are taken from the series that are complete as they are: from one
that is not, every loss would be noticed. What is left after a loss *at an end* is an unbroken part of the series in the
order of Instance Number: only an announced count, or another series of the study, can tell. So can its sender:
with ``--source``, Orthanc has the whole series and is asked by C-FIND. ``--missed`` lists each loss that was called
complete all the same.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from node.association.client.addresses import Address  # noqa: E402
from node.association.client.send import send_files  # noqa: E402
from node.completeness import Reported, expectation  # noqa: E402
from node.conversion.job import ConversionJob  # noqa: E402
from node.conversion.pipeline import convert  # noqa: E402
from node.dicom.counts import COUNT_KEYWORDS, InstanceCounts  # noqa: E402
from node.dicom.values import number, numbers, whole  # noqa: E402
from node.extensions.peers import find  # noqa: E402
from node.extensions.peers.asking import reported_of  # noqa: E402
from node.receive.dicom_files import SkippedFile, find_instances  # noqa: E402
from node.writers.options import WriteOptions  # noqa: E402
from tests.interop.conftest import orthanc_beside  # noqa: E402
from tests.programs import free_port  # noqa: E402

OPTIONS = WriteOptions(formats=("nifti",), compress=False, thumbnails=False)


@dataclass(frozen=True)
class Instance:
    """The attributes of an instance that the patterns use."""

    uid: str
    path: Path
    number: float
    place: tuple[float, ...]
    echo: float | None
    weighting: tuple[str, ...]
    counts: InstanceCounts


Series = list[Instance]

MANY = 10


WEIGHTINGS = (
    (0x00189087, 0x00189089),
    (0x0019100C, 0x0019100E),  # Siemens
    (0x20011003, 0x200510B0, 0x200510B1, 0x200510B2),  # Philips
    (0x00431039, 0x001910BB, 0x001910BC, 0x001910BD),  # GE
    (0x00651009, 0x00651037),  # UIH
)
"""Attributes that hold b-value and direction."""


def read(path: Path) -> Instance | None:
    """Return the instance in a file, or None if it is no image."""
    ds = pydicom.dcmread(path, force=True, stop_before_pixels=True)
    if "Rows" not in ds or "SOPInstanceUID" not in ds:
        return None
    return Instance(
        uid=str(ds.SOPInstanceUID),
        path=path,
        number=number(ds, "InstanceNumber") or 0.0,
        place=tuple(round(value, 2) for value in numbers(ds, "ImagePositionPatient") or ()),
        echo=number(ds, "EchoTime"),
        weighting=tuple(str(ds[tag].value) for tags in WEIGHTINGS for tag in tags if tag in ds),
        counts=InstanceCounts(*(whole(ds, keyword) for keyword in COUNT_KEYWORDS)),
    )


def read_folder(folder: Path) -> dict[str, Series]:
    """Return the image instances of every series by number, each SOP Instance UID once; named by folder and UID."""
    files: dict[tuple[str, str], dict[str, Instance]] = defaultdict(dict)
    for file in find_instances([folder]):
        if isinstance(file, SkippedFile) or file.path is None or (instance := read(file.path)) is None:
            continue
        own = files[str(file.path.parent.relative_to(folder)), file.identity.series_instance_uid]
        own.setdefault(instance.uid, instance)
    return {
        f"{where} ({uid[-6:]})": sorted(own.values(), key=lambda instance: (instance.number, instance.uid))
        for (where, uid), own in files.items()
        if len(own) > 1
    }


Loss = Callable[[Series, random.Random], Series]
"""Returns the instances that remain; all of them if the pattern does not apply."""


def times_of(series: Series) -> list[Series]:
    """Return the instances of each time, if the positions have equally many; [] for a single time."""
    at: dict[tuple[float, ...], Series] = defaultdict(list)
    for instance in series:
        at[instance.place].append(instance)
    counts = set(map(len, at.values()))
    if len({(instance.echo) for instance in series}) > 1 or len(counts) != 1 or counts == {1}:
        return []
    return [list(time) for time in zip(*at.values(), strict=True)]


def without(series: Series, lost: Sequence[Instance]) -> Series:
    uids = {instance.uid for instance in lost}
    return [instance for instance in series if instance.uid not in uids]


def one_in_the_middle(series: Series, chance: random.Random) -> Series:
    return without(series, [chance.choice(series[1:-1])]) if len(series) > 2 else series


def every_second(series: Series, chance: random.Random) -> Series:
    return series[::2] if len(series) > 2 else series


def a_run(series: Series, chance: random.Random) -> Series:
    length = max(2, len(series) // 5)
    if len(series) < length + 2:
        return series
    first = chance.randint(1, len(series) - length - 1)
    return series[:first] + series[first + length :]


def first_and_last_only(series: Series, chance: random.Random) -> Series:
    return [series[0], series[-1]] if len(series) > 2 else series


def one_time(series: Series, chance: random.Random) -> Series:
    times = times_of(series)
    return without(series, chance.choice(times[1:-1])) if len(times) > 2 else series


def the_last_time(series: Series, chance: random.Random) -> Series:
    times = times_of(series)
    return without(series, times[-1]) if len(times) > 1 else series


def one_image_of_an_echo(series: Series, chance: random.Random) -> Series:
    echoes = {instance.echo for instance in series}
    return without(series, [series[-1]]) if len(echoes) > 1 else series


def one_weighting(series: Series, chance: random.Random) -> Series:
    weightings = sorted({instance.weighting for instance in series})
    if len(weightings) < 3:
        return series
    lost = chance.choice(weightings)
    return [instance for instance in series if instance.weighting != lost]


def a_quarter(series: Series, chance: random.Random) -> Series:
    return without(series, chance.sample(series, max(1, len(series) // 4))) if len(series) > 2 else series


def a_quarter_of_many(series: Series, chance: random.Random) -> Series:
    return a_quarter(series, chance) if len(series) >= MANY else series


def the_first(series: Series, chance: random.Random) -> Series:
    return series[1:] if len(series) > 2 else series


def the_last(series: Series, chance: random.Random) -> Series:
    return series[:-1] if len(series) > 2 else series


def the_second_half(series: Series, chance: random.Random) -> Series:
    return series[: len(series) // 2] if len(series) > 2 else series


def one_echo(series: Series, chance: random.Random) -> Series:
    echoes = sorted({instance.echo for instance in series if instance.echo is not None})
    return [instance for instance in series if instance.echo != echoes[-1]] if len(echoes) > 1 else series


LOSSES: dict[str, Loss] = {
    "one in the middle": one_in_the_middle,
    "every second": every_second,
    "a run in the middle, a fifth": a_run,
    "all but the first and the last": first_and_last_only,
    "one time in the middle": one_time,
    "the last time": the_last_time,
    "the last image of several echoes": one_image_of_an_echo,
    "one diffusion weighting": one_weighting,
    "a random quarter": a_quarter,
    f"a random quarter of {MANY} or more": a_quarter_of_many,
    "the first": the_first,
    "the last": the_last,
    "the second half": the_second_half,
    "one echo": one_echo,
}


def is_at_an_end(series: Series, left: Series) -> bool:
    """Return whether what remains is one run of the series: nothing in it can tell."""
    places = {instance.uid: place for place, instance in enumerate(series)}
    kept = [places[instance.uid] for instance in left]
    return kept == list(range(kept[0], kept[0] + len(kept)))


def verdict(series: Series, reported: Reported | None = None) -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        instances = tuple((instance.uid, instance.path) for instance in series)
        known = expectation([instance.counts for instance in series], reported=reported)
        found = convert(ConversionJob(instances, Path(folder), OPTIONS, known)).completeness
    return found.state, found.reason


class Source:
    """Orthanc with whole series, each under a Series Instance UID of its own: some folders share theirs."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._keys: dict[str, tuple[str, str]] = {}

    def add(self, name: str, series: Series) -> None:
        key = self._keys[name] = (pydicom.uid.generate_uid(), pydicom.uid.generate_uid())
        with tempfile.TemporaryDirectory() as folder:
            paths = []
            for instance in series:
                ds = pydicom.dcmread(instance.path, force=True)
                ds.StudyInstanceUID, ds.SeriesInstanceUID = key
                ds.PatientID = key[0]
                paths.append(Path(folder) / f"{instance.uid}.dcm")
                ds.save_as(paths[-1])
            send_files(paths, self._address, "VOXELNODE")

    def reported(self, name: str, left: Series) -> Reported:
        """Ask, as a node does that has `left`."""
        key, stored = self._keys[name], {instance.uid for instance in left}
        count = find.find_instance_count(self._address, "VOXELNODE", key, 10)
        more = count is None or count > len(stored)
        listed = find.find_instances(self._address, "VOXELNODE", key, 10) if more else None
        return reported_of(len(stored), count, listed, stored)


def losses(series: Series, pattern: str, rounds: int, chance: random.Random) -> Iterator[Series]:
    """Yield what remains after a loss: once, or differently in each round if the pattern is random."""
    seen: set[tuple[str, ...]] = set()
    for _ in range(rounds):
        left = LOSSES[pattern](series, chance)
        key = tuple(instance.uid for instance in left)
        if len(left) < len(series) and left and key not in seen:
            seen.add(key)
            yield left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=os.environ.get("VOXELNODE_CORPUS"))
    parser.add_argument("--rounds", type=int, default=5, help="random losses of each series")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--source", action="store_true", help="ask Orthanc, which has the whole series")
    parser.add_argument("--missed", action="store_true")
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    found = read_folder(asked.folder)
    verdicts = {name: verdict(series) for name, series in found.items()}
    whole = {name: series for name, series in found.items() if verdicts[name][0] == "complete"}
    print(f"{len(found)} series of several instances, {len(whole)} of them complete. The others:\n")
    for name, (state, reason) in verdicts.items():
        if name not in whole:
            print(f"- {name}: {state}: {reason}")
    with ExitStack() as running:
        source = running.enter_context(orthanc()) if asked.source else None
        missed = measured(whole, source, asked.rounds, chance)
    if asked.missed:
        print("\nCalled complete:\n\n" + "\n".join(f"- {row}" for row in missed))


@contextmanager
def orthanc() -> Iterator[Source]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, orthanc_beside(Path(folder), free_port(), port, free_port()):
        yield Source(Address("ORTHANC", "127.0.0.1", port))


def cells(noticed: Counter[tuple[bool, str]], judges: Sequence[str]) -> Iterator[str]:
    for is_end in (False, True):
        count = noticed[is_end, "count"]
        yield str(count)
        for judge in judges:
            yield f"{noticed[is_end, judge]} ({100 * noticed[is_end, judge] / count:.0f} %)" if count else "-"


def measured(whole: dict[str, Series], source: Source | None, rounds: int, chance: random.Random) -> list[str]:
    """Print a table of what is noticed; return what is not."""
    judges = ["alone", *(["sender"] if source else [])]
    columns = [f"{place}, {judge}" for place in ("Inside", "At an end") for judge in ("count", *judges)]
    print(f"\n| Lost | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
    for name, series in whole.items():
        if source:
            source.add(name, series)
            state, reason = verdict(series, source.reported(name, series))
            if state != "complete":
                print(f"FALSE ALARM: {name}: {reason}")
    missed = []
    for pattern in LOSSES:
        noticed: Counter[tuple[bool, str]] = Counter()
        for name, series in whole.items():
            for left in losses(series, pattern, rounds, chance):
                is_end = is_at_an_end(series, left)
                noticed[is_end, "count"] += 1
                states = {
                    "alone": verdict(left),
                    **({"sender": verdict(left, source.reported(name, left))} if source else {}),
                }
                noticed.update((is_end, judge) for judge, (state, _) in states.items() if state != "complete")
                state, reason = states[judges[-1]]
                if state == "complete":
                    missed.append(f"{pattern}, {name}: {[int(one.number) for one in left][:20]}: {reason}")
        print(f"| {pattern} | {' | '.join(cells(noticed, judges))} |", flush=True)
    return missed


if __name__ == "__main__":
    main()
