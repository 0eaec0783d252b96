"""Fuzz targets in Python, led by the coverage of Python code and of the module (atheris).

    python tests/campaigns/fuzz_python.py TARGET [libFuzzer's flags] [CORPUS...]

``traces``: any bytes are a program, and the package does what the model says. The library of
``tests/faults`` is to be preloaded. ``captures``: any bytes are a file, and ``pagefrag replay``
reads them or says what is wrong with them. ``pickles``: any bytes are the state of a pickled batch
or fragment, which is refused or is one that can be looked at.

``make fuzz-python`` builds the module with counters of its edges, which atheris sees, and with
AddressSanitizer, which is told what is free (``rust/core/src/mem/poison.rs``).
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "python")]

# Only what is named is instrumented.
with atheris.instrument_imports(include=["traces.model", "pagefrag.replay", "dpkt", "pcapng"]):
    import dpkt.pcap  # noqa: F401 - its code is what is covered
    import pcapng.structs  # noqa: F401 - as above
    from traces import engine
    from traces.model import world

    import captures as files_of
    import pagefrag
    from pagefrag import _pagefrag
    from pagefrag.replay import job
    from pagefrag.replay.capture import CaptureError
    from pagefrag.replay.traffic import Traffic

PACKETS = [files_of.Packet(index * 1_000, 60 * index, 60 * index) for index in range(3)]


def trace(data: bytes) -> None:
    """The package and the model say the same."""
    for package, model in zip(
        engine.log(data).splitlines(), world.log(data).splitlines(), strict=True
    ):
        assert package == model, f"package: {package}\nmodel: {model}"


def capture(data: bytes) -> None:
    """A file is read, or refused with a reason."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(data)
        file.flush()
        with contextlib.suppress(CaptureError):
            job.read(Path(file.name), Traffic())


def fragment(given: atheris.FuzzedDataProvider) -> None:
    """A state is refused, or is a fragment over the very bytes."""
    version, readonly = given.ConsumeIntInRange(0, 2), given.ConsumeBool()
    step = given.ConsumeIntInRange(0, 3)
    text = given.ConsumeBytes(given.remaining_bytes())
    kinds = (text, bytearray(text), memoryview(text)[::step] if step else text.hex())
    carried = kinds[given.ConsumeIntInRange(0, 2) % 3 if text else 0]
    try:
        restored = _pagefrag._restore_fragment(version, carried, readonly)
    except (ValueError, TypeError, BufferError, pagefrag.PagefragError):
        return
    assert restored.tobytes() == bytes(carried)
    assert restored.readonly or isinstance(carried, bytearray)
    with memoryview(restored[1:]) as view:
        assert view == bytes(carried)[1:]
    restored.release()


def pickle(data: bytes) -> None:
    """A state is refused, or is a batch or a fragment."""
    given = atheris.FuzzedDataProvider(data)
    if given.ConsumeBool():
        fragment(given)
        return
    number = functools.partial(given.ConsumeIntInRange, 0)
    names = [given.ConsumeBytes(28) for _ in range(number(2))]
    runs = [bytearray(number(99)) for _ in range(number(2))]
    rows = []
    for _ in range(number(5)):
        # Small numbers, so that some are right.
        run, sender, flags = number(2), number(2), number(3)
        start, length, wire = number(99), number(99), number(99)
        rows.append(struct.pack("<6IqB", run, start, length, wire, sender, 0, 0, flags))
    version, table = number(2), b"".join(rows) + given.ConsumeBytes(given.remaining_bytes())
    try:
        batch = _pagefrag._restore_batch(version, table, names, 0, runs)
    except (ValueError, pagefrag.PagefragError):
        return
    for packet in batch:
        packet.tobytes()
    repr((batch, batch.addresses, list(batch.lengths), list(batch.timestamps or ())))
    batch.release()


def seeds(target: str) -> list[bytes]:
    """Return what the fuzzer begins with."""
    if target == "traces":
        return [file.read_bytes() for file in sorted((TESTS / "traces" / "corpus").iterdir())]
    if target == "captures":
        files = [files_of.classic(PACKETS, order, nano=nano) for order in "<>" for nano in (0, 1)]
        ticks = [files_of.Interface(6), files_of.Interface(0x80 | 6, offset=-500)]
        return files + [files_of.pcapng(PACKETS, order, ticks) for order in "<>"]
    return []


TARGETS: dict[str, Callable[[bytes], None]] = {
    "traces": trace,
    "captures": capture,
    "pickles": pickle,
}

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in TARGETS:
        first = Path(tempfile.mkdtemp())
        for number, text in enumerate(seeds(sys.argv[1])):
            (first / str(number)).write_bytes(text)
        atexit.register(shutil.rmtree, first)
        atheris.Setup([sys.argv[0], *sys.argv[2:], str(first)], TARGETS[sys.argv[1]])
        atheris.Fuzz()
    sys.exit(__doc__)
