"""The same small network in every library: equal logits, gradients and masks."""

import collections
import contextlib
import sys
import types

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import cfx_jax
from cfx_jax import adapters
from cfx_jax.adapters._common import adapt
from cfx_jax.adapters.torch import _host_classifier
from cfx_jax.classifiers import Normalization

SEEN = Normalization(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
LIBRARIES = ("function", "linen", "nnx", "keras", "equinox")


@pytest.fixture(scope="module")
def weights():
    """Convolution 3 -> 6, batch normalisation, tanh, mean, dense 6 -> 4."""
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 3, 3, 6), "scale": (6,), "shift": (6,), "mean": (6,), "dense": (6, 4)}
    arrays = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    arrays["var"] = rng.uniform(0.5, 2.0, 6)
    arrays["bias"] = rng.normal(size=4)
    return {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}


def function(params, images):
    hidden = jax.lax.conv_general_dilated(
        images, params["kernel"], (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    hidden = (hidden - params["mean"]) / jnp.sqrt(params["var"] + 1e-5)
    hidden = jnp.tanh(hidden * params["scale"] + params["shift"]).mean((1, 2))
    return 5.0 * hidden @ params["dense"] + params["bias"]


class Linen(nn.Module):
    """The network in Flax linen."""

    @nn.compact
    def __call__(self, images, train):
        hidden = nn.Conv(6, (3, 3), 2, padding="VALID", use_bias=False)(images)
        hidden = nn.tanh(nn.BatchNorm(use_running_average=not train)(hidden)).mean((1, 2))
        return nn.Dense(4)(nn.Dropout(0.5, deterministic=not train)(5.0 * hidden))


def linen_variables(w):
    norm = {"scale": w["scale"], "bias": w["shift"]}
    return {
        "params": {
            "Conv_0": {"kernel": w["kernel"]},
            "BatchNorm_0": norm,
            "Dense_0": {"kernel": w["dense"], "bias": w["bias"]},
        },
        "batch_stats": {"BatchNorm_0": {"mean": w["mean"], "var": w["var"]}},
    }


class Nnx(nnx.Module):
    """The network in Flax nnx, in training mode."""

    def __init__(self, w):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(
            3, 6, (3, 3), strides=2, padding="VALID", use_bias=False, rngs=rngs
        )  # fmt: skip
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.dense = nnx.Linear(6, 4, rngs=rngs)
        self.conv.kernel[...] = w["kernel"]
        self.norm.scale[...], self.norm.bias[...] = w["scale"], w["shift"]
        self.norm.mean[...], self.norm.var[...] = w["mean"], w["var"]
        self.dense.kernel[...], self.dense.bias[...] = w["dense"], w["bias"]

    def __call__(self, images):
        hidden = nnx.tanh(self.norm(self.conv(images))).mean((1, 2))
        return self.dense(self.dropout(5.0 * hidden))


class Equinox(eqx.Module):
    """The network in Equinox, for one image, channels first, in training mode."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    dense: eqx.nn.Linear

    def __init__(self, w):
        key = jax.random.key(0)
        conv = eqx.nn.Conv2d(3, 6, 3, 2, use_bias=False, key=key)
        # Arrays of NumPy, as a user who reads a file may leave them.
        kernel = np.asarray(w["kernel"]).transpose(3, 2, 0, 1)
        self.conv = eqx.tree_at(lambda layer: layer.weight, conv, kernel)
        norm = eqx.nn.BatchNorm(6, "batch", mode="batch")
        self.norm = eqx.tree_at(lambda n: (n.weight, n.bias), norm, (w["scale"], w["shift"]))
        self.dropout = eqx.nn.Dropout(0.5)
        dense = eqx.nn.Linear(6, 4, key=key)
        self.dense = eqx.tree_at(lambda d: (d.weight, d.bias), dense, (w["dense"].T, w["bias"]))

    def __call__(self, image, state):
        hidden, state = self.norm(self.conv(image), state)
        hidden = self.dropout(5.0 * jnp.tanh(hidden).mean((1, 2)), key=None)
        return self.dense(hidden), state


def make_keras(keras, w):
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((16, 16, 3)),
            layers.Conv2D(6, 3, 2, use_bias=False),
            layers.BatchNormalization(epsilon=1e-5),
            layers.Activation("tanh"),
            layers.GlobalAveragePooling2D(),
            layers.Rescaling(5.0),
            layers.Dropout(0.5),
            layers.Dense(4),
        ],
        name="small",
    )
    names = ("kernel", "scale", "shift", "mean", "var", "dense", "bias")
    model.set_weights([np.asarray(w[name]) for name in names])
    return model


@pytest.fixture(scope="module")
def classifiers(weights, keras):
    """The network as a `Classifier`, by library."""
    model, state = eqx.nn.make_with_state(Equinox)(weights)
    state = state.set(model.norm.batch_state_index, (weights["mean"], weights["var"]))
    return {
        "function": adapters.from_function(function, weights, normalization=SEEN),
        "linen": adapters.from_linen(
            Linen(), linen_variables(weights), train=False, normalization=SEEN
        ),
        "nnx": adapters.from_nnx(Nnx(weights), normalization=SEEN),
        "keras": adapters.from_keras(make_keras(keras, weights), normalization=SEEN),
        "equinox": adapters.from_equinox(model, state, normalization=SEEN),
    }


@jax.jit
def logits_and_gradient(classifier, images):
    """Of the sum of the squared logits of each image."""

    def total(images):
        logits = classifier.apply(classifier.params, images)
        return jnp.sum(jnp.square(logits)), logits

    gradient, logits = jax.grad(total, has_aux=True)(images)
    return logits, gradient


def explain(classifier, images):
    """Masks of the mode that is compiled fastest."""
    generator = cfx_jax.load_generator("grey")
    return cfx_jax.explain(
        jax.random.key(0), classifier, generator, images, jnp.asarray([1, 2]),
        mode="bbmp", num_steps=5, mask_size=3,
    ).keep_prob  # fmt: skip


@pytest.fixture(scope="module")
def expected(weights):
    """What JAX alone gives for two images: `(images, logits, gradient)`."""

    def apply(params, images):
        return function(params, (images - jnp.asarray(SEEN.mean)) / jnp.asarray(SEEN.std))

    classifier = cfx_jax.Classifier(params=weights, apply=apply)
    images = jax.random.uniform(jax.random.key(1), (2, 16, 16, 3))
    return images, *logits_and_gradient(classifier, images)


@pytest.mark.parametrize("library", LIBRARIES)
def test_adapters_logits_and_gradients_equal_the_network(classifiers, expected, library):
    images, logits, gradient = expected
    found = logits_and_gradient(classifiers[library], images)
    np.testing.assert_allclose(found[0], logits, atol=1e-5)
    np.testing.assert_allclose(found[1], gradient, atol=1e-5 * np.abs(gradient).max())


@pytest.mark.slow
def test_adapters_masks_do_not_depend_on_the_library(classifiers, expected):
    masks = {library: explain(classifiers[library], expected[0]) for library in LIBRARIES}
    assert float(jnp.ptp(masks["function"])) > 0.05
    for library, keep_prob in masks.items():
        np.testing.assert_allclose(keep_prob, masks["function"], atol=1e-4, err_msg=library)


@pytest.mark.parametrize("library", LIBRARIES)
def test_adapters_pass_parameters_as_arguments(classifiers, expected, library):
    classifier, images = classifiers[library], expected[0]
    constants = jax.make_jaxpr(classifier.apply)(classifier.params, images).consts
    assert sum(np.size(constant) for constant in constants) <= 2 * 3  # Of the normalisation.
    traces = []

    @jax.jit
    def logits(classifier, images):
        traces.append(None)
        return classifier.apply(classifier.params, images)

    def is_number(leaf):
        return jnp.issubdtype(leaf.dtype, jnp.floating)

    doubled = jax.tree.map(lambda x: 2 * x if is_number(x) else x, classifier.params)
    before = logits(classifier, images)
    after = logits(classifier.replace(params=doubled), images)
    assert len(traces) == 1
    assert float(jnp.abs(after - before).max()) > 0.1


@pytest.mark.parametrize("library", LIBRARIES)
def test_adapters_network_passes_the_check(classifiers, expected, library):
    assert classifiers[library].check(expected[0]) == ()


def test_from_function_accepts_a_function_of_images_alone(weights, expected):
    images, logits, _ = expected
    classifier = adapters.from_function(
        lambda images: function(weights, SEEN(images)),
        name="mine", class_names=list("abcd"), image_size=(16, 16),
    )  # fmt: skip
    assert classifier.params == ()
    np.testing.assert_allclose(classifier.apply((), images), logits, atol=1e-5)
    assert (classifier.name, classifier.image_size) == ("mine", (16, 16))
    assert classifier.class_names == ("a", "b", "c", "d")


def test_adapters_names_are_those_of_the_models(classifiers):
    names = [classifiers[library].name for library in LIBRARIES]
    assert names == ["custom", "Linen", "Nnx", "small", "Equinox"]


def test_from_linen_refuses_parameters_without_a_collection(weights):
    params = linen_variables(weights)["params"]
    with pytest.raises(ValueError, match=r"\['BatchNorm_0', .*expected `params`"):
        adapters.from_linen(Linen(), params, train=False)


def test_from_nnx_does_not_change_the_model(weights, expected):
    model = Nnx(weights)
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))
    classifier = adapters.from_nnx(model)
    jax.jit(classifier.apply)(classifier.params, expected[0])
    assert not model.dropout.deterministic
    assert not model.norm.use_running_average
    after = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
    jax.tree.map(np.testing.assert_array_equal, after, before)


class Counting(nnx.Module):
    """Counts its calls, and keeps its last output."""

    def __init__(self):
        self.dense = nnx.Linear(192, 4, rngs=nnx.Rngs(0))
        self.calls = nnx.Variable(jnp.array(0))
        self.last = nnx.Intermediate(jnp.zeros(4))

    def __call__(self, images):
        self.calls[...] += 1
        logits = 9 * self.dense(images.reshape(len(images), -1))
        self.last[...] = logits[0]
        return logits


def test_from_nnx_accepts_a_model_that_changes_its_variables():
    model, images = Counting(), jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
    classifier = adapters.from_nnx(model)

    @jax.jit
    def gradients(params, images):
        # As `explain` does, in a loop, where the state is of an outer trace.
        def gradient(image):
            return jax.grad(lambda x: classifier.apply(params, x[None])[0, 1])(image)

        return jax.lax.map(gradient, images)

    expected = 9 * model.dense.kernel[:, 1].reshape(8, 8, 3)
    for found in gradients(classifier.params, images):
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert model.calls[...] == 0


def test_adapters_name_the_parameters_that_they_expect(weights):
    variables = linen_variables(weights)
    state = TrainState.create(apply_fn=None, params=variables["params"], tx=optax.sgd(0.1))
    with pytest.raises(ValueError, match=r'are a TrainState; .*{"params": state\.params}'):
        adapters.as_classifier((Linen(), state), adapters.Known())
    model = Nnx(weights)
    with pytest.raises(ValueError, match=r"a pair \(Nnx, State\); expected the model alone"):
        adapters.as_classifier((model, nnx.state(model)), adapters.Known())


@pytest.mark.parametrize(
    ("adapt_model", "message"),
    [
        (lambda: adapters.from_nnx(Nnx), r"the class Nnx; .* of flax\.nnx\.Module"),
        (lambda: adapters.from_nnx(Linen()), r"a Linen; .* of flax\.nnx\.Module"),
        (
            lambda: adapters.from_nnx(nnx.eval_shape(lambda: nnx.Linear(2, 2, rngs=nnx.Rngs(0)))),
            "has a shape but no values",
        ),
        (lambda: adapters.from_linen(Linen, {"params": {}}), "the class Linen; .* flax.linen.Mod"),
        (
            lambda: adapters.from_linen(
                Linen(), {"params": {"w": jax.ShapeDtypeStruct((2,), jnp.float32)}}
            ),
            r"parameter \['params'\]\['w'\] has a shape but no values",
        ),
        (lambda: adapters.from_function(None), "function is None; expected a function"),
        (lambda: adapters.from_function(len, {"a": "b"}), r"parameter \['a'\] is a str; expected"),
    ],
)
def test_adapters_refuse_what_is_no_model_with_values(adapt_model, message):
    with pytest.raises(ValueError, match=message):
        adapt_model()


def test_from_keras_refuses_a_class_and_a_path(keras):
    for model, what in [(keras.Sequential, "the class Sequential"), ("model.keras", "a str")]:
        with pytest.raises(ValueError, match=rf"the model is {what}; .* of keras\.Model"):
            adapters.from_keras(model)


def test_from_keras_refuses_another_backend(keras, weights, monkeypatch):
    model = make_keras(keras, weights)
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match=r"keras runs on 'torch'.*KERAS_BACKEND=jax"):
        adapters.from_keras(model)


def test_from_keras_refuses_a_model_without_variables(keras):
    with pytest.raises(ValueError, match="'late' is not built"):
        adapters.from_keras(keras.Sequential([keras.layers.Dense(2)], name="late"))


def test_from_keras_accepts_a_model_without_training_argument(keras):
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dropout, self.dense = keras.layers.Dropout(0.5), keras.layers.Dense(2)

        def call(self, images):
            return self.dense(self.dropout(keras.ops.mean(images, (2, 3))))

    model, images = Model(), jax.random.uniform(jax.random.key(0), (3, 4, 4, 3))
    expected = model(images.transpose(0, 3, 1, 2))
    classifier = adapters.from_keras(model, channels_first=True)
    np.testing.assert_allclose(classifier.apply(classifier.params, images), expected, atol=1e-6)


def test_from_equinox_accepts_a_stateless_channels_last_model():
    def model(image, *, scale):
        assert image.shape == (4, 5, 3)
        return scale * image.mean((0, 1))

    classifier = adapters.from_equinox(model, channels_first=False, scale=2.0)
    logits = classifier.apply(classifier.params, jnp.full((7, 4, 5, 3), 0.5))
    np.testing.assert_allclose(logits, np.ones((7, 3)))


# A network on the host, as PyTorch's is: tanh(pixels @ WEIGHTS), images channels first.

WEIGHTS = np.random.default_rng(0).normal(size=(2 * 4 * 4, 3)).astype(np.float32)


def host_logits(images):
    return np.tanh(images.reshape(len(images), -1) @ WEIGHTS)


def host_gradient(images, cotangents):
    slopes = cotangents * (1.0 - host_logits(images) ** 2)
    return (slopes @ WEIGHTS.T).reshape(images.shape)


@pytest.fixture
def host():
    """`(classifier, the same network in JAX, list of the batch sizes the host has seen)`."""
    sizes = []

    def forward(images):
        sizes.append(len(images))
        return host_logits(images)

    apply = _host_classifier(forward, host_gradient, 3)
    classifier = adapt(apply, (), "host", (), None, None, channels_first=True)

    def in_jax(params, images):
        return jnp.tanh(images.transpose(0, 3, 1, 2).reshape(len(images), -1) @ params)

    return classifier, cfx_jax.Classifier(params=jnp.asarray(WEIGHTS), apply=in_jax), sizes


def test_host_classifier_has_gradients_and_maps(host):
    classifier, same, sizes = host
    images = jax.random.uniform(jax.random.key(2), (2, 3, 5, 4, 4, 2))
    mapped = jax.vmap(jax.vmap(logits_and_gradient, (None, 0)), (None, 0))
    expected = mapped(same, images)
    found = mapped(classifier, images)
    # First once in the open.
    assert sizes == [1, 2 * 3 * 5]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    # A cotangent that is the same for all images.
    _, pull = jax.vjp(lambda x: classifier.apply((), x), images[0, 0])
    _, pull_same = jax.vjp(lambda x: same.apply(same.params, x), images[0, 0])
    rows = jax.random.normal(jax.random.key(3), (6, 5, 3))
    np.testing.assert_allclose(jax.vmap(pull)(rows)[0], jax.vmap(pull_same)(rows)[0], atol=1e-5)


def test_explain_accepts_a_host_classifier(host):
    classifier, same, _ = host
    images = jax.random.uniform(jax.random.key(4), (2, 4, 4, 2))
    keep_prob = explain(same, images)
    assert float(jnp.ptp(keep_prob)) > 0.05
    np.testing.assert_allclose(explain(classifier, images), keep_prob, atol=1e-4)


def test_host_classifier_names_a_wrong_number_of_classes(host):
    apply = _host_classifier(host_logits, host_gradient, 4)
    classifier = cfx_jax.Classifier(params=(), apply=apply)
    (finding,) = classifier.check(np.full((2, 2, 4, 4), 0.5, np.float32))
    assert "returns shape (1, 3); expected (1, 4)" in finding.problem


class Tensor:
    """As much of a tensor of PyTorch as the adapter may use; `source` is what it is computed of."""

    def __init__(self, array, requires_grad=False, source=None):
        self.array, self.device, self.dtype = array, "here", array.dtype
        self.requires_grad, self.source = requires_grad, source

    @property
    def shape(self):
        return self.array.shape

    def is_floating_point(self):
        return self.array.dtype.kind == "f"

    def numel(self):
        return self.array.size

    def to(self, device, dtype, copy):
        assert device == "here"
        assert copy
        followed = self if self.requires_grad else self.source
        return Tensor(self.array.astype(dtype), source=followed)

    def sub_(self, number):
        assert not self.requires_grad, "a leaf Variable is being used in an in-place operation"
        self.array -= self.array.dtype.type(number)
        return self

    def float(self):
        return Tensor(self.array.astype(np.float32))

    def double(self):
        return Tensor(self.array.astype(np.float64))

    def detach(self):
        return Tensor(self.array)

    def cpu(self):
        return self

    def numpy(self):
        assert self.source is None, "a tensor that needs a gradient has no array"
        return self.array


class TorchLike:
    """The network on the host as a module of PyTorch, in training mode."""

    def __init__(self, dtype=np.float32, before=lambda images: None, after=lambda logits: logits):
        self.training, self.dtype, self.before, self.after = True, dtype, before, after

    def eval(self):
        self.training = False

    def state_dict(self):
        return {"weights": Tensor(WEIGHTS.astype(self.dtype)), "note": "no tensor"}

    def parameters(self):
        yield Tensor(WEIGHTS.astype(self.dtype))

    def __call__(self, images):
        assert not self.training
        assert images.dtype == self.dtype, "input and weights should be of the same type"
        self.before(images)
        followed = images.source if sys.modules["torch"].is_grad_enabled else None
        logits = host_logits(images.array.astype(np.float32)).astype(self.dtype)
        return self.after(Tensor(logits, source=followed))


def test_from_torch_identifies_a_module_by_its_weights(torch):
    same, again, other = (
        adapters.from_torch(TorchLike(dtype), 3).host_weights
        for dtype in (np.float32, np.float32, np.float64)
    )
    assert same == again
    assert same != other
    assert len(same) == 64


@pytest.mark.parametrize("first", [np.float16, np.int8])
def test_from_torch_passes_images_in_the_type_of_the_largest_weights(torch, host, first):
    class Mixed(TorchLike):
        def parameters(self):
            yield Tensor(np.zeros(3, first))
            yield from super().parameters()

    images = jax.random.uniform(jax.random.key(5), (3, 4, 4, 2))
    for ours, theirs in zip(
        logits_and_gradient(adapters.from_torch(Mixed(), 3), images),
        logits_and_gradient(host[1], images), strict=True,
    ):  # fmt: skip
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.fixture
def torch(monkeypatch):
    """Stands in for PyTorch, which the tests do not install: made of NumPy, strict like it."""
    torch = types.ModuleType("torch")
    torch.is_grad_enabled, torch.is_inference = True, False

    @contextlib.contextmanager
    def grad_mode(value):
        before, torch.is_grad_enabled = torch.is_grad_enabled, value
        yield
        torch.is_grad_enabled = before

    @contextlib.contextmanager
    def inference_mode(mode=True):
        before, torch.is_inference = torch.is_inference, mode
        yield
        torch.is_inference = before

    def tensor(data, device, dtype=np.float32, requires_grad=False):
        assert not (requires_grad and torch.is_inference), "inference tensors have no gradient"
        assert isinstance(data, np.ndarray)
        assert device == "here"
        return Tensor(np.array(data, dtype), requires_grad)

    def grad(outputs, inputs, grad_outputs, materialize_grads):
        assert not torch.is_inference, "element 0 of tensors does not require grad"
        assert outputs.source is inputs, "element 0 of tensors does not require grad"
        assert materialize_grads
        assert grad_outputs.dtype == outputs.dtype
        return (Tensor(host_gradient(inputs.array, grad_outputs.array).astype(inputs.dtype)),)

    torch.Tensor, torch.float32, torch.inference_mode = Tensor, np.float32, inference_mode
    torch.no_grad, torch.enable_grad = lambda: grad_mode(False), lambda: grad_mode(True)
    torch.tensor, torch.zeros = tensor, lambda shape: Tensor(np.zeros(shape, np.float32))
    torch.autograd = types.SimpleNamespace(grad=grad)
    monkeypatch.setitem(sys.modules, "torch", torch)
    return torch


@pytest.mark.parametrize("is_grad_enabled", [True, False])
def test_from_torch_stand_in_keeps_logits_and_gradients(torch, host, is_grad_enabled):
    torch.is_grad_enabled = is_grad_enabled
    images = jax.random.uniform(jax.random.key(5), (3, 4, 4, 2))
    classifier = adapters.from_torch(TorchLike(), 3, class_names="abc", image_size=(4, 4))
    for ours, theirs in zip(
        logits_and_gradient(classifier, images), logits_and_gradient(host[1], images), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert torch.is_grad_enabled == is_grad_enabled
    assert (classifier.name, classifier.class_names) == ("TorchLike", ("a", "b", "c"))
    assert (classifier.image_size, classifier.params) == ((4, 4), ())


def test_from_torch_computes_gradients_in_inference_mode(torch, host):
    images = jax.random.uniform(jax.random.key(5), (3, 4, 4, 2))
    classifier = adapters.from_torch(TorchLike(), 3)
    with torch.inference_mode():
        found = logits_and_gradient(classifier, images)
        assert torch.is_inference
    for ours, theirs in zip(found, logits_and_gradient(host[1], images), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


class Exported(TorchLike):
    """A module of `torch.export`, whose mode is fixed."""

    def eval(self):
        raise NotImplementedError("Calling eval() is not supported yet.")


def test_from_torch_accepts_an_exported_module(torch, host):
    module, images = Exported(), jax.random.uniform(jax.random.key(5), (3, 4, 4, 2))
    module.training = False
    found = logits_and_gradient(adapters.from_torch(module, 3), images)
    for ours, theirs in zip(found, logits_and_gradient(host[1], images), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_from_torch_refuses_what_is_no_module(torch):
    with pytest.raises(ValueError, match=r"a dict is no torch\.nn\.Module; .* load a state dict"):
        adapters.from_torch(TorchLike().state_dict(), 3)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("is_meta", True, "has no values"), ("layout", "torch.sparse_coo", "is torch.sparse_coo")],
)
def test_from_torch_refuses_tensors_without_dense_values(torch, monkeypatch, field, value, message):
    monkeypatch.setattr(Tensor, field, value, raising=False)
    with pytest.raises(
        ValueError, match=rf"the tensor \w+ of the module {message}; expected dense"
    ):
        adapters.from_torch(TorchLike(), 3)


Output = collections.namedtuple("Output", "hidden logits")
OTHER = Tensor(np.zeros((1, 7), np.float32))


@pytest.mark.parametrize(
    ("options", "shift"),
    [
        ({"after": lambda logits: types.SimpleNamespace(logits=logits)}, 0.0),
        ({"after": lambda logits: Output(OTHER, logits)}, 0.0),
        ({"after": lambda logits: {"hidden": OTHER, "logits": logits}}, 0.0),
        ({"after": lambda logits: (logits,)}, 0.0),
        ({"after": lambda logits: [OTHER, logits, None]}, 0.0),
        ({"dtype": np.float16}, 0.0),
        ({"dtype": np.float64}, 0.0),
        ({"before": lambda images: images.sub_(0.5)}, 0.5),
    ],
    ids=["object", "namedtuple", "dict", "tuple of one", "list", "half", "double", "in place"],
)
def test_from_torch_accepts_many_kinds_of_modules(torch, host, options, shift):
    images = jax.random.uniform(jax.random.key(5), (3, 4, 4, 2))
    classifier = adapters.from_torch(TorchLike(**options), 3)
    assert classifier.check(images) == ()
    atol = 0.02 if options.get("dtype") == np.float16 else 1e-5
    logits = classifier.apply(classifier.params, images)
    np.testing.assert_allclose(logits, host[1].apply(host[1].params, images - shift), atol=atol)


def fail(*_):
    raise RuntimeError("shapes cannot be multiplied\n(1x5 and 6x7)")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"after": lambda logits: (logits, logits)}, r"a tuple of tensors of shapes \[\(1, 3\), "),
        ({"after": lambda logits: None}, r"the module returns a NoneType; .*\[N, 3\]: wrap it"),
        (
            {"after": lambda logits: {"hidden": OTHER}},
            "the module returns a dict; expected one tensor",
        ),
        ({"after": lambda logits: OTHER}, r"returns shape \(1, 7\); expected \(1, 3\)"),
        ({"before": fail}, r"raises RuntimeError: shapes .* \(1x5 and 6x7\), for images \[1, 2"),
        ({"after": lambda logits: Tensor(logits.array)}, "backward pass .* not require grad"),
    ],
    ids=["two", "none", "dict", "classes", "raises", "detached"],
)
def test_from_torch_reports_module_errors_in_one_line(torch, options, message, capfd):
    images = jax.random.uniform(jax.random.key(5), (2, 4, 4, 2))
    classifier = adapters.from_torch(TorchLike(**options), 3)
    with pytest.raises(ValueError, match=message) as raised:
        explain(classifier, images)
    assert "\n" not in str(raised.value)
    assert len(classifier.check(images)) == 1
    assert capfd.readouterr() == ("", "")


def test_from_torch_real_module_keeps_logits_and_gradients(host):
    torch = pytest.importorskip("torch")
    linear = torch.nn.Linear(32, 3, bias=False)
    linear.weight.data = torch.tensor(WEIGHTS.T.copy())
    module = torch.nn.Sequential(torch.nn.Flatten(), linear, torch.nn.Tanh(), torch.nn.Dropout())
    images = jax.random.uniform(jax.random.key(5), (3, 4, 4, 2))
    for ours, theirs in zip(
        logits_and_gradient(adapters.from_torch(module, 3), images),
        logits_and_gradient(host[1], images), strict=True,
    ):  # fmt: skip
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_from_torch_real_exported_module_works_in_inference_mode():
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(32, 3), torch.nn.Tanh()).eval()
    shapes = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(module, (torch.zeros(2, 2, 4, 4),), dynamic_shapes=shapes)
    images = jax.random.uniform(jax.random.key(5), (3, 4, 4, 2))
    expected = logits_and_gradient(adapters.from_torch(module, 3), images)
    with torch.inference_mode():
        found = logits_and_gradient(adapters.from_torch(exported.module(), 3), images)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    with pytest.raises(ValueError, match="ExportedProgram"):
        adapters.as_classifier(exported, adapters.Known(image_size=(4, 4)))
