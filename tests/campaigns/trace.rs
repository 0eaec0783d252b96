//! `trace log FILE...`: runs traces and prints what happened; `trace model
//! FILE...`: what the model says should happen.
//! `trace digests SEED COUNT STEPS`: a line for each of COUNT random traces,
//! with a digest of either; `trace digests-of FILE...`: the same of files.

use std::io::{self, Write};
use std::process::ExitCode;

use pagefrag_tests::traces::{digest, log, model_log, random};

fn number(word: Option<&String>) -> Option<u64> {
    word?.parse().ok()
}

/// Digests of what the core does with a trace, and of what the model says.
fn digests(name: &str, trace: &[u8], out: &mut impl Write) -> io::Result<()> {
    let [core, model] = [log, model_log].map(|log| digest(log(trace).as_bytes()));
    writeln!(out, "{name} {core:016x} {model:016x}")
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
            eprintln!("trace: log | model | digests-of FILE..., or digests SEED COUNT STEPS");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("trace: {error}");
            ExitCode::FAILURE
        }
    }
}
