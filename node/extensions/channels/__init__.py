"""Who receives the messages of hooks: webhooks, commands, plugins, and DICOM peers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from node.extras import lacking
from node.hookspecs import Extension, Key, Statement

if TYPE_CHECKING:
    from node.settings.model import Settings

NOTIFICATION = """\
##### SCU of the Instance Availability Notification SOP Class

A hook with `peer` ([hooks.md](hooks.md)) sends an N-CREATE when a series or a study is quiet, on an association of its
own. It names every available instance as `ONLINE`, with our AE title as Retrieve AE Title, and the performed procedure
steps of the study. Success, a warning and 0x0111 end the attempts; others are repeated, across restarts.
"""


class _Channels(Extension):
    """What `[hooks.NAME]` names."""

    name = "channels"
    channels = (
        Key("url", f"{__name__}.webhook:opened"),
        Key("command", f"{__name__}.command:opened"),
        Key("plugin", f"{__name__}.plugins:opened"),
        Key("peer", f"{__name__}.availability:opened"),
    )
    asks = ("1.2.840.10008.5.1.4.33",)
    statement = Statement({"Instance Availability Notification Service": f"{__name__}:NOTIFICATION"})

    def mistakes(self, settings: Settings) -> Iterator[str]:
        for name, hook in settings.hooks.items():
            if hook.url is not None and (hook.secret_file or hook.secret):
                yield from lacking(f"hooks.{name}: a secret that signs messages", "webhooks")


EXTENSION = _Channels()
