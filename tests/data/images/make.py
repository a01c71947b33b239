#!/usr/bin/env python3
"""Makes files.bin and index.txt: small WebP, GIF, BMP and TIFF files of many kinds, and what Pillow decodes them to.

    python3 -m venv VENV && VENV/bin/pip install Pillow numpy tifffile && VENV/bin/python make.py

index.txt has a line for each file: its name, its width and height, where it begins in files.bin, its length, and the
same of its pixels (RGBA, row after row, upright as its orientation says). tests/it/formats.rs reads both. The pixels
are Pillow's, but for kinds that Pillow can't read or clips; `expected` says what they are.
"""

import io
import pathlib
import struct

import numpy as np
import tifffile
from PIL import Image, ImageOps, TiffImagePlugin

HERE = pathlib.Path(__file__).parent
WIDTH, HEIGHT = 37, 35
RNG = np.random.default_rng(11)

Y, X = np.mgrid[0:HEIGHT, 0:WIDTH]
RGB = np.stack([(X * 6) % 256, (Y * 7) % 256, (X * Y) % 251], axis=-1).astype(np.uint8)
SMOOTH = np.stack([128 + 100 * np.sin(X / 9 + c) * np.cos(Y / (7 + c)) for c in range(3)], axis=-1).astype(np.uint8)
ALPHA = ((X * 7 + Y * 3) % 256).astype(np.uint8)
RGBA = np.dstack([RGB, ALPHA])
GREY = RGB[..., 2]
RGB16 = (RGB.astype(np.uint16) * 257) ^ RNG.integers(0, 64, RGB.shape, dtype=np.uint16)
BITS = (X * Y % 7 < 3).astype(np.uint8)

FILES: list[tuple[str, bytes, np.ndarray]] = []


def rgba(values: np.ndarray) -> np.ndarray:
    """Grey, RGB or RGBA values of 8 bits as RGBA."""
    if values.ndim == 2:
        values = np.dstack([values] * 3)
    if values.shape[2] == 3:
        values = np.dstack([values, np.full(values.shape[:2], 255, np.uint8)])
    return values


def of_16_bits(values: np.ndarray) -> np.ndarray:
    """16 bits to 8, rounded."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def add(name: str, file: bytes, expected: np.ndarray | None = None) -> None:
    if expected is None:
        image = Image.open(io.BytesIO(file))
        # Pillow turns TIFF images itself.
        image = image if image.format == "TIFF" else ImageOps.exif_transpose(image)
        expected = np.asarray(image.convert("RGBA"))
    FILES.append((name, file, rgba(expected)))


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[0x112] = orientation
    return data.tobytes()


def webp() -> None:
    smooth, straight = Image.fromarray(SMOOTH), Image.fromarray(RGBA)
    smooth_alpha = Image.fromarray(np.dstack([SMOOTH, ALPHA]))
    add("webp_lossy", saved(smooth, "WEBP", quality=80))
    add("webp_lossy_low", saved(smooth, "WEBP", quality=5))
    add("webp_lossy_alpha", saved(smooth_alpha, "WEBP", quality=80, exact=True))
    add("webp_lossy_alpha_low", saved(smooth_alpha, "WEBP", quality=80, alpha_quality=20))
    add("webp_lossless", saved(Image.fromarray(RGB), "WEBP", lossless=True))
    add("webp_lossless_alpha", saved(straight, "WEBP", lossless=True, exact=True))
    add("webp_lossless_palette", saved(Image.fromarray(RGB // 64 * 64), "WEBP", lossless=True))
    frames = [Image.fromarray(np.roll(SMOOTH, shift, axis=1)) for shift in (0, 9, 20)]
    add("webp_animated_lossy", saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], quality=80))
    frames = [Image.fromarray(np.roll(RGBA, shift, axis=0)) for shift in (0, 9)]
    add("webp_animated_lossless", saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True))
    # A frame that is smaller than the animation.
    frame = saved(Image.fromarray(RGBA[:20, :16]), "WEBP", lossless=True, exact=True)[12:]
    frame = frame[frame.index(b"VP8L") :]
    place = b"".join(number.to_bytes(3, "little") for number in (4, 3, 15, 19, 100)) + b"\0"
    chunk = lambda name, data: name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)  # noqa: E731
    canvas = bytes([0x12, 0, 0, 0]) + (WIDTH - 1).to_bytes(3, "little") + (HEIGHT - 1).to_bytes(3, "little")
    chunks = chunk(b"VP8X", canvas) + chunk(b"ANIM", b"\x20\x40\x60\xff\0\0") + chunk(b"ANMF", place + frame) * 2
    add("webp_animated_part", b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks)
    for orientation in (3, 6):
        add(f"webp_turned_{orientation}", saved(smooth, "WEBP", quality=80, exif=exif(orientation)))
        bare = exif(orientation).removeprefix(b"Exif\0\0")
        add(f"webp_turned_bare_{orientation}", saved(smooth, "WEBP", quality=80, exif=bare))


def gif() -> None:
    palette = Image.fromarray(RGB).quantize(200)
    add("gif_plain", saved(palette, "GIF", interlace=0))
    add("gif_interlaced", saved(palette, "GIF", interlace=1))
    add("gif_transparent", saved(palette, "GIF", interlace=1, transparency=7))
    add("gif_grey", saved(Image.fromarray(GREY), "GIF"))
    add("gif_two_colours", saved(Image.fromarray(BITS * 255).convert("1"), "GIF"))
    frames = [Image.fromarray(np.roll(RGB, shift, axis=0)).quantize(64) for shift in (0, 9, 17)]
    add("gif_animated", saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50, loop=0))
    # One frame of a file whose screen has another size: smaller, and larger, with and without a transparent colour.
    plain = saved(palette, "GIF", interlace=0)
    assert plain[:6] == b"GIF87a", plain[:6]
    for name, size in (("larger", (50, 40)), ("smaller", (20, 10))):
        add(f"gif_screen_{name}", plain[:6] + struct.pack("<HH", *size) + plain[10:])
    transparent = saved(palette, "GIF", interlace=0, transparency=7)
    add("gif_screen_larger_transparent", transparent[:6] + struct.pack("<HH", 50, 40) + transparent[10:])
    table = 13 + (3 << ((plain[10] & 7) + 1))
    moved = plain[: table + 1] + struct.pack("<HH", 5, 3) + plain[table + 5 :]
    assert plain[table : table + 1] == b","
    add("gif_moved", moved)
    # The palette belongs to the frame, and a comment and an unknown extension precede it.
    local = bytes([plain[10] & 7 | 0x80])
    extensions = b"!\xfe\x05hello\0" + b"!\x42\x02ab\x01c\0"
    header = plain[:10] + bytes([plain[10] & 0x70]) + plain[11:13]
    frame = plain[table : table + 9] + local + plain[13:table] + plain[table + 10 :]
    add("gif_local_palette", header + extensions + frame)


def bmp_file(width, height, bits, rows: bytes, palette=b"", compression=0, info=40, masks=b"", colors=0) -> bytes:
    if info == 12:
        head = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        head = struct.pack("<IiiHHIIiiII", info, width, height, 1, bits, compression, len(rows), 0, 0, colors, 0)
        head += masks[: info - 40].ljust(info - 40, b"\0")
        if info == 40:
            head += masks
    start = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + head + palette + rows


def padded(rows: np.ndarray) -> bytes:
    """Rows of bytes, each a multiple of four long."""
    return b"".join(row.tobytes().ljust(-(-len(row.tobytes()) // 4) * 4, b"\0") for row in rows)


def bmp() -> None:
    add("bmp_rgb", saved(Image.fromarray(RGB), "BMP"))
    add("bmp_palette", saved(Image.fromarray(RGB).quantize(200), "BMP"))
    add("bmp_grey", saved(Image.fromarray(GREY), "BMP"))
    add("bmp_bits", saved(Image.fromarray(BITS * 255).convert("1"), "BMP"))
    bgr = RGB[..., ::-1]
    add("bmp_top_down", bmp_file(WIDTH, -HEIGHT, 24, padded(bgr)))
    add("bmp_os2", bmp_file(WIDTH, HEIGHT, 24, padded(bgr[::-1]), info=12))
    bgrx = np.dstack([bgr, np.full((HEIGHT, WIDTH), 0, np.uint8)])
    add("bmp_32_bits", bmp_file(WIDTH, HEIGHT, 32, padded(bgrx[::-1])))
    bgra = np.dstack([bgr, ALPHA])
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    for info in (56, 108, 124):
        add(f"bmp_alpha_{info}", bmp_file(WIDTH, HEIGHT, 32, padded(bgra[::-1]), compression=3, info=info, masks=masks))
    add("bmp_masks", bmp_file(WIDTH, HEIGHT, 32, padded(bgrx[::-1]), compression=3, masks=masks[:12]))
    r, g, b = (RGB[::-1, :, c].astype(np.uint16) for c in range(3))
    short = (r >> 3) << 10 | (g >> 3) << 5 | b >> 3
    add("bmp_555", bmp_file(WIDTH, HEIGHT, 16, padded(short.astype("<u2"))))
    short, masks = (r >> 3) << 11 | (g >> 2) << 5 | b >> 3, struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    add("bmp_565", bmp_file(WIDTH, HEIGHT, 16, padded(short.astype("<u2")), compression=3, masks=masks))
    colors = [(index * 17, 255 - index * 16, index * 5) for index in range(16)]
    palette = b"".join(bytes([b, g, r, 0]) for r, g, b in colors)
    indices = (X + Y * 3) % 16
    pairs = np.pad(indices, ((0, 0), (0, 1))).reshape(HEIGHT, -1, 2)
    add("bmp_4_bits", bmp_file(WIDTH, HEIGHT, 4, padded((pairs[..., 0] << 4 | pairs[..., 1]).astype(np.uint8)[::-1]), palette))
    # Runs: of equal pixels, of others, and in the last row none, which leaves the first colour: black.
    black = bytes(4) + palette[4:]
    runs, rows = bytearray(), []
    for row in (X // 5 + Y) % 15 + 1:
        rows.append(row)
        runs += b"".join(bytes([4, value]) for value in row[:20:4]) + bytes([0, 17]) + bytes(row[20:].tolist()) + b"\0"
        rows[-1] = np.concatenate([np.repeat(row[:20:4], 4), row[20:]])
        runs += b"\0\0"
    rows, runs = rows[:-1] + [np.zeros(WIDTH, int)], runs[: runs.rindex(b"\0\0", 0, -2) + 2] + b"\0\1"
    table = np.array([(0, 0, 0)] + colors[1:], np.uint8)
    expected = table[np.array(rows)[::-1]]
    add("bmp_runs_8", bmp_file(WIDTH, HEIGHT, 8, bytes(runs), black, compression=1, colors=16), expected)
    runs, rows = bytearray(), []
    for row in (X // 6 + Y) % 15 + 1:
        pair = [row[0], row[-1]]
        literal = row[20:26]
        runs += bytes([20, pair[0] << 4 | pair[1], 0, 6])
        runs += bytes(int(literal[at] << 4 | literal[at + 1]) for at in (0, 2, 4)) + b"\0"
        runs += bytes([11, row[5] << 4 | row[5], 0, 0])
        rows.append(np.concatenate([np.tile(pair, 10), literal, np.repeat(row[5], 11)]))
    expected = table[np.array(rows)[::-1]]
    add("bmp_runs_4", bmp_file(WIDTH, HEIGHT, 4, bytes(runs + b"\0\1"), black, compression=2), expected)


def tifffile_bytes(values: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, metadata=None, **options)
    return file.getvalue()


def tiff() -> None:
    rgb, grey = Image.fromarray(RGB), Image.fromarray(GREY)
    for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits"):
        add(f"tiff_rgb_{name}", saved(rgb, "TIFF", compression=name))
        add(f"tiff_grey_{name}", saved(grey, "TIFF", compression=name))
    add("tiff_rgba", saved(Image.fromarray(RGBA), "TIFF", compression="tiff_lzw"))
    add("tiff_palette", saved(rgb.quantize(200), "TIFF", compression="tiff_lzw"))
    bits = Image.fromarray(BITS * 255).convert("1")
    add("tiff_bits", saved(bits, "TIFF"))
    add("tiff_bits_packbits", saved(bits, "TIFF", compression="packbits"))
    add("tiff_bits_fax", saved(bits, "TIFF", compression="group4"))
    strips = TiffImagePlugin.ImageFileDirectory_v2()
    strips[TiffImagePlugin.ROWSPERSTRIP] = 8
    add("tiff_strips", saved(rgb, "TIFF", compression="tiff_lzw", tiffinfo=strips))
    add("tiff_predictor", saved(rgb, "TIFF", compression="tiff_lzw", tiffinfo={317: 2}))
    for orientation in range(2, 9):
        add(f"tiff_turned_{orientation}", saved(rgb, "TIFF", tiffinfo={0x112: orientation}))
    add("tiff_cmyk", saved(rgb.convert("CMYK"), "TIFF", compression="tiff_lzw"))
    pages = [Image.fromarray(np.roll(RGB, shift, axis=0)) for shift in (9, 17)]
    add("tiff_pages", saved(rgb, "TIFF", save_all=True, append_images=pages))
    add("tiff_jpeg_rgb", saved(Image.fromarray(SMOOTH), "TIFF", compression="jpeg"))
    add("tiff_jpeg_grey", saved(Image.fromarray(SMOOTH[..., 1]), "TIFF", compression="jpeg"))
    add("tiff_jpeg_strips", saved(Image.fromarray(SMOOTH), "TIFF", compression="jpeg", tiffinfo={278: 16}))
    ycc = tifffile_jpeg(SMOOTH)
    add("tiff_jpeg_tiles", ycc)
    for order in ("<", ">"):
        name = "little" if order == "<" else "big"
        add(f"tiff_rgb16_{name}", tifffile_bytes(RGB16, byteorder=order, photometric="rgb"), of_16_bits(RGB16))
        add(f"tiff_palette_{name}", palette_tiff(order))
    grey16 = RGB16[..., 2]
    add("tiff_grey16", tifffile_bytes(grey16, photometric="minisblack"), of_16_bits(grey16))
    options = {"photometric": "minisblack", "predictor": True, "compression": "zlib"}
    add("tiff_grey16_predictor", tifffile_bytes(grey16, **options), of_16_bits(grey16))
    add("tiff_white_is_zero", tifffile_bytes(GREY, photometric="miniswhite"))
    add("tiff_white_is_zero16", tifffile_bytes(grey16, photometric="miniswhite"), of_16_bits(65_535 - grey16))
    planes = np.moveaxis(RGB, 2, 0)
    add("tiff_planar", tifffile_bytes(planes, photometric="rgb", planarconfig="separate"))
    add("tiff_planar_strips", tifffile_bytes(planes, photometric="rgb", planarconfig="separate", rowsperstrip=8))
    planes = np.moveaxis(RGB16, 2, 0)
    add("tiff_planar16", tifffile_bytes(planes, photometric="rgb", planarconfig="separate"), of_16_bits(RGB16))
    add("tiff_tiles", tifffile_bytes(RGB, photometric="rgb", tile=(16, 16), compression="zlib"))
    add("tiff_tiles_predictor", tifffile_bytes(RGB, photometric="rgb", tile=(16, 16), compression="zlib", predictor=True))
    grey_alpha = np.dstack([GREY, ALPHA])
    expected = np.dstack([GREY, GREY, GREY, ALPHA])
    add("tiff_grey_alpha", tifffile_bytes(grey_alpha, photometric="minisblack", extrasamples=["unassalpha"]), expected)
    add("tiff_extra", tifffile_bytes(RGBA, photometric="rgb", extrasamples=["unspecified"]))
    multiplied = RGBA.copy()
    multiplied[..., :3] = RGBA[..., :3].astype(int) * ALPHA[..., None] // 255
    add("tiff_premultiplied", tifffile_bytes(multiplied, photometric="rgb", extrasamples=["assocalpha"]))
    four = (X + Y * 3) % 16
    packed = np.pad(four, ((0, 0), (0, 1))).reshape(HEIGHT, -1, 2)
    packed = (packed[..., 0] << 4 | packed[..., 1]).astype(np.uint8).tobytes()
    add("tiff_grey4", directory_file("<", [(258, 3, [4]), (262, 3, [1])], packed), (four * 17).astype(np.uint8))
    add("tiff_grey4_white", directory_file(">", [(258, 3, [4]), (262, 3, [0])], packed), (255 - four * 17).astype(np.uint8))
    colors = RNG.integers(0, 256, (3, 16))
    palette = (320, 3, (colors * 257).flatten().tolist())
    expected = colors.T[four].astype(np.uint8)
    add("tiff_palette4", directory_file("<", [(258, 3, [4]), (262, 3, [3]), palette], packed), expected)


def refused() -> None:
    """Legal files that no decoder decodes. They have no pixels in files.bin."""
    none = np.zeros((0, 0, 4), np.uint8)
    planes = np.moveaxis(RGB, 2, 0)
    add("refused_planar_tiles", tifffile_bytes(planes, photometric="rgb", planarconfig="separate", tile=(16, 16)), none)
    add("refused_floats", tifffile_bytes(RGB.astype(np.float32) / 255, photometric="rgb"), none)
    add("refused_signed", tifffile_bytes(GREY.astype(np.int16), photometric="minisblack"), none)
    add("refused_32_bits", tifffile_bytes(GREY.astype(np.uint32), photometric="minisblack"), none)
    bands = np.dstack([GREY] * 5)
    add("refused_bands", tifffile_bytes(bands, photometric="minisblack", planarconfig="contig"), none)
    add("refused_zstd", saved(Image.fromarray(RGB), "TIFF", compression="zstd"), none)
    add("refused_big", tifffile_bytes(RGB, photometric="rgb", bigtiff=True), none)
    inside = saved(Image.fromarray(RGB), "PNG")
    add("refused_png_in_bmp", bmp_file(WIDTH, HEIGHT, 0, inside, compression=5), none)
    add("refused_os2_2_bmp", bmp_file(WIDTH, HEIGHT, 24, padded(RGB), info=64), none)


def directory_file(order: str, tags: list, data: bytes) -> bytes:
    """A TIFF file of one strip of one sample a pixel."""
    tags = [(256, 3, [WIDTH]), (257, 3, [HEIGHT]), (259, 3, [1]), (273, 4, [8]), (279, 4, [len(data)]), *tags]
    tags.sort()
    at = 8 + len(data) + len(data) % 2
    body, outside = struct.pack(order + "H", len(tags)), b""
    free = at + 2 + 12 * len(tags) + 4
    for tag, kind, values in tags:
        packed = struct.pack(f"{order}{len(values)}{'HI'[kind - 3]}", *values)
        body += struct.pack(order + "HHI", tag, kind, len(values))
        if len(packed) > 4:
            body += struct.pack(order + "I", free + len(outside))
            outside += packed
        else:
            body += packed.ljust(4, b"\0")
    start = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, at)
    return start + data.ljust(at - 8, b"\0") + body + bytes(4) + outside


def palette_tiff(order: str) -> bytes:
    indices = (X * Y % 200).astype(np.uint8)
    colors = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) * 7 % 256]).astype(np.uint16) * 257
    return tifffile_bytes(indices, byteorder=order, photometric="palette", colormap=colors)


def tifffile_jpeg(values: np.ndarray) -> bytes:
    """Tiles of 16 x 16 pixels, each a JPEG file without tables, which all share."""
    across, down = -(-WIDTH // 16), -(-HEIGHT // 16)
    padded_values = np.pad(values, ((0, down * 16 - HEIGHT), (0, across * 16 - WIDTH), (0, 0)), mode="edge")
    tiles, tables = [], b""
    for row in range(down):
        for column in range(across):
            tile = Image.fromarray(padded_values[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16].copy())
            file = saved(tile, "JPEG", quality=85, subsampling=2)
            # The signature of JFIF goes, and the tables to the other ones.
            segments, at = [], 2
            while file[at + 1] != 0xDA:
                end = at + 2 + int.from_bytes(file[at + 2 : at + 4], "big")
                segments.append((file[at + 1], file[at:end]))
                at = end
            tables = b"".join(data for marker, data in segments if marker in (0xDB, 0xC4))
            frame = b"".join(data for marker, data in segments if marker == 0xC0)
            tiles.append(b"\xff\xd8" + frame + file[at:])
    data = b"".join(tile + b"\0" * (len(tile) % 2) for tile in tiles)
    offsets, start = [], 8
    for tile in tiles:
        offsets.append(start)
        start += len(tile) + len(tile) % 2
    tables = b"\xff\xd8" + tables + b"\xff\xd9"
    entries = [
        (258, 3, [8, 8, 8]), (259, 3, [7]), (262, 3, [6]), (277, 3, [3]), (322, 3, [16]), (323, 3, [16]),
        (324, 4, offsets), (325, 4, [len(tile) for tile in tiles]), (530, 3, [2, 2]),
    ]  # fmt: skip
    at = 8 + len(data)
    tags = sorted([(256, 3, [WIDTH]), (257, 3, [HEIGHT]), *entries, (347, 7, tables)], key=lambda tag: tag[0])
    body, outside = struct.pack("<H", len(tags)), b""
    free = at + 2 + 12 * len(tags) + 4
    for tag, kind, content in tags:
        packed = bytes(content) if kind == 7 else struct.pack(f"<{len(content)}{'HI'[kind - 3]}", *content)
        body += struct.pack("<HHI", tag, kind, len(content))
        if len(packed) > 4:
            body += struct.pack("<I", free + len(outside))
            outside += packed + b"\0" * (len(packed) % 2)
        else:
            body += packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", at) + data + body + bytes(4) + outside


def main() -> None:
    webp()
    gif()
    bmp()
    tiff()
    refused()
    data, known, index = bytearray(), {}, []
    for name, file, expected in FILES:
        places = []
        for content in (file, expected.astype(np.uint8).tobytes()):
            if content not in known:
                known[content] = len(data)
                data += content
            places.append(f"{known[content]} {len(content)}")
        index.append(f"{name} {expected.shape[1]} {expected.shape[0]} {places[0]} {places[1]}")
    (HERE / "files.bin").write_bytes(data)
    (HERE / "index.txt").write_text("\n".join(index) + "\n")
    print(f"{len(index)} files, {len(data)} bytes")


if __name__ == "__main__":
    main()
