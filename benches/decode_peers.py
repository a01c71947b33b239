"""CPU time from JPEG files in memory to batches of normalized images, by other programs.

    decode_peers.py READER FOLDER [--images N] [--times N] [--crop]

READER is pillow, pillow-draft (decodes to a smaller scale where that is enough), torchvision or spdl. With --crop,
images are cropped at random and mirrored, as torchvision's RandomResizedCrop and RandomHorizontalFlip do it. Prints one
JSON object a turn, or what is missing. For scripts/bench-decode.
"""

import argparse
import glob
import io
import json
import math
import os
import random
import resource
import sys
import time

import numpy as np

BATCH, SIZE = 256, 224
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def normalized(pixels: np.ndarray) -> np.ndarray:
    """Height, width, channels of bytes to channels, height, width of floats."""
    return ((pixels.astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)


def random_part(width: int, height: int) -> tuple:
    """Left, top, width and height of a part, as torchvision draws them; and whether it is mirrored."""
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < columns <= width and 0 < rows <= height:
            break
    else:
        columns = rows = min(width, height)
    place = random.randint(0, width - columns), random.randint(0, height - rows)
    return (*place, columns, rows), random.random() < 0.5


def pillow(files: list, crop: bool, draft: bool = False):
    from PIL import Image

    def decode(data: bytes) -> np.ndarray:
        image = Image.open(io.BytesIO(data))
        if draft:
            image.draft("RGB", (SIZE, SIZE))
        image, is_mirrored = image.convert("RGB"), False
        if crop:
            (left, top, width, height), is_mirrored = random_part(*image.size)
            image = image.crop((left, top, left + width, top + height))
        image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        if is_mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return normalized(np.asarray(image))

    def batch(wanted: list) -> np.ndarray:
        stacked = np.empty((len(wanted), 3, SIZE, SIZE), np.float32)
        for place, data in zip(stacked, wanted):
            place[:] = decode(data)
        return stacked

    return batch


def torchvision(files: list, crop: bool):
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2 import functional

    torch.set_num_threads(1)
    buffers = {id(data): torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files}

    def decode(data: bytes):
        image = decode_jpeg(buffers[id(data)], ImageReadMode.RGB)
        if not crop:
            return functional.resize(image, [SIZE, SIZE], antialias=True)
        (left, top, width, height), is_mirrored = random_part(image.shape[2], image.shape[1])
        image = functional.resized_crop(image, top, left, height, width, [SIZE, SIZE], antialias=True)
        return functional.horizontal_flip(image) if is_mirrored else image

    def batch(wanted: list):
        images = [decode(data) for data in wanted]
        return functional.normalize(torch.stack(images).float() / 255, MEAN.tolist(), STD.tolist()).numpy()

    return batch


def spdl(files: list, crop: bool):
    import spdl.io

    rescale = spdl.io.get_video_filter_desc(scale_width=SIZE, scale_height=SIZE, pix_fmt="rgb24")

    def steps() -> str:
        if not crop:
            return rescale
        # All photographs are of this size.
        (left, top, width, height), is_mirrored = random_part(500, 375)
        mirror = "hflip," if is_mirrored else ""
        return f"crop={width}:{height}:{left}:{top},scale={SIZE}:{SIZE},{mirror}format=pix_fmts=rgb24"

    def batch(wanted: list) -> np.ndarray:
        frames = [spdl.io.decode_packets(spdl.io.demux_image(data), filter_desc=steps()) for data in wanted]
        pixels = spdl.io.to_numpy(spdl.io.convert_frames(frames))
        stacked = np.empty((len(wanted), 3, SIZE, SIZE), np.float32)
        for place, image in zip(stacked, pixels):
            place[:] = normalized(image)
        return stacked

    return batch


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("reader")
    parser.add_argument("folder")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--crop", action="store_true")
    args = parser.parse_args()
    files = [open(path, "rb").read() for path in sorted(glob.glob(os.path.join(args.folder, "*.jpg")))]
    readers = {
        "pillow": pillow,
        "pillow-draft": lambda files, crop: pillow(files, crop, draft=True),
        "torchvision": torchvision,
        "spdl": spdl,
    }
    try:
        random.seed(1)
        batch = readers[args.reader](files, args.crop)
        batch([files[0]])
    except Exception as error:  # noqa: BLE001 (whatever a package fails with when it is first used)
        sys.exit(f"{args.reader}: {type(error).__name__}: {str(error)[:200]}")
    for turn in range(args.times + 1):
        usage, start = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        size = min(BATCH, args.images)
        for first in range(0, args.images, size):
            stacked = batch([files[index % len(files)] for index in range(first, first + size)])
            assert stacked.shape == (size, 3, SIZE, SIZE)
        now = resource.getrusage(resource.RUSAGE_SELF)
        cpu = now.ru_utime + now.ru_stime - usage.ru_utime - usage.ru_stime
        wall = time.monotonic() - start
        if turn > 0:
            print(json.dumps({"cpu_us": cpu / args.images * 1e6, "wall_us": wall / args.images * 1e6}), flush=True)


if __name__ == "__main__":
    main()
