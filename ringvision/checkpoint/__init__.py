"""The state of a training run on disk, for the run itself to resume from: checksummed, written in the
background, whole or not there at all, on one process and on several.

checkpoints.py  the steps of a run: saved, kept, restored, a damaged one passed over
arrays.py       the arrays of one process <-> a file of their bytes and a table of where each lies
manifest.py     the checksums of a step's files

    step-00001000/
      arrays-00000-of-00002.{bin,json}  what process 0 had of the arrays; the table
      arrays-00001-of-00002.{bin,json}
      notes-0000[01]-of-00002.json      what else each process must know to go on
      sha256.json                       checksums of all these, and its own; written last

Orbax, which is made for this, was tried first (0.12.8). A write that fails on one process is heard of by the
others only when a barrier gives up, after 95 seconds (findings/orbax_failed_write.sh); and it keeps no
checksums, so all files would have to be read again by one process to have some. Here the processes exchange
how their writing went, and each takes the checksums of its bytes as it writes them.
"""

from ringvision.checkpoint.checkpoints import Checkpoints, Restored

__all__ = ["Checkpoints", "Restored"]
