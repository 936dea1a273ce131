//! `godwit verify` against daemons that run.

mod support;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;

use net::resp::BlockingClient;
use serde_json::Value;
use tempfile::TempDir;
use wal::{RecordView, crc32c};

use self::support::{PATIENCE, wait_for};

const GODWIT: &str = env!("CARGO_BIN_EXE_godwit");
const WALINSPECT: &str = env!("CARGO_BIN_EXE_walinspect");

/// A daemon on the default ports of a loopback address of its own.
struct Node {
    region: &'static str,
    host: Ipv4Addr,
    peers: Vec<Ipv4Addr>,
    residency: &'static str,
    directory: TempDir,
    child: Option<Child>,
}

impl Node {
    fn new(region: &'static str) -> Node {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let [.., network] = std::process::id().to_be_bytes();
        let host = Ipv4Addr::new(127, 23, network, NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = tempfile::tempdir().unwrap();
        Node { region, host, peers: Vec::new(), residency: "", directory, child: None }
    }

    fn start(&mut self) {
        self.child = Some(self.command().spawn().expect("the daemon"));
        wait_for("the daemon to listen", || self.connect());
    }

    fn command(&self) -> Command {
        let mut command = Command::new(GODWIT);
        command.arg("daemon").env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        let peers: Vec<String> = self.peers.iter().map(Ipv4Addr::to_string).collect();
        // Writes are on their way for a while.
        let delays: Vec<String> = peers.iter().map(|peer| format!("{peer}=15")).collect();
        let log = fs::File::options().create(true).append(true).open(self.directory.path().join("log")).unwrap();
        command.env("REGION", self.region).env("BIND_HOST", self.host.to_string()).env("CORES", "2").stderr(log);
        command.env("DISCOVERY_PEERS", peers.join(",")).env("LAB_LINK_DELAYS", delays.join(","));
        // Only when they are asked: a comparison that happens to be due would mend what the tests look for.
        command.env("DATA_DIR", self.data_dir()).env("ANTI_ENTROPY_INTERVAL", "0").env("RESIDENCY", self.residency);
        command
    }

    /// The exit code of a daemon that does not get far.
    fn run_to_its_end(&mut self) -> Option<i32> {
        self.child = Some(self.command().spawn().expect("the daemon"));
        let ended = wait_for("the daemon to end", || self.child.as_mut()?.try_wait().expect("its own child"));
        self.child = None;
        ended.code()
    }

    fn data_dir(&self) -> std::path::PathBuf {
        self.directory.path().join("data")
    }

    fn connect(&self) -> Option<BlockingClient> {
        BlockingClient::connect(SocketAddr::new(self.host.into(), 10_600), PATIENCE).ok()
    }

    fn client(&self) -> BlockingClient {
        self.connect().expect("the storage port")
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("its own child");
            child.wait().expect("its own child");
            // The kernel may close what a ring still holds some moments later; who connects until then is reset.
            let storage = SocketAddr::new(self.host.into(), 10_600);
            wait_for("its sockets to be closed", || TcpStream::connect(storage).is_err().then_some(()));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!(
                "--- {}\n{}",
                self.region,
                fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
            );
        }
    }
}

/// Nodes, each the peer of all others.
fn mesh<const N: usize>(regions: [&'static str; N]) -> [Node; N] {
    mesh_with("", regions)
}

fn mesh_with<const N: usize>(residency: &'static str, regions: [&'static str; N]) -> [Node; N] {
    let mut nodes = regions.map(Node::new);
    let hosts: Vec<Ipv4Addr> = nodes.iter().map(|node| node.host).collect();
    for node in &mut nodes {
        node.peers = hosts.iter().copied().filter(|host| *host != node.host).collect();
        node.residency = residency;
        node.start();
    }
    nodes
}

fn verify(args: &[&str]) -> Output {
    Command::new(GODWIT).arg("verify").args(args).stdin(Stdio::null()).output().expect("the command")
}

fn verify_nodes(nodes: &[&Node], args: &[&str]) -> (i32, Value) {
    let hosts: Vec<String> = nodes.iter().map(|node| node.host.to_string()).collect();
    let words: Vec<&str> = hosts.iter().map(String::as_str).chain(args.iter().copied()).chain(["--json"]).collect();
    let output = verify(&words);
    let code = output.status.code().expect("it was not killed");
    let report = serde_json::from_slice(&output.stdout);
    (code, report.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr))))
}

/// Until the nodes are equal with this many values each.
fn wait_until_equal(nodes: &[&Node], values: u64) -> Value {
    wait_for("the nodes to be equal", || {
        let (code, report) = verify_nodes(nodes, &["--wait", "20"]);
        assert_ne!(code, 1, "{report:#}");
        let counts = report["regions"].as_array()?.iter().map(|region| region["values"].as_u64());
        let all = counts.collect::<Option<Vec<u64>>>()?;
        (code == 0 && all.iter().all(|count| *count == values)).then_some(report)
    })
}

fn set(client: &mut BlockingClient, key: &str, value: &str) {
    client.call(&["SET", key, value]).unwrap();
}

#[test]
fn regions_that_have_converged_are_equal_and_one_that_is_down_leaves_it_open() {
    let [mut sfo, nyc, ams] = mesh(["sfo", "nyc", "ams"]);
    for (node, name) in [(&sfo, "s"), (&nyc, "n"), (&ams, "a")] {
        let mut client = node.client();
        (0..300).for_each(|n| set(&mut client, &format!("{name}{n}"), "value"));
        client.call(&["DEL", &format!("{name}7")]).unwrap();
        client.call(&["SET", &format!("{name}8"), "gone soon", "PX", "1"]).unwrap();
    }
    let report = wait_until_equal(&[&sfo, &nyc, &ams], 3 * 298);
    let digests: Vec<&Value> = report["regions"].as_array().unwrap().iter().map(|region| &region["digest"]).collect();
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{report:#}");
    assert_eq!(report["covered"].as_array().unwrap().len(), 3, "the three logs: {report:#}");

    // The others are found by the admin port of one of them.
    let admin = format!("{}:10800", nyc.host);
    let text = wait_for("every node to be listed", || {
        let output = verify(&["--admin", &admin]);
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code() == Some(0)).then_some(text)
    });
    assert!(text.ends_with("equal: all 3 regions have the same values\n"), "{text}");

    sfo.kill();
    let output = verify(&["--admin", &admin]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains(&format!("not compared: {}:10200", sfo.host)), "{text}");
    let output = verify(&[&sfo.host.to_string(), &nyc.host.to_string()]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), text.lines().count()), (Some(2), 1), "{text}");
    assert!(text.contains("at least two nodes are needed"), "{text}");
}

#[test]
fn a_key_that_differs_is_named_with_what_each_region_has() {
    let [sfo, mut nyc] = mesh(["sfo", "nyc"]);
    let mut client = sfo.client();
    (0..200).for_each(|n| set(&mut client, &format!("key-{n:03}"), "value"));
    wait_until_equal(&[&sfo, &nyc], 200);
    nyc.kill();
    // A record of another key stands where that of key-042 was, under sound checksums: nyc has lost one and made one up.
    replace_key(&nyc.data_dir(), b"key-042", b"kex-042");
    nyc.start();

    let (code, report) = verify_nodes(&[&sfo, &nyc], &[]);
    assert_eq!((code, &report["verdict"]), (1, &"different".into()), "{report:#}");
    let differences = report["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 2, "{report:#}");
    for (difference, key, lacking) in [(&differences[0], "kex-042", "sfo"), (&differences[1], "key-042", "nyc")] {
        assert_eq!((&difference["key"], &difference["lacking"][0]), (&key.into(), &lacking.into()), "{report:#}");
        for found in difference["found"].as_array().unwrap() {
            let has = if found["region"] == lacking { "nothing" } else { "value" };
            assert_eq!(found["has"], has, "{report:#}");
        }
    }
    assert_eq!(report["differences_complete"], true);
    let (code, report) = verify_nodes(&[&sfo, &nyc], &["--keys", "1"]);
    assert_eq!((code, &report["differences_complete"]), (1, &false.into()), "{report:#}");
    assert_eq!(report["differences"].as_array().unwrap().len(), 1);

    // Writes heal it: of a key that was written again the newer record counts.
    set(&mut client, "key-042", "again");
    set(&mut client, "kex-042", "again");
    wait_until_equal(&[&sfo, &nyc], 201);
}

fn repair(node: &Node) -> (Option<i32>, String) {
    let discovery = format!("{}:10200", node.host);
    let output = Command::new(GODWIT).args(["repair", "--discovery", &discovery]).stdin(Stdio::null()).output();
    let output = output.expect("the command");
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (output.status.code(), text.concat())
}

fn metric(node: &Node, name: &str) -> u64 {
    let url = format!("http://{}:10800/metrics", node.host);
    let text = ureq::get(&url).call().unwrap().into_body().read_to_string().unwrap();
    let values = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
    values.map(|value| value.parse::<u64>().unwrap()).sum()
}

/// The monitor shows what was some moments ago.
fn wait_for_metric(node: &Node, name: &str, is_due: impl Fn(u64) -> bool) -> u64 {
    wait_for(name, || Some(metric(node, name)).filter(|value| is_due(*value)))
}

/// Records that stand on a disk no more although everything says that they do: a write never mends them, and a repair does.
#[test]
fn what_a_node_lost_comes_back_by_a_repair_and_nothing_else_does() {
    let [sfo, mut nyc] = mesh(["sfo", "nyc"]);
    let (mut at_sfo, mut at_nyc) = (sfo.client(), nyc.client());
    (0..200).for_each(|n| set(&mut at_sfo, &format!("key-{n:03}"), "value"));
    (0..200).for_each(|n| set(&mut at_nyc, &format!("own-{n:03}"), "value"));
    wait_until_equal(&[&sfo, &nyc], 400);
    nyc.kill();
    // Sfo's and its own; what stands there instead nobody wrote.
    replace_key(&nyc.data_dir(), b"key-042", b"kex-042");
    replace_key(&nyc.data_dir(), b"own-017", b"owx-017");
    nyc.start();
    let (code, report) = verify_nodes(&[&sfo, &nyc], &[]);
    assert_eq!((code, report["differences"].as_array().map(Vec::len)), (1, Some(4)), "{report:#}");

    let (code, text) = wait_for("the link", || {
        let (code, text) = repair(&nyc);
        (code == Some(0)).then_some((code, text))
    });
    assert_eq!((code, text.as_str()), (Some(0), "compared with 1 peers: 2 keys were lost here, 2 were fetched\n"));
    wait_for_metric(&nyc, "godwit_anti_entropy_keys_repaired_total{", |repaired| repaired == 2);
    let (code, text) = repair(&sfo);
    assert_eq!((code, text.as_str()), (Some(0), "compared with 1 peers: 2 keys were lost here, 2 were fetched\n"));
    wait_until_equal(&[&sfo, &nyc], 402);
    let (code, text) = repair(&nyc);
    assert_eq!((code, text.as_str()), (Some(0), "compared with 1 peers: nothing that this node holds was lost\n"));
    wait_for_metric(&nyc, "godwit_anti_entropy_comparisons_total{", |comparisons| comparisons == 2);
    // After a crash, too.
    nyc.kill();
    nyc.start();
    wait_until_equal(&[&sfo, &nyc], 402);
    let log = fs::read_to_string(nyc.directory.path().join("log")).unwrap();
    assert!(log.contains("this node had lost records that it said it holds"), "{log}");
}

/// A byte in the middle of a log rots. The node refuses to start; cut, started and repaired it has everything again, what it wrote
/// itself included.
#[test]
fn a_damaged_log_is_cut_by_its_operator_and_refilled_from_a_peer() {
    let [sfo, mut nyc] = mesh(["sfo", "nyc"]);
    let (mut at_sfo, mut at_nyc) = (sfo.client(), nyc.client());
    for n in 0..300 {
        set(&mut at_sfo, &format!("key-{n:03}"), "value");
        set(&mut at_nyc, &format!("own-{n:03}"), "value");
    }
    at_nyc.call(&["DEL", "key-250"]).unwrap();
    wait_until_equal(&[&sfo, &nyc], 599);
    nyc.kill();
    damage(&nyc.data_dir(), b"own-150");
    let refused = nyc.run_to_its_end();
    assert_eq!(refused, Some(3));

    let inspect =
        |args: &[&str]| Command::new(WALINSPECT).args(args).arg(nyc.data_dir()).output().expect("the command");
    let plan = inspect(&["repair", "--dry-run"]);
    assert!(String::from_utf8_lossy(&plan.stdout).contains("repair --cut"), "{plan:?}");
    let cut = inspect(&["repair", "--cut"]);
    assert!(cut.status.success() && String::from_utf8_lossy(&cut.stderr).contains("godwit repair"), "{cut:?}");
    let again = inspect(&["repair", "--cut"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("nothing was cut"), "{again:?}");
    assert!(nyc.data_dir().join("damaged-1").read_dir().unwrap().count() > 0, "the files as they were");
    nyc.start();

    let lost = wait_for("the repair", || {
        let (code, text) = repair(&nyc);
        (code == Some(0)).then_some(text)
    });
    assert!(!lost.contains("nothing that this node holds was lost"), "{lost}");
    wait_until_equal(&[&sfo, &nyc], 599);
    wait_for_metric(&nyc, "godwit_anti_entropy_keys_repaired_total{", |repaired| repaired > 0);
    nyc.kill();
    nyc.start();
    wait_until_equal(&[&sfo, &nyc], 599);
}

/// Two regions with many equal keys: what a comparison carries is far below what the interval allows.
#[test]
fn a_comparison_of_equal_nodes_is_small() {
    let [sfo, nyc] = mesh(["sfo", "nyc"]);
    let mut client = sfo.client();
    for n in 0..100u32 {
        let pairs: Vec<String> = (0..1_000).flat_map(|m| [format!("key-{n}-{m}"), "value".to_owned()]).collect();
        let words: Vec<&str> = std::iter::once("MSET").chain(pairs.iter().map(String::as_str)).collect();
        client.call(&words).unwrap();
    }
    wait_until_equal(&[&sfo, &nyc], 100_000);
    let before = metric(&sfo, "godwit_peer_sent_other_bytes_total{");
    let (code, text) = repair(&nyc);
    assert_eq!(code, Some(0), "{text}");
    // The sums alone have 8 KiB.
    let sent = wait_for_metric(&sfo, "godwit_peer_sent_other_bytes_total{", |sent| sent >= before + 8_192) - before;
    eprintln!("{sent} bytes for 100,000 equal keys, {} bytes a second if that is every ten minutes", sent / 600);
    assert!(sent < 20_000, "{sent} bytes");
}

#[test]
fn writes_that_are_on_their_way_are_no_differences() {
    let [sfo, nyc] = mesh(["sfo", "nyc"]);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for node in [&sfo, &nyc] {
            let stop = &stop;
            scope.spawn(move || {
                let mut client = node.client();
                let mut n = 0u32;
                while !stop.load(Ordering::Relaxed) {
                    // Keys that both write, keys of its own, deletions, and what expires meanwhile.
                    set(&mut client, &format!("shared-{}", n % 50), node.region);
                    set(&mut client, &format!("{}-{}", node.region, n % 5_000), "value");
                    client.call(&["DEL", &format!("shared-{}", (n + 25) % 50)]).unwrap();
                    client.call(&["SET", &format!("short-{}", n % 100), node.region, "PX", "40"]).unwrap();
                    n += 1;
                }
            });
        }
        let mut looked_at = 0;
        for _ in 0..10 {
            let (code, report) = verify_nodes(&[&sfo, &nyc], &[]);
            if code != 0 {
                stop.store(true, Ordering::Relaxed);
            }
            assert_eq!(code, 0, "{report:#}");
            looked_at += report["compared_one_by_one"].as_u64().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(looked_at > 0, "nothing was on its way");
    });
}

#[test]
fn what_a_node_was_never_told_of_is_no_difference_but_cannot_be_told() {
    // Not peers of each other: neither knows the other's log.
    let (mut sfo, mut nyc) = (Node::new("sfo"), Node::new("nyc"));
    sfo.start();
    nyc.start();
    set(&mut sfo.client(), "key", "one");
    let (code, report) = wait_for("the write to be there", || {
        let (code, report) = verify_nodes(&[&sfo, &nyc], &["--wait", "0"]);
        (report["regions"][0]["values"] == 1).then_some((code, report))
    });
    assert_eq!((code, &report["verdict"]), (2, &"unknown".into()), "{report:#}");
    assert_eq!(report["on_their_way"][0]["missing_in"][0], "nyc", "{report:#}");
}

/// Flips a bit of a key where it stands first in a log.
fn damage(data_dir: &Path, key: &[u8]) {
    for entry in fs::read_dir(data_dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "wal") {
            continue;
        }
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(key.len()).position(|window| window == key) {
            bytes[at] ^= 1;
            return fs::write(&path, bytes).unwrap();
        }
    }
    panic!("the key is in no segment");
}

/// In the only segment that has it, makes the record of `key` one of `other`, and renews the checksums of its frame and of those
/// behind it. Keys of equal length.
fn replace_key(data_dir: &Path, key: &[u8], other: &[u8]) {
    assert_eq!(key.len(), other.len());
    let mut replaced = 0;
    for entry in fs::read_dir(data_dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "wal") {
            continue;
        }
        let mut bytes = fs::read(&path).unwrap();
        replaced += replace_in_segment(&mut bytes, key, other);
        fs::write(&path, bytes).unwrap();
    }
    assert_eq!(replaced, 1, "records of the key");
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// See docs/WAL_FORMAT.md.
fn replace_in_segment(bytes: &mut [u8], key: &[u8], other: &[u8]) -> usize {
    let (mut frame, mut replaced, mut previous_crc) = (wal::SEGMENT_HEADER_BYTES, 0, None);
    let cookie = bytes[32..40].to_vec();
    while frame + 64 <= bytes.len() && bytes[frame..frame + 4] == *b"GWFR" && bytes[frame + 16..frame + 24] == cookie {
        let payload = frame + 64..frame + 64 + u32_at(bytes, frame + 40);
        let mut record = payload.start;
        while record < payload.end {
            let (view, padded) = RecordView::parse_trusted_prefix(&bytes[record..payload.end]).unwrap();
            let (len, expiry) = (view.bytes.len(), if view.expiry.is_some() { 8 } else { 0 });
            if view.key == key {
                let hash = wal::key_hash(other).to_le_bytes();
                let at = record + 32 + expiry;
                bytes[at..at + other.len()].copy_from_slice(other);
                bytes[record + 16..record + 24].copy_from_slice(&hash);
                let crc = crc32c(&bytes[record + 8..record + len]);
                bytes[record + 4..record + 8].copy_from_slice(&crc.to_le_bytes());
                replaced += 1;
            }
            record += padded;
        }
        if let Some(crc) = previous_crc {
            bytes[frame + 56..frame + 60].copy_from_slice(&u32::to_le_bytes(crc));
        }
        let payload_crc = crc32c(&bytes[payload.clone()]);
        bytes[frame + 44..frame + 48].copy_from_slice(&payload_crc.to_le_bytes());
        let header_crc = crc32c(&bytes[frame + 8..frame + 64]);
        bytes[frame + 4..frame + 8].copy_from_slice(&header_crc.to_le_bytes());
        previous_crc = (replaced > 0).then_some(header_crc);
        frame += 64 + (payload.end - payload.start).next_multiple_of(64);
    }
    replaced
}

#[test]
fn only_what_all_compared_regions_may_hold_is_compared() {
    let [ams, fra, nyc] = mesh_with("eu/=ams,fra;us/=nyc", ["ams", "fra", "nyc"]);
    for number in 0..20 {
        for (node, name, value) in [(&ams, "free/1", "x"), (&fra, "eu/1", "x"), (&nyc, "us/1", "x")] {
            node.client().call(&["SET", &format!("{name}{number}"), value]).unwrap();
        }
    }
    wait_until_equal(&[&ams, &fra, &nyc], 20);
    wait_until_equal(&[&ams, &fra], 40);
    wait_until_equal(&[&nyc, &fra], 20);
}
