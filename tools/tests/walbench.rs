//! `walbench` as its users run it: short runs, their JSON, and a clean directory afterwards.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

fn walbench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_walbench")).args(args).output().expect("walbench starts")
}

fn directory() -> TempDir {
    // Beside the target directory: /tmp may be memory, which has no device and no direct I/O.
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn entries(directory: &Path) -> usize {
    fs::read_dir(directory).expect("a list").count()
}

fn measured(io_backend: &str, commit: &str, json: &Path, scratch: &Path) {
    let output = walbench(&[
        "log",
        "--dir",
        &scratch.to_string_lossy(),
        "--io-backend",
        io_backend,
        "--commit",
        commit,
        "--writers",
        "50",
        "--seconds",
        "1",
        "--window",
        "50",
        "--segment-bytes",
        "1048576",
        "--json",
        &json.to_string_lossy(),
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("log ÷ floor"), "{}", text(&output.stdout));
    assert!(output.stderr.is_empty(), "no progress bar in a pipe: {}", text(&output.stderr));
}

fn check_json(json: &Path, io_backend: &str) {
    let report: Value = serde_json::from_slice(&fs::read(json).expect("a result")).expect("JSON");
    assert_eq!(report["schema"], 1);
    assert_eq!(report["environment"]["io_backend"], io_backend);
    assert!(report["environment"]["kernel"].as_str().is_some_and(|kernel| !kernel.is_empty()));
    assert_eq!(report["sequential_write_bytes_per_s"].as_array().map(Vec::len), Some(2));
    let case = &report["cases"][0];
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"));
    assert!(number(&case["records"]) > 0.0);
    assert!((1.0..=50.0).contains(&number(&case["records_per_commit"])), "{case}");
    // Whole groups: a record of 128 bytes and its share of the frame's header and padding.
    assert!(number(&case["logged_bytes"]) > number(&case["records"]) * 128.0);
    for summary in [&case["service"], &case["floor_sync"], &case["stages"]["synced"]] {
        let quantiles = ["p50_ns", "p90_ns", "p99_ns", "p99_9_ns", "p99_99_ns", "p99_999_ns", "max_ns"];
        let values: Vec<f64> = quantiles.iter().map(|name| number(&summary[name])).collect();
        assert!(values[0] > 0.0 && values.windows(2).all(|pair| pair[0] <= pair[1]), "{summary}");
    }
    assert_eq!(case["stages"]["synced"]["count"], case["commits"]);
    let ratio = &case["ratios"]["p50"];
    assert!(number(&ratio["low"]) <= number(&ratio["median"]) && number(&ratio["median"]) <= number(&ratio["high"]));
    let kinds: Vec<&str> =
        case["windows"].as_array().expect("windows").iter().filter_map(|window| window["kind"].as_str()).collect();
    assert!(kinds.contains(&"log") && kinds.contains(&"sync"), "{kinds:?}");
    assert!(number(&case["thread_cpu_ns_per_record"]) > 0.0);
    check_document(&report);
}

/// Every field stands in the document.
fn check_document(value: &Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let document = include_str!("../../docs/WALBENCH.md");
                assert!(document.contains(name.as_str()), "docs/WALBENCH.md does not name {name}");
                check_document(value);
            }
        }
        Value::Array(values) => values.iter().for_each(check_document),
        _ => {}
    }
}

#[test]
fn a_short_run_measures_on_both_backends_and_leaves_nothing_behind() {
    let (scratch, results) = (directory(), directory());
    for io_backend in ["uring", "epoll"] {
        if io_backend == "uring" && net::reactor::uring::probe().is_err() {
            continue;
        }
        for commit in ["mmap", "direct"] {
            let json = results.path().join(format!("{io_backend}-{commit}.json"));
            measured(io_backend, commit, &json, scratch.path());
            check_json(&json, io_backend);
            assert_eq!(entries(scratch.path()), 0);
        }
    }
}

#[test]
fn an_open_loop_shows_both_latencies_and_every_file_is_written() {
    let (scratch, results) = (directory(), directory());
    let at = |name: &str| results.path().join(name).to_string_lossy().into_owned();
    let output = walbench(&[
        "log",
        "--dir",
        &scratch.path().to_string_lossy(),
        "--rate",
        "2000",
        "--commit",
        "mmap",
        "--seconds",
        "0.5",
        "--window",
        "50",
        "--segment-bytes",
        "1048576",
        "--json",
        "-",
        "--hgrm",
        &at("hgrm"),
        "--hlog",
        &at("log.hlog"),
        "--svg",
        &at("latency.svg"),
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("nothing but JSON on standard output");
    let case = &report["cases"][0];
    let p50 = |of: &str| case[of]["p50_ns"].as_u64().expect("a number");
    // A response includes its service: it began no later.
    assert!(p50("response") >= p50("service") && p50("service") > 0, "{case}");
    let names: Vec<String> = fs::read_dir(results.path().join("hgrm"))
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    assert!(names.iter().any(|name| name.ends_with("-response.hgrm")), "{names:?}");
    assert!(fs::read_to_string(at("log.hlog")).expect("an interval log").contains("Tag=mmap-recycled"));
    assert!(fs::read_to_string(at("latency.svg")).expect("a picture").starts_with("<svg"));
    assert_eq!(entries(scratch.path()), 0);
}

#[test]
fn the_floor_and_the_stalls_are_measured_alone() {
    let scratch = directory();
    let measured = |more: &[&str]| {
        let dir = scratch.path().to_string_lossy().into_owned();
        let mut args = vec!["floor", "--dir", &dir, "--seconds", "0.1", "--json", "-"];
        args.extend(more);
        let output = walbench(&args);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        check_document(&report);
        report
    };
    let floors = measured(&["--bytes", "128,16384", "--prepare", "zeros4k,zeros1m,fallocate,recycled"]);
    let floors = floors["floors"].as_array().expect("floors");
    assert_eq!(floors.len(), 2 * 4 * 2, "bytes, preparations, ways of making them durable");
    for floor in floors {
        assert!(floor["latency"]["count"].as_u64().is_some_and(|count| count > 0), "{floor}");
    }
    let stalls = measured(&["--stall"]);
    let stalls = stalls["stalls"].as_array().expect("stalls");
    let commits = |mapping: &str, beside: bool| {
        let found = stalls.iter().find(|stall| stall["mapping"] == mapping && stall["while_committing"] == beside);
        found.expect("every combination")["commits"].as_u64().expect("a number")
    };
    for mapping in ["mmap", "direct"] {
        assert_eq!(commits(mapping, false), 0);
        assert!(commits(mapping, true) > 0);
    }
    assert_eq!(entries(scratch.path()), 0);
}

#[test]
fn compare_passes_equal_results_and_fails_a_slower_one() {
    let (scratch, results) = (directory(), directory());
    let (a, slower) = (results.path().join("a.json"), results.path().join("slower.json"));
    measured("epoll", "mmap", &a, scratch.path());
    let mut report: Value = serde_json::from_slice(&fs::read(&a).expect("a result")).expect("JSON");
    for window in report["cases"][0]["windows"].as_array_mut().expect("windows") {
        if window["kind"] == "log" {
            for field in ["p50_ns", "p99_ns"] {
                window[field] = Value::from(1000 * window[field].as_u64().expect("a number"));
            }
        }
    }
    fs::write(&slower, report.to_string()).expect("written");
    let (a, slower) = (a.to_string_lossy().into_owned(), slower.to_string_lossy().into_owned());
    let equal = walbench(&["compare", &a, &a]);
    assert_eq!(equal.status.code(), Some(0), "{}{}", text(&equal.stdout), text(&equal.stderr));
    let worse = walbench(&["--compare", &a, &slower]);
    assert_eq!(worse.status.code(), Some(3), "{}{}", text(&worse.stdout), text(&worse.stderr));
    assert!(text(&worse.stdout).contains("REGRESSION"));
    assert_eq!(walbench(&["compare", &slower, &a]).status.code(), Some(0), "faster is no regression");
    assert_eq!(walbench(&["compare", &a, &slower, "--threshold", "1e6"]).status.code(), Some(0));
}

#[test]
fn compare_says_what_is_wrong_with_its_files() {
    let results = directory();
    let (foreign, newer) = (results.path().join("foreign.json"), results.path().join("newer.json"));
    fs::write(&foreign, "{\"a\": 1}").expect("written");
    fs::write(&newer, "{\"tool\": \"walbench\", \"schema\": 2}").expect("written");
    for (path, said) in [(&foreign, "no result of walbench"), (&newer, "has schema 2")] {
        let output = walbench(&["compare", &path.to_string_lossy(), &path.to_string_lossy()]);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(said), "{}", text(&output.stderr));
        assert_eq!(text(&output.stderr).lines().count(), 1);
    }
}

#[test]
fn what_a_killed_process_acknowledged_is_recovered() {
    let scratch = directory();
    let output = walbench(&["crash", "--dir", &scratch.path().to_string_lossy(), "--rounds", "3", "--seed", "7"]);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    for commit in ["mmap", "direct"] {
        let rounds: Vec<&str> = said.lines().filter(|line| line.contains(&format!(": {commit} on "))).collect();
        assert_eq!(rounds.len(), 3, "{said}");
    }
    assert!(!said.contains(" 0 acknowledged"), "{said}");
    assert_eq!(entries(scratch.path()), 0);
}

#[test]
fn load_on_nobody_is_one_clear_error() {
    // Bound, and so not given to anybody else, but nobody listens.
    let reserved = std::net::UdpSocket::bind("127.0.0.1:0").expect("an address").local_addr().expect("bound");
    let output = walbench(&["net", "--addr", &reserved.to_string(), "--seconds", "1"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("start a node there") && said.lines().count() == 1, "{said}");
    assert!(output.stdout.is_empty());
}

#[test]
fn load_on_a_node_is_measured_in_both_loops() {
    let node = Node::start();
    for (rate, protocol) in [(None, "resp"), (Some("2000"), "resp"), (None, "native"), (Some("2000"), "native")] {
        let mut args = vec![
            "net",
            "--protocol",
            protocol,
            "--addr",
            &node.addr,
            "--connections",
            "8",
            "--pipeline",
            "4",
            "--get",
            "50",
            "--fill",
        ];
        args.extend(["--keys", "100", "--seconds", "0.6", "--window", "100", "--json", "-"]);
        args.extend(rate.iter().flat_map(|rate| ["--rate", rate]));
        let output = walbench(&args);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        check_document(&report);
        let net = &report["net"];
        assert!(net["commands"].as_u64().is_some_and(|commands| commands > 100), "{net}");
        assert_eq!((&net["errors"], &net["misses"]), (&Value::from(0), &Value::from(0)), "{net}");
        assert_eq!(net["response"].is_null(), rate.is_none());
        assert_eq!(net["protocol"], protocol);
        let count = |of: &str| net[of]["count"].as_u64().expect("a number");
        assert_eq!(count("get") + count("set"), count("service"));
        assert!(count("get") > 0 && count("set") > 0);
    }
}

/// A daemon on ports of its own.
struct Node {
    addr: String,
    process: std::process::Child,
    _directory: TempDir,
}

impl Node {
    fn start() -> Node {
        use std::net::{TcpListener, TcpStream};

        let directory = directory();
        let held: Vec<TcpListener> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let ports: Vec<u16> = held.iter().map(|listener| listener.local_addr().expect("bound").port()).collect();
        drop(held);
        let mut command = Command::new(env!("CARGO_BIN_EXE_godwit"));
        command.arg("daemon").arg("--data-dir").arg(directory.path().join("data"));
        for (flag, port) in ["discovery", "replication", "storage", "admin"].iter().zip(&ports) {
            command.arg(format!("--{flag}-port")).arg(port.to_string());
        }
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut process = command.spawn().expect("the daemon starts");
        let addr = format!("127.0.0.1:{}", ports[2]);
        let started = std::time::Instant::now();
        while TcpStream::connect(&addr).is_err() {
            if let Some(status) = process.try_wait().expect("a child") {
                panic!("the daemon ended: {status}");
            }
            assert!(started.elapsed().as_secs() < 30, "the daemon does not listen");
            std::thread::yield_now();
        }
        Node { addr, process, _directory: directory }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
