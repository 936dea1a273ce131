//! The process that is killed.

use std::collections::VecDeque;
use std::io::{self, Write};

use net::reactor::epoll::EpollIo;
use net::reactor::uring::UringIo;
use net::reactor::{Backend, Wait};
use wal::Lsn;

use crate::walbench::driver::{Driver, LogSettings};
use crate::walbench::options::ChildOptions;
use crate::walbench::statistics::SplitMix;
use crate::walbench::{BenchError, io_error, suite};
use engine::daemon::OsIo;

/// Small, so that a round sees many rotations.
const SEGMENT_BYTES: u64 = 1 << 20;
/// Records outstanding.
const OUTSTANDING: usize = 64;
/// Longest value.
const VALUE_BYTES_MAX: usize = 1500;

/// The value of record `number`: its length and bytes follow from the number alone.
pub(super) fn value(number: u64) -> Vec<u8> {
    let mut random = SplitMix(number);
    let len = random.below(VALUE_BYTES_MAX);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Writes records 0, 1, 2, … until killed, and says how many are durable.
pub(crate) fn run(options: &ChildOptions) -> Result<(), BenchError> {
    let (backend, _) = suite::backend(options.io_backend)?;
    let settings = LogSettings {
        directory: options.dir.clone(),
        backend,
        commit: options.commit,
        preparation: options.prepare,
        segment_bytes: SEGMENT_BYTES,
        index: false,
        keep: true,
    };
    let written = match backend {
        Backend::Uring => write::<UringIo>(&settings),
        Backend::Epoll => write::<EpollIo>(&settings),
    };
    written.map_err(io_error("the log cannot be written"))
}

fn write<I: OsIo>(settings: &LogSettings) -> io::Result<()> {
    let mut driver = Driver::<I>::start(settings)?;
    let mut outstanding: VecDeque<(u64, Lsn)> = VecDeque::new();
    let mut next = 0u64;
    let mut output = io::stdout().lock();
    loop {
        while outstanding.len() < OUTSTANDING {
            let Some(end) = driver.append(driver.now(), &next.to_le_bytes(), &value(next))? else { break };
            outstanding.push_back((next, end));
            next += 1;
        }
        driver.commit()?;
        let soon = driver.now().plus_ms(100);
        if driver.poll(Wait::Until(soon))?.is_some() {
            let durable = driver.log.durable();
            let mut acknowledged = None;
            while let Some((number, _)) = outstanding.front().filter(|(_, end)| *end <= durable) {
                acknowledged = Some(number + 1);
                outstanding.pop_front();
            }
            if let Some(count) = acknowledged {
                // One short write: a pipe takes it whole or not at all. An error is the parent's end, and ours.
                output.write_all(format!("{count}\n").as_bytes())?;
                output.flush()?;
            }
        }
    }
}
