"""What a connection by TLS trusts and shows: read once, and again when a file has changed."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias, cast

from redis.asyncio.connection import SSLConnection

Stamp: TypeAlias = tuple[int, int, int] | None

_shared: dict[tuple[object, ...], tuple[list[Stamp], ssl.SSLContext]] = {}


def share(connection: SSLConnection) -> None:
    """Give a connection what an earlier one with the same options has read, if it still holds.

    What the system trusts is read as well, which takes 50 ms and more: a worker that connects to
    all nodes of a cluster would stand still for seconds.
    """
    own = cast("Any", connection.ssl_context)  # whose stub knows half of it
    files: list[str | None] = [own.ca_certs, own.ca_path, own.certfile, own.keyfile]
    options = (*files, own.cert_reqs, own.check_hostname)
    system = ssl.get_default_verify_paths()
    stamps = [_stamp(name) for name in (*files, system.cafile, system.capath)]
    known = _shared.get(options)
    if known is not None and known[0] == stamps:
        own.context = known[1]
        return
    with suppress(OSError):  # what is wrong with a file is told by who connects
        _shared[options] = stamps, own.get()


def _stamp(name: str | None) -> Stamp:
    """Tell one content of a file from another, also behind a link that leads elsewhere by now."""
    if name is None:
        return None
    try:
        found = Path(name).stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
