"""Every example in the README and in the docstrings runs as it is printed."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pagefrag

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODULES = sorted(
    found.name
    for found in pkgutil.iter_modules(pagefrag.__path__, "pagefrag.")
    if not found.name.endswith(("__main__", "._pagefrag"))
)


def public() -> Iterator[tuple[str, Any]]:
    """Yield the package, its public names, and the public names of its classes."""
    yield "pagefrag", pagefrag
    for name in pagefrag.__all__:
        thing = getattr(pagefrag, name)
        yield name, thing
        if inspect.isclass(thing) and not issubclass(thing, Exception):
            for inner, member in vars(thing).items():
                if not inner.startswith("_") and inspect.getdoc(member):
                    yield f"{name}.{inner}", member


PUBLIC = dict(public())


def run_examples(text: str, name: str, words: dict[str, Any]) -> int:
    """Run the examples in *text* and return how many there are; fail with what went wrong."""
    test = doctest.DocTestParser().get_doctest(text, words, name, None, None)
    told: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=told.append)
    assert not told, "".join(told)
    return len(test.examples)


def docstring(thing: Any) -> str:
    found = inspect.getdoc(thing) if not isinstance(thing, str) else None
    return found or ""


@pytest.fixture
def words() -> Iterator[dict[str, Any]]:
    """Lend what the docstrings may name: the public names, rings without packets, a batch."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        ring = pagefrag.RxRing(sock)
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.connect(sock.getsockname())
        tx_ring = pagefrag.TxRing(sender)
        public_names = {name: getattr(pagefrag, name) for name in pagefrag.__all__}
        yield {
            **public_names,
            "pagefrag": pagefrag,
            "empty_ring": ring,
            "empty_batch": ring.recv(timeout=0),
            "sender": sender,
            "tx_ring": tx_ring,
        }
        ring.close()
        tx_ring.close()
        sender.close()


@pytest.mark.parametrize("name", PUBLIC)
def test_the_examples_of_a_docstring_run(name: str, words: dict[str, Any]) -> None:
    run_examples(docstring(PUBLIC[name]), name, words)


@pytest.mark.parametrize("name", [name for name in pagefrag.__all__ if name != "__version__"])
def test_every_public_name_has_a_docstring_with_an_example(name: str) -> None:
    assert ">>> " in docstring(PUBLIC[name])


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str) -> None:
    module = importlib.import_module(name)
    finder = doctest.DocTestFinder(exclude_empty=True)
    words = {**vars(pagefrag), **vars(module)}
    for test in finder.find(module, name, globs=words):
        run_examples(test.docstring or "", test.name, dict(test.globs))


def blocks(language: str) -> list[str]:
    """Return the README's blocks of code in *language*."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[0])
def test_the_python_of_the_readme_runs(code: str) -> None:
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})  # noqa: S102 - our own text


def test_the_readme_has_both_languages_and_only_known_commands() -> None:
    assert blocks("python")
    assert blocks("rust")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert named
    assert named <= targets


def test_a_wrong_example_is_seen() -> None:
    with pytest.raises(AssertionError, match="Expected"):
        run_examples(">>> 1 + 1\n3\n", "wrong", {})
