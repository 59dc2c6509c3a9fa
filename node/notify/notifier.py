"""All hooks of a node: configuration, start and stop."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

from node.audit.audit_log import Audit
from node.errors import UsageError
from node.hookspecs import Results
from node.index.database.index import Index
from node.index.database.work_loop import stop_loops
from node.index.work.ledger import Lane
from node.metrics import Metrics
from node.notify.channel import Channel
from node.notify.command import HookCommand
from node.notify.worker import Held, HookWorker
from node.settings.model import HookSettings


class Notifier:
    """Deliver events to every hook, continuing where the last process stopped.

    Parameters
    ----------
    hooks : mapping of name to node.settings.model.HookSettings
    channels : mapping of name to Channel
        One for each hook; see `channel_of`.
    """

    def __init__(
        self,
        hooks: Mapping[str, HookSettings],
        channels: Mapping[str, Channel],
        index: Index,
        metrics: Metrics,
        audit: Audit,
        ae_title: str,
        results: Results,
        public_url: str = "",
        held: Held = lambda files: nullcontext(),
    ) -> None:
        self._index, self._hooks = index, hooks
        self.workers = [
            HookWorker(
                name, hook, channels[name], index, metrics, audit, ae_title, results, index.now, public_url, held
            )
            for name, hook in hooks.items()
        ]

    def start(self) -> None:
        """Start delivery. A new hook receives events from now on."""
        wants_instances = {Lane("hook", name): "instance-stored" in hook.on for name, hook in self._hooks.items()}
        self._index.deliveries.begin("hook", wants_instances)
        for worker in self.workers:
            worker.start()

    def stop(self, seconds: float) -> None:
        """Start no further attempts; see `node.index.database.work_loop.stop_loops`."""
        stop_loops(self.workers, seconds)


def channel_of(name: str, hook: HookSettings) -> Channel:
    """Return the channel for a hook, from its configuration.

    Raises
    ------
    UsageError
        The hook is misconfigured; the message names it.
    """
    try:
        if hook.url is not None:
            from node.notify.webhook import Webhook, read_secret  # here, and for plugins: each kind has its libraries

            secret = read_secret(hook.secret_file) if hook.secret_file is not None else None
            return Webhook(hook.url, hook.timeout_seconds, secret, hook.ca_file)
        if hook.plugin is not None:
            from node.notify.plugins import Plugin

            return Plugin(hook.plugin, hook.timeout_seconds)
        return HookCommand(hook.command, hook.timeout_seconds)
    except UsageError as error:
        raise UsageError(f"[hooks.{name}] {error}") from error
