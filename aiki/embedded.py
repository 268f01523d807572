"""The private Valkey server of a data directory: shared by all its users, ended by the last.

Three lock files lie in the directory:

- `server.lock` is held alone by whoever looks for the server, starts it or stops it.
- `users` is shared by all uses. Whoever leaves and gets it alone was the last one, and stops
  the server. That happens under `server.lock`, so that nobody comes in between.
- `server.alive` is held alone by the server itself, which inherits it from its starter. Whoever
  gets it knows that no server lives, whatever pids, clocks and left-over files say.

So two servers never run on one directory, and none is stopped under a user. When all users
have been killed, their server runs on, and the next user finds it.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from aiki.errors import AikiError, ConfigError, StoreRefused, StoreUnavailable
from aiki.lock_file import LockFile, growing_pauses
from aiki.valkey_server import (
    ENDING_RECORD,
    RECORD,
    Answer,
    Launch,
    ServerProcess,
    died,
    launch,
)
from aiki.valkey_setup import (
    GUARANTEES,
    LOG,
    OTHER_STORE,
    Durability,
    make_private,
    remove_socket_directory,
)

_logger = logging.getLogger("aiki.embedded")

# Loading gigabytes takes minutes, and `server.lock` is held meanwhile.
LOCK_DEADLINE = 600.0
# For a server that neither serves nor says that it is loading; a disk may stall for seconds.
SILENCE_DEADLINE = 30.0
# For a server to end: all it has to do is one last fsync.
STOP_DEADLINE = 30.0


class EmbeddedServer:
    """One use of the private server of a data directory.

    Its methods block; an event loop calls them through `asyncio.to_thread`. As a context
    manager it attaches, gives the URL, and detaches.
    """

    def __init__(self, data_dir: Path, *, durability: Durability = "always") -> None:
        if durability not in GUARANTEES:
            raise ConfigError(f"durability is one of {', '.join(GUARANTEES)}, not {durability!r}.")
        self._directory = Path(data_dir).resolve()
        self._durability: Durability = durability
        self._locks: _Locks | None = None
        self._server: ServerProcess | None = None
        self._mutex = threading.Lock()

    def __enter__(self) -> str:
        return self.attach()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.detach()

    def attach(self) -> str:
        """Find the server or start it, and return its `unix://` URL once it answers.

        Called again, it starts a server that has died meanwhile, on the same data and the same
        URL. When it raises, this use has ended. Raises `ConfigError` (no binary for this
        platform, an unusable directory, a running server of another durability), `StoreRefused`
        (the data cannot be loaded, the disk is full), `StoreUnavailable` (no answer in time).
        """
        if sys.platform == "win32":
            raise ConfigError(f"There is no embedded server on Windows. {OTHER_STORE}")
        with self._mutex:
            try:
                if self._locks is not None and not self._locks.are_valid():
                    self._leave()
                if self._locks is None:
                    make_private(self._directory)
                    self._locks = _Locks(self._directory)
                self._server = self._find_or_start_locked(self._locks)
            except BaseException as error:
                self._leave_after(error)
                if isinstance(error, OSError):
                    raise _unusable(self._directory, error) from error
                raise
            return f"unix://{quote(self._server.socket)}"

    def revive(self) -> None:
        """Start the server again if it has died, on the same data and the same URL.

        The use goes on, whatever comes of it. Where another process is at it already, nothing is
        done. Raises as `attach` does.
        """
        with self._mutex:
            locks = self._locks
            if locks is None or not locks.are_valid() or not locks.server.hold():
                return
            try:
                if locks.alive.hold():
                    _logger.error("%s", died(self._directory))
                    self._server = self._find_or_start(locks)
            except OSError as error:
                raise _unusable(self._directory, error) from error
            finally:
                # A server that lives has it; after a failure nobody must seem to.
                locks.alive.release()
                locks.server.release()

    def detach(self) -> None:
        """End this use, and stop the server if it was the last one.

        Raises `StoreUnavailable` when the server does not end; the use has ended all the same.
        """
        with self._mutex:
            self._leave()

    def _find_or_start_locked(self, locks: _Locks) -> ServerProcess:
        if not locks.server.hold(within=LOCK_DEADLINE):
            raise StoreUnavailable(
                f"For {LOCK_DEADLINE:g} s another process has been starting or stopping the "
                f"server of {self._directory}: `fuser {locks.server.path}` tells which."
            )
        try:
            # Only who holds `server` holds `users` alone, so that this succeeds at once.
            if not locks.users.share():
                raise StoreUnavailable(f"Another program has locked {locks.users.path}.")
            return self._find_or_start(locks)
        finally:
            locks.server.release()

    def _find_or_start(self, locks: _Locks) -> ServerProcess:
        started: Launch | None = None
        pauses = growing_pauses()
        last_heard = time.monotonic()
        while time.monotonic() < last_heard + SILENCE_DEADLINE:
            if locks.alive.hold():
                if started is not None:
                    raise started.refusal()
                started = self._launch(locks)
                last_heard = time.monotonic()
            server = ServerProcess.read(self._directory)
            if server is not None and not _is_enough(server.durability, self._durability):
                self._stop_if_unused(locks, server)
                last_heard = time.monotonic()
                continue
            if server is None and ServerProcess.read(self._directory, ENDING_RECORD) is not None:
                self._stop(locks)  # whoever was stopping it has been killed
                last_heard = time.monotonic()
                continue
            answer = Answer.SILENT if server is None else server.answer()
            if server is not None and answer is Answer.READY:
                if started is not None:
                    started.log_remarks()
                    _logger.info("started server %d of %s", server.pid, self._directory)
                return server
            if answer is Answer.LOADING:
                last_heard = time.monotonic()
            time.sleep(next(pauses))
        raise self._stuck(locks, f"has not answered for {SILENCE_DEADLINE:g} s")

    def _launch(self, locks: _Locks) -> Launch:
        # The server gets a holder of its own: through ours, `alive` would look free to us.
        locks.alive.release()
        with LockFile(locks.alive.path) as inherited:
            inherited.hold()
            return launch(self._directory, self._durability, inherited.descriptor)

    def _stop_if_unused(self, locks: _Locks, server: ServerProcess) -> None:
        """Make room for a server of another durability when this one has lost all its users."""
        alone = locks.users.hold()
        locks.users.share()  # again: trying to hold it alone has cost our share
        if not alone:
            raise ConfigError(
                f"The server of {self._directory} is in use with durability "
                f"{server.durability!r} ({GUARANTEES[server.durability]}); "
                f"{self._durability!r} ({GUARANTEES[self._durability]}) was asked for. Ask for "
                f"{server.durability!r}, stop the other users, or use another data directory."
            )
        self._stop(locks)

    def _leave_after(self, error: BaseException) -> None:
        try:
            self._leave()
        except (AikiError, OSError):
            _logger.exception("could not leave %s after %r", self._directory, error)

    def _leave(self) -> None:
        locks, self._locks = self._locks, None
        if locks is None:
            return
        try:
            if locks.are_inherited():
                return  # the use is the parent's
            if not locks.server.hold(within=STOP_DEADLINE):
                # Only a start takes that long; its starter is a user, and stops the server.
                _logger.warning("left %s while its server was starting", self._directory)
            elif locks.users.hold():
                self._stop(locks)
        finally:
            locks.close()

    def _stop(self, locks: _Locks) -> None:
        """Stop the server, if one lives. Afterwards, `alive` is held."""
        if not locks.alive.hold():
            in_place = locks.users.is_in_place()
            server = self._mark_as_ending() if in_place else self._server
            if server is not None:
                # When the directory was removed, there is nothing left to save, and a clean end
                # would remove the socket of the server that may have taken its place.
                server.end(kill=not in_place)
            if not locks.alive.hold(within=STOP_DEADLINE):
                raise self._stuck(locks, f"was told to stop {STOP_DEADLINE:g} s ago and has not")
            if server is not None:
                remove_socket_directory(self._directory, Path(server.socket))
            _logger.info("stopped the server of %s", self._directory)
        if locks.users.is_in_place():
            (self._directory / RECORD).unlink(missing_ok=True)
            (self._directory / ENDING_RECORD).unlink(missing_ok=True)

    def _mark_as_ending(self) -> ServerProcess | None:
        """Hide the server from those who come when this process is killed before it has ended."""
        server = ServerProcess.read(self._directory)
        if server is None:
            return ServerProcess.read(self._directory, ENDING_RECORD)
        (self._directory / RECORD).replace(self._directory / ENDING_RECORD)
        return server

    def _stuck(self, locks: _Locks, what: str) -> StoreUnavailable:
        server = ServerProcess.read(self._directory)
        server = server or ServerProcess.read(self._directory, ENDING_RECORD)
        who = f"process {server.pid}" if server else "a process that left no record"
        return StoreUnavailable(
            f"The server of {self._directory}, {who}, {what}. See {self._directory / LOG}; "
            f"`fuser {locks.alive.path}` tells who holds the directory. When that is a server "
            "that is stuck, end it with `kill -9`: what it has recorded is kept."
        )


class _Locks:
    """The lock files that one use has open."""

    def __init__(self, directory: Path) -> None:
        self._pid = os.getpid()
        self._opened: list[LockFile] = []
        try:
            self.server = self._open(directory / "server.lock")
            self.users = self._open(directory / "users")
            self.alive = self._open(directory / "server.alive")
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path) -> LockFile:
        self._opened.append(LockFile(path))
        return self._opened[-1]

    def are_inherited(self) -> bool:
        """Tell whether this process was forked off the one that has opened them."""
        return self._pid != os.getpid()

    def are_valid(self) -> bool:
        return self.users.is_in_place() and not self.are_inherited()

    def close(self) -> None:
        """Close them, `server` last: whoever waits for that one then finds the others free."""
        for file in reversed(self._opened):
            if not self.are_inherited():
                file.release()  # a forked child may have the file open for ever
            file.close()


def _is_enough(running: Durability, asked: Durability) -> bool:
    return running == asked or (running == "always" and asked == "everysec")


def _unusable(directory: Path, error: OSError) -> AikiError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreRefused(
            f"The disk of {directory} is full ({error}): free some space there and start again."
        )
    return ConfigError(f"{directory} cannot be used as data directory: {error}")
