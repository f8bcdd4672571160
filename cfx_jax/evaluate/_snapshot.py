"""Which units the hosts of an evaluation measure: the first host decides for all of them.

Runs may continue while they are measured. Hosts that each decided for themselves could wait forever
for units that no other host has seen, so they agree through two kinds of files:

    snapshot.json   units that the first host saw, and a mark: written anew by each evaluation
    finished-H      the mark of the last snapshot of which host H has measured all that is its own

The first host finishes last. A snapshot that it has finished, or that this host finished before it
was started, is of an earlier evaluation: the first host will write another one.
"""

import json
import os
import uuid
from collections.abc import Iterator, Sequence

import jax

from cfx_jax.records import Storage
from cfx_jax.runs import StopRequest, cluster


class Snapshot:
    """The side of one host; every host of an evaluation has one.

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
            seen: units that can be measured, as this host sees it; only those of the first count.
            stop: stop request, checked while waiting.

        Yields:
            Units to measure: on the first host `seen`, once; on the others those of a snapshot,
            mostly once, and again where the first one was that of an evaluation cut off earlier.

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
        """Tells the other hosts that this one is done with the units it was given last."""
        self._storage.write(f"finished-{self._host}", self._mark.encode())

    def _finished(self, host: int) -> str:
        return (self._storage.read(f"finished-{host}") or b"").decode()
