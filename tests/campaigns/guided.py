"""Run a fuzzer that is led by coverage, and say in one line what it came to.

    python tests/campaigns/guided.py NAME SECONDS [--native] -- PROGRAM ARGUMENTS... [-- CORPUS...]

The program is one that libFuzzer is part of: a target of ``tests/fuzz``, or ``fuzz_python.py``. It
runs for so many seconds, beginning with the files of the CORPUS folders, which stay as they are. A
finding is shown as it says it and kept in ``FINDS``, and the line is a failure. With ``--native``
so is a run in which the fuzzer found no edges of native code to count: the module was built without
counters.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FINDS = Path("finds")
"""Where a finding is kept, below the working directory; a trace goes into the corpus from there."""

DONE = re.compile(r"^Done (\d+) runs? in (\d+) second", re.MULTILINE)
LOADED = re.compile(r"^INFO: Loaded \d+ modules? +\((\d+) inline 8-bit counters\)", re.MULTILINE)
COVERED = re.compile(r"^#\d+\s.* cov: (\d+) ", re.MULTILINE)


def told(name: str, status: int, said: str, *, native: bool = False) -> tuple[str, bool]:
    """Return the line for a fuzzer that ended with *status* and *said* this, and if all is well."""
    done = DONE.search(said)
    if status != 0 or done is None:
        return f"{name}: a finding, or it did not run", False
    counters = sum(map(int, LOADED.findall(said)))
    if native and not counters:
        return f"{name}: no edges of native code were counted", False
    edges = int([0, *COVERED.findall(said)][-1])
    led = f"{edges} edges reached" if edges else "not led by coverage"
    if native:
        led += f", {counters} counted in native code"
    return f"{name}: {done[1]} runs in {done[2]} s, {led}, nothing found", True


def kept(folder: str) -> list[Path]:
    """Keep what a fuzzer left in *folder* as a finding, and return where it is now."""
    places = []
    for file in sorted(Path(folder).glob("*-*")):
        FINDS.mkdir(exist_ok=True)
        places.append(Path(shutil.move(file, FINDS / file.name)))
    return places


def run(name: str, seconds: str, command: list[str], *, native: bool) -> int:
    """Run the *command*, behind whose ``--`` is the corpus."""
    ends = command.index("--") if "--" in command else len(command)
    program, corpus = command[:ends], command[ends + 1 :]
    with tempfile.TemporaryDirectory() as found:
        # The first folder is where the fuzzer puts what it finds: never the corpus.
        new = Path(found, "new")
        new.mkdir()
        flags = [f"-max_total_time={seconds}", f"-artifact_prefix={found}/", str(new)]
        done = subprocess.run(
            [*program, *flags, *corpus],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            text=True,
            errors="replace",
        )
        finds = kept(found)
    line, success = told(name, done.returncode, done.stdout, native=native)
    if not success:
        print(done.stdout[-20_000:])
        line += "".join(f", kept as {find}" for find in finds)
    print(line)
    return int(not success)


def main(words: list[str]) -> int:
    """Run what the *words* say."""
    match words:
        case [name, seconds, "--", *command] if command:
            return run(name, seconds, command, native=False)
        case [name, seconds, "--native", "--", *command] if command:
            return run(name, seconds, command, native=True)
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
