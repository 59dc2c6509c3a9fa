"""The long runs: ``python -m tests.crash --cycles 1000 --senders 4``, ``python -m tests.crash --interleavings 500``."""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import get_args

from node.settings.core import OverwritePolicy
from tests.crash.harness import AFTER_RELEASE, Run
from tests.crash.interleavings import ACTORS, try_interleavings
from tests.crash.mutants import MUTANTS
from tests.crash.power import cut_power
from tests.crash.small_journal import SINGLE_SYNCS, VARIABLE, make_small

SHOWN = 40
SOUND = "nothing lost, nothing came back"


def _try_orders(options: argparse.Namespace) -> int:
    began, counts, problem = time.monotonic(), Counter[str](), SOUND
    try:
        chosen = {name: getattr(options, name) for name in ("first", "actors", "mutant", "seed")}
        try_interleavings(options.interleavings, counts=counts, **chosen)
    except AssertionError as error:
        problem = "\n".join([str(error), *error.__notes__])
    print(f"{counts.pop('orders')} orders in {time.monotonic() - began:.0f} s, seed {options.seed}")
    print(*(f"{count:6d}  {what}" for what, count in sorted(counts.items())), problem, sep="\n")
    return 1 if problem != SOUND else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--interleavings", type=int, help="instead of cycles: so many orders of operators' work")
    parser.add_argument("--actors", nargs="+", choices=ACTORS, default=ACTORS, help="the operations of these orders")
    parser.add_argument("--power-cuts", type=int, help="instead of cycles: so many power cuts in one session")
    parser.add_argument("--first", type=int, default=0, help="number of the first order, to repeat one that failed")
    parser.add_argument("--senders", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--policy", choices=get_args(OverwritePolicy), help="check which version is current")
    parser.add_argument("--reader", action="store_true", help="somebody holds a transaction on the index")
    parser.add_argument("--released", action="store_true", help="kill 0, 1, 5 and 50 ms after A-RELEASE-RP")
    parser.add_argument("--two-disks", action="store_true", help="the folder of instances is a link to another disk")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="take one defence out of the node")
    parser.add_argument("--folder", type=Path, help="keep everything there, for looking into")
    options = parser.parse_args()
    if options.interleavings is not None:
        return _try_orders(options)
    with tempfile.TemporaryDirectory(prefix="voxelnode-crash-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        run = Run(
            folder,
            options.senders,
            seed=options.seed,
            mutant=options.mutant,
            policy=options.policy,
            has_reader=options.reader,
            has_two_disks=options.two_disks,
        )
        if options.released:
            run.moments = AFTER_RELEASE
        if options.power_cuts is not None:
            os.environ[VARIABLE] = SINGLE_SYNCS
            make_small()  # the starts after the cuts are of this process
            result = cut_power(options.power_cuts, folder, has_two_disks=options.two_disks)
        else:
            result = run.run(options.cycles)
    what = "cycles" if options.power_cuts is None else "power cuts"
    print(f"{result.cycles} {what} in {result.seconds:.0f} s, {options.senders} senders, seed {options.seed}")
    print(f"{result.acknowledged} data sets acknowledged, {result.refused} refused")
    if result.released:
        print(f"{result.released} whole series whose release was answered")
    for place, count in sorted(result.died_at.items()):
        print(f"{count:6d}  died at {place}")
    print(
        "\n".join(result.problems[:SHOWN])
        or "nothing lost, nothing altered, nothing indexed twice, everything converted"
    )
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
