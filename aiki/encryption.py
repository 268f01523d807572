"""Encryption of payloads by AES-GCM: keys, key files, what is derived from a key.

A key itself encrypts nothing. From it are derived one key for each run, so that random nonces will
do however many payloads there are in all, and one for digests, so that equal inputs cannot be told
by who lacks the key.
"""

from __future__ import annotations

import base64
import binascii
import importlib
import os
import re
import stat
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

from aiki.envelope import (
    ENCRYPTED,
    OF_SCHEDULE,
    Envelope,
    PayloadCodec,
    head_of,
    unknown,
)
from aiki.errors import ConfigError, Tampered, UnknownKey

KEYS_VARIABLE = "AIKI_ENCRYPTION_KEYS"
KEY_BYTES = 32
CIPHERS = 1024  # that are kept, one for each run
_NONCE = 12
_PLAIN = "plain"  # a line of a file of keys
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Encrypted(PayloadCodec):
    """Encrypts payloads with the first of these keys, and reads those of any of them.

    `keys` are by their ids, of 32 random bytes each; the newest stands first. With `compress_over`,
    payloads of more than so many bytes are compressed before. With `reads_only`, what is written
    stays plain: so keys can be everywhere before the first payload is encrypted. Needs the extra
    `aiki[encryption]`. Raises `ConfigError` for what are no keys.
    """

    def __init__(
        self,
        keys: Mapping[str, bytes],
        *,
        compress_over: int | None = None,
        reads_only: bool = False,
    ) -> None:
        super().__init__(compress_over=compress_over)
        self._keys = _checked(keys)
        self._newest = "" if reads_only else next(iter(self._keys))
        try:
            # Imported by whoever encrypts: all others are spared its 20 ms and 8 MB.
            self._aead: Any = importlib.import_module("cryptography.hazmat.primitives.ciphers.aead")
            self._errors: Any = importlib.import_module("cryptography.exceptions")
        except ImportError as error:
            raise ConfigError(
                "encryption needs the package `cryptography`, which is not installed: "
                "pip install 'aiki[encryption]'"
            ) from error
        # A run that is under way uses its key for each of its steps.
        self._cipher = lru_cache(CIPHERS)(self._make_cipher)

    @classmethod
    def from_file(cls, path: str | Path, *, compress_over: int | None = None) -> Encrypted:
        """Read the keys from a file: a line each of an id and a key in base64, the newest first.

        A line that says only `plain` says that they are for reading only. Empty lines, and those
        that begin with #, say nothing. Raises `ConfigError` for a file that cannot be read, that
        everybody on the host can read, or that holds no keys.
        """
        keys, reads_only = _read(Path(path))
        return cls(keys, compress_over=compress_over, reads_only=reads_only)

    @property
    def key_id(self) -> str:
        """The key that encrypts now; empty where they are for reading only."""
        return self._newest

    def seal(self, payload: bytes, run_id: str, place: str, *, schedule: str = "") -> bytes:
        """Give the stored form of a payload of this run at this place there, or of a schedule."""
        if not self._newest:
            return super().seal(payload, run_id, place)
        body, flags = self._packed(payload)
        flags |= ENCRYPTED | (OF_SCHEDULE if schedule else 0)
        head = head_of(flags, self._newest.encode(), schedule.encode())
        owner = _owner(run_id, schedule)
        nonce = os.urandom(_NONCE)
        cipher = self._cipher(self._newest, owner)
        sealed: bytes = cipher.encrypt(nonce, body, _bound(head, owner, place))
        return head + nonce + sealed

    def fingerprint(self, digest: str, key_id: str) -> str:
        """Give a digest that tells nothing of its data to who lacks the key.

        Raises `UnknownKey`.
        """
        if not key_id:
            return digest
        if key_id not in self._keys:
            raise UnknownKey(unknown("a digest", key_id), key_id=key_id)
        key = self._derived(key_id, b"", b"aiki-digest")
        return f"{key_id}:{blake2b(digest.encode(), key=key, digest_size=16).hexdigest()}"

    def secret(self, data: bytes, bound_to: str) -> bytes:
        """Give what the addresses of a run's steps are hashed with, by its stored input."""
        key_id = Envelope.parse(data).key_id
        return self._derived(key_id, bound_to.encode(), b"aiki-step") if key_id else b""

    def _decrypted(self, envelope: Envelope, run_id: str, place: str) -> bytes:
        key_id, body = envelope.key_id, envelope.body
        where = f"{place} of run {run_id}" if run_id else f"{place} of a schedule"
        if key_id not in self._keys:
            raise UnknownKey(unknown(where, key_id), key_id=key_id)
        owner = _owner(run_id, envelope.schedule)
        bound = _bound(envelope.head, owner, place)
        try:
            plain: bytes = self._cipher(key_id, owner).decrypt(body[:_NONCE], body[_NONCE:], bound)
        except (self._errors.InvalidTag, ValueError):  # the latter for what is too short
            raise Tampered(
                f"{where} is not what was written there with key {key_id!r}: it was changed, or "
                "moved there from somewhere else, or another key has that id"
            ) from None
        return plain

    def _make_cipher(self, key_id: str, owner: bytes) -> Any:
        return self._aead.AESGCM(self._derived(key_id, owner, b"aiki-payload"))

    def _derived(self, key_id: str, of: bytes, use: bytes) -> bytes:
        return blake2b(of, key=self._keys[key_id], person=use, digest_size=KEY_BYTES).digest()

    def __repr__(self) -> str:
        how = f"with key {self._newest}" if self._newest else "by nothing yet"
        return f"<Encrypted {how}; it reads {', '.join(self._keys)}>"


def payload_codec(path: Path | None, compress_over: int | None) -> PayloadCodec | None:
    """Make what settings name: a file of keys, a limit to compress over, both, or None."""
    if path is not None:
        return Encrypted.from_file(path, compress_over=compress_over)
    return None if compress_over is None else PayloadCodec(compress_over=compress_over)


def checked_codec(given: object) -> PayloadCodec | None:
    """Return the codec of a client; without one, that of the keys that the environment names.

    Raises `ConfigError` for what is none.
    """
    if given is None:
        path = os.environ.get(KEYS_VARIABLE)
        return Encrypted.from_file(path) if path else None
    if not isinstance(given, PayloadCodec):
        raise ConfigError(
            f"codec is aiki.Encrypted(…) or aiki.Compressed(…), not {type(given).__qualname__}"
        )
    return given


def new_key_line(key_id: str) -> str:
    """Make a key, and give its line of a file. Raises `ConfigError` for what can be no id."""
    return f"{_checked_id(key_id)} {base64.b64encode(os.urandom(KEY_BYTES)).decode()}"


def _owner(run_id: str, schedule: str) -> bytes:
    return f"schedule/{schedule}".encode() if schedule else run_id.encode()


def _bound(head: bytes, owner: bytes, place: str) -> bytes:
    return b"%b\0%b\0%b" % (head, owner, place.encode())


def _checked(keys: object) -> dict[str, bytes]:
    if not isinstance(keys, Mapping) or not keys:
        raise ConfigError(
            "keys are a mapping of ids to 32 random bytes each, the newest first, such as "
            '{"2030-01": os.urandom(32)}'
        )
    found: dict[str, bytes] = {}
    for key_id, key in cast("Mapping[object, object]", keys).items():
        if not isinstance(key, bytes) or len(key) != KEY_BYTES:
            # The key itself is in no message
            raise ConfigError(f"key {key_id!r:.80} is not {KEY_BYTES} bytes")
        found[_checked_id(key_id)] = key
    return found


def _checked_id(key_id: object) -> str:
    if not isinstance(key_id, str) or not _KEY_ID.fullmatch(key_id):
        raise ConfigError(
            f"the id of a key has 1 to 64 letters, digits, dots, hyphens and underscores; "
            f"{key_id!r:.80} has not"
        )
    return key_id


def _read(path: Path) -> tuple[dict[str, bytes], bool]:
    """Read a file of keys: these, and whether they are for reading only."""
    try:
        with path.open(encoding="utf-8") as file:
            if os.name == "posix" and os.fstat(file.fileno()).st_mode & stat.S_IRWXO:
                raise ConfigError(
                    f"{path}: everybody on this host can read or change the keys; chmod o= {path}"
                )
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"{path}: the keys cannot be read: {reason}") from None
    keys: dict[str, bytes] = {}
    reads_only = False
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words == [_PLAIN]:
            reads_only = True
            continue
        try:
            key_id, text = words
            key = base64.b64decode(text, validate=True)
        except (ValueError, binascii.Error):
            raise ConfigError(f"{path}, line {number}: is not an id and a key in base64") from None
        if key_id in keys:
            raise ConfigError(f"{path}, line {number}: there is a key {key_id!r} above")
        keys[key_id] = key
    if not keys:
        raise ConfigError(f"{path}: holds no keys; `aiki new-key ID` makes a line of it")
    try:
        return _checked(keys), reads_only
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
