"""In-fills a folder of images, for visual inspection.

python -m cfx_jax.infill_folder --images=DIR --masks=DIR --output=DIR [--generator=gated_unet]

`masks/NAME.png` is the mask of `images/NAME.jpg`, of its size, white = keep, black = fill; of two
values, such as 0 and 1, the larger one is white. The output then holds `infilled/NAME.png`, and in
`sheets/NAME.png` image, masked and filled image. The exit status is 1 if an image was skipped.
"""

from cfx_jax.commands.infill_folder import main

if __name__ == "__main__":
    main()
