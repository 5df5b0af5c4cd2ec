//! Bytes as a configuration, YAML or JSON: refused with an error or put in force, and put in force again without a change.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fusebox_proxy::fuzzing::config(bytes);
});
