"""The main settings of runs in the gallery, and the differences between several runs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cfx_jax.runs import Explanations, describe_cost

_FACTS = {
    "Classifier": "classifier.name",
    "In-fill": "generator.name",
    "Mode": "config.explain.mode",
    "Seed": "config.seed",
}
# Config sections that do not change the results of a run.
_NO_MATTER = ("batch", "report")


def list_facts(run: Explanations, computed: int) -> list[tuple[str, Any]]:
    """Lists the main settings of a run in its manifest, its progress and its cost.

    Args:
        run: reader of the run.
        computed: number of computed examples.

    Returns:
        Pairs of a label and a value.
    """
    facts = []
    for label, path in _FACTS.items():
        value: Any = run.manifest
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            facts.append((label, value))
    facts.append(("Computed", f"{computed:,} of {run.num_examples:,} examples"))
    if cost := describe_cost(run):
        facts.append(("Cost", cost))
    return facts


def list_differences(runs: Sequence[Explanations]) -> list[tuple[str, list[str]]]:
    """Lists the differences between the configs of runs that may change results.

    Args:
        runs: runs that the gallery compares.

    Returns:
        Paths of fields, such as `explain.mode`, and the value of each run; "default" if a config
        sets no value.
    """
    configs = [dict(_flatten(run.manifest.get("config") or {})) for run in runs]
    settings, used_by_none = [run.manifest["settings"] for run in runs], object()
    found = []
    for name in dict.fromkeys(name for config in configs for name in config):
        values = [config.get(name) for config in configs]
        used = [of.get(name.removeprefix("explain."), used_by_none) for of in settings]
        if used_by_none not in used and used.count(used[0]) == len(used):
            continue  # All runs use the same value, which only some configs set explicitly.
        if name.partition(".")[0] not in _NO_MATTER and any(v != values[0] for v in values):
            found.append((name, ["default" if v in (None, "") else str(v) for v in values]))
    return found


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the fields of a config with their paths, such as `explain.mode`."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
