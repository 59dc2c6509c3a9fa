"""How tests convert without a child process, where the process is not what they test."""

import datetime as dt
import threading
from collections.abc import Callable
from dataclasses import replace

from node.api import Index
from node.archive.filesystem import Archive
from node.conversion.job import ConversionJob, Converted
from node.conversion.pipeline import convert
from node.conversion.series import record_outcome, write_volumes
from node.index.rows.records import ClaimedSeries
from node.registry import installed, objects_of
from node.writers.options import WriteOptions


def here(job: ConversionJob, cancelled: threading.Event) -> Converted:
    """Convert in this process, with all extensions; never cancelled."""
    return convert_with_all(job)


def convert_with_all(job: ConversionJob) -> Converted:
    """Convert in this process, with all extensions."""
    return convert(replace(job, objects=objects_of(installed())))


def convert_series(
    claimed: ClaimedSeries,
    archive: Archive,
    index: Index,
    options: WriteOptions,
    run: Callable[[ConversionJob], Converted],
    now: Callable[[], dt.datetime],
) -> bool:
    """Convert a claimed series and record the outcome, as the scheduler does in two steps."""
    return record_outcome(claimed, write_volumes(claimed, archive, index, options, run), archive, index, now)
