"""The stored form of payloads that are not plain: compressed, encrypted, or both.

A payload is JSON, sometimes behind a letter, and never begins with a zero byte. An envelope does,
so plain payloads and envelopes may lie in one store, and each says itself how it is to be read:

    0, flags, [length, key id], [length, schedule], body

What is encrypted begins its body with the nonce. It is bound to the run that it belongs to and to
its place there, which are not in it: whoever reads it knows them. The input of a schedule is bound
to the schedule, whose name is in it, since its runs have no ids yet.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from aiki.errors import ConfigError, Failure, Tampered, UnknownKey

SEALED = b"\0"
COMPRESSED, ENCRYPTED, OF_SCHEDULE = 1, 2, 4
_KNOWN = COMPRESSED | ENCRYPTED | OF_SCHEDULE

# Four times the limit on payloads, since some have a failure, an id or a heartbeat beside them.
# What would be larger is not compressed, so nothing that is ours unpacks to more.
LARGEST = 4 * 1024 * 1024
# A payload of 1 MiB takes some 10 ms of the event loop like this; level 6 takes three times as
# long, and saves another tenth.
_LEVEL = 1


@dataclass(frozen=True, slots=True)
class Envelope:
    """An envelope taken apart. `head` is all before the body."""

    flags: int
    key_id: str
    schedule: str
    head: bytes
    body: bytes

    @classmethod
    def parse(cls, data: bytes) -> Envelope:
        """Read an envelope. Raises `Tampered` where it is none."""
        try:
            flags, at = data[1], 2
            names = ["", ""]
            for number, flag in enumerate((ENCRYPTED, OF_SCHEDULE)):
                if flags & flag:
                    end = at + 1 + data[at]
                    names[number] = data[at + 1 : end].decode()
                    at = end
        except (IndexError, UnicodeDecodeError):
            raise Tampered("a sealed payload is damaged: its header is cut off") from None
        if flags & ~_KNOWN or flags == 0 or data[:1] != SEALED or len(data) < at:
            raise Tampered("a sealed payload has a header that this release does not know")
        return cls(flags, names[0], names[1], data[:at], data[at:])


def head_of(flags: int, key_id: bytes = b"", schedule: bytes = b"") -> bytes:
    """Give what an envelope begins with."""
    head = bytes((0, flags))
    if flags & ENCRYPTED:
        head += bytes((len(key_id),)) + key_id
    if flags & OF_SCHEDULE:
        head += bytes((len(schedule),)) + schedule
    return head


class PayloadCodec:
    """What payloads pass on their way to the store and back. By itself it only compresses."""

    def __init__(self, *, compress_over: int | None = None) -> None:
        given: object = compress_over
        if given is not None and (
            not isinstance(given, int) or isinstance(given, bool) or given < 0
        ):
            raise ConfigError(f"compress_over is a number of bytes, not {given!r:.100}")
        self._over = compress_over

    @property
    def key_id(self) -> str:
        """The key that encrypts now; empty where nothing is encrypted."""
        return ""

    def seal(self, payload: bytes, run_id: str, place: str, *, schedule: str = "") -> bytes:  # noqa: ARG002
        """Give the stored form of a payload of this run at this place there, or of a schedule."""
        body, flags = self._packed(payload)
        return head_of(flags) + body if flags else payload

    def open(self, data: bytes, run_id: str, place: str) -> bytes:
        """Give the payload of an envelope.

        Raises:
            UnknownKey: it is encrypted with a key that is not known here.
            Tampered: it was changed, or was not written for this place.
        """
        envelope = Envelope.parse(data)
        if envelope.flags & ENCRYPTED:
            body = self._decrypted(envelope, run_id, place)
        else:
            body = envelope.body
        return _unpacked(body, run_id, place) if envelope.flags & COMPRESSED else body

    def fingerprint(self, digest: str, key_id: str) -> str:
        """Give a digest that tells nothing of its data to who lacks the key; plain without one.

        Raises `UnknownKey`.
        """
        if key_id:
            raise UnknownKey(unknown("a digest", key_id), key_id=key_id)
        return digest

    def secret(self, data: bytes, bound_to: str) -> bytes:  # noqa: ARG002
        """Give what the addresses of a run's steps are hashed with, by its stored input."""
        return b""

    def _packed(self, payload: bytes) -> tuple[bytes, int]:
        if self._over is not None and self._over < len(payload) <= LARGEST:
            packed = zlib.compress(payload, _LEVEL)
            if len(packed) + len(head_of(COMPRESSED)) < len(payload):
                return packed, COMPRESSED
        return payload, 0

    def _decrypted(self, envelope: Envelope, run_id: str, place: str) -> bytes:
        key_id = envelope.key_id
        raise UnknownKey(unknown(f"{place} of run {run_id}", key_id), key_id=key_id)


class Compressed(PayloadCodec):
    """Compresses payloads of more than `over` bytes, where that makes them smaller.

    Nothing needs to be set for reading what was compressed.
    """

    def __init__(self, *, over: int = 1024) -> None:
        super().__init__(compress_over=over)

    def __repr__(self) -> str:
        return f"<Compressed over {self._over} bytes>"


def unknown(what: str, key_id: str) -> str:
    """Say that a key is missing, and what to do."""
    return (
        f"{what} is encrypted with key {key_id!r}, which this process does not have; add that key "
        "to the file that AIKI_ENCRYPTION_KEYS or --encryption-keys names, or to "
        "aiki.Encrypted(…), restart, and resume() the runs that were stalled for it"
    )


def check_readable(data: bytes, what: str) -> None:
    """Raise `UnknownKey` for an envelope that nobody has opened: the key to it is missing."""
    if data.startswith(SEALED):
        key_id = Envelope.parse(data).key_id
        raise UnknownKey(unknown(what, key_id), key_id=key_id)


@dataclass(frozen=True, slots=True)
class Sealed:
    """What is shown in the place of a payload that cannot be read here."""

    key_id: str

    def __str__(self) -> str:
        return f"encrypted (key id {self.key_id})"

    def failure(self) -> Failure:
        """Give what is shown in the place of a failure."""
        return Failure("aiki.Sealed", str(self), "")

    @classmethod
    def of(cls, data: bytes) -> Sealed | None:
        """Give what is shown for an envelope; None for a payload that is plain."""
        if not data.startswith(SEALED):
            return None
        try:
            return cls(Envelope.parse(data).key_id)
        except Tampered:
            return cls("unreadable")


def _unpacked(body: bytes, run_id: str, place: str) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        payload = unpacker.decompress(body, LARGEST + 1)
    except zlib.error as error:
        raise Tampered(f"{place} of run {run_id} is damaged: {error}") from None
    if len(payload) > LARGEST:
        raise Tampered(
            f"{place} of run {run_id} is compressed and would be more than {LARGEST >> 20} MiB, "
            "which no payload is: it was not written by aiki"
        )
    if not unpacker.eof or unpacker.unused_data:
        raise Tampered(f"{place} of run {run_id} is damaged: its end is not where it should be")
    return payload
