#!/usr/bin/env python3
"""Makes files.bin and index.txt: small JPEGs of many kinds, and what libjpeg-turbo decodes them to.

    python3 make.py            # needs a C compiler and libjpeg-turbo's header (Debian: libjpeg62-turbo-dev)

index.txt has a line for each file: its name, where it begins in files.bin, its length, and the same of its pixels (grey
or RGB, row after row). The name says colours, sampling factors by component, order of scans, restart interval and size.
Files that differ only in their scans have the same pixels. tests/it/jpegs.rs reads both.
"""

import itertools
import pathlib
import subprocess
import tempfile

HERE = pathlib.Path(__file__).parent
SIZES = [(37, 35), (7, 5)]
# Horizontal and vertical factor of each component.
SAMPLINGS = {
    "grey": "11 22 21 12 31 44",
    "ycc": "11,11,11 21,11,11 12,11,11 22,11,11 41,11,11 14,11,11 42,11,11 24,11,11 31,11,11 13,11,11 32,11,11 "
    "11,22,22 11,21,21 11,12,12 11,22,11 11,11,22 11,21,12 22,21,21 22,12,12 22,21,12 22,11,22 22,22,22 21,12,12 "
    "12,21,21 21,21,21 42,21,21 41,21,21 44,22,22 12,22,22",
    "ycc-bare": "11,11,11 22,11,11",
    "rgb": "11,11,11 22,11,11 11,12,12",
    "rgb-bare": "11,11,11 21,11,11",
    "cmyk": "11,11,11,11 22,11,11,22 11,11,11,22",
    "cmyk-bare": "11,11,11,11",
    "ycck": "11,11,11,11 22,11,11,22 21,11,11,21 22,21,12,22",
}
SCANS = "plain optimized separate reversed y_cc cc_y yc_c progressive spectral dc_separate ac_early".split()
GREY_SCANS = "plain progressive spectral dc_separate".split()
ARITHMETIC = [("ycc", "22,11,11", "a-plain"), ("ycc", "22,11,11", "a-progressive"), ("grey", "11", "a-plain")]


def kinds():
    restarts = itertools.cycle([0, 0, 3, 0, 1])
    for colour, samplings in SAMPLINGS.items():
        for sampling in samplings.split():
            for scan in GREY_SCANS if colour == "grey" else SCANS:
                yield colour, sampling, scan, SIZES[0], next(restarts)
            for scan in ("plain", "progressive"):
                yield colour, sampling, scan, SIZES[1], 0
    for colour, sampling, scan in ARITHMETIC:
        yield colour, sampling, scan, SIZES[0], 0


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        subprocess.run(["cc", "-O2", "-o", folder / "make", HERE / "make_jpegs.c", "-ljpeg", "-lm"], check=True)
        lines = [
            f"{colour}_{sampling.replace(',', '.')}_{scan}_r{restart}_{w}x{h} {w} {h} {colour} {sampling} {scan} {restart} 75"
            for colour, sampling, scan, (w, h), restart in kinds()
        ]
        subprocess.run([folder / "make", folder], input="\n".join(lines), text=True, check=True)
        data, known, index = bytearray(), {}, []
        for path in sorted(folder.glob("*.jpg")):
            places = []
            for content in (path.read_bytes(), path.with_suffix(".raw").read_bytes()):
                if content not in known:
                    known[content] = len(data)
                    data += content
                places.append(f"{known[content]} {len(content)}")
            index.append(" ".join([path.stem, *places]))
    (HERE / "files.bin").write_bytes(data)
    (HERE / "index.txt").write_text("\n".join(index) + "\n")
    print(f"{len(index)} files, {len(data)} bytes")


if __name__ == "__main__":
    main()
