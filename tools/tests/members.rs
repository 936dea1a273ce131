//! `godwit members`, `godwit member remove` and `godwit doctor` against a node that runs.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const GODWIT: &str = env!("CARGO_BIN_EXE_godwit");

/// How long a start may take that normally takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// A daemon on the default ports of a loopback address of its own.
struct Node {
    child: Child,
    host: Ipv4Addr,
}

impl Node {
    fn start(data_dir: &Path) -> Node {
        let [.., third, fourth] = std::process::id().to_be_bytes();
        let host = Ipv4Addr::new(127, 21, third, fourth.clamp(1, 254));
        let mut command = Command::new(GODWIT);
        command.args(["daemon", "--cores", "1", "--region", "sfo", "--bind-host", &host.to_string()]);
        command.args(["--discovery-peers", "127.21.255.255", "--data-dir"]).arg(data_dir);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the daemon");
        Node { child, host }
    }

    fn members(&self, args: &[&str]) -> Output {
        run(&[&["members", "--admin", &format!("{}:10800", self.host)], args].concat())
    }

    fn doctor(&self) -> serde_json::Value {
        let output = run(&["doctor", "--json", "--admin", &format!("{}:10800", self.host)]);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn remove(&self, node: &str) -> Output {
        run(&["member", "remove", node, "--discovery", &format!("{}:10200", self.host)])
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(args: &[&str]) -> Output {
    Command::new(GODWIT).args(args).stdin(Stdio::null()).output().expect("the command")
}

fn failed(output: &Output) -> &str {
    assert!(!output.status.success());
    let text = std::str::from_utf8(&output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn members_are_listed_and_a_removal_that_cannot_be_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(&directory.path().join("data"));
    let deadline = Instant::now() + PATIENCE;
    let listed = loop {
        let output = node.members(&["--json"]);
        let rows: Option<serde_json::Value> = serde_json::from_slice(&output.stdout).ok();
        match rows {
            Some(rows) if rows.as_array().is_some_and(|rows| !rows.is_empty()) => break rows,
            _ => assert!(Instant::now() < deadline, "{output:?}"),
        }
    };
    let id = listed[0]["node"].as_str().unwrap();
    assert_eq!((&listed[0]["region"], &listed[0]["state"]), (&"sfo".into(), &"joined".into()));
    let table = String::from_utf8(node.members(&[]).stdout).unwrap();
    assert!(table.lines().any(|line| line.contains(id) && line.contains("this node")), "{table}");

    let findings = node.doctor();
    let about = |subject: &str| {
        let found = findings.as_array().unwrap().iter().find(|finding| finding["subject"] == subject);
        found.unwrap_or_else(|| panic!("{subject}: {findings}")).clone()
    };
    let peer = about("link to 127.21.255.255:10200");
    assert_eq!(peer["state"], "unknown", "nobody is there: {peer}");
    for subject in ["net.ipv4.tcp_mtu_probing", "net.ipv4.tcp_slow_start_after_idle", "io_uring", "RLIMIT_NOFILE"] {
        assert_ne!(about(subject)["state"], "unknown");
    }

    let text = node.remove(id);
    assert!(failed(&text).contains("is this node itself; ask another node"), "{text:?}");
    let text = node.remove("00000bad");
    assert!(failed(&text).contains("no member of the mesh has the id 00000bad"), "{text:?}");
}

#[test]
fn an_address_without_a_node_is_named_with_the_setting_to_check() {
    let text = run(&["members", "--admin", "127.21.255.254:1"]);
    assert!(failed(&text).contains("127.21.255.254:1 does not answer") && failed(&text).contains("ADMIN_PORT"));
    // The doctor has something to say without a node, too.
    let text = run(&["doctor", "--admin", "127.21.255.254:1"]);
    let lines = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.status.success() && lines.contains("unknown  peers: 127.21.255.254:1 does not answer as a godwit node"),
        "{lines}"
    );
    assert!(lines.contains("RLIMIT_NOFILE"), "{lines}");
    let text = run(&["member", "remove", "1", "--discovery", "127.21.255.254:1"]);
    assert!(failed(&text).contains("DISCOVERY_PORT"), "{text:?}");
}
