//! What several test files share: bytes that can be checked, and traces.
//! The examples of the README run here as documentation tests.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[path = "faults/system.rs"]
pub mod system;
pub mod traces;

/// The byte that belongs at `index` of the buffer called `seed`.
///
/// Different seeds differ within the first eight bytes, so a fragment that was
/// overwritten by its neighbour is seen at once.
#[must_use]
pub fn pattern(seed: u64, index: usize) -> u8 {
    word(seed, index / 8)[index % 8]
}

/// Eight bytes of the pattern of `seed`, those from `8 * index` on.
fn word(seed: u64, index: usize) -> [u8; 8] {
    let word = seed.wrapping_add(index as u64);
    word.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()
}

/// Fills `bytes` with the pattern of `seed`.
pub fn fill(bytes: &mut [u8], seed: u64) {
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for (index, chunk) in words.iter_mut().enumerate() {
        *chunk = word(seed, index);
    }
    rest.copy_from_slice(&word(seed, words.len())[..rest.len()]);
}

/// The first index at which `bytes` differ from the pattern of `seed`.
#[must_use]
pub fn first_damage(bytes: &[u8], seed: u64) -> Option<usize> {
    let (words, rest) = bytes.as_chunks::<8>();
    let whole = words.iter().enumerate();
    let damaged = { whole }.fold(false, |any, (index, chunk)| {
        any | (*chunk != word(seed, index))
    });
    if !damaged && *rest == word(seed, words.len())[..rest.len()] {
        return None;
    }
    (0..bytes.len()).find(|&index| bytes[index] != pattern(seed, index))
}

#[cfg(test)]
mod tests {
    use super::{fill, first_damage, pattern};

    #[test]
    fn damage_is_found_where_it_is() {
        let mut bytes = [0; 100];
        fill(&mut bytes, 7);
        assert_eq!(first_damage(&bytes, 7), None);
        bytes[41] ^= 1;
        assert_eq!(first_damage(&bytes, 7), Some(41));
    }

    #[test]
    fn every_byte_is_the_pattern_s() {
        let mut bytes = [0; 77];
        fill(&mut bytes, 3);
        let expected: Vec<u8> = (0..77).map(|index| pattern(3, index)).collect();
        assert_eq!(bytes[..], expected);
    }

    #[test]
    fn another_seed_is_another_pattern() {
        let mut bytes = [0; 8];
        fill(&mut bytes, 7);
        assert!(first_damage(&bytes, 8).is_some());
    }
}
