"""Run a fuzzer that is led by coverage, and say in one line what it came to.

    python tests/campaigns/guided.py NAME SECONDS -- PROGRAM ARGUMENTS... [-- CORPUS...]

The program is one that libFuzzer is part of: a target of ``tests/fuzz``, or ``fuzz_python.py``. It
runs for so many seconds, beginning with the files of the CORPUS folders, which stay as they are. A
finding is shown as it says it, and the line is a failure.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile

DONE = re.compile(r"^Done (\d+) runs? in (\d+) second", re.MULTILINE)
COVERED = re.compile(r"^#\d+\s.* cov: (\d+) ", re.MULTILINE)


def told(name: str, status: int, said: str) -> str:
    """Return the line for a fuzzer that ended with *status* and *said* this."""
    done = DONE.search(said)
    if status != 0 or done is None:
        return f"{name}: a finding, or it did not run"
    edges = int([0, *COVERED.findall(said)][-1])
    led = f"{edges} edges reached" if edges else "not led by coverage"
    return f"{name}: {done[1]} runs in {done[2]} s, {led}, nothing found"


def main(words: list[str]) -> int:
    """Run what the *words* say."""
    match words:
        case [name, seconds, "--", *rest] if rest:
            ends = rest.index("--") if "--" in rest else len(rest)
            program, corpus = rest[:ends], rest[ends + 1 :]
            with tempfile.TemporaryDirectory() as found:
                # The first folder is where the fuzzer puts what it finds: never the corpus.
                flags = [f"-max_total_time={seconds}", f"-artifact_prefix={found}/", found]
                done = subprocess.run(
                    [*program, *flags, *corpus],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    check=False,
                    text=True,
                    errors="replace",
                )
            line = told(name, done.returncode, done.stdout)
            failed = done.returncode != 0 or DONE.search(done.stdout) is None
            if failed:
                print(done.stdout[-20_000:])
            print(line)
            return int(failed)
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
