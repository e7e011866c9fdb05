"""An object store by obstore, with its errors as sentences: S3 and what speaks like it; also gs:// and az://."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ltx_a2v.errors import InvalidInput, MissingExtra, StorageFailed, named, shown_value
from ltx_a2v.serving.jobs.storage import UNREACHABLE

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = ("s3", "gs", "az")
RETRY = timedelta(seconds=5)
"""For obstore's own tries; longer waits are the callers'."""
PROBE = ".ltx-a2v"


class Bucket:
    """`url` is s3://bucket/prefix. Credentials, region and endpoint come from the environment: AWS_ACCESS_KEY_ID,
    AWS_REGION, AWS_ENDPOINT_URL and so on, or from the machine's role. Thread-safe. Nothing is sent before it is used.

    Raises `InvalidInput` where the address is none, and `StorageFailed` where the store refuses.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES or not parts.netloc or "@" in parts.netloc:
            raise InvalidInput(f"{named('storage')} must be s3://BUCKET/PREFIX; {shown_value(url)} is not.")
        try:
            from obstore.exceptions import BaseError
            from obstore.store import from_url
        except ImportError:
            raise MissingExtra(f"{named('storage')} in an object store", "storage") from None
        self.url = url.rstrip("/")
        retry = {"max_retries": 2, "retry_timeout": RETRY}
        options = {"connect_timeout": RETRY, "allow_http": True}
        try:
            self._store: ObjectStore = from_url(url, retry_config=retry, client_options=options)  # type: ignore[call-overload]
        except BaseError as error:
            raise InvalidInput(f"{named('storage')} {self.url} cannot be used: {_first_line(error)}.") from None

    def upload(self, path: Path, key: str) -> None:
        """Appears at once and whole."""
        import obstore

        with self._writing():
            obstore.put(self._store, key, path)

    def download(self, key: str, path: Path) -> bool:
        """Write an object to `path`, which appears at once and whole; False where there is none."""
        import obstore

        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = path.with_name(f".{path.name}.part")
        try:
            with self._failures("read"), partial.open("wb") as file:
                for piece in obstore.get(self._store, key):
                    file.write(piece)
            partial.rename(path)
        except FileNotFoundError:
            return False
        finally:
            partial.unlink(missing_ok=True)
        return True

    def read(self, key: str) -> bytes | None:
        """A small object; None where there is none."""
        import obstore

        try:
            with self._failures("read"):
                return bytes(obstore.get(self._store, key).bytes())
        except FileNotFoundError:
            return None

    def sizes(self, prefix: str, older_than: float = 0.0) -> dict[str, int]:
        """Bytes by key of the objects below a prefix that are as old, in seconds."""
        import obstore

        moment = datetime.now(UTC) - timedelta(seconds=older_than)
        with self._failures("read"):
            chunks = obstore.list(self._store, prefix)
            return {one["path"]: one["size"] for chunk in chunks for one in chunk if one["last_modified"] <= moment}

    def delete(self, *keys: str) -> None:
        import obstore

        with self._writing():
            if keys:
                obstore.delete(self._store, list(keys))

    def problem(self) -> str | None:
        """Why nothing can be kept now, as one sentence: writes a small object."""
        import obstore

        try:
            with self._writing():
                obstore.put(self._store, PROBE, b"")
        except StorageFailed as error:
            return str(error)
        return None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with self._failures("written to"):
                yield
        except FileNotFoundError as error:
            raise StorageFailed(f"{self.url} cannot be written to: there is no such bucket.") from error

    @contextmanager
    def _failures(self, done: str) -> Iterator[None]:
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        try:
            yield
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise StorageFailed(
                f"{self.url} cannot be {done}: it refuses the credentials; look at AWS_ACCESS_KEY_ID and its rights."
            ) from error
        except FileNotFoundError:
            raise
        except BaseError as error:
            failure = StorageFailed(f"{self.url} cannot be {done} now: {_first_line(error)}.")
            failure.code = UNREACHABLE
            raise failure from error


def _first_line(error: Exception) -> str:
    """Of an error of obstore, whose first line says what happened."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line.strip().rstrip(".")[:200]
