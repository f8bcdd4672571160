"""Evaluates maps and masks with the classifier, in batches on all local devices."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax.baselines import METHODS, Case
from cfx_jax.classifiers import Classifier, class_count, predict, resolve_rank
from cfx_jax.data import to_floats
from cfx_jax.evaluate import _transfer
from cfx_jax.fido import DIRECTIONS, MaskLaw, Problem, Question, make_problem, saliency
from cfx_jax.generators import Generator
from cfx_jax.metrics import (
    crop_metric,
    deletion_curve,
    draw_other_class,
    insertion_curve,
    shuffle_weights,
)
from cfx_jax.runs import Images, cluster, parallel


class Prediction(NamedTuple):
    """The prediction for one image, or for n images with a leading axis.

    Attributes:
        target: class to explain, int32; the predicted class if the label is unknown.
        predicted: predicted class, int32.
        log_odds: log-odds of the target, float32.
        other: random class other than the target, int32.
    """

    target: jax.Array
    predicted: jax.Array
    log_odds: jax.Array
    other: jax.Array


class MapScores(NamedTuple):
    """The scores of a map; the P points of a curve are probabilities of the target.

    Attributes:
        crop: SM of the box of the map, float32 scalar, see `crop_metric`.
        deletion: curves for G generators, float32 `[G, P]`; the most important pixels are replaced
            first.
        insertion: curves for G generators, float32 `[G, P]`; the most important pixels are restored
            first.
    """

    crop: jax.Array
    deletion: jax.Array
    insertion: jax.Array


class _Models(NamedTuple):
    """The values that all images share."""

    key: jax.Array
    classifier: Classifier
    infills: tuple[Generator, ...]
    baseline_infill: Generator
    transfer_classifiers: tuple[Classifier, ...]
    contrast: jax.Array | None


class Scorer:
    """Evaluator of images, maps and masks; each program is compiled once.

    Attributes:
        num_infills: number of generators for curves, and for masks learnt with another generator.
        num_transfer_classifiers: number of transfer classifiers.
        curve_steps: number of steps of each curve.
    """

    def __init__(
        self,
        key: jax.Array,
        classifier: Classifier,
        infills: Sequence[Generator],
        baseline_infill: Generator,
        curve_steps: int,
        per_device_batch_size: int,
        transfer_classifiers: Sequence[Classifier] = (),
        contrast: int | None = None,
    ) -> None:
        """Copies the models to the devices; nothing is compiled yet.

        Args:
            key: random key of the evaluation, into which the identity of each image is folded.
            classifier: the explained model.
            infills: generators that fill the holes of curves, and of masks learnt with another
                generator; the last one also fills the masks for transfer classifiers.
            baseline_infill: generator that replaces pixels for the baselines.
            curve_steps: number of steps of each curve.
            per_device_batch_size: number of images that a device evaluates together.
            transfer_classifiers: classifiers that evaluate masks learnt with another classifier.
            contrast: class k of the question "why the target rather than k?"; None for other
                questions.
        """
        self.num_infills = len(infills)
        self.num_transfer_classifiers = len(transfer_classifiers)
        self._devices = cluster.devices_for(classifier)
        self._rows = per_device_batch_size
        self.curve_steps = curve_steps
        models = _Models(
            key,
            classifier,
            tuple(infills),
            baseline_infill,
            tuple(transfer_classifiers),
            None if contrast is None else jnp.asarray(contrast, jnp.int32),
        )
        self._models = parallel.replicate(models, self._devices)
        # Copy on first use, because the copy takes as much memory as the classifier itself.
        self._shuffled = functools.cache(
            lambda: self._models._replace(
                classifier=parallel.replicate(shuffle_weights(key, classifier), self._devices)
            )
        )
        self._program = functools.cache(self._compile)

    def classify(self, images: Images) -> Prediction:
        """Classifies images; their targets may be unknown."""
        prediction: Prediction = self._run(_classify, {}, images)
        return prediction

    def crop(self, images: Images, boxes: np.ndarray) -> np.ndarray:
        """Returns SM `[n]` of one box per image, `[n, 4]`, see `crop_metric`."""
        crops: np.ndarray = self._run(_crop, {}, images, boxes)
        return crops

    def attribute(self, method: str, images: Images, shuffled: bool = False) -> np.ndarray:
        """Computes maps `[n, H, W]` with a baseline.

        Args:
            method: name of the method in `cfx_jax.baselines.METHODS`.
            images: images to explain.
            shuffled: whether the weights of the classifier are shuffled, see `shuffle_weights`.
        """
        models = self._shuffled() if shuffled else self._models
        maps: np.ndarray = self._run(_attribute, {"method": method}, images, models=models)
        return maps

    def saliency(
        self, cells: np.ndarray, objective: str, size: tuple[int, int], law: MaskLaw
    ) -> np.ndarray:
        """Enlarges learnt masks `[n, h, w]` to maps `[n, H, W]`."""
        options = {"objective": objective, "size": size, "law": law}
        maps: np.ndarray = self._run(_saliency, options, cells)
        return maps

    def keep(self, cells: np.ndarray, size: tuple[int, int], law: MaskLaw) -> np.ndarray:
        """Returns the probability that a hard mask keeps each pixel, float32 `[n, H, W]`."""
        probabilities: np.ndarray = self._run(_keep, {"size": size, "law": law}, cells)
        return probabilities

    def score(self, images: Images, maps: np.ndarray, boxes: np.ndarray) -> MapScores:
        """Scores maps `[n, H, W]` and their boxes `[n, 4]`.

        The classifier evaluates each image `1 + 2 G (curve_steps + 1)` times.
        """
        options = {"num_steps": self.curve_steps}
        scores: MapScores = self._run(_score, options, images, maps, boxes)
        return scores

    def transfer(
        self, images: Images, cells: np.ndarray, objective: str, law: MaskLaw, num_masks: int = 8
    ) -> tuple[np.ndarray, np.ndarray]:
        """Measures success with in-fills with which the masks were not learnt.

        Args:
            images: images of the masks.
            cells: cells of the learnt masks, float32 `[n, h, w]`, see `MaskLaw`.
            objective: objective of the masks, `"ssr"` or `"sdr"`.
            law: mask law of the learnt masks.
            num_masks: number of hard masks drawn for each of the G in-fills.

        Returns:
            Log-odds of the target and success rate, float32 `[n, G]` each.
        """
        options = {"objective": objective, "law": law, "num_masks": num_masks}
        log_odds, success_rate = self._run(_transfer_to_infills, options, images, cells)
        return log_odds, success_rate

    def transfer_to_classifiers(
        self, images: Images, cells: np.ndarray, objective: str, law: MaskLaw
    ) -> np.ndarray:
        """Measures success of hard masks with the transfer classifiers.

        Args:
            images: images of the masks.
            cells: cells of the learnt masks, float32 `[n, h, w]`, see `MaskLaw`.
            objective: objective of the masks, `"ssr"` or `"sdr"`.
            law: mask law of the learnt masks.

        Returns:
            Success rate with J classifiers, float32 `[n, J]`; NaN where a classifier does not
            predict the target on the original image.
        """
        rates: np.ndarray = self._run(
            _transfer_to_classifiers, {"objective": objective, "law": law}, images, cells
        )
        return rates

    def region_success(self, images: Images, regions: np.ndarray, objective: str) -> np.ndarray:
        """Measures success of the thresholded region of each image with all classifiers.

        Args:
            images: images of the regions.
            regions: pixels that SSR keeps and SDR drops, bool `[n, H, W]`.
            objective: objective of the regions, `"ssr"` or `"sdr"`.

        Returns:
            Success of the region, 1 or 0, float32 `[n, 1 + J]`: with the explained classifier, then
            with J others; NaN where one of the others does not predict the target on the original
            image.
        """
        success: np.ndarray = self._run(_region_success, {"objective": objective}, images, regions)
        return success

    def _run(
        self,
        function: Callable[..., Any],
        options: dict[str, Any],
        *arguments: Any,
        models: _Models | None = None,
    ) -> Any:
        """Runs a function of one image over a batch of n >= 1 on all devices."""
        program = self._program(function, tuple(options.items()), len(arguments))
        total = len(self._devices) * self._rows
        # JAX dispatches asynchronously: this thread continues while devices compute.
        results = [
            program(*parallel.shard(rows, len(self._devices), self._rows), models or self._models)
            for rows in parallel.slices(arguments, total)
        ]
        done = [parallel.unshard(result, total) for result in results]
        count = len(jax.tree.leaves(arguments)[0])
        return jax.tree.map(lambda *rows: np.concatenate(rows)[:count], *done)

    def _compile(
        self, function: Callable[..., Any], options: tuple[tuple[str, Any], ...], num_mapped: int
    ) -> Callable[..., Any]:
        return parallel.map_over_devices(
            functools.partial(_scale_and_call, function, **dict(options)),
            self._devices,
            num_mapped=num_mapped,
            num_shared=1,
        )


def _scale_and_call(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Scales 8-bit images to [0, 1], and calls a function with them."""
    return function(
        *(
            value._replace(pixels=to_floats(value.pixels)) if isinstance(value, Images) else value
            for value in arguments
        ),
        **options,
    )


def _key(image: Images, models: _Models) -> jax.Array:
    return jax.random.fold_in(models.key, image.identities)


def _classify(image: Images, models: _Models) -> Prediction:
    classifier = models.classifier
    logits = classifier.apply(classifier.params, image.pixels[None])[0]
    predicted = predict(logits)
    target = resolve_rank(logits, image.targets)
    other = draw_other_class(_key(image, models), target, class_count(len(logits)))
    question = Question(target, models.contrast)
    return Prediction(target, predicted, question.log_odds(logits, classifier), other)


def _crop(image: Images, box: jax.Array, models: _Models) -> jax.Array:
    return crop_metric(models.classifier, image.pixels, _question(image, models), box)


def _attribute(image: Images, models: _Models, *, method: str) -> jax.Array:
    key, question = _key(image, models), _question(image, models)
    case = Case(key, models.classifier, models.baseline_infill, image.pixels, question)
    return METHODS[method](case)


def _saliency(
    cells: jax.Array, models: _Models, *, objective: str, size: tuple[int, int], law: MaskLaw
) -> jax.Array:
    del models
    return saliency(cells, jnp.asarray(DIRECTIONS[objective]), size, law)


def _score(
    image: Images, importance: jax.Array, box: jax.Array, models: _Models, *, num_steps: int
) -> MapScores:
    key, classifier = _key(image, models), models.classifier
    question = _question(image, models)
    deletion, insertion = (
        jnp.stack(
            [
                draw(
                    key, classifier, generator, image.pixels, question, importance, num_steps
                ).probability
                for generator in models.infills
            ]
        )
        for draw in (deletion_curve, insertion_curve)
    )
    crop = crop_metric(classifier, image.pixels, question, box)
    return MapScores(crop, deletion, insertion)


def _keep(cells: jax.Array, models: _Models, *, size: tuple[int, int], law: MaskLaw) -> jax.Array:
    del models
    return law.keep_map(cells, size).keep


def _transfer_to_infills(
    image: Images,
    cells: jax.Array,
    models: _Models,
    *,
    objective: str,
    law: MaskLaw,
    num_masks: int,
) -> tuple[jax.Array, jax.Array]:
    pixels = law.keep_map(cells, image.pixels.shape[:2])
    return _transfer.transfer_to_infills(
        _problem(image, models, objective),
        pixels,
        models.classifier,
        models.infills,
        law,
        num_masks,
    )


def _transfer_to_classifiers(
    image: Images, cells: jax.Array, models: _Models, *, objective: str, law: MaskLaw
) -> jax.Array:
    pixels = law.keep_map(cells, image.pixels.shape[:2])
    return _transfer.transfer_to_classifiers(
        _problem(image, models, objective),
        pixels,
        models.transfer_classifiers,
        models.infills[-1],
        law,
    )


def _region_success(
    image: Images, region: jax.Array, models: _Models, *, objective: str
) -> jax.Array:
    return _transfer.evaluate_region(
        _problem(image, models, objective),
        region,
        models.classifier,
        models.transfer_classifiers,
        models.infills[-1],
    )


def _problem(image: Images, models: _Models, objective: str) -> Problem:
    question = _question(image, models)
    return make_problem(_key(image, models), image.pixels, question, objective)


def _question(image: Images, models: _Models) -> Question:
    return Question(image.targets, models.contrast)
