"""Lowers programs for a TPU, which shows without a TPU whether it would refuse them."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import pytest

from cfx_jax.classifiers import NORMALIZATIONS, Classifier, NormalizedModule
from cfx_jax.evaluate import scoring
from cfx_jax.fido.masks import MaskLaw, Relaxation
from cfx_jax.fido.objective import make_problem
from cfx_jax.fido.optimisation import advance, init
from cfx_jax.fido.precision import in_bfloat16
from cfx_jax.fido.question import Question
from cfx_jax.fido.settings import get_settings
from cfx_jax.fido.solution import finish
from cfx_jax.generators import Generator
from cfx_jax.registry import NETWORKS
from cfx_jax.runs.jobs import Images
from cfx_jax.train.step import DEVICE_AXIS, TrainSettings, init_state, train_step
from cfx_jax.weights.architectures import ARCHITECTURES

SIZE = 32
SETTINGS = get_settings("region", num_steps=2, num_samples=2, mask_size=8)
PRECISIONS = {"float32": lambda model: model, "bfloat16": in_bfloat16}


def load_classifier():
    architecture = ARCHITECTURES["efficientnet_lite0"]
    params = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), architecture.template(architecture.module)
    )
    apply = NormalizedModule(architecture.module, NORMALIZATIONS["symmetric"])
    return Classifier(params, apply, image_size=(SIZE, SIZE))


def load_generator():
    network = NETWORKS["gated_unet"]
    return Generator(network.init(jax.random.key(0)), network.apply, "gated_unet")


def shapes(make, precision):
    """Models as shapes; nothing is computed."""
    return jax.eval_shape(lambda: PRECISIONS[precision](make()))


def lower(function, num_mapped, *arguments):
    """Lowers a function of one image as a batch of two, as the devices get it."""
    rows = jax.vmap(function, in_axes=(0,) * num_mapped + (None,) * (len(arguments) - num_mapped))
    batch = jax.eval_shape(
        lambda mapped: jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), mapped),
        arguments[:num_mapped],
    )
    exported = jax.export.export(jax.jit(rows), platforms=["tpu"])(*batch, *arguments[num_mapped:])
    assert exported.platforms == ("tpu",)
    return exported.mlir_module()


def make_state(objective):
    key = jax.random.key(0)
    problem = make_problem(key, jnp.zeros((SIZE, SIZE, 3)), Question(jnp.int32(1)), objective)
    return init(SETTINGS), problem


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_lower_for_tpu_accepts_explanation_programs(precision):
    models = shapes(load_classifier, precision), shapes(load_generator, precision)
    state, problem = jax.eval_shape(functools.partial(make_state, "ssr"))
    steps = functools.partial(advance, settings=SETTINGS, num_steps=2)
    program = lower(steps, 2, state, problem, *models)
    assert ("bf16" in program) == (precision == "bfloat16")
    evaluate_masks = functools.partial(finish, settings=SETTINGS)
    assert "main" in lower(evaluate_masks, 2, state, problem, *models)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_lower_for_tpu_accepts_scoring(precision):
    classifier, generator = shapes(load_classifier, precision), shapes(load_generator, precision)
    key = jax.eval_shape(lambda: jax.random.key(0))
    models = scoring._Models(key, classifier, (generator,), generator, (classifier,), None)
    image = Images(
        jax.ShapeDtypeStruct((SIZE, SIZE, 3), jnp.uint8),
        jax.ShapeDtypeStruct((), jnp.int32),
        jax.ShapeDtypeStruct((), jnp.uint32),
    )
    saliency = jax.ShapeDtypeStruct((SIZE, SIZE), jnp.float32)
    cells = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    box = jax.ShapeDtypeStruct((4,), jnp.float32)
    law = MaskLaw(Relaxation.CONCRETE, 0.1, 4, 0.0, 1.0)
    objective = {"objective": "ssr"}
    for function, options, arguments in (
        (scoring._classify, {}, ()),
        (scoring._score, {"num_steps": 2}, (saliency, box)),
        (scoring._transfer_to_infills, objective | {"law": law, "num_masks": 2}, (cells,)),
        (scoring._transfer_to_classifiers, objective | {"law": law}, (cells,)),
        (scoring._attribute, {"method": "integrated_gradients"}, ()),
    ):
        call = functools.partial(scoring._scale_and_call, function, **options)
        assert "main" in lower(call, 1 + len(arguments), image, *arguments, models)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gated_unet", "vae_digits"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_lower_for_tpu_accepts_training(name, dtype):
    network = NETWORKS[name]
    settings = TrainSettings(2, 0.1, 1, 0.9, adversarial_weight=float(name == "gated_unet"))

    def begin():
        key = jax.random.key(0)
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), network.init(key))
        return init_state(key, params, network.channels, settings)

    state = jax.eval_shape(begin)
    step = functools.partial(train_step, loss=network.loss, settings=settings)
    devices = jax.vmap(step, in_axes=(None, 0, 0, None, None), axis_name=DEVICE_AXIS)
    exported = jax.export.export(jax.jit(devices), platforms=["tpu"])(
        state,
        jax.ShapeDtypeStruct((1, 2, SIZE, SIZE, network.channels), jnp.uint8),
        jax.ShapeDtypeStruct((1, 2), jnp.int32),
        jax.eval_shape(lambda: jax.random.key(0)),
        None,
    )
    assert exported.platforms == ("tpu",)


def test_lower_for_tpu_finds_an_unsupported_operation():
    """No TPU supports this program, so the tests above can fail."""
    with pytest.raises(Exception, match=r"(?i)tpu|not found"):
        lower(lambda x: jnp.linalg.eig(x)[0].real, 1, jax.ShapeDtypeStruct((3, 3), jnp.float32))
