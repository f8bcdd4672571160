"""The host loop of an optimisation: rows of problems on all local devices, with progress."""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import numpy as np

from cfx_jax import parallel
from cfx_jax.classifiers import Classifier
from cfx_jax.explain import advance, finish, init
from cfx_jax.explanation import Explanation
from cfx_jax.generators import Generator
from cfx_jax.objective import Problem
from cfx_jax.settings import Settings

# `advance` comes back to Python at least this often, to move the progress bar.
_MAX_STEPS_PER_CALL = 5


class Solver:
    """Solves rows of problems on all local devices, compiled once for the whole run.

    Example:
        >>> import jax, jax.numpy as jnp, cfx_jax
        >>> from cfx_jax.objective import make_problem
        >>> from cfx_jax.settings import get_settings
        >>> classifier = cfx_jax.Classifier(params=(), apply=lambda _, x: x.mean((1, 2)))
        >>> generator = cfx_jax.load_generator("grey")
        >>> settings = get_settings("fast", num_steps=2, mask_size=4)
        >>> solver = Solver(classifier, generator, settings, per_device_batch_size=4)
        >>> problem = make_problem(jax.random.key(0), jnp.ones((8, 8, 3)), 0, "ssr")
        >>> solver(jax.tree.map(lambda x: x[None], problem)).saliency.shape
        (1, 8, 8)
    """

    def __init__(
        self,
        classifier: Classifier,
        generator: Generator,
        settings: Settings,
        per_device_batch_size: int,
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        """Prepares the programs; they are compiled by the first call.

        Args:
            classifier: the model to explain.
            generator: fills the holes.
            settings: of every problem.
            per_device_batch_size: rows optimised together on one device.
            devices: local devices to use; None takes all.
        """
        self._models = (classifier, generator)
        self._devices = list(devices or jax.local_devices())
        self._rows_per_device = per_device_batch_size
        self._steps_per_call = _largest_divisor(settings.num_steps, _MAX_STEPS_PER_CALL)
        self._num_calls = settings.num_steps // self._steps_per_call
        mapped = functools.partial(parallel.map_over_devices, devices=self._devices)
        # Gives the problem back, so that its image crosses to its device once and stays there.
        self._init = mapped(lambda problem: (problem, init(settings)), num_mapped=1, num_shared=0)
        self._advance = mapped(
            functools.partial(advance, settings=settings, num_steps=self._steps_per_call),
            num_mapped=2,
            num_shared=2,
        )
        self._finish = mapped(
            functools.partial(finish, settings=settings), num_mapped=2, num_shared=2
        )

    def __call__(
        self,
        problems: Problem,
        on_progress: Callable[[int, float], None] = lambda steps, objective: None,
    ) -> Explanation:
        """Solves problems batch by batch.

        Args:
            problems: `Problem` with a leading axis n >= 1 on every field.
            on_progress: told, now and then, how many steps were taken since it was last told,
                summed over the rows, and the mean objective of these rows, leaving out rows that
                are not finite (NaN when none is).

        Returns:
            An `Explanation` of numpy arrays with a leading axis n.
        """
        total = len(self._devices) * self._rows_per_device
        batches = [
            self._solve(jax.tree.map(lambda x, i=start: x[i : i + total], problems), on_progress)
            for start in range(0, len(problems.image), total)
        ]
        return jax.tree.map(lambda *parts: np.concatenate(parts), *batches)

    def _solve(self, problems: Problem, on_progress: Callable[[int, float], None]) -> Explanation:
        num_rows = len(problems.image)
        problems = parallel.shard(problems, len(self._devices), self._rows_per_device)
        problems, states = self._init(problems)
        for call in range(1, self._num_calls + 1):
            states = self._advance(states, problems, *self._models)
            latest = parallel.unshard(states.trace, num_rows)[:, call * self._steps_per_call - 1]
            finite = latest[np.isfinite(latest)]
            objective = float(finite.mean()) if finite.size else math.nan
            on_progress(num_rows * self._steps_per_call, objective)
        return parallel.unshard(self._finish(states, problems, *self._models), num_rows)


def _largest_divisor(number: int, limit: int) -> int:
    """Calls of equal length need one compiled program; a remainder would need a second."""
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)
