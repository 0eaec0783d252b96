"""Every example in the README, the documentation and the docstrings runs as it is printed."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pagefrag

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODULES = sorted(
    found.name
    for found in pkgutil.walk_packages(pagefrag.__path__, "pagefrag.")
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


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Return the blocks of code in *language* that *page* prints, each with its first line."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, block.start(1)) + 1, block[1]) for block in found]


def run(page: Path, line: int, code: str, words: dict[str, Any]) -> None:
    """Run *code*, which starts at *line* of *page*: a traceback shows the page."""
    exec(compile("\n" * (line - 1) + code, page, "exec"), words)  # noqa: S102 - our own text


@pytest.mark.parametrize(
    ("line", "code"), blocks(README, "python"), ids=lambda part: str(part)[:40]
)
def test_the_python_of_the_readme_runs(line: int, code: str) -> None:
    run(README, line, code, {"__name__": "readme"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_the_python_of_a_page_runs_from_top_to_bottom(page: Path) -> None:
    words: dict[str, Any] = {"__name__": page.stem}
    for line, code in blocks(page, "python"):
        run(page, line, code, words)


def test_every_make_target_and_file_that_a_page_names_exists() -> None:
    for page in (README, *PAGES):
        text = page.read_text(encoding="utf-8")
        assert set(re.findall(r"`make ([a-z-]+)[ `]", text)) <= TARGETS, page
        for path in re.findall(r"`((?:examples|rust|tests|benches|docs)/[\w./-]+)`", text):
            assert (ROOT / path).exists(), f"{page.name} names {path}"


def test_every_public_name_is_in_the_reference() -> None:
    reference = (DOCS / "api.md").read_text(encoding="utf-8")
    named = set(re.findall(r"auto(?:class|function|exception):: (\w+)", reference))
    assert named == set(pagefrag.__all__) - {"__version__"}


def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
    built = subprocess.run(
        [*command, str(DOCS), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    assert "PageFragCache" in (tmp_path / "api.html").read_text(encoding="utf-8")


def test_a_warning_fails_the_build(tmp_path: Path) -> None:
    source = tmp_path / "docs"
    source.mkdir()
    (source / "conf.py").write_text((DOCS / "conf.py").read_text(encoding="utf-8"))
    (source / "index.md").write_text("# Page\n\n{doc}`nowhere`\n", encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning"]
    built = subprocess.run(
        [*command, str(source), str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert built.returncode != 0
    assert "nowhere" in built.stderr


def test_the_readme_has_both_languages_and_only_known_commands() -> None:
    assert blocks(README, "python")
    assert blocks(README, "rust")
    named = set(re.findall(r"\bmake ([a-z-]+)", README.read_text(encoding="utf-8")))
    assert named
    assert named <= TARGETS


def test_a_wrong_example_is_seen() -> None:
    with pytest.raises(AssertionError, match="Expected"):
        run_examples(">>> 1 + 1\n3\n", "wrong", {})
