#![no_main]

#[path = "../../tests/fuzz_bodies/mod.rs"]
mod fuzz_bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    for (name, bytes) in fuzz_bodies::edited_files(data) {
        tools::walinspect::inspect_bytes(&name, &bytes);
    }
});
