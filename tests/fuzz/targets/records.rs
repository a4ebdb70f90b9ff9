//! TLS's records behind a handshake, from a peer who has the keys and says anything.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cupbearer::tls::fuzzing::records(data));
