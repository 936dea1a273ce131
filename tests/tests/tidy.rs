//! Hygiene as a test: what the architecture promises about absence, as far as text can show it.

use std::collections::BTreeSet;
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

/// Crates whose every file is pure — no clock, file, socket, thread, environment or randomness of the system — but for [`IMPURE`].
const PURE: &[&str] = &["wal/src/", "net/src/", "engine/src/"];

/// What a pure file must not name.
const FORBIDDEN: &[&str] = &[
    "Instant::now",
    "SystemTime",
    "fs::",
    "OpenOptions",
    "thread::",
    "env::",
    "std::process",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "RandomState",
    "rand::",
    "getrandom",
    "libc::",
    "memmap2",
    "rustix::",
    "socket2",
    "mio::",
    "io_uring::",
    "tokio::",
    "tokio_uring",
];

/// A place that touches the system.
struct Impure {
    /// A file, or a directory.
    place: &'static str,
    /// What it names of [`FORBIDDEN`]; everything else is forbidden there, too.
    names: &'static [&'static str],
    /// What for.
    why: &'static str,
}

/// The boundary: all there is between the state machines and the system.
const IMPURE: &[Impure] = &[
    Impure { place: "wal/src/map.rs", names: &["fs::", "memmap2"], why: "maps files that somebody else opened" },
    Impure { place: "net/src/reactor/uring/", names: FORBIDDEN, why: "a back-end: the system is what it is about" },
    Impure { place: "net/src/reactor/epoll/", names: FORBIDDEN, why: "a back-end: the system is what it is about" },
    Impure {
        place: "net/src/reactor/os.rs",
        names: &["Instant::now", "SystemTime", "fs::"],
        why: "the clocks and the randomness of both back-ends",
    },
    Impure {
        place: "net/src/reactor/os_file.rs",
        names: &["fs::", "OpenOptions", "libc::"],
        why: "the files of both back-ends",
    },
    Impure {
        place: "net/src/reactor/file_job.rs",
        names: &["fs::", "OpenOptions", "rustix::"],
        why: "what the helper thread does to files",
    },
    Impure {
        place: "net/src/reactor/disk.rs",
        names: &["fs::", "OpenOptions", "thread::", "libc::"],
        why: "the disk that start-up reads, behind a trait that the simulator implements",
    },
    Impure {
        place: "net/src/reactor/helper.rs",
        names: &["fs::", "thread::", "tokio::", "tokio_uring", "io_uring::"],
        why: "the node's one thread for what may block long",
    },
    Impure { place: "net/src/reactor/listen.rs", names: &["socket2"], why: "listeners of both back-ends" },
    Impure { place: "net/src/reactor/sockopt.rs", names: &["socket2", "TcpStream"], why: "options of their sockets" },
    Impure {
        place: "net/src/reactor/waker.rs",
        names: &["fs::", "rustix::", "mio::"],
        why: "the eventfd that ends a sleep",
    },
    Impure { place: "net/src/reactor/mod.rs", names: &["libc::"], why: "error numbers" },
    Impure { place: "net/src/reactor/sim/", names: &["libc::"], why: "error numbers" },
    Impure { place: "net/src/resp/blocking.rs", names: &["TcpStream"], why: "a client for tools, never in a node" },
    Impure {
        place: "net/src/client/connection.rs",
        names: &["TcpStream"],
        why: "a client for programs, never in a node",
    },
    Impure { place: "engine/src/daemon.rs", names: FORBIDDEN, why: "assembles a node from the system's parts" },
    Impure { place: "engine/src/entry.rs", names: FORBIDDEN, why: "a process: arguments, signals, exit codes" },
    Impure { place: "engine/src/bin/", names: FORBIDDEN, why: "a process: arguments, signals, exit codes" },
    Impure {
        place: "engine/src/config/mod.rs",
        names: &["fs::", "env::", "thread::"],
        why: "reads the environment and region.env",
    },
    Impure {
        place: "engine/src/config/interfaces.rs",
        names: &["fs::", "UdpSocket", "libc::"],
        why: "lists the machine's interfaces",
    },
    Impure {
        place: "engine/src/monitor/",
        names: &["TcpListener", "TcpStream", "tokio::", "std::process"],
        why: "the admin port, on a thread of its own",
    },
    Impure { place: "engine/src/frontend/resp/info.rs", names: &["std::process"], why: "INFO names the process" },
    Impure { place: "engine/src/bus_error.rs", names: &["rustix::"], why: "a signal handler's last words" },
    Impure {
        place: "engine/src/control/status.rs",
        names: &["Instant::now"],
        why: "the status board's age, for the admin port's thread; no loop reads it",
    },
];

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

/// The file without whole-line comments and items that only tests have.
fn code(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let start = line.trim_start();
        if start.starts_with("#[cfg(test)]") {
            let indent = &line[..line.len() - start.len()];
            // Attributes, then the item: one line, or up to the brace that closes it.
            let item = lines.by_ref().find(|line| !line.trim_start().starts_with("#["));
            if item.is_some_and(|item| !item.ends_with([';', '}'])) {
                let end = format!("{indent}}}");
                _ = lines.by_ref().find(|line| *line == end);
            }
        } else if !start.starts_with("//") {
            code.push_str(line);
            code.push('\n');
        }
    }
    code
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

/// What of [`FORBIDDEN`] the production code of a file names.
fn forbidden_names(text: &str) -> Vec<&'static str> {
    let code = code(text);
    let names_it = |word: &str| {
        let whole = |at: usize| !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_');
        code.match_indices(word).any(|(at, _)| whole(at))
    };
    FORBIDDEN.iter().copied().filter(|word| names_it(word)).collect()
}

/// Unit tests in files of their own.
fn is_test(name: &str) -> bool {
    name.contains("/tests/") || name.ends_with("tests.rs")
}

#[test]
fn what_touches_the_system_is_listed_with_its_reason() {
    let mut used = BTreeSet::new();
    let mut found = Vec::new();
    for (name, text) in sources() {
        if !is_below(&name, PURE) || is_test(&name) {
            continue;
        }
        for word in forbidden_names(&text) {
            let allowed = IMPURE.iter().find(|impure| is_below(&name, &[impure.place]) && impure.names.contains(&word));
            match allowed {
                Some(Impure { place, .. }) => _ = used.insert(*place),
                None => found.push(format!("{name} names {word}")),
            }
        }
    }
    assert!(found.is_empty(), "state machines read no clock, file, socket, thread or randomness: {found:#?}");
    for Impure { place, why, .. } in IMPURE {
        assert!(used.contains(place), "{place} ({why}) touches nothing any more: take it off the list");
    }
}

#[test]
fn a_state_machine_that_reads_the_clock_is_noticed() {
    let pure = "use std::time::{Duration, Instant};\n/// Not `Instant::now`.\nfn at(now: Instant) -> Instant { now }\n";
    assert_eq!(forbidden_names(pure), [""; 0], "types and comments are harmless");
    let impure = pure.replace("{ now }", "{ Instant::now() }");
    assert_eq!(forbidden_names(&impure), ["Instant::now"]);
    assert_eq!(forbidden_names("let t = std::time::SystemTime::now();"), ["SystemTime"]);
    assert_eq!(forbidden_names("use std::{fs, io};\nlet bytes = fs::read(path)?;"), ["fs::"]);
    assert_eq!(forbidden_names("let x = vfs::open(); // fs::read"), ["fs::"], "a comment behind code counts");
    assert_eq!(forbidden_names("let x = vfs::open();"), [""; 0], "names are whole");
    // What only tests have is theirs, wherever it stands; what follows is not.
    let tests =
        "    #[cfg(test)]\n    mod tests {\n        fn b() { Instant::now() }\n    }\n#[cfg(test)]\nmod more;\n";
    assert_eq!(forbidden_names(tests), [""; 0]);
    assert_eq!(forbidden_names(&format!("{tests}{impure}")), ["Instant::now"]);
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
