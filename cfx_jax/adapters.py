"""Trained classifiers of other libraries, or plain functions, as a `Classifier`.

The libraries are optional: none is imported before its function is called.

    from cfx_jax import adapters
    from cfx_jax.classifiers import NORMALIZATIONS

    classifier = adapters.from_linen(module, variables, normalization=NORMALIZATIONS["imagenet"])
    print(classifier.check(images))  # What is wrong with it.
    explanation = cfx_jax.explain(key, classifier, generator, images)

Keep the `Classifier`: every call of an adapter makes a new `apply`, and programs are compiled for
each.
"""

import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax.classifiers import Classifier, Normalization

Apply = Callable[[Any, jax.Array], Any]


def from_function(
    function: Callable[..., jax.Array],
    params: Any = None,
    *,
    name: str = "custom",
    class_names: Sequence[str] = (),
    image_size: tuple[int, int] | None = None,
    normalization: Normalization | None = None,
) -> Classifier:
    """Adapts a function that gives logits.

    Args:
        function: `function(params, images) -> logits [N, K]` if `params` are given, else
            `function(images) -> logits`. What it closes over becomes part of every compiled
            program: give large weights as `params`.
        params: any pytree of arrays, or None.
        name: shown in records and reports.
        class_names: one for each class, or none.
        image_size: the `(H, W)` it was trained for, or None when any size will do.
        normalization: what it was trained to see; None gives it the images as they are, in [0, 1].

    Returns:
        A `Classifier` of images `[N, H, W, C]` in [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> from cfx_jax import adapters
        >>> classifier = adapters.from_function(lambda images: images.mean((1, 2)))
        >>> classifier.apply(classifier.params, jnp.ones((2, 8, 8, 3))).shape
        (2, 3)
    """

    def ignoring_params(_: Any, images: jax.Array) -> jax.Array:
        return function(images)

    return _classifier(
        ignoring_params if params is None else function,
        () if params is None else params,
        name,
        class_names,
        image_size,
        normalization,
    )


def from_linen(
    module: Any,
    variables: Mapping[str, Any],
    *,
    name: str = "",
    class_names: Sequence[str] = (),
    image_size: tuple[int, int] | None = None,
    normalization: Normalization | None = None,
    **kwargs: Any,
) -> Classifier:
    """Adapts a `flax.linen` module.

    Args:
        module: gives logits, before softmax.
        variables: its collections, `params` and for example `batch_stats`.
        name: shown in records and reports; that of the class if empty.
        class_names: as in `from_function`.
        image_size: as in `from_function`.
        normalization: as in `from_function`.
        **kwargs: passed to the module, for example `train=False` or `deterministic=True`.

    Returns:
        A `Classifier` whose parameters are all the variables.

    Raises:
        ValueError: `variables` have no collection `params`.
    """
    if variables and "params" not in variables:
        raise ValueError(
            f"variables have the collections {sorted(variables)}; expected `params` among them: "
            'parameters alone are given as {"params": params}'
        )

    def apply(variables: Any, images: jax.Array) -> Any:
        return module.apply(variables, images, mutable=False, **kwargs)

    name = name or type(module).__name__
    return _classifier(apply, variables, name, class_names, image_size, normalization)


def from_nnx(
    model: Any,
    *,
    name: str = "",
    class_names: Sequence[str] = (),
    image_size: tuple[int, int] | None = None,
    normalization: Normalization | None = None,
    **kwargs: Any,
) -> Classifier:
    """Adapts a `flax.nnx` module, a copy of which is put into evaluation mode.

    Args:
        model: gives logits, before softmax; it is left as it is.
        name: shown in records and reports; that of the class if empty.
        class_names: as in `from_function`.
        image_size: as in `from_function`.
        normalization: as in `from_function`.
        **kwargs: passed to every call of the model.

    Returns:
        A `Classifier` whose parameters are the state of the model.
    """
    from flax import nnx

    model = nnx.clone(model)
    model.eval()
    graph, state = nnx.split(model)

    def apply(state: Any, images: jax.Array) -> Any:
        # A model of its own in every trace: whatever a call changes in it is forgotten.
        return nnx.merge(graph, state)(images, **kwargs)

    name = name or type(model).__name__
    return _classifier(apply, state, name, class_names, image_size, normalization)


def from_keras(
    model: Any,
    *,
    name: str = "",
    class_names: Sequence[str] = (),
    image_size: tuple[int, int] | None = None,
    normalization: Normalization | None = None,
    channels_first: bool = False,
) -> Classifier:
    """Adapts a Keras 3 model, called with `training=False`.

    Keras has to run on JAX: set the environment variable `KERAS_BACKEND=jax` before it is first
    imported. Most published Keras models end in a softmax: build them with
    `classifier_activation=None`. Some normalise by themselves and want images in [0, 255]: give
    `Normalization(mean=(0.0,), std=(1 / 255,))`.

    Args:
        model: built, gives logits, before softmax.
        name: shown in records and reports; that of the model if empty.
        class_names: as in `from_function`.
        image_size: as in `from_function`.
        normalization: as in `from_function`.
        channels_first: whether the model takes `[N, C, H, W]`.

    Returns:
        A `Classifier` whose parameters are the variables of the model, as they are now.

    Raises:
        ValueError: Keras runs on another backend, or the model is not built.
    """
    import keras

    if (backend := keras.backend.backend()) != "jax":
        raise ValueError(
            f"keras runs on {backend!r}; expected 'jax': set the environment variable "
            "KERAS_BACKEND=jax before keras is first imported"
        )
    if not model.built:
        raise ValueError(
            f"the keras model {model.name!r} is not built and has no variables yet: call it once"
        )
    variables = {
        "trainable": [variable.value for variable in model.trainable_variables],
        "non_trainable": [variable.value for variable in model.non_trainable_variables],
    }
    # Passed to `call` as it is, which may not know it; then the layers are not training either.
    knows_training = "training" in inspect.signature(model.call).parameters
    mode = {"training": False} if knows_training else {}

    def apply(variables: Any, images: jax.Array) -> Any:
        arrays = (variables["trainable"], variables["non_trainable"])
        return model.stateless_call(*arrays, images, **mode)[0]

    return _classifier(
        apply,
        variables,
        name or model.name,
        class_names,
        image_size,
        normalization,
        channels_first,
    )


def from_equinox(
    model: Any,
    state: Any = None,
    *,
    name: str = "",
    class_names: Sequence[str] = (),
    image_size: tuple[int, int] | None = None,
    normalization: Normalization | None = None,
    channels_first: bool = True,
    **kwargs: Any,
) -> Classifier:
    """Adapts an Equinox model of one image, put into inference mode.

    Args:
        model: `model(image) -> logits [K]`, before softmax, or `model(image, state) -> (logits,
            state)` if `state` is given.
        state: of a model from `equinox.nn.make_with_state`, for example one with `BatchNorm`.
        name: shown in records and reports; that of the class if empty.
        class_names: as in `from_function`.
        image_size: as in `from_function`.
        normalization: as in `from_function`.
        channels_first: whether the model takes `[C, H, W]`, as the layers of Equinox do.
        **kwargs: passed to every call of the model, for example `key=None`.

    Returns:
        A `Classifier` whose parameters are the arrays of the model and of its state.
    """
    import equinox as eqx

    # Arrays of NumPy too, which would otherwise become constants of the compiled program.
    arrays, rest = eqx.partition(
        (eqx.nn.inference_mode(model), state),
        lambda leaf: isinstance(leaf, (jax.Array, np.ndarray)),
    )

    def apply(arrays: Any, images: jax.Array) -> Any:
        model, state = eqx.combine(arrays, rest)

        def one(image: jax.Array) -> Any:
            if state is None:
                return model(image, **kwargs)
            return model(image, state, **kwargs)[0]

        return jax.vmap(one)(images)

    return _classifier(
        apply,
        arrays,
        name or type(model).__name__,
        class_names,
        image_size,
        normalization,
        channels_first,
    )


def from_torch(
    module: Any,
    num_classes: int,
    *,
    name: str = "",
    class_names: Sequence[str] = (),
    image_size: tuple[int, int] | None = None,
    normalization: Normalization | None = None,
    channels_first: bool = True,
) -> Classifier:
    """Adapts a PyTorch module that cannot be ported: JAX calls it back on the host.

    Slower than a port: images and gradients go through the host, and the backward pass repeats the
    forward pass. PyTorch computes where the module is. The weights stay in the module and are not
    parameters of the `Classifier`: programs see them change. Calls are made one at a time, from
    threads of JAX; do not train the module meanwhile, nor put it back into training mode. With
    several simulated CPU devices, use one: a program on all of them (`pmap`) may wait forever.

    Args:
        module: gives float32 logits `[N, num_classes]`, before softmax; it is put into evaluation
            mode.
        num_classes: K, at least 2.
        name: shown in records and reports; that of the class if empty.
        class_names: as in `from_function`.
        image_size: as in `from_function`.
        normalization: as in `from_function`.
        channels_first: whether the module takes `[N, C, H, W]`.

    Returns:
        A `Classifier` without parameters.
    """
    import torch

    module.eval()
    weights = next(module.parameters(), torch.zeros(()))

    def forward(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(torch.tensor(images, device=weights.device)).float().cpu().numpy()

    def backward(images: np.ndarray, cotangents: np.ndarray) -> np.ndarray:
        leaves = torch.tensor(images, device=weights.device, requires_grad=True)
        # Gradients may be switched off around the call.
        with torch.enable_grad():
            logits = module(leaves)
        given = torch.tensor(cotangents, device=logits.device, dtype=logits.dtype)
        gradient = torch.autograd.grad(logits, leaves, given, materialize_grads=True)[0]
        return gradient.cpu().numpy()

    return _classifier(
        _host_classifier(forward, backward, num_classes),
        (),
        name or type(module).__name__,
        class_names,
        image_size,
        normalization,
        channels_first,
    )


def _classifier(
    apply: Apply,
    params: Any,
    name: str,
    class_names: Sequence[str],
    image_size: tuple[int, int] | None,
    normalization: Normalization | None,
    channels_first: bool = False,
) -> Classifier:
    """Puts normalisation and layout of the images before `apply`, float32 behind it."""

    def adapted(params: Any, images: jax.Array) -> Any:
        if normalization is not None:
            images = normalization(images)
        if channels_first:
            images = jnp.moveaxis(images, -1, 1)
        # Whatever else is returned passes too, for the checks to name it.
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), apply(params, images))

    return Classifier(
        params=jax.device_put(params),
        apply=adapted,
        name=name,
        class_names=tuple(class_names),
        image_size=image_size,
    )


def _host_classifier(
    forward: Callable[[np.ndarray], np.ndarray],
    backward: Callable[[np.ndarray, np.ndarray], np.ndarray],
    num_classes: int,
) -> Apply:
    """Makes NumPy functions on the host differentiable and mappable in JAX.

    Args:
        forward: images float32 `[N, a, b, c]` -> logits `[N, K]`.
        backward: images and cotangents of the logits float32 `[N, K]` -> gradients of the images.
        num_classes: K.

    Returns:
        `apply(params, images) -> logits` that ignores its parameters. `vmap` adds to the batch: the
        host is called once, whatever the number of axes.
    """
    lock = threading.Lock()

    def call(
        function: Callable[..., np.ndarray], tail: tuple[int, ...], *arrays: Any
    ) -> np.ndarray:
        lead = arrays[0].shape[:-3]
        # NumPy before the lock: no other thread may wait for JAX while it is held.
        folded = [np.asarray(array) for array in arrays]
        folded = [array.reshape(-1, *array.shape[len(lead) :]) for array in folded]
        with lock:
            result = np.asarray(function(*folded), np.float32)
        expected = (len(folded[0]), *tail)
        if result.shape != expected:
            raise ValueError(
                f"the module on the host returns shape {result.shape}; expected {expected}"
            )
        return result.reshape(*lead, *tail)

    def on_host(
        function: Callable[..., np.ndarray], tail: tuple[int, ...], *arrays: jax.Array
    ) -> jax.Array:
        result = jax.ShapeDtypeStruct((len(arrays[0]), *tail), jnp.float32)
        return jax.pure_callback(
            lambda *arrays: call(function, tail, *arrays),
            result,
            *arrays,
            vmap_method="broadcast_all",
        )

    @jax.custom_vjp
    def logits(images: jax.Array) -> jax.Array:
        return on_host(forward, (num_classes,), images)

    def logits_forward(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        return logits(images), images

    def logits_backward(images: jax.Array, cotangents: jax.Array) -> tuple[jax.Array]:
        return (on_host(backward, images.shape[1:], images, cotangents),)

    logits.defvjp(logits_forward, logits_backward)
    return lambda params, images: logits(images)
