"""Base of all settings: flags first, the environment second, one sentence for a mistake."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ltx_a2v.errors import InvalidRequest
from ltx_a2v.settings.complaints import reason_of


class Settings(BaseSettings):
    """What flags say first and the environment second. Raises `InvalidRequest`, which names the field."""

    model_config = SettingsConfigDict(env_prefix="LTX_A2V_", env_ignore_empty=True, extra="ignore")

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            complaint = error.errors()[0]
            name = str(complaint["loc"][0]) if complaint["loc"] else ""
            raise InvalidRequest(name, complaint["input"], reason_of(complaint)) from None

    @classmethod
    def flag(cls, name: str) -> str:
        """What the command line calls a field: `--port`, and `--no-standby` for a switch that is on by default."""
        return ("--no-" if cls.model_fields[name].default is True else "--") + name.replace("_", "-")
