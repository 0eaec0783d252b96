"""The allocator as a specification: what each call does, in plain Python.

Nothing here is fast and nothing is clever. A page is a row of characters, one for each line of 64
bytes; a cache looks for dots. There are no threads, no atomics and no addresses, only the question
*who* calls. Everything else is the allocator's behaviour, complete: given the same calls, the Rust
core and the Python package place every fragment where this says, refuse what this refuses, hold
what this holds and give back to the system what this gives back. The Rust files beside these say
the same, for speed; `make test-traces` compares all four, so whoever changes a rule of the
allocator changes it here, twice.

To read it, begin with ``Page`` in ``pages.py``: what there is. Then ``Cache.alloc`` in
``cache.py`` and ``Cache._make_room``, the heart: where the next hole comes from. How bytes come
home is told in ``pool.py``, from ``Pool.free`` on; packets in ``skb.py``. ``world.py`` runs traces.

    ####..###.....~~~##########.....    a page, some time into its life

    #  in a live fragment, or in the hole that is being carved
    .  free, and the owner knows
    ~  freed by another thread, and the owner has not looked yet
"""
