"""The question about an image, in terms of the logits of the classifier."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import flax.struct
import jax

from cfx_jax.classifiers import Classifier, log_odds, logit, logit_margin, predict

Score = Callable[[jax.Array, jax.Array], jax.Array]
"""`score(logits [..., K], target) -> [...]`: above 0 where the decision in question is made."""


@flax.struct.dataclass
class Question:
    """The question "why this class?" about one image, or with a leading axis N about a batch.

    A pytree whose leaves are the classes, so that one compiled program serves all classes.

    Attributes:
        target: int32 scalar c, the class to explain.
        contrast: int32 scalar k, for "why the target rather than k?"; None compares the target with
            all other classes.
        score: function of the logits that takes the place of the log-odds, see `Score`.

    Evidence and decision for logits z and a target c:

    | | evidence `log_odds` | `logit_margin`, above 0 where the decision is made |
    |---|---|---|
    | softmax | `z[c] - logsumexp(z[k != c])` | `z[c] - max(z[k != c])` |
    | sigmoid | `z[c]` | `z[c]` |
    | sigmoid, one logit | `z` for c = 1, `-z` for c = 0 | the same |
    | a contrast k | `z[c] - z[k]` | `z[c] - z[k]` |
    | a score | `score(z, c)` | `score(z, c)` |

    Example:
        >>> import jax.numpy as jnp
        >>> classifier = Classifier(params=(), apply=lambda params, images: images.mean((1, 2)))
        >>> logits = jnp.asarray([[3.0, 1.0, 2.0]])
        >>> Question(0).logit_margin(logits, classifier)
        Array([1.], dtype=float32)
        >>> Question(0, contrast=1).logit_margin(logits, classifier)
        Array([2.], dtype=float32)
    """

    target: Any
    contrast: Any = None
    score: Score | None = flax.struct.field(pytree_node=False, default=None)

    if TYPE_CHECKING:
        # Flax generates this method at run time, where type checkers do not see it.
        def replace(self, **changes: Any) -> Self:
            """Returns a copy with other fields."""

    def log_odds(self, logits: jax.Array, classifier: Classifier) -> jax.Array:
        """Computes the evidence for the decision from logits, see the table above.

        Args:
            logits: float32 `[..., K]`.
            classifier: the model that computed the logits; gives their kind, softmax or sigmoid.

        Returns:
            float32 `[...]`; its logistic function is the probability of the decision.
        """
        if self._is_against_all(classifier):
            return log_odds(logits, self.target)
        return self.logit_margin(logits, classifier)

    def logit_margin(self, logits: jax.Array, classifier: Classifier) -> jax.Array:
        """Computes the margin of logits to another decision, see the table above.

        Args:
            logits: float32 `[..., K]`.
            classifier: the model that computed the logits; gives their kind, softmax or sigmoid.

        Returns:
            float32 `[...]`, above 0 where the decision is made.
        """
        if self._is_against_all(classifier):
            return logit_margin(logits, self.target)
        return self.logit(logits)

    def logit(self, logits: jax.Array) -> jax.Array:
        """Computes the quantity that gradient baselines differentiate.

        It is `z[c]`, `z[c] - z[k]` with a contrast k, or the score.

        Args:
            logits: float32 `[..., K]`.

        Returns:
            float32 `[...]`.
        """
        if self.score is not None:
            return self.score(logits, self.target)
        target = logit(logits, self.target)
        return target if self.contrast is None else target - logit(logits, self.contrast)

    def decides(self, logits: jax.Array, classifier: Classifier) -> jax.Array:
        """Returns where the decision is made: the target is predicted, or its margin is above 0.

        Args:
            logits: float32 `[..., K]`.
            classifier: the model that computed the logits; gives their kind, softmax or sigmoid.

        Returns:
            bool `[...]`.
        """
        if self._is_against_all(classifier):
            return predict(logits) == self.target
        return self.logit_margin(logits, classifier) > 0

    def _is_against_all(self, classifier: Classifier) -> bool:
        return classifier.logits == "softmax" and self.contrast is None and self.score is None
