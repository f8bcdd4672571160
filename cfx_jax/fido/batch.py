"""Preparation of a batch of user-provided images: checks, and a question and a key per image."""

import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax import classifiers
from cfx_jax.classifiers import Classifier
from cfx_jax.fido.checks import check_values
from cfx_jax.fido.question import Question, Score
from cfx_jax.generators import check_key


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
    key: jax.Array | int, classifier: Classifier, images: jax.Array, question: Question
) -> tuple[jax.Array, jax.Array, Question]:
    """Checks the values of a batch, and gives each image its key and its question.

    Args:
        key: random key or seed for the whole batch; a checksum of the pixels is folded in for
            each image.
        classifier: predicts the targets that are not given.
        images: float32 `[N, H, W, C]`, their shape already checked.
        question: question about all images, see `make_question`.

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
        targets = predict(classifier, images)
    contrast = question.contrast
    if contrast is not None:
        contrast = jnp.broadcast_to(contrast, targets.shape)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, image_checksums(images))
    return keys, images, question.replace(target=targets, contrast=contrast)


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
