"""A program of a user, with the types of the package: test_packaging.py checks it with mypy.

Behind a `reveal_type` stands how the type begins, behind what must be refused the error.
"""

from typing import reveal_type

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import cfx_jax
from cfx_jax import adapters, report
from cfx_jax.classifiers import NORMALIZATIONS, average
from cfx_jax.config import Config, DataConfig, ExplainConfig
from cfx_jax.generators import mix
from cfx_jax.records import RecordReader
from cfx_jax.runs.explanations import Explanations

# Models.
classifier = cfx_jax.load_classifier("efficientnet_lite0")
reveal_type(classifier)  # cfx_jax.classifiers.base.Classifier
reveal_type(classifier.image_size)  # tuple[int, int] | None
reveal_type(classifier.class_names)  # tuple[str, ...]
reveal_type(classifier.replace(image_size=(224, 224)))  # cfx_jax.classifiers.base.Classifier
findings = classifier.check(np.ones((1, 8, 8, 3)))
reveal_type([finding.problem for finding in findings])  # list[str]
reveal_type(average([classifier, classifier]))  # cfx_jax.classifiers.base.Classifier
generator = cfx_jax.load_generator("gated_unet")
reveal_type(generator)  # cfx_jax.generators.base.Generator
reveal_type(mix([generator, generator]))  # cfx_jax.generators.base.Generator
own = adapters.from_function(lambda images: images.mean((1, 2)))
reveal_type(own)  # cfx_jax.classifiers.base.Classifier
linen = adapters.from_linen(None, {}, normalization=NORMALIZATIONS["imagenet"])
reveal_type(linen)  # cfx_jax.classifiers.base.Classifier

# Explanations.
images, classes = cfx_jax.demo_images()
reveal_type(images)  # numpy.ndarray
reveal_type(classifier.apply(classifier.params, jnp.asarray(images)))  # jax.Array
key = jax.random.key(0)
e = cfx_jax.explain(key, classifier, generator, images, classes, objective="sdr", num_steps=30)
reveal_type(e)  # cfx_jax.fido.explanation.Explanation
reveal_type(e.saliency)  # jax.Array
reveal_type(e.status)  # jax.Array
reveal_type(e.replace(status=e.status))  # cfx_jax.fido.explanation.Explanation
reveal_type(cfx_jax.Status(0).name)  # str
reveal_type(cfx_jax.explain_both(key, classifier, generator, images))  # dict[str, cfx_jax.fido
reveal_type(cfx_jax.explain_one(key, classifier, generator, images[0], 3))  # cfx_jax.fido
reveal_type(cfx_jax.infill(key, generator, images, images[..., :1]))  # jax.Array
drawn = report.figure(e, images, class_names=classifier.class_names)
reveal_type(drawn)  # matplotlib.figure.Figure
drawn.savefig("before_and_after.png")
plt.close()

# Runs.
config = Config(data=DataConfig(source="folder", path="DIR"), explain=ExplainConfig(mode="fast"))
reveal_type(cfx_jax.run(config, "runs/mine", classifier=own))  # None
reveal_type(RecordReader("runs/mine").read("label"))  # numpy.ndarray
run = Explanations("runs/mine")
reveal_type(run.read_result("ssr", "kept_area"))  # numpy.ndarray
reveal_type(run.ids())  # list[str]

# Mistakes.
cfx_jax.explian(key, classifier, generator, images)  # error: Module has no attribute "explian"
print(e.salience)  # error: "Explanation" has no attribute "salience"
cfx_jax.load_classifier(7)  # error: Argument 1 to "load_classifier" has incompatible type "int"
Config(seeds=1)  # error: Unexpected keyword argument "seeds" for "Config"
