"""A model of keras.applications, with random weights; run with KERAS_BACKEND=jax."""

import keras


def build():
    """Returns a MobileNetV2 of ten classes, which takes images in [-1, 1]."""
    keras.utils.set_random_seed(0)
    network = keras.applications.MobileNetV2(
        input_shape=(64, 64, 3), alpha=0.35, weights=None, classes=10, classifier_activation=None
    )
    images = keras.Input((64, 64, 3))
    scaled = keras.layers.Rescaling(2.0, offset=-1.0)(images)
    return keras.Model(images, keras.layers.Rescaling(50.0)(network(scaled)))
