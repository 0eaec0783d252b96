"""The house stands: every arrow points down, there is no knot, every door is the only one."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import run_models

from house import (
    House,
    Tree,
    busy_lists,
    climbing,
    flatten,
    homeless,
    knots,
    read_tree,
    strangers,
    unlisted,
)

ROOT = Path(__file__).resolve().parents[2]
Rule = Callable[[House], list[str]]
RULES: tuple[Rule, ...] = (climbing, homeless, knots, strangers, busy_lists, unlisted)
BINDING_RULES: tuple[Rule, ...] = (knots, unlisted)

SOUND: Tree = {
    "lib.rs": "//! fn of words\nmod error;\npub mod mem;\nmod sync;\npub use error::Error;\n"
    "pub use mem::{PagePool, frag::Frag};",
    "error.rs": "pub enum Error {}",
    "sync.rs": "pub(crate) use std::sync::atomic::AtomicU64; use std::cell::UnsafeCell;\n"
    "std::thread_local!(static A: u8 = 0);",
    "mem/mod.rs": "pub(crate) mod pool; pub mod frag; mod os; pub use pool::PagePool;",
    "mem/pool.rs": "use crate::sync::AtomicU64;\nuse super::frag::{self, Frag};\n"
    "use crate::Error;\n"
    "#[cfg(test)]\nmod tests { use super::*; use crate::mem::cache; fn f() { libc::mmap(); } }",
    "mem/frag.rs": "// use crate::mem::pool;\nuse crate::Error; mod slice;\n"
    'const TEXT: &str = "crate::mem::pool";',
    "mem/os.rs": "mod door { use super::Mapping; } pub(crate) fn map() { libc::mmap(); }",
    "mem/frag/slice.rs": "use crate::mem::frag::Frag; use crate::sync::thread_local;\n"
    "thread_local!(static A: u8 = 0);",
}


def changed(path: str, text: str) -> dict[str, str]:
    """Return the sound tree with one file changed."""
    return {**SOUND, path: text}


@pytest.fixture(scope="module")
def core() -> House:
    return House(read_tree(ROOT / "rust" / "core" / "src"))


@pytest.mark.parametrize("rule", RULES)
def test_the_core_keeps(rule: Rule, core: House) -> None:
    assert rule(core) == []


def test_the_core_was_read(core: House) -> None:
    arrows = {str(arrow) for arrow in core.arrows()}
    assert "mem::local -> mem::cache" in arrows
    assert "mem::cache -> error" in arrows
    assert any(arrow.source.startswith("net") for arrow in core.arrows())


@pytest.fixture(scope="module")
def binding() -> House:
    return House(read_tree(ROOT / "rust" / "python" / "src"))


@pytest.mark.parametrize("rule", BINDING_RULES)
def test_the_binding_keeps(rule: Rule, binding: House) -> None:
    assert rule(binding) == []


def test_the_binding_was_read(binding: House) -> None:
    """One arrow of each kind: a `use`, one with braces, one in a function, a path without."""
    arrows = {str(arrow) for arrow in binding.arrows()}
    assert "reservation -> buffer" in arrows
    assert "fragment_type -> fragment" in arrows
    assert "args -> error" in arrows
    assert "skb -> thread_end" in arrows


@pytest.mark.parametrize("rule", RULES)
def test_a_sound_tree_keeps(rule: Rule) -> None:
    assert rule(House(SOUND)) == []


@pytest.mark.parametrize(
    ("rule", "path", "text", "complaint"),
    [
        (climbing, "mem/os.rs", "use crate::mem::pool::PagePool;", "mem::os -> mem::pool"),
        (climbing, "mem/os.rs", "use super::{frag::Frag};", "mem::os -> mem::frag"),
        (climbing, "mem/os.rs", "fn f() { crate::PagePool::new(); }", "mem::os -> mem::pool"),
        (climbing, "error.rs", "use crate::{mem::{os}, sync};", "error -> mem::os"),
        (climbing, "mem/frag.rs", "use crate::mem::PagePool;", "mem::frag -> mem::pool: never"),
        (climbing, "mem/frag.rs", "use crate::mem::Unknown;", "mem::frag -> mem: not a file"),
        (knots, "error.rs", "use crate::sync::A;", ""),
        (strangers, "mem/pool.rs", "use libc::c_int;", "mem/pool.rs names libc"),
        (strangers, "mem/pool.rs", "fn f() { libc::abort() }", "mem/pool.rs names libc"),
        (strangers, "mem/pool.rs", "use std::sync::{Arc, atomic::AtomicU8};", "names atomics"),
        (strangers, "mem/pool.rs", "fn f() { core::sync::atomic::fence(x) }", "names atomics"),
        (strangers, "mem/pool.rs", "use core::cell::{Cell, UnsafeCell};", "names UnsafeCell"),
        (strangers, "mem/pool.rs", "thread_local!(static A: u8 = 0);", "names thread_local"),
        (strangers, "mem/pool.rs", "std::thread_local! {}", "names thread_local"),
        (strangers, "mem/pool.rs", "use loom::thread;", "names loom"),
        (busy_lists, "lib.rs", f"{SOUND['lib.rs']}\nfn work() {{}}", "lib.rs defines `fn work()`"),
        (busy_lists, "mem/mod.rs", f"{SOUND['mem/mod.rs']} struct A;", "defines `struct A`"),
        (homeless, "attic.rs", "", "attic"),
        (unlisted, "mem/page.rs", "", "mem::page"),
    ],
)
def test_a_fault_is_seen(rule: Rule, path: str, text: str, complaint: str) -> None:
    tree = changed(path, text)
    if rule is knots:
        tree["sync.rs"] = "use crate::error::Error;"
        complaint = "error -> sync -> error"
    assert any(complaint in fault for fault in rule(House(tree))), rule(House(tree))


def test_mem_never_names_net() -> None:
    tree = {
        "lib.rs": "mod mem; mod net;",
        "mem/mod.rs": "mod os;",
        "mem/os.rs": "use crate::net::skb::SkBuff;",
        "net/mod.rs": "pub mod skb;",
        "net/skb.rs": "use crate::mem::os;",
    }
    assert climbing(House(tree)) == ["mem::os -> net::skb: mem never names net"]


def test_a_knot_inside_one_floor_is_seen() -> None:
    tree = changed("mem/frag.rs", "use super::pool::PagePool;")
    assert knots(House(tree)) == ["mem::frag -> mem::pool -> mem::frag"]


BINDING: Tree = {
    "lib.rs": "mod cache; mod fragment; mod fragment_type; mod home; mod object; mod room;\n"
    "mod _pagefrag { use crate::cache::Cache; fn init() { crate::fragment_type::register() } }",
    "fragment_type.rs": "use crate::{fragment, object}; fn register() { object::adopt() }",
    "fragment.rs": "use crate::object::{This, make}; mod doc; fn copy() { crate::home::alloc() }",
    "fragment/doc.rs": "// crate::fragment_type\n",
    "home.rs": "use crate::cache::Cache;",
    "cache.rs": "use crate::room::Room;",
    "room.rs": "fn commit() { crate::object::make() }",
    "object.rs": 'const WHERE: &str = "crate::fragment"; mod imp { use super::This; }',
}
"""A binding in small: the type above what fragments do, the object below."""

LONG_WAY = "cache -> room -> object -> fragment -> home -> cache"


def test_a_sound_binding_keeps() -> None:
    house = House(BINDING)
    assert [rule(house) for rule in BINDING_RULES] == [[], []]


@pytest.mark.parametrize(
    ("path", "text", "knot"),
    [
        ("object.rs", "use crate::fragment;", LONG_WAY),
        ("object.rs", "use crate::{\n    error,\n    fragment as f,\n};", LONG_WAY),
        ("object.rs", "fn table() { use crate::fragment as f; f::len() }", LONG_WAY),
        ("object.rs", "fn table() { plain!(crate::fragment::len) }", LONG_WAY),
        ("object.rs", "fn table() { super::fragment::len() }", LONG_WAY),
        ("object.rs", "mod imp { use super::super::fragment; }", LONG_WAY),
        ("object.rs", "use crate::fragment::doc::CLASS;", LONG_WAY),
        ("fragment/doc.rs", "use crate::fragment_type;", "fragment -> fragment_type -> fragment"),
        ("room.rs", "use crate::cache::Cache;", "cache -> room -> cache"),
        ("object.rs", 'const A: &str = "//"; fn f() { crate::fragment::len() } // "', LONG_WAY),
        ("object.rs", "const A: u8 = b'\"'; fn f() { crate::fragment::len() } // \"", LONG_WAY),
    ],
)
def test_a_knot_in_a_binding_is_seen(path: str, text: str, knot: str) -> None:
    assert knot in knots(House({**BINDING, path: text}))


def test_use_trees_are_flattened() -> None:
    found = list(flatten("crate::{a::{self, b as c}, d::*,\n e}"))
    assert found == ["crate::a", "crate::a::b", "crate::d::*", "crate::e"]


@pytest.mark.parametrize(("crate", "kind"), [("tests", "test"), ("benches", "bench")])
def test_every_rust_file_outside_the_crates_is_a_target(crate: str, kind: str) -> None:
    manifest = tomllib.loads((ROOT / crate / "Cargo.toml").read_text(encoding="utf-8"))
    named = {target["path"] for target in manifest.get(kind, [])}
    there = {f"rust/{file.name}" for file in (ROOT / crate / "rust").glob("*.rs")}
    assert named == there


def fake_cargo(folder: Path, output: str) -> str:
    script = folder / "cargo"
    script.write_text(f"#!/bin/sh\ncat <<'END'\n{output}END\n")
    script.chmod(0o755)
    return str(script)


@pytest.mark.parametrize(
    ("left_out", "status"), [(0, 0), (1, 1)], ids=["all models ran", "one model did not run"]
)
def test_models_that_do_not_run_are_a_failure(
    left_out: int, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted(run_models.listed())
    assert "remote_free_against_sweep" in names
    lines = [f"test models::{name} ... ok\n" for name in names[left_out:]]
    monkeypatch.setenv("CARGO", fake_cargo(tmp_path, "".join(lines)))
    assert run_models.main() == status


def test_the_ci_command_is_the_one_of_the_readme() -> None:
    command = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1]
    assert command == "exec make test"
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")
