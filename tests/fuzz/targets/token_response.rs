#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cupbearer::credential::fuzzing::token_response(data));
