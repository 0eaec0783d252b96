//! The allocator as a model: what each call does, naively.
//!
//! A page is a row of lines, lists are a `Vec`, threads are numbers; there are
//! no atomics, no pointers and no unsafe code. Given the same calls the core
//! places every fragment where this says, refuses what this refuses, holds what
//! this holds and gives back to the OS what this gives back. The Python files
//! beside these say the same and are the ones to read: they are the
//! specification.

mod cache;
mod contents;
mod lines;
mod pages;
mod pool;
mod skb;
mod world;

pub(crate) use world::World;
