"""Names of keys, and ids that say where their keys are.

All keys of one run are in its partition, whose number stands in braces in every key: a cluster
keeps them on one node, so that a script may touch them together.
"""

from __future__ import annotations

import hashlib
import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]


def new_run_id(partition: int) -> str:
    """Make a run id: its partition, then 48 bits of time and 80 random ones, so ids sort by age."""
    return _run_id(partition, time.time_ns() // 1_000_000, secrets.randbits(80))


def occurrence_run_id(partition: int, schedule: str, occurrence: int) -> str:
    """Give the id of the one run that an occurrence of a schedule may have."""
    digest = hashlib.blake2b(f"{schedule}\n{occurrence}".encode(), digest_size=10).digest()
    return _run_id(partition, occurrence, int.from_bytes(digest))


def child_run_id(parent: str, key: str) -> str:
    """Give the id of a run's child, the same each time; it is in the partition of its parent."""
    digest = hashlib.blake2b(f"{parent}/{key}".encode(), digest_size=16).digest()
    number = int.from_bytes(digest, "big")
    digits = [_PAIRS[number >> shift & 1023] for shift in range(120, -10, -10)]
    return f"{partition_of(parent) or 0}-{''.join(digits)}"


def new_token() -> str:
    """Make a random name that nobody else has: of a claim, of a life of a worker."""
    return secrets.token_urlsafe(12)


def prefix(namespace: str, partition: int) -> str:
    """Give what every key of a partition begins with."""
    return f"aiki:{namespace}:{{{partition}}}:"


def partition_for(*names: str, count: int) -> int:
    """Give the partition of what is known by names alone, the same each time and everywhere.

    It is the big-endian number of a BLAKE2b digest of 8 bytes, modulo the number of partitions.
    """
    if count == 1:
        return 0
    digest = hashlib.blake2b("\n".join(names).encode(), digest_size=8).digest()
    return int.from_bytes(digest) % count


def _run_id(partition: int, milliseconds: int, rest: int) -> str:
    number = (milliseconds << 80) | rest
    digits = [_PAIRS[number >> shift & 1023] for shift in range(120, -10, -10)]
    return f"{partition}-{''.join(digits)}"


def partition_of(run_id: str) -> int | None:
    """Read the partition off a run id; None where it is not one."""
    number, dash, rest = run_id.partition("-")
    return int(number) if dash and number.isdigit() and rest.isalnum() else None
