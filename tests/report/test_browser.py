"""The gallery in a real browser, opened as a file: it shows the values of the records."""

import dataclasses
import os
import pathlib
import re
import shutil

import numpy as np
import pytest

from cfx_jax.config import Config, ExplainConfig, ReportConfig
from cfx_jax.records import RecordWriter, encode_ids
from cfx_jax.report import show
from cfx_jax.report._drawing import round_for_display
from cfx_jax.report.gallery import write_gallery
from cfx_jax.runs.explanations import Explanations, make_fields

HOW = (
    "needs a browser: python -m pip install '.[browser]', and apt-get install chromium or "
    "python -m playwright install chromium"
)
HOSTILE = '<img src=x onerror="window.hit=1">\'</script><script>window.hit=1</script>'
STATUS_NAMES = ["ok", "misclassified", "not_flipped", "not_preserved", "non_finite", "unreadable"]
MINUS = "\N{MINUS SIGN}"
CLASSES = ["tabby cat", "tiger cat", f"dog {HOSTILE}", "cup"]
COUNT, UNIT, SIZE = 300, 64, 16
NUMBERS = ["log_odds_original", "log_odds_infilled", "kept_area", "success_rate", "stability",
           "objective"]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason=HOW)
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    with playwright.sync_playwright() as driver:
        if not found and not os.path.exists(driver.chromium.executable_path):
            pytest.skip(HOW)
        chromium = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def write_run(workdir, seed, ids, is_fine=False, **changes):
    """A run whose numbers are random; two examples are unreadable or not finite, or all is ok."""
    rng = np.random.default_rng(seed)
    explain = ExplainConfig(mode="fast", mask_size=2, num_steps=3)
    config = Config(explain=explain, report=ReportConfig())
    fields = make_fields(config, ["e" * 120], (SIZE, SIZE))
    manifest = {
        "objectives": ["ssr", "sdr"],
        "status_names": STATUS_NAMES,
        "class_names": CLASSES,
        "settings": dataclasses.asdict(explain.settings()) | {"relaxation": "concrete"},
        "dataset": {"name": f"set {HOSTILE}"},
    } | changes
    with RecordWriter(workdir, manifest, fields, len(ids), UNIT) as writer:
        for unit in writer.missing_units():
            start, stop = writer.unit_range(unit)
            n = stop - start
            values = {f.name: np.zeros((n, *f.shape), f.dtype) for f in fields}
            values["id"] = encode_ids(ids[start:stop], 120)
            values["image"] = rng.integers(0, 255, (n, SIZE, SIZE, 3), np.uint8)
            for name in ("label", "target", "prediction"):
                values[name] = rng.integers(-1 if name == "label" else 0, 4, n).astype(np.int32)
            for objective in ("ssr", "sdr"):
                for name in NUMBERS:
                    values[f"{objective}_{name}"] = rng.normal(size=n).astype(np.float32)
                logits = rng.normal(size=(n, 2, 2)).astype(np.float16)
                values[f"{objective}_mask_logits"] = logits
                values[f"{objective}_status"] = rng.integers(0, 4, n).astype(np.int8)
                # Fewer classes than five.
                values[f"{objective}_top_classes"] = np.tile([3, 0, 1, -1, -1], (n, 1)).astype("i4")
                for name in ("top_before", "top_after"):
                    shares = rng.dirichlet(np.ones(5), n).astype(np.float32)
                    values[f"{objective}_{name}"] = shares
                values[f"{objective}_trace"] = rng.normal(size=(n, 3)).astype(np.float32)
                for name in [*NUMBERS, "mask_logits", "trace"] if unit == 0 else []:
                    values[f"{objective}_{name}"][[2, 3]] = np.nan
                values[f"{objective}_status"][[2, 3]] = 4, 5
                if is_fine:
                    values[f"{objective}_status"][:] = 0
            # Nothing is known of what could not be decoded.
            values["target"][3] = values["prediction"][3] = -1
            writer.write_unit(unit, values)
    return workdir


IDS = [f"folder/{index:03}.png" for index in range(COUNT)]
IDS[5] = HOSTILE


@pytest.fixture(scope="module")
def galleries(tmp_path_factory):
    """A gallery of one run, and galleries of it and another run that lacks 100 examples."""
    folder = tmp_path_factory.mktemp("galleries")
    alone = {"objectives": ["ssr"], "config": {"explain": {"objective": "ssr"}}}
    manifest_config = {
        "config": {"seed": 0, "batch": {"unit_size": 4}, "explain": {"objective": "both"}}
    }
    runs = [
        write_run(folder / "one", 0, IDS, **manifest_config),
        write_run(folder / "two", 1, IDS[100:][::-1], **manifest_config),
    ]
    return {
        "records": [Explanations(run) for run in runs],
        "one": pathlib.Path(write_gallery(runs[:1], folder / "gallery")),
        "both": pathlib.Path(write_gallery(runs, folder / "both")),
        "lame": pathlib.Path(
            write_gallery(
                [runs[0], write_run(folder / "lame_run", 2, IDS, **alone)],
                folder / "lame",
            )
        ),
        "fine": pathlib.Path(
            write_gallery([runs[0], write_run(folder / "fine_run", 2, IDS, True)], folder / "fine")
        ),
    }


@pytest.fixture
def tab(browser, galleries):
    """Opens views; no script may fail, and nothing may be loaded from elsewhere."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.problems = []
    page.on("console", lambda message: page.problems.append(message.text))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("requestfailed", lambda request: page.problems.append(request.url))
    page.on("request", lambda r: None if r.url.startswith("file:") else page.problems.append(r.url))

    def show(view="", gallery="one"):
        page.goto("about:blank")
        page.goto(f"{galleries[gallery].as_uri()}#{view}")
        page.wait_for_function("window.cfx?.gallery?.view")
        return page

    page.show = show
    yield page
    assert page.problems == []
    assert page.evaluate("window.hit") is None
    context.close()


def shown(page):
    return page.evaluate("[...cfx.gallery.shown].map((n) => cfx.gallery.model.ids[n])")


def name_of(number):
    return f"{CLASSES[number]} ({number})" if number >= 0 else "not known"


def column(galleries, name, run=0):
    return galleries["records"][run].read(name)


def test_gallery_opens_as_a_file_and_shows_all(tab):
    page = tab.show()
    assert shown(page) == IDS
    assert page.inner_text(".summary") == "300 of 300 examples"
    assert not page.is_visible("#listed")
    links = page.locator(".grid a")
    assert 10 < links.count() < 120, "only what is in view is on the page"
    assert links.nth(0).get_attribute("title") == IDS[0]
    page.wait_for_function(
        "[...document.querySelectorAll('.grid img')].every((i) => i.complete && i.naturalWidth)"
    )
    # Examples without a mask show the reason.
    assert page.locator(".grid li").nth(2).inner_text().startswith("non finite")
    assert page.locator(".grid li").nth(3).inner_text().startswith("unreadable")


FILTERS = {
    "status=not_flipped": lambda of: of("sdr_status") == 2,
    "status=ok,not_preserved": lambda of: np.isin(of("sdr_status"), [0, 3]),
    "target=CAT": lambda of: np.isin(of("target"), [0, 1]),
    "target=onerror%3D": lambda of: of("target") == 2,
    "label=not known": lambda of: of("label") == -1,
    "label=tiger": lambda of: of("label") == 1,
    "predicted=right": lambda of: (of("label") == of("prediction")) & (of("label") >= 0),
    "predicted=wrong": lambda of: (
        (of("label") >= 0) & (of("prediction") >= 0) & (of("label") != of("prediction"))
    ),
    "find=R/01": lambda of: (np.arange(COUNT) // 10) == 1,
    "find=OnError": lambda of: np.arange(COUNT) == 5,
    "status=ok&target=cup&predicted=wrong": lambda of: (
        (of("sdr_status") == 0) & (of("target") == 3) & (of("label") != of("prediction"))
        & (of("label") >= 0)
    ),
    "target=nothing is called so": lambda of: np.zeros(COUNT, bool),
    # Unknown values are ignored.
    "result=9-ssr&sort=beauty&order=sideways&view=film&predicted=perhaps": lambda of: (
        np.ones(COUNT, bool)
    ),
}  # fmt: skip


@pytest.mark.parametrize("view", FILTERS)
def test_gallery_filters_give_the_rows_of_the_records(tab, galleries, view):
    page = tab.show(view if "result=" in view else f"result=0-sdr&{view}")
    expected = FILTERS[view](lambda name: column(galleries, name))
    assert shown(page) == [IDS[index] for index in np.flatnonzero(expected)]
    assert page.inner_text(".summary") == f"{expected.sum()} of 300 examples"


@pytest.mark.parametrize("name", [*NUMBERS, "entropy", "id", "target", "status"])
def test_gallery_sorting_gives_the_order_of_the_records(tab, galleries, name):
    if name == "id":
        keys = np.array(IDS)
    elif name == "target":
        keys = np.array([name_of(number) for number in column(galleries, name)])
    elif name == "entropy":
        keep = 1 / (1 + np.exp(-column(galleries, "sdr_mask_logits").astype(float)))
        keys = -(keep * np.log2(keep) + (1 - keep) * np.log2(1 - keep)).mean(axis=(1, 2))
    else:
        keys = column(galleries, f"sdr_{name}")
    if name not in ("id", "target"):
        # As the page has them.
        keys = np.array([round_for_display(key) or key for key in keys])
    ranks = np.unique(keys, return_inverse=True)[1].astype(float)
    missing = keys != keys
    for order, sign in (("up", 1), ("down", -1)):
        page = tab.show(f"result=0-sdr&sort={name}&order={order}&view=table")
        expected = np.argsort(np.where(missing, np.inf, sign * ranks), kind="stable")
        assert shown(page) == [IDS[index] for index in expected]
        rows = page.locator(".rows tbody tr:not(.spacer)")
        assert rows.locator("a").all_inner_texts()[:9] == [IDS[i] for i in expected[:9]]
        assert rows.nth(7).get_attribute("aria-rowindex") == "9"


def test_gallery_controls_change_the_view_and_the_address(tab, galleries):
    page = tab.show()
    page.get_by_label("Target", exact=True).fill("tabby")
    page.get_by_label("not flipped").check()
    page.get_by_label("Show as").select_option("table")
    page.get_by_role("button", name="Area kept").click()
    page.get_by_role("button", name="Area kept").click()
    assert page.get_by_role("columnheader", name="Area kept").get_attribute("aria-sort") == (
        "descending"
    )
    rows = (column(galleries, "target") == 0) & (column(galleries, "ssr_status") == 2)
    area = column(galleries, "ssr_kept_area")
    expected = sorted(np.flatnonzero(rows), key=lambda index: -area[index])
    assert shown(page) == [IDS[index] for index in expected]
    # The link alone gives the same view, to whoever it is sent.
    view = page.evaluate("location.hash.slice(1)")
    assert shown(tab.show(view)) == [IDS[index] for index in expected]
    page.get_by_label("not flipped").uncheck()
    assert page.evaluate("cfx.gallery.view.status") == []
    page.go_back()
    page.wait_for_function("document.querySelector('input[value=not_flipped]').checked")
    assert shown(page) == [IDS[index] for index in expected]


def boxes(page):
    """The statuses offered, with their numbers, and those that are ticked."""
    labels = [" ".join(s.split()) for s in page.locator("fieldset label").all_inner_texts()]
    return labels, page.eval_on_selector_all("fieldset :checked", "all => all.map((b) => b.value)")


def test_gallery_status_filter_without_examples_can_be_cleared(tab, galleries):
    # All of the second run is ok, so nothing else occurs there.
    page = tab.show("result=1-ssr", "fine")
    assert boxes(page) == (["✓ ok 300"], [])
    page.get_by_label("Explanation").select_option("0-ssr")
    page.get_by_label("not preserved").check()
    page.get_by_label("Explanation").select_option("1-ssr")
    assert boxes(page) == (["✓ ok 300", "! not preserved 0"], ["not_preserved"])
    assert page.inner_text(".summary") == "0 of 300 examples"
    assert page.get_by_text("No example matches.").is_visible()
    page.get_by_label("not preserved").click()
    assert boxes(page) == (["✓ ok 300"], [])
    assert page.evaluate("document.activeElement.value") == "ok", "the box that was left is gone"
    assert shown(page) == IDS
    # Unknown statuses are ignored.
    page = tab.show("status=foo,ok,toString")
    assert boxes(page)[1] == ["ok"]


@pytest.mark.parametrize("gallery", ["one", "both"])
def test_gallery_empty_list_shows_a_message_and_can_be_cleared(tab, gallery):
    page = tab.show("find=nothing&target=x&label=y&predicted=right&status=ok&view=table", gallery)
    assert page.inner_text(".summary") == "0 of 300 examples"
    assert not page.locator(".scroller").is_visible()
    page.get_by_role("button", name="Clear all filters").click()
    assert shown(page) == IDS
    assert not page.get_by_text("No example matches.").is_visible()
    assert page.get_by_label("Id", exact=True).input_value() == ""
    page.wait_for_function("document.activeElement.tagName === 'A'")
    assert "find" not in page.evaluate("location.hash")
    assert "view=table" in page.evaluate("location.hash"), "only filters are cleared"


PAGE, PICTURE = b"/Type /Page\n", b"/Subtype /Image"


@pytest.mark.parametrize("view", ["", "view=table"])
@pytest.mark.parametrize("gallery", ["one", "both"])
def test_gallery_prints_every_listed_example(tab, view, gallery):
    page = tab.show(view, gallery)
    page.evaluate("document.querySelector('.scroller').scrollTop = 1e4")
    counted = "cfx.printed = document.querySelectorAll('.scroller a').length"
    page.evaluate(f"addEventListener('beforeprint', () => {{ {counted}; }})")
    pdf = page.pdf()
    assert page.evaluate("cfx.printed") == COUNT
    if view == "":
        # Those have no picture that are unreadable or not finite.
        assert pdf.count(PICTURE) >= COUNT - 2 * (COUNT // UNIT + 1)
    assert 5 <= pdf.count(PAGE) <= 35, "pages are filled"
    # Then only what is in view is on the page, where it was.
    assert page.locator(".scroller a").count() < 120
    assert page.evaluate("document.querySelector('.scroller').scrollTop") > 0


def test_gallery_prints_the_first_of_a_long_list_with_a_note(tab):
    page = tab.show("view=table")
    page.evaluate("cfx.gallery.list.shown = Int32Array.from({ length: 1200 }, (_, n) => n % 300)")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.get_by_text("Printed: the first 500 of 1,200").is_visible()
    assert page.locator(".rows a").count() == 500
    assert page.locator(".spacer td").last.bounding_box()["height"] == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not page.get_by_text("Printed:").is_visible()
    assert page.locator(".rows a").count() < 120


def test_gallery_works_with_the_keyboard_alone(tab):
    page = tab.show()
    page.locator(".grid a").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    title = page.evaluate("document.activeElement.title")
    place = IDS.index(title)
    assert place == 1 + page.evaluate("cfx.gallery.list.columns")
    page.keyboard.press("Enter")
    page.wait_for_selector("#detail-title")
    assert page.evaluate("document.activeElement.id") == "detail-title"
    assert page.inner_text(".bar [role=status]") == f"{place + 1} of 300"
    page.keyboard.press("ArrowRight")
    assert IDS[place + 1] in page.inner_text("article")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert IDS[place - 1] in page.inner_text("article")
    page.keyboard.press("Escape")
    page.wait_for_function(f"document.activeElement.title === {IDS[place - 1]!r}")
    page.keyboard.press("End")
    page.wait_for_function(f"document.activeElement.title === {IDS[-1]!r}")


def test_gallery_example_shows_numbers_pictures_and_traces(tab, galleries):
    page = tab.show("at=folder/012.png")
    text = page.inner_text("article")
    assert text.startswith(f"{CLASSES[column(galleries, 'target')[12]]}")
    for objective in ("ssr", "sdr"):
        before = column(galleries, f"{objective}_log_odds_original")[12]
        expected = f"{100 / (1 + np.exp(-before)):.1f} % ({before:+.2f})".replace("-", MINUS)
        card = page.locator(f'[data-result="0-{objective}"]')
        assert expected in card.inner_text()
        assert card.locator("path.edge").get_attribute("d").startswith("M")
        bars = card.locator("ol.top li")
        assert bars.count() == 3
        shares = [
            column(galleries, f"{objective}_top_{when}")[12, 1] for when in ("before", "after")
        ]
        expected = " → ".join(f"{100 * share:.1f} %" for share in shares)
        assert bars.nth(1).inner_text().split("\n") == [f"{CLASSES[0]} (0)", expected]
        wide = [bar.bounding_box()["width"] for bar in bars.nth(1).locator(".fill").all()]
        assert wide[0] / wide[1] == pytest.approx(shares[0] / shares[1], rel=0.1)
    assert page.locator(".plot .curve").count() == 2
    cells = column(galleries, "ssr_mask_logits")[12].astype(np.float32)
    kept, _ = np.histogram(1 / (1 + np.exp(-cells)), 10, (0, 1))
    label = page.locator(".plot").nth(1).get_attribute("aria-label")
    shares = ", ".join(f"{25 * count} %" for count in kept)
    expected = f"Cells of the mask: from never kept to always kept: SSR {shares}; SDR "
    assert label.startswith(expected)
    assert page.locator(".plot rect").count() == 20
    cells = page.locator("article tbody tr").nth(0).locator("td").all_inner_texts()
    areas = [column(galleries, f"{objective}_kept_area")[12] for objective in ("ssr", "sdr")]
    assert cells == [f"{100 * area:.1f} %".replace("-", MINUS) for area in areas]


def test_gallery_original_replaces_the_infilled_picture(tab):
    page = tab.show("at=folder/012.png")
    over = page.locator('[data-result="0-ssr"] .over')
    assert not over.is_visible()
    page.keyboard.press("o")
    assert over.is_visible()
    assert page.get_by_role("button", name="Show original").get_attribute("aria-pressed") == "true"
    page.keyboard.press("o")
    page.locator('[data-result="0-ssr"] .swap').hover()
    assert over.is_visible()
    assert not page.locator('[data-result="0-sdr"] .over').is_visible()


def test_gallery_slider_sets_the_saliency_opacity(tab):
    page = tab.show("at=folder/012.png")
    opacity = "getComputedStyle(document.querySelector('article .map')).opacity"
    assert page.evaluate(opacity) == "0.55"
    page.get_by_label("Saliency", exact=True).focus()
    page.keyboard.press("Home")
    assert page.evaluate(opacity) == "0"
    page.get_by_label("Outline half of the importance").uncheck()
    assert not page.locator("path.edge").first.is_visible()


@pytest.mark.parametrize("view", ["", "view=table", "at=" + "%3Cimg"])
def test_gallery_escapes_names(tab, view):
    page = tab.show(f"find=onerror&{view}")
    page.wait_for_timeout(50)
    assert HOSTILE in page.evaluate("document.querySelector('#gallery').textContent") or (
        page.locator(".grid a").get_attribute("title") == HOSTILE
    )
    assert page.locator("img[src=x]").count() == 0


def test_gallery_compares_two_runs_side_by_side(tab, galleries):
    page = tab.show("sort=difference-kept_area&order=down&view=table", "both")
    of = {id_: index for index, id_ in enumerate(IDS[100:][::-1])}
    first, second = (column(galleries, "ssr_kept_area", run) for run in (0, 1))
    common = {id_: second[of[id_]] - first[IDS.index(id_)] for id_ in IDS[100:]}
    there = {id_: value for id_, value in common.items() if np.isfinite(value)}
    found = shown(page)
    assert [round(there[id_], 3) for id_ in found[: len(there)]] == sorted(
        (round(value, 3) for value in there.values()), reverse=True
    )
    assert set(found[len(there) :]) == set(IDS) - set(there)
    page = tab.show(f"at={found[0]}", "both")
    cells = page.locator("article tbody tr").nth(0).locator("td").all_inner_texts()
    assert cells[2] == f"+{100 * there[found[0]]:.1f} pp"
    assert [card.get_attribute("data-result") for card in page.locator("[data-result]").all()] == [
        "0-ssr", "1-ssr"
    ]  # fmt: skip
    page = tab.show("differ=1", "both")
    codes = [column(galleries, "ssr_status", run) for run in (0, 1)]
    same = [id_ for id_ in IDS[100:] if codes[0][IDS.index(id_)] == codes[1][of[id_]]]
    assert shown(page) == [id_ for id_ in IDS if id_ not in same]


def test_gallery_comparison_names_the_class_of_each_run(tab, galleries):
    page = tab.show("", "both")
    rows = {id_: index for index, id_ in enumerate(IDS[100:][::-1])}
    targets, predictions = (
        {
            id_: [
                column(galleries, name)[IDS.index(id_)],
                column(galleries, name, 1)[rows[id_]] if id_ in rows else -1,
            ]
            for id_ in IDS
        }
        for name in ("target", "prediction")
    )
    other = next(id_ for id_ in IDS[100:] if len({*targets[id_]}) == 2 and min(targets[id_]) >= 0)
    same = next(id_ for id_ in IDS[100:] if targets[id_][0] == targets[id_][1])
    page = tab.show(f"at={other}", "both")
    names = [name_of(number) for number in targets[other]]
    assert page.inner_text("#detail-title") == " ≠ ".join(names)
    for run in (0, 1):
        expected = f"Target: {names[run]} · predicted: {name_of(predictions[other][run])}"
        assert expected in page.locator(f'[data-result="{run}-ssr"]').inner_text()
    cells = page.locator("article td.difference").all_inner_texts()
    is_claimed = [cell != "≠ classes" for cell in cells]
    # Areas, shares of masks and stability can be compared; log-odds of different classes cannot.
    assert is_claimed == [True, False, False, True, True, False, True]
    page = tab.show(f"at={same}", "both")
    assert page.inner_text("#detail-title") == name_of(targets[same][0])
    assert "≠" not in page.inner_text("article tbody")

    # A list marks these examples, and sorts and filters by the run of the selected explanation.
    for run, goal in ((0, "0-ssr"), (1, "1-ssr")):
        for number in range(4):
            page = tab.show(f"result={goal}&target=({number})", "both")
            of = {id_: targets[id_][run if id_ in rows else 0] for id_ in IDS}
            assert set(shown(page)) == {id_ for id_ in IDS if of[id_] == number}
    page = tab.show(f"find={other}", "both")
    assert page.locator(".grid .name").all_inner_texts() == [names[0], f"≠ {names[1]}"]
    page = tab.show(f"find={other}&view=table", "both")
    cell = page.locator(".rows tbody tr:not(.spacer) td").nth(1)
    assert cell.inner_text() == cell.get_attribute("title") == " ≠ ".join(names)
    row = page.locator(".rows tbody tr:not(.spacer) td").all_inner_texts()
    assert [at for at, text in enumerate(row) if text == "≠ classes"] == [6, 8, 14]
    page = tab.show("sort=difference-log_odds_infilled", "both")
    last = shown(page)[-1]
    assert last not in rows or targets[last][0] != targets[last][1]


@pytest.mark.parametrize(
    ("view", "steps"),
    [
        ("", {"0-sdr": "1-sdr", "1-sdr": "0-sdr", "1-ssr": "0-ssr", "0-ssr": "1-ssr"}),
        ("result=1-ssr", {"1-sdr": "0-sdr"}),
        ("with=0-sdr", {"0-sdr": "0-ssr", "1-ssr": "1-sdr", "1-sdr": "1-ssr"}),
        ("with=1-sdr", {"0-sdr": "1-ssr", "1-ssr": "0-sdr"}),
        ("with=none", {"1-sdr": "none", "0-ssr": "none"}),
    ],
)
def test_gallery_keeps_the_comparison_under_another_goal(tab, view, steps):
    page = tab.show(view, "both")
    for goal, other in steps.items():
        page.get_by_label("Explanation").select_option(goal)
        assert page.get_by_label("Compare with").input_value() == other
    page.get_by_label("Compare with").select_option("none")
    assert shown(tab.show(page.evaluate("location.hash.slice(1)"), "both"))
    assert page.get_by_label("Compare with").input_value() == "none"


def test_gallery_restores_the_comparison_after_a_missing_objective(tab):
    page = tab.show("", "lame")
    for goal, other in {"0-sdr": "none", "0-ssr": "1-ssr", "1-ssr": "0-ssr"}.items():
        page.get_by_label("Explanation").select_option(goal)
        assert page.get_by_label("Compare with").input_value() == other


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("view", ["", "view=table", "at=folder/012.png"])
def test_gallery_fits_the_screen(tab, width, view):
    tab.set_viewport_size({"width": width, "height": 800})
    for gallery in ("one", "both"):
        page = tab.show(view, gallery)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_gallery_folds_its_controls_on_a_phone(tab):
    tab.set_viewport_size({"width": 390, "height": 800})
    page = tab.show()
    goal = page.get_by_label("Explanation")
    assert not goal.is_visible()
    page.get_by_text("Choose, sort and find").click()
    goal.select_option(index=1)
    # They stay as somebody left them, and a wide screen, which has no way to unfold them, has all.
    assert goal.is_visible()
    page.get_by_text("Choose, sort and find").click()
    assert not goal.is_visible()
    tab.set_viewport_size({"width": 1200, "height": 800})
    goal.wait_for(state="visible")
    assert not page.get_by_text("Choose, sort and find").is_visible()
    tab.set_viewport_size({"width": 390, "height": 800})
    goal.wait_for(state="hidden")


CUT = """[...document.querySelectorAll(".rows tr:not(.spacer) > *")]
    .filter((cell) => cell.scrollWidth > cell.clientWidth).map((cell) => cell.cellIndex)"""
ENDS = """[...document.querySelectorAll(".rows tr:not(.spacer) > :nth-child(n+4)")].map((cell) => {
    const range = document.createRange();
    range.selectNodeContents(cell);
    return cell.getBoundingClientRect().right - range.getBoundingClientRect().right;
})"""
NAMES = """[...document.querySelectorAll(".rows tbody tr:not(.spacer)")].map(({ cells }) => [
    [cells[0].firstChild.title, cells[1].title, cells[2].title],
    [0, 1, 2].map((at) => cells[at].textContent),
])"""


def test_gallery_explains_differing_numbers_of_one_class(tab):
    page = tab.show("at=folder/012.png")
    assert page.get_by_text("Most likely classes: mean probabilities.").count() == 2
    assert page.get_by_text("in the table, with the final hard masks").is_visible()


def test_gallery_formats_numbers_like_the_terminal(tab):
    page = tab.show()
    rng = np.random.default_rng(0)
    # Those between two decimals among them, and what five digits would carry over to the next.
    values = [*np.arange(-64, 65) / 32, *rng.normal(size=2000).astype("f4").tolist(), 1.724999]
    values += [1.0049999, 0.00449999, -0.0009999501, 1e-9, 12345.675, 3e20]
    displayed = page.evaluate(
        """values => values.map((v) => [
            cfx.format("objective", v), cfx.format("kept_area", v), cfx.format("entropy", v, true)
        ])""",
        [round_for_display(value) for value in values],
    )
    for value, texts in zip(values, displayed, strict=True):
        number, share = show.number(value), show.percent(value)
        expected = [number, share, number if value < 0 else f"+{number}"]
        if abs(value) < 1e15:
            assert texts == [text.replace("-", MINUS) for text in expected], value


def test_gallery_comparison_lists_differences_in_one_line(tab):
    page = tab.show("", "lame")
    expected = "Not the same: seed 0 | default · explain.objective both | ssr"
    assert page.inner_text(".differences") == expected
    assert tab.show("", "both").locator(".differences").count() == 0


@pytest.mark.parametrize("view", ["at=folder/002.png", "at=folder/003.png"])
def test_gallery_shows_only_applicable_controls(tab, view):
    tools = [
        tab.get_by_label("Saliency", exact=True),
        tab.get_by_label("Outline half of the importance"),
        tab.get_by_role("button", name="Show original"),
    ]
    tab.show(view)
    assert not any(tool.is_visible() for tool in tools)
    tab.show("at=folder/012.png")
    assert all(tool.is_visible() for tool in tools)


@pytest.mark.parametrize("width", [390, 1024, 1440, 1920])
@pytest.mark.parametrize("gallery", ["one", "both"])
def test_gallery_table_is_readable(tab, width, gallery):
    tab.set_viewport_size({"width": width, "height": 800})
    page = tab.show("view=table&sort=difference-log_odds_original&result=0-ssr", gallery)
    page.get_by_role("button", name="Objective", exact=True).click()
    # Only long names are cut, and their titles show them whole.
    assert set(page.evaluate(CUT)) <= {0, 1}
    for titles, texts in page.evaluate(NAMES):
        assert titles == texts
    # Numbers and their headings end at one line.
    assert set(map(round, page.evaluate(ENDS))) == {10}


def test_gallery_without_scripts_shows_the_list(browser, galleries):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(galleries["one"].as_uri())
    assert page.locator("section.example").count() == 100
    assert page.locator("section.example").first.is_visible()
    assert not page.locator("#gallery").is_visible()
    context.close()


def test_gallery_incomplete_shows_a_message_and_the_list(browser, galleries, tmp_path):
    shutil.copytree(galleries["one"].parent, tmp_path / "gallery")
    (tmp_path / "gallery/data/0/rows-0.js").unlink()
    context = browser.new_context()
    page = context.new_page()
    page.goto((tmp_path / "gallery/index.html").as_uri())
    assert "data/0/rows-0.js cannot be loaded" in page.locator("[role=alert]").inner_text()
    assert page.locator("section.example").count() == 100
    assert page.locator("section.example").first.is_visible()
    context.close()


def test_gallery_reports_missing_details(browser, galleries, tmp_path):
    shutil.copytree(galleries["both"].parent, tmp_path / "gallery")
    (tmp_path / "gallery/data/1/details-0.js").unlink()
    (tmp_path / "gallery/images/1/0/0.webp").unlink()
    context = browser.new_context()
    page = context.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    # The last of the first run is the first of the second.
    page.goto(f"{(tmp_path / 'gallery/index.html').as_uri()}#at={IDS[-1]}")
    alert = page.locator("article [role=alert]")
    assert alert.inner_text().startswith("data/1/details-0.js cannot be loaded")
    # What is there is shown.
    assert page.locator(".plot .curve").count() == 1
    assert page.locator('[data-result="0-ssr"] path.edge').count() == 1
    assert "picture cannot be loaded" in page.inner_text('[data-result="1-ssr"]')
    assert "picture cannot" not in page.inner_text('[data-result="0-ssr"]')
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.querySelectorAll('article [role=alert]').length === 1")
    page.goto(f"{(tmp_path / 'gallery/index.html').as_uri()}#at=folder/012.png")
    page.wait_for_selector(".plot .curve")
    assert alert.count() == 0
    assert problems == []
    context.close()


def test_gallery_rows_newer_than_the_page_number_their_classes(browser, galleries, tmp_path):
    """The gallery was written during the run, and its next version was interrupted."""
    shutil.copytree(galleries["one"].parent, tmp_path / "gallery")
    place = tmp_path / "gallery" / "index.html"
    html = place.read_text(encoding="utf-8")
    html, count = re.subn(r'"3": ?"cup \(3\)",? ?', "", html)
    assert count == 1
    place.write_text(html.replace(", }", "}"), encoding="utf-8")
    context = browser.new_context()
    page = context.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    index = int(np.flatnonzero(column(galleries, "target") == 3)[0])
    page.goto(f"{place.as_uri()}#at={IDS[index]}")
    assert page.inner_text("article").startswith("class 3")
    bars = page.locator('[data-result="0-ssr"] ol.top li')
    bars.nth(2).wait_for()
    assert [bar.inner_text().split("\n")[0] for bar in bars.all()] == [
        "class 3",
        "tabby cat (0)",
        "tiger cat (1)",
    ]
    assert problems == []
    context.close()
