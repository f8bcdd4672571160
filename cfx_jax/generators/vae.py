"""A convolutional VAE that draws different in-fills: for digits and for photographs.

Arrays are channels-last, images and in-fills `[N, H, W, C]` in [0, 1], masks `[N, H, W, 1]` with
1 = keep. The prior encoder gets the masked image and the mask, a latent map at 1/32 of the
resolution is drawn from its Gaussian, and the decoder maps it and the features of the encoder to an
image.

It is trained with the evidence lower bound of the pixels x in the holes given the kept pixels k,

    log p(x | k) >= E_q(z | x, k) [log p(x | z, k)] - KL(q(z | x, k) || p(z | k)),

with a second encoder q that also gets the pixels in the holes and is needed only in training.
Differs from the VAE of Chang et al., ICLR 2019, whose single encoder never gets these pixels and is
regularised towards N(0, 1). There, no term relates a draw to one of several plausible images, so
the draws are noise around their mean. Source: Ivanov et al., "Variational Autoencoder with
Arbitrary Conditioning", ICLR 2019.
"""

from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from cfx_jax.generators.gated_unet import GREY, GatedConv, double, fold, push_pull, unfold

_STRIDE = 32
# Scale b of the Laplace distribution of a pixel: log p = -|x - mean| / b + const.
PIXEL_SCALE = 0.03
_MAX_LOG_STD = 3.0


class VAEArchitecture(NamedTuple):
    """Architecture of a network for one kind of images.

    Attributes:
        channels: number of channels of the images.
        widths: number of features at 1/2, 1/4, 1/8, 1/16 and 1/32 of the resolution.
        latent_features: number of latent variables for each 32 x 32 pixels.
    """

    channels: int
    widths: tuple[int, int, int, int, int]
    latent_features: int


DIGITS = VAEArchitecture(channels=1, widths=(16, 24, 32, 32, 32), latent_features=16)
PHOTOGRAPHS = VAEArchitecture(channels=3, widths=(24, 48, 64, 96, 128), latent_features=32)


class ConvVAE(nn.Module):
    """The three parts of the model, on images whose sides are multiples of 32."""

    architecture: VAEArchitecture

    def setup(self) -> None:
        """Creates the two encoders and the decoder."""
        widths, latent_features = self.architecture.widths, self.architecture.latent_features
        self.prior = Encoder(widths, latent_features)
        self.posterior = Encoder(widths, latent_features)
        self.decoder = Decoder(widths, 4 * self.architecture.channels)

    def __call__(
        self, images: jax.Array, mask: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Draws from the posterior given the true images.

        Returns:
            `(infills, kl)`: unclipped in-fills, float32 `[N, H, W, C]`, and the KL divergence from
            posterior to prior in nats, float32 `[N]`.
        """
        fill, prior, skips = self._encode_kept(images, mask)
        posterior, _ = self.posterior(jnp.concatenate([images - GREY, mask - 0.5], axis=-1))
        infills = fill + unfold(self.decoder(_draw(key, posterior), skips))
        return infills + GREY, gaussian_kl(posterior, prior)

    def sample(self, images: jax.Array, mask: jax.Array, key: jax.Array) -> jax.Array:
        """Draws unclipped in-fills from the prior, float32 `[N, H, W, C]`."""
        fill, prior, skips = self._encode_kept(images, mask)
        return fill + unfold(self.decoder(_draw(key, prior), skips)) + GREY

    def _encode_kept(
        self, images: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, "Gaussian", list[jax.Array]]:
        fill = push_pull(mask * (images - GREY), mask)
        return fill, *self.prior(jnp.concatenate([fill, mask - 0.5], axis=-1))


class Gaussian(NamedTuple):
    """Independent normal distributions: mean and logarithm of the standard deviation."""

    mean: jax.Array
    log_std: jax.Array


class Encoder(nn.Module):
    """Network from images to a Gaussian over the latent map, and to features at each resolution."""

    widths: tuple[int, ...]
    latent_features: int

    @nn.compact
    def __call__(self, inputs: jax.Array) -> tuple[Gaussian, list[jax.Array]]:
        """Maps `[N, H, W, C]` to a Gaussian `[N, H / 32, W / 32, latent_features]` and skips."""
        hidden = GatedConv(self.widths[0], name="stem")(fold(inputs))
        skips = [hidden]
        for level, features in enumerate(self.widths[1:]):
            hidden = GatedConv(features, stride=2, name=f"down_{level}")(hidden)
            hidden += GatedConv(features, name=f"encode_{level}")(hidden)
            skips.append(hidden)
        mean, log_std = jnp.split(nn.Dense(2 * self.latent_features, name="latent")(hidden), 2, -1)
        return Gaussian(mean, jnp.clip(log_std, -_MAX_LOG_STD, _MAX_LOG_STD)), skips


class Decoder(nn.Module):
    """Network from a latent map and the features of the kept pixels to a folded residual."""

    widths: tuple[int, ...]
    outputs: int

    @nn.compact
    def __call__(self, latent: jax.Array, skips: list[jax.Array]) -> jax.Array:
        """Maps `[N, H / 32, W / 32, latent_features]` to `[N, H / 2, W / 2, outputs]`."""
        hidden = skips[-1] + nn.Dense(self.widths[-1], name="latent")(latent)
        for level, features in reversed(list(enumerate(self.widths[:-1]))):
            hidden += GatedConv(self.widths[level + 1], name=f"decode_{level}")(hidden)
            hidden = double(nn.Dense(features, name=f"up_{level}")(hidden)) + skips[level]
        hidden += GatedConv(self.widths[0], name="decode")(hidden)
        return nn.Conv(self.outputs, (3, 3), name="residual")(hidden)


def init(key: jax.Array, *, architecture: VAEArchitecture = PHOTOGRAPHS) -> dict[str, Any]:
    """Returns the parameters of a new network."""
    images = jnp.zeros((1, _STRIDE, _STRIDE, architecture.channels))
    variables = ConvVAE(architecture).init(key, images, images[..., :1], key)
    return cast(dict[str, Any], variables["params"])


def loss(
    params: Any,
    images: jax.Array,
    mask: jax.Array,
    key: jax.Array,
    *,
    architecture: VAEArchitecture = PHOTOGRAPHS,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Computes the negative evidence lower bound per hidden value.

    Formula: `mean over images of (sum over holes of |x - mean| / b + KL) / (number of hidden
    values)`, where the number counts as at least 5 % of all values.

    Args:
        params: parameters from `init`.
        images: true images, float32 `[N, H, W, C]` in [0, 1].
        mask: binary mask, float32 `[N, H, W, 1]`, 1 = keep.
        key: random key of the draw.
        architecture: architecture of the network.

    Returns:
        `(loss, infills, terms)`, see `cfx_jax.generators.Loss`; the terms are the two summands,
        `reconstruction` and `kl`.
    """
    height, width = images.shape[1:3]
    padded, padded_mask = _pad(images), _pad(mask)
    drawn = ConvVAE(architecture).apply({"params": params}, padded, padded_mask, key)
    infills, kl = cast(tuple[jax.Array, jax.Array], drawn)
    infills = infills[:, :height, :width]
    error = jnp.sum(jnp.abs(infills - images) * (1.0 - mask), axis=(1, 2, 3)) / PIXEL_SCALE
    hidden = jnp.sum(1.0 - mask, axis=(1, 2, 3)) * images.shape[-1]
    hidden = jnp.maximum(hidden, 0.05 * images[0].size)
    terms = {"reconstruction": jnp.mean(error / hidden), "kl": jnp.mean(kl / hidden)}
    return terms["reconstruction"] + terms["kl"], infills, terms


def apply(
    params: Any,
    images: jax.Array,
    mask: jax.Array,
    key: jax.Array,
    *,
    architecture: VAEArchitecture = PHOTOGRAPHS,
) -> jax.Array:
    """Draws one in-fill per image; follows the interface of `Generator.apply`.

    Args:
        params: trained parameters.
        images: images of any size, float32 `[N, H, W, C]` in [0, 1].
        mask: binary mask, float32 `[N, H, W, 1]`, 1 = keep.
        key: random key, from which a separate key is derived for each image.
        architecture: architecture of the network.

    Returns:
        In-fills, float32, the shape of `images`, in [0, 1], equal to `images` where the mask keeps.

    Raises:
        ValueError: the images have another number of channels than the network.

    Example:
        >>> import jax
        >>> images, mask = jax.numpy.zeros((2, 28, 28, 1)), jax.numpy.ones((2, 28, 28, 1))
        >>> params = jax.jit(init, static_argnames="architecture")(
        ...     jax.random.key(0), architecture=DIGITS)
        >>> fill = jax.jit(apply, static_argnames="architecture")
        >>> fill(params, images, mask, jax.random.key(1), architecture=DIGITS).shape
        (2, 28, 28, 1)
    """
    if images.shape[-1] != architecture.channels:
        raise ValueError(
            f"images have shape {images.shape}; expected [N, H, W, {architecture.channels}]"
        )
    height, width = images.shape[1:3]
    drawn = ConvVAE(architecture).apply(
        {"params": params}, _pad(images), _pad(mask), key, method="sample"
    )
    infills = jnp.clip(cast(jax.Array, drawn)[:, :height, :width], 0.0, 1.0)
    return jnp.where(mask > 0.5, images, infills)


def gaussian_kl(first: Gaussian, second: Gaussian) -> jax.Array:
    """Computes `KL(first || second)` of batches of Gaussians, summed over all but the first axis.

    Formula: `log(s2 / s1) + (s1^2 + (m1 - m2)^2) / (2 s2^2) - 1/2` for each number.
    """
    difference = second.log_std - first.log_std
    spread = jnp.exp(-2.0 * difference)
    shift = jnp.square(first.mean - second.mean) * jnp.exp(-2.0 * second.log_std)
    return jnp.sum(difference + 0.5 * (spread + shift - 1.0), axis=(1, 2, 3))


def _draw(key: jax.Array, distribution: Gaussian) -> jax.Array:
    """Draws each image with a separate key, so that it does not depend on the rest of the batch."""
    mean, log_std = distribution
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(len(mean)))
    # Draw in float32 for any type of the network, so that the draws are the same.
    noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:], jnp.float32))(keys)
    noise = noise.astype(mean.dtype)
    return mean + jnp.exp(log_std) * noise


def _pad(array: jax.Array) -> jax.Array:
    """Pads images or masks with zeros to multiples of 32; the padding counts as a hole."""
    height, width = array.shape[1:3]
    border = ((0, 0), (0, -height % _STRIDE), (0, -width % _STRIDE), (0, 0))
    return jnp.pad(array, border)
