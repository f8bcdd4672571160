"""Functions of the logits of a classifier: log-odds, margins, probabilities, predictions."""

import jax
import jax.numpy as jnp

LOGIT_KINDS = ("softmax", "sigmoid")
"""Kinds of logits: classes that exclude each other, or independent yes/no classes."""


def log_odds(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Computes `log p(c) - log sum_{k != c} p(k)` from logits, finite even for p(c) near 0 or 1.

    This equals `logits[c] - logsumexp(logits[k != c])`; the normaliser of the softmax cancels.

    Args:
        logits: logits, float32 `[..., K]`, K >= 2.
        target: class c, int32 scalar, or `[..., 1]` for one class per row.

    Returns:
        Log-odds, float32 `[...]`.
    """
    is_target = jnp.arange(logits.shape[-1]) == target
    others = jax.nn.logsumexp(logits, axis=-1, where=~is_target)
    return logit(logits, target) - others


def logit_margin(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Computes `logits[c] - max_{k != c} logits[k]`: above 0 where c is predicted.

    Args:
        logits: logits, float32 `[..., K]`, K >= 2.
        target: class c, int32 scalar, or `[..., 1]` for one class per row.

    Returns:
        Logit margin, float32 `[...]`, at least `log_odds`.
    """
    is_target = jnp.arange(logits.shape[-1]) == target
    others = jnp.max(logits, axis=-1, where=~is_target, initial=-jnp.inf)
    return logit(logits, target) - others


def logit(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Returns `logits[c]`; for the single logit z of a binary classifier z if c = 1, -z if c = 0.

    Args:
        logits: logits, float32 `[..., K]`.
        target: class c, int32 scalar, or `[..., 1]` for one class per row.

    Returns:
        Logit, float32 `[...]`.
    """
    num_logits = logits.shape[-1]
    if num_logits == 1:
        return jnp.sum(jnp.where(target == 1, logits, -logits), axis=-1)
    return jnp.sum(jnp.where(jnp.arange(num_logits) == target, logits, 0.0), axis=-1)


def class_count(num_logits: int) -> int:
    """Returns the number of classes; a single logit means binary, that is two classes."""
    return max(2, num_logits)


def resolve_rank(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Converts a rank to its class: -1 is the most likely class, -2 the second, and so on.

    Args:
        logits: logits of one image, float32 `[K]`.
        target: class, or rank if below 0, int32 scalar.

    Returns:
        Class, int32 scalar.
    """
    if logits.shape[-1] == 1:
        logits = jnp.concatenate([-logits, logits])
    # The first of equal logits ranks higher, in agreement with `predict`.
    order = jnp.argsort(-logits, stable=True).astype(jnp.int32)
    return jnp.where(target < 0, order[jnp.maximum(0, -1 - target)], target)


def probabilities(logits: jax.Array, kind: str) -> jax.Array:
    """Computes the probability of every class.

    Args:
        logits: logits, float32 `[..., K]`.
        kind: kind of the logits, one of `LOGIT_KINDS`.

    Returns:
        Probabilities, float32 `[..., K]`, or `[..., 2]` for a single logit.
    """
    if kind == "softmax":
        return jax.nn.softmax(logits)
    if logits.shape[-1] == 1:
        logits = jnp.concatenate([-logits, logits], axis=-1)
    return jax.nn.sigmoid(logits)


def predict(logits: jax.Array) -> jax.Array:
    """Returns the class of the largest logit; for a single logit, class 1 where it is above 0.

    Args:
        logits: logits, float32 `[..., K]`.

    Returns:
        Classes, int32 `[...]`.
    """
    if logits.shape[-1] == 1:
        return (logits[..., 0] > 0).astype(jnp.int32)
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
