"""Writes the inventory reports in tests/data/inventory: by Python's csv and by pyarrow, which share no code with the
reader, and what they hold as `expected.json`.

    pip install pyarrow && python tests/python/inventory_reports.py tests/data/inventory
"""

import base64
import csv
import datetime
import json
import pathlib
import random
import struct
import sys

import pyarrow as pa
import pyarrow.parquet as pq

UUID = "1a34f2e4-5612-4b45-961c-3d1a34f2e456"
SNAPSHOT = "2024-05-20T06-35"
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
CLASSES = ["STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE", "MULTI_REGIONAL"]
ODD = [
    "train/a,b.png",
    'train/say "hi".png',
    'train/"quoted"',
    "train/;semi|pipe\ttab",
    "train/été/naïve.png",
    "train/日本語/猫.png",
    "train/😀.png",
    "train//empty segment",
    "train/../up",
    "train/ leading and trailing ",
    "train/'single'\\back\\slash",
    "train/" + "x" * 1018,
    "train/=1+1",
    "train/#hash",
    "train/\u2028line separator",
    "train/\x01control",
]


def rows():
    source = random.Random(7)
    names = ODD + [f"train/{index:05}.bin" for index in range(180)] + [f"test/{index:03}.bin" for index in range(20)]
    for index, name in enumerate(names):
        size = 0 if index % 17 == 0 else source.randrange(1, 1 << 40)
        yield {
            "project": 123456789012,
            "bucket": "cats",
            "name": name,
            "location": "US-CENTRAL1",
            "size": size,
            "timeCreated": moment(source),
            "timeDeleted": moment(source) if index % 23 == 5 else None,
            "updated": moment(source),
            "storageClass": CLASSES[index % len(CLASSES)],
            "etag": f"CK{index}EAE=",
            "crc32c": None if index % 29 == 3 else source.randrange(1 << 32) if size else 0,
            "generation": 1_716_000_000_000_000 + index,
            "metageneration": 1,
            "contentType": "image/png; charset=\"x, y\"",
            "contentEncoding": "gzip" if index % 11 == 2 else None,
        }
    # Rows of another bucket, as in a report that was put together.
    for index in range(5):
        yield {"bucket": "dogs", "name": f"train/dog{index}", "size": 1, "generation": 1_716_000_000_000_000, "project": 1}


def moment(source):
    return EPOCH + datetime.timedelta(microseconds=1_600_000_000_000_000 + source.randrange(10**14))


def crc(value):
    return None if value is None else base64.b64encode(struct.pack(">I", value)).decode()


def text(value):
    if value is None:
        return ""
    if isinstance(value, datetime.datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return str(value)


FIELDS = [
    "project", "bucket", "name", "location", "size", "timeCreated", "timeDeleted", "updated", "storageClass", "etag",
    "crc32c", "generation", "metageneration", "contentType", "contentEncoding",
]  # fmt: skip


def write_csv(path, part, fields, **options):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, **options)
        writer.writerow(fields)
        for row in part:
            writer.writerow([text(crc(row.get(field)) if field == "crc32c" else row.get(field)) for field in fields])


def write_parquet(path, part, fields, **options):
    time = pa.timestamp("us", tz="UTC")
    types = {"size": pa.int64(), "generation": pa.int64(), "metageneration": pa.int64(), "project": pa.int64()}
    types |= {"timeCreated": time, "timeDeleted": time, "updated": time}
    columns = []
    for field in fields:
        values = [crc(row.get(field)) if field == "crc32c" else row.get(field) for row in part]
        columns.append(pa.array(values, types.get(field, pa.string())))
    pq.write_table(pa.table(columns, names=fields), path, **options)


def manifest(path, shards, count):
    said = {
        "report_config": {"display_name": "daily", "csv_options": {"delimiter": ",", "header_required": True}},
        "records_processed": count,
        "snapshot_time": "2024-05-20T06:35:00Z",
        "shard_count": len(shards),
        "report_shards_file_names": shards,
    }
    path.write_text(json.dumps(said, indent=1))


def thirds(all_rows):
    return [all_rows[:80], all_rows[80:150], all_rows[150:]]


def main(root):
    all_rows = list(rows())
    key = f"{UUID}_{SNAPSHOT}"
    variants = {
        "csv": [
            dict(fields=FIELDS, lineterminator="\n"),
            dict(fields=FIELDS, lineterminator="\r\n", quoting=csv.QUOTE_ALL),
            dict(fields=FIELDS[::-1], lineterminator="\n", delimiter="|"),
        ],
        "parquet": [
            dict(fields=FIELDS, compression="snappy"),
            dict(fields=FIELDS, compression="gzip", data_page_version="2.0", row_group_size=20),
            dict(fields=FIELDS[::-1], compression="none", use_dictionary=False, use_deprecated_int96_timestamps=True),
        ],
    }
    for extension, write in [("csv", write_csv), ("parquet", write_parquet)]:
        folder = root / extension
        folder.mkdir(parents=True, exist_ok=True)
        shards = []
        for index, (part, options) in enumerate(zip(thirds(all_rows), variants[extension])):
            shards.append(f"{key}_{index}.{extension}")
            write(folder / shards[-1], part, **options)
        manifest(folder / f"{key}_manifest.json", shards, len(all_rows))
    live = [row for row in all_rows if row["bucket"] == "cats" and row["timeDeleted"] is None]
    expected = [
        {
            "name": row["name"],
            "size": row["size"],
            "generation": row["generation"],
            "crc32c": row["crc32c"],
            "class": row["storageClass"],
            "encoded": row["contentEncoding"] is not None,
            "updated": (row["updated"] - EPOCH) // datetime.timedelta(microseconds=1),
        }
        for row in live
    ]
    (root / "expected.json").write_text(json.dumps(expected, indent=0, ensure_ascii=False))
    big = sys.argv[2:]
    if big:
        million(pathlib.Path(big[0]), int(big[1]))


def million(root, count):
    """Shards of `count` rows each, for measuring."""
    root.mkdir(parents=True, exist_ok=True)
    part = []
    source = random.Random(1)
    for index in range(count):
        row = {
            "project": 123456789012, "bucket": "cats", "name": f"train/class-{index % 1000:04}/image-{index:09}.jpeg",
            "location": "US-CENTRAL1", "size": source.randrange(1 << 20), "timeCreated": moment(source),
            "updated": moment(source), "storageClass": "STANDARD", "etag": f"CKih16Gr{index}EAE=",
            "crc32c": source.randrange(1 << 32), "generation": 1_716_000_000_000_000 + index * 1000,
            "metageneration": 1, "contentType": "image/jpeg",
        }  # fmt: skip
        part.append(row)
    write_csv(root / "million_0.csv", part, FIELDS, lineterminator="\n")
    write_parquet(root / "million_0.parquet", part, FIELDS, compression="snappy")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
