"""Settings of `cluster run`: those of the server, and what a Ray cluster needs to know."""

from __future__ import annotations

import socket
from typing import Any

from pydantic import Field, SecretStr, field_validator
from pydantic_core.core_schema import ValidationInfo

from ltx_a2v.errors import InvalidInput, named
from ltx_a2v.settings.server import ServerSettings
from ltx_a2v.settings.units import NEVER, parse_duration

SECRETS = "secrets"
"""Key of the names of the secrets that were given."""


class ClusterSettings(ServerSettings):
    """The settings of `cluster run`, from its flags first and the environment second."""

    ray_address: str | None = Field(
        None, description="Ray cluster to deploy on ('auto': this machine's); default: start one here."
    )
    max_replicas: int = Field(1, ge=1, description="Most replicas, each of which has one model.")
    min_replicas: int = Field(0, ge=0, description="Replicas that stay while there is nothing to do.")
    gpus_per_replica: float = Field(
        1.0, ge=0, description="GPUs of a replica; a part of one needs --vram-budget, as Ray keeps no memory apart."
    )
    replica_resource: str | None = Field(
        None, description="Custom resource that a replica takes one of; with --gpus-per-replica 0 for CPUs."
    )
    fronts: int = Field(1, ge=1, description="Processes that answer requests.")
    drain: str = Field("1h", description="How long a replica that is removed may work on its job.")

    @field_validator("drain")
    @classmethod
    def _span(cls, text: str, info: ValidationInfo) -> str:
        parse_duration(text, info.field_name or "")
        return text

    def check(self) -> None:
        """Raises `InvalidInput` where the cluster cannot work with these settings."""
        if self.database is None:
            raise InvalidInput(f"Replicas share their records: give {named('database')} or LTX_A2V_DATABASE.")
        if 0 < self.gpus_per_replica < 1 and "vram_budget" not in self.model_fields_set:
            raise InvalidInput(
                f"{named('gpus_per_replica')} {self.gpus_per_replica:g} puts several models on one GPU: give "
                f"{named('vram_budget')}, so that they leave each other room."
            )
        if self.devices is not None:
            raise InvalidInput(
                f"Ray gives each replica its GPUs: leave {named('devices')} out, and give {named('max_replicas')}."
            )
        if self.min_replicas > self.max_replicas:
            raise InvalidInput(
                f"{named('min_replicas')} {self.min_replicas} is more than {named('max_replicas')} "
                f"{self.max_replicas}: lower the one, or raise the other."
            )
        if self.keep_alive_seconds == NEVER and self.min_replicas == 0:
            raise InvalidInput(
                f"A {named('keep_alive')} without end needs {named('min_replicas')} of 1 or more: replicas that idle "
                "are removed."
            )
        super().check()

    def without_secrets(self) -> dict[str, Any]:
        """As JSON for `received`: each machine has the secrets in its own environment."""
        secrets = self._secrets()
        given = sorted(name for name, secret in secrets.items() if secret is not None)
        return {**self.model_dump(mode="json", exclude=set(secrets), exclude_none=True), SECRETS: given}

    def secret_environment(self) -> dict[str, str]:
        """The secrets that were given, as `received` looks for them."""
        return {
            _variable(name): secret.get_secret_value() for name, secret in self._secrets().items() if secret is not None
        }

    def _secrets(self) -> dict[str, SecretStr | None]:
        fields = type(self).model_fields
        names = [name for name, field in fields.items() if SecretStr in (field.annotation, *_parts(field.annotation))]
        return {name: getattr(self, name) for name in names}

    @classmethod
    def received(cls, given: dict[str, Any]) -> ClusterSettings:
        """On a machine of the cluster. Raises `InvalidInput` where its environment lacks a secret: without a key, for
        example, it would let everyone in."""
        settings = cls(**given)
        for name in given[SECRETS]:
            if getattr(settings, name) is None:
                raise InvalidInput(
                    f"The environment of {socket.gethostname()} lacks {_variable(name)}, which was given when the "
                    "cluster was deployed: set it there before Ray starts."
                )
        return settings


def _variable(setting: str) -> str:
    return f"LTX_A2V_{setting.upper()}"


def _parts(annotation: object) -> tuple[object, ...]:
    """Of a union."""
    return getattr(annotation, "__args__", ())
