"""`Classifier`, the interface between the engine and the explained model."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, cast

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax import numerics
from cfx_jax.classifiers.diagnosis import Finding, diagnose
from cfx_jax.classifiers.logits import LOGIT_KINDS

INTERPOLATIONS = ("bicubic", "bilinear", "lanczos", "hamming", "box", "nearest")
CHANNEL_ORDERS = ("rgb", "bgr")


@flax.struct.dataclass
class Classifier:
    """An image classifier as a frozen value, a pytree whose leaves are its parameters.

    The leaves of `params` are the only leaves; all other fields are static. So a `Classifier` can
    be an argument of `jit`, `vmap` and `pmap`, and its weights are never constants of a compiled
    program.

    Attributes:
        params: parameters, any pytree.
        apply: pure function `apply(params, images) -> logits`. `images` is float32 `[N, H, W, C]`
            in [0, 1]; `apply` includes the normalisation. `logits` is float32 `[N, num_classes]`
            BEFORE softmax or sigmoid. Compiled programs are cached by the identity of the function,
            so pass the same function to every call (a module-level function, not a new lambda each
            time).
        name: name in records and reports.
        class_names: one name per class, or empty.
        image_size: image size `(H, W)` used in training, or None for any size.
        channels: number of channels C of the images, 3 for RGB or 1 for grey.
        crop: share of the side of the scaled image that the central crop of the training or
            evaluation keeps. Dataset runs resize images to `image_size` with this crop and
            `interpolation`.
        interpolation: filter that scales the images, one of `INTERPOLATIONS`.
        logits: kind of the logits. `"softmax"`: at least two classes that exclude each other.
            `"sigmoid"`: independent yes/no classes, or one logit of a binary classifier with the
            classes 1 and 0.
        host_weights: SHA-256 of the weights of a model that JAX calls back on the host, which are
            not in `params`; "" for a model computed by JAX. Dataset runs use a host model on one
            device of each process.
        origin: SHA-256 of the sources, besides `params`, of a model built by a user-defined
            function; "" for other models.

    Example:
        >>> import jax.numpy as jnp
        >>> def apply(params, images):
        ...     return images.reshape(len(images), -1) @ params
        >>> classifier = Classifier(params=jnp.ones((12, 2)), apply=apply)
        >>> classifier.apply(classifier.params, jnp.ones((5, 2, 2, 3))).shape
        (5, 2)
    """

    params: Any
    apply: Callable[[Any, jax.Array], jax.Array] = flax.struct.field(pytree_node=False)
    name: str = flax.struct.field(pytree_node=False, default="custom")
    class_names: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())
    image_size: tuple[int, int] | None = flax.struct.field(pytree_node=False, default=None)
    channels: int = flax.struct.field(pytree_node=False, default=3)
    crop: float = flax.struct.field(pytree_node=False, default=0.875)
    interpolation: str = flax.struct.field(pytree_node=False, default="bicubic")
    logits: str = flax.struct.field(pytree_node=False, default="softmax")
    host_weights: str = flax.struct.field(pytree_node=False, default="")
    origin: str = flax.struct.field(pytree_node=False, default="")

    if TYPE_CHECKING:
        # Flax generates this method at run time, where type checkers do not see it.
        def replace(self, **changes: Any) -> Self:
            """Returns a copy with other fields."""

    def __post_init__(self) -> None:
        """Raises `ValueError` for a field with an invalid value."""
        for name, choices in (("logits", LOGIT_KINDS), ("interpolation", INTERPOLATIONS)):
            if (value := getattr(self, name)) not in choices:
                known = ", ".join(map(repr, choices))
                raise ValueError(f"classifier.{name} is {value!r}; expected one of {known}")
        if not 0.0 < self.crop <= 1.0:
            raise ValueError(f"classifier.crop is {self.crop!r}; expected a share above 0, up to 1")

    @numerics.jax_config(numerics.API_CONFIG)
    def check(self, images: jax.Array | np.ndarray) -> tuple[Finding, ...]:
        """Checks the classifier for common faults, with four calls on one or two images.

        The checks cover outputs of a wrong shape, probabilities instead of logits, active dropout
        or batch statistics, outputs that do not depend on the image or expect it in [0, 255],
        values and gradients that are not finite, and gradients that are zero. An exception raised
        by the classifier, and images with channels first, are findings, too.

        Args:
            images: real images, float `[N, H, W, C]` in [0, 1]; the first two are used.

        Returns:
            One `Finding(problem, advice)` per fault; empty if there is none.

        Raises:
            ValueError: the images do not have the shape `[N, H, W, C]`, or N is 0.

        Example:
            >>> import jax, jax.numpy as jnp
            >>> images = jax.random.uniform(jax.random.key(0), (2, 4, 4, 3))
            >>> def apply(params, images):
            ...     return jax.nn.softmax(10.0 * images.mean((1, 2)))
            >>> findings = Classifier(params=(), apply=apply).check(images)
            >>> [finding.problem.partition(",")[0] for finding in findings]
            ['outputs are probabilities']
        """
        apply = self.apply if self.logits == "softmax" else _TwoLogits(self.apply)
        return diagnose(apply, self.params, images, self.class_names)


@dataclasses.dataclass(frozen=True)
class _TwoLogits:
    """Conversion of the single logit z of a binary classifier to the equivalent logits `[0, z]`."""

    apply: Callable[[Any, jax.Array], Any]

    def __call__(self, params: Any, images: jax.Array) -> Any:
        logits = self.apply(params, images)
        if getattr(logits, "shape", ())[1:] != (1,):
            return logits
        return jnp.concatenate([jnp.zeros_like(logits), logits], axis=1)


@dataclasses.dataclass(frozen=True)
class Normalization:
    """Input normalisation of a network, `(images - mean) / std` per channel.

    Attributes:
        mean: mean of each channel, in the order RGB for every `channel_order`; a single number
            applies to all channels.
        std: standard deviation of each channel, in the same format as `mean`.
        channel_order: order `"rgb"`, or `"bgr"` for a network that takes blue first: the channels
            are reversed after the normalisation.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: str = "rgb"

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images `[N, H, W, C]` in [0, 1] to the input of the network."""
        mean, std = (jnp.asarray(numbers, images.dtype) for numbers in (self.mean, self.std))
        normalized = (images - mean) / std
        return normalized[..., ::-1] if self.channel_order == "bgr" else normalized


NORMALIZATIONS = {
    "imagenet": Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "symmetric": Normalization(mean=(0.5,), std=(0.5,)),  # To [-1, 1].
    "mnist": Normalization(mean=(0.1307,), std=(0.3081,)),
    "none": Normalization(mean=(0.0,), std=(1.0,)),
}


@dataclasses.dataclass(frozen=True)
class NormalizedModule:
    """Function `apply(params, images) -> logits` of a Flax module, preceded by its normalisation.

    Two instances with equal fields are equal and share compiled programs.
    """

    module: nn.Module
    normalization: Normalization

    def __call__(self, params: Any, images: jax.Array) -> jax.Array:
        """Maps images `[N, H, W, C]` in [0, 1] to logits `[N, K]`."""
        return cast(jax.Array, self.module.apply({"params": params}, self.normalization(images)))
