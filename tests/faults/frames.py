"""Whole requests and replies of the Redis protocol (RESP2), out of bytes as they come."""

from __future__ import annotations

_LINE = b"\r\n"
_ARRAY, _BULK = ord("*"), ord("$")


class Frames:
    """What came and is not yet a whole frame."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take in bytes, and give the frames that are whole by now."""
        self._data += data
        frames: list[bytes] = []
        at = 0
        while (end := self._end(at)) is not None:
            frames.append(bytes(self._data[at:end]))
            at = end
        del self._data[:at]
        return frames

    def _end(self, at: int) -> int | None:
        """Find where the frame ends that begins here, if all of it is there."""
        open_items = 1
        while open_items:
            line = self._data.find(_LINE, at)
            if line < 0:
                return None
            kind, count = self._data[at], self._data[at + 1 : line]
            at = line + len(_LINE)
            open_items -= 1
            if kind == _ARRAY:
                open_items += max(0, int(count))
            elif kind == _BULK and int(count) >= 0:
                at += int(count) + len(_LINE)
                if at > len(self._data):
                    return None
        return at
