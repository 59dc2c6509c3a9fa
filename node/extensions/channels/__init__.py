"""Who receives the messages of hooks: webhooks, commands and plugins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from node.api import Extension, Kind, lacking

if TYPE_CHECKING:
    from node.api import Settings


class _Channels(Extension):
    """What `[hooks.NAME]` names."""

    name = "channels"
    hooks = (
        Kind("webhook", f"{__name__}.settings:WebhookSettings", f"{__name__}.webhook:opened"),
        Kind("command", f"{__name__}.settings:CommandSettings", f"{__name__}.command:opened"),
        Kind("plugin", f"{__name__}.settings:PluginSettings", f"{__name__}.plugins:opened"),
    )

    def mistakes(self, settings: Settings) -> Iterator[str]:
        for name in (name for name, hook in settings.hooks.items() if hook.results):
            yield from lacking(f"hooks.{name}: results", "results")
        webhooks = {name: hook for name, hook in settings.hooks.items() if hook.kind == "webhook"}
        if not webhooks:
            return
        from node.extensions.channels.settings import WebhookSettings

        for name, hook in webhooks.items():
            assert isinstance(hook, WebhookSettings)
            if hook.secret_file or hook.secret:
                yield from lacking(f"hooks.{name}: a secret that signs messages", "webhooks")
            if hook.results and not settings.web.enabled:
                yield f"hooks.{name}: a webhook gives its results over HTTP: [web] enabled must be true"


EXTENSION = _Channels()
