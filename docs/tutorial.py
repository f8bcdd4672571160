# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Tutorial
#
# In this tutorial you explain three pictures, inspect the results, change the question, use
# your own model, explain a whole folder, read its records, compare a mask with Grad-CAM, and see
# when a mask is not reliable. It takes a few minutes on two cores and needs no download. Install
# the package first: `python -m pip install '.[docs]'` in a checkout also installs the Jupyter
# kernel and xarray. This page is also [a notebook](tutorial.py).

# %%
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import xarray
from PIL import Image

import cfx_jax
from cfx_jax.baselines import attribute
from cfx_jax.config import BatchConfig, Config, DataConfig, ExplainConfig
from cfx_jax.report import figure

# %% [markdown]
# ## Explain three pictures
#
# You need three things: images in [0, 1], a classifier, and a generator that in-fills holes. The
# package includes all three. The classifier is EfficientNet-Lite0 with its published weights for
# the 1,000 classes of ImageNet.

# %%
images, classes = cfx_jax.demo_images()
classifier = cfx_jax.load_classifier("efficientnet_lite0")
generator = cfx_jax.load_generator("gated_unet")
key = jax.random.key(0)
print(images.shape, [classifier.class_names[c] for c in classes])

# %% [markdown]
# One call learns a mask for each image. The default objective is SSR: the smallest region that
# keeps the prediction when everything else is in-filled. The first call compiles; later calls
# with the same shapes do not. 48 steps in place of 120 take a little more than half of the time;
# the regions are somewhat larger. You may pass any number of images: `explain` divides them into
# batches (`batch_size`), so that the memory does not grow with their number, and calls
# `progress(finished, total)` after each batch.

# %%
kept = cfx_jax.explain(key, classifier, generator, images, classes, num_steps=48)

# %% [markdown]
# ## Inspect the result
#
# From left to right: the photograph with the probability of its class; the saliency, with an
# outline of the most important pixels, which contain half of the total saliency; and the photograph
# with everything else in-filled, under one hard mask.

# %% picture="ssr" alt="Three pictures; regions that suffice; the pictures with the rest in-filled"
figure(kept, images, class_names=classifier.class_names)


# %% [markdown]
# The numbers behind the picture are plain arrays with one row per image. `success_rate` is the
# share of 32 hard masks, drawn from the learnt distribution, that keep (SSR) or flip (SDR) the
# prediction; `status` is the outcome in one word. (In a notebook, a cell that ends with `kept`
# shows all of this as a table.)


# %%
def describe(explanation):
    for row, target in enumerate(explanation.target.tolist()):
        print(
            f"{classifier.class_names[target]:13}",
            f"keeps {explanation.kept_area[row]:4.0%} of the image,",
            f"{explanation.success_rate[row]:4.0%} of hard masks succeed:",
            cfx_jax.Status(int(explanation.status[row])).name,
        )


describe(kept)

# %% [markdown]
# ## Change the objective
#
# SDR is the opposite: the smallest region whose in-filling flips the prediction. Without
# `classes`, the predicted class is explained.

# %% picture="sdr" alt="The photographs; regions to be removed; the photographs in-filled there"
dropped = cfx_jax.explain(key, classifier, generator, images, objective="sdr", num_steps=48)
describe(dropped)
figure(dropped, images, class_names=classifier.class_names)

# %% [markdown]
# The question "Why this class rather than that one?" is a `contrast`. Both classes below are
# vehicles on two wheels, so evidence for both does not count: which region supports *moped* rather
# than *motor scooter*?

# %% picture="contrast" alt="The motorcycle; the region that supports moped; the rest in-filled"
scooter = classifier.class_names.index("motor scooter, scooter")
rather = cfx_jax.explain(
    key, classifier, generator, images[1:2], classes[1:2], contrast=scooter, num_steps=48
)
describe(rather)
figure(rather, images[1:2], class_names=classifier.class_names)

# %% [markdown]
# The status `INFILL_SUFFICES` means that no region is needed: the in-fill alone is already
# classified as a moped rather than a motor scooter. So the region that is kept proves little.
#
# You can also change every setting of the method: `cfx_jax.explain(..., num_steps=30,
# mask_size=14)`. They are described in [choosing objective, in-fill and mode](choose.md).
#
# ## Your own model
#
# A classifier can be any function from parameters and images to logits. This one predicts the
# dominant colour of an image, so the right answer is known: the blue parts should support *blue*.


# %%
def vote(params, images):
    return params["scale"] * images.mean(axis=(1, 2))


colours = cfx_jax.adapters.from_function(
    vote, {"scale": jnp.array(40.0)}, class_names=("red", "green", "blue"), name="colours"
)
small, _ = cfx_jax.demo_images(64)
print("problems:", colours.check(small))

grey = cfx_jax.load_generator("grey")
why_blue = cfx_jax.explain(
    key, colours, grey, small, jnp.array([2, 2, 2]), contrast=0, objective="sdr"
)
print([cfx_jax.Status(int(code)).name for code in why_blue.status])

# %% [markdown]
# `check` runs the model on two images and reports problems: probabilities instead of logits,
# active dropout, and so on. There are adapters for Flax, Keras, Equinox and PyTorch, see [your
# own model](own_model.md).
#
# The espresso and the motorcycle have more red than blue, so they are `MISCLASSIFIED`: a prediction
# that the model does not make cannot be explained. In the traffic light, the region that has to be
# removed is the blue sky:

# %% picture="own" alt="A picture; its blue parts; the picture with these parts in grey"
figure(jax.tree.map(lambda leaf: leaf[2], why_blue), small[2], class_names=colours.class_names)

# %% [markdown]
# ## A whole folder
#
# `cfx_jax.run` does the same as the command `python -m cfx_jax.main`: it reads images in units,
# explains them on all devices, writes records during the run, and resumes where it was stopped.
# Only the gallery and the table at the end are left to the command. Here the folder contains
# three files. A sixth of the steps is enough for this tutorial, and no labels are given, so the
# predicted class is explained.

# %%
home = pathlib.Path(tempfile.mkdtemp())
photos = home / "photos"
photos.mkdir()
for name, image in zip(("espresso", "motorcycle", "traffic_light"), images, strict=True):
    Image.fromarray(np.uint8(255 * image)).save(photos / f"{name}.png")

config = Config(
    data=DataConfig(source="folder", path=str(photos), resize="stretch"),
    explain=ExplainConfig(objective="ssr", num_steps=20),
    batch=BatchConfig(unit_size=3),
)
cfx_jax.run(config, home / "run", classifier=classifier, generator=generator)

# %% [markdown]
# The command also writes a gallery; `python -m cfx_jax.report RUN` writes it for any run, also
# later.
#
# ## Read the records
#
# All results of a run are in `records.zarr`, which can be read without this package.

# %%
records = xarray.open_zarr(home / "run" / "records.zarr")
print(dict(records.sizes))
print(records[["ssr_kept_area", "ssr_success_rate"]].to_dataframe().round(2))

# %% [markdown]
# The records contain the class names, so class indices can be turned into names. For more, see
# [reading the records](records.md).

# %%
names = records.attrs["class_names"]
for example in records.example.values:
    print(example, "->", names[int(records.prediction.sel(example=example))])

# %% [markdown]
# ## Compare with Grad-CAM
#
# Other methods take one call. Maps of different methods have no common scale, so we compare their
# effect: for each method, keep the most important pixels of its map, as many as the mask keeps,
# in-fill the rest, and compare the probability of the class.

# %%
grad_cam = attribute("grad_cam", key, classifier, generator, images, classes)
maps = {"cfx_jax SSR": np.asarray(kept.saliency), "Grad-CAM": np.asarray(grad_cam)}


def keep_most(saliency, shares):
    """Returns masks that keep the given share of each image where its map is largest."""
    levels = [np.quantile(one, 1 - share) for one, share in zip(saliency, shares, strict=True)]
    return np.float32(saliency >= np.array(levels)[:, None, None])[..., None]


def probability(images):
    logits = jax.jit(classifier.apply)(classifier.params, images)
    return np.asarray(jax.nn.softmax(logits))[np.arange(len(images)), classes]


shares = [float((one > 0.5).mean()) for one in maps["cfx_jax SSR"]]
print("share kept      ", np.round(shares, 2))
print("before          ", probability(images).round(2))
for name, saliency in maps.items():
    filled = cfx_jax.infill(key, generator, images, keep_most(saliency, shares))
    print(f"{name:16}", probability(filled).round(2))

# %% picture="grad_cam" alt="Maps of SSR and of Grad-CAM over the three pictures in grey"
drawn, axes = plt.subplots(len(maps), 3, figsize=(7.5, 5), layout="constrained", dpi=110)
for row, (name, saliency) in zip(axes, maps.items(), strict=True):
    for axis, image, one in zip(row, images, saliency, strict=True):
        axis.imshow(image.mean(-1), cmap="gray")
        axis.imshow(one, cmap="inferno", alpha=0.6)
        axis.set_axis_off()
    row[0].set_title(name, loc="left", fontsize=10)

# %% [markdown]
# For many images, with intervals and a dozen more methods, see [comparing methods](compare.md).
#
# ## Know when a mask is wrong
#
# A mask answers a question about *this network with this in-fill*. Four checks show whether it is
# reliable:
#
# 1. **Its status.** Any status other than `OK` means that the mask does not answer the question,
#    and gives the reason.
# 2. **Its success rate.** Below the required share (0.9), the region does not keep (SSR) or flip
#    (SDR) the prediction reliably.
# 3. **Another in-fill.** If the prediction is kept with `gated_unet` only, the in-fill is part of
#    the answer.
# 4. **The picture.** If the in-filled picture shows the object again, the generator has redrawn
#    it.

# %%
describe(kept)
mask = keep_most(maps["cfx_jax SSR"], shares)
for name in ("gated_unet", "blur", "local_mean", "grey"):
    filled = cfx_jax.infill(key, cfx_jax.load_generator(name), images, mask)
    print(f"{name:11} in the holes:", probability(filled).round(2))

# %% [markdown]
# The espresso, first in each row, keeps a probability of 0.83 with `gated_unet`, the in-fill the
# mask was learnt with, and at most 0.23 with the others. Report "kept with `gated_unet`", not
# "kept". What a mask proves, what it does not, and when to use another tool is explained in
# [concepts](concepts.md).
