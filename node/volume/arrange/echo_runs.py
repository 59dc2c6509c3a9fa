"""Echoes that only the runs of raw data tell apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from node.volume.arrange.whole_times import Bin
from node.volume.model import Frame
from node.volume.reasons import Warn, Warning

FIRST_ECHO = Warning(
    Warn.PARAMETER_VARIES,
    "Echo Time (0018,0081) is that of the first echo in all of them; they were told apart by their runs of raw data",
)


def by_raw_data_run(bins: Sequence[Bin]) -> list[list[Frame]]:
    """Return frames by echo, in order of acquisition; none where each position is not of as many runs as echoes.

    Research sequences of GE write number and time of the first echo into all images (dcm2niix, issue 359); what is left
    is that images of one place and another echo come from another run of raw data.

    Parameters
    ----------
    bins : sequence of sequences of Frame
        Frames that share a position; those with `variant_key` ``raw_data_run``: how many echoes there are, and a run.
    """
    told = {frame.variant_key.get("raw_data_run") for frames in bins for frame in frames}
    echoes = {None if each is None else each[0] for each in told}
    if len(echoes) != 1 or None in echoes:
        return []
    parts: dict[int, list[Frame]] = defaultdict(list)
    for frames in bins:
        runs = sorted({frame.variant_key["raw_data_run"] for frame in frames})
        if len(runs) not in echoes:
            return []
        for frame in frames:
            parts[runs.index(frame.variant_key["raw_data_run"])].append(frame)
    return [parts[echo] for echo in sorted(parts)]
