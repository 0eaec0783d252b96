//! What several test files share: bytes that can be checked, and nothing else.
//! The examples of the README run here as documentation tests.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The byte that belongs at `index` of the buffer called `seed`.
///
/// Different seeds differ within the first eight bytes, so a fragment that was
/// overwritten by its neighbour is seen at once.
#[must_use]
pub fn pattern(seed: u64, index: usize) -> u8 {
    let word = seed
        .wrapping_add((index / 8) as u64)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15);
    word.to_le_bytes()[index % 8]
}

/// Fills `bytes` with the pattern of `seed`.
pub fn fill(bytes: &mut [u8], seed: u64) {
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = pattern(seed, index);
    }
}

/// The first index at which `bytes` differ from the pattern of `seed`.
#[must_use]
pub fn first_damage(bytes: &[u8], seed: u64) -> Option<usize> {
    bytes
        .iter()
        .enumerate()
        .find_map(|(index, &byte)| (byte != pattern(seed, index)).then_some(index))
}

#[cfg(test)]
mod tests {
    use super::{fill, first_damage};

    #[test]
    fn damage_is_found_where_it_is() {
        let mut bytes = [0; 100];
        fill(&mut bytes, 7);
        assert_eq!(first_damage(&bytes, 7), None);
        bytes[41] ^= 1;
        assert_eq!(first_damage(&bytes, 7), Some(41));
    }

    #[test]
    fn another_seed_is_another_pattern() {
        let mut bytes = [0; 8];
        fill(&mut bytes, 7);
        assert!(first_damage(&bytes, 8).is_some());
    }
}
