//! Ordinary Redis clients against a daemon, each by a script of its own in tests/clients, over both reactors; and the same
//! scripts against a Redis where there is one, so that what they expect is what Redis does.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::process::redis::{Redis, clients};
use tests::process::{Daemon, backends, finished, is_installed, skip};

const DAEMON: &str = env!("CARGO_BIN_EXE_daemon-under-test");

/// How long a script may take; it takes seconds.
const SCRIPT_PATIENCE: Duration = Duration::from_secs(120);

/// A script and what runs it.
#[derive(Clone, Debug)]
struct Script {
    /// As the operator knows it.
    client: &'static str,
    file: &'static str,
    runner: Option<PathBuf>,
    installed: bool,
}

impl Script {
    fn of_tool(client: &'static str, file: &'static str) -> Script {
        Script { client, file, runner: None, installed: is_installed(client) }
    }

    fn python() -> Script {
        let python = clients().join("venv/bin/python");
        Script { client: "redis-py", file: "redis_py.py", installed: python.is_file(), runner: Some(python) }
    }

    fn node(client: &'static str, package: &str, file: &'static str) -> Script {
        let installed = is_installed("node") && clients().join("node_modules").join(package).is_dir();
        Script { client, file, runner: Some("node".into()), installed }
    }

    /// The script's answer must be success; what it printed says what went wrong.
    fn run(&self, server: &str, addr: SocketAddr) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(self.file);
        let mut command = match &self.runner {
            Some(runner) => Command::new(runner),
            None => Command::new(&path),
        };
        if self.runner.is_some() {
            command.arg(&path);
        }
        command.args([addr.ip().to_string(), addr.port().to_string()]).env("GODWIT_CLIENTS_DIR", clients());
        let exit = finished(&mut command, SCRIPT_PATIENCE);
        assert!(exit.status.success(), "{server}: {}{}", exit.stdout, exit.stderr);
        eprintln!("{server}: {}", exit.stdout.trim());
    }

    /// Runs it against a daemon per reactor.
    fn is_content(&self) {
        if !self.installed {
            skip(self.client);
            return;
        }
        for backend in backends() {
            let mut daemon = Daemon::new(DAEMON);
            daemon.set("IO_BACKEND", backend).set("CORES", 2).start();
            self.run(backend, daemon.at(daemon.ports().storage));
            assert_eq!(daemon.status("io_backend"), backend);
            assert_eq!(daemon.terminate().code(), Some(0));
            assert!(daemon.logged("ERROR").is_empty(), "{:?}", daemon.logged("ERROR"));
        }
    }
}

fn all() -> [Script; 5] {
    [
        Script::of_tool("redis-cli", "redis-cli.sh"),
        Script::of_tool("redis-benchmark", "redis-benchmark.sh"),
        Script::python(),
        Script::node("ioredis", "ioredis", "ioredis.mjs"),
        Script::node("node-redis", "redis", "node_redis.mjs"),
    ]
}

#[test]
fn redis_cli_gets_the_answers_of_redis() {
    all()[0].is_content();
}

#[test]
fn redis_benchmark_runs_without_errors() {
    all()[1].is_content();
}

#[test]
fn redis_py_gets_the_answers_of_redis() {
    all()[2].is_content();
}

#[test]
fn ioredis_gets_the_answers_of_redis() {
    all()[3].is_content();
}

#[test]
fn node_redis_gets_the_answers_of_redis() {
    all()[4].is_content();
}

#[test]
fn the_scripts_expect_what_redis_itself_answers() {
    if !is_installed("redis-server") {
        skip("redis-server");
        return;
    }
    let redis = Redis::start();
    for script in all() {
        if script.installed {
            script.run("redis-server", redis.addr());
        } else {
            skip(script.client);
        }
    }
}
