"""What a hook in the configuration may say, and how it is told that it may not."""

from typing import Any

import pytest
from pydantic import ValidationError

from node.settings.model import Settings
from tests.receivers import with_kind


@pytest.mark.parametrize(
    ("keys", "rule"),
    [
        ({}, 'kind is missing: it is one of "webhook", "command", "plugin"'),
        ({"kind": "webhok", "url": "https://a/"}, 'did you mean "webhook"?'),
        ({"kind": None, "url": "https://a/"}, 'kind is missing: kind = "webhook" fits'),
        ({"kind": "webhook", "url": "https://a/", "command": ["x"]}, "Extra inputs are not permitted"),
        ({"on": [], "plugin": "x"}, "at least 1 item"),
        ({"on": ["volume-writen"], "plugin": "x"}, "Input should be"),
        ({"url": "ftp://a/"}, "must begin with https:// or http://"),
        ({"url": "https:///path"}, "name a host"),
        ({"url": "https://user:secret@a/"}, "must not contain a user name or password"),
        ({"url": "http://a.example/", "include_patient": True}, "must be https://"),
        ({"plugin": "x", "secret_file": "/x"}, "Extra inputs are not permitted"),
        ({"command": ["x", "{study_uid}"]}, "unknown placeholder {study_uid}"),
        (
            {"on": ["study-quiet", "volume-written"], "command": ["x", "{path}"]},
            "{path} in command is not in messages of study",
        ),
        ({"command": ["{path}"]}, "must be the same for every message"),
        ({"plugin": "x", "attempts": 0}, "greater than or equal to 1"),
        ({"plugin": "x", "where": {"modalty": "CT"}}, 'unknown field "modalty", did you mean "modality"?'),
        ({"plugin": "x", "where": "slices > "}, "at the end: a value is expected"),
        (
            {"on": ["series-quiet", "volume-written"], "plugin": "x", "where": "slices > 3"},
            "where uses slices, but there is no volume at series-quiet: use instances",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_the_rule(keys: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        Settings.model_validate({"hooks": {"one": {"on": ["volume-written"], **with_kind(keys)}}})
    assert rule in str(refusal.value)


@pytest.mark.parametrize(
    "keys",
    [
        {"url": "http://127.0.0.1:8000/", "include_patient": True},
        {"url": "http://localhost/", "include_patient": True},
        {"url": "http://pipeline.example/"},
        {"command": ["sh", "-c", "echo {not a placeholder} {}"]},
        {"plugin": "x", "where": {"modality": "CT", "body_part": "CHEST", "slices": ">=50", "verdict": "complete"}},
        {"on": ["series-quiet"], "plugin": "x", "where": 'instances > 3 and modality == "CT"'},
        {"command": ["x", "{path}", "{folder}", "{revision}", "{id}", "{event}"]},
    ],
)
def test_what_can_work_is_taken(keys: dict[str, Any]) -> None:
    Settings.model_validate({"hooks": {"one": {"on": ["volume-written"], **with_kind(keys)}}})


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a" * 65, "ä"])
def test_a_name_is_a_plain_word(name: str) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"hooks": {name: {"kind": "plugin", "on": ["volume-written"], "plugin": "x"}}})


def test_a_webhook_with_results_needs_the_address_to_give_them_to() -> None:
    hook = {"kind": "webhook", "on": ["volume-written"], "url": "https://model.example/", "results": True}
    Settings.model_validate({"hooks": {"model": hook}})
    with pytest.raises(ValidationError, match=r"hooks\.model: a webhook gives its results over HTTP"):
        Settings.model_validate({"hooks": {"model": hook}, "web": {"enabled": False}})
