"""The processes of one story, of which some are caught; who dies has a successor."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import psutil

from aiki.process import create_time
from aiki.supervisor.recovery import INNOCENT, Dead, give_back
from tests.faults.nursery import Birth, Child, Nursery
from tests.faults.site import Site
from tests.support.waiting import eventually

# What a story may take on a busy machine.
LONG = 90.0


class Cast:
    """Workers, supervisors and callers on one store."""

    def __init__(self, site: Site, nursery: Nursery, trapped: str) -> None:
        self.site = site
        self.deaths = 0
        self._nursery = nursery
        self._trapped = trapped
        self._alive: dict[Child, float] = {}
        self._born = 0
        self._is_ending = False

    def enter(self, role: str, **options: Any) -> Child:
        """Make a process; it may be caught where its role is that of the story.

        The options are those of a `Birth`.
        """
        birth = Birth(
            role, self.site.urls.get(role, self.site.server.url), str(self.site.ledger),
            trapped=role == self._trapped,
        )  # fmt: skip
        return self._bear(replace(birth, **options))

    def has(self, role: str) -> bool:
        """Tell whether somebody of a role is there."""
        return any(child.birth.role == role for child in self._alive)

    async def kill(self, child: Child) -> None:
        """End somebody who is to have no successor, and whose runs nobody gives back."""
        del self._alive[child]
        os.kill(child.pid, signal.SIGKILL)
        await eventually(lambda: child.status() is not None, LONG, "a death")

    async def look_after(self) -> None:
        """Let who dies be succeeded, and the runs of workers be given back, as supervisors do.

        Raises AssertionError where one ends otherwise.
        """
        while True:
            for child in list(self._alive):
                status = child.status()
                if status is not None:
                    await self._has_ended(child, status)
            await asyncio.sleep(0.005)

    async def ends(self) -> None:
        """End everybody."""
        self._is_ending = True
        for child in self._alive:
            with suppress(psutil.NoSuchProcess):
                psutil.Process(child.pid).send_signal(signal.SIGTERM)
        await eventually(lambda: not self._alive, LONG, "the end of all")

    def _bear(self, birth: Birth) -> Child:
        self._born += 1
        child = self._nursery.bear(replace(birth, name=f"{birth.role}-{self._born}"))
        self._alive[child] = create_time(child.pid)
        return child

    async def _has_ended(self, child: Child, status: int) -> None:
        birth = child.birth
        role, created = birth.role, self._alive[child]
        if status == 0 and (self._is_ending or role == "caller"):
            del self._alive[child]
            return
        words = f"{birth.name} ended with {status}:\n{child.output()}"
        assert role == self._trapped, words
        if status == -signal.SIGKILL:
            self.deaths += 1
        else:  # a connection that is lost before it was ready raises where it was asked for
            assert status == 1, words
            assert "StoreUnavailable" in words, words
        if role == "worker":
            dead = Dead(birth.name, child.pid, created, (), "was killed")
            await give_back(self.site.client.store, dead, INNOCENT)
        if not self._is_ending:
            self._bear(birth)
        del self._alive[child]


@asynccontextmanager
async def cast_of(site: Site, nursery: Nursery, trapped: str) -> AsyncGenerator[Cast]:
    """Have a cast, and see to it that whoever dies in the story is succeeded."""
    cast = Cast(site, nursery, trapped)
    async with asyncio.TaskGroup() as group:
        looking = group.create_task(cast.look_after())
        yield cast
        looking.cancel()
