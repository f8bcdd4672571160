"""In-fills a folder of images, for visual inspection.

python -m cfx_jax.infill_folder --images=DIR --masks=DIR --output=DIR [--generator=gated_unet]

`masks/NAME.png` is the mask of `images/NAME.jpg` and has the same size: white = keep, black = fill.
If a mask has only two values, such as 0 and 1, the larger value is white. The output then contains
`infilled/NAME.png`, and `sheets/NAME.png` with the image, the masked image and the filled image.
The exit status is 1 if an image was skipped.
"""

from cfx_jax.commands.infill_folder import main

if __name__ == "__main__":
    main()
