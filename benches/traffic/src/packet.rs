//! What a packet looks like: its number, little-endian, and one byte that follows
//! from it, again and again. The receivers in Python know the same rule.

/// Bytes of the number; a packet is at least that long.
pub(crate) const NUMBER_BYTES: usize = 8;

/// More packets than this are never told apart.
const DISTINCT: usize = 1 << 16;

/// Writes packet `number` over all of `room`.
pub(crate) fn write(room: &mut [u8], number: usize) {
    let (head, body) = room.split_at_mut(NUMBER_BYTES);
    head.copy_from_slice(&(number as u64).to_le_bytes());
    body.fill(body_byte(number));
}

/// Is this a packet of ours, whole?
pub(crate) fn holds(packet: &[u8]) -> bool {
    let Some((head, body)) = packet.split_first_chunk::<NUMBER_BYTES>() else {
        return false;
    };
    let Ok(number) = usize::try_from(u64::from_le_bytes(*head)) else {
        return false;
    };
    let expected = body_byte(number);
    number < DISTINCT && body.iter().all(|&byte| byte == expected)
}

fn body_byte(number: usize) -> u8 {
    // Below 256 after the remainder.
    #[allow(clippy::cast_possible_truncation, reason = "a remainder of 251")]
    let byte = (number * 7 % 251) as u8;
    byte
}
