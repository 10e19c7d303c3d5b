"""Rendezvous of the processes of a run: a store with keys for every attempt, and the process group on top.

torchrun starts killed processes again with the same store, where the dead ones' addresses still stand, and
its count of restarts differs between machines. So rank 0 opens a new attempt, all others sign in with a token
that is theirs alone, and it is open once rank 0 has listed exactly these tokens.
"""

from __future__ import annotations

import json
import signal
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from core.strategies.launch import RankInfo

__all__ = ["TIMEOUT", "ProcessLost", "Rendezvous", "RunEnded", "announce", "rank_list"]

TIMEOUT = 1800.0
PAUSE = 0.05


class ProcessLost(Exception):
    """A process never came, hangs or is gone: one sentence that says which, for exit code 1."""


class RunEnded(Exception):
    """Another process ended the run and has said why; this one leaves with the same code, silently."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


class Rendezvous:
    """One process's side of the store.

    Raises:
        ProcessLost: If nobody serves the store in time.
    """

    def __init__(self, info: RankInfo, *, timeout: float = TIMEOUT) -> None:
        self.info, self.timeout = info, timeout
        self.began = time.monotonic()
        self.root = dist.PrefixStore(f"dfm/{info.run}", self.store(serve=info.serves))
        self.here: dist.Store | None = None  # the keys of this attempt, once it is known
        self.attempt = 0
        self._lock, self._acknowledged = threading.Lock(), False

    def store(self, *, serve: bool = False) -> dist.Store:
        """Return a connection to the store; every thread needs its own, as one waits for its answers."""
        info = self.info
        try:
            return dist.TCPStore(
                info.address,
                info.port,
                info.world,
                is_master=serve,
                timeout=timedelta(seconds=self.timeout),
                wait_for_workers=False,
                multi_tenant=serve,
            )
        except RuntimeError as error:
            raise ProcessLost(
                f"rank {info.rank} of {info.world} waited {self.timeout:g} s in vain for the first process"
                f" at {info.address}:{info.port}; check that it runs, that this is its address and"
                " that the port is free"
            ) from error

    def gather(self) -> None:
        """Wait until all processes of this attempt are here.

        Raises:
            ProcessLost: If some do not come in time; it names those that came.
            RunEnded: If one of them has ended the run already.
        """
        token = uuid.uuid4().hex
        self.root.set(f"came/{self.info.restarts}/{self.info.rank}", token)
        if self.info.rank == 0:
            self._lead(token)
        else:
            self._follow(token)

    def share(self, name: str, decide: Callable[[], Any]) -> Any:
        """Return what rank 0 decides, in plain JSON; the others wait for it.

        Raises:
            RunEnded: If rank 0 could not decide.
            ProcessLost: If it does not in time.
        """
        assert self.here is not None
        if self.info.rank == 0:
            value = decide()
            self.here.set(name, json.dumps(value))
            return value
        self.began = time.monotonic()
        while not self.here.check([name]):
            self._pause(f"rank 0 has not decided on the {name}")
        return json.loads(self.here.get(name))

    def connect(self, backend: str, *, timeout: float) -> None:
        """Make torch's default process group over this attempt's own keys; Lightning then makes none."""
        assert self.here is not None
        if dist.is_initialized():
            return
        dist.init_process_group(
            backend,
            store=dist.PrefixStore(f"group/{self.attempt}", self.root),
            rank=self.info.rank,
            world_size=self.info.world,
            timeout=timedelta(seconds=timeout),
        )

    def end(self, code: int, text: str, *, store: dist.Store | None = None) -> bool:
        """End the run for all, and tell whether this process is the first to do so, which is to say why.

        A user's mistake (code 2) ends later attempts too: it would only come again.
        """
        keys = self._keys_of(code, store)
        if keys is None or self.ended(store=store) is not None:
            return False
        if keys.add("ends", 1) > 1:
            return False
        keys.set("end", json.dumps({"code": code, "text": text}))
        return True

    def ended(self, *, wait: float = 0.0, store: dist.Store | None = None) -> RunEnded | None:
        """Return how the run was ended, if it was; look again for `wait` seconds."""
        until = time.monotonic() + wait
        while True:
            for keys in filter(None, (self._keys_of(2, store), self._keys_of(1, store))):
                if keys.check(["end"]):
                    return RunEnded(**json.loads(keys.get("end")))
            if time.monotonic() >= until:
                return None
            time.sleep(PAUSE)

    def acknowledge(self, *, store: dist.Store | None = None) -> None:
        """Say, once, that this process knows of the end."""
        with self._lock:
            if not self._acknowledged:
                self._acknowledged = True
                root = self.root if store is None else dist.PrefixStore(f"dfm/{self.info.run}", store)
                root.add(f"told/{self.attempt}", 1)

    def told(self, *, wait: float) -> None:
        """Wait until all processes know of the end, where leaving earlier harms: torchrun kills the rest at
        the first that leaves, and who serves the store takes it along.
        """
        self.acknowledge()
        if self.info.launcher != "torchrun" and not self.info.serves:
            return
        until = time.monotonic() + wait
        while self.root.add(f"told/{self.attempt}", 0) < self.info.world and time.monotonic() < until:
            time.sleep(PAUSE)

    def keys(self, store: dist.Store) -> dist.Store:
        """Return this attempt's keys over another connection."""
        return dist.PrefixStore(f"dfm/{self.info.run}/{self.attempt}", store)

    def _keys_of(self, code: int, store: dist.Store | None) -> dist.Store | None:
        if code == 2:
            root = self.root if store is None else dist.PrefixStore(f"dfm/{self.info.run}", store)
            return dist.PrefixStore("mistake", root)
        return self.here if store is None or self.here is None else self.keys(store)

    def _open(self, attempt: int) -> dist.Store:
        self.attempt = attempt
        self.here = dist.PrefixStore(str(attempt), self.root)
        return self.here

    def _lead(self, token: str) -> None:
        here = self._open(self.root.add("attempts", 1))
        here.set("here/0", token)
        names = [f"here/{rank}" for rank in range(self.info.world)]
        while not here.check(names):
            self._pause(names=names)
        tokens = [here.get(name).decode() for name in names]
        here.set("open", json.dumps(tokens))

    def _follow(self, token: str) -> None:
        rank, latest = self.info.rank, 0
        names = [f"came/{self.info.restarts}/{other}" for other in range(self.info.world)]
        while True:
            attempt = self.root.add("attempts", 0)
            if attempt != latest:
                latest, here = attempt, self._open(attempt)
                if here.check(["open"]) or here.check(["end"]):
                    self.here = None  # an earlier attempt, and how it ended is no business of this one
                else:
                    here.set(f"here/{rank}", token)
            if self.here is not None and self.here.check(["open"]):
                tokens = json.loads(self.here.get("open"))
                if rank < len(tokens) and tokens[rank] == token:
                    return
            self._pause(names=names)

    def _pause(self, why: str = "", *, names: Sequence[str] = ()) -> None:
        """Wait a moment; leave if the run has ended or the time is over."""
        end = self.ended()
        if end is not None:
            raise end
        if time.monotonic() - self.began > self.timeout:
            keys = self.here if names and names[0].startswith("here") else self.root
            assert keys is not None
            came = [rank for rank, name in enumerate(names) if keys.check([name])]
            missing = [rank for rank in range(self.info.world) if rank not in came]
            why = why or (
                f"only {rank_list(came)} of {self.info.world} came, not {rank_list(missing)};"
                " see what those say, and that every machine starts the same number of processes"
            )
            raise ProcessLost(f"after {self.timeout:g} s {why}")
        time.sleep(PAUSE)


def rank_list(ranks: Sequence[int]) -> str:
    """Return `rank 3`, `ranks 0, 2 and 5`, or, for many, the first of them and their number."""
    if not ranks:
        return "no rank"
    shown = [str(rank) for rank in ranks[:8]]
    if len(ranks) > 8:
        return f"{len(ranks)} ranks ({', '.join(shown)}, …)"
    return f"rank {shown[0]}" if len(shown) == 1 else f"ranks {', '.join(shown[:-1])} and {shown[-1]}"


def announce(info: RankInfo, mistake: str, *, timeout: float = 60.0) -> bool:
    """End the run for a user's mistake that was found before the processes met, and tell whether this process
    is to say it: the first that finds one is.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun ends all at the first that leaves
    try:
        rendezvous = Rendezvous(info, timeout=timeout)
        speaks = rendezvous.end(2, mistake)
        rendezvous.told(wait=30.0)
    except (ProcessLost, RuntimeError):
        return True
    return speaks
