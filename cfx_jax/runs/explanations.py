"""What a run keeps of each example: the fields of its records, and their values."""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from cfx_jax.config import Config
from cfx_jax.data.loader import Examples
from cfx_jax.fido.explanation import Explanation, Status
from cfx_jax.fido.settings import Settings
from cfx_jax.records import Field, encode_ids

# float16 ends there, and a probability is 0 or 1 long before.
_LARGEST_LOGIT = 6e4
_SCALARS = ("log_odds_original", "log_odds_infilled", "kept_area", "success_rate", "objective")


def make_fields(
    config: Config, ids: Sequence[str], settings: Settings, size: tuple[int, int]
) -> list[Field]:
    """Lists what is kept of each example.

    Args:
        config: says which objectives, and whether to keep pictures.
        ids: of all examples; the longest decides how many bytes are kept.
        settings: size of the mask and number of steps.
        size: `(H, W)` of the images.

    Returns:
        The fields of the records.
    """
    id_width = max(len(text.encode()) for text in ids)
    picture = ((*size, 3), ("y", "x", "channel"))
    cells = ((settings.mask_size, settings.mask_size), ("cell_y", "cell_x"))
    fields = [Field("id", "uint8", (id_width,), ("id_byte",))]
    fields += [Field(name, "int32") for name in ("label", "target", "prediction")]
    if config.report.save_images:
        fields.append(Field("image", "uint8", *picture))
    for objective in config.explain.objectives:
        fields += [
            Field(f"{objective}_status", "int8"),
            Field(f"{objective}_mask_logits", "float16", *cells),
            Field(f"{objective}_trace", "float32", (settings.num_steps,), ("step",)),
            *(Field(f"{objective}_{name}", "float32") for name in _SCALARS),
        ]
        if config.report.save_images:
            fields.append(Field(f"{objective}_infilled", "uint8", *picture))
    return fields


def make_values(
    fields: Sequence[Field], examples: Examples, explanations: Mapping[str, Explanation]
) -> dict[str, np.ndarray]:
    """Lays a unit out as record fields; an unreadable example has its status and no more.

    Args:
        fields: of the records.
        examples: of the unit.
        explanations: by objective, of the readable examples.

    Returns:
        By field an array `[n, *field.shape]`.
    """
    n, rows = len(examples.ids), examples.readable
    values = {f.name: np.full((n, *f.shape), _blank(f), f.dtype) for f in fields}
    values["id"] = encode_ids(examples.ids, values["id"].shape[1])
    values["label"] = examples.labels
    values["target"] = examples.labels.copy()
    if "image" in values:
        # A grey picture is kept as RGB, which is what is shown.
        values["image"][rows] = _to_uint8(examples.images)
    for objective, result in explanations.items():
        values["target"][rows] = result.target
        values["prediction"][rows] = result.prediction
        values[f"{objective}_status"][rows] = result.status
        values[f"{objective}_trace"][rows] = result.trace
        values[f"{objective}_mask_logits"][rows] = np.clip(
            result.mask_logits, -_LARGEST_LOGIT, _LARGEST_LOGIT
        )
        for name in _SCALARS:
            values[f"{objective}_{name}"][rows] = getattr(result, name)
        if f"{objective}_infilled" in values:
            values[f"{objective}_infilled"][rows] = _to_uint8(result.infilled)
    return values


def _blank(field: Field) -> float:
    if field.name.endswith("_status"):
        return Status.UNREADABLE
    if field.dtype.startswith("float"):
        return math.nan
    return -1 if field.dtype.startswith("int") else 0


def _to_uint8(images: np.ndarray | jax.Array) -> np.ndarray:
    return np.round(255.0 * np.nan_to_num(np.clip(images, 0.0, 1.0))).astype(np.uint8)
