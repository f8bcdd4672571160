"""Figures of explanations, and their table in notebooks."""

import dataclasses
import io
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cfx_jax.fido.explanation import Explanation, Status
from cfx_jax.report import figure, pictures, show


def make(count=None, **changes):
    """Explanations whose upper half is kept, of images of 8 x 6 pixels."""
    saliency = np.zeros((8, 6), np.float32)
    saliency[:4] = 1
    one = Explanation(
        mask_logits=np.zeros((4, 3), np.float32),
        keep_prob=np.full((4, 3), 0.5, np.float32),
        saliency=saliency,
        infilled=np.full((8, 6, 3), 0.25, np.float32),
        status=np.int32(Status.NOT_PRESERVED),
        target=np.int32(1),
        prediction=np.int32(1),
        log_odds_original=np.float32(np.log(3)),
        log_odds_infilled=np.float32(0),
        kept_area=np.float32(0.5),
        success_rate=np.float32(0.25),
        stability=np.float32(0.5),
        objective=np.float32(1),
        trace=np.zeros(3, np.float32),
        steps=np.int32(3),
        top_classes=np.arange(5, dtype=np.int32),
        top_before=np.full(5, 0.2, np.float32),
        top_after=np.full(5, 0.2, np.float32),
    ).replace(**changes)
    if count is None:
        return one
    return jax.tree.map(lambda leaf: np.stack([leaf] * count), one)


def titles(drawn):
    return [axis.get_title() for axis in drawn.axes]


def test_figure_row_shows_image_saliency_and_infill():
    drawn = figure(make(2), np.ones((2, 8, 6, 3)), class_names=["cat", "dog"])
    assert len(drawn.axes) == 6
    assert titles(drawn)[:3] == [
        "dog\n75.0 % before",
        "→ what matters\narea kept 50.0 %",
        "→ in-filled\n50.0 % after, not_preserved",
    ]
    original, overlay, infilled = [axis.images[0].get_array() for axis in drawn.axes[:3]]
    assert (original == 255).all()
    assert (infilled == 64).all()
    # The line runs inside of the region that holds half of the mass, and dark outside of it.
    assert (overlay[3] == 255).all()
    assert (overlay[4] == 0).all()
    assert len(set(map(tuple, overlay[:3].reshape(-1, 3).tolist()))) == 1


@pytest.mark.parametrize(
    ("count", "images", "panels"),
    [
        (None, None, 2),
        (None, np.zeros((8, 6, 3)), 3),
        (3, None, 6),
        (20, np.zeros((20, 8, 6, 3)), 48),
    ],
)
def test_figure_accepts_one_or_many_with_or_without_images(count, images, panels):
    assert len(figure(make(count), images).axes) == panels


def test_figure_shows_a_grey_image_in_grey():
    grey = make(1, infilled=np.full((8, 6, 1), 0.5, np.float32))
    drawn = figure(grey, np.zeros((1, 8, 6, 1)))
    assert (drawn.axes[2].images[0].get_array() == 128).all()
    assert titles(drawn)[0].startswith("class 1\n")


def test_figure_draws_nonfinite_explanations_in_part():
    nan = np.float32(np.nan)
    broken = make(
        saliency=np.full((8, 6), nan), infilled=np.full((8, 6, 3), nan), log_odds_infilled=nan
    )
    drawn = figure(broken, np.ones((8, 6, 3)))
    assert (drawn.axes[1].images[0].get_array() == 255).all()
    assert "n/a after" in titles(drawn)[2]
    assert "n/a" in broken._repr_html_()


def test_figure_renders_as_png_in_a_notebook():
    with Image.open(io.BytesIO(figure(make())._repr_png_())) as image:
        assert image.format == "PNG"
        assert image.width > image.height


def test_figure_refuses_other_images():
    with pytest.raises(
        ValueError, match=r"images have shape \[1, 8, 6, 3\]; expected \[2, 8, 6, 3\]"
    ):
        figure(make(2), np.zeros((1, 8, 6, 3)))


def test_explanation_repr_html_is_a_table():
    html = make()._repr_html_()
    assert "<td>not preserved</td><td>75.0 % (+1.10)</td><td>50.0 % (+0.00)</td>" in html
    assert html.count("<rect") == 8 * 6
    assert html.count('fill="rgb(252,255,164)"') == html.count('fill="rgb(0,0,4)"') == 24
    many = make(12)._repr_html_()
    assert many.count("<svg") == 10
    assert "and 2 more" in many


@pytest.mark.parametrize("axes", [(0,), (1, 2), (2, 3, 4), (0, 2)])
def test_explanation_repr_html_accepts_any_leading_axes(axes):
    many = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (*axes, *np.shape(leaf))), make())
    html = many._repr_html_()
    assert html.count("<svg") == min(10, np.prod(axes))
    assert ("<td>0, 0, 0</td>" in html) == (axes == (2, 3, 4))


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Explanation)])
def test_explanation_repr_html_accepts_fields_that_are_none(field):
    shown = {"saliency", "target", *show._FORMATS} - {"status"}
    html = make(2, stability=np.float32(1)).replace(**{field: None})._repr_html_()
    assert html.count("n/a") == 2 * (field in shown)
    assert ("<td>status</td><td>NoneType</td>" in html) == (field == "status")


def test_explanation_repr_html_shows_shapes_where_there_are_no_values():
    shown = []

    def show_and_sum(explanation):
        shown.append(explanation._repr_html_())
        return explanation.saliency.sum()

    many = jax.tree.map(jnp.asarray, make(3))
    jax.jit(show_and_sum)(many)
    jax.vmap(show_and_sum)(many)
    jax.grad(show_and_sum, allow_int=True)(jax.tree.map(jnp.asarray, make()))
    shown.append(jax.eval_shape(lambda e: e, many)._repr_html_())
    shown.append(many.replace(saliency=jnp.ones((2, 8, 6)))._repr_html_())
    shown.append(many.replace(kept_area=jnp.ones((3, 2)))._repr_html_())
    for html, shape in zip(shown, ["(3, 8, 6)", *["(8, 6)"] * 2, "(3, 8, 6)", "(2, 8, 6)",
                                   "(3, 8, 6)"], strict=True):  # fmt: skip
        assert f"<td>saliency</td><td>float32</td><td>{shape}</td>" in html


def test_explanation_repr_html_accepts_unknown_statuses_and_empty_maps():
    html = make(status=np.int32(99), saliency=np.zeros((0, 6), np.float32))._repr_html_()
    assert "<td>unknown status 99</td>" in html


@pytest.mark.parametrize(
    ("log_odds", "text"),
    [
        (np.float32(np.log(3)), "75.0 % (+1.10)"),
        (-0.5843, "35.8 % (-0.58)"),
        (np.float32(-1e4), "0.0 % (-10000.00)"),
        (np.inf, "n/a"),
        (np.nan, "n/a"),
    ],
)
def test_odds_are_given_with_their_probability(log_odds, text):
    assert show.odds(log_odds) == text


def test_explanation_repr_html_samples_a_large_map():
    saliency = np.zeros((64, 64), np.float32)
    saliency[:, 32:] = 1
    html = make(saliency=saliency)._repr_html_()
    assert html.count("<rect") == 21 * 21
    assert len(html) < 40_000


def test_figure_does_not_parse_a_dollar_as_a_formula():
    drawn = figure(make(), class_names=["cat", r"cost $5 and $\frac$"])
    assert drawn.axes[0].get_title().startswith("→ what matters")
    titled = figure(make(), np.ones((8, 6, 3)), class_names=["cat", r"cost $5 and $\frac$"])
    assert titles(titled)[0].startswith(r"cost $5 and $\frac$")
    assert titled._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("explanation", "images", "error", "message"),
    [
        ({"ssr": make(), "sdr": make()}, None, TypeError, r"\['ssr'\] and \['sdr'\]; draw one"),
        (make().saliency, None, TypeError, "a ndarray is no Explanation; expected what cfx_jax"),
        (jax.tree.map(lambda leaf: leaf[:0], make(1)), None, ValueError, r"status has shape \[0\]"),
        (jax.tree.map(lambda leaf: leaf[None], make(2)), None, ValueError, r"shape \[1, 2\]"),
        (make(), np.full((8, 6, 3), 255, np.uint8), ValueError, "divide 8-bit images by 255"),
        (make(), np.full((8, 6, 3), -2.0), ValueError, "undo their normalisation"),
    ],
)
def test_figure_names_input_it_cannot_draw(explanation, images, error, message):
    with pytest.raises(error, match=message):
        figure(explanation, images)


def test_figure_draws_nonfinite_images():
    assert len(figure(make(), np.full((8, 6, 3), np.nan)).axes) == 3


def test_figure_ignores_settings_of_matplotlib_that_turn_pictures_or_need_latex():
    import matplotlib

    with matplotlib.rc_context({"image.origin": "lower", "text.usetex": True}):
        drawn = figure(make(2), np.ones((2, 8, 6, 3)))
        assert not any(axis.title.get_usetex() for axis in drawn.axes)
        assert all(axis.images[0].origin == "upper" for axis in drawn.axes)
        curve = np.linspace(1, 0, 6)[None, None]
        scores = {"random": {"deletion": curve, "insertion": 1 - curve}}
        pictures.draw_curves(scores, ["grey"])
        maps = np.zeros((1, 8, 8))
        maps[0, 0] = 1
        plot = pictures.draw_maps({"one": maps})
    np.testing.assert_array_equal(plot, pictures.draw_maps({"one": maps}))


def test_report_is_an_attribute_of_the_package():
    code = "import cfx_jax; cfx_jax.report.figure"
    subprocess.run([sys.executable, "-c", code], check=True)
