"""Build the wheels, install each where nothing else is, and use it.

    python tests/campaigns/wheel.py

Of each kind of wheel: it imports without a warning from where it was installed, receives a packet
and shows it to NumPy's protocol, answers on the command line, carries its licences and its types;
``mypy --strict`` accepts a program that uses it, ``stubtest`` compares the stubs that it carries
with the module that it carries, and pyright knows the type of every public name. The last line says
what was built.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benches" / "python"))

import wheels  # noqa: E402 - found through the line above

USER = '''
"""A user's program."""

import socket
import sys

import pagefrag


def receive() -> bytes:
    """Receive one packet."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        sender.sendto(b"from a wheel", receiver.getsockname())
        with pagefrag.RxRing(receiver) as ring, ring.recv(timeout=60.0) as batch:
            fragment: pagefrag.Fragment = batch[0]
            with memoryview(fragment) as view:
                assert list(batch.lengths) == [view.nbytes]
            return fragment.tobytes()


assert receive() == b"from a wheel"
assert (pagefrag.__file__ or "").startswith(sys.prefix), pagefrag.__file__
pool = pagefrag.PagePool(max_bytes=2 << 20)
kept: list[pagefrag.Fragment] = pagefrag.PageFragCache(pool).alloc_many(64, pool.page_size)
kept.clear()
pool.trim()
assert pool.audit().regions_mapped == 0
'''


def carries(wheel: Path) -> None:
    """Look into the *wheel*."""
    names = {Path(name).name for name in zipfile.ZipFile(wheel).namelist()}
    missing = {"py.typed", "_pagefrag.pyi", "LICENSE-MIT", "LICENSE-APACHE", "METADATA"} - names
    if missing:
        raise FileNotFoundError(f"{wheel.name} lacks {', '.join(sorted(missing))}")


def types(found: wheels.Installed, program: Path) -> None:
    """Check a user's *program* and the stubs against what the wheel brings."""
    tools = Path(sys.executable).parent
    mypy = [tools / "mypy", "--strict", "--python-executable", found.python, program.name]
    subprocess.run(mypy, cwd=program.parent, check=True)
    # stubtest imports the module into its own process, so the wheel comes to it. Not as an
    # installed package, which mypy would not have on its path.
    beside = program.parent / found.kind
    wheels.install(found.wheel, "--isolated", "--no-input", "--target", beside)
    words = os.environ | {"MYPYPATH": str(beside), "PYTHONPATH": str(beside)}
    where = "import pagefrag._pagefrag as module; print(module.__file__)"
    asked = subprocess.run(
        [sys.executable, "-c", where], env=words, cwd=beside, stdout=subprocess.PIPE, check=True
    )
    if not asked.stdout.decode().startswith(str(beside)):
        raise RuntimeError(f"stubtest would look at {asked.stdout.decode()}")
    allowed = ROOT / "tests" / "python" / "stubtest.txt"
    options = ["--allowlist", allowed, "--ignore-unused-allowlist"]
    stubtest = [tools / "stubtest", "pagefrag", *options]
    subprocess.run(stubtest, cwd=beside, env=words, check=True)
    # pyright looks at what the first Python of the path has installed.
    environment = found.python.parents[1]
    path = f"{found.python.parent}:{os.environ.get('PATH', '')}"
    words = os.environ | {"PATH": path, "VIRTUAL_ENV": str(environment)}
    pyright = [tools / "basedpyright", "--verifytypes", "pagefrag", "--ignoreexternal"]
    done = subprocess.run(pyright, cwd=beside, env=words, stdout=subprocess.PIPE, check=False)
    told = done.stdout.decode()
    if f'Package directory: "{environment}' not in told or "score: 100%" not in told:
        raise RuntimeError(f"not the type of every public name is known:\n{told}")


def use(found: wheels.Installed, folder: Path) -> None:
    """Use an installed wheel as its users do."""
    program = folder / "user.py"
    program.write_text(USER, encoding="utf-8")
    bare = [found.python, "-I", "-W", "error"]
    subprocess.run([*bare, program], check=True)
    features = "import pagefrag; print(*pagefrag.build_features())"
    told = subprocess.run([*bare, "-c", features], stdout=subprocess.PIPE, text=True, check=True)
    if found.kind not in told.stdout.split():
        raise RuntimeError(f"{found.wheel.name} is {told.stdout}")
    shell = [found.python.with_name("pagefrag"), "info"]
    subprocess.run(shell, stdout=subprocess.DEVNULL, check=True)
    types(found, program)


def main() -> int:
    """Build, look, install and use each kind."""
    told = []
    with tempfile.TemporaryDirectory() as name:
        for kind in wheels.KINDS:
            found = wheels.installed(kind, Path(name))
            carries(found.wheel)
            use(found, Path(name))
            told.append(f"{found.wheel.name} ({found.wheel.stat().st_size / 1e6:.2f} MB)")
    print("built, installed and used:", ", ".join(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
