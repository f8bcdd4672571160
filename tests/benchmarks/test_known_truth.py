"""The benchmark of known smallest regions: its truth, and bounds for the regions of the default."""

import importlib.util
import pathlib

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "known_truth.py"


@pytest.fixture(scope="module")
def known_truth():
    spec = importlib.util.spec_from_file_location("known_truth", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def keep_first(parts, counts, images):
    """Images of which only the first pixels of each disc are kept, on grey."""
    kept = np.zeros(parts.shape[1:], bool)
    for part, count in zip(parts, counts, strict=True):
        kept |= part & (np.cumsum(part).reshape(part.shape) <= count)
    return np.where(kept[..., None], images, 0.5)


@pytest.mark.parametrize("name", ["one", "and", "or_both", "two_of_three", "texture"])
def test_make_world_least_sets_decide_and_smaller_ones_do_not(name, known_truth):
    """Tries the numbers of pixels around the smallest sets with the classifier itself."""
    world = known_truth.make_world(name, 1, 32)
    image, parts = np.asarray(world.images[0]), world.parts[0]
    total, count = int(parts[0].sum()), len(parts)

    def is_decided(counts):
        kept = keep_first(parts, counts, image)[None].astype(np.float32)
        return bool(world.classifier.apply((), kept)[0].argmax() == 0)

    assert world.classifier.apply((), world.images)[0].argmax() == 0
    # How the smallest sets are divided among the discs.
    kept_discs = {"or_both": 1, "two_of_three": 2}.get(name, count)
    each, rest = divmod(world.least["ssr"], kept_discs)
    sufficient = [each + (disc < rest) for disc in range(kept_discs)] + [0] * (count - kept_discs)
    assert is_decided(sufficient)
    assert not is_decided([max(0, number - 1) for number in sufficient])
    dropped_discs = {"and": 1}.get(name, max(1, count - kept_discs + 1))
    each, rest = divmod(world.least["sdr"], dropped_discs)
    dropped = [each + (disc < rest) for disc in range(dropped_discs)]
    dropped += [0] * (count - dropped_discs)
    assert not is_decided([total - number for number in dropped])
    assert is_decided([total - max(0, number - 1) for number in dropped])


@pytest.mark.slow
def test_find_both_finds_both_answers(known_truth):
    text = known_truth.find_both("region", {}, num_images=6, size=48, seed=1)
    assert text == "or_both, ssr: 1.00, and, sdr: 1.00"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["and", "or_both"])
def test_regions_are_close_to_the_smallest_ones(name, known_truth):
    """Bounds above what the default reaches on more and larger images, see docs/benchmarks.md."""
    rows = known_truth.run([name], ["region"], {}, num_images=6, keys=[0, 1], size=48)
    for _, _, objective, row in rows:
        assert row.ratio <= 1.5, objective
        assert row.ratio_with_reserve <= 1.4, objective
        assert row.on_parts >= 0.9, objective
        assert row.region_success == 1.0, objective
        assert row.ok >= 5 / 6, objective
        assert row.iou_keys > 0.999, objective
        assert row.iou_noise >= 0.7, objective
