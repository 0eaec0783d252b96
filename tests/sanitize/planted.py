"""Commit every fault that a sanitizer must find, and see that it finds each.

    python tests/sanitize/planted.py address|thread PROGRAM ARGUMENTS...

The program lists its faults when it is asked for them by the sanitizer's name, commits the one it
is asked for, and does the same things right when asked for ``sound-address`` or ``sound-thread``
(``faults.rs``). A fault that is not found is a failure: the sanitizer is not there. So is a report
where there is no fault.
"""

from __future__ import annotations

import os
import subprocess
import sys

SIGNS = {
    "address": "ERROR: AddressSanitizer: use-after-poison",
    "thread": "WARNING: ThreadSanitizer: data race",
}
OPTIONS = {"ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": "halt_on_error=1"}


def ask(program: list[str], word: str) -> tuple[int, str]:
    """Run *program* with *word*, and return its status and all that it said."""
    done = subprocess.run(
        [*program, word],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
        errors="replace",
        env={**OPTIONS, **os.environ},
    )
    return done.returncode, done.stdout


def missed(program: list[str], kind: str, names: list[str]) -> list[str]:
    """Return those of the faults called *names* that are not found."""
    left = []
    for name in names:
        status, said = ask(program, name)
        found = status != 0 and SIGNS[kind] in said
        print(f"{name}: {'found' if found else 'NOT FOUND'}", flush=True)
        if not found:
            left.append(name)
            print(said[-2000:])
    return left


def main(words: list[str]) -> int:
    """Do what the *words* say."""
    if len(words) < 2 or words[0] not in SIGNS:
        print(__doc__, file=sys.stderr)
        return 2
    kind, program = words[0], words[1:]
    status, said = ask(program, kind)
    names = said.split()
    left = missed(program, kind, names)
    sound, said = ask(program, f"sound-{kind}")
    told = said.strip().splitlines()[-1] if sound == 0 and said.strip() else "a false alarm"
    if sound != 0:
        print(said[-4000:])
    print(f"{len(names) - len(left)} of {len(names)} planted faults found; without one: {told}")
    return int(bool(status or sound or left or not names))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
