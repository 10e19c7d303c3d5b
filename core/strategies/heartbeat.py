"""A thread that tells the others that this process lives, and ends it when the run is over elsewhere.

A process stuck in a collective operation cannot look for itself, and gloo's cannot be interrupted. They fail
once a peer is gone; where one only hangs, leaving is all that is left.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

import torch.distributed as dist

from core.strategies.rendezvous import Rendezvous

__all__ = ["Heartbeat"]

DONE = "done"


class Heartbeat(threading.Thread):
    """Beat in the store, watch the next rank's beat, and look whether the run was ended.

    Each process watches one other, so that the store's work grows with their number and not with its square.

    Args:
        rendezvous: Where the processes met.
        timeout: Seconds of silence after which a process counts as lost.
        grace: Seconds the main thread has to leave by itself once the run has ended.
        killed: Says which process that this one started has died, if one has.
        interval: Seconds between beats; None takes one second, and more where there are many processes.
    """

    def __init__(
        self,
        rendezvous: Rendezvous,
        *,
        timeout: float,
        grace: float = 15.0,
        killed: Callable[[], str | None] = lambda: None,
        interval: float | None = None,
    ) -> None:
        super().__init__(daemon=True, name="dfm-heartbeat")
        self.rendezvous, self.timeout, self.grace, self.killed = rendezvous, timeout, grace, killed
        self.interval = interval or min(30.0, max(1.0, rendezvous.info.world / 64))
        self.code: int | None = None  # how the run ended, once it has
        self._lock, self._leaving = threading.Lock(), threading.Event()
        self._answered = time.monotonic()
        self._store: dist.Store | None = None
        self._judge = threading.Thread(target=self._decide, daemon=True, name="dfm-judge")

    def start(self) -> None:
        """Start beating and judging."""
        super().start()
        self._judge.start()

    def stop(self) -> None:
        """Stop, and tell the watching neighbour not to wait for more beats."""
        self._leaving.set()
        self.join(timeout=2 * self.interval)

    def silent(self) -> list[int]:
        """Return the ranks whose beat has stopped; takes three intervals."""
        keys = self.rendezvous.keys(self.rendezvous.store())
        before = self._beats(keys)
        self._leaving.wait(3 * self.interval)
        after = self._beats(keys)
        own = self.rendezvous.info.rank
        return [r for r in before if r != own and before[r] == after[r] != DONE]

    def run(self) -> None:
        """Beat until stopped; a store that does not answer is the judge's business."""
        try:
            self._store = self.rendezvous.store()
            self._beat()
        except Exception:  # the store is gone, and nobody had ended the run
            if not self._leaving.is_set():
                self.orphaned()

    def orphaned(self) -> None:
        """Say that who serves the store is gone; no other process can be told, so each says it once."""
        who = "torchrun's agent" if self.rendezvous.info.launcher == "torchrun" else "rank 0"
        why = "left without a word: killed, or the machine is gone"
        self._over(1, f"{who} {why}; the run can go on with --ckpt_path last")

    def _beat(self) -> None:
        assert self._store is not None
        keys, info = self.rendezvous.keys(self._store), self.rendezvous.info
        following = (info.rank + 1) % info.world
        count, seen, since = 0, b"", time.monotonic()
        while not self._leaving.wait(self.interval):
            count += 1
            keys.set(f"beat/{info.rank}", str(count))
            self._answered = now = time.monotonic()
            if self.code is None:
                end = self.rendezvous.ended(store=self._store)
                if end is not None:
                    self.rendezvous.acknowledge(store=self._store)
                    self._over(end.code, None)
                    return  # the store may go now
                if (died := self.killed()) is not None:
                    self._say(died)
            name = f"beat/{following}"
            beat = keys.get(name) if keys.check([name]) else b""
            if beat != seen or beat == DONE.encode():
                seen, since = beat, now
            elif now - since > self.timeout and self.code is None:
                self._say(
                    f"rank {following} has given no sign of life for {self.timeout:g} s: it is stopped, hangs"
                    " or its machine is gone; the run can go on with --ckpt_path last"
                )
        keys.set(f"beat/{info.rank}", DONE)

    def _say(self, sentence: str) -> None:
        first = self.rendezvous.end(1, sentence, store=self._store)
        self._over(1, sentence if first else None)

    def _over(self, code: int, sentence: str | None) -> None:
        with self._lock:
            if self.code is not None:
                return
            self.code = code
        if sentence is not None:
            print(f"dfm: {sentence}", file=sys.stderr, flush=True)

    def _decide(self) -> None:
        """Leave the process if its main thread does not, or if the store is dead; needs no store."""
        since: float | None = None
        while not self._leaving.wait(self.interval / 2):
            now = time.monotonic()
            if self.code is None and now - self._answered > self.timeout + self.grace:
                self._over(
                    1,
                    f"the process that serves the store has not answered rank {self.rendezvous.info.rank}"
                    f" for {now - self._answered:.0f} s; the run can go on with --ckpt_path last",
                )
            if self.code is None:
                continue
            since = now if since is None else since
            if now - since > self.grace:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(self.code)

    def _beats(self, keys: dist.Store) -> dict[int, str]:
        beats = {}
        for rank in range(self.rendezvous.info.world):
            name = f"beat/{rank}"
            beats[rank] = keys.get(name).decode() if keys.check([name]) else ""
        return beats
