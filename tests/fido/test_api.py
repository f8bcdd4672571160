"""Explanations: known answers, keys from identity, statuses, errors, transformations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfx_jax
from cfx_jax import Status
from cfx_jax.fido.explanation import find_top, saliency
from cfx_jax.fido.masks import MaskLaw, Relaxation
from cfx_jax.fido.objective import SDR, SSR
from cfx_jax.fido.optimisation import init
from cfx_jax.fido.settings import get_settings

KEY = jax.random.key(0)
# Of the tests of the random classifier, which then share their programs.
SHORT = {"mask_size": 8, "num_steps": 10}


def linear_case(linear_classifier):
    """Random weights and image, 8 x 8; gain[i] = sum_c w_i (x_i - 1/2), the worth of pixel i."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(8, 8, 1)).astype(np.float32)
    image = rng.uniform(size=(8, 8, 1)).astype(np.float32)
    return linear_classifier(weights), jnp.asarray(image), (weights * (image - 0.5))[..., 0]


@pytest.mark.parametrize(("mode", "block_size"), [("fast", 1), ("paper", 1), ("fast", 3)])
@pytest.mark.parametrize("objective", ["ssr", "sdr"])
def test_explain_linear_classifier_has_the_known_answer(
    mode, block_size, objective, linear_classifier, fill_half
):
    """SSR keeps pixel i exactly where w_i (x_i - infill_i) > lambda; SDR drops it there."""
    classifier, image, gain = linear_case(linear_classifier)
    lam = 0.05
    e = cfx_jax.explain(
        KEY, classifier, fill_half, image[None], jnp.asarray([1]), objective=objective, mode=mode,
        mask_size=8, sparsity_weight=lam, num_steps=300, learning_rate=0.2, block_size=block_size,
    )  # fmt: skip
    clear = np.abs(gain - lam) > 0.02
    assert clear.sum() > 50
    kept = e.keep_prob[0] > 0.5
    important = kept if objective == "ssr" else ~kept
    np.testing.assert_array_equal(important[clear], (gain > lam)[clear])
    if block_size == 1:
        np.testing.assert_array_equal(e.saliency[0] > 0.5, important)


@pytest.mark.parametrize("objective", ["ssr", "sdr"])
def test_explain_bbmp_has_the_known_answer_within_bounds(objective, linear_classifier, fill_half):
    classifier, image, gain = linear_case(linear_classifier)
    e = cfx_jax.explain(
        KEY, classifier, fill_half, image[None], jnp.asarray([1]),
        objective=objective, mode="bbmp", mask_size=8, sparsity_weight=0.05,
    )  # fmt: skip
    clear = np.abs(gain - 0.05) > 0.01
    kept = gain > 0.05 if objective == "ssr" else gain < 0.05
    np.testing.assert_array_equal((e.keep_prob[0] > 0.5)[clear], kept[clear])
    assert float(e.keep_prob.min()) >= 0.0
    assert float(e.keep_prob.max()) <= 1.0


@pytest.mark.parametrize(("block_size", "succeeds"), [(1, False), (8, True)])
def test_explain_hard_masks_use_the_blocks_of_learning(block_size, succeeds, fill_half):
    """Every pixel is needed: independent draws per pixel never keep all of them."""
    classifier = cfx_jax.Classifier(
        params=(), apply=lambda _, x: jnp.stack([0 * x.mean((1, 2, 3)), x.min((1, 2, 3)) - 0.9], 1)
    )
    e = cfx_jax.explain(
        KEY, classifier, fill_half, jnp.ones((1, 8, 8, 1)), jnp.asarray([1]),
        mode="fast", mask_size=2, num_steps=1, num_samples=1, learning_rate=1e-6,
        initial_keep=0.5, block_size=block_size,
    )  # fmt: skip
    assert (e.success_rate[0] > 0) == succeeds


@pytest.mark.parametrize("direction", [SSR, SDR])
def test_saliency_averages_the_blocks_that_may_cover_a_pixel(direction):
    cells = np.random.default_rng(1).normal(size=(5, 7)).astype(np.float32)
    keep = 1 / (1 + np.exp(-cells.astype(np.float64)))
    expected = np.zeros_like(keep)
    for top, left in np.ndindex(3, 3):
        for y, x in np.ndindex(5, 7):
            in_block = np.ix_(
                (np.arange(5) + top) // 3 == (y + top) // 3,
                (np.arange(7) + left) // 3 == (x + left) // 3,
            )
            expected[y, x] += keep[in_block].mean() / 9
    law = MaskLaw(Relaxation.CONCRETE, block_size=3)
    found = saliency(jnp.asarray(cells), direction, (5, 7), law)
    np.testing.assert_allclose(found, expected if direction == SSR else 1 - expected, atol=1e-6)


def test_explanation_fields_have_the_documented_shapes_and_types(
    random_classifier, fill_half, images
):
    e = cfx_jax.explain(KEY, random_classifier, fill_half, images, objective="sdr", **SHORT)
    assert e.keep_prob.shape == (5, 8, 8)
    assert e.saliency.shape == (5, 16, 16)
    assert e.infilled.shape == images.shape
    assert e.trace.shape == (5, 10)
    for name in (
        "log_odds_original",
        "log_odds_infilled",
        "kept_area",
        "success_rate",
        "objective",
    ):
        assert getattr(e, name).shape == (5,), name
        assert getattr(e, name).dtype == jnp.float32, name
    for values in (e.keep_prob, e.saliency, e.kept_area, e.success_rate, e.infilled):
        assert float(values.min()) >= 0.0
        assert float(values.max()) <= 1.0
    np.testing.assert_array_equal(e.target, e.prediction)
    logits = random_classifier.apply(random_classifier.params, images)
    np.testing.assert_array_equal(e.prediction, np.argmax(logits, -1))


@pytest.mark.parametrize(
    ("meaning", "num_logits"), [("softmax", 8), ("softmax", 3), ("sigmoid", 8), ("sigmoid", 1)]
)
def test_find_top_lists_the_likeliest_classes_before_or_after(meaning, num_logits):
    """The class that replaces the explained one is included; the list may be shorter."""
    rng = np.random.default_rng(4)
    original, infilled = rng.normal(size=num_logits), rng.normal(size=(6, num_logits))

    def share(z):
        if meaning == "softmax":
            return np.exp(z) / np.exp(z).sum(-1, keepdims=True)
        yes = 1 / (1 + np.exp(-z))
        return np.concatenate([1 - yes, yes], -1) if num_logits == 1 else yes

    infilled[:, -1] += 9.0  # It hides nothing: rank 1 afterwards, whatever it was before.
    before, after = share(original), share(infilled).mean(0)
    expected = np.argsort(-np.maximum(before, after))[:5]
    classifier = cfx_jax.Classifier(params=(), apply=lambda _, x: x, logits=meaning)
    arguments = (jnp.asarray(array, jnp.float32) for array in (original, infilled))
    classes, found_before, found_after = find_top(*arguments, classifier)
    lacking = 5 - len(expected)
    np.testing.assert_array_equal(classes, [*expected, *[-1] * lacking])
    np.testing.assert_allclose(found_before, [*before[expected], *[0] * lacking], rtol=1e-5)
    np.testing.assert_allclose(found_after, [*after[expected], *[0] * lacking], rtol=1e-5)


def test_saliency_is_large_on_the_evidence_for_both_objectives(linear_classifier, fill_half):
    weights = np.zeros((16, 16, 3), np.float32)
    weights[4:8, 8:12] = 1.0
    classifier = linear_classifier(weights)
    # A corner speaks for the other class: 30 against 48 on the image, against 24 once in-filled.
    classifier = classifier.replace(params=classifier.params.at[:3, 0].set(10.0))
    images = jnp.ones((1, 16, 16, 3))
    both = cfx_jax.explain_both(
        KEY, classifier, fill_half, images, jnp.asarray([1]), mode="fast", mask_size=16
    )
    # In-filled alone it is the same class, 15 against 24.
    statuses = {"ssr": Status.INFILL_SUFFICES, "sdr": Status.OK}
    for objective, e in both.items():
        inside = np.asarray(e.saliency[0])[4:8, 8:12]
        assert inside.min() > 0.9
        assert (e.saliency[0] > 0.5).sum() == inside.size
        assert int(e.status[0]) == statuses[objective]


def test_explain_both_equals_two_calls(random_classifier, fill_half, images):
    arguments = (KEY, random_classifier, fill_half, images)
    both = cfx_jax.explain_both(*arguments, **SHORT)
    for objective, e in both.items():
        alone = cfx_jax.explain(*arguments, objective=objective, **SHORT)
        np.testing.assert_allclose(e.keep_prob, alone.keep_prob, atol=1e-5)


def test_explain_does_not_depend_on_batch_or_order(random_classifier, fill_half, images):
    run = functools.partial(
        cfx_jax.explain, KEY, random_classifier, fill_half, objective="sdr", **SHORT
    )
    batch = run(images).keep_prob
    order = np.asarray([3, 0, 4, 2, 1])
    np.testing.assert_allclose(run(images[order]).keep_prob, batch[order], atol=1e-4)
    np.testing.assert_allclose(run(images[2:3]).keep_prob, batch[2:3], atol=1e-4)
    assert float(jnp.abs(batch[0] - batch[1]).max()) > 0.01


@pytest.mark.parametrize(("mode", "fixed_noise"), [("fast", False), ("region", True)])
def test_explain_with_another_key_learns_other_masks_unless_the_noise_is_fixed(
    mode, fixed_noise, random_classifier, fill_half, images
):
    assert get_settings(mode).fixed_noise == fixed_noise
    run = functools.partial(
        cfx_jax.explain,
        classifier=random_classifier,
        generator=fill_half,
        images=images,
        mode=mode,
        **SHORT,
    )
    first, again, other = (run(jax.random.key(seed)).keep_prob for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (float(jnp.abs(first - other).max()) < 1e-6) == fixed_noise


def test_explain_status_describes_each_image(linear_classifier, fill_half):
    weights = np.zeros((8, 8, 1), np.float32)
    weights[2:4, 2:4] = 1.0
    classifier, black_fill = linear_classifier(weights), fill_half.replace(params=jnp.zeros(()))
    white, black = jnp.ones((8, 8, 1)), jnp.zeros((8, 8, 1))
    broken = white.at[0, 0, 0].set(jnp.nan)
    images = jnp.stack([white, black, broken])
    explain = functools.partial(
        cfx_jax.explain, KEY, classifier, black_fill, mode="fast", mask_size=8, num_steps=120
    )
    e = explain(images, jnp.asarray([1, 1, 1]))
    assert [Status(s) for s in e.status] == [Status.OK, Status.MISCLASSIFIED, Status.NON_FINITE]
    assert (e.top_classes[:2, 0] >= 0).all()
    assert (e.top_classes[2] == -1).all(), "nothing is claimed of what is not finite"
    assert np.isnan(e.saliency[2]).all()
    assert np.isfinite(e.saliency[:2]).all()
    # The same program: what is not finite changes no other image.
    without = explain(jnp.stack([white, black, black]), jnp.asarray([1, 1, 1]))
    np.testing.assert_allclose(without.saliency[0], e.saliency[0], atol=1e-5)


def total_and_threshold(threshold, images):
    total = images.sum((1, 2, 3))
    return jnp.stack([jnp.full_like(total, threshold), total], axis=-1)


@pytest.mark.parametrize(
    ("fill", "objective", "status"),
    [
        # The image is of class 1 for its bright half; so is one that is bright everywhere.
        (0.0, "ssr", Status.OK),
        (1.0, "ssr", Status.INFILL_SUFFICES),
        (0.0, "sdr", Status.OK),
        (1.0, "sdr", Status.NOT_FLIPPED),
    ],
)
def test_explain_status_shows_that_the_infill_alone_suffices(fill, objective, status, fill_half):
    def apply(params, images):
        total = 20.0 * images.mean((1, 2, 3))
        return jnp.stack([jnp.full_like(total, 6.0), total], axis=1)

    classifier = cfx_jax.Classifier(params=(), apply=apply)
    e = cfx_jax.explain(
        KEY, classifier, fill_half.replace(params=jnp.asarray(fill)),
        jnp.zeros((1, 8, 8, 1)).at[:, :4].set(1.0), jnp.asarray([1]), objective=objective,
        mode="fast", sparsity_weight=0.1, num_steps=60, mask_size=8,
    )  # fmt: skip
    assert Status(int(e.status[0])) == status
    if status == Status.INFILL_SUFFICES:
        assert e.kept_area[0] < 0.1
        assert e.success_rate[0] == 1.0


@pytest.mark.parametrize(
    ("objective", "status"), [("ssr", Status.NOT_PRESERVED), ("sdr", Status.NOT_FLIPPED)]
)
def test_explain_status_shows_that_no_mask_reaches_the_goal(objective, status, fill_half):
    """A pixel costs more than any evidence is worth: SSR keeps nothing, SDR drops nothing."""
    # 32.64 on the image, 32 once all is in-filled.
    classifier = cfx_jax.Classifier(params=32.3, apply=total_and_threshold)
    images = jnp.full((1, 8, 8, 1), 0.51)
    e = cfx_jax.explain(
        KEY, classifier, fill_half, images, jnp.asarray([1]),
        objective=objective, mode="fast", mask_size=8, sparsity_weight=1e3,
    )  # fmt: skip
    assert Status(int(e.status[0])) == status
    np.testing.assert_allclose(e.kept_area[0], 0.0 if objective == "ssr" else 1.0, atol=0.02)


def test_explain_without_targets_takes_the_predicted_class(random_classifier, fill_half, images):
    run = functools.partial(cfx_jax.explain, KEY, random_classifier, fill_half, images, **SHORT)
    predicted = np.argmax(random_classifier.apply(random_classifier.params, images), -1)
    np.testing.assert_array_equal(run().keep_prob, run(jnp.asarray(predicted)).keep_prob)


@pytest.mark.slow
def test_explain_one_works_under_vmap_and_jit(linear_classifier, fill_half):
    """The model is the one that compiles fastest."""
    classifier, image, _ = linear_case(linear_classifier)
    keys, images = jax.random.split(KEY, 3), jnp.stack([1 - image, image, image / 2])
    one = functools.partial(cfx_jax.explain_one, objective="sdr", **SHORT)
    eager = one(keys[1], classifier, fill_half, images[1])
    jitted = jax.jit(one)(keys[1], classifier, fill_half, images[1])
    batch = jax.jit(jax.vmap(one, (0, None, None, 0)))(keys, classifier, fill_half, images)
    np.testing.assert_allclose(jitted.keep_prob, eager.keep_prob, atol=1e-5)
    np.testing.assert_allclose(batch.keep_prob[1], eager.keep_prob, atol=1e-5)


def test_explain_works_under_jit(random_classifier, fill_half, images):
    run = functools.partial(cfx_jax.explain, mode="fast", **SHORT)
    arguments = (KEY, random_classifier, fill_half, images)
    np.testing.assert_allclose(
        jax.jit(run)(*arguments).keep_prob, run(*arguments).keep_prob, atol=1e-5
    )


def test_explain_does_not_retrace_between_batches(linear_classifier, fill_half):
    traces = []

    def counted(params, images):
        traces.append(images.shape)
        return images.reshape(len(images), -1) @ params

    rng = np.random.default_rng(0)

    def run(seed):
        classifier = cfx_jax.Classifier(
            params=jnp.asarray(rng.normal(size=(192, 3)), jnp.float32), apply=counted
        )
        images = jnp.asarray(rng.uniform(size=(2, 8, 8, 3)), jnp.float32)
        key = jax.random.key(seed)
        return cfx_jax.explain(
            key, classifier, fill_half, images, mode="fast", mask_size=4, num_steps=2
        )

    run(0)
    traced = len(traces)
    assert traced > 0
    for seed in range(1, 4):
        run(seed)
    assert len(traces) == traced


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "block_size"), [("region", 1), ("paper", 1), ("fast", 3), ("bbmp", 1)]
)
def test_explain_masks_are_float32_under_x64(
    mode, block_size, random_classifier, fill_half, images
):
    def explain():
        return cfx_jax.explain(
            KEY, random_classifier, fill_half, images[:1], jnp.asarray([1]),
            mode=mode, block_size=block_size, mask_size=4, num_steps=2,
        )  # fmt: skip

    expected = explain()
    with jax.enable_x64(True):
        found = explain()
    assert [x.dtype for x in jax.tree.leaves(found)] == [x.dtype for x in jax.tree.leaves(expected)]
    np.testing.assert_allclose(found.keep_prob, expected.keep_prob, atol=1e-4)


def test_explain_gives_no_nan_under_debug_nans(random_classifier, fill_half, images):
    with jax.debug_nans(True):
        e = cfx_jax.explain(
            KEY, random_classifier, fill_half, images[:1], mode="fast", mask_size=4, num_steps=2
        )
        state = init(get_settings("fast", mask_size=4, num_steps=2))
        assert np.isfinite(e.trace).all()
    # Also beyond the steps taken, because a run reads states before their last step.
    assert np.isfinite(state.trace).all()
