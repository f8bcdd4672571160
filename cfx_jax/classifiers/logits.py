"""What the logits of a classifier say of a class."""

import jax
import jax.numpy as jnp

LOGIT_KINDS = ("softmax", "sigmoid")
"""What logits are: one class of several that exclude each other, or a yes and no for each."""


def log_odds(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Computes `log p(c) - log sum_{k != c} p(k)` from logits, finite however sure the classifier.

    Equals `logits[c] - logsumexp(logits[k != c])`; the normaliser of the softmax cancels.

    Args:
        logits: float32 `[..., K]`, K >= 2.
        target: int32 scalar, c; or any shape `[..., 1]` that names one for each.

    Returns:
        float32 `[...]`.
    """
    is_target = jnp.arange(logits.shape[-1]) == target
    others = jax.nn.logsumexp(logits, axis=-1, where=~is_target)
    return logit(logits, target) - others


def logit_margin(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Computes `logits[c] - max_{k != c} logits[k]`: above 0 where c is predicted.

    Args:
        logits: float32 `[..., K]`, K >= 2.
        target: int32 scalar, c; or any shape `[..., 1]` that names one for each.

    Returns:
        float32 `[...]`, at least `log_odds`.
    """
    is_target = jnp.arange(logits.shape[-1]) == target
    others = jnp.max(logits, axis=-1, where=~is_target, initial=-jnp.inf)
    return logit(logits, target) - others


def logit(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Picks `logits[c]`; of the one logit z of a binary classifier z for class 1, -z for class 0.

    Args:
        logits: float32 `[..., K]`.
        target: int32 scalar, c; or any shape `[..., 1]` that names one for each.

    Returns:
        float32 `[...]`.
    """
    num_logits = logits.shape[-1]
    if num_logits == 1:
        return jnp.sum(jnp.where(target == 1, logits, -logits), axis=-1)
    return jnp.sum(jnp.where(jnp.arange(num_logits) == target, logits, 0.0), axis=-1)


def class_count(num_logits: int) -> int:
    """Returns how many classes so many logits tell of: one logit tells of two."""
    return max(2, num_logits)


def resolve(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Names a class that is asked for by its rank: -1 the most likely one, -2 the next, and so on.

    Args:
        logits: float32 `[K]`, of one image.
        target: int32 scalar, a class, or below 0 a rank.

    Returns:
        int32 scalar, a class.
    """
    if logits.shape[-1] == 1:
        logits = jnp.concatenate([-logits, logits])
    # Of equal logits the first counts for more, as where the class is predicted.
    order = jnp.argsort(-logits, stable=True).astype(jnp.int32)
    return jnp.where(target < 0, order[jnp.maximum(0, -1 - target)], target)


def probabilities(logits: jax.Array, meaning: str) -> jax.Array:
    """Computes the probability of every class; one logit tells two of them.

    Args:
        logits: float32 `[..., K]`.
        meaning: of them, one of `LOGIT_KINDS`.

    Returns:
        float32 `[..., K]`, or `[..., 2]` of one logit.
    """
    if meaning == "softmax":
        return jax.nn.softmax(logits)
    if logits.shape[-1] == 1:
        logits = jnp.concatenate([-logits, logits], axis=-1)
    return jax.nn.sigmoid(logits)


def predict(logits: jax.Array) -> jax.Array:
    """Names the class of the largest logit; of one logit, class 1 where it is above 0.

    Args:
        logits: float32 `[..., K]`.

    Returns:
        int32 `[...]`.
    """
    if logits.shape[-1] == 1:
        return (logits[..., 0] > 0).astype(jnp.int32)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
