"""How a connection logs in: a password that may change, and what is wrong where TLS fails."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any, cast

from redis.asyncio.connection import AbstractConnection
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError

from aiki.errors import ConfigError

_OWN_CERTIFICATE = (
    "it wants a certificate that it trusts: ?ssl_certfile=FILE&ssl_keyfile=FILE in the URL"
)
_ADVICE = (
    ("mismatch, certificate is not valid", "connect by a name that its certificate is for"),
    ("certificate has expired", "its certificate has to be renewed"),
    ("certificate verify failed", "an authority of your own is named by ?ssl_ca_certs=FILE"),
    ("certificate required", _OWN_CERTIFICATE),
    ("unknown ca", _OWN_CERTIFICATE),
    ("reset by peer", f"it may be that {_OWN_CERTIFICATE}"),
    ("closed the connection", f"it may be that {_OWN_CERTIFICATE}"),
    ("Timeout", "it may be that it does not speak TLS on this port"),
    ("WRONG_VERSION_NUMBER", "it does not speak TLS on this port"),
)

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


def explained(words: str, url: str) -> str:
    """Put to what OpenSSL says, or to silence, what there is to do."""
    words = words or "it closed the connection"
    for said, advice in _ADVICE if url.startswith("rediss") else ():
        if said in words:
            return f"{words}; {advice}"
    if url.startswith("redis:") and re.search("closed the connection|reset by peer", words):
        return f"{words}; where it speaks TLS, the URL begins with rediss://"
    return words


async def drop(connection: AbstractConnection) -> None:
    """Close a connection at once: to say farewell by TLS may take longer than anybody is there."""
    writer = cast("asyncio.StreamWriter | None", cast("Any", connection)._writer)
    if writer is not None:
        writer.transport.abort()
    await connection.disconnect(nowait=True)


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
