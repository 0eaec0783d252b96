//! What is made once in a process.

use loom::sync::Arc;
use loom::thread;

use super::model;
use crate::process::PerProcess;

#[test]
fn two_threads_of_a_process_ask_first() {
    model(|| {
        let value = Arc::new(PerProcess::<()>::new());
        let theirs = Arc::clone(&value);
        let other = thread::spawn(move || std::ptr::from_ref(theirs.of(1)).addr());
        let mine = std::ptr::from_ref(value.of(1)).addr();
        assert_eq!(mine, other.join().unwrap(), "one for both");
    });
}
