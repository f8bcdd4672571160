"""The `Classifier` value: what the engine needs to know about the model it explains."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, cast

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax.classifiers.diagnosis import Finding, diagnose
from cfx_jax.classifiers.logits import LOGIT_KINDS

INTERPOLATIONS = ("bicubic", "bilinear", "lanczos", "hamming", "box", "nearest")
CHANNEL_ORDERS = ("rgb", "bgr")


@flax.struct.dataclass
class Classifier:
    """An image classifier as a frozen value, a pytree whose leaves are its parameters.

    `params` is a pytree leaf set, everything else is static: a `Classifier` passes through `jit`,
    `vmap` and `pmap` as an argument and its weights are never baked into a compiled program.

    Attributes:
        params: parameters, any pytree.
        apply: pure `apply(params, images) -> logits`. `images` is float32 `[N, H, W, C]` in
            [0, 1]; normalisation is the classifier's own business. `logits` is float32
            `[N, num_classes]` BEFORE softmax or sigmoid. Pass a function that lives as long as the
            program (a module-level function, not a fresh lambda for every call): compiled programs
            are cached by its identity.
        name: shown in records and reports.
        class_names: one name per class, or empty.
        image_size: the `(H, W)` it was trained for, or None when any size will do.
        channels: C of its images, 3 for RGB or 1 for grey.
        crop: share of the side of the scaled image that it was trained, or measured, to see. Like
            `interpolation` it is for what brings images to `image_size`: dataset runs.
        interpolation: filter the images were scaled with, one of `INTERPOLATIONS`.
        logits: what they are. `"softmax"`: of at least two classes that exclude each other.
            `"sigmoid"`: a yes or no for each class by itself, or one logit of a binary classifier,
            whose classes are 1 and 0.
        host_weights: SHA-256 of the weights of a model that JAX calls back on the host, which then
            are not in `params`; "" for a model of JAX. Dataset runs keep such a model to one device
            of each process.
        origin: SHA-256 of what else it is made of, for a model that a function of a user's own
            builds; "" where `params` say it all.

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
        # Flax makes it, and type checkers do not know of it.
        def replace(self, **changes: Any) -> Self:
            """Returns a copy with other fields."""

    def __post_init__(self) -> None:
        """Raises `ValueError` for a field that has none of its known values."""
        for name, choices in (("logits", LOGIT_KINDS), ("interpolation", INTERPOLATIONS)):
            if (value := getattr(self, name)) not in choices:
                known = ", ".join(map(repr, choices))
                raise ValueError(f"classifier.{name} is {value!r}; expected one of {known}")
        if not 0.0 < self.crop <= 1.0:
            raise ValueError(f"classifier.crop is {self.crop!r}; expected a share above 0, up to 1")

    def check(self, images: jax.Array | np.ndarray) -> tuple[Finding, ...]:
        """Finds out what is wrong with the classifier, from four calls on one or two images.

        It looks for outputs of another shape, probabilities or sigmoids instead of logits, dropout
        or batch statistics left on, outputs that do not follow the image or want it in [0, 255],
        values and gradients that are not finite, and gradients that are zero. A classifier that
        raises is a finding too, and so are images with their channels first.

        Args:
            images: real images, float `[N, H, W, C]` in [0, 1]; the first two are used.

        Returns:
            What was found, `Finding(problem, advice)`; empty if all is well.

        Raises:
            ValueError: the images are not a non-empty `[N, H, W, C]`.

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
    """Turns one logit z, if there is one, into what says the same of two classes, `[0, z]`."""

    apply: Callable[[Any, jax.Array], Any]

    def __call__(self, params: Any, images: jax.Array) -> Any:
        logits = self.apply(params, images)
        if getattr(logits, "shape", ())[1:] != (1,):
            return logits
        return jnp.concatenate([jnp.zeros_like(logits), logits], axis=1)


@dataclasses.dataclass(frozen=True)
class Normalization:
    """What a network was trained to see: `(images - mean) / std`, one number a channel.

    Attributes:
        mean: by channel of the image, red first, whatever the order; one number serves all.
        std: as `mean`.
        channel_order: `"rgb"`, or `"bgr"` for a network that takes blue first: channels change
            places last.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: str = "rgb"

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images `[N, H, W, C]` in [0, 1] to what the network expects."""
        mean, std = (jnp.asarray(numbers, images.dtype) for numbers in (self.mean, self.std))
        normal = (images - mean) / std
        return normal[..., ::-1] if self.channel_order == "bgr" else normal


NORMALIZATIONS = {
    "imagenet": Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "symmetric": Normalization(mean=(0.5,), std=(0.5,)),  # To [-1, 1].
    "mnist": Normalization(mean=(0.1307,), std=(0.3081,)),
    "none": Normalization(mean=(0.0,), std=(1.0,)),
}


@dataclasses.dataclass(frozen=True)
class NormalizedModule:
    """`apply(params, images) -> logits` of a Flax module after its normalisation.

    Equal for equal parts, so that programs compiled for one serve the other, and nothing has to be
    kept for that.
    """

    module: nn.Module
    normalization: Normalization

    def __call__(self, params: Any, images: jax.Array) -> jax.Array:
        """Maps images `[N, H, W, C]` in [0, 1] to logits `[N, K]`."""
        return cast(jax.Array, self.module.apply({"params": params}, self.normalization(images)))
