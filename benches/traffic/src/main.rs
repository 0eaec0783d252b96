//! `traffic`: sends datagrams as fast as the kernel takes them, or receives them
//! without Python in the way. The benches of the rings start one of each.
//!
//! ```text
//!   traffic send
//!       burst copy|lend PORT SIZE SEGMENTS COUNT      -> packets, nanoseconds
//!       flood copy|lend PORT SIZE SEGMENTS, any line  -> packets, nanoseconds
//!   traffic receive FD SIZE SLOTS gro|plain
//!       run MILLISECONDS | drain | check
//!                 -> packets, bytes, wrong ones, nanoseconds, of the processor, sum
//! ```
//!
//! Commands come on the standard input, one to a line; each is answered with one
//! line of numbers. Both ends go when the input ends.

mod door;
mod packet;
mod receive;
mod send;

use std::env;
use std::io;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["send"] => send::serve(),
        ["receive", fd, size, slots, mode @ ("gro" | "plain")] => {
            receive::serve(fd, size, slots, mode == "gro")
        }
        _ => Err(io::Error::other(
            "usage: traffic send | receive FD SIZE SLOTS gro|plain",
        )),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("traffic: {error}");
            ExitCode::FAILURE
        }
    }
}
