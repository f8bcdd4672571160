"""Runs that search for several regions, or only in allowed pixels: records and table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import cfx_jax
from cfx_jax.config import BatchConfig, Config, ConfigError, DataConfig, ExplainConfig
from cfx_jax.report import export
from cfx_jax.report.page import summary, write_report
from cfx_jax.runs import runner
from cfx_jax.runs.checking import describe_progress, find_problems
from cfx_jax.runs.costs import describe_cost
from cfx_jax.runs.explanations import Explanations

SIZE = 24
LEFT, RIGHT = (slice(6, 14), slice(2, 10)), (slice(10, 18), slice(14, 22))
NAMES = ["a", "b", "c"]


def either(_, images):
    """Predicts class 1 where the left or the right patch is white."""
    patches = [images[:, rows, columns].mean((1, 2, 3)) for rows, columns in (LEFT, RIGHT)]
    left, right = jax.nn.sigmoid(15.0 * (jnp.stack(patches) - 0.7))
    return jnp.stack([jnp.zeros_like(left), 8.0 * (1 - (1 - left) * (1 - right)) - 4.0], axis=1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three white pictures; in the masks of b and c, the left and the right patch are black."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("photos", "masks"):
        (folder / name).mkdir()
    for number, (name, patch) in enumerate(zip(NAMES, [None, LEFT, RIGHT], strict=True)):
        Image.new("RGB", (SIZE, SIZE), (255 - number,) * 3).save(folder / "photos" / f"{name}.jpg")
        mask = np.full((SIZE, SIZE), 255, np.uint8)
        if patch:
            mask[patch] = 0
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    return folder


def run(folder, workdir, allowed="", **explain):
    classifier = cfx_jax.Classifier(params=(), apply=either, image_size=(SIZE, SIZE), name="either")
    black = cfx_jax.load_generator("grey").replace(
        apply=lambda _, x, mask, key: jnp.zeros_like(x), name="black"
    )
    config = Config(
        data=DataConfig(
            source="folder", path=str(folder / "photos"), allowed=str(allowed), resize="stretch"
        ),
        explain=ExplainConfig(objective="ssr", mask_size=12, num_steps=60, **explain),
        batch=BatchConfig(unit_size=2),
    )
    runner.run(config, workdir, classifier=classifier, generator=black)
    return Explanations(workdir)


def read_region(records, name, row):
    """Returns the region of a result, bool `[H, W]`."""
    logits = records.read_result(name, "mask_logits")[row].astype(np.float32)
    keep = records.settings.mask_law.upsample_keep(jnp.asarray(logits), (SIZE, SIZE))
    return np.asarray(keep > 0.5)


def find_patches(records, name, row):
    """Names the patches of which the region of a result covers more than half."""
    region = read_region(records, name, row)
    patches = {"left": LEFT, "right": RIGHT}
    return [side for side, patch in patches.items() if region[patch].mean() > 0.5]


@pytest.fixture(scope="module")
def several(photos, tmp_path_factory):
    """A run that searches for three regions of each picture; there are two."""
    return run(photos, tmp_path_factory.mktemp("run"), alternatives=3)


def test_run_with_alternatives_records_each_region(several):
    assert several.results == ("ssr", "ssr_2", "ssr_3")
    for row in range(len(NAMES)):
        found = [find_patches(several, name, row) for name in ("ssr", "ssr_2")]
        assert sorted(found) == [["left"], ["right"]]
        first, second = (read_region(several, name, row).sum() for name in ("ssr", "ssr_2"))
        assert first <= second
    names = [several.status_name(code) for code in several.read_result("ssr_3", "status")]
    assert names == ["no_alternative"] * 3
    assert np.isnan(several.read_result("ssr_3", "mask_logits")).all()
    assert np.isnan(several.read_result("ssr_3", "kept_area")).all()


@pytest.mark.slow
def test_run_with_alternatives_equals_explain(photos, several):
    """The solver starts a search when the one before it is done; `explain` scans over them."""
    white = [np.asarray(Image.open(photos / "photos" / f"{name}.jpg")) for name in NAMES]
    e = cfx_jax.explain(
        jax.random.key(3),
        cfx_jax.Classifier(params=(), apply=either),
        cfx_jax.load_generator("grey").replace(apply=lambda _, x, mask, key: jnp.zeros_like(x)),
        np.stack(white).astype(np.float32) / 255,
        jnp.ones(3, jnp.int32),
        mask_size=12, num_steps=60, alternatives=2,
    )  # fmt: skip
    # The patches are equally large, so rounding decides which region comes first.
    for row in range(len(NAMES)):
        regions = {tuple(find_patches(several, name, row)): name for name in ("ssr", "ssr_2")}
        for place in range(2):
            rows, columns = LEFT
            side = "left" if e.region[row, place, rows, columns].mean() > 0.5 else "right"
            logits = several.read_result(regions[(side,)], "mask_logits")[row].astype(np.float32)
            np.testing.assert_allclose(logits, e.mask_logits[row, place], rtol=5e-3, atol=5e-2)


def test_records_commands_describe_each_result(several):
    text = describe_progress(several.location)
    assert "SSR 2: 3 ok" in text
    assert "SSR 3: 3 no_alternative" in text
    settings = several.settings
    # Three searches for each image, the last of which finds nothing.
    assert f"{3 * settings.num_evaluations:,} evaluations per image" in describe_cost(several)
    assert not list(find_problems(several.location))
    assert [line.split()[3:5] for line in summary(several.location).splitlines()[2:4]] == [
        ["SSR", "98.2"], ["SSR", "2"],
    ]  # fmt: skip


def test_gallery_and_export_contain_each_result(several, tmp_path):
    page = write_report(several.location)
    html = (tmp_path / page).read_text(encoding="utf-8")
    assert "SSR 2 saliency map, example 0" in html
    assert "SSR 3 saliency map" not in html
    table = export.export_table(several.location, tmp_path, "csv")
    header = table.read_text(encoding="utf-8").splitlines()[0].split(",")
    assert {"ssr_kept_area", "ssr_2_kept_area", "ssr_3_status"} <= {*header}


def test_run_with_allowed_keeps_regions_inside(photos, tmp_path):
    records = run(photos, tmp_path / "run", allowed=photos / "masks", alternatives=2)
    assert find_patches(records, "ssr", 1) == ["right"]
    assert find_patches(records, "ssr", 2) == ["left"]
    codes = records.read_result("ssr_2", "status")
    assert [records.status_name(code) for code in codes] == ["ok"] + ["no_alternative"] * 2


def test_describe_cost_counts_the_searches_made(photos, tmp_path):
    """Of three images, two have one region and one has two; the third search is left out."""
    records = run(photos, tmp_path / "run", allowed=photos / "masks", alternatives=3)
    found = sum((records.read_result(name, "status") == 0).sum() for name in records.results)
    assert found == 4
    mean = round((3 + 2 + 2) / 3 * records.settings.num_evaluations)
    assert f"{mean:,} evaluations per image" in describe_cost(records)


def test_run_names_images_without_an_allowed_cell(photos, tmp_path, caplog):
    masks = tmp_path / "masks"
    masks.mkdir()
    for name, brightness in zip(NAMES, [255, 0, 255], strict=True):
        Image.new("L", (SIZE, SIZE), brightness).save(masks / f"{name}.png")
    records = run(photos, tmp_path / "run", allowed=masks)
    named = [r.getMessage() for r in caplog.records if "no cell of the mask" in r.getMessage()]
    assert named == [
        "no cell of the mask lies in the allowed pixels of b.jpg, so its region is empty"
    ]
    codes = records.read_result("ssr", "status")
    assert [records.status_name(code) for code in codes] == ["ok", "not_preserved", "ok"]


@pytest.mark.slow
def test_run_with_other_allowed_pixels_is_not_resumed(photos, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for name in NAMES:
        Image.new("L", (SIZE, SIZE), 255).save(masks / f"{name}.png")
    run(photos, tmp_path / "run", allowed=masks)
    mask = np.full((SIZE, SIZE), 255, np.uint8)
    mask[LEFT] = 0
    Image.fromarray(mask).save(masks / "b.png")
    with pytest.raises(cfx_jax.records.ManifestMismatchError, match=r"b\.jpg: other bytes"):
        run(photos, tmp_path / "run", allowed=masks)


@pytest.mark.parametrize(
    ("explain", "message"),
    [
        ({"alternatives": 0}, r"explain: alternatives is 0; expected a whole number"),
        ({"max_overlap": -0.1}, r"explain: max_overlap is -0.1; expected a share"),
    ],
)
def test_run_rejects_wrong_alternatives(photos, tmp_path, explain, message):
    with pytest.raises(ConfigError, match=message):
        run(photos, tmp_path / "run", **explain)
