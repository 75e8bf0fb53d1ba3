"""API keys: a file of their digests, each with a name, a role and what its bearer may take of the server."""

import fcntl
import hashlib
import hmac
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Role = Literal["user", "admin"]

REQUESTS_PER_MINUTE, MAX_QUEUED = 1200, 1000
"""Of a key that is added without numbers of its own."""

KEY_ID = r"[0-9a-f]{12}"
_KEY = re.compile(rf"spectrum_({KEY_ID})_[0-9a-f]{{64}}")


class ApiKey(BaseModel):
    """What is kept of a key; 256 random bits need no slow hash, as nobody can try them all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=rf"^{KEY_ID}$")
    name: str = Field(min_length=1, max_length=64)
    role: Role
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    requests_per_minute: int = Field(ge=1, le=1_000_000)
    max_queued: int = Field(ge=0, description="jobs that may wait at a time")
    created_at: datetime


class KeysUnreadableError(Exception):
    """The file is there, and cannot be read or is no file of keys."""


class UnknownKeyError(Exception):
    """No key has this id."""


class _Content(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: list[ApiKey]


class KeyFile:
    """The keys of a deployment; changes by any process are seen at the next look, which costs one `stat`.

    Where there is no file nobody needs a key. Once one has been seen everybody does, also when it goes away.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._by_id: dict[str, ApiKey] = {}
        self._is_needed = False

    def is_needed(self) -> bool:
        """Whether a caller must have a key.

        Raises:
            KeysUnreadableError: The file of keys cannot be read.
        """
        self._look()
        return self._is_needed

    def find(self, text: str) -> ApiKey | None:
        """The key that a caller sent, None if it is none of this file.

        Raises:
            KeysUnreadableError: The file of keys cannot be read.
        """
        self._look()
        form = _KEY.fullmatch(text)
        key = self._by_id.get(form.group(1)) if form else None
        return key if key is not None and hmac.compare_digest(key.sha256, _sha256(text)) else None

    def lets_in(self, key_id: str | None) -> bool:
        """Whether the bearer of this key, or who came without any, would be let in now, too."""
        try:
            return not self.is_needed() or key_id in self._by_id
        except KeysUnreadableError:
            return False

    def all(self) -> list[ApiKey]:
        """All keys, oldest first.

        Raises:
            KeysUnreadableError: The file of keys cannot be read.
        """
        self._look()
        return sorted(self._by_id.values(), key=lambda key: key.created_at)

    def add(
        self,
        name: str,
        role: Role = "user",
        requests_per_minute: int = REQUESTS_PER_MINUTE,
        max_queued: int = MAX_QUEUED,
    ) -> str:
        """Make a key and return its text, which is kept nowhere.

        Raises:
            KeysUnreadableError: The file of keys cannot be read.
            OSError: If the file cannot be written.
            ValidationError: Of an unfit value.
        """
        key_id = secrets.token_hex(6)
        text = f"spectrum_{key_id}_{secrets.token_hex(32)}"
        key = ApiKey(
            id=key_id,
            name=name,
            role=role,
            sha256=_sha256(text),
            requests_per_minute=requests_per_minute,
            max_queued=max_queued,
            created_at=datetime.now(UTC),
        )
        with self._changing():
            self._write([*self.all(), key])
        return text

    def revoke(self, key_id: str) -> ApiKey:
        """Take a key away; what it submitted stays, for admins alone.

        Raises:
            UnknownKeyError: There is no such key.
            KeysUnreadableError: The file of keys cannot be read.
            OSError: If the file cannot be written.
        """
        with self._changing():
            keys = self.all()
            if key_id not in self._by_id:
                raise UnknownKeyError(key_id)
            self._write([key for key in keys if key.id != key_id])
            return self._by_id[key_id]

    def _look(self) -> None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            self._seen, self._by_id = None, {}
            return
        except OSError as error:
            raise KeysUnreadableError(f"{self.path}: {error.strerror}") from None
        self._is_needed = True
        state = (status.st_ino, status.st_mtime_ns, status.st_size)
        if state == self._seen:
            return
        self._seen, self._by_id = None, {}
        try:
            content = _Content.model_validate_json(self.path.read_bytes())
        except (OSError, ValidationError):
            raise KeysUnreadableError(f"{self.path} cannot be read, or is no file of keys") from None
        self._seen, self._by_id = state, {key.id: key for key in content.keys}

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One change at a time, by whatever process."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, keys: list[ApiKey]) -> None:
        content = _Content(keys=keys).model_dump_json(indent=2)
        with tempfile.NamedTemporaryFile("w", dir=self.path.parent, prefix=f"{self.path.name}.", delete=False) as file:
            try:
                file.write(content)  # only its owner can read a temporary file
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, self.path)
            finally:
                Path(file.name).unlink(missing_ok=True)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
