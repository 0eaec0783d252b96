//! Programs of every operation, made by proptest in the one format of all generators: the core does
//! what the model says. What fails is left as a trace in `finds`, cut down, for the corpus.

use std::path::Path;

use pagefrag_tests::traces::{log, model_log};
use proptest::prelude::*;

/// Giving back, as the format numbers it.
const RELEASE: u8 = 12;

/// Steps of a few operations, on small pages and mostly one thread, a third of them giving back: so
/// that they meet.
fn trace() -> impl Strategy<Value = Vec<u8>> {
    let page = prop_oneof![4 => Just(0_u8), 1 => 1_u8..4];
    let head = (page, 0_u8..4, 0_u8..4);
    let ops = prop::collection::vec(0_u8..32, 1..=5);
    let threads = prop_oneof![6 => Just(1_u8), 1 => Just(3)];
    let step = (
        any::<prop::sample::Index>(),
        0_u8..6,
        any::<u16>(),
        any::<u32>(),
    );
    let steps = prop::collection::vec(step, 1..160);
    (head, ops, threads, steps).prop_map(|((page, regions, init), ops, threads, steps)| {
        let mut trace = vec![page, regions, init, 0];
        for (op, die, handle, arg) in steps {
            trace.push(if die < 2 { RELEASE } else { *op.get(&ops) });
            trace.push(die % threads);
            trace.extend(handle.to_le_bytes());
            trace.extend(arg.to_le_bytes());
        }
        trace
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 256 } else { 2048 }))]

    #[test]
    fn the_core_does_what_the_model_says(trace in trace()) {
        let (core, model) = (log(&trace), model_log(&trace));
        if core != model {
            let finds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../finds");
            std::fs::create_dir_all(&finds)?;
            std::fs::write(finds.join("proptest.trace"), &trace)?;
        }
        for (core, model) in core.lines().zip(model.lines()) {
            prop_assert_eq!(core, model, "the core (left) against the model (right)");
        }
        prop_assert_eq!(core.len(), model.len());
    }
}
