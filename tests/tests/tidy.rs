//! Hygiene as a test: what the architecture promises about absence, as far as text can show it.

use std::fs;
use std::path::{Path, PathBuf};

/// The only places for `unsafe`, and why each needs it stands in the file. Below a directory, every file may.
const UNSAFE_ALLOWED: &[&str] = &[
    "wal/src/map.rs",
    "net/src/reactor/uring/",
    "net/src/reactor/epoll/",
    "net/src/reactor/sockopt.rs",
    "net/tests/reactor/seccomp.rs",
    "engine/src/config/interfaces.rs",
    "engine/src/bus_error.rs",
];

/// State machines: no clock, file, socket or randomness of the system.
const PURE: &[&str] = &[
    "wal/src/",
    "net/src/wire/",
    "net/src/resp/parse.rs",
    "net/src/resp/reply.rs",
    "engine/src/shard.rs",
    "engine/src/clock.rs",
    "engine/src/storage/",
    "engine/src/replication/",
    "engine/src/discovery/",
    "engine/src/frontend/",
];

/// What a state machine must not name.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::thread",
    "std::env",
    "Instant::now",
    "SystemTime",
    "TcpStream",
    "UdpSocket",
    "RandomState",
    "tokio::",
];

/// `wal/src/map.rs` maps files that somebody else opened.
const IMPURE_ALLOWED: &[&str] = &["wal/src/map.rs"];

/// rustfmt breaks code at 120; texts that cannot be broken may be longer.
const LINE_WIDTH_MAX: usize = 160;

/// Tables: one row a line.
const WIDE_ALLOWED: &[&str] = &["engine/src/frontend/resp/table.rs"];

const FILE_LINES_MAX: usize = 700;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Every Rust file of the workspace: path relative to the root, and text.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut directories: Vec<PathBuf> =
        ["wal", "net", "engine", "tools", "tests", "benches"].iter().map(|name| root().join(name)).collect();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory of the workspace") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                // What a build leaves is nobody's source; cargo-fuzz builds inside the tree.
                if path.file_name().is_some_and(|name| name != "target") {
                    directories.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).expect("inside the workspace").to_string_lossy().into_owned();
                found.push((name, fs::read_to_string(&path).expect("UTF-8")));
            }
        }
    }
    assert!(found.len() > 100, "the search went wrong");
    found
}

fn is_below(name: &str, places: &[&str]) -> bool {
    places.iter().any(|place| name == *place || (place.ends_with('/') && name.starts_with(place)))
}

/// The file without its comments and its unit tests.
fn code(text: &str) -> String {
    let production = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = production.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn unsafe_code_stays_where_it_is_explained() {
    let word = ["un", "safe"].concat();
    let keywords = [format!("{word} {{"), format!("{word} fn"), format!("{word} impl"), format!("{word}_code)")];
    for (name, text) in sources() {
        let names_it = keywords.iter().any(|keyword| text.contains(keyword.as_str()));
        assert!(!names_it || is_below(&name, UNSAFE_ALLOWED), "{name} holds {word} code");
    }
}

#[test]
fn state_machines_perform_no_input_or_output() {
    for (name, text) in sources() {
        if !is_below(&name, PURE) || is_below(&name, IMPURE_ALLOWED) {
            continue;
        }
        for word in IMPURE {
            assert!(!code(&text).contains(word), "{name} names {word}");
        }
    }
}

#[test]
fn crates_depend_in_one_direction() {
    for (name, forbidden) in [
        ("wal", &["net", "engine", "tokio", "socket2", "mio", "io-uring", "libc"][..]),
        ("net", &["wal", "engine"][..]),
        ("engine", &["tools", "io-uring", "mio", "memmap2", "tokio-uring"][..]),
    ] {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).expect("a manifest");
        for dependency in forbidden {
            let named = manifest.lines().any(|line| line.starts_with(&format!("{dependency}.workspace")));
            assert!(!named, "{name} depends on {dependency}");
        }
    }
}

#[test]
fn lines_and_files_are_short_enough_to_read() {
    for (name, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= FILE_LINES_MAX, "{name} has {lines} lines: cut it by role");
        for (index, line) in text.lines().enumerate() {
            let width = line.chars().count();
            assert!(
                width <= LINE_WIDTH_MAX || is_below(&name, WIDE_ALLOWED),
                "{name}:{} is {width} characters wide",
                index + 1
            );
        }
    }
}

#[test]
fn nothing_unfinished_is_left() {
    let markers =
        [["to", "do!("].concat(), ["unimpl", "emented!("].concat(), ["FIX", "ME"].concat(), ["#[ign", "ore"].concat()];
    for (name, text) in sources() {
        // A test that shows a fault of the product may wait for its repair, and says what is wrong.
        let text = text.replace(&[markers[3].as_str(), " = \"product bug: "].concat(), "");
        for marker in &markers {
            assert!(!text.contains(marker.as_str()), "{name} holds {marker}");
        }
    }
}

#[test]
fn every_document_that_the_readme_names_exists() {
    let readme = fs::read_to_string(root().join("README.md")).expect("a README");
    let targets = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let mut seen = 0;
    for target in targets.filter(|target| target.starts_with("docs/")) {
        assert!(root().join(target).exists(), "README.md names {target}, which does not exist");
        seen += 1;
    }
    assert!(seen > 5, "the README names its documents");
}
