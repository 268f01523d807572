"""A cluster of three primaries, with replicas: real servers, of the tests' own."""

from __future__ import annotations

import socket
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import redis
from redis.crc import key_slot

from aiki.store.keys import prefix
from tests.support.replicated import Server, ask, free_ports, until

NODE_TIMEOUT = "3000"  # ms of silence after which a node is taken for dead, on a busy machine
SLOTS = 16384
PRIMARIES = 3
BUS = 10000  # so much above its port a node listens for the others


def slot_of(partition: int) -> str:
    """Give the slot of a partition."""
    return str(key_slot(prefix("", partition).encode()))


SLOT = slot_of(0)


class Cluster:
    """Three primaries, each with one replica or none."""

    def __init__(self, directory: Path, *options: str, replicas: int = PRIMARIES) -> None:
        directory.mkdir(exist_ok=True)
        options = (
            *options,
            "--cluster-enabled", "yes", "--cluster-node-timeout", NODE_TIMEOUT,
            "--cluster-config-file", "nodes.conf", "--repl-diskless-sync-delay", "0",
        )  # fmt: skip
        ports = [port for port in free_ports(40) if _is_free(port + BUS)][: PRIMARIES + replicas]
        self.servers = {port: self.make(directory / str(port), port, *options) for port in ports}
        seeds = ",".join(f"127.0.0.1:{port}" for port in ports[:PRIMARIES])
        self.url = f"redis+cluster://{seeds}"

    def make(self, directory: Path, port: int, *options: str) -> Server:
        """Make a server; it is started later."""
        return Server(directory, port, *options)

    def start(self) -> None:
        """Start all of them, and wait until each knows what the others serve."""
        for server in self.servers.values():
            server.start()
        primaries, replicas = [*self.servers][:PRIMARIES], [*self.servers][PRIMARIES:]
        for n, port in enumerate(primaries):
            first, last = SLOTS * n // PRIMARIES, SLOTS * (n + 1) // PRIMARIES - 1
            ask(port, "CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
        for n, port in enumerate(self.servers, 1):
            ask(port, "CLUSTER", "SET-CONFIG-EPOCH", str(n))
            if port != primaries[0]:
                ask(port, "CLUSTER", "MEET", "127.0.0.1", str(primaries[0]))
        for port in self.servers:
            until(partial(self._knows, port, len(self.servers)))
        for primary, replica in zip(primaries, replicas, strict=False):
            until(partial(ask, replica, "CLUSTER", "REPLICATE", self.name(primary)))
        for port in replicas:
            until(self.servers[port].follows)
        for port in self.servers:
            until(partial(self._is_ok, port))

    def name(self, port: int) -> str:
        """Give the name of a node."""
        return str(ask(port, "CLUSTER", "MYID").decode())

    def holder(self, of: int | None = None, *, slot: str = SLOT) -> Server:
        """Give the server that holds a slot, as a living one (or this one) says."""
        for port in [of] if of is not None else self.servers:
            try:
                slots = ask(port, "CLUSTER", "SLOTS")
            except redis.RedisError:
                continue
            for first, last, (_, place, *_), *_ in slots:
                if first <= int(slot) <= last:
                    return self.servers[place]
        raise AssertionError("nobody holds the slot")

    def others(self, *, slot: str = SLOT) -> list[Server]:
        """Give the primaries that hold other slots."""
        holder = self.holder(slot=slot)
        alive = [each for each in self.servers.values() if each is not holder]
        return [each for each in alive if each.replication()["role"] == "master"]

    def replica_of(self, primary: Server) -> Server:
        """Give the replica of a primary."""
        for each in self.servers.values():
            if each.replication().get("master_port") == str(primary.port):
                return each
        raise AssertionError("it has no replica")

    def move_keys(self, source: Server, target: Server, *, slot: str = SLOT) -> int:
        """Move what is there of a slot, key by key; the slot is on its way before and after."""
        moved = 0
        while keys := ask(source.port, "CLUSTER", "GETKEYSINSLOT", slot, "10"):
            names = [key.decode() for key in keys]
            place = ("127.0.0.1", str(target.port_for_nodes))
            ask(source.port, "MIGRATE", *place, "", "0", "5000", "KEYS", *names)
            moved += len(names)
        return moved

    def begin_move(self, source: Server, target: Server, *, slot: str = SLOT) -> None:
        """Let a slot be on its way."""
        ask(target.port, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.name(source.port))
        ask(source.port, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.name(target.port))

    def end_move(self, source: Server, target: Server, *, slot: str = SLOT) -> None:
        """Say that it has arrived."""
        for each in (target, source, *self.others(slot=slot)):
            ask(each.port, "CLUSTER", "SETSLOT", slot, "NODE", self.name(target.port))

    def empty(self) -> None:
        """Forget all data, and none of the scripts."""
        for server in self.servers.values():
            server.empty()

    def stop(self) -> None:
        """End all of them."""
        for server in self.servers.values():
            server.stop()

    def _knows(self, port: int, count: int) -> bool:
        nodes = ask(port, "CLUSTER", "NODES").decode().splitlines()
        return len(nodes) == count and not any("handshake" in node for node in nodes)

    def _is_ok(self, port: int) -> bool:
        nodes = ask(port, "CLUSTER", "NODES").decode()
        state = ask(port, "CLUSTER", "INFO").decode()
        return "cluster_state:ok" in state and nodes.count("slave") == len(self.servers) - PRIMARIES


def _is_free(port: int) -> bool:
    """Tell whether nobody listens on a port."""
    with socket.socket() as tried:
        try:
            tried.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True


@contextmanager
def cluster(directory: Path, *options: str, replicas: int = PRIMARIES) -> Generator[Cluster]:
    """Run a cluster, whose servers have these options."""
    found = Cluster(directory, *options, replicas=replicas)
    try:
        found.start()
        yield found
    finally:
        found.stop()
