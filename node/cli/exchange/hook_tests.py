"""What a test of a hook sends: the message of a series, or of a converted CT in a temporary root that has no other."""

from __future__ import annotations

import datetime as dt
import importlib.resources
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from node.cli.options import Root
from node.errors import UsageError, VoxelnodeError

if TYPE_CHECKING:
    from node.notify.message import HookMessage
    from node.settings.core import HookEvent, HookSettings
    from node.settings.model import Settings

CT_SERIES = "dicomdirtests/98892001/CT5N"
"""Five slices among the test files that pydicom ships."""


def shipped_with_pydicom(name: str) -> list[Path]:
    """Return a test file of pydicom, or the files of a folder of them."""
    path = Path(str(importlib.resources.files("pydicom"))) / "data" / "test_files" / name
    return sorted(path.iterdir()) if path.is_dir() else [path]


@contextmanager
def sample_root(settings: Settings) -> Iterator[Path]:
    """Make a root that has one series, converted by [convert]; it is removed at the end."""
    from node.control.repository import Repository
    from node.conversion.pipeline import convert
    from node.conversion.series import record_outcome, write_volumes
    from node.receive.import_files import import_instances
    from node.settings.core import IndexSettings
    from node.writers.options import write_options

    def now() -> dt.datetime:
        return dt.datetime.now(dt.UTC)

    with tempfile.TemporaryDirectory(prefix="voxelnode-test-") as folder:
        storage = settings.storage.model_copy(
            update={"root": Path(folder), "reserve_bytes": 0, "journal_bytes": 16_777_216}
        )
        own = settings.model_copy(update={"storage": storage, "index": IndexSettings()})
        with Repository(own) as repository:
            repository.ingest.quiet_seconds = lambda calling_ae_title: 0.0
            import_instances(shipped_with_pydicom(CT_SERIES), repository.ingest)
            repository.applier.require_caught_up()
            claimed = repository.index.series.claim_due(now())
            assert claimed is not None
            outcome = write_volumes(
                claimed, repository.archive, repository.index, write_options(settings.convert), convert
            )
            record_outcome(claimed, outcome, repository.archive, repository.index, now)
        yield Path(folder)


def tested_results(
    root: Root, sample: Path | Literal[False], out: str | None, content: object, name: str, message: HookMessage
) -> list[dict[str, Any]]:
    """Return what the node would store of the files in the folder `out`. Raises ResultRefused as the node does.

    `sample`: the root of the example series, if the message is about that.
    """
    from node.index.reading import reading
    from node.registry import TESTED_RESULTS, part_of

    tested = part_of(root.settings, TESTED_RESULTS)
    if tested is None or out is None:
        return []
    left = Path(out), content, name, message.content
    if sample:
        return list(tested(*left, lambda: reading(sample, None), lambda file: sample / file.key))
    with root.files() as local:
        return list(tested(*left, root.reading, local))


def misfit_lines(name: str, misfits: list[str], series: str | None) -> list[str]:
    """Return a line on the clauses of `where` that the series of a test does not fit."""
    if not misfits:
        return []
    clauses = "; ".join(misfits)
    if series is not None:
        return [f"without a test, the hook does not receive this series: {clauses}"]
    return [f"the example series does not fit `where` of hook {name} ({clauses}): name one that does with --series UID"]


@contextmanager
def with_files(message: HookMessage, root: Root) -> Iterator[HookMessage]:
    """Yield a message whose paths are those of temporary copies where only the object store has the files."""
    from node.notify.message import files_of, with_paths

    with root.reading() as index, root.files() as local:
        yield with_paths(message, {str(root.folder / file.key): str(local(file)) for file in files_of(index, message)})


def message_of_test(
    root: Path, settings: Settings, hook: HookSettings, event: HookEvent, series: str | None
) -> tuple[HookMessage, list[str]]:
    """Return the message of a series, and the clauses of `where` that it does not fit."""
    from node.index.reading import reading
    from node.notify.message import message_of_first
    from node.selector import compile_selector

    url = settings.index.url if root == settings.storage.root else None
    with reading(root, url) as index:
        found = index.series.with_uid(series) if series is not None else index.series.newest(1)
        key = (found[0]["study_instance_uid"], found[0]["series_instance_uid"])
        message = message_of_first(index, hook, event, settings.dicom.ae_title, found)
        if message is None:
            lacking = "volume" if event == "volume-written" else "instance"
            raise UsageError(f"series {key[1]} has no {lacking} for {event}: choose another series or --event")
        if hook.where is None:
            return message, []
        selector = compile_selector(hook.where)
        facts = index.facts.of_series(selector.fields, *key)
        misfits = selector.why_not(facts) if facts is not None else []
        return message, [f"{clause}, but {instead}" for clause, instead in misfits]


class MessageNotDelivered(VoxelnodeError):
    """The hook did not accept the message."""


def failure_of_test(reason: str, unfit: list[str], output: str | None) -> MessageNotDelivered:
    """Print what a hook printed, and return why its test failed."""
    print("\n".join(printed_lines(output)), end="\n" if output else "")
    return MessageNotDelivered("; ".join([reason, *unfit]))


def printed_lines(output: str | None) -> list[str]:
    """Return the lines that a hook printed, apart from what this command says."""
    return ["the hook printed:", *(f"    {line}" for line in output.splitlines())] if output else []
