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
# Explain three photographs, look at what comes out, ask other questions, bring a model of your
# own, explain a whole folder, read what it wrote, compare it with Grad-CAM, and see when a mask
# must not be believed. It takes a few minutes on two cores, and needs no download. Install the
# package first: `python -m pip install '.[docs]'` in a checkout brings the kernel of Jupyter and
# xarray, too. This page is also [a notebook](tutorial.py).

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
# ## Explain three photographs
#
# Three things are needed: images in [0, 1], a classifier, and a generator that fills holes. All
# three come with the package; the classifier is EfficientNet-Lite0 with its published weights, and
# knows the 1,000 classes of ImageNet.

# %%
images, classes = cfx_jax.demo_images()
classifier = cfx_jax.load_classifier("efficientnet_lite0")
generator = cfx_jax.load_generator("gated_unet")
key = jax.random.key(0)
print(images.shape, [classifier.class_names[c] for c in classes])

# %% [markdown]
# One call learns a mask for each image. The default question is SSR: the smallest region that
# keeps the decision when everything else is filled in. The first call compiles; the next one of
# the same shape does not. The mode `quick` takes half of the evaluations of the default, `region`.

# %%
kept = cfx_jax.explain(key, classifier, generator, images, classes, mode="quick")

# %% [markdown]
# ## Look
#
# From left to right: the photograph with the probability of its class; what matters, with a line
# around the region that holds half of the map; and the photograph with everything else filled in,
# under one hard mask.

# %% picture="ssr" alt="A cat, espresso, a rocket; what suffices; all else filled in"
figure(kept, images, class_names=classifier.class_names)


# %% [markdown]
# The numbers behind the picture are plain arrays with one row an image. `success_rate` is the
# share of 32 hard masks, drawn from what was learnt, that do what was asked; `status` says in one
# word what became of it. (A notebook that ends a cell with `kept` shows all of this as a table.)


# %%
def tell(explanation):
    for row, target in enumerate(explanation.target.tolist()):
        print(
            f"{classifier.class_names[target]:13}",
            f"keeps {explanation.kept_area[row]:4.0%} of the image,",
            f"{explanation.success_rate[row]:4.0%} of hard masks do what is asked:",
            cfx_jax.Status(int(explanation.status[row])).name,
        )


tell(kept)

# %% [markdown]
# The cat is `MISCLASSIFIED`: the network calls it a *tiger cat*, and a region cannot keep a
# decision that is not made. Without `classes`, the predicted class is explained.
#
# ## Change the goal
#
# SDR asks the opposite: which smallest region has to be filled for the decision to change?

# %% picture="sdr" alt="The photographs; what has to go; the pictures filled there"
dropped = cfx_jax.explain(key, classifier, generator, images, objective="sdr", mode="quick")
tell(dropped)
figure(dropped, images, class_names=classifier.class_names)

# %% [markdown]
# "Why this class rather than that one?" is a `contrast`. Both names of the cat are of cats, so
# what they share does not count: what speaks for *tiger cat* against *Egyptian cat*?

# %% picture="contrast" alt="The cat; what speaks for tiger cat; all else filled in"
tiger, egyptian = (classifier.class_names.index(name) for name in ("tiger cat", "Egyptian cat"))
rather = cfx_jax.explain(
    key, classifier, generator, images[:1], jnp.array([tiger]), contrast=egyptian
)
tell(rather)
figure(rather, images[:1], class_names=classifier.class_names)

# %% [markdown]
# Every number of the method can be set, too: `cfx_jax.explain(..., num_steps=30, mask_size=28)`.
# What they do stands in [choosing goal, in-fill and mode](choose.md).
#
# ## Your own model
#
# Any function from parameters and images to logits will do. This one votes for the colour that an
# image has most of, so we know the right answer: what is blue should decide for *blue*.


# %%
def vote(params, images):
    return params["scale"] * images.mean(axis=(1, 2))


colours = cfx_jax.adapters.from_function(
    vote, {"scale": jnp.array(40.0)}, class_names=("red", "green", "blue"), name="colours"
)
small, _ = cfx_jax.demo_images(64)
print("found wrong:", colours.check(small))

grey = cfx_jax.load_generator("grey")
why_blue = cfx_jax.explain(
    key, colours, grey, small, jnp.array([2, 2, 2]), contrast=0, objective="sdr"
)
print([cfx_jax.Status(int(code)).name for code in why_blue.status])

# %% [markdown]
# `check` runs the model on two images and says what is wrong with it: probabilities for logits,
# dropout left on, and so on. For Flax, Keras, Equinox and PyTorch there are adapters: [your own
# model](own_model.md).
#
# Only the photograph in which blue is ahead of red is explained; of the others it says that the
# decision is not made. Where it is, what has to go is blue:

# %% picture="own" alt="A photograph; its blue parts; the picture with them in grey"
found = int(np.argmax(np.asarray(why_blue.status) == cfx_jax.Status.OK))
figure(
    jax.tree.map(lambda leaf: leaf[found], why_blue), small[found], class_names=colours.class_names
)

# %% [markdown]
# ## A whole folder
#
# `cfx_jax.run` does what the command `python -m cfx_jax.main` does: it reads images in units,
# explains them on all devices, writes records as it goes, and goes on where it was stopped. Only
# the page and the table in the end are the command's. Here are three files in a folder; a third of
# the steps is enough for a look, and no label is given, so the predicted class is explained.

# %%
home = pathlib.Path(tempfile.mkdtemp())
photos = home / "photos"
photos.mkdir()
for name, image in zip(("cat", "coffee", "rocket"), images, strict=True):
    Image.fromarray(np.uint8(255 * image)).save(photos / f"{name}.png")

config = Config(
    data=DataConfig(source="folder", path=str(photos), resize="stretch"),
    explain=ExplainConfig(objective="ssr", num_steps=20),
    batch=BatchConfig(unit_size=3),
)
cfx_jax.run(config, home / "run", classifier=classifier, generator=generator)

# %% [markdown]
# The command ends with a gallery to browse, too; `python -m cfx_jax.report RUN` makes it of any
# run, also later.
#
# ## Read the records
#
# Everything a run found lies in `records.zarr`, and opens without this package.

# %%
records = xarray.open_zarr(home / "run" / "records.zarr")
print(dict(records.sizes))
print(records[["ssr_kept_area", "ssr_success_rate"]].to_dataframe().round(2))

# %% [markdown]
# Its names travel with it, so a number of a class can be read by people. More of this is in
# [reading the records](records.md).

# %%
names = records.attrs["class_names"]
for example in records.example.values:
    print(example, "->", names[int(records.prediction.sel(example=example))])

# %% [markdown]
# ## Compare with Grad-CAM
#
# Other methods are one call. Their maps have no scale of their own, so we ask the same of all:
# keep as many pixels as the mask keeps, the first ones of the map, fill the rest, and look at the
# probability of the class.

# %%
grad_cam = attribute("grad_cam", key, classifier, generator, images, classes)
maps = {"cfx_jax SSR": np.asarray(kept.saliency), "Grad-CAM": np.asarray(grad_cam)}


def keep_most(saliency, shares):
    """Keeps the share of each image that its map has most of: 1 = keep."""
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

# %% picture="grad_cam" alt="Maps of SSR and of Grad-CAM over the three photographs in grey"
drawn, axes = plt.subplots(len(maps), 3, figsize=(7.5, 5), layout="constrained", dpi=110)
for row, (name, saliency) in zip(axes, maps.items(), strict=True):
    for axis, image, one in zip(row, images, saliency, strict=True):
        axis.imshow(image.mean(-1), cmap="gray")
        axis.imshow(one, cmap="inferno", alpha=0.6)
        axis.set_axis_off()
    row[0].set_title(name, loc="left", fontsize=10)

# %% [markdown]
# For many images, with intervals and a dozen more methods: [comparing methods](compare.md).
#
# ## Know when a mask is wrong
#
# A mask is an answer to a question about *this network with this in-fill*. Four looks tell whether
# to believe it:
#
# 1. **Its status.** Anything but `OK` says that the question has no answer here, and which part of
#    it fails.
# 2. **Its success rate.** Below the share that was asked for (0.9), the region does not do what it
#    is drawn for.
# 3. **Another in-fill.** If only `gated_unet` keeps the decision, its painting is part of the
#    answer.
# 4. **The picture.** If the filled picture shows the object again, the in-fill has redrawn it.

# %%
tell(kept)
mask = keep_most(maps["cfx_jax SSR"], shares)
for name in ("gated_unet", "blur", "local_mean", "grey"):
    filled = cfx_jax.infill(key, cfx_jax.load_generator(name), images, mask)
    print(f"{name:11} in the holes:", probability(filled).round(2))

# %% [markdown]
# The rocket, last in each row, has more than before with one of the four fills, two thirds of it
# with `blur`, and nothing with the others. So say "kept with `gated_unet`", not "kept". What a mask
# proves, what it does not, and when another tool is the better one: [concepts](concepts.md).
