"""The long runs: ``python -m tests.crash --cycles 1000 --senders 4``, ``python -m tests.crash --interleavings 500``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.crash.harness import Run
from tests.crash.mutants import MUTANTS
from tests.crash.operators import try_interleavings

SHOWN = 40


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--interleavings", type=int, help="instead of cycles: so many orders of operators' work")
    parser.add_argument("--senders", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="take one defence out of the node")
    parser.add_argument("--folder", type=Path, help="keep everything there, for looking into")
    options = parser.parse_args()
    if options.interleavings is not None:
        try_interleavings(options.interleavings, mutant=options.mutant, seed=options.seed)
        print(f"{options.interleavings} interleavings, seed {options.seed}: nothing lost, nothing came back")
        return 0
    with tempfile.TemporaryDirectory(prefix="voxelnode-crash-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        result = Run(folder, options.senders, seed=options.seed, mutant=options.mutant).run(options.cycles)
    print(f"{result.cycles} cycles in {result.seconds:.0f} s, {options.senders} senders, seed {options.seed}")
    print(f"{result.acknowledged} data sets acknowledged, {result.refused} refused")
    for place, count in sorted(result.died_at.items()):
        print(f"{count:6d}  died at {place}")
    print(
        "\n".join(result.problems[:SHOWN])
        or "nothing lost, nothing altered, nothing indexed twice, everything converted"
    )
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
