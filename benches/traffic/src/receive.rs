//! The receiving end without Python: `recvmmsg` into buffers that never change.
//! Of every packet the first eight bytes are read.

use std::io::{self, BufRead, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::door::{self, Buffers};
use crate::packet;

/// Bytes of a buffer that any super-buffer fits.
const GRO_BUFFER: usize = 64 * 1024;
/// Bytes of a buffer for one datagram.
const PLAIN_BUFFER: usize = 2048;

/// Carries out commands until there are no more.
pub(crate) fn serve(fd: &str, size: &str, slots: &str, gro: bool) -> io::Result<()> {
    let number = |word: &str| word.parse::<usize>().map_err(io::Error::other);
    let socket = door::inherited(fd.parse().map_err(io::Error::other)?)?;
    if gro {
        door::join(socket.as_fd())?;
    }
    let each = if gro { GRO_BUFFER } else { PLAIN_BUFFER };
    let mut receiver = Receiver {
        socket,
        buffers: Buffers::new(number(slots)?, each, gro),
        size: number(size)?,
    };
    println!("ready");
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let found = match words[..] {
            ["run", milliseconds] => {
                let limit = Duration::from_millis(number(milliseconds)? as u64);
                receiver.timed(|receiver| receiver.run(limit))?
            }
            ["drain"] => receiver.timed(Receiver::drain)?,
            ["check"] => receiver.timed(Receiver::check)?,
            _ => return Err(io::Error::other(format!("no such command: {line}"))),
        };
        println!("{found}");
        io::stdout().flush()?;
    }
    Ok(())
}

/// What a command has counted.
#[derive(Default)]
struct Tally {
    packets: u64,
    bytes: u64,
    /// Packets of another size or content than was sent.
    wrong: u64,
    /// Of the first eight bytes of each packet; printed, so that they are read.
    sum: u64,
}

struct Receiver {
    socket: OwnedFd,
    buffers: Buffers,
    size: usize,
}

impl Receiver {
    /// The line that answers a command: packets, bytes, wrong ones, nanoseconds,
    /// nanoseconds of the processor, sum.
    fn timed(
        &mut self,
        command: impl FnOnce(&mut Self) -> io::Result<Tally>,
    ) -> io::Result<String> {
        let (busy, start) = (door::thread_time(), Instant::now());
        let tally = command(self)?;
        let (time, busy) = (start.elapsed(), door::thread_time().saturating_sub(busy));
        let Tally {
            packets,
            bytes,
            wrong,
            sum,
        } = tally;
        let (time, busy) = (time.as_nanos(), busy.as_nanos());
        Ok(format!("{packets} {bytes} {wrong} {time} {busy} {sum}"))
    }

    fn run(&mut self, limit: Duration) -> io::Result<Tally> {
        let end = Instant::now() + limit;
        let mut tally = Tally::default();
        while Instant::now() < end && self.some(true, &mut tally)? {}
        Ok(tally)
    }

    fn drain(&mut self) -> io::Result<Tally> {
        let mut tally = Tally::default();
        while self.some(false, &mut tally)? {}
        Ok(tally)
    }

    /// One call; false when nothing came.
    fn some(&mut self, wait: bool, tally: &mut Tally) -> io::Result<bool> {
        let read = self.buffers.receive(self.socket.as_fd(), wait)?;
        for index in 0..read {
            let (message, segment) = self.buffers.message(index);
            tally.bytes += message.len() as u64;
            for datagram in message.chunks(segment.max(1)) {
                tally.packets += 1;
                if let Some(head) = datagram.first_chunk::<{ packet::NUMBER_BYTES }>() {
                    tally.sum = tally.sum.wrapping_add(u64::from_le_bytes(*head));
                }
            }
        }
        Ok(read > 0)
    }

    /// Drains and looks at every byte.
    fn check(&mut self) -> io::Result<Tally> {
        let mut tally = Tally::default();
        loop {
            let read = self.buffers.receive(self.socket.as_fd(), false)?;
            if read == 0 {
                return Ok(tally);
            }
            for index in 0..read {
                let (message, segment) = self.buffers.message(index);
                for datagram in message.chunks(segment.max(1)) {
                    let good = datagram.len() == self.size && packet::holds(datagram);
                    tally.packets += 1;
                    tally.bytes += datagram.len() as u64;
                    tally.wrong += u64::from(!good);
                }
            }
        }
    }
}
