"""The module belongs to the main interpreter; others are told so and disturb nobody."""

from __future__ import annotations

import subprocess
import sys

import pytest

REFUSED = """
try:
    import pagefrag
except ImportError as error:
    assert "main interpreter" in str(error) or "subinterpreters" in str(error), error
else:
    raise AssertionError("imported")
"""

PROGRAM = f"""
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

def refused():
    if sys.version_info >= (3, 13):
        other = interpreters.create("legacy")
        failed = interpreters.exec(other, REFUSED)
        assert failed is None, failed
    else:
        other = interpreters.create(isolated=False)
        interpreters.run_string(other, REFUSED)
    interpreters.destroy(other)

REFUSED = {REFUSED!r}
if sys.argv[1] == "before":
    refused()
import pagefrag
cache = pagefrag.PageFragCache()
kept = cache.alloc_many(100, 64)
refused()
del kept
frag = cache.alloc(9)
assert type(frag) is pagefrag.Fragment
pagefrag.netdev_alloc_skb(100).add_frag(frag)
cache.pool.audit()
"""


def run(*args: str) -> str:
    command = [sys.executable, *args]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_second_interpreter_cannot_load_it(when: str) -> None:
    assert run("-W", "ignore", "-c", PROGRAM, when) == ""
