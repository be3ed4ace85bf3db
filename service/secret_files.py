"""Secrets from files: what FINETOOTH_NAME_FILE names holds the value of the secret setting FINETOOTH_NAME."""

import os
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

SUFFIX = "_FILE"
"""What follows the name of a variable that names a file."""


class BadSettingsError(ValueError):
    """A setting that cannot be used; the message is one line, names its variable and never quotes its value."""


def secret_fields(settings: type[BaseSettings]) -> list[str]:
    """The settings that are secrets, by their type."""
    return [
        name
        for name, field in settings.model_fields.items()
        if SecretStr in (field.annotation, *get_args(field.annotation))
    ]


class SecretFiles(PydanticBaseSettingsSource):
    """Reads each secret setting from the file that its variable with SUFFIX names, without white space at the ends."""

    def __call__(self) -> dict[str, Any]:
        """Read all secrets that files hold, by the name of their setting.

        Raises:
            BadSettingsError: A file cannot be read or is empty, or both it and the secret itself are given.
        """
        prefix = self.config["env_prefix"]
        found = {}
        for name in secret_fields(self.settings_cls):
            variable = f"{prefix}{name.upper()}"
            path = os.environ.get(variable + SUFFIX)
            if not path:
                continue
            if os.environ.get(variable):
                raise BadSettingsError(f"set {variable} or {variable}{SUFFIX}, not both")
            try:
                found[name] = Path(path).read_text(encoding="utf-8").strip()
            except (OSError, ValueError) as error:
                reason = (error.strerror if isinstance(error, OSError) else None) or "it is no text"
                raise BadSettingsError(f"{variable}{SUFFIX}: the file cannot be read: {reason}") from None
            if not found[name]:
                raise BadSettingsError(f"{variable}{SUFFIX}: the file is empty")
        return found

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Is not used, since all fields are read at once; the base class asks for it.

        Args:
            field: The setting.
            field_name: Its name.

        Returns:
            Nothing: it always raises.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError
