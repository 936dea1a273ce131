//! One node that is compared: what it is asked, and what it answers.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use net::ids::{RegionName, RequestId, Version};
use net::wire::body::{Coverage, Entries, Entry, Inspect, Lookup, Survey};
use net::wire::frame::FrameReader;
use net::wire::limits::LEAVES;
use net::wire::message::Message;

/// A node that lives takes a connection within this.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// A walk over very many keys that are not in memory takes long, and nothing is heard meanwhile.
const ANSWER_WITHIN: Duration = Duration::from_secs(900);

/// A connection that was idle for longer is opened anew: the node may have closed it.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// The sums of one node.
#[derive(Debug)]
pub(super) struct Summed {
    pub(super) coverage: Coverage,
    pub(super) keys: u64,
    pub(super) sums: Vec<u64>,
}

/// A connection to a node's discovery port.
pub(super) struct Node {
    addr: SocketAddr,
    connection: Option<(TcpStream, FrameReader)>,
    used_at: Instant,
    request: u32,
    /// The regions that are compared.
    regions: Vec<RegionName>,
}

impl Node {
    pub(super) fn new(addr: SocketAddr) -> Node {
        Node { addr, connection: None, used_at: Instant::now(), request: 0, regions: Vec::new() }
    }

    /// Keys that not all of these regions may hold are left out from now on.
    pub(super) fn compare(&mut self, regions: &[RegionName]) {
        self.regions = regions.to_vec();
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sends a request; its answer has to be taken before the next one.
    fn ask(&mut self, message: &Message) -> Result<(), String> {
        let text = |error: io::Error| error.to_string();
        if self.used_at.elapsed() > IDLE_MAX {
            self.connection = None;
        }
        if self.connection.is_none() {
            let stream = TcpStream::connect_timeout(&self.addr, CONNECT_WITHIN).map_err(text)?;
            stream.set_read_timeout(Some(ANSWER_WITHIN)).map_err(text)?;
            let mut reader = FrameReader::new();
            reader.admit_values();
            self.connection = Some((stream, reader));
        }
        let Some((stream, _)) = &mut self.connection else { return Err("it is not connected".into()) };
        self.request += 1;
        let mut bytes = Vec::new();
        message.encode(RequestId(self.request), &mut bytes).map_err(|error| error.to_string())?;
        stream.write_all(&bytes).map_err(text)?;
        self.used_at = Instant::now();
        Ok(())
    }

    /// The next message of the answer.
    fn hear(&mut self) -> Result<Message, String> {
        let Some((stream, reader)) = &mut self.connection else { return Err("it is not connected".into()) };
        let mut chunk = vec![0; 64 * 1024];
        let frame = loop {
            if let Some(frame) = reader.next().map_err(|error| error.to_string())? {
                break frame;
            }
            match stream.read(&mut chunk) {
                Ok(0) => return Err("it closed the connection".into()),
                Ok(read) => reader.feed(&chunk[..read]),
                Err(error) => return Err(error.to_string()),
            }
        };
        self.used_at = Instant::now();
        if frame.header.request_id != RequestId(self.request) {
            return Err("it answers what was not asked".into());
        }
        match Message::decode(&frame).map_err(|error| error.to_string())? {
            Message::Error(failed) => Err(failed.text),
            Message::Refuse(refuse) => Err(refuse.text),
            message => Ok(message),
        }
    }

    fn hear_coverage(&mut self) -> Result<Coverage, String> {
        match self.hear()? {
            Message::Coverage(coverage) => Ok(coverage),
            message => Err(unexpected(&message)),
        }
    }

    /// Takes the frames of one piece; where the next one begins.
    fn hear_entries(&mut self, mut take: impl FnMut(Entry)) -> Result<u64, String> {
        loop {
            match self.hear()? {
                Message::Entries(Entries { more, cursor, entries }) => {
                    entries.into_iter().for_each(&mut take);
                    if !more {
                        return Ok(cursor);
                    }
                }
                message => return Err(unexpected(&message)),
            }
        }
    }

    pub(super) fn ask_sums(&mut self, upto: Version, expiry_above: u64) -> Result<(), String> {
        self.ask(&Message::Survey(Survey { upto, expiry_above, regions: self.regions.clone() }))
    }

    pub(super) fn hear_sums(&mut self) -> Result<Summed, String> {
        let coverage = self.hear_coverage()?;
        let mut summed = Summed { coverage, keys: 0, sums: Vec::new() };
        loop {
            match self.hear()? {
                Message::Sums(sums) if usize::from(sums.first) == summed.sums.len() => {
                    summed.keys = sums.keys;
                    summed.sums.extend(sums.sums);
                    if !sums.more && summed.sums.len() == LEAVES {
                        return Ok(summed);
                    }
                }
                message => return Err(unexpected(&message)),
            }
        }
    }

    /// Everything in these leaves.
    pub(super) fn inspect(&mut self, leaves: &[u16], mut take: impl FnMut(Entry)) -> Result<(), String> {
        let mut cursor = 0;
        loop {
            let (leaves, regions) = (leaves.to_vec(), self.regions.clone());
            self.ask(&Message::Inspect(Inspect { cursor, leaves, regions }))?;
            if cursor == 0 {
                self.hear_coverage()?;
            }
            cursor = self.hear_entries(&mut take)?;
            if cursor == 0 {
                return Ok(());
            }
        }
    }

    pub(super) fn ask_keys(&mut self, keys: &[Bytes]) -> Result<(), String> {
        self.ask(&Message::Lookup(Lookup { keys: keys.to_vec(), regions: self.regions.clone() }))
    }

    pub(super) fn hear_keys(&mut self, take: impl FnMut(Entry)) -> Result<Coverage, String> {
        let coverage = self.hear_coverage()?;
        self.hear_entries(take)?;
        Ok(coverage)
    }
}

fn unexpected(message: &Message) -> String {
    format!("it answers {} where something else was due; is it of another version?", message.opcode().name())
}
