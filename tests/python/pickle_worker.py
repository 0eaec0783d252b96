"""What other processes do with a fragment or a batch that was sent to them."""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

from pagefrag import Batch, Fragment


def described(thing: Batch | Fragment) -> Any:
    if isinstance(thing, Fragment):
        return thing.tobytes(), thing.readonly
    return [frag.tobytes() for frag in thing], thing.addresses, list(thing.timestamps)


def answer(pipe: Connection) -> None:
    """Describe what comes and send it back, until nothing comes."""
    while (thing := pipe.recv()) is not None:
        pipe.send((described(thing), thing))
