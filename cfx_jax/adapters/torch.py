"""Adapts PyTorch modules, which JAX calls back on the host."""

import contextlib
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

_DENSE = "torch.strided"


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
    """Adapts a PyTorch module that cannot be ported; JAX calls it back on the host.

    This is slower than a port: images and gradients pass through the host, and the backward pass
    repeats the forward pass. PyTorch computes on the device of the module. The weights stay in the
    module and are not parameters of the `Classifier`, so compiled programs use changed weights. JAX
    calls the module from its own threads, one call at a time; meanwhile do not train the module or
    put it back into training mode. With several simulated CPU devices, use only one, because a
    program on all of them (`pmap`) may wait forever.

    Args:
        module: module that returns logits `[N, num_classes]`, before softmax, of any floating type,
            or an object with a field `logits`, or a tuple with one tensor of that shape. It is put
            into evaluation mode, unless it is exported, and gets a copy of the images, in the type
            of its largest weights.
        num_classes: number of classes K, at least 2.
        name: name in records and reports; "" = the name of the class.
        class_names: one name per class, as in `from_function`.
        image_size: image size `(H, W)`, as in `from_function`.
        normalization: normalisation of the images, as in `from_function`.
        channels_first: whether the module takes `[N, C, H, W]`.

    Returns:
        A `Classifier` without parameters. For images of a new shape, it first calls the module once
        on zeros, and reports an exception of the module as a `ValueError` in one line.

    Raises:
        ValueError: `module` is not a module, for example a state dict or an exported program.
    """
    import torch

    evaluation_mode(module)
    weights = [p for p in module.parameters() if p.is_floating_point()] or [torch.zeros(())]
    device = weights[0].device
    # Some layers of a network may have another type, such as norms in float32.
    dtype = max(weights, key=lambda tensor: tensor.numel()).dtype

    def classify(images: Any) -> Any:
        # A copy that is not a leaf tensor, because the module may change its input in place.
        output = module(images.to(device, dtype, copy=True))
        return _find_logits(output, torch.Tensor, num_classes)

    def forward(images: np.ndarray) -> np.ndarray:
        # The caller may be in inference mode, whose tensors have no gradients.
        with torch.inference_mode(False), torch.no_grad():
            return classify(torch.tensor(images, device=device)).float().cpu().numpy()

    def backward(images: np.ndarray, cotangents: np.ndarray) -> np.ndarray:
        # Gradients may be disabled around the call.
        with torch.inference_mode(False), torch.enable_grad():
            leaves = torch.tensor(images, device=device, requires_grad=True)
            logits = classify(leaves)
            cotangent = torch.tensor(cotangents, device=logits.device, dtype=logits.dtype)
            gradient = torch.autograd.grad(logits, leaves, cotangent, materialize_grads=True)[0]
        return gradient.cpu().numpy()

    apply = _host_classifier(forward, backward, num_classes)
    name = name or type(module).__name__
    adapted = adapt(apply, (), name, class_names, image_size, normalization, channels_first)
    return dataclasses.replace(adapted, host_weights=_digest(module.state_dict()))


def evaluation_mode(module: Any) -> None:
    """Puts a PyTorch module into evaluation mode, unless it is exported.

    Raises:
        ValueError: the object is not a module.
    """
    if not callable(getattr(module, "eval", None)):
        raise ValueError(
            f"a {type(module).__name__} is no torch.nn.Module; expected one: load a state dict "
            "into its module, and call module() of an exported program"
        )
    # A module of `torch.export` keeps the mode in which it was exported.
    with contextlib.suppress(NotImplementedError):
        module.eval()


def _digest(state: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of the names, types, shapes and values of tensors."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        if isinstance(tensor, torch.Tensor):
            is_meta = getattr(tensor, "is_meta", False)
            layout = str(getattr(tensor, "layout", _DENSE))
            if is_meta or layout != _DENSE:
                kind = "has no values" if is_meta else f"is {layout}"
                raise ValueError(
                    f"the tensor {name} of the module {kind}; expected dense tensors with values: "
                    "load the weights into the module"
                )
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            # float64 represents the values of all types, and NumPy supports it.
            digest.update(tensor.detach().double().cpu().numpy().tobytes())
    return digest.hexdigest()


def _find_logits(output: Any, tensor: type[Any], num_classes: int) -> Any:
    """Returns the logits in the output of a module.

    The logits are the output itself, its field `logits`, or the only tensor with a fitting shape.
    """
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
        f"the module returns a {type(output).__name__}{of_shapes}; expected one tensor of logits "
        f"[N, {num_classes}]: wrap it in a module that returns the logits alone"
    )


def _host_classifier(
    forward: Callable[[np.ndarray], np.ndarray],
    backward: Callable[[np.ndarray, np.ndarray], np.ndarray],
    num_classes: int,
) -> Apply:
    """Makes NumPy functions on the host differentiable and mappable in JAX.

    Args:
        forward: function of images, float32 `[N, a, b, c]`, that returns logits `[N, K]`.
        backward: function of images and of cotangents of the logits, float32 `[N, K]`, that returns
            gradients of the images.
        num_classes: number of classes K.

    Returns:
        Function `apply(params, images) -> logits` that ignores its parameters. Axes of `vmap` are
        merged into the batch, so that the host is called once for any number of axes.
    """
    lock = threading.Lock()
    tried: set[tuple[tuple[int, ...], ...]] = set()

    def call(
        function: Callable[..., np.ndarray], tail: tuple[int, ...], *arrays: Any
    ) -> np.ndarray:
        lead = arrays[0].shape[:-3]
        # Convert before taking the lock, since the conversion may wait for other JAX threads.
        folded = [np.asarray(array) for array in arrays]
        folded = [array.reshape(-1, *array.shape[len(lead) :]) for array in folded]
        expected = (len(folded[0]), *tail)
        try:
            with lock:
                result = np.asarray(function(*folded), np.float32)
        except Exception as error:  # A user-defined model can raise any exception.
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
        # First call outside of a program, since an error inside a program has pages of traceback.
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
