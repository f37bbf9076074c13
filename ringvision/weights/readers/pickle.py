"""Pickles of NumPy and JAX arrays (LWM's `vqgan`): a process of its own finds where the arrays lie, this one
reads them there.

In goes a path; out come tensors named by the keys of the dicts that hold them, joined by "/". Nothing is
unpickled, here or there, because unpickling a stranger's file runs what it says: unpickler.py says how.
"""

import math
from pathlib import Path

from ringvision.weights.readers.child import table_of
from ringvision.weights.readers.stored import Entry, StoredTensors, check_shape, check_sharing
from ringvision.weights.readers.weights_file import WeightsFile


def open_pickle(path: Path, memory: int) -> StoredTensors:
    """The arrays of a pickle. memory: bytes that the process that goes over it may use.

    Raises UserError for a pickle that is not sound.
    """
    file = WeightsFile(path)
    try:
        entries = {}
        for name, fields in table_of(file, memory, "pickle")["tensors"].items():
            spec = check_shape(file, name, fields["shape"], fields["dtype"])
            strides = None
            if fields["fortran"] and len(spec.shape) > 1 and spec.count:
                strides = tuple(math.prod(spec.shape[:axis]) for axis in range(len(spec.shape)))
            entries[name] = Entry(spec, ((fields["start"], fields["length"]),), strides, fields["text"])
        tensors = StoredTensors(file, "pickle", entries)
        check_sharing(file, entries)
        return tensors
    except BaseException:
        file.close()
        raise
