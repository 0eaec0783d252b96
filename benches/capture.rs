//! Packet sizes out of a capture file, by a reader that is kept well: lengths in
//! such a file are claims.

use std::fs::File;
use std::path::Path;

use pcap_parser::{Block, PcapBlockOwned, PcapError, create_reader};

/// Names the capture that the benches take sizes from; none without it.
pub const CAPTURE: &str = "PCAP";

/// The largest packet that every arm hands out; longer ones are cut to it.
const MOST: usize = 16 * 1024;

/// Bytes that the reader holds of the file at a time.
const WINDOW: usize = 1 << 20;

/// The bytes that each packet of the file has in it, in order.
///
/// # Errors
///
/// What is wrong: no such file, not a capture, or no packet in it.
pub fn sizes(path: &Path) -> Result<Vec<usize>, String> {
    let file = File::open(path).map_err(|error| format!("{error}"))?;
    let mut reader = create_reader(WINDOW, file).map_err(|error| format!("{error}"))?;
    let mut sizes = Vec::new();
    let mut ended = false;
    loop {
        match reader.next() {
            Ok((offset, block)) => {
                sizes.extend(captured(&block).map(|size| size.clamp(1, MOST)));
                reader.consume(offset);
            }
            Err(PcapError::Incomplete(_)) if !ended => {
                reader.refill().map_err(|error| format!("{error}"))?;
                ended = reader.reader_exhausted();
            }
            // The end, or a broken record: what comes behind cannot be found.
            Err(_) => break,
        }
    }
    if sizes.is_empty() {
        return Err("no packet in it".into());
    }
    Ok(sizes)
}

/// The bytes of the packet that a block is, if it is one.
fn captured(block: &PcapBlockOwned<'_>) -> Option<usize> {
    let bytes = match block {
        PcapBlockOwned::Legacy(packet) => packet.caplen,
        PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => packet.caplen,
        PcapBlockOwned::NG(Block::SimplePacket(packet)) => packet.origlen,
        _ => return None,
    };
    usize::try_from(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::sizes;

    #[test]
    fn a_classic_capture_is_read_in_order_and_rubbish_is_told() {
        let folder = std::env::temp_dir().join(format!("capture-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        // Magic, version 2.4, zone, precision, the most of a packet, Ethernet.
        let words = [0xA1B2_C3D4_u32, 0x0004_0002, 0, 0, 65_535, 1];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        for size in [60_u32, 1514, 60] {
            for word in [1, 2, size, size] {
                bytes.extend(word.to_le_bytes());
            }
            bytes.resize(bytes.len() + size as usize, 0);
        }
        let path = folder.join("three.pcap");
        std::fs::write(&path, &bytes).expect("written");
        let read = sizes(&path);
        std::fs::write(&path, b"not a capture, and long enough to be read as one")
            .expect("written");
        let refused = sizes(&path);
        std::fs::remove_dir_all(&folder).expect("ours");
        assert_eq!(read, Ok(vec![60, 1514, 60]));
        assert!(refused.is_err());
    }
}
