"""Cuts photographs of 500 x 375 pixels from those that scikit-image and scikit-learn ship.

    decode_photos.py WHEELS FOLDER

Reads the wheels in the one folder and writes JPEG files of quality 90 into the other. For scripts/bench-decode.
"""

import glob
import io
import sys
import zipfile

from PIL import Image

WIDTH, HEIGHT = 500, 375
PHOTOS = ["astronaut.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg", "retina.jpg", "china.jpg", "flower.jpg"]


def main() -> None:
    wheels, folder = sys.argv[1:]
    count = 0
    for wheel in sorted(glob.glob(f"{wheels}/*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                name = member.rsplit("/", 1)[-1]
                if name not in PHOTOS:
                    continue
                photo = Image.open(io.BytesIO(archive.read(member))).convert("RGB")
                right, below = photo.width - WIDTH, photo.height - HEIGHT
                for left, top in [(0, 0), (right // 2, below // 2), (right, below)]:
                    part = photo.crop((left, top, left + WIDTH, top + HEIGHT))
                    part.save(f"{folder}/{count:02}-{name.split('.')[0]}.jpg", quality=90)
                    count += 1
    if count < 12:
        sys.exit(f"only {count} photographs were cut: the wheels have others than {', '.join(PHOTOS)}")
    print(f"{count} photographs", file=sys.stderr)


if __name__ == "__main__":
    main()
