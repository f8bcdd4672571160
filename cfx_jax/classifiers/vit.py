"""Vision Transformers for inference: patches, class token, learnt positions, pre-norm blocks.

Source: Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


class Patches(nn.Module):
    """Linear map of each patch; parameters `kernel [patch, patch, C, dim]`, `bias [dim]`."""

    patch: int
    dim: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps `[N, H, W, C]` to `[N, H / patch * W / patch, dim]`, row by row."""
        count, height, width, channels = images.shape
        side = self.patch
        shape = (side, side, channels, self.dim)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.dim,))
        # A matmul because the input gradient of a strided convolution is a dilated one, which
        # multiplies mostly zeros: more than ten times slower on CPU.
        grid = images.reshape(count, height // side, side, width // side, side, channels)
        rows = jnp.swapaxes(grid, 2, 3).reshape(count, -1, side * side * channels)
        return rows @ kernel.reshape(-1, self.dim) + bias


class Block(nn.Module):
    """Self-attention and a two-layer perceptron, each after a normalisation and with a residual.

    Attributes:
        heads: of the attention; they share the channels evenly.
        mlp_dim: width of the hidden layer of the perceptron.
        epsilon: of the normalisations.
        tanh_gelu: see `ViT`.
    """

    heads: int
    mlp_dim: int
    epsilon: float
    tanh_gelu: bool

    @nn.compact
    def __call__(self, hidden: jax.Array, count: int) -> jax.Array:
        """Maps tokens `[N, T, dim]` to the first `count` of the next ones, `[N, count, dim]`."""
        dim = hidden.shape[-1]
        normed = nn.LayerNorm(self.epsilon, name="attention_norm")(hidden)
        qkv = nn.Dense(3 * dim, name="qkv")(normed)
        attended = nn.Dense(dim, name="attention_out")(attention(qkv, self.heads, count))
        hidden = hidden[:, :count] + attended
        normed = nn.LayerNorm(self.epsilon, name="mlp_norm")(hidden)
        inner = gelu(nn.Dense(self.mlp_dim, name="mlp_in")(normed), self.tanh_gelu)
        return hidden + nn.Dense(dim, name="mlp_out")(inner)


class ViT(nn.Module):
    """Maps normalised RGB images `[N, image_size, image_size, 3]` to logits `[N, num_classes]`.

    Attributes:
        patch: side of a patch in pixels.
        dim: width of a token.
        depth: number of blocks.
        heads: of each attention.
        mlp_dim: width of the hidden layer of each perceptron; None takes `4 * dim`.
        num_classes: length of the logits.
        image_size: side of the images in pixels, a multiple of the patch: every position has its
            own embedding, so the weights are for one size.
        epsilon: of the normalisations.
        tanh_gelu: approximates the GELU by a tanh, as the JAX original does; the PyTorch networks
            take the exact one.
    """

    patch: int
    dim: int
    depth: int
    heads: int
    mlp_dim: int | None = None
    num_classes: int = 1000
    image_size: int = 224
    epsilon: float = 1e-6
    tanh_gelu: bool = False

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits before softmax, float32 `[N, num_classes]`.

        Raises:
            ValueError: the images have another size than the weights are for.
        """
        size = (self.image_size, self.image_size)
        if images.shape[1:3] != size:
            raise ValueError(
                f"images are {images.shape[1]} x {images.shape[2]} pixels, but the position "
                f"embedding of these weights is for {size[0]} x {size[1]}: resize the images"
            )
        hidden = Patches(self.patch, self.dim, name="embedding")(images)
        shape = (1, 1 + hidden.shape[1], self.dim)
        positions = self.param("position_embedding", nn.initializers.normal(0.02), shape)
        token = self.param("class_token", nn.initializers.zeros, (1, 1, self.dim))
        token = jnp.broadcast_to(token, (len(images), 1, self.dim))
        hidden = jnp.concatenate([token, hidden], axis=1) + positions
        for index in range(self.depth):
            # The head sees the class token only, so the last block computes nothing else.
            count = 1 if index == self.depth - 1 else hidden.shape[1]
            mlp_dim = self.mlp_dim or 4 * self.dim
            block = Block(self.heads, mlp_dim, self.epsilon, self.tanh_gelu, name=f"block_{index}")
            hidden = block(hidden, count)
        normed = nn.LayerNorm(self.epsilon, name="norm")(hidden[:, 0])
        return nn.Dense(self.num_classes, name="classifier")(normed)


def attention(qkv: jax.Array, heads: int, count: int) -> jax.Array:
    """Lets the first `count` tokens attend to all.

    Args:
        qkv: `[N, T, 3 * dim]`: queries, keys and values, each with its heads side by side.
        heads: number of heads, a divisor of `dim`.
        count: number of tokens that ask.

    Returns:
        `[N, count, dim]`, heads side by side.
    """
    batch, tokens, width = qkv.shape
    q, k, v = jnp.moveaxis(qkv.reshape(batch, tokens, 3, heads, -1), (2, 3), (0, 2))
    scores = jnp.einsum("nhqd,nhkd->nhqk", q[:, :, :count] * q.shape[-1] ** -0.5, k)
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    # The softmax divides after the values are summed: count x head width quotients instead of
    # count x T, and one pass less over all weights in the derivative. A ViT-S/16 with its input
    # gradient is faster by 8 % on CPU.
    weights = jnp.exp(scores - lax.stop_gradient(scores.max(-1, keepdims=True)))
    summed = jnp.einsum("nhqk,nhkd->nhqd", weights.astype(v.dtype), v)
    attended = (summed / weights.sum(-1, keepdims=True)).astype(v.dtype)
    return jnp.swapaxes(attended, 1, 2).reshape(batch, count, width // 3)


def gelu(inputs: jax.Array, tanh: bool) -> jax.Array:
    """Computes `x Phi(x)`, with the normal distribution function `Phi` or its tanh approximation.

    The two differ by 4.7e-4 at most: 0.02 % of the logits and 0.05 % of the input gradient of a
    ViT-B/16 with random weights.
    """
    if tanh:
        return nn.gelu(inputs)
    # `nn.gelu(approximate=False)` takes erfc, which costs XLA on CPU two and a half times as much.
    return 0.5 * inputs * (1.0 + lax.erf(inputs * 0.5**0.5))
