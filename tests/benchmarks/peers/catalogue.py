"""Who is measured, in which environment, with which settings, and what one has to know of them."""

from __future__ import annotations

from dataclasses import dataclass

FSYNC = "each commit on disk"
NO_LOG = "none until a snapshot (Redis without an append-only file, as it comes)"


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the table."""

    name: str
    target: str
    """The module and class that bring it into the shape of a `Peer`."""
    environment: str
    requirements: tuple[str, ...]
    programs: tuple[str, ...]
    """What must be on this machine: `redis-server`, `postgres`, `npm`."""
    durability: str
    settings: str
    after_kill: str
    """Who takes over from a killed worker, by which setting; empty where that is not measured."""
    setting: str = ""
    durable: bool = True
    """Steps are recorded; otherwise it is a queue."""
    steps: int = 4
    """Steps of a run; of a queue, jobs."""
    scale: int = 1
    """How many times the runs of the plan a round has, so that it lasts long enough."""
    restart: bool = False
    """Nobody else takes over: the killed worker is started again at once."""
    alone: bool = False
    """Its recovery is measured by itself; that of others, who wait for minutes, side by side."""
    npm: tuple[str, ...] = ()


DBOS = ("dbos==3.4.0",)
_DBOS_HEIR = "the same executor, restarted at once"
_TWO = "2 workers"
# Brings the schema along, which absurdctl would fetch from elsewhere. Only its SQL is used.
_SCHEMA = "--no-deps --ignore-requires-python django-absurd==1.0.1"

ENTRIES = (
    Entry(
        "aiki, embedded", "aiki_peer:Aiki", "", (), (), FSYNC,
        f"{_TWO} of 200 slots, all defaults", "other worker; the supervisor sees the death",
        setting="always", scale=10, alone=True,
    ),
    Entry(
        "DBOS, started directly", "foreign.dbos_peer:Direct", "dbos", DBOS, ("postgres",), FSYNC,
        "2 processes that start and execute 2 workflows at a time each (the best found)", "",
    ),
    Entry(
        "DBOS, queue, tuned", "foreign.dbos_peer:Queued", "dbos", DBOS, ("postgres",), FSYNC,
        f"{_TWO}; queue polled every 20 ms (default 1 s), worker_concurrency 8 (default "
        "unlimited), results polled every 10 ms (default 1 s)", "",
        setting="tuned",
    ),
    Entry(
        "DBOS, queue, defaults", "foreign.dbos_peer:Queued", "dbos", DBOS, ("postgres",), FSYNC,
        f"{_TWO}, all defaults: queue and results polled every second",
        _DBOS_HEIR, restart=True, alone=True,
    ),
    Entry(
        "Restate", "foreign.restate_peer:Restate", "restate",
        ("restate-sdk==1.3.0", "hypercorn==0.18.0", "aiohttp"), ("npm",), FSYNC,
        "1 service process under Hypercorn (2 were not faster), at most 128 calls at a time",
        "the same endpoint, restarted at once; retried after 0.5 s, then 1 s, …",
        restart=True, alone=True, npm=("@restatedev/restate-server@1.7.12",),
    ),
    Entry(
        "absurd", "foreign.absurd_peer:Absurd", "absurd",
        ("absurd-sdk==0.5.1", "psycopg[binary]", _SCHEMA), ("postgres",), FSYNC,
        f"{_TWO}, async, concurrency 16 (default 1), poll interval 0.25 s (default)",
        "other worker; claim_timeout 120 s",
    ),
    Entry(
        "streaq, chain of four jobs", "foreign.streaq_peer:Chain", "streaq", ("streaq==7.2.0",),
        ("redis-server",), NO_LOG, f"{_TWO}, concurrency 64 (default 16)",
        "other worker; idle_timeout 60 s", durable=False,
    ),
    Entry(
        "streaq", "foreign.streaq_peer:Single", "streaq", ("streaq==7.2.0",), ("redis-server",),
        NO_LOG,
        f"{_TWO}, concurrency 64 (default 16), enqueued by 1,000",
        "other worker; idle_timeout 60 s", durable=False, steps=1, scale=4,
    ),
    Entry(
        "arq", "foreign.arq_peer:Arq", "arq", ("arq==0.28.0",), ("redis-server",), NO_LOG,
        f"{_TWO}, max_jobs 50 (10), poll_delay 10 ms (0.5 s), results polled every ms (0.5 s)",
        "other worker; job_timeout 300 s and 10 s more",
        setting="tuned", durable=False, steps=1, scale=4,
    ),
    Entry(
        "dramatiq", "foreign.dramatiq_peer:Dramatiq", "dramatiq", ("dramatiq[redis]==2.2.1",),
        ("redis-server",), NO_LOG, f"{_TWO} of 8 threads (default); no results in the rounds",
        "other worker; heartbeat_timeout 60 s", durable=False, steps=1, scale=4,
    ),
    Entry(
        "taskiq", "foreign.taskiq_peer:Taskiq", "taskiq", ("taskiq==0.13.0", "taskiq-redis==1.2.4"),
        ("redis-server",), NO_LOG,
        f"RedisStreamBroker, {_TWO}, results stored and polled every ms (200 ms)",
        "other worker; idle_timeout 600 s", durable=False, steps=1, scale=4,
    ),
    Entry(
        "Celery", "foreign.celery_peer:CeleryPeer", "celery", ("celery[redis]==5.7.0",),
        ("redis-server",), NO_LOG,
        f"{_TWO}, prefork with 1 process each, prefetch multiplier 64 (4), acknowledged early "
        "(default); no results in the rounds",
        "other worker; what was acknowledged is lost, visibility_timeout 3,600 s for the rest",
        durable=False, steps=1, scale=4,
    ),
)  # fmt: skip
