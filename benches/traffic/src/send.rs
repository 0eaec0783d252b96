//! The sending end: bursts of a known number, or a flood until it is told to stop.
//!
//! Messages that the kernel cuts can be lent to it (`lend`): it sends the pages
//! they lie in. A sender that copies is no faster than a receiver that copies, and
//! a receiver is only measured while it is the slower one.

use std::io::{self, BufRead, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Instant;

use crate::door::{self, Lent, Volley};
use crate::packet;

/// Messages of one call at most.
const CALL: usize = 16;
/// Messages that differ when they are cut; 4 MiB of the largest, so that a
/// receiver finds them in no cache of its own.
const MESSAGES: usize = 64;
/// Messages that differ when they are not.
const SINGLES: usize = 1024;

/// Carries out commands until there are no more.
pub(crate) fn serve() -> io::Result<()> {
    let mut input = io::stdin().lock();
    let mut line = String::new();
    while input.read_line(&mut line)? > 0 {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (packets, nanoseconds) = match words[..] {
            ["burst", way, port, size, segments, count] => {
                Sender::new(way, port, size, segments)?.burst(number(count)?)?
            }
            ["flood", way, port, size, segments] => {
                let told = Sender::new(way, port, size, segments)?.flood()?;
                input.read_line(&mut String::new())?;
                told
            }
            _ => return Err(io::Error::other(format!("no such command: {line}"))),
        };
        println!("{packets} {nanoseconds}");
        io::stdout().flush()?;
        line.clear();
    }
    Ok(())
}

fn number(word: &str) -> io::Result<usize> {
    word.parse().map_err(io::Error::other)
}

/// How bytes come into the kernel.
enum Way {
    Copy(Volley),
    Lend(Lent),
}

/// Packets of one size to one port.
struct Sender {
    socket: UdpSocket,
    way: Way,
    messages: usize,
    segments: usize,
    next: usize,
}

impl Sender {
    fn new(way: &str, port: &str, size: &str, segments: &str) -> io::Result<Self> {
        let port: u16 = port.parse().map_err(io::Error::other)?;
        let (size, segments) = (number(size)?, number(segments)?);
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect((Ipv4Addr::LOCALHOST, port))?;
        if segments > 1 {
            door::cut(&socket, size)?;
        }
        let messages = if segments > 1 { MESSAGES } else { SINGLES };
        let mut bytes = vec![0; messages * segments * size].into_boxed_slice();
        for (number, room) in bytes.chunks_exact_mut(size).enumerate() {
            packet::write(room, number);
        }
        let way = match way {
            "lend" => Way::Lend(Lent::new(&bytes, segments * size)?),
            _ => Way::Copy(Volley::new(bytes, segments * size)),
        };
        Ok(Self {
            socket,
            way,
            messages,
            segments,
            next: 0,
        })
    }

    /// Sends `count` packets, or as many more as the last message has.
    fn burst(&mut self, count: usize) -> io::Result<(usize, u128)> {
        let start = Instant::now();
        let mut sent = 0;
        while sent < count {
            sent += self.some((count - sent).div_ceil(self.segments))?;
        }
        Ok((sent, start.elapsed().as_nanos()))
    }

    /// Sends until something comes on the standard input.
    fn flood(&mut self) -> io::Result<(usize, u128)> {
        let start = Instant::now();
        let mut sent = 0;
        while !door::input_waits() {
            sent += self.some(CALL)?;
        }
        Ok((sent, start.elapsed().as_nanos()))
    }

    /// Up to `most` messages; returns the packets that went.
    fn some(&mut self, most: usize) -> io::Result<usize> {
        let most = most.min(CALL);
        let sent = match &mut self.way {
            Way::Copy(volley) => volley.send(&self.socket, self.next, most),
            Way::Lend(lent) => lent.send(&self.socket, self.next, most),
        };
        match sent {
            Ok(messages) => {
                self.next = (self.next + messages) % self.messages;
                Ok(messages * self.segments)
            }
            // A receiver that has just gone; told once, and nothing was sent.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(0),
            Err(error) => Err(error),
        }
    }
}
