"""The network with contextual attention (DeepFill v1), the CA in-fill of the FIDO paper.

Arrays are channels-last, images and in-fills `[N, H, W, 3]` RGB in [0, 1], masks `[N, H, W, 1]`
with 1 = keep. A coarse network fills the holes; a fine network corrects the fill with two branches:
dilated convolutions, and an attention that copies kept patches (Yu et al., "Generative Image
Inpainting with Contextual Attention", CVPR 2018).

Weights were published twice, for two implementations with the same layers and shapes that differ as
follows:

    difference                              original (TensorFlow)   port=True (PyTorch port)
    channels                                BGR                     RGB
    padding of a convolution of stride 2    after                   before and after
    nearest neighbour                       corners aligned         upper left pixel
    norm of a patch                         max(|p|, 1e-4)          sqrt(|p|^2 + 1e-4 numel)

The FIDO paper used the original. Original weights that were converted to the layout of the port
need `port=False`: with `port=True` users report misaligned fills and grey borders.

Differs from both in that the attention uses the mask of each image of a batch, instead of the mask
of the first image. Two assumptions are unverified, because the weights were not available: the
conversion kept the order of the channels, and the weights of the port were trained with the last of
its three patch norms.
"""

from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax.generators._attention import attend, nearest

# Image size `(H, W)` of the FIDO pipeline and of the training.
SIZE = (256, 256)
_SIDE_MULTIPLE = 8
WIDTH = 32
# Constants of the training loss, from the configuration of the published training.
DISCOUNT = 0.9
COARSE_WEIGHT = 1.2
# Largest distance that is discounted: half the side of the largest hole of that training.
MAX_DISTANCE = 64


class ContextualAttentionNet(nn.Module):
    """Network that predicts the holes of a masked image, first coarsely and then refined.

    Parameters are float32: 3.6e6, and 2.6e10 multiply-adds for an image of 256 x 256. They are
    named as in the published weights, `coarse_generator` and `fine_generator` with `conv1` and so
    on, each with a `conv` of `kernel` and `bias`.

    Attributes:
        port: whether to compute like the PyTorch port, for weights trained with it.
    """

    port: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Predicts every pixel, including kept pixels.

        Args:
            images: RGB images, float32 `[N, H, W, 3]` in [0, 1], H and W multiples of 8; pixels in
                holes are ignored but must be finite.
            mask: binary mask, float32 `[N, H, W, 1]`, 1 = keep.

        Returns:
            `(coarse, refined)`, float32 `[N, H, W, 3]` RGB each, clipped to [0, 1] by the
            published last layer.

        Raises:
            ValueError: height or width is not a multiple of 8.
        """
        if images.shape[1] % _SIDE_MULTIPLE or images.shape[2] % _SIDE_MULTIPLE:
            raise ValueError(
                f"images have shape {images.shape}; expected [N, H, W, 3] with H and W multiples "
                f"of {_SIDE_MULTIPLE}: resize or crop them"
            )
        channels = slice(None) if self.port else slice(None, None, -1)
        known = mask * (2.0 * images[..., channels] - 1.0)
        coarse = _Coarse(self.port, name="coarse_generator")(known, mask)
        pasted = known + (1.0 - mask) * coarse
        refined = _Fine(self.port, name="fine_generator")(pasted, mask)
        return 0.5 * (coarse[..., channels] + 1.0), 0.5 * (refined[..., channels] + 1.0)


class _Coarse(nn.Module):
    """Network that predicts all pixels from the known pixels, all in [-1, 1]."""

    port: bool

    @nn.compact
    def __call__(self, known: jax.Array, mask: jax.Array) -> jax.Array:
        conv = partial(_Conv, port=self.port)
        hidden = conv(WIDTH, 5, name="conv1")(_with_holes(known, mask))
        hidden = conv(2 * WIDTH, stride=2, name="conv2_downsample")(hidden)
        hidden = conv(2 * WIDTH, name="conv3")(hidden)
        hidden = conv(4 * WIDTH, stride=2, name="conv4_downsample")(hidden)
        return _decode(conv, "conv", _dilated(conv, hidden))


class _Fine(nn.Module):
    """Network that refines pixels in [-1, 1], with the coarse fill in the holes."""

    port: bool

    @nn.compact
    def __call__(self, pasted: jax.Array, mask: jax.Array) -> jax.Array:
        conv = partial(_Conv, port=self.port)
        inputs = _with_holes(pasted, mask)
        hidden = conv(WIDTH, 5, name="conv1")(inputs)
        hidden = conv(WIDTH, stride=2, name="conv2_downsample")(hidden)
        hidden = conv(2 * WIDTH, name="conv3")(hidden)
        hidden = conv(2 * WIDTH, stride=2, name="conv4_downsample")(hidden)
        imagined = _dilated(conv, hidden)

        hidden = conv(WIDTH, 5, name="pmconv1")(inputs)
        hidden = conv(WIDTH, stride=2, name="pmconv2_downsample")(hidden)
        hidden = conv(2 * WIDTH, name="pmconv3")(hidden)
        hidden = conv(4 * WIDTH, stride=2, name="pmconv4_downsample")(hidden)
        hidden = conv(4 * WIDTH, name="pmconv5")(hidden)
        hidden = conv(4 * WIDTH, activation=nn.relu, name="pmconv6")(hidden)
        cells = nearest(mask, 4, self.port)
        hidden = attend(hidden, hidden, cells, port=self.port)
        hidden = conv(4 * WIDTH, name="pmconv9")(hidden)
        copied = conv(4 * WIDTH, name="pmconv10")(hidden)
        return _decode(conv, "allconv", jnp.concatenate([imagined, copied], axis=-1))


class _Conv(nn.Module):
    """A convolution that keeps the size, or halves it with stride 2, followed by an activation."""

    features: int
    size: int = 3
    stride: int = 1
    dilation: int = 1
    activation: Any = nn.elu
    port: bool = False

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        after = self.dilation * (self.size // 2)
        # TensorFlow's SAME pads one row less before the image when it halves an even size.
        before = after if self.port else after - (self.stride - 1)
        convolution = nn.Conv(
            self.features,
            (self.size, self.size),
            strides=self.stride,
            kernel_dilation=self.dilation,
            padding=((before, after), (before, after)),
            kernel_init=nn.initializers.glorot_uniform(),
            name="conv",
        )
        return cast(jax.Array, self.activation(convolution(hidden)))


def _with_holes(pixels: jax.Array, mask: jax.Array) -> jax.Array:
    # The channel of ones marks the inside of the image, since convolutions pad with zeros.
    return jnp.concatenate([pixels, jnp.ones_like(mask), 1.0 - mask], axis=-1)


def _dilated(conv: Any, hidden: jax.Array) -> jax.Array:
    for layer in (5, 6):
        hidden = conv(4 * WIDTH, name=f"conv{layer}")(hidden)
    for layer, dilation in ((7, 2), (8, 4), (9, 8), (10, 16)):
        hidden = conv(4 * WIDTH, dilation=dilation, name=f"conv{layer}_atrous")(hidden)
    return hidden


def _decode(conv: Any, prefix: str, hidden: jax.Array) -> jax.Array:
    for layer in (11, 12):
        hidden = conv(4 * WIDTH, name=f"{prefix}{layer}")(hidden)
    for layer, wide, narrow in ((13, 2 * WIDTH, 2 * WIDTH), (15, WIDTH, WIDTH // 2)):
        hidden = jnp.repeat(jnp.repeat(hidden, 2, axis=1), 2, axis=2)
        hidden = conv(wide, name=f"{prefix}{layer}")(hidden)
        hidden = conv(narrow, name=f"{prefix}{layer + 1}")(hidden)
    pixels = conv(3, activation=partial(jnp.clip, min=-1.0, max=1.0), name=f"{prefix}17")(hidden)
    return cast(jax.Array, pixels)


def init(key: jax.Array) -> Any:
    """Draws the parameters of an untrained network.

    Args:
        key: JAX random key.

    Returns:
        The `"params"` collection of `ContextualAttentionNet`.
    """
    images = jnp.zeros((1, _SIDE_MULTIPLE, _SIDE_MULTIPLE, 3))
    return jax.jit(ContextualAttentionNet().init)(key, images, images[..., :1])["params"]


def apply(
    params: Any, images: jax.Array, mask: jax.Array, key: jax.Array, *, port: bool = False
) -> jax.Array:
    """Fills holes as in the FIDO paper; follows the interface of `Generator.apply`.

    Images are resized to 256 x 256 bilinearly with aligned corners and rounded to integers from 0
    to 255; masks are resized in the same way and rounded. The fill of the network is truncated to
    integers, kept pixels are restored, and the result is resized to the size of the images. The
    result is not differentiable.

    Args:
        params: parameters from `init`, or published parameters.
        images: RGB images of any size, float32 `[N, H, W, 3]` in [0, 1].
        mask: binary mask, float32 `[N, H, W, 1]`, 1 = keep.
        key: ignored, since the network is deterministic.
        port: whether to compute like the PyTorch port, for weights trained with it.

    Returns:
        In-fills, float32, the shape of `images`, in [0, 1], equal to `images` where the mask keeps.

    Raises:
        ValueError: the images do not have 3 channels.

    Example:
        >>> import jax
        >>> images, mask = jax.numpy.zeros((1, 32, 32, 3)), jax.numpy.ones((1, 32, 32, 1))
        >>> params = jax.jit(init)(jax.random.key(0))
        >>> jax.jit(apply)(params, images, mask, jax.random.key(1)).shape
        (1, 32, 32, 3)
    """
    del key
    if images.shape[-1] != 3:
        raise ValueError(
            f"images have shape {images.shape}; expected [N, H, W, 3]: convert them to RGB"
        )
    pixels = jnp.round(255.0 * _resize(images, SIZE))
    keep = jnp.round(_resize(mask, SIZE))
    _, refined = _predict(params, pixels / 255.0, keep, port)
    # The published pipeline also truncates kept pixels, which loses one of 255 steps by rounding.
    filled = jnp.where(keep > 0.5, pixels, jnp.floor(255.0 * refined))
    infill = jnp.clip(_resize(filled, images.shape[1:3]) / 255.0, 0.0, 1.0)
    return jnp.where(mask > 0.5, images, infill)


def _predict(
    params: Any, images: jax.Array, mask: jax.Array, port: bool
) -> tuple[jax.Array, jax.Array]:
    both = ContextualAttentionNet(port).apply({"params": params}, images, mask)
    return cast(tuple[jax.Array, jax.Array], both)


def _resize(images: jax.Array, size: tuple[int, ...]) -> jax.Array:
    rows, columns = (
        _bilinear(n, m).astype(images.dtype) for n, m in zip(size, images.shape[1:3], strict=True)
    )
    # Full precision, because TPUs round matmul operands to bfloat16 by default.
    return jnp.einsum(
        "yh,nhwc,xw->nyxc", rows, images, columns, precision=jax.lax.Precision.HIGHEST
    )


def _bilinear(size: int, source: int) -> np.ndarray:
    """Returns bilinear weights with aligned corners, float32 `[size, source]`."""
    position = np.linspace(0.0, source - 1.0, size)
    distance = np.abs(position[:, None] - np.arange(source))
    return np.maximum(0.0, 1.0 - distance).astype(np.float32)


def loss(
    params: Any, images: jax.Array, mask: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Computes the reconstruction loss of the paper, for holes of any shape, without its critics.

    The term of a stage is the mean absolute error inside the holes, weighted by `0.9**(d - 1)`,
    plus the mean absolute error of the kept pixels, per image and then averaged. d is the
    city-block distance to the nearest kept pixel, at most 64. Inside a rectangle it is the distance
    to the nearest side, as in the published weights. Unlike there, the weights are normalised here;
    otherwise a large hole would weigh less than a small hole.

    Args:
        params: parameters from `init`.
        images: true images, float32 `[N, H, W, 3]` RGB in [0, 1], H and W multiples of 8.
        mask: binary mask, float32 `[N, H, W, 1]`, 1 = keep.
        key: ignored, since the network is deterministic.

    Returns:
        `(loss, infills, terms)`: `1.2 * coarse + refined`, the refined prediction `[N, H, W, 3]`,
        and the two terms, `{"coarse_l1", "refined_l1"}`.
    """
    del key
    coarse, refined = _predict(params, images, mask, port=False)
    discount = (1.0 - mask) * DISCOUNT ** (_distance_to_kept(mask) - 1.0)
    weights = _normalise(discount) + _normalise(mask)

    def term(predicted: jax.Array) -> jax.Array:
        error = jnp.abs(predicted - images).mean(axis=-1, keepdims=True)
        return (weights * error).sum(axis=(1, 2, 3)).mean()

    terms = {"coarse_l1": term(coarse), "refined_l1": term(refined)}
    return COARSE_WEIGHT * terms["coarse_l1"] + terms["refined_l1"], refined, terms


def _normalise(weights: jax.Array) -> jax.Array:
    total = weights.sum(axis=(1, 2, 3), keepdims=True)
    return weights / jnp.where(total > 0.0, total, 1.0)


def _distance_to_kept(mask: jax.Array) -> jax.Array:
    """Returns the city-block distance of each pixel to the nearest kept pixel, at most 64."""
    distance = MAX_DISTANCE * (1.0 - mask)
    for axis in (1, 2):
        position = jax.lax.broadcasted_iota(mask.dtype, mask.shape, axis)
        before = jax.lax.cummin(distance - position, axis=axis) + position
        after = jax.lax.cummin(distance + position, axis=axis, reverse=True) - position
        distance = jnp.minimum(before, after)
    return distance
