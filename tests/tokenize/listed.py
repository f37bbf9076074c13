"""What the tests of inputs, listings and data sets are given: files that begin like videos, and manifests of
every kind.
"""

import csv
import json
import os

import pyarrow as pa
from pyarrow import parquet

GIF = b"GIF89a" + bytes(20)


def put(path, data=GIF):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def names(folder, sources):
    return [os.path.relpath(source.name, folder) for source in sources]


def write(path, rows):
    """Rows (dicts, qa a list of pairs) as a manifest of the kind that the path's suffix names."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".csv":
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(
                {name: json.dumps(value) if name == "qa" else value for name, value in row.items()}
                for row in rows
            )
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        parquet.write_table(pa.table({name: [row.get(name) for row in rows] for name in columns}), path)
    return path
