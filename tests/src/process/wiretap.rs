//! A wiretap: what nodes send each other goes through it, is recorded, and can be cut. A node behind one advertises the tap's address; the tap
//! listens there and hands on to the node, from the address that the connection came from: nodes are known by theirs.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use socket2::{Domain, Socket, Type};

use super::{Daemon, own_address};

/// Two nodes by their advertised addresses, the lower one first.
type Pair = (IpAddr, IpAddr);

fn pair(one: IpAddr, other: IpAddr) -> Pair {
    (one.min(other), one.max(other))
}

#[derive(Debug, Default)]
struct State {
    carried: HashMap<Pair, Vec<Vec<u8>>>,
    cut: HashSet<Pair>,
    /// By pair, both ends of what is open.
    open: Vec<(Pair, TcpStream)>,
}

/// All taps of a mesh. Their threads end with the test's process.
#[derive(Clone, Debug, Default)]
pub struct Wiretap(Arc<Mutex<State>>);

impl Wiretap {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a node that is not started yet behind a tap; its address for others.
    ///
    /// # Panics
    /// If the tap's address cannot be listened on.
    pub fn tap(&self, daemon: &mut Daemon) -> IpAddr {
        let address = IpAddr::V4(own_address());
        daemon.set("ADVERTISE_HOST", address);
        for port in [daemon.ports().discovery, daemon.ports().replication] {
            let listener = TcpListener::bind((address, port)).expect("an address of its own");
            let (tap, node) = (self.clone(), daemon.at(port));
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    // A node that is down refuses; whoever dialled sees its connection end.
                    _ = tap.carry(stream, address, node);
                }
            });
        }
        address
    }

    fn carry(&self, from: TcpStream, address: IpAddr, node: SocketAddr) -> io::Result<()> {
        let source = from.peer_addr()?.ip();
        let pair = pair(source, address);
        if self.with(|state| state.cut.contains(&pair)) {
            return Ok(());
        }
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
        socket.connect(&node.into())?;
        let to = TcpStream::from(socket);
        for (mut from, mut to) in [(from.try_clone()?, to.try_clone()?), (to, from)] {
            let stream = self.with(|state| {
                state.open.push((pair, from.try_clone()?));
                let streams = state.carried.entry(pair).or_default();
                streams.push(Vec::new());
                io::Result::Ok(streams.len() - 1)
            })?;
            let tap = self.clone();
            thread::spawn(move || {
                let mut bytes = vec![0; 64 * 1024];
                while let Ok(read @ 1..) = from.read(&mut bytes) {
                    let recorded = |state: &mut State| {
                        state.carried.entry(pair).or_default()[stream].extend_from_slice(&bytes[..read]);
                        !state.cut.contains(&pair)
                    };
                    if !tap.with(recorded) || to.write_all(&bytes[..read]).is_err() {
                        break;
                    }
                }
                _ = from.shutdown(Shutdown::Both);
                _ = to.shutdown(Shutdown::Both);
            });
        }
        Ok(())
    }

    /// Ends what two nodes have open, and refuses it from now on.
    pub fn cut(&self, one: IpAddr, other: IpAddr) {
        self.with(|state| {
            state.cut.insert(pair(one, other));
            for (_, stream) in state.open.iter().filter(|(of, _)| *of == pair(one, other)) {
                _ = stream.shutdown(Shutdown::Both);
            }
        });
    }

    /// Takes a cut back.
    pub fn mend(&self, one: IpAddr, other: IpAddr) {
        self.with(|state| state.cut.remove(&pair(one, other)));
    }

    /// Bytes that two nodes have sent each other, and how often `text` was among them.
    #[must_use]
    pub fn heard(&self, one: IpAddr, other: IpAddr, text: &[u8]) -> (usize, usize) {
        self.with(|state| {
            let streams = state.carried.get(&pair(one, other)).map_or(&[][..], Vec::as_slice);
            (streams.iter().map(Vec::len).sum(), streams.iter().map(|stream| count(stream, text)).sum())
        })
    }
}

/// How often `text` is among the bytes.
#[must_use]
pub fn count(bytes: &[u8], text: &[u8]) -> usize {
    let Some((first, rest)) = text.split_first() else { return 0 };
    let starts = bytes.iter().enumerate().filter(|(_, byte)| *byte == first);
    starts.filter(|(at, _)| bytes[at + 1..].starts_with(rest)).count()
}
