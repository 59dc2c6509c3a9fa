"""Who receives the messages of hooks: webhooks, commands and plugins."""

from __future__ import annotations

from node.hookspecs import Extension, Key


class _Channels(Extension):
    """What `[hooks.NAME]` names."""

    name = "channels"
    channels = (
        Key("url", f"{__name__}.webhook:opened"),
        Key("command", f"{__name__}.command:opened"),
        Key("plugin", f"{__name__}.plugins:opened"),
    )


EXTENSION = _Channels()
