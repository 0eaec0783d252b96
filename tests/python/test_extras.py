"""What needs a package that is not there says which extra brings it."""

from __future__ import annotations

import subprocess
import sys

import pytest

BATCH = """
import socket
import pagefrag
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 0))
sock.sendto(b"ping", sock.getsockname())
with sock, pagefrag.RxRing(sock) as ring:
    batch = ring.recv(timeout=60)
"""

DOORS = {
    "numpy": (BATCH + "batch.to_numpy()", "numpy"),
    "pyarrow": (BATCH + "batch.to_arrow()", "arrow"),
}


@pytest.mark.parametrize("package", DOORS)
def test_a_missing_package_is_named_with_its_extra(package: str) -> None:
    script, extra = DOORS[package]
    blocked = f"import sys; sys.modules[{package!r}] = None\n{script}"
    done = subprocess.run(
        [sys.executable, "-c", blocked], capture_output=True, text=True, check=False
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("ImportError: ")
    assert last.endswith(f"is not installed: pip install 'pagefrag[{extra}]'")
