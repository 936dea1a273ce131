//! Bytes that no client of good will sends, and a client of good will that must not notice.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{Daemon, PATIENCE, Value, wait_for};

/// What an ordinary client may have to wait for one reply while others misbehave.
const REPLY_WITHIN: Duration = Duration::from_secs(1);

/// An ordinary client that works all the time in a thread of its own.
#[derive(Debug)]
pub struct Bystander {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<Duration>,
}

impl Bystander {
    /// Starts to work.
    #[must_use]
    pub fn beside(daemon: &Daemon) -> Bystander {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, round, mut client) = (Arc::clone(&stop), Arc::clone(&rounds), daemon.client());
        let thread = thread::spawn(move || {
            let mut slowest = Duration::ZERO;
            while !stopped.load(Ordering::Relaxed) {
                let value = round.fetch_add(1, Ordering::Relaxed).to_string();
                let commands: [(&[&str], Value); 3] = [
                    (&["PING"], Value::Simple("PONG".into())),
                    (&["SET", "bystander", &value], Value::Simple("OK".into())),
                    (&["GET", "bystander"], Value::Bulk(value.clone().into_bytes())),
                ];
                for (command, expected) in commands {
                    let began = Instant::now();
                    assert_eq!(client.call(command).expect("an undisturbed connection"), expected);
                    slowest = slowest.max(began.elapsed());
                }
            }
            slowest
        });
        Bystander { stop, rounds, thread }
    }

    /// Ends it and judges what it saw.
    ///
    /// # Panics
    /// If a call failed or took longer than a second.
    pub fn was_not_disturbed(self) {
        // At least one whole round after the last disturbance.
        let so_far = self.rounds.load(Ordering::Relaxed);
        wait_for("the ordinary client to go on", || {
            (self.thread.is_finished() || self.rounds.load(Ordering::Relaxed) > so_far + 1).then_some(())
        });
        self.stop.store(true, Ordering::Relaxed);
        let slowest = self.thread.join().expect("every call of the ordinary client succeeds");
        assert!(slowest < REPLY_WITHIN, "the ordinary client waited {slowest:?} for one reply");
    }
}

/// What a port said to some bytes.
#[derive(Clone, Debug)]
pub struct Answer {
    /// All that it sent.
    pub bytes: Vec<u8>,
    /// Whether it closed the connection within [`PATIENCE`].
    pub closed: bool,
}

impl Answer {
    /// The answer as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// Sends `bytes`, says that nothing more comes, and reads until the port closes. A port may close before it has everything.
///
/// # Panics
/// If there is no connection.
#[must_use]
pub fn send(addr: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = connect(addr);
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    read_to_end(&mut stream)
}

/// Sends `bytes` and keeps the stream open: only the port can end it.
///
/// # Panics
/// If there is no connection.
#[must_use]
pub fn send_and_stay(addr: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = connect(addr);
    let _ = stream.write_all(bytes);
    read_to_end(&mut stream)
}

/// A connection whose reads end after [`PATIENCE`].
///
/// # Panics
/// If it is refused.
#[must_use]
pub fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&addr, PATIENCE).unwrap_or_else(|error| panic!("{addr}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

fn read_to_end(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let closed = match stream.read_to_end(&mut bytes) {
        Ok(_) => true,
        // A reset is an end, too: the port closed with our bytes unread.
        Err(error) => !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
    };
    Answer { bytes, closed }
}
