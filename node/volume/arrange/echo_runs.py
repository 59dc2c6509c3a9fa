"""Split echoes that can be separated only by their runs of raw data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from node.volume.arrange.whole_times import Bin
from node.volume.model import Frame
from node.volume.reasons import VolumeWarning, WarningKind

FIRST_ECHO_WARNING = VolumeWarning(
    WarningKind.PARAMETER_VARIES,
    "all echoes carry the Echo Time (0018,0081) of the first; they were separated by their runs of raw data",
)


def split_by_raw_data_run(bins: Sequence[Bin]) -> list[list[Frame]]:
    """Return frames by echo, in order of acquisition; empty unless each position has as many runs as there are echoes.

    Research sequences of GE write number and time of the first echo into all images (dcm2niix, issue 359). But images
    of one position and different echoes come from different runs of raw data.

    Parameters
    ----------
    bins : sequence of list of Frame
        Frames that share a position. `variant_key` ``raw_data_run`` holds the number of echoes and the run.
    """
    keys = {frame.variant_key.get("raw_data_run") for frames in bins for frame in frames}
    echo_counts = {None if key is None else key[0] for key in keys}
    if len(echo_counts) != 1 or None in echo_counts:
        return []
    parts: dict[int, list[Frame]] = defaultdict(list)
    for frames in bins:
        runs = sorted({frame.variant_key["raw_data_run"] for frame in frames})
        if len(runs) not in echo_counts:
            return []
        for frame in frames:
            parts[runs.index(frame.variant_key["raw_data_run"])].append(frame)
    return [parts[echo] for echo in sorted(parts)]
