"""Agrees on the units that the hosts of an evaluation measure; the first host decides.

Runs may continue while they are measured. If each host decided alone, a host could wait forever for
units that no other host has seen, so the hosts agree through two kinds of files:

    snapshot.json   units that were ready on the first host, and a mark; new for each evaluation
    finished-H      mark of the last snapshot of which host H has measured all its own units

The first host finishes last. A snapshot belongs to an earlier evaluation if the first host has
finished it, or if this host had finished it before it was started. In both cases the first host
will write a new snapshot.
"""

import json
import os
import uuid
from collections.abc import Iterator, Sequence

import jax

from cfx_jax.records import Storage
from cfx_jax.runs import StopRequest, cluster


class Snapshot:
    """The snapshot of an evaluation on one of its hosts.

    Example:
        snapshot = Snapshot(folder)
        for units in snapshot.share(seen, stop):
            ...  # Measure those of this host.
        if cluster.is_first():
            ...  # All hosts have measured all units.
        snapshot.finish()
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Opens the folder that hosts share; nothing is read or written yet."""
        self._storage = Storage(folder)
        self._host, self._num_hosts = jax.process_index(), jax.process_count()
        self._mark = ""

    def share(self, seen: Sequence[int], stop: StopRequest) -> Iterator[Sequence[int]]:
        """Waits for the other hosts, before and after units are measured.

        Args:
            seen: units that this host can measure; only the units of the first host count.
            stop: stop request, checked while waiting.

        Yields:
            Units to measure. The first host gets `seen`, once. The others get the units of a
            snapshot, usually once, and again if the first snapshot belonged to an interrupted
            evaluation.

        Raises:
            StoppedError: the evaluation was requested to stop.
        """
        if self._host == 0:
            self._mark = uuid.uuid4().hex
            content = {"mark": self._mark, "units": list(seen)}
            self._storage.write("snapshot.json", json.dumps(content).encode())
            yield seen
            for _ in cluster.poll(stop):
                if all(self._finished(host) == self._mark for host in range(1, self._num_hosts)):
                    return
        earlier = self._finished(self._host)
        for _ in cluster.poll(stop):
            closed = self._finished(0)
            if self._mark and self._mark == closed:
                return
            content = json.loads(self._storage.read("snapshot.json") or b"{}")
            if content and content["mark"] not in (earlier, closed, self._mark):
                self._mark = content["mark"]
                yield content["units"]
                self.finish()

    def finish(self) -> None:
        """Signals to the other hosts that this host has measured the units of the last snapshot."""
        self._storage.write(f"finished-{self._host}", self._mark.encode())

    def _finished(self, host: int) -> str:
        return (self._storage.read(f"finished-{host}") or b"").decode()
