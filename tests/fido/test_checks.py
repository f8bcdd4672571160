"""Errors of the public functions: what was wrong, what was expected, what to do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfx_jax
from cfx_jax import Status
from cfx_jax.baselines import attribute
from cfx_jax.fido import make_question, prepare
from cfx_jax.fido.areas import explain_areas
from cfx_jax.fido.checks import check_classes, check_problem
from cfx_jax.fido.settings import get_settings
from cfx_jax.generators import check_images

KEY = jax.random.key(0)
SMALL = {"mask_size": 4, "num_steps": 2, "num_samples": 1}


def two_logits(params, images):
    total = images.sum((1, 2, 3))
    return jnp.stack([jnp.zeros_like(total), total], axis=-1)


TWO = cfx_jax.Classifier(params=(), apply=two_logits, name="two")
GREY = cfx_jax.load_generator("grey")
IMAGES = jnp.full((2, 8, 8, 3), 0.5)
THREE_CHANNELS = cfx_jax.Generator(
    params=jnp.zeros(3), apply=lambda p, x, mask, key: x @ jnp.diag(p)
)


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
        ({"image": IMAGES[0], "target": 1.5}, "target is 1.5; expected one whole number"),
        ({"image": IMAGES[0], "target": jnp.asarray([1])}, r"shape \(1,\) and type int32"),
        ({"image": IMAGES[0], "objective": "none"}, "unknown objective 'none'"),
        ({"image": jnp.zeros((8, 8, 3), int)}, "int32; expected float32"),
    ],
)
def test_explain_one_checks_shapes_and_names(arguments, message):
    image = arguments.pop("image")
    with pytest.raises(ValueError, match=message):
        cfx_jax.explain_one(KEY, TWO, GREY, image, **(SMALL | arguments))


@pytest.mark.parametrize(
    "key", [jax.random.PRNGKey(3), np.array([0, 3], np.uint32), 3, np.int64(3)], ids=repr
)
def test_legacy_keys_and_seeds_are_accepted(key):
    generator, mask = cfx_jax.load_generator("random_color"), jnp.zeros((2, 8, 8, 1))
    expected = cfx_jax.infill(jax.random.key(3), generator, IMAGES, mask)
    np.testing.assert_array_equal(cfx_jax.infill(key, generator, IMAGES, mask), expected)
    keys = prepare(key, TWO, IMAGES, make_question(None, None, None))[0]
    expected = prepare(jax.random.key(3), TWO, IMAGES, make_question(None, None, None))[0]
    assert (keys == expected).all()


@pytest.mark.parametrize(
    ("key", "found"),
    [
        (None, "None"),
        (True, "True"),
        (-1, "-1"),
        (2**32, "4294967296"),
        (0.5, "0.5"),
        (jax.random.split(KEY, 2), r"an array \(2,\) of key<fry>"),
        (jnp.zeros(3, jnp.uint32), r"an array \(3,\) of uint32"),
        (jnp.zeros(2), r"an array \(2,\) of float32"),
    ],
    ids=str,
)
def test_public_functions_refuse_other_keys(key, found):
    message = f"key is {found}; expected one key, such as jax.random.key"
    for function, images in (
        (functools.partial(cfx_jax.explain, **SMALL), IMAGES),
        (functools.partial(cfx_jax.explain_both, **SMALL), IMAGES),
        (functools.partial(cfx_jax.explain_one, **SMALL), IMAGES[0]),
        (explain_areas, IMAGES),
        (functools.partial(attribute, "gradient"), IMAGES),
    ):
        with pytest.raises(ValueError, match=message):
            function(key, TWO, GREY, images)
    with pytest.raises(ValueError, match=message):
        cfx_jax.infill(key, GREY, IMAGES, jnp.ones((2, 8, 8, 1)))


@pytest.mark.parametrize(
    ("number", "what"),
    [
        (0.7, "is 0.7; expected one whole number"),
        ("0", "is '0'; expected one whole number"),
        (True, "is True; expected one whole number"),
        (np.bool_(True), r"has shape \(\) and type bool; expected one whole number"),
        (np.float32(1.0), r"has shape \(\) and type float32; expected one whole number"),
        ([0, 1], r"is \[0, 1\]; expected one whole number"),
        (jnp.asarray([0]), r"has shape \(1,\) and type int32; expected one whole number"),
        (2**32 + 1, "is class 4294967297; the classifier has classes 0 to 1"),
        (2**70, f"is {2**70}; expected one whole number"),
        (-1, "is class -1; the classifier has classes 0 to 1"),
    ],
)
def test_class_numbers_follow_one_rule(number, what):
    targets = np.zeros(2, int)
    for function in (explain, functools.partial(cfx_jax.explain_both, KEY, TWO, GREY, **SMALL)):
        with pytest.raises(ValueError, match=f"contrast {what}"):
            function(images=IMAGES, targets=targets, contrast=number)
    with pytest.raises(ValueError, match=f"contrast {what}"):
        attribute("gradient", KEY, TWO, GREY, IMAGES, targets, contrast=number)
    for name in ("target", "contrast"):
        with pytest.raises(ValueError, match=f"{name} {what}"):
            cfx_jax.explain_one(KEY, TWO, GREY, IMAGES[0], **SMALL, **{name: number})


@pytest.mark.parametrize(
    "targets", [["0", "1"], [True, False], [0, 1.0], np.array([0, 1], object), [[0], [0, 1]]]
)
def test_targets_are_whole_numbers(targets):
    with pytest.raises(ValueError, match="expected one whole number for each of the 2 images"):
        explain(targets=targets)


@pytest.mark.parametrize("dtype", [">i4", "u1", "i8"])
def test_class_numbers_of_any_integer_type_are_accepted(dtype):
    found = check_classes("targets", np.array([1, 0], dtype), (2,), 2)
    assert found.tolist() == [1, 0]
    assert found.dtype == jnp.int32


@pytest.mark.parametrize(
    "convert", [lambda x: x.astype(">f4"), lambda x: x.astype(">f8"), np.ndarray.tolist]
)
def test_images_of_any_floating_type_are_accepted(convert):
    images = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    found = check_images(convert(images))
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, images)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("photo.png", "images: a str is no array of numbers .*; expected a NumPy or JAX array"),
        (None, "images: a NoneType is no array of numbers"),
        (np.full((1, 8, 8, 3), None), r"images: a ndarray is no array of numbers \(type object"),
        ([[0.5], [0.5, 0.5]], "images: a list is no array of numbers .*ValueError"),
    ],
)
def test_explain_refuses_what_is_no_array_of_numbers(images, message):
    with pytest.raises(ValueError, match=message):
        explain(images=images)


@pytest.mark.parametrize(
    ("channels", "advice"),
    [(1, "np.repeat"), (2, "or classifier.channels is wrong"), (4, r"images\[\.\.\., :3\]")],
)
def test_explain_names_another_number_of_channels(channels, advice):
    def apply(params, images):
        return jnp.tensordot(images.mean((1, 2)), params, 1)

    images = jnp.full((1, 8, 8, channels), 0.5)
    message = f"for images of {channels} channels, .*; expected 3 channels: .*{advice}"
    with pytest.raises(ValueError, match=message):
        explain(images=images, classifier=cfx_jax.Classifier(params=jnp.eye(3), apply=apply))
    # A classifier that takes them is not restricted by its default of three channels.
    check_problem(TWO, GREY, images, "ssr", get_settings("fast", mask_size=4))


@pytest.mark.parametrize("channels", [1, 4])
def test_infill_names_another_number_of_channels(channels):
    images = jnp.full((1, 8, 8, channels), 0.5)
    message = f"for images of {channels} channels, .*; expected 3 channels, RGB"
    with pytest.raises(ValueError, match=message):
        cfx_jax.infill(KEY, THREE_CHANNELS, images, images[..., :1])


def test_explain_passes_on_an_error_of_the_classifier():
    def apply(params, images):
        raise KeyError("of the model")

    with pytest.raises(KeyError, match="of the model"):
        explain(classifier=cfx_jax.Classifier(params=(), apply=apply))


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


@pytest.mark.parametrize("name", ["images", "targets", "allowed"])
def test_explain_refuses_masked_values(name):
    shapes = {"images": (2, 8, 8, 3), "targets": (2,), "allowed": (8, 8)}
    kinds = {"images": np.float32, "targets": np.int32, "allowed": bool}
    values = np.ma.masked_array(np.ones(shapes[name], kinds[name]), mask=False)
    arguments = {"images": jnp.ones((2, 8, 8, 3))}
    explain(**arguments | {name: values})
    values[0] = np.ma.masked
    with pytest.raises(ValueError, match=f"^{name}.*masked|^{name}.* expected one whole number"):
        explain(**arguments | {name: values})


@pytest.mark.parametrize(
    ("score", "what"),
    [
        (lambda logits, target: logits, r"float32 \[3, 2\] for logits \[3, 2\]"),
        (lambda logits, target: logits[..., 0].mean(), r"float32 \[\]"),
        (lambda logits, target: logits[..., :1], r"float32 \[3, 1\]"),
        (lambda logits, target: jnp.argmax(logits, -1), r"int32 \[3\]"),
        (lambda logits, target: (logits[..., 0],), "tuple"),
        (lambda logits, target: None, "NoneType"),
        (lambda logits: logits, "fails with TypeError"),
        (lambda logits, target: np.asarray(logits)[..., 0], "fails with TracerArrayConversion"),
    ],
)
def test_explain_refuses_a_score_of_another_form(score, what):
    with pytest.raises(ValueError, match=f"^score (returns )?{what}.*expected score"):
        explain(images=jnp.ones((2, 8, 8, 3)), score=score)
