"""The API keys of a deployment, which a file keeps, and the principals that they identify."""

import fcntl
import hashlib
import hmac
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hessian_spectrum.jobs.record import JobRecord

Role = Literal["user", "admin"]

REQUESTS_PER_MINUTE, MAX_QUEUED = 1200, 1000
"""Limits of a key that is added without limits of its own."""

KEY_ID = r"[0-9a-f]{12}"
_KEY = re.compile(rf"spectrum_({KEY_ID})_[0-9a-f]{{64}}")


class ApiKey(BaseModel):
    """A stored API key, of which only the digest is kept; 256 random bits need no slow hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=rf"^{KEY_ID}$")
    name: str = Field(min_length=1, max_length=64)
    role: Role
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    requests_per_minute: int = Field(ge=1, le=1_000_000)
    max_queued: int = Field(ge=0, description="jobs that may wait at a time")
    created_at: datetime


class KeysUnreadableError(Exception):
    """Raised if the key file exists but cannot be read, or does not hold keys."""


class UnknownKeyError(Exception):
    """Raised if there is no key with the given id."""


@dataclass(frozen=True)
class Principal:
    """The party that a request acts for: the bearer of an API key, or anyone where no key is required."""

    owner: str | None
    """Id of the API key, under which jobs and artifacts are stored; None without a key."""
    is_admin: bool
    """Whether the principal may read, cancel and delete every job."""
    max_queued: int | None = None
    """Largest number of queued jobs; None: only the server's own limit applies."""
    requests_per_minute: int | None = None
    """Rate limit of the key; None without a key."""

    def may_change(self, record: JobRecord) -> bool:
        """Return whether the principal may cancel and delete the job."""
        return self.is_admin or (self.owner is not None and record.owner == self.owner)

    def may_read(self, record: JobRecord) -> bool:
        """Return whether the principal may read the job and its result."""
        return record.shared or self.may_change(record)


ANONYMOUS = Principal(owner=None, is_admin=True)
"""The principal of every request to a server that requires no keys."""

UNAUTHENTICATED = Principal(owner=None, is_admin=False)
"""The principal of a request without a valid key to a server that requires one; it sees public paths only."""


class _Content(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: list[ApiKey]


class KeyStore:
    """The API keys of a deployment in their file, which every look-up checks for changes by one `stat`.

    Without a file no key is required. Once a file has been seen, keys are required until the process ends, even if the
    file is deleted.

    Args:
        path: The key file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._path_text = os.fspath(path)  # of which the system is asked for each request
        self._seen: tuple[int, int, int] | None = None
        self._by_id: dict[str, ApiKey] = {}
        self._is_required = False

    def is_required(self) -> bool:
        """Return whether a request must have a key.

        Returns:
            False only where there has never been a key file.

        Raises:
            KeysUnreadableError: The key file cannot be read.
        """
        self._reload()
        return self._is_required

    def find(self, text: str) -> ApiKey | None:
        """Look up an API key.

        Args:
            text: The whole key, as a client sends it.

        Returns:
            The stored key; None if there is none with this text.

        Raises:
            KeysUnreadableError: The key file cannot be read.
        """
        self._reload()
        form = _KEY.fullmatch(text)
        key = self._by_id.get(form.group(1)) if form else None
        return key if key is not None and hmac.compare_digest(key.sha256, _sha256(text)) else None

    def is_authorized(self, key_id: str | None) -> bool:
        """Return whether a request with this key (None: without a key) is still authorized."""
        try:
            return not self.is_required() or key_id in self._by_id
        except KeysUnreadableError:
            return False

    def all(self) -> list[ApiKey]:
        """List the API keys.

        Returns:
            All keys, oldest first.

        Raises:
            KeysUnreadableError: The key file cannot be read.
        """
        self._reload()
        return sorted(self._by_id.values(), key=lambda key: key.created_at)

    def add(
        self,
        name: str,
        *,
        role: Role = "user",
        requests_per_minute: int = REQUESTS_PER_MINUTE,
        max_queued: int = MAX_QUEUED,
    ) -> str:
        """Add a key.

        Args:
            name: Name of its bearer.
            role: An admin reads, cancels and deletes the jobs of all.
            requests_per_minute: Rate limit.
            max_queued: Largest number of queued jobs.

        Returns:
            The text of the key, which is stored nowhere.

        Raises:
            KeysUnreadableError: The key file cannot be read.
            OSError: The key file cannot be written.
            ValidationError: A value is out of range.
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
        with self._locked():
            self._write([*self.all(), key])
        return text

    def revoke(self, key_id: str) -> ApiKey:
        """Delete a key; its jobs stay and are visible to admins only.

        Args:
            key_id: The id of the key.

        Returns:
            The key that was deleted.

        Raises:
            UnknownKeyError: There is no such key.
            KeysUnreadableError: The key file cannot be read.
            OSError: The key file cannot be written.
        """
        with self._locked():
            keys = self.all()
            if key_id not in self._by_id:
                raise UnknownKeyError(key_id)
            self._write([key for key in keys if key.id != key_id])
            return self._by_id[key_id]

    def _reload(self) -> None:
        try:
            status = os.stat(self._path_text)
        except FileNotFoundError:
            self._seen, self._by_id = None, {}
            return
        except OSError as error:
            raise KeysUnreadableError(f"{self.path}: {error.strerror}") from None
        self._is_required = True
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
    def _locked(self) -> Iterator[None]:
        """Lock the key file, so that only one process at a time changes it."""
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
                file.write(content)  # a temporary file is readable by its owner only
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, self.path)
            finally:
                Path(file.name).unlink(missing_ok=True)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
