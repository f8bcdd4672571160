"""The tables of an evaluation in Markdown, and their columns."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cfx_jax.metrics import HIT, SMOOTHING, Interval


class Metric(NamedTuple):
    """A column of a table: its title, whether higher or lower is better, and its meaning."""

    title: str
    better: str
    meaning: str


_GAUSSIAN = f"a Gaussian of {SMOOTHING:.0%} of its side"
# Maps of other methods are not probabilities.
_ABOVE_HALF = "above 1/2 (a method that is not learnt: above half of the range of its map)"

MAP_METRICS = {
    "error": Metric("LE", "lower", f"box of the map overlaps no true box by more than {HIT}"),
    "half_error": Metric(
        "LE at 1/2", "lower", f"LE of the box of what is {_ABOVE_HALF}, no threshold chosen"
    ),
    "official_error": Metric("OM", "lower", "LE, or the label is not predicted"),
    "found": Metric("MaxBoxAcc", "higher", "boxes found at the threshold that suits the method"),
    "smooth_error": Metric("LE smooth", "lower", f"LE of the map after {_GAUSSIAN}"),
    "smooth_found": Metric("MaxBoxAcc smooth", "higher", f"MaxBoxAcc after {_GAUSSIAN}"),
    "pointing": Metric("pointing", "higher", "the highest pixel lies in a true box"),
    "f1": Metric("F1", "higher", "overlap of the map itself with the true box"),
    "crop": Metric("SM", "lower", "log area - log probability of the crop to the box"),
    "variation": Metric("TV", "lower", "raggedness of the map"),
    "parts": Metric("parts", "lower", f"connected parts of what is {_ABOVE_HALF}"),
    "box_share": Metric("in the box", "higher", "share of the map that lies in the true boxes"),
}
LEARNT_METRICS = {
    "changed_area": Metric("area", "lower", "share that is kept (SSR) or in-filled (SDR)"),
    "success_rate": Metric(
        "success", "higher", "share of hard masks that keep (SSR) or flip (SDR) the prediction"
    ),
    "log_odds_infilled": Metric("log-odds", "", "of the target, in-filled"),
    "soft_hard_gap": Metric(
        "soft-hard", "near 0", "objective of hard masks minus that of soft ones"
    ),
    "entropy": Metric("entropy", "lower", "bits per mask cell"),
    "pixel_entropy": Metric(
        "entropy, pixels", "lower", "bits per pixel, of the probabilities of hard masks"
    ),
    "region_success": Metric(
        "region success",
        "higher",
        "share of images whose region (saliency > 1/2) keeps (SSR) or flips (SDR) the prediction",
    ),
    "failed": Metric("never", "lower", "share of images for which no hard mask succeeds"),
    "regenerated": Metric(
        "regenerated", "lower", "SDR: most in-fills bring the object back where grey does not"
    ),
}
SANITY_METRICS = {
    "weights_agreement": Metric(
        "weights shuffled", "lower", "depends on the weights: 1 = its map stays when they change"
    ),
    "class_agreement": Metric(
        "another class", "lower", "depends on the class: 1 = its map is that of another class"
    ),
}


def to_markdown(
    summary: Mapping[str, Any], infills: Sequence[str], transfer_classifiers: Sequence[str]
) -> str:
    """Formats the tables of an evaluation as Markdown.

    Args:
        summary: content of `table.json`.
        infills: names of the generators of the curves.
        transfer_classifiers: names of the transfer classifiers.

    Returns:
        The tables as Markdown, each with the meaning of its columns.
    """
    curves = {
        f"{curve}_{infill}": Metric(f"{curve} {infill}", better, f"{curve}, {infill} in the holes")
        for infill in infills
        for curve, better in (("deletion", "lower"), ("insertion", "higher"))
    }
    transferred = {
        f"success_{infill}": Metric(
            f"success {infill}", "higher", f"success rate of hard masks, in-filled by {infill}"
        )
        for infill in infills
    }
    for name in transfer_classifiers:
        about = f"with {name}, in-filled by {infills[-1]}, on the images that {name} gets right"
        transferred |= {
            f"transfer_{name}": Metric(
                f"transfer to {name}", "higher", f"success rate of hard masks {about}"
            ),
            f"region_transfer_{name}": Metric(
                f"region transfer to {name}", "higher", f"success of the region {about}"
            ),
        }
    accuracy = "none with a label"
    if number := summary["num_labelled"]:
        accuracy = f"top-1 accuracy {summary['top_1']:.1%} of {number} with a label"
    lines = [f"{summary['num_images']} images, {accuracy}. Mean [95 % interval] over images."]
    for subset, methods in summary["methods"].items():
        lines += _markdown_table(f"Maps, {subset}", methods, MAP_METRICS | curves)
    learnt = {name: m for name, m in summary["methods"]["all"].items() if "entropy" in m}
    lines += _markdown_table("Learnt masks", learnt, LEARNT_METRICS | transferred)
    checked = {n: m for n, m in summary["methods"]["all"].items() if m.keys() & SANITY_METRICS}
    lines += _markdown_table(
        "Sanity checks: rank agreement with the map of a changed classifier or class",
        checked,
        SANITY_METRICS,
    )
    pairs = {f"{pair['ours']}, {pair['theirs']}": {"rank": pair} for pair in summary["agreement"]}
    title = Metric("rank agreement", "higher", "Spearman correlation of two maps of an image")
    lines += _markdown_table("Agreement between runs", pairs, {"rank": title})
    restarts = {", ".join(row["runs"]): {"var": row} for row in summary["restart_variance"]}
    title = Metric("restart variance", "lower", "variance of a mask cell over seeds")
    lines += _markdown_table("Restarts", restarts, {"var": title})
    differences: dict[str, dict[str, Any]] = {}
    for row in summary["differences"]:
        if row["subset"] == "all":
            name = f"{row['ours']} - {row['theirs']}"
            differences.setdefault(name, {})[row["metric"]] = row
    lines += _markdown_table("Differences on the same images", differences, MAP_METRICS | curves)
    return "\n".join(lines) + "\n"


def _markdown_table(
    title: str, rows: Mapping[str, Mapping[str, Any]], metrics: Mapping[str, Metric]
) -> list[str]:
    if not rows:
        return []
    shown = {key: m for key, m in metrics.items() if any(key in row for row in rows.values())}
    lines = ["", f"### {title}", ""]
    heads = [m.title + (f" ({m.better})" if m.better else "") for m in shown.values()]
    lines += ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, row in rows.items():
        cells = [_cell(row[key]) if key in row else "" for key in shown]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, "", "; ".join(f"{m.title}: {m.meaning}" for m in shown.values()) + "."]


def _cell(numbers: Mapping[str, Any]) -> str:
    return str(Interval(numbers["mean"], numbers["low"], numbers["high"]))
