#!/usr/bin/env python3
"""Makes references.bin: small images, and what Pillow makes of them, as torchvision (v2) calls it.

    python3 -m venv VENV && VENV/bin/pip install Pillow numpy && VENV/bin/python make.py

The file begins with lines of text and ends with the values of all images in the same order, row after row, the channels
of a pixel side by side. The first line names the versions. Each other line is one image: its height, width and
channels, then its name; for a result the name of the image that it was made of, and the operation with its parameters.
An empty line ends the text. src/transform/tests/references.rs reads it.

Only the blur has no counterpart in Pillow: it is computed here as torchvision does it for tensors, in double precision.
"""

import math
import pathlib

import numpy as np
import PIL
from PIL import Image, ImageEnhance, ImageOps

FILTERS = {"nearest": Image.NEAREST, "bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}
FILL = (11, 120, 240)

GEOMETRY = """
resize nearest 20 31|resize nearest 71 90|resize bilinear 20 31|resize bilinear 71 90|resize bilinear 12 80
resize bicubic 20 31|resize bicubic 71 90
crop_and_resize bilinear 5 7 30 40 24 24|crop_and_resize bicubic 3 10 11 9 32 28|crop_and_resize nearest 5 7 30 40 24 24
resize_shorter bilinear 24|fit bilinear 40 40|fit bilinear 30 63|center_crop 30 70|center_crop 20 22|center_crop 60 60
window -3 5 32 64|flip_horizontal|flip_vertical
rotate nearest 17|rotate nearest -64.7|rotate nearest 90|rotate nearest 180|rotate bilinear 17|rotate bilinear -133.3
rotate bilinear 270|shear nearest 0.09 0|shear nearest 0 -0.3|shear bilinear -0.09 0|shear bilinear 0 0.3
translate -8 0|translate 0 7
"""

COLOR = """
brightness 0|brightness 0.4|brightness 1.3|brightness 2.5|contrast 0.3|contrast 1.7|saturation 0|saturation 0.35
saturation 1.8|hue -0.5|hue -0.1|hue 0.07|hue 0.5|sharpness 0|sharpness 0.4|sharpness 1.9|grayscale|posterize 1
posterize 4|posterize 7|solarize 178.5|solarize 0|autocontrast|equalize|invert|blur 5 1.2|blur 3 0.1|blur 23 5
"""

NOISE = """
resize nearest 9 17|resize bilinear 9 17|resize bilinear 31 50|resize bicubic 9 17|resize bicubic 31 50
"""

MASK = """
resize nearest 20 31|crop_and_resize nearest 5 7 30 40 24 24|rotate nearest 17|shear nearest 0.09 0|flip_horizontal
"""

ALPHA = "brightness 1.3|contrast 0.3|saturation 1.8|sharpness 1.9"


def operations(text):
    return [name for name in text.replace("\n", "|").split("|") if name]


def inputs():
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:37, 0:53]
    smooth = [128 + 100 * np.sin(x / 9 + c) * np.cos(y / (7 + c)) for c in range(3)]
    photo = np.stack(smooth, axis=-1) + rng.normal(0, 6, (37, 53, 3))
    photo[10:22, 30:44] = (230, 40, 25)
    photo[25:30, 4:20] = (20, 60, 200)
    # Not all values occur, so that stretching contrast changes something.
    photo = np.clip(photo, 9, 243).astype(np.uint8)
    noise = rng.integers(0, 256, (23, 29, 3), dtype=np.uint8)
    mask = ((x // 7 + y // 5) % 5 * 50).astype(np.uint8)
    yield "photo", Image.fromarray(photo), operations(GEOMETRY + COLOR)
    yield "noise", Image.fromarray(noise), operations(NOISE + COLOR)
    yield "grey", Image.fromarray(photo[:23, 11:40, 0].copy()), operations(COLOR)
    yield "mask", Image.fromarray(mask), operations(MASK)
    yield "alpha", Image.fromarray(rng.integers(0, 256, (11, 13, 4), dtype=np.uint8)), operations(ALPHA)


def apply(image, name):
    word, *arguments = name.split()
    resampling = FILTERS.get(arguments[0]) if arguments else None
    numbers = [float(argument) for argument in arguments[resampling is not None :]]
    whole = [int(number) for number in numbers]
    fill = FILL[: len(image.getbands())]
    if word == "resize":
        return resize(image, *whole, resampling)
    if word == "crop_and_resize":
        top, left, height, width, rows, columns = whole
        return resize(image.crop((left, top, left + width, top + height)), rows, columns, resampling)
    if word == "resize_shorter":
        shorter, longer = min(image.size), max(image.size)
        longer = int(whole[0] * longer / shorter)
        size = (longer, whole[0]) if image.width <= image.height else (whole[0], longer)
        return resize(image, *size, resampling)
    if word == "fit":
        return ImageOps.pad(image, (whole[1], whole[0]), resampling, color=fill)
    if word == "center_crop":
        return center_crop(image, *whole)
    if word == "window":
        top, left, height, width = whole
        around = ImageOps.expand(image, border=50, fill=fill)
        return around.crop((left + 50, top + 50, left + width + 50, top + height + 50))
    if word == "flip_horizontal":
        return image.transpose(Image.FLIP_LEFT_RIGHT)
    if word == "flip_vertical":
        return image.transpose(Image.FLIP_TOP_BOTTOM)
    if word == "rotate":
        return image.rotate(numbers[0], resampling, fillcolor=fill)
    if word == "shear":
        x, y = (math.degrees(math.atan(number)) for number in numbers)
        matrix = inverse_affine_matrix((0, 0), (0, 0), (x, y))
        return image.transform(image.size, Image.AFFINE, matrix, resampling, fillcolor=fill)
    if word == "translate":
        center = (image.width * 0.5, image.height * 0.5)
        matrix = inverse_affine_matrix(center, numbers, (0, 0))
        return image.transform(image.size, Image.AFFINE, matrix, Image.NEAREST, fillcolor=fill)
    if word == "brightness":
        return ImageEnhance.Brightness(image).enhance(numbers[0])
    if word == "contrast":
        return ImageEnhance.Contrast(image).enhance(numbers[0])
    if word == "saturation":
        return ImageEnhance.Color(image).enhance(numbers[0])
    if word == "sharpness":
        return ImageEnhance.Sharpness(image).enhance(numbers[0])
    if word == "hue":
        return turn_hue(image, numbers[0])
    if word == "grayscale":
        return image.convert("L").convert(image.mode)
    if word == "posterize":
        return ImageOps.posterize(image, whole[0])
    if word == "solarize":
        return ImageOps.solarize(image, numbers[0])
    if word == "blur":
        return blur(image, whole[0], numbers[1])
    others = {"autocontrast": ImageOps.autocontrast, "equalize": ImageOps.equalize, "invert": ImageOps.invert}
    return others[word](image)


def resize(image, height, width, resampling):
    """Along rows first, as all versions of Pillow before 13 do; since then the order depends on the sizes."""
    if resampling == Image.NEAREST:
        return image.resize((width, height), resampling)
    return image.resize((width, image.height), resampling).resize((width, height), resampling)


def center_crop(image, height, width):
    """As torchvision's center_crop: pads a smaller image first."""
    missing = [max(width - image.width, 0), max(height - image.height, 0)]
    if any(missing):
        border = (missing[0] // 2, missing[1] // 2, (missing[0] + 1) // 2, (missing[1] + 1) // 2)
        image = ImageOps.expand(image, border=border, fill=(0,) * len(image.getbands()))
    top, left = int(round((image.height - height) / 2)), int(round((image.width - width) / 2))
    return image.crop((left, top, left + width, top + height))


def inverse_affine_matrix(center, translate, shear):
    """As torchvision's _get_inverse_affine_matrix without rotation and scale."""
    sx, sy = (math.radians(angle) for angle in shear)
    a = math.cos(-sy) / math.cos(sy)
    b = -math.cos(-sy) * math.tan(sx) / math.cos(sy)
    c = math.sin(-sy) / math.cos(sy)
    d = -math.sin(-sy) * math.tan(sx) / math.cos(sy) + 1.0
    matrix = [d, -b, 0.0, -c, a, 0.0]
    x, y = -center[0] - translate[0], -center[1] - translate[1]
    matrix[2] += matrix[0] * x + matrix[1] * y + center[0]
    matrix[5] += matrix[3] * x + matrix[4] * y + center[1]
    return matrix


def turn_hue(image, factor):
    if image.mode == "L":
        return image
    h, s, v = image.convert("HSV").split()
    turned = np.array(h, dtype=np.uint8) + np.int32(factor * 255).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(turned), s, v)).convert(image.mode)


def blur(image, size, sigma):
    x = np.arange(size) - (size - 1) / 2
    kernel = np.exp(-0.5 * (x / sigma) ** 2)
    kernel /= kernel.sum()
    values = np.asarray(image, dtype=np.float64).reshape(image.height, image.width, -1)
    values = np.pad(values, ((size // 2, size // 2), (size // 2, size // 2), (0, 0)), mode="reflect")
    for axis in (0, 1):
        length = values.shape[axis] - size + 1
        values = sum(weight * np.take(values, range(at, at + length), axis) for at, weight in enumerate(kernel))
    result = np.clip(np.round(values), 0, 255).astype(np.uint8)
    return Image.fromarray(result if result.shape[2] == 3 else result[:, :, 0])


def main():
    lines, data = [f"Pillow {PIL.__version__}, numpy {np.__version__}"], bytearray()
    for input_name, image, names in inputs():
        for name, result in [(input_name, image)] + [(f"{input_name} {name}", apply(image, name)) for name in names]:
            assert result.mode == image.mode, name
            lines.append(f"{result.height} {result.width} {len(result.getbands())} {name}")
            data += result.tobytes()
    text = "\n".join(lines) + "\n\n"
    pathlib.Path(__file__).with_name("references.bin").write_bytes(text.encode() + data)
    print(f"{len(lines) - 1} images, {len(data)} bytes")


if __name__ == "__main__":
    main()
