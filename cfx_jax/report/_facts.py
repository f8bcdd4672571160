"""Facts about whole runs in the gallery: their main settings, and where several runs differ."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cfx_jax.runs import Explanations, describe_cost

_FACTS = {
    "Classifier": "classifier.name",
    "In-fill": "generator.name",
    "Mode": "config.explain.mode",
    "Seed": "config.seed",
}
# They change no number of a run.
_NO_MATTER = ("batch", "report")


def list_facts(run: Explanations, computed: int) -> list[tuple[str, Any]]:
    """Lists the settings worth a line, of those the manifest has, and what a run costs.

    Args:
        run: with its manifest.
        computed: number of its examples that are computed.

    Returns:
        Labels and values.
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
    """Lists in what the configs of runs differ, less what changes no number.

    Args:
        runs: runs that the gallery compares.

    Returns:
        Paths of fields, as `explain.mode`, and the value of each run; "default" where a config says
        none.
    """
    configs = [dict(_flatten(run.manifest.get("config") or {})) for run in runs]
    settings, used_by_none = [run.manifest["settings"] for run in runs], object()
    found = []
    for name in dict.fromkeys(name for config in configs for name in config):
        values = [config.get(name) for config in configs]
        used = [of.get(name.removeprefix("explain."), used_by_none) for of in settings]
        if used_by_none not in used and used.count(used[0]) == len(used):
            continue  # A number of one run's mode that another spells out.
        if name.partition(".")[0] not in _NO_MATTER and any(v != values[0] for v in values):
            found.append((name, ["default" if v in (None, "") else str(v) for v in values]))
    return found


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the fields of a config with their paths, `explain.mode`."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
