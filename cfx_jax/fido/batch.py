"""A batch of images as a user gives it: checked, with a question, a target and a key for each."""

import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax import classifiers
from cfx_jax.classifiers import Classifier
from cfx_jax.fido.checks import check_values
from cfx_jax.fido.question import Question, Score


def ask(
    targets: jax.Array | np.ndarray | int | None, contrast: int | None, score: Score | None
) -> Question:
    """Packs what is asked of an image or of a batch, as it is given.

    Args:
        targets: classes to explain; None for the predicted ones.
        contrast: k, to ask why a class rather than k.
        score: what is asked of the logits.

    Raises:
        ValueError: contrast and score are both given.
    """
    if contrast is not None and score is not None:
        raise ValueError("contrast and score are two questions; give one of them")
    return Question(targets, contrast, score)


def prepare(
    key: jax.Array, classifier: Classifier, images: jax.Array, asked: Question
) -> tuple[jax.Array, jax.Array, Question]:
    """Checks the values of a batch, and gives each image its key and its question.

    Args:
        key: random key of the run; each image folds a checksum of its pixels in.
        classifier: names the targets that are not given.
        images: float32 `[N, H, W, C]`, their shape already checked.
        asked: of all images, see `ask`.

    Returns:
        `(keys [N], images, question)`, the classes of the question int32 `[N]`.

    Raises:
        ValueError: pixels or classes are out of range, or a given target is the contrast.
    """
    check_values(classifier, images, asked)
    if asked.target is not None:
        _check_question(asked)
        targets = jnp.asarray(asked.target)
    else:
        targets = predict(classifier, images)
    contrast = asked.contrast
    if contrast is not None:
        contrast = jnp.broadcast_to(jnp.asarray(contrast, jnp.int32), targets.shape)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, image_checksums(images))
    return keys, images, asked.replace(target=targets, contrast=contrast)


def _check_question(asked: Question) -> None:
    """Refuses to ask why a class rather than itself; silent inside a trace."""
    contrast, targets = asked.contrast, asked.target
    if contrast is None or isinstance(contrast, jax.core.Tracer):
        return
    if isinstance(targets, jax.core.Tracer):
        return
    same = np.flatnonzero(np.asarray(targets) == int(contrast))
    if same.size:
        raise ValueError(
            f"contrast is class {int(contrast)}, and so are the targets of {same.size} images, the "
            f"first is image {same[0]}; expected another class than the target to set it against"
        )


@jax.jit
def predict(classifier: Classifier, images: jax.Array) -> jax.Array:
    """Returns the predicted class of each image, int32 `[N]`."""
    return classifiers.predict(classifier.apply(classifier.params, images))


@jax.jit
def image_checksums(images: jax.Array) -> jax.Array:
    """Returns uint32 `[N]` of the pixels of each image: the identity of an array is itself."""
    bits = jax.lax.bitcast_convert_type(images, jnp.uint32).reshape(len(images), -1)
    # Sums of uint32 wrap around exactly, so the order of the reduction does not matter.
    weights = 2 * jnp.arange(bits.shape[1], dtype=jnp.uint32) + 1
    return jnp.sum(bits * weights, axis=1, dtype=jnp.uint32)
