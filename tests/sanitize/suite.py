"""Run tests, of Rust or of Python, under a sanitizer, and say in one line what came of it.

    python tests/sanitize/suite.py COMMAND ARGUMENTS...

Repeats what the command says. A sanitizer's report ends the test program that it comes from, so it
shows as a failure; so does a run in which no test ran.
"""

from __future__ import annotations

import re
import subprocess
import sys

RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed", re.MULTILINE)
# The last line of pytest, which tells of failures first.
PYTEST = re.compile(r"^(?:\d+ failed, )?(\d+) passed\b.* in [\d.]+s", re.MULTILINE)
FAILED = re.compile(r"^(\d+) failed\b.* in [\d.]+s", re.MULTILINE)
REPORT = re.compile(r"(?:ERROR|WARNING): (?:Address|Leak|Thread)Sanitizer")


def told(said: str) -> tuple[str, bool]:
    """Return the line for a command that *said* this, and whether it tells of success."""
    results = [(int(passed), int(failed)) for passed, failed in RESULT.findall(said)]
    results += [(int(passed), 0) for passed in PYTEST.findall(said)]
    results += [(0, int(failed)) for failed in FAILED.findall(said)]
    passed, failed = (sum(column) for column in zip(*results, strict=True)) if results else (0, 0)
    reports = len(REPORT.findall(said))
    line = f"{passed} tests passed, {failed} failed, {reports} reports of the sanitizer"
    return line, bool(passed) and not failed and not reports


def main(command: list[str]) -> int:
    """Run *command*."""
    if not command:
        print(__doc__, file=sys.stderr)
        return 2
    lines = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    line, success = told("".join(lines))
    print(line)
    return process.returncode or int(not success)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
