"""Vision Transformers for inference: patch tokens, learnt position embeddings, pre-norm blocks.

Source: Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cfx_jax.classifiers.layers import Patches, gelu


class ViTBlock(nn.Module):
    """Self-attention and a two-layer MLP, each after a normalisation and with a residual.

    Attributes:
        heads: number of attention heads, which share the channels evenly.
        mlp_dim: width of the hidden layer of the MLP.
        epsilon: constant added to the variance by the layer norms.
        tanh_gelu: whether the GELU is approximated by a tanh, see `ViT`.
        layer_scale: whether the two branches are scaled per channel, see `ViT`.
    """

    heads: int
    mlp_dim: int
    epsilon: float
    tanh_gelu: bool
    layer_scale: bool

    @nn.compact
    def __call__(self, hidden: jax.Array, count: int) -> jax.Array:
        """Maps tokens `[N, T, dim]` to the first `count` output tokens, `[N, count, dim]`."""
        dim = hidden.shape[-1]
        normed = nn.LayerNorm(self.epsilon, name="attention_norm")(hidden)
        qkv = nn.Dense(3 * dim, name="qkv")(normed)
        attended = nn.Dense(dim, name="attention_out")(attention(qkv, self.heads, count))
        hidden = hidden[:, :count] + self._scaled(attended, "attention_scale")
        normed = nn.LayerNorm(self.epsilon, name="mlp_norm")(hidden)
        inner = gelu(nn.Dense(self.mlp_dim, name="mlp_in")(normed), self.tanh_gelu)
        return hidden + self._scaled(nn.Dense(dim, name="mlp_out")(inner), "mlp_scale")

    def _scaled(self, hidden: jax.Array, name: str) -> jax.Array:
        if not self.layer_scale:
            return hidden
        return hidden * self.param(name, nn.initializers.ones, hidden.shape[-1:], jnp.float32)


class ViT(nn.Module):
    """Network from normalised RGB images `[N, H, W, 3]` to logits `[N, num_classes]`.

    H and W are multiples of the patch. For images of a size other than `image_size`, the position
    embeddings are resized as in the JAX original, see `resize_positions`.

    Attributes:
        patch: side of a patch in pixels.
        dim: width of a token.
        depth: number of blocks.
        heads: number of heads of each attention.
        mlp_dim: width of the hidden layer of each MLP; None = `4 * dim`.
        num_classes: number of classes.
        image_size: side, or `(height, width)`, in pixels, of the images that the position
            embeddings belong to, multiples of the patch.
        epsilon: constant added to the variance by the layer norms.
        tanh_gelu: whether the GELU is approximated by a tanh, as in the JAX original; the PyTorch
            networks use the exact GELU.
        class_token: whether there is a class token.
        distilled: whether there is a distillation token with a separate head, trained with a
            teacher, as in DeiT (Touvron et al., ICML 2021); the logits are the mean of both heads.
        registers: number of register tokens, whose outputs are not used (Darcet et al., ICLR 2024).
        token_positions: whether the other tokens have position embeddings, like the patches.
        layer_scale: whether the two branches of a block are scaled per channel (Touvron et al.,
            ICCV 2021).
        mean_pool: whether the head gets the mean of the patches instead of the class token.
        norm_pooled: whether the last normalisation follows this mean.
    """

    patch: int
    dim: int
    depth: int
    heads: int
    mlp_dim: int | None = None
    num_classes: int = 1000
    image_size: int | tuple[int, int] = 224
    epsilon: float = 1e-6
    tanh_gelu: bool = False
    class_token: bool = True
    distilled: bool = False
    registers: int = 0
    token_positions: bool = True
    layer_scale: bool = False
    mean_pool: bool = False
    norm_pooled: bool = False

    @property
    def num_tokens(self) -> int:
        """Number of tokens that precede the patches."""
        return self.class_token + self.distilled + self.registers

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches that have position embeddings."""
        size = self.image_size
        height, width = size if isinstance(size, tuple) else (size, size)
        return height // self.patch, width // self.patch

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits before softmax, float32 `[N, num_classes]`.

        Raises:
            ValueError: patches do not tile the images.
        """
        hidden = self._embedded(images)
        # The last block computes only the tokens that the head uses.
        last = hidden.shape[1] if self.mean_pool else 1 + self.distilled
        for index in range(self.depth):
            count = last if index == self.depth - 1 else hidden.shape[1]
            hidden = ViTBlock(
                self.heads,
                self.mlp_dim or 4 * self.dim,
                self.epsilon,
                self.tanh_gelu,
                self.layer_scale,
                name=f"block_{index}",
            )(hidden, count)
        if not self.norm_pooled:
            hidden = nn.LayerNorm(self.epsilon, name="norm")(hidden)
        pooled = hidden[:, self.num_tokens :].mean(1) if self.mean_pool else hidden[:, 0]
        if self.norm_pooled:
            pooled = nn.LayerNorm(self.epsilon, name="pooled_norm")(pooled)
        logits = nn.Dense(self.num_classes, name="classifier")(pooled)
        if not self.distilled:
            return logits
        return (logits + nn.Dense(self.num_classes, name="distilled")(hidden[:, 1])) / 2

    def _embedded(self, images: jax.Array) -> jax.Array:
        """Maps images `[N, H, W, 3]` to tokens `[N, T, dim]` with position embeddings added."""
        if images.shape[1] % self.patch or images.shape[2] % self.patch:
            raise ValueError(
                f"images are {images.shape[1]} x {images.shape[2]} pixels, which patches of "
                f"{self.patch} do not tile; use a size that is a multiple of {self.patch}, such as "
                f"the {self.image_size} of the weights"
            )
        grid = Patches(self.patch, self.dim, name="embedding").grid(images)
        with_positions = self.num_tokens if self.token_positions else 0
        positions = self.param(
            "position_embedding",
            nn.initializers.normal(0.02),
            (1, with_positions + math.prod(self.grid), self.dim),
            jnp.float32,
        )
        _, rows, columns, _ = grid.shape
        positions = resize_positions(positions, with_positions, (rows, columns), self.grid)
        hidden = grid.reshape(len(images), -1, self.dim)
        tokens = {
            "class_token": int(self.class_token),
            "distilled_token": int(self.distilled),
            "registers": self.registers,
        }
        extra = [
            jnp.broadcast_to(self._tokens(name, count), (len(images), count, self.dim))
            for name, count in tokens.items()
            if count
        ]
        if self.token_positions:
            return jnp.concatenate([*extra, hidden], axis=1) + positions
        return jnp.concatenate([*extra, hidden + positions], axis=1)

    def _tokens(self, name: str, count: int) -> jax.Array:
        return self.param(name, nn.initializers.zeros, (1, count, self.dim), jnp.float32)


def resize_positions(
    positions: jax.Array,
    num_tokens: int,
    grid: tuple[int, int],
    trained: tuple[int, int] | None = None,
) -> jax.Array:
    """Resizes position embeddings to another grid of patches.

    The interpolation is bilinear with aligned corners, as in the JAX original (`scipy.ndimage.zoom`
    of order 1).

    Args:
        positions: position embeddings `[1, T + n * m, dim]`: T tokens, then the patches row by row.
        num_tokens: number T of tokens that precede the patches.
        grid: size of the new grid of patches, `(height, width)`.
        trained: size `(n, m)` of the grid used in training; None = square.

    Returns:
        Position embeddings `[1, T + height * width, dim]`; the first T are unchanged.
    """
    first, patches = positions[:, :num_tokens], positions[0, num_tokens:]
    trained = trained or (math.isqrt(len(patches)),) * 2
    if grid == trained:
        return positions
    rows, columns = map(_corner_weights, trained, grid)
    patches = patches.reshape(*trained, -1)
    precise = lax.Precision.HIGHEST
    resized = jnp.einsum("yi,ijd,xj->yxd", rows, patches, columns, precision=precise)
    flat = resized.astype(positions.dtype).reshape(1, grid[0] * grid[1], -1)
    return jnp.concatenate([first, flat], axis=1)


def _corner_weights(length: int, count: int) -> np.ndarray:
    """Returns weights `[count, length]` of linear interpolation with aligned ends."""
    points = np.linspace(0.0, length - 1.0, count)
    return np.maximum(0.0, 1.0 - np.abs(points[:, None] - np.arange(length))).astype(np.float32)


def attention(qkv: jax.Array, heads: int, count: int) -> jax.Array:
    """Computes the attention of the first `count` tokens to all tokens.

    Args:
        qkv: queries, keys and values, each with concatenated heads, `[N, T, 3 * dim]`.
        heads: number of heads, a divisor of `dim`.
        count: number of query tokens.

    Returns:
        Attention output `[N, count, dim]`, with concatenated heads.
    """
    batch, tokens, width = qkv.shape
    q, k, v = jnp.moveaxis(qkv.reshape(batch, tokens, 3, heads, -1), (2, 3), (0, 2))
    scores = jnp.einsum("nhqd,nhkd->nhqk", q[:, :, :count] * q.shape[-1] ** -0.5, k)
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    # The softmax divides after the values are summed: this takes count x (head width) divisions
    # instead of count x T, and one pass less over all weights in the derivative. A ViT-S/16 with
    # its input gradient is faster by 8 % on CPU.
    weights = jnp.exp(scores - lax.stop_gradient(scores.max(-1, keepdims=True)))
    summed = jnp.einsum("nhqk,nhkd->nhqd", weights.astype(v.dtype), v)
    attended = (summed / weights.sum(-1, keepdims=True)).astype(v.dtype)
    return jnp.swapaxes(attended, 1, 2).reshape(batch, count, width // 3)
