"""Libraries that one feature alone needs: an installation has them with the extra of the feature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Literal

from node.errors import UsageError

Extra = Literal["cluster", "excel", "frames", "ocr", "oidc", "s3", "webhooks"]

MODULES: Mapping[Extra, tuple[str, ...]] = {
    "cluster": ("psycopg",),
    "excel": ("openpyxl",),
    "frames": ("polars",),
    "ocr": ("rapidocr", "onnxruntime"),
    "oidc": ("authlib", "joserfc"),
    "s3": ("obstore",),
    "webhooks": ("standardwebhooks",),
}
"""The modules of each extra that a feature checks before it begins."""


def lacking(feature: str, extra: Extra) -> Iterator[str]:
    """Yield a sentence that says what to install, if a library of an extra is missing."""
    if any(find_spec(module) is None for module in MODULES[extra]):
        yield f"{feature} needs a library that is not installed: pip install 'voxelnode[{extra}]'"


def require(feature: str, extra: Extra) -> None:
    """Raise UsageError, with what to install, if a library of an extra is missing."""
    for sentence in lacking(feature, extra):
        raise UsageError(sentence)
