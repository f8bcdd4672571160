"""A PyTorch module, called back on the host, as a `Classifier`."""

import dataclasses
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax.adapters._common import Apply, adapt
from cfx_jax.classifiers import Classifier, Normalization


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
        module: gives logits `[N, num_classes]`, before softmax, of any floating type, or an object
            with a field `logits`, or a tuple with one tensor of that shape; it is put into
            evaluation mode, and sees images in the type of its weights, a copy at each call.
        num_classes: K, at least 2.
        name: shown in records and reports; that of the class if empty.
        class_names: as in `from_function`.
        image_size: as in `from_function`.
        normalization: as in `from_function`.
        channels_first: whether the module takes `[N, C, H, W]`.

    Returns:
        A `Classifier` without parameters. Applied to images of a new shape, it calls the module
        once on zeros, and raises a `ValueError` in one line for what it raises.
    """
    import torch

    module.eval()
    weights = next(module.parameters(), torch.zeros(()))
    dtype = weights.dtype if weights.is_floating_point() else torch.float32

    def classify(images: Any) -> Any:
        # A copy, not a leaf: the module may change in place what it is given.
        output = module(images.to(weights.device, dtype, copy=True))
        return _find_logits(output, torch.Tensor, num_classes)

    def forward(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return classify(torch.tensor(images, device=weights.device)).float().cpu().numpy()

    def backward(images: np.ndarray, cotangents: np.ndarray) -> np.ndarray:
        leaves = torch.tensor(images, device=weights.device, requires_grad=True)
        # Gradients may be switched off around the call.
        with torch.enable_grad():
            logits = classify(leaves)
        given = torch.tensor(cotangents, device=logits.device, dtype=logits.dtype)
        gradient = torch.autograd.grad(logits, leaves, given, materialize_grads=True)[0]
        return gradient.cpu().numpy()

    adapted = adapt(
        _host_classifier(forward, backward, num_classes),
        (),
        name or type(module).__name__,
        class_names,
        image_size,
        normalization,
        channels_first,
    )
    return dataclasses.replace(adapted, host_weights=_digest(module.state_dict()))


def _digest(state: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of the names, types, shapes and values of tensors."""
    import torch

    found = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        if isinstance(tensor, torch.Tensor):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            # Which holds the values of all types, and is known to NumPy.
            found.update(tensor.detach().double().cpu().numpy().tobytes())
    return found.hexdigest()


def _find_logits(output: Any, tensor: type[Any], num_classes: int) -> Any:
    """Returns the logits in what a module returns: itself, its `logits`, or the one that fits."""
    if isinstance(output, tensor):
        return output
    named = output.get("logits") if isinstance(output, Mapping) else None
    named = getattr(output, "logits", None) if named is None else named
    if isinstance(named, tensor):
        return named
    listed = output if isinstance(output, tuple | list) else ()
    parts = [part for part in listed if isinstance(part, tensor)]
    shapes = [tuple(part.shape) for part in parts]
    fitting = [part for part in parts if tuple(part.shape[1:]) == (num_classes,)]
    if len(fitting) == 1:
        return fitting[0]
    of_shapes = f" of tensors of shapes {shapes}" if shapes else ""
    raise TypeError(
        f"it returns a {type(output).__name__}{of_shapes}; expected one tensor of logits "
        f"[N, {num_classes}]: wrap it in a module that returns the logits alone"
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
    tried: set[tuple[tuple[int, ...], ...]] = set()

    def call(
        function: Callable[..., np.ndarray], tail: tuple[int, ...], *arrays: Any
    ) -> np.ndarray:
        lead = arrays[0].shape[:-3]
        # NumPy before the lock: no other thread may wait for JAX while it is held.
        folded = [np.asarray(array) for array in arrays]
        folded = [array.reshape(-1, *array.shape[len(lead) :]) for array in folded]
        expected = (len(folded[0]), *tail)
        try:
            with lock:
                result = np.asarray(function(*folded), np.float32)
        except Exception as error:  # Whatever a foreign model raises.
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ValueError(
                f"the {function.__name__} pass of the module on the host raises {reason}, for "
                f"images {list(folded[0].shape)}; call the module on such images to see where"
            ) from None
        if result.shape != expected:
            raise ValueError(
                f"the module on the host returns shape {result.shape}; expected {expected}"
            )
        return result.reshape(*lead, *tail)

    def on_host(
        function: Callable[..., np.ndarray], tail: tuple[int, ...], *arrays: jax.Array
    ) -> jax.Array:
        # Once in the open: what fails within a program comes with pages of that.
        shapes = tuple(array.shape[1:] for array in arrays)
        if shapes not in tried:
            call(function, tail, *(np.zeros((1, *shape), np.float32) for shape in shapes))
            tried.add(shapes)
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
