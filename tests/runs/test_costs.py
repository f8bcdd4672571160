"""The line with the cost of a run."""

import dataclasses

import jax
import numpy as np
import pytest

import cfx_jax
from cfx_jax.config import BatchConfig, Config, DataConfig, ExplainConfig, GeneratorConfig
from cfx_jax.fido.settings import get_settings
from cfx_jax.records import Cost, Costs, Storage
from cfx_jax.runs.checking import describe_progress
from cfx_jax.runs.costs import describe_cost
from cfx_jax.runs.explanations import Explanations

SETTINGS = dataclasses.asdict(get_settings("fast", num_steps=60, num_samples=4)) | {
    "relaxation": "concrete"
}
# Units of two, two and one example.
ALL = {0: Cost(2.0, 2, 1), 1: Cost(1.5, 2, 1), 2: Cost(0.5, 2, 1)}


@pytest.mark.parametrize(
    ("settings", "explain", "costs", "line"),
    [
        # Two objectives, each with 10 search steps: of 8 masks without a reserve, of 4 with one.
        ({"success_target": 0.9}, {}, ALL,
         "5 images, 1.2 images/s, 8 device-seconds, 640 evaluations per image"),
        ({"success_target": 0.9, "confidence": 1.0}, {}, ALL,
         "5 images, 1.2 images/s, 8 device-seconds, 560 evaluations per image"),
        ({}, {"top_classes": 3}, ALL,
         "5 examples, 1.2 examples/s, 8 device-seconds, 480 evaluations per example"),
        # Two processes at once, then one alone with more devices.
        ({}, {}, {0: Cost(4.0, 1, 2), 1: Cost(4.0, 1, 2), 2: Cost(6.0, 4, 1)},
         "5 images, 0.5 images/s, 32 device-seconds, 480 evaluations per image"),
        # Times of two units could not be written.
        ({}, {}, {2: Cost(2000.0, 1, 1)},
         "1 of 5 images, 0.0005 images/s, 2,000 device-seconds, 480 evaluations per image"),
        ({}, {}, {}, "480 evaluations per image"),
    ],
)  # fmt: skip
def test_describe_cost_of_a_run(make_run, settings, explain, costs, line):
    run = make_run(settings=SETTINGS | settings, config={"explain": explain})
    for unit, cost in costs.items():
        Costs(Storage(run), 3).write(unit, cost)
    assert describe_cost(Explanations(run)) == line
    lines = [text for text in describe_progress(run).splitlines() if text.startswith("cost: ")]
    assert lines == [f"cost: {line}"]


def test_describe_cost_ignores_units_left_by_a_kill(make_run):
    run = make_run(units=[2])
    Costs(Storage(run), 3).write(2, Cost(2.0, 1, 1))
    Costs(Storage(run), 3).write(1, Cost(9.0, 1, 1))
    line = describe_cost(Explanations(run))
    assert line.startswith("1 image, 0.5 images/s, 2 device-seconds, ")


def test_run_times_every_unit_once(tmp_path):
    classifier = cfx_jax.Classifier(
        params=jax.random.normal(jax.random.key(0), (3, 1000)),
        apply=lambda params, images: 9 * images.mean((1, 2)) @ params,
        image_size=(8, 8),
    )
    config = Config(
        data=DataConfig(),
        explain=ExplainConfig("ssr", mode="fast", num_steps=2, num_samples=1, mask_size=4),
        generator=GeneratorConfig("grey"),
        batch=BatchConfig(per_device_batch_size=1, unit_size=1),
    )
    cfx_jax.run(config, tmp_path, classifier=classifier)
    costs = Costs(Storage(tmp_path), 3).read()
    assert (costs[:, 0] > 0).all()
    assert costs[:, 1:].tolist() == [[jax.local_device_count(), 1]] * 3
    line = describe_cost(Explanations(tmp_path))
    assert line.startswith("3 images, ")
    assert line.endswith(" device-seconds, 2 evaluations per image")
    cfx_jax.run(config, tmp_path, classifier=classifier)
    np.testing.assert_array_equal(Costs(Storage(tmp_path), 3).read(), costs)
