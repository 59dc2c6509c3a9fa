"""The layer of the configuration that environment variables make, by pydantic-settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from node.settings.model import Settings


class _Layers(Settings, BaseSettings):
    """The same model once more, as pydantic-settings wants it."""

    model_config = SettingsConfigDict()


class _Environment(EnvSettingsSource):
    """Lists and tables are JSON. What is no JSON stays text, for validation to name."""

    def __init__(self, variables: Mapping[str, str | None], prefix: str, nesting: str) -> None:
        self._variables = variables
        super().__init__(_Layers, case_sensitive=True, env_prefix=prefix, env_nested_delimiter=nesting)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._variables

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


def layer(variables: Mapping[str, str | None], prefix: str, nesting: str) -> dict[str, Any]:
    """Return what `variables` set, as a tree; their names are ``PREFIXsection__key`` as the model spells them."""
    return _Environment(variables, prefix, nesting)()
