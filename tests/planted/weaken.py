"""Every atomic operation of the core, and of the binding's gate, turn and views, one step weaker.

An operation is named by its file, its function and its method, and by a number where a function
has several alike. What is weaker than the order it asks for is a *weakening*; an operation that is
`Relaxed` already has none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Of the binding: the files of it that the core's models run.
INCLUDED = tuple(Path("python") / "src" / name for name in ("gate.rs", "turn.rs", "views.rs"))
WEAKER = {
    "SeqCst": ("AcqRel",),
    "AcqRel": ("Acquire", "Release"),
    "Acquire": ("Relaxed",),
    "Release": ("Relaxed",),
    "Relaxed": (),
}

_METHOD = re.compile(r"\.(load|store|swap|fetch_\w+|compare_exchange(?:_weak)?)\(")
_ORDER = re.compile(r"\bOrdering::(SeqCst|AcqRel|Acquire|Release|Relaxed)\b")
_FUNCTION = re.compile(r"\bfn (\w+)")
_TESTS = re.compile(r"^#\[cfg\((?:all\()?test\b", re.MULTILINE)
_COMMENT = re.compile(r"//[^\n]*")


@dataclass(frozen=True)
class Order:
    """One order that an operation asks for, where it stands in its file."""

    file: Path
    operation: str
    word: str
    at: int
    on_failure: bool

    def weakenings(self) -> Iterator[tuple[str, str]]:
        """Yield the name of each weakening, and the order it asks for instead."""
        for weaker in WEAKER[self.word]:
            place = " on failure" if self.on_failure else ""
            yield f"{self.operation}: {self.word} -> {weaker}{place}", weaker


def _blank(match: re.Match[str]) -> str:
    return " " * len(match[0])


def orders(file: Path, name: str) -> Iterator[Order]:
    """Yield every order that a method in *file*, called *name*, asks for; tests are left out."""
    text = file.read_text(encoding="utf-8")
    tests = _TESTS.search(text)
    code = _COMMENT.sub(_blank, text[: tests.start()] if tests else text)
    methods = list(_METHOD.finditer(code))
    functions = list(_FUNCTION.finditer(code))
    seen: Counter[str] = Counter()
    last = None
    for found in _ORDER.finditer(code):
        method = max((m for m in methods if m.end() <= found.start()), key=lambda m: m.start())
        if method is not last:
            function = [f[1] for f in functions if f.end() <= method.start()][-1]
            operation = f"{name} {function} {method[1]}"
            seen[operation] += 1
            number = f" {seen[operation]}" if seen[operation] > 1 else ""
        yield Order(file, operation + number, found[1], found.start(1), method is last)
        last = method


def all_orders(sources: Path) -> list[Order]:
    """Return every order in *sources*, the models' own left out, and in what runs in them too."""
    files = sorted(sources.rglob("*.rs"))
    found = [
        order
        for file in files
        if file.relative_to(sources).parts[0] not in ("models", "models.rs")
        for order in orders(file, str(file.relative_to(sources)))
    ]
    included = [(sources.parents[1] / name, str(name)) for name in INCLUDED]
    return found + [
        order for file, name in included if file.is_file() for order in orders(file, name)
    ]


SWITCH = "PLANTED_ORDER"
_SWITCH = f"""
/// Planted: the order of this number that `{SWITCH}` asks for, or the `sound` one.
pub(crate) fn planted_order(number: usize, sound: Ordering) -> Ordering {{
    static CHOSEN: std::sync::OnceLock<Option<(usize, Ordering)>> = std::sync::OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| {{
        let words = std::env::var("{SWITCH}").ok()?;
        let (number, weaker) = words.split_once('=')?;
        let weaker = match weaker {{
            "AcqRel" => Ordering::AcqRel,
            "Acquire" => Ordering::Acquire,
            "Release" => Ordering::Release,
            _ => Ordering::Relaxed,
        }};
        Some((number.parse().ok()?, weaker))
    }});
    match *chosen {{
        Some((chosen, weaker)) if chosen == number => weaker,
        _ => sound,
    }}
}}
"""


def with_switches(sources: Path) -> dict[Path, str]:
    """Return the files of *sources* that can weaken an order, so that one build has all bugs.

    The n-th order that can be weakened is asked for by its number, when the program starts.
    """
    texts: dict[Path, str] = {}
    numbered = [order for order in all_orders(sources) if WEAKER[order.word]]
    for number, order in reversed(list(enumerate(numbered))):
        text = texts.get(order.file) or order.file.read_text(encoding="utf-8")
        start, end = order.at - len("Ordering::"), order.at + len(order.word)
        switched = f"crate::sync::planted_order({number}, Ordering::{order.word})"
        texts[order.file] = text[:start] + switched + text[end:]
    door = sources / "sync.rs"
    texts[door] = (texts.get(door) or door.read_text(encoding="utf-8")) + _SWITCH
    return texts


def switches(sources: Path) -> list[tuple[str, str]]:
    """Return the name of each weakening, and what `SWITCH` must say for it."""
    numbered = [order for order in all_orders(sources) if WEAKER[order.word]]
    return [
        (name, f"{number}={weaker}")
        for number, order in enumerate(numbered)
        for name, weaker in order.weakenings()
    ]
