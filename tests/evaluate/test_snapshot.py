"""Hosts agree on the units to measure, despite files of earlier evaluations and late hosts."""

import concurrent.futures
import itertools
import threading
import time

import jax
import pytest

from cfx_jax.evaluate._snapshot import Snapshot
from cfx_jax.runs import cluster
from cfx_jax.runs.preemption import StopRequest

_sleep = time.sleep
EARLIER = {
    "none": {},
    "finished": {"snapshot.json": '{"mark": "old", "units": [7]}', "finished-0": "old",
                 "finished-1": "old", "finished-2": "old"},
    "finished by one host alone": {"snapshot.json": '{"mark": "old", "units": [7]}',
                                   "finished-0": "old"},
    "cut off": {"snapshot.json": '{"mark": "old", "units": [7]}', "finished-1": "old"},
}  # fmt: skip


@pytest.fixture
def hosts(monkeypatch):
    """Runs a function in three threads, each of which the code takes for a host."""
    this = threading.local()
    monkeypatch.setattr(jax, "process_index", lambda: this.host)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(cluster.time, "sleep", lambda seconds: _sleep(0.002))

    def run(function):
        def work(host):
            this.host = host
            return function(host)

        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            return [future.result() for future in [pool.submit(work, host) for host in range(3)]]

    return run


@pytest.fixture
def in_time():
    """A stop request after 20 seconds, which ends a test that would wait for ever."""
    stop = StopRequest()
    timer = threading.Timer(20.0, setattr, (stop, "deadline", 0.0))
    timer.start()
    yield stop
    timer.cancel()


@pytest.mark.parametrize("late", list(itertools.permutations([0.0, 0.02, 0.04])))
@pytest.mark.parametrize("earlier", EARLIER)
def test_snapshot_shares_the_view_of_the_first_host(earlier, late, hosts, in_time, tmp_path):
    for name, content in EARLIER[earlier].items():
        (tmp_path / name).write_text(content)
    measured = [set() for _ in range(3)]

    def evaluate(host):
        _sleep(late[host])
        snapshot = Snapshot(tmp_path)
        for units in snapshot.share(range(4 + host), in_time):
            measured[host].update(units)
        if host == 0:
            assert all(units >= set(range(4)) for units in measured)
        snapshot.finish()

    hosts(evaluate)
    assert measured[0] == set(range(4))
    # Host 2 did not finish the snapshot that was cut off: it may or may not measure it again.
    assert all(units - {7} == set(range(4)) for units in measured)
    assert 7 not in measured[1]
