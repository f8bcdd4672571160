"""Each fault of a classifier gives its own finding; a correct classifier gives none."""

import gc
import re
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfx_jax.classifiers import Classifier, Finding

SIDE = 6
RNG = np.random.default_rng(0)
WEIGHTS = {
    "hidden": jnp.asarray(RNG.normal(size=(SIDE * SIDE * 3, 16)), jnp.float32),
    "out": jnp.asarray(RNG.normal(size=(16, 5)), jnp.float32),
}
IMAGES = jnp.asarray(RNG.random((3, SIDE, SIDE, 3)), jnp.float32)
EXPECTED = r"; expected float32 logits \[2, K\] with at least two classes K"


def hidden_of(params, images):
    return jnp.tanh((images - 0.5).reshape(len(images), -1) @ params["hidden"])


def sound(params, images):
    return 2.0 * hidden_of(params, images) @ params["out"]


def with_batch_statistics(params, images):
    hidden = hidden_of(params, images)
    hidden = (hidden - hidden.mean(axis=0)) / jnp.sqrt(hidden.var(axis=0) + 1e-5)
    return hidden @ params["out"]


def with_dropout_of_one_key(params, images):
    hidden = hidden_of(params, images)
    keep = jax.random.bernoulli(jax.random.key(0), 0.8, hidden.shape)
    return jnp.where(keep, hidden / 0.8, 0.0) @ params["out"]


def with_noise(params, images):
    shape = jax.ShapeDtypeStruct((len(images), 5), jnp.float32)
    noise = jax.pure_callback(lambda: np.asarray(RNG.normal(size=shape.shape), np.float32), shape)
    return sound(params, images) + noise


def blind_to_dark_images(params, images):
    return sound(params, jax.nn.relu(images - 0.5))


def with_an_infinite_slope(params, images):
    return sound(params, images) + jnp.sqrt(images[:, 0, 0, :1] * 0.0)


def without_a_gradient(params, images):
    shape = jax.ShapeDtypeStruct((len(images), 3), jnp.float32)
    return jax.pure_callback(lambda x: np.asarray(x[:, 0, 0]), shape, images)


def that_raises(params, images):
    raise KeyError("head\nof the network")


def that_raises_on_the_host(params, images):
    def raising(images):
        raise RuntimeError("no such device")

    return jax.pure_callback(raising, jax.ShapeDtypeStruct((len(images), 5), jnp.float32), images)


FAULTS = {
    "tuple": (lambda p, x: (sound(p, x), {}), "output is a tuple" + EXPECTED),
    "one logit": (lambda p, x: sound(p, x)[:, :1], r"float32 \[2, 1\] for 2 images" + EXPECTED),
    "a feature map": (lambda p, x: x, r"float32 \[2, 6, 6, 3\] for 2 images" + EXPECTED),
    "classes": (lambda p, x: jnp.argmax(sound(p, x), 1), r"int32 \[2\] for 2 images" + EXPECTED),
    "half": (
        lambda p, x: sound(p, x).astype(jnp.bfloat16),
        r"bfloat16 \[2, 5\] for 2 images" + EXPECTED,
    ),
    "softmax": (lambda p, x: jax.nn.softmax(sound(p, x)), "outputs are probabilities"),
    "sigmoid": (lambda p, x: jax.nn.sigmoid(sound(p, x)), r"all within \[0, 1\], as those of sigm"),
    "batch statistics": (with_batch_statistics, "an image change by .* the other images"),
    "dropout, one key": (with_dropout_of_one_key, "an image change by .* with its place"),
    "noise": (with_noise, "differ by .* between two calls"),
    "nan": (lambda p, x: jnp.nan * sound(p, x), "not finite for image 0, image 1, noise, a black"),
    "nan for black": (lambda p, x: jnp.log(x.mean((1, 2))), "logits are not finite for a black im"),
    "infinite slope": (with_an_infinite_slope, "the gradient of the logits is not finite"),
    "constant": (lambda p, x: sound(p, 0.0 * x), "logits are the same for 4 different images"),
    "no gradient": (
        lambda p, x: sound(p, jax.lax.stop_gradient(x)),
        "gradient of the logits is zero everywhere; expected",
    ),
    "0 to 255": (
        lambda p, x: sound(p, 0.3 * x / 255 + 0.5),
        r"no more than 0\..*, but by .* \[0, 255\]",
    ),
    "not differentiable": (without_a_gradient, "gradient of the logits raises ValueError: Pure"),
    "raises": (that_raises, "apply raises KeyError: 'head.* for images "),
    "raises on the host": (that_raises_on_the_host, "raises .*RuntimeError: no such device, for"),
}


def check(apply, images=IMAGES, **options):
    return Classifier(params=WEIGHTS, apply=apply, **options).check(images)


@pytest.mark.parametrize("fault", FAULTS)
def test_check_finds_each_fault_and_nothing_else(fault):
    apply, expected = FAULTS[fault]
    (finding,) = check(apply)
    assert isinstance(finding, Finding)
    assert re.search(expected, finding.problem), finding
    assert str(finding) == f"{finding.problem}: {finding.advice}"


@pytest.mark.parametrize("num_images", [1, 2, 3])
def test_check_finds_nothing_in_a_sound_classifier(num_images):
    assert check(sound, IMAGES[:num_images], class_names=tuple("abcde")) == ()


def test_check_accepts_logits_that_can_leave_0_to_1():
    problems = [finding.problem for finding in check(lambda p, x: x.mean((1, 2)))]
    assert not [problem for problem in problems if "within [0, 1]" in problem]


def test_check_accepts_log_probabilities():
    assert check(lambda p, x: jax.nn.log_softmax(sound(p, x))) == ()


def test_check_names_an_image_without_gradient():
    images = IMAGES.at[1].set(0.4)
    (finding,) = check(blind_to_dark_images, images)
    assert "zero everywhere for image 1; expected" in finding.problem


def test_check_finds_a_saturated_softmax_and_its_zero_gradient():
    findings = check(lambda p, x: jax.nn.softmax(1e4 * sound(p, x)))
    assert [finding.problem.split()[0] for finding in findings] == ["outputs", "the"]


def test_check_counts_class_names():
    (finding,) = check(sound, class_names=("cat", "dog"))
    assert finding.problem == "2 class names for 5 classes"


@pytest.mark.parametrize(
    ("images", "problem", "advice"),
    [
        (np.uint8(255 * np.asarray(IMAGES)), r"uint8 over \[\d, 25\d\]", "by 255"),
        (255.0 * IMAGES, r"float32 over \[\d\..*, 25.*\]", "by 255"),
        ((IMAGES - 0.5) / 0.2, r"float32 over \[-2\..*, 2\..*\]; expected", "normalisation"),
        (
            np.moveaxis(IMAGES, -1, 1),
            r"shape \[3, 3, 6, 6\], channels first; exp",
            "(0, 2, 3, 1)",
        ),
        (IMAGES.at[0].set(jnp.nan), r"float32 over .*, some not finite; expected", "leave out"),
    ],
    ids=["uint8", "0 to 255", "normalised", "channels first", "nan"],
)
def test_check_reports_only_images_out_of_range(images, problem, advice):
    (finding,) = check(sound, images)
    assert re.search(problem, finding.problem), finding
    assert advice in finding.advice


@pytest.mark.parametrize("images", [IMAGES[0], IMAGES[:0], np.full((1, 2, 2, 3), "a")])
def test_check_refuses_input_that_is_no_images(images):
    with pytest.raises(ValueError, match=r"images have shape .*; expected float32 \[N, H, W, C\]"):
        check(sound, images)


def test_check_needs_few_classifier_calls():
    calls = []

    def apply(params, images):
        jax.debug.callback(lambda n: calls.append(int(n)), len(images))
        return sound(params, images)

    assert check(apply) == ()
    jax.effects_barrier()
    assert len(calls) == 4
    assert set(calls) == {4}


def test_check_releases_the_classifier():
    def apply(params, images):
        return sound(params, images)

    assert Classifier(params=WEIGHTS, apply=apply).check(IMAGES) == ()
    kept = weakref.ref(apply)
    del apply
    gc.collect()
    assert kept() is None
