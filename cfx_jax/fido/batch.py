"""Batches of user-provided images: checks, a question and a key per image, and their division."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax import classifiers
from cfx_jax.classifiers import Classifier
from cfx_jax.fido.checks import check_values
from cfx_jax.fido.question import Question, Score
from cfx_jax.generators import check_key

_Rows = TypeVar("_Rows")
_Results = TypeVar("_Results")
# On a CPU, more images at a time are not faster and take more memory.
_CPU_BATCH_SIZE, _ACCELERATOR_BATCH_SIZE = 4, 64


def make_question(
    targets: jax.Array | np.ndarray | int | None, contrast: int | None, score: Score | None
) -> Question:
    """Packs target, contrast and score, unchanged, into the question about an image or a batch.

    Args:
        targets: classes to explain; None for the predicted classes.
        contrast: class k of the question "why the target rather than k?", or None.
        score: function of the logits that takes the place of the log-odds, or None.

    Returns:
        The `Question`.

    Raises:
        ValueError: contrast and score are both given.
    """
    if contrast is not None and score is not None:
        raise ValueError("contrast and score are two questions; pass one of them")
    return Question(targets, contrast, score)


def prepare(
    key: jax.Array | int,
    classifier: Classifier,
    images: jax.Array,
    question: Question,
    batch_size: int | None = None,
) -> tuple[jax.Array, jax.Array, Question]:
    """Checks the values of a batch, and gives each image its key and its question.

    Args:
        key: random key or seed for the whole batch; a checksum of the pixels is folded in for
            each image.
        classifier: predicts the targets that are not given.
        images: float32 `[N, H, W, C]`, their shape already checked.
        question: question about all images, see `make_question`.
        batch_size: largest number of images to classify together, see `map_batches`.

    Returns:
        `(keys [N], images, question)`, the classes of the question int32 `[N]`.

    Raises:
        ValueError: the key or a class is invalid, pixels are out of range, or a given target is the
            contrast.
    """
    key, question = check_key(key), check_values(classifier, images, question)
    if question.target is not None:
        _check_question(question)
        targets = question.target
    else:
        targets = map_batches(lambda batch: predict(classifier, batch), images, batch_size)
    contrast = question.contrast
    if contrast is not None:
        contrast = jnp.broadcast_to(contrast, targets.shape)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, image_checksums(images))
    return keys, images, question.replace(target=targets, contrast=contrast)


def map_batches(
    function: Callable[[_Rows], _Results],
    rows: _Rows,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> _Results:
    """Applies a function to many rows, in batches of one size, so that the memory is bounded.

    Args:
        function: function that maps a leading axis B to a leading axis B, row by row.
        rows: JAX arrays with a leading axis N; traced ones are one batch.
        batch_size: largest B; None = 4 per CPU device, 64 per accelerator. The batches are as even
            as possible; the last one is filled up with repeated rows, whose results are dropped.
        progress: called with the number of finished rows and N after each batch.

    Returns:
        The results, with a leading axis N.
    """
    total = len(jax.tree.leaves(rows)[0])
    size = _choose_batch_size(rows, batch_size, total)
    results = []
    for start in range(0, total, size):
        batch = rows
        if size < total:
            indices = np.arange(start, start + size) % total
            batch = jax.tree.map(lambda leaf, i=indices: leaf[i], rows)
        results.append(function(batch))
        if progress is not None:
            jax.block_until_ready(results[-1])
            progress(min(start + size, total), total)
    if len(results) == 1:
        return results[0]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[:total], *results)


def _choose_batch_size(rows: Any, most: int | None, total: int) -> int:
    """Returns the size of even batches of at most `most` rows, see `map_batches`."""
    leaves = jax.tree.leaves(rows)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return total
    if most is None:
        # The devices of a sharded array share the batch.
        num_devices = max(len(leaf.devices()) for leaf in leaves)
        on_cpu = jax.default_backend() == "cpu"
        most = num_devices * (_CPU_BATCH_SIZE if on_cpu else _ACCELERATOR_BATCH_SIZE)
    return math.ceil(total / math.ceil(total / most))


def _check_question(question: Question) -> None:
    """Raises where a target equals the contrast; traced values pass unchecked."""
    contrast, targets = question.contrast, question.target
    if contrast is None or isinstance(contrast, jax.core.Tracer):
        return
    if isinstance(targets, jax.core.Tracer):
        return
    same = np.flatnonzero(np.asarray(targets) == int(contrast))
    if same.size:
        raise ValueError(
            f"contrast is class {int(contrast)}, and so are the targets of {same.size} images, the "
            f"first is image {same[0]}; expected a contrast that differs from the target"
        )


@jax.jit
def predict(classifier: Classifier, images: jax.Array) -> jax.Array:
    """Returns the predicted class of each image, int32 `[N]`."""
    return classifiers.predict(classifier.apply(classifier.params, images))


@jax.jit
def image_checksums(images: jax.Array) -> jax.Array:
    """Returns a checksum of the pixels of each image, uint32 `[N]`, which identifies the image."""
    bits = jax.lax.bitcast_convert_type(images, jnp.uint32).reshape(len(images), -1)
    # Sums of uint32 wrap around exactly, so the order of the reduction does not matter.
    weights = 2 * jnp.arange(bits.shape[1], dtype=jnp.uint32) + 1
    return jnp.sum(bits * weights, axis=1, dtype=jnp.uint32)
