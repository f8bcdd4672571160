"""Joining other processes: what flags mean, and what does not fit together."""

import dataclasses
import json
import types

import jax
import pytest

import cfx_jax
from cfx_jax.config import ConfigError
from cfx_jax.runs import cluster


@pytest.fixture
def joined(monkeypatch):
    """Lets JAX believe it; returns what it was asked for, and a function that sets the flags."""
    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *arguments: asked.append(arguments))

    def give(distributed=False, coordinator_address=None, num_processes=None, process_id=None):
        given = {
            "distributed": distributed, "coordinator_address": coordinator_address,
            "num_processes": num_processes, "process_id": process_id,
        }  # fmt: skip
        values = types.SimpleNamespace(flag_values_dict=lambda: given)
        monkeypatch.setattr(cluster.flags, "FLAGS", values)
        cluster.join()
        return asked

    preemption_service = jax.config.jax_enable_preemption_service
    yield give
    jax.config.update("jax_enable_preemption_service", preemption_service)


def test_without_flags_a_process_is_alone(joined):
    assert joined() == []


def test_slices_and_slurm_are_found_by_jax(joined):
    assert joined(distributed=True) == [(None, None, None)]


@pytest.mark.parametrize("distributed", [False, True])
def test_plain_machines_name_their_coordinator(joined, distributed):
    assert joined(distributed, "host:1234", 4, 3) == [("host:1234", 4, 3)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"coordinator_address": "host:1234"}, "go together"),
        ({"num_processes": 2, "process_id": 0}, "go together"),
        ({"coordinator_address": "host:1", "num_processes": 2, "process_id": 2}, "expected 0 to 1"),
        *(
            ({"coordinator_address": address, "num_processes": 2, "process_id": 0}, "HOST:PORT")
            for address in ("host", "host:", ":1", "host:port", "http://host")
        ),
    ],
)
def test_flags_that_do_not_fit_together_are_refused(joined, given, message):
    with pytest.raises(ConfigError, match=message):
        joined(**given)


def test_others_that_do_not_answer_are_named(joined, monkeypatch):
    def fail(*_):
        raise RuntimeError("deadline exceeded")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(ConfigError, match=r"cannot join the other processes \(deadline exceeded\)"):
        joined(coordinator_address="host:1234", num_processes=2, process_id=1)


def test_a_model_on_the_host_keeps_to_one_device(caplog):
    classifier = cfx_jax.Classifier(params=(), apply=lambda params, images: images)
    assert cluster.devices_for(classifier) == jax.local_devices()
    assert not caplog.records
    on_host = dataclasses.replace(classifier, host_weights="5e3a", name="own")
    assert cluster.devices_for(on_host) == jax.local_devices()[:1]
    assert "own runs on the host: one of 8 devices is used" in caplog.text


def test_a_manifest_keeps_where_it_ran():
    found = cluster.environment()
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["cfx_jax"] == cfx_jax.__version__
    assert found["versions"]["jax"] == jax.__version__
    assert len(found["devices"]) == jax.local_device_count()


@pytest.mark.parametrize("code", [0, 2])
def test_a_process_that_is_alone_leaves_as_any_other(code):
    with pytest.raises(SystemExit) as ended:
        cluster.leave(code)
    assert ended.value.code == code
