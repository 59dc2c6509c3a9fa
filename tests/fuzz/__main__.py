"""Fuzz the way of an instance from its receipt to its volume, guided by coverage; by hand, not in the gate.

    pip install --group fuzz
    TMPDIR=/dev/shm VOXELNODE_CORPUS=.../corpus nice -n 19 python -m tests.fuzz FOLDER -max_total_time=3600

Seeds are instances of the corpus, with few pixels. FOLDER keeps what reached new code, for the next run. Further
arguments are libFuzzer's. An input that breaks a promise ends the run and stays as ``FOLDER/crash-*``, which
``python -m tests.fuzz FOLDER/crash-...`` runs again: a case for `tests/fuzz/test_found.py`.
"""

import logging
import os
import sys
from pathlib import Path

import atheris

from node.children.serving import limit

with atheris.instrument_imports(include=["node"]):
    from tests.fuzz import target

from tests.fuzz.mutations import mutated
from tests.fuzz.seeds import write_seeds

MAX_BYTES = 64 << 10
MEMORY_BYTES = 4 << 30
"""Of the whole process: no input is so long that its conversion needs as much."""


def main() -> None:
    """Fuzz until a promise is broken, or libFuzzer ends."""
    logging.disable()
    folder = Path(sys.argv[1])
    if folder.is_file():
        target.run(folder.read_bytes())
        return
    seeds = folder / "seeds"
    seeds.mkdir(parents=True, exist_ok=True)
    write_seeds(Path(os.environ["VOXELNODE_CORPUS"]), seeds, MAX_BYTES)
    reached = folder / "reached"
    reached.mkdir(exist_ok=True)
    options = [f"-artifact_prefix={folder}/", f"-max_len={MAX_BYTES}", "-timeout=30", "-rss_limit_mb=0"]
    limit(MEMORY_BYTES, cpu_seconds=1 << 30)
    atheris.Setup(
        [sys.argv[0], str(reached), str(seeds), *options, *sys.argv[2:]],
        target.run,
        custom_mutator=lambda data, limit, seed: mutated(data, limit, seed, atheris.Mutate),
    )
    atheris.Fuzz()


main()
