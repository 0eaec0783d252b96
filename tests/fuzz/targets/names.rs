//! Any bytes are the name of a sender, which is read or is none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pagefrag::net::Source;

fuzz_target!(|name: &[u8]| {
    let source = Source::from_name(name);
    assert!(name.starts_with(source.as_bytes()));
    if let Some(address) = source.to_socket_addr() {
        // What is understood is written as the kernel writes it, and read again.
        assert_eq!(Source::from(address).to_socket_addr(), Some(address));
    }
});
