"""Run the state machines of ``test_state.py`` and ``test_trace_machine.py`` in turn for a while,
with new programs each time.

python tests/campaigns/states.py SECONDS
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

from test_state import Anything
from test_trace_machine import Traced

AT_ONCE = 50


def main(words: list[str]) -> int:
    """Run for as long as the *words* say; a failure ends it with its smallest program."""
    if len(words) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    begin = time.monotonic()
    rounds = 0
    while time.monotonic() - begin < float(words[0]):
        how = settings(max_examples=AT_ONCE, stateful_step_count=200, deadline=None, database=None)
        run_state_machine_as_test(Traced if rounds % 2 else Anything, settings=how)
        rounds += 1
    took = time.monotonic() - begin
    print(f"{rounds * AT_ONCE} programs of up to 200 steps in {took:.0f} s, nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
