"""Restate: its server, and a service in its Python SDK, in one process under Hypercorn."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import aiohttp
import restate

from tests.benchmarks.peers.orders import STEPS, Order, act_async
from tests.benchmarks.peers.peer import Peer
from tests.benchmarks.peers.site import ROOT, Site, free_port

SERVER = ROOT / ".peers/restate/node_modules/.bin/restate-server"
IN_FLIGHT = 128
_MODULE = "tests.benchmarks.peers.foreign.restate_peer"

service = restate.Service("orders")


@service.handler()
async def process(context: restate.Context, order: Order) -> list[str]:
    async def take(name: str) -> str:
        return await act_async(name, order)

    return [await context.run_typed(name, take, name=name) for name in STEPS]


app = restate.app([service])


class Restate(Peer):
    """A caller over HTTP, which waits for each result."""

    STEPS_TOGETHER = False

    def __init__(self, site: Site) -> None:
        self._site = site
        self._calls: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        node, ingress, admin, worker = (free_port() for _ in range(4))
        self._site.spawn(
            "servers", [SERVER, "--base-dir", self._site.directory / "restate", "--no-logo"],
            RESTATE_BIND_ADDRESS=f"127.0.0.1:{node}",
            RESTATE_ADVERTISED_ADDRESS=f"http://127.0.0.1:{node}",
            RESTATE_INGRESS__BIND_ADDRESS=f"127.0.0.1:{ingress}",
            RESTATE_ADMIN__BIND_ADDRESS=f"127.0.0.1:{admin}",
            RESTATE_DISABLE_TELEMETRY="true", RESTATE_LOG_FILTER="warn", DO_NOT_TRACK="1",
        )  # fmt: skip
        self._site.worker(
            "hypercorn", f"{_MODULE}:app", "--bind", f"127.0.0.1:{worker}", "--workers", "1"
        )
        version = json.loads(
            (SERVER.parents[1] / "@restatedev/restate-server/package.json").read_text()
        )
        self._site.versions["Restate"] = version["version"]
        for port in (worker, admin, ingress):
            await self._site.listens(port)
        self._base = f"http://127.0.0.1:{ingress}"
        connector = aiohttp.TCPConnector(limit=IN_FLIGHT)
        self._client = aiohttp.ClientSession(connector=connector)
        endpoint = {"uri": f"http://127.0.0.1:{worker}"}
        await self._answered(f"http://127.0.0.1:{admin}/deployments", endpoint)

    async def submit(self, orders: Sequence[Order]) -> None:
        self._calls = [asyncio.create_task(self.process_one(order)) for order in orders]

    async def results(self) -> None:
        await asyncio.gather(*self._calls)

    async def process_one(self, order: Order) -> None:
        await self._answered(f"{self._base}/orders/process", order)

    async def close(self) -> None:
        for call in self._calls:
            call.cancel()
        await self._client.close()

    async def _answered(self, url: str, body: object) -> None:
        async with self._client.post(url, json=body) as response:
            response.raise_for_status()
            await response.read()
