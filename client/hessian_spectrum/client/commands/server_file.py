"""The file of named servers and their API keys, which `spectrum login` writes."""

import os
from pathlib import Path

import platformdirs
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError, field_serializer

from hessian_spectrum.client.output_file import output_file
from hessian_spectrum.client.requests import DEFAULT_URL

CONFIG_VARIABLE = "SPECTRUM_CONFIG"
"""Environment variable with another path of the file."""


class UnreadableServerFileError(Exception):
    """The file of servers cannot be read; the message says why."""


class NamedServer(BaseModel):
    """Address of a server, and the API key for it."""

    model_config = ConfigDict(extra="forbid")

    url: str
    key: SecretStr | None = None

    @field_serializer("key", when_used="json")
    def _key_text(self, key: SecretStr | None) -> str | None:
        return None if key is None else key.get_secret_value()


class ServerFile(BaseModel):
    """Servers by name.

    Attributes:
        default: Name of the server that commands use unless they name another.
        servers: The servers.
    """

    model_config = ConfigDict(extra="forbid")

    default: str | None = None
    servers: dict[str, NamedServer] = {}

    @classmethod
    def load(cls) -> "ServerFile":
        """Read the file.

        Returns:
            Its content; no servers if there is no file.

        Raises:
            UnreadableServerFileError: If the file cannot be read, or is not what `save` writes.
        """
        path = server_file_path()
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise UnreadableServerFileError(f"{path} cannot be read: {error.strerror or error}") from None
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise UnreadableServerFileError(f"{path} is not a file of servers: {place}: {first['msg']}") from None

    def save(self) -> None:
        """Write the file, which its owner alone can read; either all of it or nothing.

        Raises:
            OSError: If it cannot be written.
        """
        path = server_file_path()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        path.chmod(0o600)  # before a key is in it; what replaces it takes over its rights
        with output_file(path) as file:
            file.write(self.model_dump_json(indent=2, exclude_none=True).encode())

    def find(self, name_or_url: str | None) -> NamedServer:
        """Find a server.

        Args:
            name_or_url: A name in this file, or an address; None: the default server.

        Returns:
            The server, without a key if the file has none for this address.

        Raises:
            KeyError: There is no server of this name.
        """
        if name_or_url is None:
            return self.servers[self.default] if self.default is not None else NamedServer(url=DEFAULT_URL)
        if "://" not in name_or_url:
            return self.servers[name_or_url]
        known = (each for each in self.servers.values() if each.url.rstrip("/") == name_or_url.rstrip("/"))
        return next(known, NamedServer(url=name_or_url))


def server_file_path() -> Path:
    """Return the path of the file."""
    named = os.environ.get(CONFIG_VARIABLE)
    return Path(named) if named else Path(platformdirs.user_config_dir("hessian-spectrum")) / "servers.json"
