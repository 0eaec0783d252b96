//! What a program may do.

use proptest::prelude::*;
use proptest::sample::Index;

use super::WORKERS;
use super::workers::Which;

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Switch(usize),
    Alloc(Which, usize, u32),
    AllocMany(Which, usize, usize),
    Commit(Which, usize, Index),
    Abandon(Which, usize),
    TakeRoom(Which, usize),
    Settle(Which, Index, Index),
    Write(Index),
    Clone(Index),
    Slice(Index, Index, Index),
    SplitOff(Index, Index),
    SplitTo(Index, Index),
    /// Where two lines meet, if there is such a place.
    SplitLine(Index, Index),
    ShrinkTo(Index, Index),
    Truncate(Index, Index),
    Advance(Index, Index),
    Freeze(Index),
    TryIntoMut(Index),
    Drop(Index),
    DropMany(Index, usize),
    Drain(Which),
    Trim,
    EndThread,
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    let index = any::<Index>;
    let which = || {
        (any::<bool>(), prop::bool::weighted(0.3)).prop_map(|(bytes, local)| Which { bytes, local })
    };
    // Mostly what packets are like; the page caps what is too large.
    let size = || {
        prop_oneof![
            4 => 1..2048_usize,
            4 => (1..5_usize).prop_map(|lines| lines * 64),
            2 => prop::sample::select(vec![1, 63, 64, 65, 128, 1500, 2048, 4095, 4096]),
            1 => 1..40_000_usize,
            1 => Just(usize::MAX),
        ]
    };
    prop_oneof![
        2 => (0..WORKERS).prop_map(Op::Switch),
        10 => (which(), size(), prop_oneof![3 => Just(0), 1 => 0..21_u32])
            .prop_map(|(w, size, shift)| Op::Alloc(w, size, shift)),
        3 => (which(), 1..30_usize, 1..700_usize).prop_map(|(w, n, size)| Op::AllocMany(w, n, size)),
        2 => (which(), size(), index()).prop_map(|(w, min, used)| Op::Commit(w, min, used)),
        1 => (which(), size()).prop_map(|(w, min)| Op::Abandon(w, min)),
        2 => (which(), size()).prop_map(|(w, min)| Op::TakeRoom(w, min)),
        3 => (which(), index(), index()).prop_map(|(w, which, used)| Op::Settle(w, which, used)),
        1 => index().prop_map(Op::Write),
        3 => index().prop_map(Op::Clone),
        3 => (index(), index(), index()).prop_map(|(which, a, b)| Op::Slice(which, a, b)),
        2 => (index(), index()).prop_map(|(which, at)| Op::SplitOff(which, at)),
        1 => (index(), index()).prop_map(|(which, at)| Op::SplitTo(which, at)),
        2 => (index(), index()).prop_map(|(which, at)| Op::SplitLine(which, at)),
        2 => (index(), index()).prop_map(|(which, len)| Op::ShrinkTo(which, len)),
        1 => (index(), index()).prop_map(|(which, len)| Op::Truncate(which, len)),
        1 => (index(), index()).prop_map(|(which, count)| Op::Advance(which, count)),
        3 => index().prop_map(Op::Freeze),
        2 => index().prop_map(Op::TryIntoMut),
        12 => index().prop_map(Op::Drop),
        4 => (index(), 1..24_usize).prop_map(|(from, count)| Op::DropMany(from, count)),
        1 => which().prop_map(Op::Drain),
        1 => Just(Op::Trim),
        1 => Just(Op::EndThread),
    ]
}
