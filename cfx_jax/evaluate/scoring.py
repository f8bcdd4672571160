"""Asks the classifier about maps and masks on all local devices, a batch at a time."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax.baselines import METHODS
from cfx_jax.classifiers import Classifier, log_odds
from cfx_jax.evaluate.scores import MapScores, score_map, transfer_mask
from cfx_jax.fido.explanation import saliency
from cfx_jax.fido.masks import MaskLaw
from cfx_jax.fido.objective import DIRECTIONS
from cfx_jax.generators import Generator
from cfx_jax.metrics.curves import crop_metric
from cfx_jax.runs import parallel


class Image(NamedTuple):
    """One image, or with a leading axis n several: what methods are asked about.

    Attributes:
        pixels: float32 `[H, W, C]` in [0, 1].
        target: int32, class explained; for `Scorer.look` a negative one is unknown.
        identity: uint32, folded into the key, so nothing depends on the place of an image.
    """

    pixels: jax.Array
    target: jax.Array
    identity: jax.Array


class Looks(NamedTuple):
    """What the classifier makes of images, numpy arrays.

    Attributes:
        target: int32 `[n]`, as asked, or the predicted class where it is unknown.
        prediction: int32 `[n]`.
        log_odds: float32 `[n]`, of the target.
    """

    target: jax.Array
    prediction: jax.Array
    log_odds: jax.Array


class _Models(NamedTuple):
    """What all images share."""

    key: jax.Array
    classifier: Classifier
    judges: tuple[Generator, ...]
    baseline_infill: Generator


class Scorer:
    """Looks at images, maps and masks with programs that are compiled once each.

    Attributes:
        num_judges: generators that fill the holes of curves, and of masks learnt with another one.
        curve_steps: of each curve.
    """

    def __init__(
        self,
        key: jax.Array,
        classifier: Classifier,
        judges: Sequence[Generator],
        baseline_infill: Generator,
        curve_steps: int,
        per_device_batch_size: int,
    ) -> None:
        """Copies the models to the devices; nothing is compiled yet.

        Args:
            key: random key of the evaluation; each image folds its identity in.
            classifier: the model explained.
            judges: fill the holes of curves, and of masks that were learnt with another one.
            baseline_infill: replaces pixels for other methods.
            curve_steps: of each curve.
            per_device_batch_size: images a device looks at together.
        """
        self.num_judges = len(judges)
        self._devices = jax.local_devices()
        self._rows = per_device_batch_size
        self.curve_steps = curve_steps
        models = _Models(key, classifier, tuple(judges), baseline_infill)
        self._models = parallel.replicate(models, self._devices)
        self._program = functools.cache(self._compile)

    def look(self, images: Image) -> Looks:
        """Classifies images; their targets may be unknown."""
        looks: Looks = self._run(_look, {}, images)
        return looks

    def crop(self, images: Image, boxes: np.ndarray) -> np.ndarray:
        """Returns SM `[n]` of a box in each image, `[n, 4]`, see `crop_metric`."""
        crops: np.ndarray = self._run(_crop, {}, images, boxes)
        return crops

    def attribute(self, method: str, images: Image) -> np.ndarray:
        """Finds maps `[n, H, W]` by another method, a name of `cfx_jax.baselines.METHODS`."""
        maps: np.ndarray = self._run(_attribute, {"method": method}, images)
        return maps

    def saliency(
        self,
        cells: np.ndarray,
        objective: str,
        size: tuple[int, int],
        law: MaskLaw,
    ) -> np.ndarray:
        """Enlarges learnt masks `[n, h, w]` to maps `[n, H, W]`."""
        options = {"objective": objective, "size": size, "law": law}
        maps: np.ndarray = self._run(_saliency, options, cells)
        return maps

    def score(self, images: Image, maps: np.ndarray, boxes: np.ndarray) -> MapScores:
        """Scores maps `[n, H, W]` and their boxes `[n, 4]`, see `score_map`."""
        options = {"num_steps": self.curve_steps}
        scores: MapScores = self._run(_score, options, images, maps, boxes)
        return scores

    def transfer(
        self,
        images: Image,
        cells: np.ndarray,
        objective: str,
        law: MaskLaw,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Judges learnt masks `[n, h, w]` with each of G judges.

        Returns:
            Log-odds of the target and success rate, float32 `[n, G]` each.
        """
        options = {"objective": objective, "law": law}
        log_odds, success_rate = self._run(_transfer, options, images, cells)
        return log_odds, success_rate

    def _run(self, function: Callable[..., Any], options: dict[str, Any], *arguments: Any) -> Any:
        """Runs a function of one image over a batch on all devices."""
        program = self._program(function, tuple(options.items()), len(arguments))
        count, total = len(jax.tree.leaves(arguments)[0]), len(self._devices) * self._rows
        parts = []
        for start in range(0, count, total):
            rows = jax.tree.map(lambda a, start=start: a[start : start + total], arguments)
            batch = parallel.shard(rows, len(self._devices), self._rows)
            # Devices compute the batches one after the other, while this thread goes on.
            parts.append((min(total, count - start), program(*batch, self._models)))
        if not parts:
            return jax.tree.map(
                lambda leaf: np.zeros((0, *leaf.shape[2:]), leaf.dtype),
                jax.eval_shape(program, *self._blank(arguments), self._models),
            )
        done = [parallel.unshard(result, num_rows) for num_rows, result in parts]
        return jax.tree.map(lambda *rows: np.concatenate(rows), *done)

    def _blank(self, arguments: Any) -> Any:
        """One row of zeros for each device and place, for shapes alone."""
        shape = (len(self._devices), self._rows)
        return jax.tree.map(lambda a: np.zeros((*shape, *a.shape[1:]), a.dtype), arguments)

    def _compile(
        self, function: Callable[..., Any], options: tuple[tuple[str, Any], ...], num_mapped: int
    ) -> Callable[..., Any]:
        return parallel.map_over_devices(
            functools.partial(function, **dict(options)),
            self._devices,
            num_mapped=num_mapped,
            num_shared=1,
        )


def _key(image: Image, models: _Models) -> jax.Array:
    return jax.random.fold_in(models.key, image.identity)


def _look(image: Image, models: _Models) -> Looks:
    classifier = models.classifier
    logits = classifier.apply(classifier.params, image.pixels[None])[0]
    prediction = jnp.argmax(logits).astype(jnp.int32)
    target = jnp.where(image.target < 0, prediction, image.target)
    return Looks(target, prediction, log_odds(logits, target))


def _crop(image: Image, box: jax.Array, models: _Models) -> jax.Array:
    return crop_metric(models.classifier, image.pixels, image.target, box)


def _attribute(image: Image, models: _Models, *, method: str) -> jax.Array:
    find = METHODS[method]
    key = _key(image, models)
    return find(key, models.classifier, models.baseline_infill, image.pixels, image.target)


def _saliency(
    cells: jax.Array,
    models: _Models,
    *,
    objective: str,
    size: tuple[int, int],
    law: MaskLaw,
) -> jax.Array:
    del models
    return saliency(cells, jnp.asarray(DIRECTIONS[objective]), size, law)


def _score(
    image: Image, importance: jax.Array, box: jax.Array, models: _Models, *, num_steps: int
) -> MapScores:
    return score_map(
        _key(image, models),
        models.classifier,
        models.judges,
        image.pixels,
        image.target,
        importance,
        box,
        num_steps,
    )


def _transfer(
    image: Image,
    cells: jax.Array,
    models: _Models,
    *,
    objective: str,
    law: MaskLaw,
) -> tuple[jax.Array, jax.Array]:
    verdict = transfer_mask(
        _key(image, models),
        models.classifier,
        models.judges,
        image.pixels,
        image.target,
        cells,
        objective=objective,
        law=law,
    )
    # Without the pictures.
    return verdict.log_odds, verdict.success_rate
