"""The convolutional network of the PyTorch MNIST example, for inference."""

import flax.linen as nn
import jax

from cfx_jax.classifiers.layers import Conv, flatten, tiled_max_pool

IMAGE_SIZE = 28


class MnistCNN(nn.Module):
    """Network from normalised grey images `[N, 28, 28, 1]` to logits `[N, num_classes]`."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits before softmax, float32 `[N, num_classes]`.

        Raises:
            ValueError: the images have another size.
        """
        if images.shape[1:3] != (IMAGE_SIZE, IMAGE_SIZE):
            height, width = images.shape[1:3]
            raise ValueError(
                f"images are {height} x {width} pixels, but the MNIST network expects "
                f"{IMAGE_SIZE} x {IMAGE_SIZE}: resize them"
            )
        hidden = nn.relu(Conv(32, 3, name="conv1")(images))
        hidden = nn.relu(Conv(64, 3, name="conv2")(hidden))
        hidden = flatten(tiled_max_pool(hidden, 2))
        hidden = nn.relu(nn.Dense(128, name="dense")(hidden))
        return nn.Dense(self.num_classes, name="classifier")(hidden)
