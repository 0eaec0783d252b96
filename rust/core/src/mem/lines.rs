//! Bit arithmetic over the lines of a page: masks and runs, no memory of its own.

use crate::geometry::{FULL, WORD_LINES};

/// Does one word tell of all of lines `[first, first + count)`?
#[inline]
pub(crate) fn fit_a_word(first: usize, count: usize) -> bool {
    first % WORD_LINES + count <= WORD_LINES
}

/// The part of lines `[first, first + count)` that lies in the word of `first`:
/// that word's number, the mask in it, and how many lines lie beyond.
#[inline]
pub(crate) fn head_mask(first: usize, count: usize) -> (usize, u64, usize) {
    debug_assert!(count > 0);
    let bit = first % WORD_LINES;
    let here = count.min(WORD_LINES - bit);
    // `here` is 1..=WORD_LINES, so the shift is below 64.
    let mask = (FULL >> (WORD_LINES - here)) << bit;
    (first / WORD_LINES, mask, count - here)
}

/// Calls `each(word, mask)` for every word that `[first, first + count)` touches.
#[inline]
pub(crate) fn for_each_word(mut first: usize, mut count: usize, mut each: impl FnMut(usize, u64)) {
    while count > 0 {
        let (word, mask, beyond) = head_mask(first, count);
        each(word, mask);
        first += count - beyond;
        count = beyond;
    }
}

/// The first run of set lines at or after `from`, as `(first, count)`.
/// `word(i)` gives map word `i` of `words`.
pub(crate) fn next_run(
    word: impl Fn(usize) -> u64,
    words: usize,
    from: usize,
) -> Option<(usize, usize)> {
    let end = words * WORD_LINES;
    let first = next_line(&word, words, from, 0)?;
    // No clear line behind it: the run goes to the end.
    let stop = next_line(&word, words, first, FULL).unwrap_or(end);
    Some((first, stop - first))
}

/// The first line at or after `from` whose bit, with `flip` applied, is set.
fn next_line(word: impl Fn(usize) -> u64, words: usize, from: usize, flip: u64) -> Option<usize> {
    let mut index = from / WORD_LINES;
    if index >= words {
        return None;
    }
    let mut bits = (word(index) ^ flip) & (FULL << (from % WORD_LINES)) & FULL;
    while bits == 0 {
        index += 1;
        if index == words {
            return None;
        }
        bits = (word(index) ^ flip) & FULL;
    }
    Some(index * WORD_LINES + bits.trailing_zeros() as usize)
}

/// The longest run of set lines in `words`.
pub(crate) fn longest_run(words: impl Iterator<Item = u64>) -> usize {
    let (mut longest, mut open) = (0, 0);
    for word in words {
        if word == FULL {
            open += WORD_LINES;
            continue;
        }
        if word == 0 {
            longest = longest.max(open);
            open = 0;
            continue;
        }
        longest = longest.max(open + word.trailing_ones() as usize);
        open = (word << (64 - WORD_LINES)).leading_ones() as usize;
        // What is set neither from the first line on nor up to the last.
        let inside = word & word.wrapping_add(1) & (FULL >> open);
        if inside != 0 && inside.count_ones() as usize > longest {
            longest = longest.max(run_inside(inside));
        }
    }
    longest.max(open)
}

/// The longest run of set lines in `word`, which has some and not all: doubled while it
/// lasts, then made longer by what is left, halved each time.
fn run_inside(word: u64) -> usize {
    let (mut doubled, mut steps) = ([word; 6], 0);
    for step in 0..5 {
        let starts = doubled[step];
        let longer = starts & (starts >> (1 << step));
        if longer == 0 {
            break;
        }
        steps = step + 1;
        doubled[steps] = longer;
    }
    let (mut starts, mut run) = (doubled[steps], 1_usize << steps);
    for step in (0..steps).rev() {
        let longer = starts & (doubled[step] >> run);
        if longer != 0 {
            starts = longer;
            run += 1 << step;
        }
    }
    run
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn bits(words: &[u64]) -> Vec<bool> {
        (0..words.len() * 64)
            .map(|i| words[i / 64] >> (i % 64) & 1 == 1)
            .collect()
    }

    /// A small generator, so that this floor needs no other crate.
    fn noise(seed: &mut u64) -> u64 {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed
    }

    #[test]
    fn masks_cover_exactly_the_lines_asked_for() {
        for first in 0..200 {
            for count in 1..200 {
                let mut map = [0_u64; 8];
                for_each_word(first, count, |word, mask| {
                    assert_eq!(map[word] & mask, 0);
                    map[word] |= mask;
                });
                let expected: Vec<bool> =
                    (0..512).map(|i| i >= first && i < first + count).collect();
                assert_eq!(bits(&map), expected);
                let (word, mask, beyond) = head_mask(first, count);
                assert_eq!(mask, map[word], "the head is the first word's part");
                assert_eq!(mask.count_ones() as usize + beyond, count);
            }
        }
    }

    #[test]
    fn runs_are_those_that_a_slow_walk_finds() {
        let mut seed = 0x9E37_79B9_7F4A_7C15;
        for round in 0..2000 {
            let mut map = [0_u64; 4];
            for word in &mut map {
                // Every third map is dense, every third sparse.
                *word = match round % 3 {
                    0 => noise(&mut seed),
                    1 => noise(&mut seed) & noise(&mut seed) & noise(&mut seed),
                    _ => noise(&mut seed) | noise(&mut seed) | noise(&mut seed),
                };
            }
            let slow = bits(&map);
            let from = usize::try_from(noise(&mut seed) % 257).unwrap();
            let first = (from..256).find(|&i| slow[i]);
            let expected = first.map(|first| {
                let stop = (first..256).find(|&i| !slow[i]).unwrap_or(256);
                (first, stop - first)
            });
            assert_eq!(next_run(|i| map[i], 4, from), expected);
        }
    }

    #[test]
    fn the_longest_run_is_the_one_that_a_slow_walk_finds() {
        let mut seed = 0x5DEE_CE66_D1CE_4E5B;
        for round in 0..4000 {
            let mut map = [0_u64; 4];
            for word in &mut map {
                *word = match round % 4 {
                    0 => noise(&mut seed),
                    1 => noise(&mut seed) & noise(&mut seed) & noise(&mut seed),
                    2 => noise(&mut seed) | noise(&mut seed) | noise(&mut seed),
                    _ => u64::MAX << (noise(&mut seed) % 64),
                };
            }
            let slow = bits(&map).split(|free| !free).map(<[bool]>::len).max();
            assert_eq!(Some(longest_run(map.into_iter())), slow);
        }
        assert_eq!(longest_run([0; 3].into_iter()), 0);
        assert_eq!(longest_run([u64::MAX; 3].into_iter()), 192);
    }

    #[test]
    fn full_and_empty_maps_are_one_run_and_none() {
        assert_eq!(next_run(|_| u64::MAX, 8, 0), Some((0, 512)));
        assert_eq!(next_run(|_| u64::MAX, 8, 511), Some((511, 1)));
        assert_eq!(next_run(|_| 0, 8, 0), None);
        assert_eq!(next_run(|_| u64::MAX, 8, 512), None);
    }
}
