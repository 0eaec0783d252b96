"""Read the house out of its Rust sources: which file names which, and what it names from outside.

A *tree* is a mapping from a file's path below ``src`` to its text, so that the rules can be
tried on small synthetic trees as well as on the real one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

Tree = Mapping[str, str]

FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"models"}),
    frozenset({"net::ring", "net::napi", "net::tx"}),
    frozenset({"net::batch", "net::coalesce", "net::netdev", "net::payload"}),
    frozenset({"net::skb"}),
    frozenset({"net::facts", "net::shell"}),
    frozenset({"net::addr", "net::headroom", "net::queue"}),
    frozenset({"net::socket"}),
    frozenset({"mem::local"}),
    frozenset({"mem::cache"}),
    frozenset({"mem::batch", "mem::buf", "mem::frag", "mem::pool"}),
    frozenset({"mem::raw"}),
    frozenset({"mem::depot"}),
    frozenset({"mem::region", "mem::shelf"}),
    frozenset({"mem::here"}),
    frozenset({"mem::page"}),
    frozenset({"mem::header", "mem::lineage"}),
    frozenset({"mem::lines", "mem::os", "mem::poison"}),
    frozenset({"geometry", "sync", "process", "error", "stats"}),
)
"""The tower, highest floor first. Files of one floor may name each other, without a knot.

A file and the files in the folder of its name (``cache.rs``, ``cache/reserve.rs``) are one.
"""

NEVER = {("mem::frag", "mem::pool")}
"""Arrows that are forbidden although they do not climb."""

LIBC_DOORS = frozenset({"mem::os", "net::socket"})
SYNC_DOOR = "sync"
LOOM_STORIES = "models"

_COMMENT = r"//[^\n]*|/\*.*?\*/"
_STRING = r'b?r(?P<fence>#*)".*?"(?P=fence)|b?"(?:\\.|[^"\\])*"'
_LETTER = r"'(?:\\.[^']*|[^'\\])'"
_NOT_CODE = re.compile(f"{_COMMENT}|{_STRING}|{_LETTER}", re.DOTALL)
_USE = re.compile(r"\b(?:pub(?:\([^)]*\))?\s+)?use\s+([^;]+);", re.DOTALL)
_PATH = re.compile(r"(?<![\w:$])(?:crate|super|self)(?:::\w+)+")
_MODULE = re.compile(r"\bmod\s+(\w+)\s*;")
_DEFINITION = re.compile(
    r"\b(?:fn|struct|enum|union|trait|impl|static|const|type|macro_rules)\b[^;{]*"
)
_ATOMICS = re.compile(r"\b(?:std|core)::sync::atomic\b|\bportable_atomic\b")
_CELLS = re.compile(r"\b(?:std|core)::cell::UnsafeCell\b")
_LOCALS = re.compile(r"(?<!sync::)\bthread_local\s*!|\b(?:std|core)::thread_local\b")
_OUR_LOCALS = re.compile(r"\bcrate::sync::thread_local\b")
_ROOM = re.compile(r"\bmod\s+(\w+)\s*\{")
_LOOM = re.compile(r"\bloom::")


@dataclass(frozen=True, order=True)
class Arrow:
    """The file *source* names the file *target*."""

    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}"


def read_tree(sources: Path) -> dict[str, str]:
    """Read all Rust files below *sources*."""
    return {
        file.relative_to(sources).as_posix(): file.read_text(encoding="utf-8")
        for file in sorted(sources.rglob("*.rs"))
    }


def module_of(path: str) -> str:
    """Return the module that the file at *path* is: ``mem/page.rs`` is ``mem::page``."""
    parts = path.removesuffix(".rs").split("/")
    if parts[-1] == "mod" or parts == ["lib"]:
        parts.pop()
    return "::".join(parts)


def is_list(path: str) -> bool:
    """Tell whether *path* is a file that only lists."""
    return path == "lib.rs" or path.endswith("/mod.rs")


def bare(text: str) -> str:
    """Return the code of *text*: no comments, no strings, no letters, no test modules."""
    text = _NOT_CODE.sub(" ", text)
    while found := re.search(r"#\[cfg\((?:test|all\(test[^]]*)\)\]\s*mod\s+\w+\s*\{", text):
        text = text[: found.start()] + text[_closing_brace(text, found.end()) :]
    return text


def _closing_brace(text: str, start: int) -> int:
    depth = 1
    for index in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if not depth:
            return index + 1
    return len(text)


def rooms(code: str, module: str) -> Iterator[tuple[str, str]]:
    """Yield *module* with its code, and each module that is written inside it with its own."""
    while found := _ROOM.search(code):
        end = _closing_brace(code, found.end())
        yield from rooms(code[found.end() : end - 1], f"{module}::{found[1]}".lstrip(":"))
        code = code[: found.start()] + code[end:]
    yield module, code


def flatten(use: str) -> Iterator[str]:
    """Yield every path of a ``use``: ``a::{b, c::{d, self}}`` is a::b, a::c::d and a::c."""
    use = use.strip()
    head, brace, rest = use.partition("{")
    if not brace:
        path = re.sub(r"\s+as\s+\w+$", "", use).strip()
        if path:
            yield path.removesuffix("::self")
        return
    for item in _split(rest[: rest.rindex("}")]):
        yield from flatten(head + item.strip())


def _split(items: str) -> Iterator[str]:
    depth, start = 0, 0
    for index, letter in enumerate(items):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and not depth:
            yield items[start:index]
            start = index + 1
    if items[start:].strip():
        yield items[start:]


def _absolute(path: str, module: str) -> str | None:
    """Resolve ``crate``, ``self`` and ``super`` in *path*, seen from *module*; None if foreign."""
    here = module.split("::") if module else []
    parts = path.split("::")
    if parts[0] == "crate":
        return "::".join(parts[1:])
    if parts[0] not in ("self", "super"):
        return None
    if parts[0] == "self":
        parts = parts[1:]
    while parts and parts[0] == "super":
        here, parts = here[:-1], parts[1:]
    return "::".join([*here, *parts])


class House:
    """The modules of a tree and the arrows between them."""

    def __init__(self, tree: Tree) -> None:
        self.code = {path: bare(text) for path, text in tree.items()}
        self.modules = {module_of(path) for path in self.code}
        self.lists = {module_of(path) for path in self.code if is_list(path)}
        self._exports = {
            module_of(path): dict(self._exported(module_of(path), code))
            for path, code in self.code.items()
            if is_list(path)
        }

    def _exported(self, module: str, code: str) -> Iterator[tuple[str, str]]:
        """Yield the names that the list *module* lends, and what they stand for."""
        for use in _USE.findall(code):
            for path in flatten(use):
                head = path.split("::")[0]
                child = f"{module}::{head}" if module else head
                local = f"self::{path}" if child in self.modules else path
                if (target := _absolute(local, module)) is not None:
                    yield path.rsplit("::", 1)[-1], target

    def home(self, path: str) -> str | None:
        """Return the module in which the crate path *path* ends, through any list's re-export."""
        seen: set[str] = set()
        while path not in seen:
            seen.add(path)
            parts = path.split("::") if path else []
            for cut in range(len(parts), -1, -1):
                module = "::".join(parts[:cut])
                if module not in self.modules:
                    continue
                if module not in self.lists or cut == len(parts):
                    return module
                lent = self._exports[module].get(parts[cut])
                if lent is None:
                    return module
                path = "::".join([lent, *parts[cut + 1 :]])
                break
        return None

    def arrows(self) -> set[Arrow]:
        """Return who names whom; lists, and what is one with the file, do not count."""
        found = set()
        for path, code in self.code.items():
            if is_list(path):
                continue
            source = self.whole(module_of(path))
            targets = {self.whole(target) for target in self._targets(module_of(path), code)}
            found |= {Arrow(source, target) for target in targets - {source}}
        return found

    def _targets(self, module: str, code: str) -> Iterator[str]:
        """Yield the modules that *code*, the file of *module*, names."""
        for room, inside in rooms(code, module):
            uses = [name for use in _USE.findall(inside) for name in flatten(use)]
            for name in [*uses, *_PATH.findall(_USE.sub("", inside))]:
                absolute = _absolute(name, room)
                if absolute is not None and (target := self.home(absolute)) is not None:
                    yield target

    def whole(self, module: str) -> str:
        """Return the file in whose folder *module* lives, or *module* itself."""
        parent = module.rpartition("::")[0]
        if parent and parent in self.modules and parent not in self.lists:
            return self.whole(parent)
        return module


def floor_of(module: str) -> int | None:
    """Return the floor of *module*, 0 for the highest; a submodule lives where its parent does."""
    while module:
        for height, floor in enumerate(FLOORS):
            if module in floor:
                return height
        module = module.rpartition("::")[0]
    return None


def climbing(house: House) -> list[str]:
    """Arrows that climb, that are forbidden, or that name a whole folder instead of a file."""
    faults = []
    for arrow in sorted(house.arrows()):
        source, target = floor_of(arrow.source), floor_of(arrow.target)
        if arrow.source.startswith("mem") and arrow.target.startswith("net"):
            faults.append(f"{arrow}: mem never names net")
        elif target is None or arrow.target in house.lists:
            faults.append(f"{arrow}: not a file on a floor")
        elif source is not None and target < source:
            faults.append(f"{arrow}: climbs from floor {source} to {target}")
        elif (arrow.source, arrow.target) in NEVER:
            faults.append(f"{arrow}: never")
    return faults


def homeless(house: House) -> list[str]:
    """Files that stand on no floor."""
    return sorted(m for m in house.modules - house.lists if floor_of(m) is None)


def knots(house: House) -> list[str]:
    """Cycles of arrows, each told once."""
    names: dict[str, list[str]] = {}
    for arrow in sorted(house.arrows()):
        names.setdefault(arrow.source, []).append(arrow.target)
    done: set[str] = set()
    found = []

    def walk(module: str, trail: list[str]) -> None:
        if module in trail:
            found.append(" -> ".join([*trail[trail.index(module) :], module]))
        elif module not in done:
            for target in names.get(module, []):
                walk(target, [*trail, module])
            done.add(module)

    for module in sorted(names):
        walk(module, [])
    return found


def strangers(house: House) -> list[str]:
    """Words that only one file may name: libc, atomics, cells, thread-locals, loom."""
    faults = []
    for path, code in house.code.items():
        module = house.whole(module_of(path))
        flat = f"{code}\n" + "\n".join(name for use in _USE.findall(code) for name in flatten(use))
        if re.search(r"\blibc\b", flat) and module not in LIBC_DOORS:
            faults.append(f"{path} names libc")
        if module == SYNC_DOOR:
            continue
        words = {"atomics": _ATOMICS, "UnsafeCell": _CELLS}
        if not _OUR_LOCALS.search(flat):
            words["thread_local"] = _LOCALS
        if module != LOOM_STORIES:
            words["loom"] = _LOOM
        faults += [f"{path} names {word}" for word, sign in words.items() if sign.search(flat)]
    return faults


def busy_lists(house: House) -> list[str]:
    """Lists that define something."""
    return [
        f"{path} defines `{found.group().strip()}`"
        for path, code in house.code.items()
        if is_list(path) and (found := _DEFINITION.search(_USE.sub("", code)))
    ]


def unlisted(house: House) -> list[str]:
    """Files that no list mentions: cargo would never compile them."""
    named = set()
    for path, code in house.code.items():
        module = module_of(path)
        for name in _MODULE.findall(code):
            named.add(f"{module}::{name}" if module else name)
    return sorted(house.modules - named - {""})
