#!/usr/bin/env python3
"""Makes labels.parquet: a table of labels with texts, numbers and lists.

    python3 -m venv VENV && VENV/bin/pip install pyarrow && VENV/bin/python make.py
"""

import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

table = pa.table(
    {
        "file": pa.array(["1.png", "2.png", "3.png"]),
        "label": pa.array(["cat", "dog", None]),
        "score": pa.array([0.1, 2.5, -3.0], pa.float32()),
        "count": pa.array([1, 2**53, 3], pa.int64()),
        "box": pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.5]], pa.list_(pa.float64())),
        "tags": pa.array([["sofa", "cat"], [], None], pa.list_(pa.string())),
    }
)
pq.write_table(table, pathlib.Path(__file__).parent / "labels.parquet", row_group_size=2, compression="snappy")
