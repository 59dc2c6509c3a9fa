"""Texts as the patterns of Presidio see them: a program of others that looks for identities.

It comes with tests/interop/requirements.txt. Without a model of a language, it looks for forms: addresses, telephone
numbers, dates.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

ENVIRONMENT = Path(os.environ.get("VOXELNODE_CLIENT_VENV", Path(__file__).parent / "interop" / ".venv"))

_PROGRAM = """
import json, sys
from presidio_analyzer.predefined_recognizers import (
    DateRecognizer, IbanRecognizer, PhoneRecognizer, UsSsnRecognizer)
looking = [DateRecognizer(), IbanRecognizer(), PhoneRecognizer(), UsSsnRecognizer()]
found = [
    [text, one.entity_type, text[one.start:one.end]]
    for text in json.load(sys.stdin)
    for recognizer in looking
    for one in recognizer.analyze(text, recognizer.supported_entities, None)
]
json.dump(found, sys.stdout)
"""


def identities_in(texts: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return text, kind and what was found for everything that looks like an identity; skips the test without it."""
    if not any(ENVIRONMENT.glob("lib/python*/site-packages/presidio_analyzer")):
        pytest.skip(f"presidio-analyzer is not installed in {ENVIRONMENT}")
    command = [ENVIRONMENT / "bin" / "python", "-c", _PROGRAM]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return [(text, kind, part) for text, kind, part in json.loads(done.stdout)]
