"""Questions other than "why this class?": known answers of linear classifiers for SSR and SDR."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfx_jax
from cfx_jax import Status

KEY = jax.random.key(0)
LAM = 0.05
RNG = np.random.default_rng(3)
# Each of three classes has its own weights of the pixels.
WEIGHTS = RNG.normal(size=(8, 8, 3)).astype(np.float32)
IMAGE = jnp.asarray(RNG.uniform(size=(1, 8, 8, 1)), jnp.float32)
# Contribution of each pixel to each logit, if holes are filled with 1/2.
GAIN = WEIGHTS * (np.asarray(IMAGE[0]) - 0.5)


def apply(params, images):
    return images.reshape(len(images), -1) @ params


def apply_above(params, images):
    """Decides otherwise for an image of 1/2 than for one of 1."""
    return apply(params, images - 0.75)


def make(columns=slice(None), **fields):
    params = jnp.asarray(WEIGHTS[..., columns].reshape(64, -1))
    return cfx_jax.Classifier(params=params, apply=apply, channels=1, **fields)


def contrast_score(logits, target):
    return logits[..., target] - logits[..., 2]


CASES = {
    "sigmoid": (make(logits="sigmoid"), {}, 1, GAIN[..., 1]),
    "one logit, class 1": (make(slice(1), logits="sigmoid"), {}, 1, GAIN[..., 0]),
    "one logit, class 0": (make(slice(1), logits="sigmoid"), {}, 0, -GAIN[..., 0]),
    "contrast": (make(), {"contrast": 2}, 0, GAIN[..., 0] - GAIN[..., 2]),
    "contrast of sigmoids": (
        make(logits="sigmoid"), {"contrast": 2}, 0, GAIN[..., 0] - GAIN[..., 2]
    ),
    "score": (make(), {"score": contrast_score}, 1, GAIN[..., 1] - GAIN[..., 2]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("objective", ["ssr", "sdr"])
def test_explain_questions_have_known_answers_on_linear_classifiers(case, objective, fill_half):
    """SSR keeps pixel i exactly where it adds more than lambda to the score of the question."""
    classifier, question, target, gain = CASES[case]
    e = cfx_jax.explain(
        KEY, classifier, fill_half, IMAGE, jnp.asarray([target]), objective=objective, mode="fast",
        mask_size=8, sparsity_weight=LAM, num_steps=300, learning_rate=0.2, **question,
    )  # fmt: skip
    clear = np.abs(gain - LAM) > 0.02
    assert clear.sum() > 45
    important = (e.keep_prob[0] > 0.5) == (objective == "ssr")
    np.testing.assert_array_equal(important[clear], (gain > LAM)[clear])
    logits = np.asarray(IMAGE[0]).reshape(-1) @ np.asarray(classifier.params)
    first, middle, last = logits[0], logits[len(logits) // 2], logits[-1]
    evidence = {
        "sigmoid": middle, "one logit, class 1": first, "one logit, class 0": -first,
        "contrast": first - last, "contrast of sigmoids": first - last, "score": middle - last,
    }[case]  # fmt: skip
    np.testing.assert_allclose(e.log_odds_original[0], evidence, rtol=1e-4, atol=1e-5)
    assert (e.status[0] == Status.MISCLASSIFIED) == (evidence <= 0)


@pytest.mark.parametrize("bias", [3.0, -3.0])
def test_explain_region_of_one_logit_suffices_for_the_prediction(bias, fill_half):
    """The default mode, without a target: the predicted class is 1 above 0, else 0."""
    flat = np.zeros((16, 16, 3), np.float32)
    flat[4:9, 4:9] = bias
    classifier = cfx_jax.Classifier(
        params=jnp.asarray(flat.reshape(-1, 1)), apply=apply_above, logits="sigmoid"
    )
    e = cfx_jax.explain(
        KEY, classifier, fill_half, jnp.ones((1, 16, 16, 3)), mask_size=8, num_steps=20
    )
    assert e.target.tolist() == e.prediction.tolist() == [int(bias > 0)]
    assert e.status.tolist() == [Status.OK]
    inside = np.asarray(e.saliency[0])[4:9, 4:9].mean()
    assert inside > np.asarray(e.saliency[0]).mean() + 0.2


def test_explain_three_targets_of_one_image_independently(fill_half):
    """They differ, and each equals the explanation of its target alone."""
    images = jnp.broadcast_to(IMAGE, (3, 8, 8, 1))
    options = {"mode": "fast", "mask_size": 8, "num_steps": 20, "objective": "ssr"}
    together = cfx_jax.explain(KEY, make(), fill_half, images, jnp.arange(3), **options)
    assert np.abs(np.diff(together.keep_prob, axis=0)).max(axis=(1, 2)).min() > 0.1
    for target in range(3):
        alone = cfx_jax.explain(KEY, make(), fill_half, IMAGE, jnp.asarray([target]), **options)
        np.testing.assert_allclose(together.keep_prob[target], alone.keep_prob[0], atol=1e-4)


@pytest.mark.parametrize(
    ("classifier", "options", "message"),
    [
        (make(slice(1)), {}, 'needs logits="sigmoid"'),
        (make(slice(1), logits="sigmoid"), {"contrast": 0}, "and no contrast"),
        (make(slice(1), logits="sigmoid"), {"targets": jnp.array([2])}, "has classes 0 to 1"),
        (make(), {"contrast": 3}, "contrast is class 3; the classifier has classes 0 to 2"),
        (
            make(),
            {"contrast": 1, "targets": jnp.array([1])},
            "contrast is class 1, and so are the t",
        ),
        (make(), {"contrast": 1, "targets": np.array([1])}, "targets of 1 images, the first is im"),
        (make(), {"contrast": 1, "score": contrast_score}, "are two questions; pass one"),
    ],
)
def test_explain_refuses_invalid_questions(classifier, options, message, fill_half):
    targets = options.pop("targets", None)
    with pytest.raises(ValueError, match=message):
        cfx_jax.explain(KEY, classifier, fill_half, IMAGE, targets, mask_size=8, **options)


def test_explain_does_not_recompile_for_another_contrast(fill_half):
    traces = []

    def counted(params, images):
        traces.append(images.shape)
        return apply(params, images)

    classifier = make().replace(apply=counted)
    options = {"mode": "fast", "mask_size": 8, "num_steps": 2}
    numbers = []
    for contrast in (1, 2):
        cfx_jax.explain(
            KEY, classifier, fill_half, IMAGE, jnp.array([0]), contrast=contrast, **options
        )
        numbers.append(len(traces))
    assert numbers[0] == numbers[1] > 0
