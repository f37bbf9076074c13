"""Records that other programs wrote, by number: text files, JSON lines, Parquet, Arrow, TFDS.

opening.py       a path, pattern or name -> Records
base.py          Records: what every format gives; and several files as one
byte_files.py    a file's bytes from any place on, gzip's as well
pieces.py        a file cut at a separator: where each piece begins
text_files.py    a record a file, a piece between separators, or a line of JSON
tables.py        Arrow files as `datasets` saves them, and Parquet through them
tfds_records.py  the examples of a data set that TFDS prepared

Opening a source reads it once and keeps an index in memory, whose size is bounded (128 MB, for gzip 350 MB,
whatever the number of records): an index on disk could belong to another state of the files. Only Parquet,
which knows no way to a single row, is copied: small files into memory, larger ones into the cache folder.
"""

from ringvision.data.records.base import Records
from ringvision.data.records.opening import open_records

__all__ = ["Records", "open_records"]
