"""The allocator as a specification: what each call does, in plain Python.

Nothing here is fast and nothing is clever. A page is a row of characters, one for each line of 64
bytes; a cache looks for dots. There are no threads, no atomics and no addresses, only the question
*who* calls. Everything else is the allocator's behaviour, complete: given the same calls, the Rust
core and the Python package place every fragment where this says, refuse what this refuses, hold
what this holds and give back to the system what this gives back. ``model.rs`` says the same in
Rust, ``model_world.py`` runs traces on it, and `make test-traces` compares all logs.

To read it, begin with :class:`Page`, then :meth:`Cache.alloc` and :meth:`Cache._make_room`, which
is where the next hole comes from. Words are those of ``rust/core/src/lib.rs``.
"""
