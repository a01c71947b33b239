#!/usr/bin/env python3
"""Makes the digits data set of this folder: 1,797 real handwritten digits as 8x8 greyscale PNG files.

    python3 datasets/digits/make.py            write train/ and test/ beside this file
    python3 datasets/digits/make.py --check    write nothing; fail if the files differ from what would be written
    python3 datasets/digits/make.py --csv F    take the CSV from F (digits.csv.gz) and download nothing

The digits come from the scikit-learn wheel, which ships them as a CSV; pip downloads it into a temporary folder. Only
Python's standard library is used besides. Every run writes the same bytes, whatever the version of Python or of zlib:
the image data is stored, not compressed, because how well a zlib compresses differs between builds of it (and 72 bytes
would gain next to nothing).
"""

import argparse
import csv
import gzip
import hashlib
import io
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib

SCIKIT_LEARN = "1.9.1"
CSV_IN_WHEEL = "sklearn/datasets/data/digits.csv.gz"
# Of the CSV, unpacked: the same in every scikit-learn release, so a change here means a change of the data itself.
CSV_SHA256 = "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"
# Of all files' paths and contents, in the order of `make`: what `--check` and a rerun are held against.
FILES_SHA256 = "8055fdc7e9f751edc899b6253f284c1de363b70e5fdc01d87d458d9698d58d29"

COUNT = 1797
SIDE = 8  # pixels, both ways
WHITE = 16  # the largest value in the CSV; the smallest is 0
TEST_EVERY = 5  # of each class, the 5th, 10th, ... go to test


def download_csv() -> bytes:
    """Gives the CSV, still packed, out of the scikit-learn wheel."""
    with tempfile.TemporaryDirectory(prefix="digits-") as folder:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
            + ["--only-binary=:all:", "--dest", folder, f"scikit-learn=={SCIKIT_LEARN}"],
            check=True,
        )
        (wheel,) = pathlib.Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(CSV_IN_WHEEL)


def read_digits(packed: bytes) -> list[tuple[int, list[int]]]:
    """Gives each digit's label and its 64 pixel values from 0 to 16, row by row from the top, in the CSV's order."""
    text = gzip.decompress(packed)
    found = hashlib.sha256(text).hexdigest()
    if found != CSV_SHA256:
        sys.exit(f"make.py: the CSV is not the expected one: sha256 {found}, wanted {CSV_SHA256}")
    digits = []
    for row in csv.reader(io.StringIO(text.decode("ascii"))):
        *pixels, label = [int(float(cell)) for cell in row]
        assert len(pixels) == SIDE * SIDE and 0 <= min(pixels) and max(pixels) <= WHITE and 0 <= label <= 9, row
        digits.append((label, pixels))
    assert len(digits) == COUNT, len(digits)
    return digits


def stored_zlib(data: bytes) -> bytes:
    """A zlib stream of one stored block, so that it is the same from any zlib."""
    assert len(data) < 65536
    block = struct.pack("<BHH", 1, len(data), len(data) ^ 0xFFFF) + data
    return b"\x78\x01" + block + struct.pack(">I", zlib.adler32(data))


def png(pixels: list[int]) -> bytes:
    """An 8-bit greyscale PNG of the 8x8 pixel values, 0 black and 16 white."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    grey = bytes((value * 255 + WHITE // 2) // WHITE for value in pixels)
    # Each row starts with its filter: 0, none.
    rows = b"".join(b"\0" + grey[start : start + SIDE] for start in range(0, len(grey), SIDE))
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", stored_zlib(rows)) + chunk(b"IEND", b"")


def make(digits: list[tuple[int, list[int]]]) -> dict[str, bytes]:
    """Gives every file's contents by its path, `train/7/0042.png`; the name is the digit's row in the CSV from 0."""
    seen = [0] * 10
    files = {}
    for index, (label, pixels) in enumerate(digits):
        seen[label] += 1
        split = "test" if seen[label] % TEST_EVERY == 0 else "train"
        files[f"{split}/{label}/{index:04}.png"] = png(pixels)
    return files


def digest(files: dict[str, bytes]) -> str:
    """One sha256 over all paths and contents."""
    total = hashlib.sha256()
    for path, contents in files.items():
        total.update(f"{path} {len(contents)}\n".encode() + contents)
    return total.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes the digits data set of this folder.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the files differ")
    parser.add_argument("--csv", type=pathlib.Path, help="a digits.csv.gz to take instead of downloading one")
    arguments = parser.parse_args()

    files = make(read_digits(arguments.csv.read_bytes() if arguments.csv else download_csv()))
    found = digest(files)
    if found != FILES_SHA256:
        sys.exit(f"make.py: the files would not be the expected ones: sha256 {found}, wanted {FILES_SHA256}")

    here = pathlib.Path(__file__).resolve().parent
    if arguments.check:
        present = {
            path.relative_to(here).as_posix(): path.read_bytes()
            for split in ("train", "test")
            for path in (here / split).rglob("*")
            if path.is_file()
        }
        differing = sorted(path for path in present.keys() | files.keys() if present.get(path) != files.get(path))
        if differing:
            sys.exit(f"make.py: {len(differing)} files differ, the first is {differing[0]}; run it without --check")
    else:
        for split in ("train", "test"):
            shutil.rmtree(here / split, ignore_errors=True)
        for path, contents in files.items():
            (here / path).parent.mkdir(parents=True, exist_ok=True)
            (here / path).write_bytes(contents)
    test = sum(path.startswith("test/") for path in files)
    print(f"{len(files)} digits: {len(files) - test} train, {test} test")


if __name__ == "__main__":
    main()
