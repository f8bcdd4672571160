"""The contextual attention network and its layer against plain NumPy, and its pipeline."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfx_jax.generators import contextual_attention as ca
from cfx_jax.generators._attention import attend, nearest
from cfx_jax.generators.contextual_attention import ContextualAttentionNet, apply, loss

KEY = jax.random.key(0)
# A quarter of it is still wider than the largest dilation.
SIZE = (32, 96)
attention = jax.jit(attend, static_argnames="port")
network = jax.jit(
    lambda params, images, mask, port: ContextualAttentionNet(port).apply(
        {"params": params}, images, mask
    ),
    static_argnames="port",
)


@jax.jit
def loss_and_gradient(params, images, mask):
    """`(loss, (infills, terms)), gradient`."""

    def total(params):
        value, infills, terms = loss(params, images, mask, KEY)
        return value, (infills, terms)

    return jax.value_and_grad(total, has_aux=True)(params)


@pytest.fixture(scope="module")
def params():
    """Random weights of about unit gain, biases too."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim == 4 else 100
        return (rng.normal(size=leaf.shape) / np.sqrt(fan_in)).astype(np.float32)

    return jax.tree.map(draw, jax.eval_shape(ca.init, KEY))


@pytest.fixture(scope="module")
def painter(params):
    """Makes the parameters of a network whose two stages paint constant colours."""

    def make(coarse, refined):
        zeros = jax.tree.map(np.zeros_like, params)
        zeros["coarse_generator"]["conv17"]["conv"]["bias"] = np.float32(coarse)
        zeros["fine_generator"]["allconv17"]["conv"]["bias"] = np.float32(refined)
        return zeros

    return make


def make_case(size=SIZE, keep=0.5, count=2, seed=0, channels=3):
    """Random images and masks whose holes are single pixels or large blocks."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(size=(count, *size, channels)).astype(np.float32)
    mask = (rng.uniform(size=(count, *size, 1)) < keep).astype(np.float32)
    mask[-1] = np.repeat(np.repeat(mask[-1, ::8, ::8], 8, axis=0), 8, axis=1)[: size[0], : size[1]]
    return images, mask


# Plain NumPy, one image at a time, in float64.


def picked(size, factor, port):
    count = size // factor
    if port or count == 1:
        return [i * factor for i in range(count)]
    return [int(np.floor(i * (size - 1) / (count - 1) + 0.5)) for i in range(count)]


def shrink(image, factor, port):
    return image[picked(image.shape[0], factor, port)][:, picked(image.shape[1], factor, port)]


def patch(image, top, left, size):
    """A square of an image that is zero beyond its border."""
    padded = np.pad(image, ((size, size), (size, size), (0, 0)))
    return padded[size + top : 2 * size + top, size + left : 2 * size + left]


def attention_reference(foreground, background, mask, port):
    f, b, hole = (shrink(np.float64(x), 2, port) for x in (foreground, background, 1 - mask))
    height, width, channels = f.shape
    cells = [(y, x) for y in range(height) for x in range(width)]
    scores = {}
    for i in cells:
        for j in cells:
            p = patch(b, j[0] - 1, j[1] - 1, 3)
            norm = np.sqrt((p**2 + 1e-4).sum()) if port else max(np.sqrt((p**2).sum()), 1e-4)
            scores[i, j] = (patch(f, i[0] - 1, i[1] - 1, 3) * p).sum() / norm
    for order in (cells, sorted(cells, key=lambda cell: cell[::-1])):
        scores = {
            (i, j): sum(
                scores[order[m + d], order[n + d]]
                for d in (-1, 0, 1)
                if 0 <= m + d < len(order) and 0 <= n + d < len(order)
            )
            for m, i in enumerate(order)
            for n, j in enumerate(order)
        }
    kept = {j: float(not patch(hole, j[0] - 1, j[1] - 1, 3).any()) for j in cells}
    result = np.zeros((2 * height + 4, 2 * width + 4, channels))
    for y, x in cells:
        logits = np.asarray([10 * kept[j] * scores[(y, x), j] for j in cells])
        weights = np.exp(logits - logits.max())
        weights /= weights.sum()
        for weight, j in zip(weights, cells, strict=True):
            copied = patch(np.float64(background), 2 * j[0] - 1, 2 * j[1] - 1, 4)
            result[2 * y : 2 * y + 4, 2 * x : 2 * x + 4] += kept[j] * weight * copied / 4
    return result[1 : 1 + 2 * height, 1 : 1 + 2 * width]


def conv_reference(layer, image, port, stride=1, dilation=1, activation="elu"):
    kernel, bias = np.float64(layer["conv"]["kernel"]), layer["conv"]["bias"]
    size = kernel.shape[0]
    around = dilation * (size - 1) // 2
    before = around if port or stride == 1 else 0  # SAME of TensorFlow for even sizes
    padded = np.pad(image, ((before, around + 1), (before, around + 1), (0, 0)))
    height, width = image.shape[:2]
    result = bias + sum(
        padded[y * dilation :, x * dilation :][:height:stride, :width:stride] @ kernel[y, x]
        for y in range(size)
        for x in range(size)
    )
    if activation == "elu":
        return np.where(result > 0, result, np.expm1(np.minimum(result, 0)))
    return np.maximum(result, 0) if activation == "relu" else np.clip(result, -1, 1)


def network_reference(params, image, mask, port):
    """Both stages of one image, in the order of the channels that the network knows."""

    def run(hidden, *layers, **options):
        for layer in layers:
            hidden = conv_reference(stage[layer], hidden, port, **options)
        return hidden

    def encode(hidden, prefix):
        hidden = run(hidden, f"{prefix}1")
        hidden = run(hidden, f"{prefix}2_downsample", stride=2)
        hidden = run(hidden, f"{prefix}3")
        return run(run(hidden, f"{prefix}4_downsample", stride=2), f"{prefix}5")

    def dilate(hidden):
        hidden = run(hidden, "conv6")
        for layer, dilation in ((7, 2), (8, 4), (9, 8), (10, 16)):
            hidden = run(hidden, f"conv{layer}_atrous", dilation=dilation)
        return hidden

    def decode(hidden, prefix):
        hidden = run(hidden, f"{prefix}11", f"{prefix}12")
        hidden = run(hidden.repeat(2, 0).repeat(2, 1), f"{prefix}13", f"{prefix}14")
        hidden = run(hidden.repeat(2, 0).repeat(2, 1), f"{prefix}15", f"{prefix}16")
        return run(hidden, f"{prefix}17", activation="clip")

    known = (2 * np.float64(image) - 1) * mask
    stage = params["coarse_generator"]
    inputs = np.concatenate([known, np.ones_like(mask), 1 - mask], axis=-1)
    coarse = decode(dilate(encode(inputs, "conv")), "conv")
    stage = params["fine_generator"]
    pasted = known * mask + coarse * (1 - mask)
    inputs = np.concatenate([pasted, np.ones_like(mask), 1 - mask], axis=-1)
    copied = run(encode(inputs, "pmconv"), "pmconv6", activation="relu")
    copied = attention_reference(copied, copied, shrink(mask, 4, port), port)
    copied = run(copied, "pmconv9", "pmconv10")
    both = np.concatenate([dilate(encode(inputs, "conv")), copied], axis=-1)
    return coarse, decode(both, "allconv")


# The attention.


@pytest.mark.parametrize("port", [False, True])
@pytest.mark.parametrize(
    ("size", "keep"), [((8, 12), 0.9), ((8, 12), 1), ((8, 12), 0), ((2, 14), 0.8)]
)
def test_attention_equals_its_formula(size, keep, port):
    foreground, mask = make_case(size, keep, channels=5)
    background, _ = make_case(size, seed=1, channels=5)
    background -= 0.5
    result = attention(foreground, background, mask, port=port)
    for i in range(2):
        expected = attention_reference(foreground[i], background[i], mask[i], port)
        np.testing.assert_allclose(result[i], expected, atol=1e-5)
        assert np.any(expected) == (keep > 0)


@pytest.mark.parametrize(
    ("port", "expected"), [(False, [0, 2, 30, 33, 61, 63]), (True, [0, 2, 30, 32, 60, 62])]
)
def test_nearest_cells_from_64_to_32(port, expected):
    rows = jnp.arange(64.0)[None, :, None, None] * jnp.ones((1, 64, 64, 1))
    cells = nearest(rows, 2, port)[0, :, 0, 0]
    np.testing.assert_array_equal(cells[np.asarray([0, 1, 15, 16, 30, 31])], expected)


@pytest.mark.parametrize("port", [False, True])
def test_attention_copies_kept_pixels_to_themselves(port):
    """Distinct features match themselves best; four patches cover a pixel, but at the border."""
    features = 20 * np.random.default_rng(0).normal(size=(2, 8, 12, 5)).astype(np.float32)
    result = attention(features, features, np.ones((2, 8, 12, 1), np.float32), port=port)
    np.testing.assert_allclose(result[:, 1:-1, 1:-1], features[:, 1:-1, 1:-1], atol=1e-3)
    np.testing.assert_allclose(result[:, 0, 0], features[:, 0, 0] / 4, atol=1e-3)


def test_attention_copies_no_patch_that_touches_a_hole():
    """Of 12 columns the cells are 0, 2, 4, 7, 9, 11; six of them are holes, 9 and 11 are free."""
    features, _ = make_case((8, 12), channels=5)
    mask = np.ones((2, 8, 12, 1), np.float32)
    mask[:, :, :6] = 0
    # The patches pasted for the last two cells start at columns 7 and 9.
    left, right = features.copy(), features.copy()
    left[:, :, 7:], right[:, :, :7] = 0, 0
    assert not np.any(attention(features, left, mask, port=False))
    assert np.all(attention(features, right, mask, port=False)[:, 1:-1, :6].any(axis=-1))


def test_attention_gradient_is_finite_for_empty_features():
    """After a rectifier whole patches may be zero, and a norm has no derivative there."""
    features, mask = make_case((8, 8), keep=0.9, count=4)
    features[0], features[1, :, :6] = 0, 0
    mask[0], mask[2] = 1, 0

    def total(features):
        return jnp.square(attend(features, features, mask)).sum()

    assert np.isfinite(jax.jit(jax.grad(total))(features)).all()


@pytest.mark.parametrize("shape", [(1, 6, 7, 3), (1, 8, 6, 3)])
def test_attention_refuses_shapes_it_cannot_halve_or_compare(shape):
    with pytest.raises(ValueError, match=r"the same \[N, h, w, C\] with h and w even"):
        attend(jnp.zeros(shape), jnp.zeros((1, 6, 7, 3)), jnp.ones((1, 6, 7, 1)))


# The network.


@pytest.mark.parametrize("port", [False, True])
def test_contextual_attention_net_equals_the_publication(params, port):
    images, mask = make_case()
    mask[1, :, 40:] = 1
    coarse, refined = network(params, images, mask, port)
    order = slice(None) if port else slice(None, None, -1)
    expected = network_reference(params, images[1][..., order], mask[1], port)
    for ours, theirs in zip((coarse[1], refined[1]), expected, strict=True):
        assert 0.05 < theirs.std() < 0.7
        np.testing.assert_allclose(2 * ours[..., order] - 1, theirs, atol=1e-4)


def test_contextual_attention_net_number_of_parameters(params):
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 3_601_542


@pytest.mark.parametrize(("port", "refined"), [(False, [0.6, 0.5, 0.0]), (True, [0.0, 0.5, 0.6])])
def test_contextual_attention_net_is_bgr_inside_unless_ported(painter, port, refined):
    colours = network(painter([0.5, 0.5, 0.5], [-3.0, 0.0, 0.2]), *make_case(), port)
    np.testing.assert_allclose(colours[0] - np.float32(0.75), 0, atol=1e-6)
    np.testing.assert_allclose(colours[1] - np.float32(refined), 0, atol=1e-6)


def test_contextual_attention_net_ignores_pixels_in_holes(params):
    images, mask = make_case()
    for ours, theirs in zip(
        network(params, images, mask, False),
        network(params, images * mask, mask, False),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_contextual_attention_net_treats_images_independently(params):
    images, mask = make_case()
    both = network(params, images, mask, False)
    for i in range(2):
        # The same image twice, so that nothing is compiled anew.
        pair = network(params, images[[i, i]], mask[[i, i]], False)
        for ours, theirs in zip(both, pair, strict=True):
            np.testing.assert_allclose(ours[i], theirs[0], atol=1e-5)


@pytest.mark.parametrize("size", [(16, 20), (12, 16)])
def test_contextual_attention_net_refuses_other_sizes(params, size):
    with pytest.raises(ValueError, match=r"expected \[N, H, W, 3\] with H and W multiples of 8"):
        ContextualAttentionNet().apply({"params": params}, *make_case(size))


# The pipeline around it.


@pytest.fixture
def stub(monkeypatch):
    """Replaces the network by one that records its inputs and returns given values."""
    seen = {}

    class Stub:
        def __init__(self, port):
            seen["port"] = port

        def apply(self, variables, images, mask):
            seen.update(images=np.asarray(images), mask=np.asarray(mask))
            return images, jnp.broadcast_to(variables["params"], images.shape)

    monkeypatch.setattr(ca, "ContextualAttentionNet", Stub)
    return seen


@pytest.mark.parametrize("size", [224, 100, 256, 300])
def test_apply_resizes_with_aligned_corners_to_integers(stub, size):
    """A ramp over any number of rows becomes 0, 1, ... 255 over 256."""
    ramp = np.linspace(0.1, 0.9, size, dtype=np.float32)[None, :, None, None]
    images = np.broadcast_to(ramp, (1, size, 40, 3))
    apply(np.float32(0), images, np.ones((1, size, 40, 1), np.float32), KEY)
    levels = np.round(25.5 + 204.0 * np.arange(256) / 255)
    seen = 255 * stub["images"]
    assert seen.shape == (1, 256, 256, 3)
    np.testing.assert_allclose(seen, np.round(seen), atol=1e-4)
    # Where the ramp is half-way between two levels, either is right.
    exact = 25.5 + 204.0 * np.arange(256) / 255
    sure = np.abs(exact - np.floor(exact) - 0.5) > 1e-3
    np.testing.assert_allclose(seen[0, sure, 7, 1], levels[sure], atol=1e-4)


def test_apply_resizes_then_rounds_the_mask(stub):
    images, mask = np.zeros((1, 1, 2, 3), np.float32), np.float32([[[[1], [0]]]])
    apply(np.float32(0), images, mask, KEY)
    expected = np.arange(256) < 128
    np.testing.assert_array_equal(stub["mask"], np.broadcast_to(expected, (1, 256, 256))[..., None])


@pytest.mark.parametrize("colour", [[0.0, 0.5, 1.0], [0.2, 0.39999, 0.99999]])
def test_apply_truncates_the_fill_to_integers(stub, colour):
    images, _ = make_case((224, 224), count=1)
    result = apply(np.float32(colour), images, np.zeros((1, 224, 224, 1), np.float32), KEY)
    expected = np.floor(255 * np.float32(colour)) / 255
    np.testing.assert_allclose(result - np.float32(expected), 0, atol=1e-6)


def test_apply_restores_kept_pixels_before_resizing(stub):
    """Of 511 columns the network sees every second one: holes between them are interpolated."""
    columns = np.arange(511)
    images = np.broadcast_to(columns[:, None] / np.float32(510), (1, 1, 511, 3))
    mask = np.float32((columns % 2 == 0) & (columns < 256))[None, None, :, None]
    result = np.asarray(apply(np.float32(0), images, mask, KEY))[0, 0, :, 0]
    np.testing.assert_allclose(result[:255], columns[:255] / 510, atol=1e-6)
    np.testing.assert_allclose(result[257:], 0, atol=1e-6)


@pytest.mark.parametrize("port", [False, True])
def test_apply_passes_the_arithmetic_on(stub, port):
    apply(np.float32(0), *make_case(), KEY, port=port)
    assert stub["port"] is port


@pytest.mark.parametrize("channels", [1, 4])
def test_apply_refuses_other_channels(params, channels):
    images, mask = make_case(channels=channels)
    with pytest.raises(ValueError, match=r"expected \[N, H, W, 3\]: convert them to RGB"):
        apply(params, images, mask, KEY)


def test_contextual_attention_infill_of_a_real_network(params, monkeypatch):
    """The images have the size of the network, so that its 256 levels remain visible."""
    monkeypatch.setattr(ca, "SIZE", (16, 16))
    images, mask = make_case((16, 16), count=4)
    mask[0], mask[1] = 0, 1
    result = np.asarray(jax.jit(lambda *arguments: apply(*arguments))(params, images, mask, KEY))
    assert result.shape == images.shape
    assert result.dtype == np.float32
    assert result.min() >= 0
    assert result.max() <= 1
    np.testing.assert_array_equal(np.where(mask == 1, result, 0), np.where(mask == 1, images, 0))
    assert len(np.unique(result[0])) > 10
    levels = 255 * result * (1 - mask)
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)

    @jax.jit
    @jax.vmap
    def one_by_one(image, mask):
        return apply(params, image[None], mask[None], KEY)[0]

    # Where sums differ in the last bit, the level below may be the one.
    difference = np.abs(one_by_one(images, mask) - result)
    assert difference.max() < 1.01 / 255
    assert difference.mean() < 0.01 / 255


# The loss.


def test_distance_to_kept_equals_a_search():
    _, mask = make_case((9, 7), keep=0.15, count=5)
    mask[0], mask[-1] = 0, 1
    kept = [np.argwhere(m[..., 0] == 1) for m in mask]
    cells = np.stack(np.meshgrid(range(9), range(7), indexing="ij"), axis=-1)[:, :, None]
    distance = np.asarray(jax.jit(ca._distance_to_kept)(mask))
    np.testing.assert_array_equal(distance[0], ca.MAX_DISTANCE)
    for i in range(1, 5):
        expected = np.abs(cells - kept[i]).sum(-1).min(-1)
        np.testing.assert_array_equal(distance[i, ..., 0], expected)


def test_contextual_attention_loss_of_a_known_error(painter):
    """Errors of 1/8 and 1/2 everywhere count once in the hole and once outside."""
    images = np.full((2, 16, 16, 3), 0.5, np.float32)
    _, mask = make_case((16, 16))
    (total, (infills, terms)), _ = loss_and_gradient(painter([0.25] * 3, [-1.0] * 3), images, mask)
    np.testing.assert_allclose(terms["coarse_l1"], 2 * 0.125, rtol=1e-5)
    np.testing.assert_allclose(terms["refined_l1"], 2 * 0.5, rtol=1e-5)
    np.testing.assert_allclose(total, 1.2 * 0.25 + 1.0, rtol=1e-5)
    np.testing.assert_array_equal(infills, np.zeros_like(images))


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        # Three hole columns with errors 0.5, 0 and 0 weigh 1, 0.9 and 1.
        (np.r_[np.ones(4), np.zeros(3), np.ones(9)], 0.5 / 2.9),
        (np.r_[np.ones(3), np.zeros(3), np.ones(10)], 0.5 * 0.9 / 2.9),
        (np.ones(16), 0.5 / 16),
        (np.zeros(16), 0.5 / 16),
    ],
)
def test_contextual_attention_loss_is_discounted_inside_the_hole(painter, keep, expected):
    """One column is wrong by 1/2: in the hole's first column, in its middle, or anywhere."""
    images = np.full((2, 16, 16, 3), 0.5, np.float32)
    images[:, :, 4] = 1.0
    mask = np.broadcast_to(keep.astype(np.float32)[:, None], (2, 16, 16, 1))
    (_, (_, terms)), _ = loss_and_gradient(painter([0.0] * 3, [0.0] * 3), images, mask)
    np.testing.assert_allclose(terms["refined_l1"], expected, rtol=1e-5)


def test_contextual_attention_descent_lowers_the_loss_for_every_mask(params):
    images, mask = make_case((16, 16))
    mask[0] = 0
    (before, _), gradient = jax.device_get(loss_and_gradient(params, images, mask))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert all(leaf.any() for leaf in jax.tree.leaves(gradient["coarse_generator"]))
    stepped = jax.tree.map(lambda p, g: p - np.float32(0.003) * g, params, gradient)
    (after, _), _ = loss_and_gradient(stepped, images, mask)
    assert after < before
    _, gradient = jax.device_get(loss_and_gradient(params, images, np.ones_like(mask)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
