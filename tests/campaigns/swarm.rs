//! Short traces by the million: the core against its model, side by side.
//!
//! `swarm run SEED COUNT SECONDS FOLDER` runs the traces of COUNT seeds from SEED on, or as many
//! as SECONDS allow. Nothing is written as text but a difference: its trace is made as short as
//! it can be and kept in FOLDER, for the corpus. `swarm trace SEED FILE` writes the trace of a
//! seed. `swarm stream SEED COUNT` writes traces to the standard output with the digest of what
//! the model says of each, for an executor that is slower than the model: four bytes of length,
//! the trace, four bytes of digest, little endian.
//!
//! The last line is what a ledger keeps.

use std::fs;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pagefrag_tests::traces::{Tally, compare, digest, model_log, swarm};

/// Bytes of the head of a trace, and of a step.
const HEAD: usize = 4;
const STEP: usize = 8;
/// Traces between two looks at the clock.
const LOOK: u64 = 1 << 10;
/// Differences after which it is enough.
const ENOUGH: u64 = 10;

/// The seed whose trace is running.
static RUNNING: AtomicU64 = AtomicU64::new(0);

/// Has the seed told if the process is killed, by itself or by others.
fn tell_if_killed() {
    extern "C" fn tell(signal: libc::c_int) {
        let mut text = *b"swarm: killed in the trace of seed 00000000000000000000\n";
        // Relaxed, also where it is stored: read on the thread that runs the trace, or too
        // late to matter.
        let mut seed = RUNNING.load(Ordering::Relaxed);
        for digit in text.iter_mut().rev().skip(1).take(20) {
            *digit += u8::try_from(seed % 10).unwrap_or(0);
            seed /= 10;
        }
        // SAFETY: bytes of this function's own; `write` may be called by a handler.
        unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
        // SAFETY: as above, the signal goes on as it would have.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        // SAFETY: as above.
        unsafe { libc::raise(signal) };
    }
    let handler = tell as extern "C" fn(libc::c_int);
    for signal in [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGABRT,
        libc::SIGINT,
        libc::SIGTERM,
    ] {
        // SAFETY: the handler calls only what a handler may call.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// Has the memory of one trace serve the next; else the heap would shrink and grow with each.
fn keep_memory() {
    for threshold in [libc::M_TRIM_THRESHOLD, libc::M_MMAP_THRESHOLD] {
        // SAFETY: a setting of this process's own heap.
        unsafe { libc::mallopt(threshold, 32 << 20) };
    }
}

/// A panic is a difference.
fn run(trace: &[u8]) -> Tally {
    catch_unwind(AssertUnwindSafe(|| compare(trace))).unwrap_or_default()
}

/// `trace` without the steps that it differs without, too.
fn shortened(mut trace: Vec<u8>) -> Vec<u8> {
    let mut part = (trace.len() - HEAD) / STEP;
    while part != 0 {
        let mut at = HEAD;
        while at < trace.len() {
            let end = (at + part * STEP).min(trace.len());
            let shorter = [&trace[..at], &trace[end..]].concat();
            if run(&shorter).same {
                at = end;
            } else {
                trace = shorter;
            }
        }
        part /= 2;
    }
    trace
}

fn find(seed: u64, folder: &Path) -> io::Result<()> {
    let trace = shortened(swarm(seed));
    let file = folder.join(format!("swarm-{seed}"));
    let steps = (trace.len() - HEAD) / STEP;
    println!("seed {seed}: {steps} steps in {}", file.display());
    fs::write(file, trace)
}

/// Runs the traces of so many seeds, or as many as there is time for. How many differ.
fn run_all(first: u64, count: u64, time: Duration, folder: &Path) -> io::Result<u64> {
    tell_if_killed();
    keep_memory();
    let started = Instant::now();
    let (mut ran, mut steps, mut done, mut differ) = (0, 0, 0, 0);
    while ran < count && differ < ENOUGH && (ran % LOOK != 0 || started.elapsed() < time) {
        let seed = first + ran;
        RUNNING.store(seed, Ordering::Relaxed);
        let tally = run(&swarm(seed));
        if !tally.same {
            differ += 1;
            find(seed, folder)?;
        }
        ran += 1;
        steps += tally.steps;
        done += tally.done;
    }
    #[allow(clippy::cast_precision_loss)] // for people
    let each = |sum: u64| sum as f64 / ran.max(1) as f64;
    println!(
        "core against model: {ran} executions from seed {first} on, {steps} steps ({:.1} in each, \
         {:.1} of them did something), {:.0} s, {differ} differ",
        each(steps),
        each(done),
        started.elapsed().as_secs_f64()
    );
    Ok(if ran == 0 { 1 } else { differ })
}

fn stream(first: u64, count: u64, out: &mut impl Write) -> io::Result<()> {
    for seed in first..first.saturating_add(count) {
        let trace = swarm(seed);
        let length = u32::try_from(trace.len()).map_err(io::Error::other)?;
        out.write_all(&length.to_le_bytes())?;
        out.write_all(&trace)?;
        out.write_all(&digest(model_log(&trace).as_bytes()).to_le_bytes())?;
    }
    out.flush()
}

fn number(word: &str) -> io::Result<u64> {
    let digits = word.replace('_', "");
    digits.parse().map_err(io::Error::other)
}

fn obey(words: &[&str]) -> io::Result<bool> {
    match words {
        ["run", seed, count, seconds, folder] => {
            let time = Duration::from_secs(number(seconds)?);
            let differ = run_all(number(seed)?, number(count)?, time, Path::new(folder))?;
            return Ok(differ == 0);
        }
        ["trace", seed, file] => fs::write(file, swarm(number(seed)?))?,
        ["stream", seed, count] => {
            let mut out = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
            match stream(number(seed)?, number(count)?, &mut out) {
                // Whoever reads has enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                done => done?,
            }
        }
        _ => {
            eprintln!("swarm: run SEED COUNT SECONDS FOLDER | trace SEED FILE | stream SEED COUNT");
            return Ok(false);
        }
    }
    Ok(true)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match obey(&words) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("swarm: {error}");
            ExitCode::FAILURE
        }
    }
}
