//! The configuration as an operator meets it: what is accepted, which source wins, and what each refusal says.
#![allow(clippy::cast_possible_truncation)]

mod addresses;
mod env_file;

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::interfaces::{Interface, InterfaceKind, Interfaces, Routes};
use super::settings::{SETTINGS, Setting, suggestion};
use super::*;

/// A machine with a public interface and a mesh.
#[derive(Clone)]
struct Fake {
    environment: HashMap<&'static str, OsString>,
    file: Vec<u8>,
    interfaces: Vec<Interface>,
    /// The address by which non-loopback peers are reached.
    route: Option<&'static str>,
    cpus: usize,
}

impl Interfaces for Fake {
    fn list(&self) -> io::Result<Vec<Interface>> {
        Ok(self.interfaces.clone())
    }
}

impl Routes for Fake {
    fn local_address_to(&self, peer: SocketAddr) -> io::Result<IpAddr> {
        match self.route {
            _ if peer.ip().is_loopback() => Ok(ip("127.0.0.1")),
            Some(_) if self.interfaces.iter().any(|i| i.addresses.contains(&peer.ip())) => Ok(peer.ip()),
            Some(route) => Ok(ip(route)),
            None => Err(io::Error::other("Network is unreachable")),
        }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn interface(name: &str, kind: InterfaceKind, addresses: &[&str]) -> Interface {
    Interface { name: name.into(), kind, addresses: addresses.iter().map(|text| ip(text)).collect() }
}

/// eth0 is public, wg0 is the mesh and the way to the peers.
fn droplet() -> Fake {
    Fake {
        environment: HashMap::new(),
        file: Vec::new(),
        interfaces: vec![
            interface("lo", InterfaceKind::Loopback, &["127.0.0.1", "::1"]),
            interface("eth0", InterfaceKind::Other, &["203.0.113.7", "fe80::1"]),
            interface("wg0", InterfaceKind::WireGuard, &["10.0.0.1", "fd00::1"]),
        ],
        route: Some("10.0.0.1"),
        cpus: 4,
    }
}

impl Fake {
    fn load(&self, arguments: &[&str]) -> Result<Config, ConfigError> {
        let arguments = std::iter::once(&"godwitd").chain(arguments);
        let matches = command("godwitd").try_get_matches_from(arguments).expect("known flags");
        Config::load(
            &matches,
            &Surroundings {
                environment: &|key| self.environment.get(key).cloned(),
                read_file: &|path| match path == Path::new("region.env") {
                    true => Ok(self.file.clone()),
                    false => Err(io::Error::from(io::ErrorKind::NotFound)),
                },
                interfaces: self,
                routes: self,
                cpus: self.cpus,
            },
        )
    }

    fn with_file(mut self, text: &str) -> Fake {
        self.file = text.into();
        self
    }

    fn refusal(&self, arguments: &[&str]) -> String {
        let error = self.load(arguments).expect_err("must be refused").to_string();
        assert!(!error.contains('\n'), "one line: {error:?}");
        error
    }
}

const MESH: [&str; 4] = ["--region", "sfo", "--discovery-peers", "10.0.0.2,10.0.0.3:10201"];

#[test]
fn nothing_set_is_a_single_node_on_loopback() {
    let config = droplet().load(&[]).expect("defaults");
    assert_eq!(config.region.as_str(), "local");
    assert_eq!(config.discovery_peers, []);
    assert_eq!(config.bind_addresses, [ip("127.0.0.1")]);
    assert_eq!(config.data_dir, Path::new("godwit-data"));
    assert_eq!(config.cores, 3);
    assert_eq!((config.segment_bytes, config.value_bytes_max), (64 << 20, 8 << 20));
    let Ports { discovery, replication, storage, cache, admin } = config.ports;
    assert_eq!([discovery, replication, storage, cache, admin], [10_200, 10_400, 10_600, 10_700, 10_800]);
    for row in &SETTINGS {
        assert_eq!(*config.origin(row.setting), Origin::Default, "{}", row.key);
    }
}

#[test]
fn region_and_peers_are_enough_for_a_mesh() {
    let config = droplet().load(&MESH).expect("the two required settings");
    assert_eq!(config.discovery_peers, ["10.0.0.2:10200".parse().unwrap(), "10.0.0.3:10201".parse().unwrap()]);
    assert_eq!(config.bind_addresses, [ip("10.0.0.1"), ip("127.0.0.1")]);
    assert_eq!(config.advertise_address, ip("10.0.0.1"));
    assert_eq!(*config.origin(Setting::BindHost), Origin::Derived("route to 10.0.0.2".into()));
}

#[test]
fn flags_beat_the_environment_which_beats_the_file_which_beats_defaults() {
    let mut machine = droplet().with_file("STORAGE_PORT=1\nCACHE_PORT=2\nADMIN_PORT=3\nLOG_LEVEL=debug\n");
    machine.environment.insert("CACHE_PORT", "20".into());
    machine.environment.insert("ADMIN_PORT", "30".into());
    machine.environment.insert("LOG_LEVEL", "".into());
    let config = machine.load(&["--env-file", "region.env", "--admin-port", "300"]).expect("valid");
    assert_eq!((config.ports.storage, config.ports.cache, config.ports.admin), (1, 20, 300));
    assert_eq!(config.log_level, Level::INFO, "an empty value means the default");
    assert_eq!(*config.origin(Setting::StoragePort), Origin::File("region.env".into(), 1));
    assert_eq!(*config.origin(Setting::CachePort), Origin::Environment);
    assert_eq!(*config.origin(Setting::AdminPort), Origin::Flag("admin-port"));
    assert_eq!(*config.origin(Setting::Cores), Origin::Default);
    let report = config.check_report();
    assert_eq!(report.lines().count(), SETTINGS.len() + 1);
    let line_of = |key: &str| report.lines().find(|line| line.starts_with(key)).expect("a line").to_owned();
    assert!(line_of("STORAGE_PORT").ends_with(" region.env:1"));
    assert_eq!(line_of("ADMIN_PORT").split_whitespace().collect::<Vec<_>>(), ["ADMIN_PORT", "300", "--admin-port"]);
}

#[test]
fn what_the_report_shows_can_be_written_back() {
    let flags = ["--segment-bytes", "1 MiB", "--io-backend", "epoll", "--durability", "os", "--cores", "2"];
    let config = droplet().load(&[&MESH[..], &flags].concat()).expect("valid");
    assert_eq!(config.value_bytes_max, 256 << 10);
    let file: String = SETTINGS.iter().map(|row| format!("{}={}\n", row.key, config.value(row.setting))).collect();
    let again = droplet().with_file(&file).load(&["--env-file", "region.env"]).expect(&file);
    for row in &SETTINGS {
        assert_eq!(again.value(row.setting), config.value(row.setting), "{}", row.key);
    }
}

#[test]
fn refusals_name_the_place_and_the_remedy() {
    let file = |text: &str| droplet().with_file(text).refusal(&["--env-file", "region.env"]);
    assert_eq!(
        file("# mine\nDISCOVERY_PEER=10.0.0.2\n"),
        "region.env:2: unknown setting DISCOVERY_PEER; did you mean DISCOVERY_PEERS?"
    );
    assert_eq!(file("PATH=/bin\n"), "region.env:1: unknown setting PATH; remove the line; --help lists all settings");
    assert!(
        file("\nexport REGION=sfo\n").starts_with("region.env:2: this file is not a shell script; remove `export`")
    );
    assert_eq!(
        file("REGION=San Francisco"),
        "region.env:1: REGION=San Francisco: \
         a region name has 1 to 32 characters of a-z, 0-9 and '-'; rename the region"
    );
    assert!(droplet().refusal(&["--env-file", "absent.env"]).starts_with("absent.env: "));
    assert_eq!(
        droplet().refusal(&["--discovery-peers", "10.0.0.2"]),
        "default: REGION: DISCOVERY_PEERS is set, so this node's region needs a name; write REGION=sfo, for example"
    );
    assert_eq!(
        droplet().refusal(&["--storage-port", "10200"]),
        "--storage-port: STORAGE_PORT=10200: port 10200 is also DISCOVERY_PORT; write another port for one of the two"
    );
    assert!(droplet().refusal(&["--discovery-port", "10800"]).starts_with("--discovery-port: DISCOVERY_PORT=10800:"));
    let mut machine = droplet();
    machine.environment.insert("CORES", "0".into());
    assert!(machine.refusal(&[]).starts_with("environment: CORES=0: 0 core threads are not possible; write a count"));
    machine.environment.insert("CORES", OsString::from_vec(vec![0xff]));
    assert_eq!(machine.refusal(&[]), "environment: CORES: not valid UTF-8; write it in UTF-8");
}

#[test]
fn values_out_of_range_are_refused() {
    let cases = [
        ("--cores", "65"),
        ("--cores", "-1"),
        ("--cores", "99999999999999999999999"),
        ("--storage-port", "65536"),
        ("--storage-port", "+1"),
        ("--segment-bytes", "64MB"),
        ("--segment-bytes", "48MiB"),
        ("--segment-bytes", "128MiB"),
        ("--segment-bytes", "512KiB"),
        ("--segment-bytes", "18446744073709551615MiB"),
        ("--value-bytes-max", "9MiB"),
        ("--value-bytes-max", "1023"),
        ("--io-backend", "mio"),
        ("--durability", "yes"),
        ("--log-level", "DEBUG"),
        ("--region", "a_b"),
        ("--region", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
    ];
    for (flag, value) in cases {
        let refusal = droplet().refusal(&[flag, value]);
        assert!(refusal.starts_with(&format!("{flag}: ")) && refusal.contains(value), "{refusal}");
    }
    let refusal = droplet().refusal(&["--segment-bytes", "1MiB", "--value-bytes-max", "512KiB"]);
    assert!(refusal.contains("has from 1024 to 262144 bytes"), "{refusal}");
    let zeros = ["--storage-port", "0", "--cache-port", "0"];
    assert_eq!(droplet().load(&zeros).expect("ephemeral ports may repeat").ports.cache, 0);
}

#[test]
fn lab_delays_need_a_loopback_node() {
    let lab = ["--region", "sfo", "--discovery-peers", "127.10.0.2,127.10.0.3", "--bind-host", "127.10.0.1"];
    let delays = ["--lab-link-delays", "127.10.0.2=37, 127.10.0.3=82.5"];
    let config = droplet().load(&[&lab[..], &delays].concat()).expect("the lab");
    let expected = [(ip("127.10.0.2"), Duration::from_millis(37)), (ip("127.10.0.3"), Duration::from_micros(82_500))];
    assert_eq!(config.lab_link_delays, expected);
    assert!(droplet().refusal(&[&MESH[..], &delays].concat()).contains("but this node binds 10.0.0.1"));
    for bad in
        ["127.10.0.2", "127.10.0.2=", "127.10.0.2=-1", "127.10.0.2=NaN", "127.10.0.2=1e9", "x=1", "127.0.0.9=1,,"]
    {
        droplet().refusal(&[&lab[..], &["--lab-link-delays", bad]].concat());
    }
    droplet().refusal(&[&lab[..], &["--lab-link-delays", "127.0.0.9=1,127.0.0.9=2"]].concat());
}

#[test]
fn suggestions_are_near_or_absent() {
    assert_eq!(suggestion("REGOIN"), Some("REGION"));
    assert_eq!(suggestion("bind-host"), Some("BIND_HOST"));
    assert_eq!(suggestion("STORAGE_PROT"), Some("STORAGE_PORT"));
    assert_eq!(suggestion("HOME"), None);
    assert_eq!(suggestion(&"X".repeat(100_000)), None);
}

#[test]
fn cores_default_to_all_but_one() {
    for (cpus, cores) in [(0, 1), (1, 1), (2, 1), (8, 7), (1_000_000, 64)] {
        assert_eq!(Fake { cpus, ..droplet() }.load(&[]).expect("valid").cores, cores);
    }
}

#[test]
fn the_command_line_has_a_flag_for_every_setting() {
    command("godwitd").debug_assert();
    let help = command("godwitd").render_long_help().to_string();
    for row in &SETTINGS {
        assert_eq!(row.flag, row.key.to_lowercase().replace('_', "-"));
        assert!(help.contains(&format!("--{} ", row.flag)), "{}", row.flag);
    }
    let checked = command("godwitd").try_get_matches_from(["godwitd", "--check"]).expect("a flag");
    assert!(wants_check(&checked));
    assert!(command("godwitd").try_get_matches_from(["godwitd", "--regoin", "sfo"]).is_err());
}

#[test]
fn every_setting_is_in_the_document() {
    let document = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/CONFIGURATION.md"));
    for row in &SETTINGS {
        let start = format!("| `{}` |", row.key);
        let line = document.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("no {start}"));
        assert!(line.contains(row.default), "the document does not say that {} defaults to {}", row.key, row.default);
    }
    let rows = document.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, SETTINGS.len(), "the document has a row for something that is no setting");
}

proptest! {
    #[test]
    fn no_value_makes_any_setting_panic(text in "[ -~é,:\\[\\]=.0-9]{0,40}") {
        for row in &SETTINGS {
            let mut machine = droplet();
            machine.environment.insert(row.key, text.clone().into());
            if let Err(error) = machine.load(&[]) {
                prop_assert!(!error.to_string().contains('\n'));
            }
        }
    }
}
