"""A ring that is collected while it is open warns, as a socket does, and does nothing worse."""

from __future__ import annotations

import gc
import re
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest

from pagefrag import RxRing, TxRing

Ring = RxRing | TxRing
KINDS: list[Callable[[socket.socket], Ring]] = [RxRing, TxRing]
BOTH = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@BOTH
def test_the_warning_names_the_ring(kind: type[Ring], sock: socket.socket) -> None:
    ring = kind(sock)
    name = repr(ring)
    with pytest.warns(ResourceWarning, match=re.escape(f"unclosed {name}")):
        del ring
    assert f"fd={sock.fileno()} " in name


@BOTH
def test_a_ring_that_was_closed_is_silent(kind: type[Ring], sock: socket.socket) -> None:
    ring = kind(sock)
    ring.close()
    with kind(sock):
        pass
    del ring
    gc.collect()  # any warning is an error here


@BOTH
def test_a_ring_that_found_its_socket_closed_is_silent(kind: type[Ring]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        ring = kind(sock)
    with pytest.raises(OSError, match="closed"):
        _ = ring.recv() if isinstance(ring, RxRing) else ring.send(b"")
    del ring
    gc.collect()


@BOTH
def test_a_ring_in_a_cycle_warns_when_it_is_found(kind: type[Ring]) -> None:
    class Mine(socket.socket):
        ring: Ring

    sock = Mine(socket.AF_INET, socket.SOCK_DGRAM)
    sock.ring = kind(sock)
    sock.close()
    del sock
    with pytest.warns(ResourceWarning, match=rf"unclosed <{kind.__name__} "):
        gc.collect()


@BOTH
def test_a_warning_that_is_an_error_is_told_and_not_raised(
    kind: type[Ring], sock: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda caught: told.append(caught.exc_type))
    ring = kind(sock)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del ring
    assert told == [ResourceWarning]


@BOTH
def test_an_exception_that_is_on_its_way_stays(kind: type[Ring], sock: socket.socket) -> None:
    # The operand goes while the error that it was the cause of is set.
    with pytest.warns(ResourceWarning, match="unclosed"), pytest.raises(TypeError, match="operand"):
        kind(sock) + 1  # type: ignore[operator]


LEFT = """
import socket, sys
from pagefrag import RxRing, TxRing
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ring = {kind}(sock)
sock.detach()
{keep}
"""
KEEP = {
    "a name of the module": "",
    "a module": "sys.modules['other'] = ring",
    "the interpreter": "sys.kept = ring",
    "a cycle": "held = [ring]; held.append(held); del ring, held; import gc; gc.disable()",
}


@pytest.mark.parametrize("keep", KEEP.values(), ids=KEEP)
@pytest.mark.parametrize("filtered", ["default", "error", "ignore"])
@BOTH
def test_the_end_of_the_interpreter_is_no_accident(
    kind: type[Ring], filtered: str, keep: str
) -> None:
    script = LEFT.format(kind=kind.__name__, keep=keep)
    command = [sys.executable, "-W", filtered, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # What is collected after the warnings are gone is silent; no traceback but the warning's own.
    lines = [line for line in done.stderr.splitlines() if "Exception ignored" not in line]
    assert all("ResourceWarning: unclosed <" in line for line in lines if line[:1].strip())
    if filtered == "ignore":
        assert done.stderr == ""
    elif not keep:
        assert f"ResourceWarning: unclosed <{kind.__name__} " in done.stderr
