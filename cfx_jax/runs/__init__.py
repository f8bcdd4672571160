"""Whole-dataset runs: config -> data -> models -> all devices -> records, on one host or many."""

from cfx_jax.runs import cluster, parallel, preemption, runner
from cfx_jax.runs.batch_size import device_memory
from cfx_jax.runs.checking import describe_progress, find_problems
from cfx_jax.runs.costs import describe_cost
from cfx_jax.runs.explanations import CLASSES, SCALARS, TOP, Explanations, make_fields
from cfx_jax.runs.jobs import Images
from cfx_jax.runs.preemption import StoppedError, StopRequest
from cfx_jax.runs.programs import keep_programs
from cfx_jax.runs.progress import Bar
from cfx_jax.runs.runner import run
from cfx_jax.runs.same_data import check_same_data, name_other_id
from cfx_jax.runs.solver import Solver

__all__ = [
    "CLASSES",
    "SCALARS",
    "TOP",
    "Bar",
    "Explanations",
    "Images",
    "Solver",
    "StopRequest",
    "StoppedError",
    "check_same_data",
    "cluster",
    "describe_cost",
    "describe_progress",
    "device_memory",
    "find_problems",
    "keep_programs",
    "make_fields",
    "name_other_id",
    "parallel",
    "preemption",
    "run",
    "runner",
]
