//! `trace log FILE...`: runs traces and prints what happened; `trace model
//! FILE...`: what the model says should happen.
//! `trace digests SEED COUNT STEPS`: a line for each of COUNT random traces,
//! with a digest of either; `trace digests-of FILE...`: the same of files.
//! `trace faults FILE...`: the same for each way in which a call of the pool to
//! the system may fail while the trace of a file runs; the way is the fourth byte
//! of a trace, and told behind the file's name.

use std::io::{self, Write};
use std::process::ExitCode;

use pagefrag_tests::traces::{digest, log, log_and_faults, model_log, random};

fn number(word: Option<&String>) -> Option<u64> {
    word?.parse().ok()
}

/// Digests of what the core does with a trace, and of what the model says.
fn digests(name: &str, trace: &[u8], out: &mut impl Write) -> io::Result<()> {
    let [core, model] = [log, model_log].map(|log| digest(log(trace).as_bytes()));
    writeln!(out, "{name} {core:08x} {model:08x}")
}

/// Digests of a trace with each plan of faults that has something fail.
fn faults(name: &str, trace: &[u8], out: &mut impl Write) -> io::Result<()> {
    let mut trace = trace.to_vec();
    trace.resize(trace.len().max(4), 0);
    for (what, lasts) in (1..=4).flat_map(|what| [(what, 0), (what, 8)]) {
        for first in 0..16 {
            let plan = first << 4 | lasts | what;
            trace[3] = plan;
            let (core, failed) = log_and_faults(&trace);
            if failed == 0 {
                break;
            }
            let [core, model] = [core, model_log(&trace)].map(|log| digest(log.as_bytes()));
            writeln!(out, "{name} {plan} {core:08x} {model:08x}")?;
        }
    }
    Ok(())
}

fn run(words: &[String], out: &mut impl Write) -> io::Result<bool> {
    let Some((command, rest)) = words.split_first() else {
        return Ok(false);
    };
    match command.as_str() {
        "log" => {
            for file in rest {
                out.write_all(log(&std::fs::read(file)?).as_bytes())?;
            }
        }
        "model" => {
            for file in rest {
                out.write_all(model_log(&std::fs::read(file)?).as_bytes())?;
            }
        }
        "faults" => {
            for file in rest {
                faults(file, &std::fs::read(file)?, out)?;
            }
        }
        "digests-of" => {
            for file in rest {
                digests(file, &std::fs::read(file)?, out)?;
            }
        }
        "digests" => {
            let [Some(seed), Some(count), Some(steps)] = [0, 1, 2].map(|at| number(rest.get(at)))
            else {
                return Ok(false);
            };
            for seed in seed..seed + count {
                let trace = random(seed, usize::try_from(steps).unwrap_or(0));
                digests(&seed.to_string(), &trace, out)?;
            }
        }
        _ => return Ok(false),
    }
    out.flush()?;
    Ok(true)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words, &mut io::stdout().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!(
                "trace: log | model | digests-of | faults FILE..., or digests SEED COUNT STEPS"
            );
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("trace: {error}");
            ExitCode::FAILURE
        }
    }
}
