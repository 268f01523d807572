"""How a connection logs in where its password may change while a process runs."""

from __future__ import annotations

from pathlib import Path

from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError

from aiki.errors import ConfigError

_MOST = 4096  # bytes; what is longer is another file


def read_password(path: Path) -> str:
    """Read a password; the line break at its end, which editors put there, is no part of it.

    Raises `ConfigError` for a file that has none.
    """
    try:
        with path.open("rb") as file:
            password = file.read(_MOST + 1).removesuffix(b"\n").removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        raise ConfigError(f"the password file {path} is not UTF-8") from None
    except OSError as error:
        raise ConfigError(f"the password file {path} cannot be read: {error.strerror}") from None
    if not password or len(password) > _MOST:
        size = "empty" if not password else f"longer than {_MOST:,} bytes"
        raise ConfigError(f"the password file {path} is {size}")
    return password


class PasswordFile(CredentialProvider):
    """A password that stands in a file, which is read anew for each connection."""

    def __init__(self, path: str, username: str) -> None:
        self._path = Path(path)
        self._username = username

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Read the password. What is wrong with the file may be over at the next try."""
        try:
            password = read_password(self._path)
        except ConfigError as error:
            raise AuthenticationError(str(error)) from None
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """Read it; that of a small file takes less time than to have a thread do it."""
        return self.get_credentials()
