"""Where payloads are sealed and opened: at the doors of the store, which know whose each one is.

Behind them, the library sees plain payloads alone. What is bound to a run is bound to its id, and
to the place there. What a fork takes over (its input, entries of its journal) stays bound to the
run at the origin of the forks, and the end of a child to the child, also in its parent's journal.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import replace

from aiki.asked import QUERY, UPDATE
from aiki.envelope import SEALED, PayloadCodec, Sealed
from aiki.errors import DataError, UnknownKey
from aiki.records import Entry, EntryKind, Message

INPUT, END, REASON = "input", "end", "reason"
_CHILD = "end/"
# Its secret is compared by a script.
_NOT_SEALED = "awakeable/"
_CANCELLED = f"{EntryKind.CANCELLED.value} ".encode()  # its payload is the reason of a cancel
_SEALED_TEXT = "\0"
_QUESTIONS = (f"{QUERY}/", f"{UPDATE}/")


class Seals:
    """What the doors of one store seal and open payloads by."""

    def __init__(self, codec: PayloadCodec | None = None) -> None:
        self.is_on = codec is not None
        """Whether anything is done to what is written. What is read is looked at in any case."""
        self.codec = codec or PayloadCodec()

    def payload(self, data: bytes, run_id: str, place: str) -> bytes:
        """Give the stored form of a payload; nothing stays nothing."""
        return self.codec.seal(data, run_id, place) if data else data

    def opened(self, data: bytes, run_id: str, place: str) -> bytes:
        """Give a payload by its stored form. Raises `UnknownKey` and `Tampered`."""
        return self.codec.open(data, run_id, place) if data.startswith(SEALED) else data

    def shown(self, data: bytes | None, run_id: str, place: str) -> bytes | None:
        """Give a payload for who only looks: where it cannot be opened it stays as it is."""
        try:
            return None if data is None else self.opened(data, run_id, place)
        except DataError:
            return data

    def opened_input(self, data: bytes, run_id: str) -> tuple[bytes, bytes]:
        """Give an input, and the secret that the addresses of the run's steps are hashed with.

        The secret goes with the key that the input is encrypted with, so it stays the same as long
        as the journal does. Raises `UnknownKey` and `Tampered`.
        """
        return self.opened(data, run_id, INPUT), self.codec.secret(data, run_id)

    # Digests

    def digest(self, plain: str) -> str:
        """Give the stored form of a digest: it tells nothing to who has not the key."""
        return self.codec.fingerprint(plain, self.codec.key_id)

    def is_same(self, plain: str, stored: bytes | None) -> bool:
        """Tell whether a stored digest is this one, with whichever key it was made, or without.

        With a key that is not known here it is taken for another one.
        """
        text = (stored or b"").decode(errors="replace")
        try:
            return self.codec.fingerprint(plain, text.rpartition(":")[0]) == text
        except UnknownKey:
            return False

    # Entries of a journal

    def entry(self, run_id: str, key: str, raw: bytes) -> bytes:
        """Give the stored form of an entry, or of the rest of one."""
        head, _, payload = raw.partition(b"\n")
        if not payload or raw.startswith(_CANCELLED) or key.startswith(_NOT_SEALED):
            return raw
        return head + b"\n" + self.codec.seal(payload, *_place(run_id, key))

    def opened_raw(self, run_id: str, key: str, raw: bytes) -> bytes:
        """Give an entry as it was before it was sealed."""
        head, _, payload = raw.partition(b"\n")
        return head + b"\n" + self.opened(payload, *_place(run_id, key))

    def open_entries(self, run_id: str, entries: dict[str, Entry]) -> None:
        """Open the entries of a journal, in their place. Raises `UnknownKey` and `Tampered`."""
        for key in sealed_keys(entries):
            payload = self.codec.open(entries[key].payload, *_place(run_id, key))
            entries[key] = entries[key]._replace(payload=payload)

    def show_entries(self, run_id: str, entries: dict[str, Entry]) -> None:
        """Open those that can be opened."""
        for key in sealed_keys(entries):
            payload = self.shown(entries[key].payload, *_place(run_id, key))
            entries[key] = entries[key]._replace(payload=payload or b"")

    # Messages and answers

    def message(self, run_id: str, topic: str, payload: bytes) -> bytes:
        """Give the stored form of a message: its topic, a line break, its payload."""
        if self.is_on:
            payload = self.payload(payload, run_id, f"mail/{topic}")
        return topic.encode() + b"\n" + payload

    def question(self, run_id: str, topic: str, payload: bytes) -> bytes:
        """Give the stored form of a question: its id can be read, so that it can be answered."""
        question, _, arguments = payload.partition(b"\n")
        if self.is_on:
            arguments = self.payload(arguments, run_id, f"mail/{topic}")
        return b"%b\n%b\n%b" % (topic.encode(), question, arguments)

    def opened_mail(self, run_id: str, messages: Sequence[Message]) -> list[Message]:
        """Open what came into a mailbox; what was sealed with an unknown key stays as it is.

        Whoever sent it must not stop the run by that, unless it comes to take just this message.
        Raises `Tampered`.
        """
        return [  # no JSON has a zero byte in it
            self._opened_message(run_id, each) if SEALED in each.payload else each
            for each in messages
        ]

    def _opened_message(self, run_id: str, message: Message) -> Message:
        is_question = message.topic.startswith(_QUESTIONS)
        before, line, sealed = (
            message.payload.partition(b"\n") if is_question else (b"", b"", message.payload)
        )
        if not sealed.startswith(SEALED):
            return message
        try:
            payload = self.codec.open(sealed, run_id, f"mail/{message.topic}")
        except UnknownKey:
            return message
        return replace(message, payload=before + line + payload)

    def answer(self, run_id: str, told: bytes) -> bytes:
        """Give the form in which an answer is told: the question's id, a line break, the rest."""
        question, _, rest = told.partition(b"\n")
        return question + b"\n" + self.payload(rest, run_id, _answer(question))

    def opened_answer(self, run_id: str, told: bytes) -> bytes:
        """Give an answer as it was before it was sealed. Raises `UnknownKey` and `Tampered`."""
        question, _, rest = told.partition(b"\n")
        return question + b"\n" + self.opened(rest, run_id, _answer(question))

    # Chunks

    def chunk(self, run_id: str, topic: str, stored: bytes) -> bytes:
        """Give the stored form of a chunk, of which the first line says whose it is."""
        head, _, payload = stored.partition(b"\n")
        return head + b"\n" + self.payload(payload, run_id, f"stream/{topic}")

    def opened_chunk(self, run_id: str, topic: str, payload: bytes) -> bytes:
        """Give the data of a chunk. Raises `UnknownKey` and `Tampered`."""
        return self.opened(payload, run_id, f"stream/{topic}")

    # What scripts and listings have as text

    def reason(self, text: str, run_id: str) -> str:
        """Give the stored form of why a run is where it is, which may quote its data."""
        if not self.is_on or not text:
            return text
        sealed = self.codec.seal(text.encode("utf-8", "backslashreplace"), run_id, REASON)
        if not sealed.startswith(SEALED):
            return text
        return _SEALED_TEXT + base64.b64encode(sealed).decode()

    def shown_reason(self, stored: str, run_id: str) -> str:
        """Give why a run is where it is, or that it cannot be read here."""
        if not stored.startswith(_SEALED_TEXT):
            return stored
        try:
            data = base64.b64decode(stored[1:], validate=True)
        except (ValueError, binascii.Error):
            return stored
        shown = self.shown(data, run_id, REASON) or b""
        return str(Sealed.of(shown) or shown.decode(errors="replace"))


PLAIN = Seals()


def sealed_keys(entries: dict[str, Entry]) -> list[str]:
    """Name the entries that are sealed. The reason of a cancel never is."""
    return [
        key
        for key, entry in entries.items()
        if entry.payload.startswith(SEALED) and entry.kind is not EntryKind.CANCELLED
    ]


def bound_to(run_id: str, seed: bytes | None) -> str:
    """Say which run the input and the journal of one are bound to, by its stored seed."""
    return seed.decode(errors="replace") if seed else run_id


def _place(run_id: str, key: str) -> tuple[str, str]:
    """Say what the payload of an entry is bound to."""
    if key.startswith(_CHILD):
        return key.removeprefix(_CHILD).rpartition("#")[0], END
    return run_id, f"journal/{key}"


def _answer(question: bytes) -> str:
    return f"answer/{question.decode(errors='replace')}"
