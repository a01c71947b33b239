#!/usr/bin/env python3
"""Makes the files of corpus/ that Python can make; examples/seeds.rs makes the others.

    tests/fuzz/make_corpus.py && cargo run --manifest-path tests/fuzz/Cargo.toml --example seeds
"""

import bz2
import gzip
import io
import json
import lzma
import pathlib
import struct
import zipfile
import zlib

HERE = pathlib.Path(__file__).parent
DATA = HERE.parent / "data"


def write(target, name, data):
    assert len(data) < 8192, (target, name, len(data))
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, color, before=(), interlaced=0, claimed=None):
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    row = bytes(range(256)) * (width * channels * depth // 2048 + 1)
    row = row[: (width * channels * depth + 7) // 8]
    pixels = b"".join(bytes([y % 5]) + row for y in range(height))
    size = claimed or (width, height)
    header = struct.pack(">IIBBBBB", *size, depth, color, 0, 0, interlaced)
    chunks = [chunk(b"IHDR", header), *before, chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def exif(orientation):
    return b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)


palette = chunk(b"PLTE", bytes(range(48)))
write("png", "gray", png(9, 7, 8, 0))
write("png", "bits", png(9, 7, 1, 0))
write("png", "deep", png(5, 4, 16, 2))
write("png", "palette", png(9, 7, 4, 3, [palette, chunk(b"tRNS", b"\x80\x10")]))
write("png", "turned", png(9, 7, 8, 2, [chunk(b"eXIf", exif(6))]))
write("png", "alpha", png(6, 6, 8, 6, interlaced=0))
write("png", "claims", png(9, 7, 8, 0, claimed=(60_000, 60_000)))
write("png", "avif", b"\0\0\0\x20ftypavif")

jpegs = (DATA / "jpegs/files.bin").read_bytes()
seen = set()
for line in reversed((DATA / "jpegs/index.txt").read_text().splitlines()):
    name, start, length, *_ = line.split()
    kinds = {name.split("_")[0], name.split("_")[2]}
    if int(length) < 1500 and not kinds <= seen:
        seen |= kinds
        write("jpeg", name, jpegs[int(start) : int(start) + int(length)])
huge = bytes.fromhex("ffd8ffc0000b08ea60ea6001011100ffda0008010100003f00")
write("jpeg", "claims", huge)


images = (DATA / "images/files.bin").read_bytes()
for line in (DATA / "images/index.txt").read_text().splitlines():
    name, _, _, start, length, *_ = line.split()
    if int(length) < 1500 and "turned" not in name:
        write("image_formats", name, images[int(start) : int(start) + int(length)])


def npy(descr, fortran, shape, data, version=1):
    header = f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + data


floats = npy("<f4", False, (2, 3), struct.pack("<6f", *range(6)))
write("npy", "floats", floats)
write("npy", "halves", npy("<f2", True, (2, 3), bytes(12)))
write("npy", "integers", npy(">i8", True, (3,), struct.pack(">3q", 1, -2, 3), version=2))
write("npy", "scalar", npy("<i8", False, "()", bytes(8), version=3))
write("npy", "claims", npy("<f4", False, (1 << 40, 1 << 20), b""))
write("npy", "objects", npy("|O", False, (1,), b"\x80\x03N."))

for name, method in [("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)]:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for member in ["x.npy", "y.npy"]:
            archive.writestr(zipfile.ZipInfo(member), floats, method)
    write("npz", name, file.getvalue())
file = io.BytesIO()
with zipfile.ZipFile(file, "w") as archive, archive.open(zipfile.ZipInfo("x.npy"), "w", force_zip64=True) as member:
    member.write(floats)
write("npz", "wide", file.getvalue())

for name, tensors in {
    "floats": {"x": ("F32", [2, 3], 24), "y": ("BF16", [2], 4)},
    "integers": {"x": ("U8", [3], 3), "z": ("I64", [], 8)},
    "claims": {"x": ("F32", [1 << 60, 1 << 60], 4)},
}.items():
    entries, end = {"__metadata__": {"format": "pt"}}, 0
    for tensor, (dtype, shape, size) in tensors.items():
        entries[tensor] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(entries).encode()
    write("safetensors", name, struct.pack("<Q", len(header)) + header + bytes(end))
write("safetensors", "length", struct.pack("<Q", 1 << 60) + b"{}")

write("json", "object", b'\xef\xbb\xbf{"text": "M\\u00e4use", "tokens": [1, -2.5e3, null, true, {"a": []}]}')
write("json", "deep", b"[" * 200)
write("csv", "quoted", 'name,x\r\n"Mäuse, ""two""",1\r\n,-2.5\r\n'.encode())
write("csv", "tabs", b"1\t2\n3\tNaN\n\n")
write("csv", "open", b'a,b\n"1,2\n3,4\n')
write("text", "words", "Mäuse\r\n\0".encode())
write("text", "cut", b"cats: M\xc3")


def wav(tag, channels, bits, data, extra=b"", claimed=None):
    frame = channels * bits // 8
    fmt = struct.pack("<HHIIHH", tag, channels, 16_000, 16_000 * frame, frame, bits) + extra
    chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt
    chunks += b"LIST" + struct.pack("<I", 3) + b"cat\0"
    chunks += b"data" + struct.pack("<I", len(data) if claimed is None else claimed) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


write("wav", "integers", wav(1, 2, 16, bytes(range(40))))
write("wav", "bytes", wav(1, 1, 8, bytes(range(40))))
write("wav", "wide", wav(1, 1, 24, bytes(range(39))))
write("wav", "floats", wav(3, 2, 32, struct.pack("<4f", 0.5, -1, 0.25, 0)))
extensible = struct.pack("<HHI", 22, 16, 4) + bytes.fromhex("0100000000001000800000aa00389b71")
write("wav", "extensible", wav(0xFFFE, 1, 16, bytes(6), extensible))
write("wav", "piped", wav(1, 1, 16, bytes(6), claimed=0xFFFFFFFF))
write("wav", "law", wav(6, 1, 8, bytes(6)))

sine = (DATA / "audio/sine.flac").read_bytes()
write("flac", "sine", sine)
write("flac", "unknown", sine[:21] + bytes([sine[21] & 0xF0]) + bytes(20) + sine[42:])
write("flac", "cut", sine[:500])

text = b"meow " * 50
# As zstd and brotli wrote them; src/encoding/tests.rs has the same.
zstd = bytes.fromhex("28b52ffd24fa650000286d656f772001007250450bf5671ded")
brotli = bytes.fromhex("1bf900f88d946edeb404296babb7bb582d0a789d00")
xz_filters = [{"id": lzma.FILTER_DELTA, "dist": 4}, {"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 6}]
compressed = {
    0: {
        "gzip": gzip.compress(text, mtime=0),
        "members": gzip.compress(text, mtime=0) + gzip.compress(b"", mtime=0) + bytes(9),
        "named": b"\x1f\x8b\x08\x1e" + bytes(6) + b"\x04\0name" + b"name\0note\0" + bytes(2) + zlib.compress(text)[2:-4],
    },
    1: {"zlib": zlib.compress(text), "raw": zlib.compress(bytes(range(256)), 0)},
    2: {"zstd": zstd, "frames": b"\x53\x2a\x4d\x18\x02\0\0\0\7\7" + zstd + zstd},
    3: {"bzip2": bz2.compress(text), "streams": bz2.compress(text) + bz2.compress(b"")},
    4: {
        "xz": lzma.compress(text),
        "filters": lzma.compress(text, filters=xz_filters),
        "crc": lzma.compress(text, check=lzma.CHECK_CRC32) * 2 + bytes(4),
    },
    5: {"brotli": brotli},
}
for first, files in compressed.items():
    for name, data in files.items():
        write("decompress", name, bytes([first]) + data)

page = {
    "items": [
        {"name": "p/cat/1.png", "size": "9", "generation": "1", "crc32c": "AAAAAA==", "storageClass": "STANDARD"},
        {"name": "p/d\u00f6g/\ud83d\ude00", "size": "18446744073709551615", "generation": "-1", "contentEncoding": "gzip"},
    ],
    "prefixes": ["p/", "q/"],
    "nextPageToken": "abc=",
}
write("listing", "page", json.dumps(page).encode())
write("listing", "empty", b"{}")
write("listing", "error", b'{"error": {"code": 403, "message": "no"}}')

write("inventory_csv", "rows", b"bucket,name,size,generation\r\ncats,train/tom.png,9,1\r\ncats,test/tim.png,8,2\r\n")
write(
    "inventory_csv",
    "columns",
    b'project,bucket,name,size,generation,timeDeleted,crc32c,storageClass,contentEncoding\n'
    b'1,cats,"train/a,""b"".png",9,1,,AAAAAA==,STANDARD,gzip\n1,cats,train/b,9,2,2024-05-20 06:35:00 UTC,,ARCHIVE,\n',
)
reports = sorted((DATA / "inventory/csv").glob("*_0.csv"))
write("inventory_csv", "report", b"".join(reports[0].read_bytes().splitlines(keepends=True)[:12]))

table = json.loads((HERE.parent.parent / "src/plan/cost/prices.json").read_bytes())
write("prices", "table", json.dumps(table, separators=(",", ":")).encode())
write("transform", "zeros", bytes(200))
write("transform", "counting", bytes(range(256)))
write("transform", "floats", struct.pack("<40d", *(index / 20 for index in range(40))))
