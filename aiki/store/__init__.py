"""The only door to Redis. Nothing outside this package imports `redis`."""

from __future__ import annotations

from aiki.store.partitions import Partitions
from aiki.store.store import Store

__all__ = ["Partitions", "Store"]
