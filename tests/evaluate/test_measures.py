"""The measurements stored per image, of maps with known numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cfx_jax.baselines import METHODS
from cfx_jax.config import Config, ExplainConfig, ReportConfig
from cfx_jax.data.loader import Examples
from cfx_jax.evaluate._maps import SHARES
from cfx_jax.evaluate.measures import Baseline, EvaluationUnit, Joint, Learnt, Reference
from cfx_jax.evaluate.scoring import Scorer
from cfx_jax.records import RecordWriter, encode_ids
from cfx_jax.runs.explanations import Explanations, make_fields
from cfx_jax.runs.jobs import Images

SIZE, STEPS = 32, 4
BOX = np.array([[8.0, 4.0, 24.0, 16.0]])
EVIDENCE = np.zeros((SIZE, SIZE, 3), np.float32)
EVIDENCE[4:16, 8:24] = 0.01


def box_map(sign):
    """A method whose map is the true box, or all but the true box."""
    inside = np.zeros((SIZE, SIZE), np.float32)
    inside[4:16, 8:24] = sign
    return lambda case: jnp.asarray(inside)


@pytest.fixture
def make_scorer(linear_classifier, fill_half):
    """Makes a scorer whose classifier has all evidence in the box, and transfer classifiers."""
    black = fill_half.replace(params=jnp.asarray(0.0))

    def make(*other_weights):
        classifier, *others = (linear_classifier(w) for w in (EVIDENCE, *other_weights))
        return Scorer(jax.random.key(0), classifier, (black,), black, STEPS, 1, others)

    return make


@pytest.fixture
def scorer(make_scorer):
    return make_scorer()


@pytest.fixture
def unit(scorer):
    """Two white images; only the first has a box."""
    pixels = np.full((2, SIZE, SIZE, 3), 255, np.uint8)
    images = Images(pixels, jnp.ones(2, jnp.int32), jnp.arange(2, dtype=jnp.uint32))
    examples = Examples(
        unit=0, ids=["a", "b"], labels=np.ones(2, int), targets=np.ones(2, int),
        digests=np.ones(2, np.uint64), readable=np.arange(2), pixels=pixels, problems=[],
    )  # fmt: skip
    return EvaluationUnit(
        examples, range(2), images, scorer.classify(images), [BOX, np.zeros((0, 4))]
    )


@pytest.mark.parametrize(("sign", "error"), [(1.0, 0.0), (-1.0, 1.0)])
def test_measure_of_a_perfect_map_and_its_opposite(sign, error, scorer, unit, monkeypatch):
    monkeypatch.setitem(METHODS, "known", box_map(sign))
    found = Baseline("known", "black", 0).measure(unit, scorer)
    assert set(found) == {field.name for field in Baseline("known", "black", 0).fields(scorer)}
    np.testing.assert_array_equal(found["error"], [error, np.nan])
    # Blurring keeps the edge at half of its height; the mean of a small box is lower.
    half = SHARES.index(0.5)
    np.testing.assert_array_equal(found["smooth_found"][:, half], [1 - error, np.nan])
    np.testing.assert_array_equal(found["smooth_error"], [1.0, np.nan])
    np.testing.assert_array_equal(found["pointing"], [1 - error, np.nan])
    np.testing.assert_array_equal(found["half_error"], [error, np.nan])
    np.testing.assert_array_equal(found["parts"], [1.0, 1.0])
    np.testing.assert_array_equal(found["box_share"], [1 - error, np.nan])
    np.testing.assert_allclose(found["f1"][0], 1.0 if sign > 0 else 0.0, atol=1e-6)
    if sign > 0:
        np.testing.assert_array_equal(found["box"][0], BOX[0])
        np.testing.assert_array_equal(found["found"][0], np.ones(len(SHARES)))
    # A quarter of the pixels has all evidence: the first step of a deletion removes it.
    deletion, insertion = (found[name][0, 0] for name in ("deletion", "insertion"))
    whole, none = jax.nn.sigmoid(0.01 * 12 * 16 * 3), 0.5
    expected = [whole] + [none] * STEPS if sign > 0 else [*[whole] * STEPS, none]
    np.testing.assert_allclose(deletion, expected, atol=1e-4)
    expected = [none] + [whole] * STEPS if sign > 0 else [*[none] * STEPS, whole]
    np.testing.assert_allclose(insertion, expected, atol=1e-4)


def test_reference_measures_the_control_boxes_of_each_image(scorer, unit):
    found = Reference().measure(unit, scorer)
    np.testing.assert_array_equal(found["whole_error"], [1.0, np.nan])
    np.testing.assert_array_equal(found["num_boxes"], [1, 0])
    np.testing.assert_array_equal(found["is_small"], [True, False])
    assert np.isfinite(found["truth_crop"][0])
    assert np.isnan(found["truth_crop"][1])
    assert set(found) <= {field.name for field in Reference().fields(scorer)}


def learn(folder, unit, objective, logits, **settings):
    """Writes a run of the two images of a unit with known cells."""
    explain = ExplainConfig(
        objective, mode="fast", mask_size=logits.shape[1], num_steps=1, **settings
    )
    config = Config(explain=explain, report=ReportConfig(save_images=False))
    fields = make_fields(config, unit.examples.ids, (SIZE, SIZE))
    values = {field.name: np.zeros((2, *field.shape), field.dtype) for field in fields}
    values |= {"id": encode_ids(unit.examples.ids, 1), f"{objective}_mask_logits": logits}
    manifest = {
        "objectives": [objective],
        "status_names": ["ok"],
        "settings": dataclasses.asdict(explain.settings()) | {"relaxation": "concrete"},
    }
    RecordWriter(folder, manifest, fields, 2, unit_size=2).write_unit(0, values)
    return Learnt("run", Explanations(folder), objective)


@pytest.mark.parametrize("objective", ["ssr", "sdr"])
def test_measure_cuts_a_learnt_region_at_one_half(objective, tmp_path, make_scorer, unit):
    """The true box and one other pixel: SSR keeps them, SDR drops them."""
    important = np.full((2, SIZE, SIZE), -20.0, np.float16)
    important[:, 4:16, 8:24] = important[:, 30, 30] = 20.0
    logits = important if objective == "ssr" else -important
    below = np.zeros((SIZE, SIZE, 3), np.float32)
    below[20:28] = 0.01
    blind = -1 - below
    scorer = make_scorer(EVIDENCE, below, blind)
    part = learn(tmp_path, unit, objective, logits)
    found = part.measure(unit, scorer)
    assert set(found) == {field.name for field in part.fields(scorer)}
    np.testing.assert_array_equal(found["half_error"], [0.0, np.nan])
    np.testing.assert_array_equal(found["parts"], [2.0, 2.0])
    np.testing.assert_allclose(found["box_share"], [192 / 193, np.nan], atol=1e-5)
    # The classifier uses the box only; another one the area below it; the third is never right.
    np.testing.assert_array_equal(found["region_success"], [1.0, 1.0])
    expected = [[1.0, 0.0, np.nan]] * 2
    np.testing.assert_array_equal(found["classifier_transfer_region_success"], expected)
    np.testing.assert_array_equal(found["classifier_transfer_success_rate"], expected)


def test_measure_entropy_between_decided_cells_is_positive(tmp_path, scorer, unit):
    logits = np.full((2, 2, 2), 20.0, np.float16)
    logits[:, :, 1] = -20.0
    found = learn(tmp_path, unit, "ssr", logits).measure(unit, scorer)
    np.testing.assert_allclose(found["entropy"], 0.0, atol=1e-6)
    keep = np.linspace(1.0, 0.0, SIZE)
    expected = np.mean([stats.entropy([p, 1 - p], base=2) for p in keep])
    np.testing.assert_allclose(found["pixel_entropy"], expected, rtol=1e-5)
    assert "classifier_transfer_region_success" not in found


@pytest.mark.parametrize("block_size", [1, SIZE])
def test_measure_evaluates_a_block_mask_in_blocks(block_size, tmp_path, scorer, unit):
    logits = np.zeros((2, 4, 4), np.float16)
    logits[:, 3, 0] = 8.0
    found = learn(tmp_path, unit, "ssr", logits, block_size=block_size).measure(unit, scorer)
    # Independent draws never drop all 192 pixels of the box, draws of whole blocks do.
    assert (found["infill_transfer_success_rate"] == 1).all() == (block_size == 1)
    steepest = np.abs(np.diff(found["map"], axis=1)).max()
    assert (steepest > 0.1) == (block_size == 1)


@pytest.mark.parametrize("sharpened", [{}, {"sharpness": 3.0, "success_target": 0.9}])
def test_measure_joint_map_is_the_region_of_both_objectives(sharpened, tmp_path, scorer, unit):
    """SSR keeps the true box and a pixel, SDR drops the box alone; sharpened or as learnt."""
    kept = np.full((2, SIZE, SIZE), -20.0, np.float16)
    kept[:, 4:16, 8:24] = 20.0
    dropped = -kept
    kept[:, 30, 30] = 20.0
    ssr = learn(tmp_path / "ssr", unit, "ssr", kept, **sharpened)
    sdr = learn(tmp_path / "sdr", unit, "sdr", dropped, **sharpened)
    found = Joint(ssr, sdr).measure(unit, scorer)
    np.testing.assert_array_equal(found["half_error"], [0.0, np.nan])
    np.testing.assert_array_equal(found["parts"], [1.0, 1.0])
