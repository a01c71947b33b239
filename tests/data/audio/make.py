#!/usr/bin/env python3
"""Makes sine.flac: 1,000 frames of two channels at 16 kHz. Wants ffmpeg."""

import math
import pathlib
import struct
import subprocess

frames = b"".join(
    struct.pack("<hh", round(value * 32767), round(value * 32767 / 2))
    for value in (0.8 * math.sin(0.05 * frame) for frame in range(1000))
)
source = ["-f", "s16le", "-ar", "16000", "-ac", "2", "-i", "-"]
target = pathlib.Path(__file__).parent / "sine.flac"
subprocess.run(["ffmpeg", "-y", "-loglevel", "error", *source, target], input=frames, check=True)

# Only the first block of the header is kept; the others are a comment and 8 KiB of padding.
file = target.read_bytes()
end = 4
is_last = False
while not is_last:
    is_last = file[end] >= 0x80
    end += 4 + int.from_bytes(file[end + 1 : end + 4], "big")
target.write_bytes(b"fLaC\x80" + file[5:42] + file[end:])
