"""The test of a hook: a message of a series that is here, marked as a test, and its delivery."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from tempfile import TemporaryDirectory

from node.index.database.reading import ReadIndex
from node.index.engine.rows import Row
from node.notify.channel import DeliveredMessage, hook_channel
from node.notify.message import HookMessage, NothingLeft, compose_test, with_job
from node.settings.core import HookEvent, HookSettings
from node.settings.model import Settings


def message_of_first(
    index: ReadIndex, hook: HookSettings, event: HookEvent, ae_title: str, series: Iterable[Row]
) -> HookMessage | None:
    """Return the message of the first series that has the volume or instance that an event needs; None if none has."""
    now = dt.datetime.now(dt.UTC)
    for row in series:
        key = (row["study_instance_uid"], row["series_instance_uid"])
        with suppress(NothingLeft):
            return compose_test(index, event, key, ae_title, now, include_patient=hook.include_patient)
    return None


@contextmanager
def delivered_test(
    settings: Settings, name: str, message: HookMessage
) -> Iterator[tuple[DeliveredMessage, str | None]]:
    """Deliver a test message; yield the answer of the hook, and the folder with its results, removed after the block.

    Raises NotDelivered.
    """
    hook = settings.hooks[name]
    folder = None
    with ExitStack() as opened, closing(hook_channel(settings, name)) as channel:
        if hook.results and hook.is_here:
            folder = opened.enter_context(TemporaryDirectory(prefix="voxelnode-test-"))
            message = with_job(message, "test", "", "", folder)
        yield channel.deliver(message, threading.Event()), folder
