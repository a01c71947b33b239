#!/usr/bin/env python3
"""Makes large_restarts.jpg and large_progressive.jpg: 500 x 375 pixels with colours at half resolution (4:2:0), one
with a restart marker for each row of blocks, the other progressive.

    python3 make_large.py            # needs Pillow

src/pixels/jpeg.rs compares parts of them with the whole.
"""

import math
import pathlib

from PIL import Image

HERE = pathlib.Path(__file__).parent
WIDTH, HEIGHT = 500, 375


def pixel(x: int, y: int) -> tuple:
    """Waves of other lengths and directions in each colour."""
    waves = (math.sin(x / 9 + y / 31), math.cos(x / 23 - y / 7), math.sin(x * y / 4000))
    return tuple(round(128 + 120 * wave) for wave in waves)


def main() -> None:
    image = Image.new("RGB", (WIDTH, HEIGHT))
    image.putdata([pixel(x, y) for y in range(HEIGHT) for x in range(WIDTH)])
    image.save(HERE / "large_restarts.jpg", quality=60, subsampling=2, restart_marker_rows=1)
    image.save(HERE / "large_progressive.jpg", quality=60, subsampling=2, progressive=True)


if __name__ == "__main__":
    main()
