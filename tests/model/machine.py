"""The store and its model side by side: what Hypothesis does to both, and what must be equal."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any, cast

import hypothesis.strategies as st
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import (
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from aiki.errors import InvalidTransition, NotFound
from tests.model.owner_rules import OwnerRules
from tests.model.site import Site
from tests.model.worker_rules import LEASE, SELDOM, YES, WorkerRules
from tests.support.audit import audit, audit_indexes
from tests.support.store import TIMEOUT

RUNS = WorkerRules.some_run
REASON = "no longer wanted"


class StoreMachine(OwnerRules):
    """All that may be sent to a store about runs, in any order, by anybody who ever could."""

    # From outside

    @rule(run_id=RUNS, message=st.sampled_from(["one", "two", "three"]))
    def post(self, run_id: str, message: str) -> None:
        sending = lambda: self.scene.store.mailbox.post(  # noqa: E731
            run_id, "event/paid", message.encode(), message_id=message, timeout=TIMEOUT
        )
        self.do(
            lambda: refusable(sending),
            lambda: self.model.post(run_id, message, b"event/paid\n" + message.encode()),
        )

    @rule(run_id=RUNS, request=st.sampled_from(["four", "five"]))
    def wake_up(self, run_id: str, request: str) -> None:
        self.do(
            lambda: self.scene.script("wake_up", run_id, request, 10**9),
            lambda: self.model.wake_up(run_id, request),
        )

    @rule(run_id=RUNS)
    def cancel(self, run_id: str) -> None:
        self.do(
            lambda: refusable(
                lambda: self.scene.store.runs.request_cancel(run_id, REASON, timeout=TIMEOUT)
            ),
            lambda: self.model.request_cancel(run_id, REASON),
        )

    @rule(run_id=RUNS)
    def terminate(self, run_id: str) -> None:
        control = self.scene.store.control
        self.do(
            lambda: refusable(lambda: control.terminate(run_id, REASON, timeout=TIMEOUT)),
            lambda: self.model.terminate(run_id, REASON),
        )

    @rule(run_id=RUNS)
    def pause(self, run_id: str) -> None:
        control = self.scene.store.control
        self.do(
            lambda: refusable(lambda: control.pause(run_id, timeout=TIMEOUT)),
            lambda: self.model.pause(run_id),
        )

    @rule(run_id=RUNS)
    def resume(self, run_id: str) -> None:
        control = self.scene.store.control
        self.do(
            lambda: refusable(lambda: control.resume(run_id, timeout=TIMEOUT)),
            lambda: self.model.resume(run_id),
        )

    @rule(run_id=RUNS, drops=YES, loosens=YES, is_late=SELDOM)
    def retry(self, run_id: str, *, drops: bool, loosens: bool, is_late: bool) -> None:
        run = self.model.runs.get(run_id)
        epoch = 0 if run is None else run.epoch - is_late
        keys = sorted(self._journal(run_id))
        dropped, loosened = keys[:2] if drops else [], keys[2:] if loosens else []

        async def retrying() -> str | None:
            control = self.scene.store.control
            is_done = await control.retry(run_id, epoch, dropped, loosened, timeout=TIMEOUT)
            return "ok" if is_done else "changed"

        self.do(
            lambda: refusable(retrying), lambda: self.model.retry(run_id, epoch, dropped, loosened)
        )

    @rule(run_id=RUNS)
    def delete(self, run_id: str) -> None:
        control = self.scene.store.control
        self.do(
            lambda: refusable(lambda: control.delete(run_id, timeout=TIMEOUT)),
            lambda: self.model.delete(run_id),
        )

    # Time, and who looks after everything

    @rule(ms=st.sampled_from([1, 1000, LEASE // 2, LEASE + 1, 60_000]))
    def time_passes(self, ms: int) -> None:
        self.model.now += ms
        self.site.run(self.site.set_clock(self.model.now))

    def fire_timers(self) -> None:
        async def on_store() -> int:
            return (await self.scene.store.timers.fire())[0]

        self.do(on_store, self.model.fire_timers)

    def find_expired(self) -> None:
        self.do(
            lambda: self.scene.store.workers.find_expired(LEASE / 1000),
            lambda: self.model.find_expired(LEASE),
        )

    def requeue_idle(self) -> None:
        self.do(lambda: self.scene.store.workers.requeue_idle(0), self.model.requeue_idle)

    def stall_unserved(self) -> None:
        async def on_store() -> list[str]:
            streams = await self.scene.command("SMEMBERS", self.scene.base + "streams")
            self.order = [stream.decode() for stream in streams]
            return [run_id.decode() for run_id in await self.scene.stall_unserved()]

        self.do(on_store, lambda: self.model.stall_unserved(self.order))

    def remove_finished(self) -> None:
        self.do(
            lambda: self.scene.store.timers.remove_finished(0, ["orders"]),
            self.model.remove_finished,
        )

    def cascade(self) -> None:
        parents: list[str] = []

        async def on_store() -> int:
            # One parent, by chance, and its children in the order of a hash
            base = self.scene.base
            before = await self.scene.command("SMEMBERS", base + "cascades")
            children = {
                parent.decode(): await self.scene.command(
                    "HKEYS", f"{base}run:{parent.decode()}:children"
                )
                for parent in before
            }
            left = await self.scene.store.children.cascade()
            after = await self.scene.command("SMEMBERS", base + "cascades")
            parents[:] = [parent.decode() for parent in before if parent not in after]
            self.order = [child.decode() for child in children[parents[0]]] if parents else []
            return left

        def on_model() -> int:
            for parent in parents:
                self.model.cascade(parent, self.order)
            return len(self.model.cascades)

        self.do(on_store, on_model)

    @rule(
        job=st.sampled_from(
            [
                fire_timers,
                fire_timers,
                find_expired,
                requeue_idle,
                stall_unserved,
                remove_finished,
                cascade,
            ]
        )
    )
    def keep_house(self, job: Callable[[StoreMachine], None]) -> None:
        job(self)

    # Copies

    @precondition(lambda self: self.sent)
    @rule()
    def send_the_last_again(self) -> None:
        """Send what was sent last once more: what a client does whose reply was lost."""
        self.both(*self.sent[-1])

    @precondition(lambda self: self.sent)
    @rule(back=st.integers(1, 40))
    def send_an_old_one_again(self, back: int) -> None:
        """Let a copy come that was long on its way."""
        self.both(*self.sent[-min(back, len(self.sent))])

    # What must hold

    @invariant()
    def everything_is_where_its_record_says(self) -> None:
        self.site.run(audit_indexes(self.scene))

    def teardown(self) -> None:
        self.site.run(audit(self.scene))


async def refusable(doing: Callable[[], Awaitable[Any]]) -> str:
    """Give what is said, or the word for why it is refused."""
    try:
        said = await doing()
    except InvalidTransition:
        return "refused"
    except NotFound:
        return "none"
    return "ok" if said is None else str(said)


def check_store(url: str, rng: random.Random, *, examples: int, steps: int) -> None:
    """Let Hypothesis compare the store with its model; the numbers drawn depend on the seed."""
    site = Site(url)
    try:
        machine = seed(rng.getrandbits(64))(lambda: StoreMachine(site))
        run_state_machine_as_test(
            cast("type[StoreMachine]", machine),  # a function will do
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        site.close()
