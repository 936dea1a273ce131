//! Writes the inputs to begin with into `corpus/`.

#[path = "../../tests/fuzz_bodies/mod.rs"]
mod fuzz_bodies;

use std::path::Path;
use std::{fs, io};

fn main() -> io::Result<()> {
    for (target, _) in fuzz_bodies::TARGETS {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        fs::create_dir_all(&directory)?;
        for (index, seed) in fuzz_bodies::seeds::seeds(target).iter().enumerate() {
            fs::write(directory.join(format!("seed-{index:02}")), seed)?;
        }
    }
    Ok(())
}
