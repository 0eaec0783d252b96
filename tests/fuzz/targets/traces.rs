//! Any bytes are a program, and the core does what the model says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pagefrag_tests::traces::{log, model_log};

fuzz_target!(|trace: &[u8]| {
    let (core, model) = (log(trace), model_log(trace));
    for (core, model) in core.lines().zip(model.lines()) {
        assert_eq!(core, model, "the core (left) against the model (right)");
    }
    assert_eq!(core.len(), model.len());
});
