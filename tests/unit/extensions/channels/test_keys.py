"""The kinds of hooks are those of an extension."""

import pytest

from node.errors import UsageError
from node.notify.channel import hook_channel
from node.settings.model import Settings
from tests.receivers import with_kind

RECEIVERS = {"url": "https://pipeline.example.org/events", "command": ["/bin/true"], "plugin": "segmentation"}


@pytest.mark.parametrize("key", RECEIVERS)
def test_a_hook_needs_the_extension_that_delivers(key: str) -> None:
    tables = {"hooks": {"one": with_kind({"on": ["study-quiet"], key: RECEIVERS[key]})}}
    if key != "plugin":
        hook_channel(Settings.model_validate(tables), "one").close()
    without = Settings.model_validate(tables | {"extensions": {"disabled": ["channels"]}})
    with pytest.raises(UsageError, match=r'\[hooks.one\] kind = "\w+" is of an extension that \[extensions\] disabled'):
        hook_channel(without, "one")
