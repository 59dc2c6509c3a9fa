"""Who receives the messages of hooks: webhooks, commands and plugins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from node.extras import lacking
from node.hookspecs import Extension, Key

if TYPE_CHECKING:
    from node.settings.model import Settings


class _Channels(Extension):
    """What `[hooks.NAME]` names."""

    name = "channels"
    channels = (
        Key("url", f"{__name__}.webhook:opened"),
        Key("command", f"{__name__}.command:opened"),
        Key("plugin", f"{__name__}.plugins:opened"),
    )

    def mistakes(self, settings: Settings) -> Iterator[str]:
        for name, hook in settings.hooks.items():
            if hook.url is not None and (hook.secret_file or hook.secret):
                yield from lacking(f"hooks.{name}: a secret that signs messages", "webhooks")


EXTENSION = _Channels()
