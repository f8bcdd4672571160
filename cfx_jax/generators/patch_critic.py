"""The adversarial critic of the training, which scores the realism of each patch of an image.

A PatchGAN with spectral normalisation, for the hinge loss `relu(1 - real) + relu(1 + infilled)`
(Yu et al., "Free-Form Image Inpainting with Gated Convolution", ICCV 2019, section 3.4). Differs
from it in four convolutions of at most 128 features instead of six of 256.
"""

from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

_CRITIC_WIDTHS = (32, 64, 128, 128)


class PatchCritic(nn.Module):
    """Network from images and masks to one score per patch; a patch is about 60 pixels wide."""

    @nn.compact
    def __call__(self, images: jax.Array, mask: jax.Array, *, update: bool) -> jax.Array:
        """Scores every patch, float32 `[N, H / 16, W / 16, 1]`.

        Args:
            images: images, float32 `[N, H, W, C]` in [0, 1].
            mask: masks, float32 `[N, H, W, 1]`, 1 = keep, an input that marks the holes.
            update: whether to take one step of the power iteration that estimates spectral norms.
        """
        hidden = jnp.concatenate([2.0 * images - 1.0, mask], axis=-1)
        for index, width in enumerate(_CRITIC_WIDTHS):
            conv = nn.Conv(width, (5, 5), strides=2, name=f"conv_{index}")
            hidden = nn.SpectralNorm(conv, name=f"norm_{index}")(hidden, update_stats=update)
            hidden = nn.leaky_relu(hidden, 0.2)
        return nn.SpectralNorm(nn.Dense(1, name="score"), name="norm_score")(
            hidden, update_stats=update
        )


def init(key: jax.Array, channels: int) -> dict[str, Any]:
    """Returns the variables of a new critic: `params`, and `batch_stats` of the spectral norms."""
    images = jnp.zeros((1, 32, 32, channels))
    return dict(PatchCritic().init(key, images, images[..., :1], update=False))


def score(
    variables: dict[str, Any], images: jax.Array, mask: jax.Array, *, update: bool = False
) -> tuple[jax.Array, dict[str, Any]]:
    """Scores every patch.

    Args:
        variables: variables from `init`.
        images: images, float32 `[N, H, W, C]` in [0, 1].
        mask: masks, float32 `[N, H, W, 1]`, 1 = keep.
        update: whether to take a step of the power iteration.

    Returns:
        `(scores, variables)`; scores are float32 `[N, H / 16, W / 16, 1]`, higher = more real.
    """
    scores, changed = PatchCritic().apply(
        variables, images, mask, update=update, mutable=["batch_stats"] if update else []
    )
    return cast(jax.Array, scores), variables | dict(changed)
