"""``python -m pagefrag replay``: which pages, buffers and copybreak suit the traffic of a capture.

A capture's sizes and times drive the real allocator in the way of a ring, once for each setting
that is tried. `capture` reads the file, `traffic` keeps what is replayed, `ring` replays, `rivals`
tells what other schemes would hold, `advice` chooses, `pagemap`, `report` and `plot` show.
"""

from pagefrag.replay.job import Job, main

__all__ = ["Job", "main"]
