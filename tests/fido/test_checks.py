"""Errors of the public functions: what was wrong, what was expected, what to do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfx_jax
from cfx_jax import Status

KEY = jax.random.key(0)
SMALL = {"mask_size": 4, "num_steps": 2, "num_samples": 1}


def two_logits(params, images):
    total = images.sum((1, 2, 3))
    return jnp.stack([jnp.zeros_like(total), total], axis=-1)


TWO = cfx_jax.Classifier(params=(), apply=two_logits, name="two")
GREY = cfx_jax.load_generator("grey")
IMAGES = jnp.full((2, 8, 8, 3), 0.5)


def explain(images=IMAGES, targets=None, classifier=TWO, generator=GREY, **options):
    return cfx_jax.explain(KEY, classifier, generator, images, targets, **(SMALL | options))


def with_logits(function):
    return cfx_jax.Classifier(params=(), apply=lambda _, images: function(images), name="odd")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": IMAGES[0]}, r"shape \(8, 8, 3\); expected \[N, H, W, C\].*images\[None\]"),
        ({"images": IMAGES[:0]}, r"shape \(0, 8, 8, 3\); expected .* none of them 0"),
        *(
            ({"images": jnp.zeros(shape)}, r"channels first; .*last: images.transpose\(0, 2,")
            for shape in ((1, 3, 224, 224), (2, 1, 8, 8), (1, 4, 5, 300))
        ),
        ({"images": jnp.zeros((2, 8, 8, 3), jnp.uint8)}, r"uint8; expected float32.*divide.*255"),
        ({"images": 255 * IMAGES}, r"range over \[127\.5, 127\.5\].*divide 8-bit images by 255"),
        ({"images": IMAGES - 1}, r"range over \[-0\.5, -0\.5\].*undo their normalisation"),
        ({"images": 5.2 * IMAGES.at[0].set(-0.4)}, r"\[-2\.08, 2\.6\].*undo their normalisation"),
        ({"images": IMAGES.at[0, 0, 0, 0].set(jnp.inf) * 255}, "127.5.*divide 8-bit images by 255"),
        ({"mask_size": 9}, r"9 x 9 cells.*\(8 x 8\); pass mask_size=8 or less"),
        (
            {"mode": "fast", "mask_size": 8, "block_size": 9},
            r"blocks are 9 .*\(8 x 8\); pass block_size=8 or less",
        ),
        ({"targets": jnp.asarray([0, 2])}, r"targets \[2\] are out of range.*classes 0 to 1"),
        ({"targets": jnp.asarray([0, -1])}, r"targets \[-1\] are out of range"),
        ({"targets": jnp.asarray([0])}, r"targets have shape \(1,\).*each of the 2 images"),
        ({"targets": jnp.asarray([0.0, 1.0])}, r"type float32; expected one whole number"),
        ({"objective": "both"}, r"unknown objective 'both'; known are ssr, sdr.*explain_both"),
        ({"mode": "slow"}, r"unknown mode 'slow'; known are bbmp, fast, paper"),
        ({"steps": 3}, r"unknown settings \['steps'\]; known are .*num_steps"),
        (
            {"classifier": with_logits(lambda images: images.sum((1, 2, 3)))},
            r"'odd' returns shape \(2,\).*at least two classes; the one logit .*logits=\"sigmoid\"",
        ),
        (
            {"classifier": with_logits(lambda images: images.sum((1, 2)) [:, :1])},
            r"'odd' returns shape \(2, 1\).*logits=\"sigmoid\" and no contrast",
        ),
        (
            {"classifier": with_logits(lambda images: images)},
            r"'odd' returns shape \(2, 8, 8, 3\) for 2 images; expected logits",
        ),
        (
            {"classifier": with_logits(lambda images: (two_logits((), images), {}))},
            "'odd' returns a tuple; expected one array of logits",
        ),
        (
            {"generator": cfx_jax.Generator((), lambda p, x, m, k: (x, m), name="pair")},
            r"'pair' returns a tuple; expected one array of the shape .* \(2, 8, 8, 3\)",
        ),
        (
            {"generator": cfx_jax.Generator((), lambda p, x, m, k: x[..., :1], name="flat")},
            r"'flat' returns shape \(2, 8, 8, 1\) for images of shape \(2, 8, 8, 3\)",
        ),
    ],
)  # fmt: skip
def test_explain_names_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        explain(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 255 * IMAGES}, "divide 8-bit images by 255"),
        ({"mode": "slow"}, "unknown mode 'slow'"),
    ],
)
def test_explain_both_checks_its_input_like_explain(arguments, message):
    inputs = {"classifier": TWO, "generator": GREY, "images": IMAGES}
    with pytest.raises(ValueError, match=message):
        cfx_jax.explain_both(KEY, **(inputs | SMALL | arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": IMAGES}, r"shape \(2, 8, 8, 3\); expected \[H, W, C\]"),
        ({"image": IMAGES[0], "target": 1.5}, "type float32; expected one whole number"),
        ({"image": IMAGES[0], "target": jnp.asarray([1])}, r"shape \(1,\) and type int32"),
        ({"image": IMAGES[0], "objective": "none"}, "unknown objective 'none'"),
        ({"image": jnp.zeros((8, 8, 3), int)}, "int32; expected float32"),
    ],
)
def test_explain_one_checks_shapes_and_names(arguments, message):
    image = arguments.pop("image")
    with pytest.raises(ValueError, match=message):
        cfx_jax.explain_one(KEY, TWO, GREY, image, **(SMALL | arguments))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_explain_gives_nonfinite_images_their_own_status(bad):
    images = jax.random.uniform(jax.random.key(1), (3, 8, 8, 3))
    broken = images.at[1, 0, 0, 0].set(bad)
    run = functools.partial(explain, targets=jnp.asarray([1, 1, 1]))
    expected, found = run(images=images), run(images=broken)
    assert found.status[1] == Status.NON_FINITE
    assert np.isnan(found.keep_prob[1]).all()
    assert np.isnan(found.saliency[1]).all()
    for row in (0, 2):
        assert found.status[row] == expected.status[row]
        np.testing.assert_array_equal(found.keep_prob[row], expected.keep_prob[row])


def test_explain_accepts_a_batch_of_nonfinite_images():
    found = explain(images=jnp.full((2, 8, 8, 3), jnp.nan))
    assert found.status.tolist() == [Status.NON_FINITE] * 2
