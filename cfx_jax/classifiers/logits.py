"""What the logits of a classifier say of a class."""

import jax
import jax.numpy as jnp


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
    return jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1) - others


def margin(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Computes `logits[c] - max_{k != c} logits[k]`: above 0 where c is predicted.

    Args:
        logits: float32 `[..., K]`, K >= 2.
        target: int32 scalar, c; or any shape `[..., 1]` that names one for each.

    Returns:
        float32 `[...]`, at least `log_odds`.
    """
    is_target = jnp.arange(logits.shape[-1]) == target
    others = jnp.max(logits, axis=-1, where=~is_target, initial=-jnp.inf)
    return jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1) - others
