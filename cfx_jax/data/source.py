"""The `Source` value: a list of examples with stable ids, decoded on demand."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from cfx_jax.data import images
from cfx_jax.data.digests import UNREADABLE, digest

UNKNOWN_LABEL = -1
_MID_GREY = 127


@dataclasses.dataclass(frozen=True)
class Source:
    """A list of examples with stable ids, decoded on demand.

    Attributes:
        name: name of the data in reports.
        ids: unique ids, one per example.
        label: index -> class index, `UNKNOWN_LABEL` if the data have no label.
        boxes: index -> boxes around the object, float32 `[k, 4]`, `x0 y0 x1 y1` in pixels of the
            image that `decode` returns; k = 0 if the data have no box. Raises
            `UnreadableImageError` if it needs the size of the image and cannot read it.
        open_image: index -> undecoded PIL image.
        open_allowed: index -> undecoded PIL image of the pixels that a region may contain, white;
            None = all pixels.
        target: index -> class to explain; a value below 0 is a rank, -1 = the most likely class.
            None takes `label`, so an unknown label (-1) means the most likely class.
        digest: index -> 64-bit digest of the data that `open_image` reads, which detects changed
            content under the same id, see `cfx_jax.data.digests`; `UNREADABLE` if it cannot be
            read.
        white: value of white in grey images of more than 8 bits; None = the largest value of the
            depth of each file.
    """

    name: str
    ids: Sequence[str]
    label: Callable[[int], int]
    boxes: Callable[[int], np.ndarray]
    open_image: Callable[[int], Image.Image]
    digest: Callable[[int], int]
    target: Callable[[int], int] | None = None
    open_allowed: Callable[[int], Image.Image] | None = None
    white: int | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the ids; `label` and `content` detect changes behind an id."""
        return hashlib.sha256("\0".join(self.ids).encode()).hexdigest()

    def content(self, index: int) -> int:
        """Computes the digest of one example: its image, label and boxes.

        Args:
            index: position in `ids`.

        Returns:
            64-bit digest; `UNREADABLE` if the image cannot be read.
        """
        image = self.digest(index)
        if image == UNREADABLE:
            return UNREADABLE
        boxes = no_boxes(index)
        with contextlib.suppress(images.UnreadableImageError):
            boxes = self.boxes(index)
        return digest(f"{image} {self.label(index)} {boxes.tolist()}".encode())

    def load(self, index: int, size: tuple[int, int], resize: str | images.Resize) -> np.ndarray:
        """Decodes and resizes one example to floats, the input of the functions of `cfx_jax`.

        Args:
            index: position in `ids`.
            size: size of the result, `(H, W)`.
            resize: rule `crop`, `cover` or `stretch`, or a `cfx_jax.data.Resize` with more options.

        Returns:
            Image, float32 `[H, W, 3]` in [0, 1].

        Raises:
            UnreadableImageError: the bytes are not an image that can be decoded.
        """
        return images.to_floats(self.pixels(index, (*size, 3), resize))

    def pixels(
        self, index: int, shape: tuple[int, int, int], resize: str | images.Resize
    ) -> np.ndarray:
        """Decodes and resizes one example to 8 bits; `to_floats` scales them on a device.

        Args:
            index: position in `ids`.
            shape: shape of the result, `(H, W, C)`, C = 3 for RGB or 1 for grey.
            resize: resizing rule, as in `load`.

        Returns:
            Image, uint8 `[H, W, C]`.

        Raises:
            UnreadableImageError: the bytes are not an image that can be decoded.
        """
        return images.fit(self.decode(index, shape[2]), shape[:2], resize)

    def allowed(self, index: int, size: tuple[int, int], resize: str | images.Resize) -> np.ndarray:
        """Decodes and resizes the pixels that a region of one example may contain.

        Args:
            index: position in `ids`.
            size: size of the loaded image, `(H, W)`.
            resize: resizing rule, as in `load`.

        Returns:
            Allowed pixels, bool `[H, W]`; True where the picture is lighter than mid-grey.

        Raises:
            UnreadableImageError: the picture cannot be decoded, has transparent pixels, or has
                another size than the image.
        """
        if self.open_allowed is None:
            return np.ones(size, bool)
        name = f"{self.ids[index]}, its allowed pixels"
        with images.reading(name), self.open_allowed(index) as picture:
            if picture.has_transparency_data:
                raise ValueError(
                    "the picture has transparent pixels, which could mean either; save it without "
                    "an alpha channel, white where the region may be"
                )
            decoded = images.to_grey(images.to_rgb(picture))
            expected = self.decode(index).size
            if decoded.size != expected:
                raise ValueError(
                    f"the picture has {decoded.width} x {decoded.height} pixels, the image "
                    f"{expected[0]} x {expected[1]}; expected the same size"
                )
            return images.fit(decoded, size, resize)[..., 0] > _MID_GREY

    def fitted_boxes(
        self, index: int, size: tuple[int, int], resize: str | images.Resize
    ) -> np.ndarray:
        """Returns the boxes of one example in the loaded image, without decoding it.

        Args:
            index: position in `ids`.
            size: size of the loaded image, `(H, W)`.
            resize: resizing rule, as in `load`.

        Returns:
            Boxes, float32 `[k, 4]`, in pixels of the loaded image, not clamped to it.

        Raises:
            UnreadableImageError: the bytes are not an image.
        """
        boxes = self.boxes(index)
        if not len(boxes):
            return boxes
        with images.reading(self.ids[index]), self.open_image(index) as image:
            _, _, width, height = images.upright_boxes(np.array([[0.0, 0.0, 1.0, 1.0]]), image)[0]
        return images.fit_boxes(boxes, (int(height), int(width)), size, resize)

    def decode(self, index: int, channels: int = 3) -> Image.Image:
        """Decodes one example to an upright image at its original size.

        Args:
            index: position in `ids`.
            channels: number of channels, 3 for RGB or 1 for grey.

        Returns:
            A PIL image of mode RGB or L.

        Raises:
            UnreadableImageError: the bytes are not an image that can be decoded.
        """
        with images.reading(self.ids[index]), self.open_image(index) as image:
            rgb = images.to_rgb(image, self.white)
            return rgb if channels == 3 else images.to_grey(rgb)


def expand_top_classes(source: Source, num_classes: int) -> Source:
    """Repeats each example, once for each of its most likely classes.

    Each repetition is an example with its own records, status and detail view, so all readers of
    a run can handle it.

    Args:
        source: the examples.
        num_classes: number of most likely classes to explain per example, instead of its label.

    Returns:
        A `Source` with the ids `ID#1`, `ID#2`, ..., adjacent for each example.
    """

    def whole(function: Callable[[int], Any]) -> Callable[[int], Any]:
        return lambda index: function(index // num_classes)

    return dataclasses.replace(
        source,
        ids=[f"{name}#{rank + 1}" for name in source.ids for rank in range(num_classes)],
        label=whole(source.label),
        boxes=whole(source.boxes),
        open_image=whole(source.open_image),
        open_allowed=whole(source.open_allowed) if source.open_allowed else None,
        digest=whole(source.digest),
        target=lambda index: -1 - index % num_classes,
    )


def no_boxes(index: int) -> np.ndarray:
    """Returns the boxes of an image without boxes, float32 `[0, 4]`."""
    del index
    return np.zeros((0, 4), np.float32)
