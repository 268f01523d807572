"""The supervisor: it has workers serve, and puts right what happens to them.

One process, one loop, one inbox. Whatever happens (a signal, the end of a worker, what a worker
says, a timer) posts an act into the inbox, and the loop performs one act after the other. An act
decides and starts things; it never waits, so none finds the crew half-way through another. What
takes time (giving runs back, reading stacks) runs as a task beside the loop.

The order of the end: the workers stop claiming and drain; what the dead held is given back; the
housekeeping ends; the client, and with it the embedded server, comes last, since all the others
write through it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Unpack, cast

from aiki.errors import ConfigError, StoreRefused, StoreReplaced, StoreUnavailable
from aiki.supervisor import messages, restarts
from aiki.supervisor.child import Child, refuse_inside_worker
from aiki.supervisor.crew import Crew, Gone, Slot
from aiki.supervisor.definitions import Definition, Shipment, pack
from aiki.supervisor.duties import Duties
from aiki.supervisor.exits import Exit
from aiki.supervisor.logs import configure_logging
from aiki.supervisor.messages import Message
from aiki.supervisor.recovery import Dead, Verdict, judge
from aiki.supervisor.settings import Options, Settings, misspelled
from aiki.supervisor.signals import Order, Signals

logger = logging.getLogger(__name__)

# A worker that grows past its limit should not take the machine with it meanwhile.
_LONGEST_PATROL = 2.0
_PATROLS_PER_HANG = 5
# How long a worker may take to say what it is doing, or to show its stacks.
_ANSWER = 2.0
# Imports that take longer are worth a look at what they are doing.
_SLOW_BOOT = 30.0

_BOOT_EXITS: dict[messages.Blame, Exit] = {
    "definition": Exit.BOOT,
    "store": Exit.STORE,
    "settings": Exit.USAGE,
    "unknown": Exit.UNEXPECTED,
}


class Supervisor:
    """A supervisor for these workflows, with these settings.

    `workflows` are module names (`"shop.orders"`, `"shop.orders:order_workflow"`), which only the
    workers import, or workflows, versions and registries. Those that cannot be imported, from the
    main module or a closure, are sent to the workers by value.
    """

    def __init__(
        self,
        workflows: Iterable[Definition],
        *,
        settings: Settings | None = None,
        **options: Unpack[Options],
    ) -> None:
        """Check the settings; nothing is started yet.

        Without `settings`, they come from `options`, the environment and `pyproject.toml`, in
        this order; `options` also beat `settings`. Raises `ConfigError`.
        """
        if settings is None:
            self.settings = Settings.load(options)
        else:
            self.settings = replace(settings, **cast("dict[str, Any]", options))
        self._workflows = list(workflows)

    def run(self) -> None:
        """Serve until a signal ends it; blocks, and belongs into the main thread.

        Returns when it was told to end. Raises `SystemExit` with one of the codes of `Exit` when
        it ends for another reason, and before anything is started `DefinitionError` for workflows
        that cannot be sent to workers and `ConfigError` where there can be no supervisor.
        """
        refuse_inside_worker()
        configure_logging(self.settings.log_level, self.settings.log_format)
        for name, meant in misspelled(os.environ).items():
            logger.warning("nothing reads %s of the environment; did you mean %s?", name, meant)
        code = asyncio.run(_Serving(self.settings, pack(self._workflows)).run())
        if code is not Exit.ENDED:
            raise SystemExit(code)


class _Serving:
    """One life of a supervisor, from its first worker to its last (supervisor process)."""

    def __init__(self, settings: Settings, shipment: Shipment) -> None:
        self._settings = settings
        self._inbox: asyncio.Queue[Callable[[], None]] = asyncio.Queue()
        self._crew = Crew(
            settings,
            shipment,
            on_message=lambda child, message: self._post(partial(self._hear, child, message)),
            on_end=lambda: self._post(self._reap),
        )
        self._duties = Duties(
            settings,
            on_quarantine=lambda runs: self._post(partial(self._fit_quarantine, runs)),
            on_replaced=lambda error: self._post(partial(self._leave_replaced, error)),
        )
        self._patrol_every = min(_LONGEST_PATROL, settings.hang_timeout / _PATROLS_PER_HANG)
        self._patrolled = 0.0
        self._deaths: list[restarts.Death] = []
        self._last_death: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._kept = ""
        self._is_serving = False
        self._code: Exit | None = None
        """How it ends; None as long as it is not to end."""

    async def run(self) -> Exit:
        """Perform one act after the other, until it is to end and the last worker is gone."""
        with Signals(self._post_order, lambda: [child.pid for child in self._crew.children()]):
            self._beside(self._open())
            try:
                while self._code is None or self._crew.children():
                    act = await self._inbox.get()
                    self._perform(act)
                await self._duties.finish()
            finally:
                self._crew.kill("the supervisor failed")
                await self._end_tasks()
                await self._duties.close()
        logger.info("ended: %s", self._code.sentence)
        return self._code

    def _perform(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception:
            if self._code is Exit.UNEXPECTED:
                raise  # even the end of it fails
            logger.exception("an error in the supervisor; ending its workers")
            self._code = Exit.UNEXPECTED
            self._crew.drain("the supervisor failed")

    def _post(self, act: Callable[[], None]) -> None:
        self._inbox.put_nowait(act)

    def _post_order(self, order: Order) -> None:
        self._post(partial(self._obey, order))

    def _obey(self, order: Order) -> None:
        """Do what a signal asks."""
        logger.info("signal: %s", order.name.lower())
        match order:
            case Order.DRAIN if self._code is None:
                self._end(Exit.ENDED)
            case Order.DRAIN | Order.STOP:
                self._end(Exit.ENDED)
                self._crew.kill("stop")
            case Order.REPORT:
                self._beside(self._report())
            case _ if self._code is not None or not self._is_serving:
                logger.warning("nothing to %s while it starts or ends", order.name.lower())
            case Order.RELOAD:
                self._crew.reload()
            case Order.MORE:
                self._crew.grow()
            case Order.FEWER:
                self._crew.shrink()

    def _end(self, code: Exit) -> None:
        if self._code is None:
            self._code = code
            self._crew.drain("the supervisor ends")
            self._post(lambda: None)  # the loop looks again, in case that there is nobody

    def _hear(self, child: Child, message: Message) -> None:
        match message:
            case messages.Ready():
                self._welcome(child)
            case messages.Replace(reason):
                self._crew.replace(child, reason)
            case _:
                logger.error("%s says %r, which is not for a supervisor", child, message)

    def _start(self, kept: str, store_id: str) -> None:
        if self._code is None:
            self._kept = kept
            self._beside(self._duties.attend())
            self._crew.start(self._settings.workers, store_id)
            self._patrol()

    def _refuse(self, code: Exit, why: str) -> None:
        """End before it ever served."""
        if self._code is None:
            logger.error("%s", why)
            self._end(code)

    def _leave_replaced(self, error: StoreReplaced) -> None:
        """End because the store is gone; nothing is made anew in what has come in its place."""
        if self._code is None:
            logger.error("%s", error)
            self._end(Exit.REPLACED)

    def _welcome(self, child: Child) -> None:
        """Let a worker that is ready serve."""
        limit = self._settings.max_memory
        if child.measure() > limit:
            # It would be replaced for ever.
            need = f"{child.rss // 2**20} MiB before its first run, max-memory is {limit // 2**20}"
            child.reject(messages.NotBooted("settings", f"a worker needs {need} MiB", ""))
            return
        logger.info("%s is ready", child)
        self._crew.promote(child)
        if not self._is_serving and self._crew.serving() == self._settings.workers:
            self._is_serving = True
            sys.stdout.write(self._announcement(child) + "\n")
            sys.stdout.flush()

    def _announcement(self, child: Child) -> str:
        """Say in one line what is served, by whom, and what is guaranteed."""
        served = ", ".join(child.ready.serves) if child.ready else ""
        workers = f"{self._settings.workers} worker{'s' * (self._settings.workers > 1)}"
        slots = self._settings.max_concurrent_workflow_runs
        return f"aiki serves {served}: {workers} of {slots} slots; runs are kept in {self._kept}"

    def _reap(self) -> None:
        """Find every worker that has ended at this moment; then judge, give back, restart."""
        now = asyncio.get_running_loop().time()
        gone = self._crew.sweep()
        deaths = [one for one in gone if one.ending.is_death() and not one.child.quarantine]
        since = None if self._last_death is None else now - self._last_death
        for one in gone:
            companions = sum(other is not one for other in deaths)
            self._bury(one, judge(one.ending, companions, since))
            if one.slot is not None and self._code is None:
                self._follow_up(one, one.slot, now)
        if deaths:
            self._last_death = now

    def _bury(self, gone: Gone, verdict: Verdict) -> None:
        child, ending = gone.child, gone.ending
        why = f" ({ending.asked})" if ending.asked else ""
        level = logging.INFO if ending.asked else logging.WARNING
        logger.log(level, "%s %s%s", child, ending.how, why)
        if ending.not_booted is not None and ending.asked is None:
            said = ending.not_booted
            logger.error("could not boot: %s\n%s", said.message, said.traceback)
        if not ending.is_clean():
            incarnations = child.ready.incarnations if child.ready else ()
            dead = Dead(str(child), child.pid, child.created, incarnations, ending.how)
            self._duties.give_back(dead, verdict)

    def _follow_up(self, gone: Gone, slot: Slot, now: float) -> None:
        """Decide what takes the place of a worker that ended without having been told to."""
        ending = gone.ending
        if ending.asked is not None:
            return
        booted = ending.not_booted is None and gone.child.ready is not None
        if not booted and not self._is_serving:
            blame = ending.not_booted.blame if ending.not_booted else "definition"
            self._end(_BOOT_EXITS[blame])
            return
        if gone.reload:
            logger.error("the reload failed; the old workers serve on")
            self._crew.abandon_reload()
            return
        key = -slot.number if slot.quarantine else slot.number
        charged = ending.not_booted is None and not slot.quarantine
        self._deaths = restarts.remembered(self._deaths, now)
        self._deaths.append(restarts.Death(key, now, charged=charged))
        match restarts.decide(self._deaths, key, now):
            case restarts.GiveUp(reason):
                logger.error("giving up: %s", reason)
                self._end(Exit.BUDGET)
            case restarts.Restart(after) if slot.heir is None:
                self._crew.launch_later(slot, after, slot.reason if slot.child else "restart")
            case _:
                pass  # its heir is on the way already

    def _fit_quarantine(self, runs: int) -> None:
        if self._code is None and self._is_serving:
            self._crew.fit_quarantine(min(runs, self._settings.workers))

    def _patrol(self) -> None:
        """Look after memory, hung loops and slow boots."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        # A supervisor that was stopped itself has not heard the ticks that are there by now.
        is_on_time = now - self._patrolled < 2 * self._patrol_every
        self._patrolled = now
        limit = self._settings.max_memory
        for child in self._crew.children():
            if child.asked is not None or child.hung:
                continue
            if child.ready is None:
                if now - child.started > _SLOW_BOOT and not child.is_slow:
                    child.is_slow = True
                    self._beside(self._report_slow(child))
                continue
            if child.measure() > limit:
                used = f"it uses {child.rss // 2**20} MiB, max-memory is {limit // 2**20} MiB"
                self._crew.replace(child, used)
            if is_on_time and child.silent_for() > self._settings.hang_timeout:
                child.hung = True
                self._beside(self._end_hung(child))
        self._reap()  # where no descriptor tells of an end
        loop.call_later(self._patrol_every, self._post, self._patrol)

    async def _end_hung(self, child: Child) -> None:
        stood = child.silent_for()
        stacks = await child.stacks(_ANSWER)
        logger.error(
            "%s is ended: its loop has stood still for %.1f s. Stacks:\n%s", child, stood, stacks
        )
        child.kill()

    async def _report_slow(self, child: Child) -> None:
        stacks = await child.stacks(_ANSWER)
        logger.warning("%s is still booting after %g s:\n%s", child, _SLOW_BOOT, stacks)

    async def _report(self) -> None:
        """Log what there is to know of the workers and their runs."""
        children = self._crew.children()
        parts = await asyncio.gather(*(_described(child) for child in children))
        wanted = len(self._crew.slots)
        head = f"report: {self._crew.serving()} of {wanted} workers serve, {len(self._deaths)} died"
        logger.warning("%s within %g s\n%s", head, restarts.WINDOW, "\n".join(parts))

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something that takes time beside the loop of acts."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done_beside)

    def _done_beside(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._post(task.result)  # which raises, in the loop, what ends the supervisor

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _open(self) -> None:
        """Connect to the store, and start the workers when that is done."""
        try:
            kept, store_id = await self._duties.open()
        except ConfigError as error:
            self._post(partial(self._refuse, Exit.USAGE, str(error)))
        except (StoreRefused, StoreUnavailable) as error:
            self._post(partial(self._refuse, Exit.STORE, str(error)))
        else:
            self._post(partial(self._start, kept, store_id))


async def _described(child: Child) -> str:
    serves = "leaving" if child.asked else "serving" if child.ready else "booting"
    said, stacks = "", ""
    if child.ready is not None:
        said, stacks = await asyncio.gather(child.report(_ANSWER), child.stacks(_ANSWER))
    rss = child.measure() // 2**20
    text = f"{child}: {serves}, {rss} MiB, {said}\nstacks:\n{stacks}"
    return text.replace("\n", "\n    ")
