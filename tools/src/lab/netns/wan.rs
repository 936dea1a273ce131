//! The emulated WAN: a TUN device in each region's namespace, and one thread that carries packets between them over
//! [`Link`]s.
//!
//! A packet goes to the region that the last byte of its IPv4 destination names; anything else is dropped. Nothing else
//! joins the namespaces, so nothing leaves them.

use std::fmt::Write as _;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use tun_rs::{DeviceBuilder, SyncDevice};

use super::super::command::Action;
use super::super::{LabError, io_error, region};
use super::link::Link;
use super::namespace::Namespace;

/// The TUN device of each namespace.
pub(super) const DEVICE: &str = "wan0";

/// Where TUN devices come from.
const TUN: &str = "/dev/net/tun";

/// Longest packet that a device of MTU 1500 gives.
const PACKET_BYTES_MAX: usize = 2048;

/// Packets read from one device before the others have their turn.
const BURST: usize = 64;

/// How often the thread looks whether it should end when nothing moves.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Links by origin and destination; those from a region to itself carry nothing.
type Links = Vec<Vec<Link>>;

/// The running WAN. Dropping it ends the thread and takes the devices away.
#[derive(Debug)]
pub(super) struct Wan {
    links: Arc<Mutex<Links>>,
    stopping: Arc<AtomicBool>,
    carrier: Option<JoinHandle<()>>,
}

impl Wan {
    /// Makes a device in each namespace, without addresses, and carries packets between them from now on.
    pub(super) fn start(namespaces: &[Namespace]) -> Result<Wan, LabError> {
        let devices = namespaces.iter().map(device).collect::<Result<Vec<_>, _>>()?;
        let one_way = |from, to| Duration::from_secs_f64(region::one_way_ms(from, to) / 1000.0);
        let row = |from| (0..devices.len()).map(|to| Link::new(one_way(from, to))).collect();
        let links: Arc<Mutex<Links>> = Arc::new(Mutex::new((0..devices.len()).map(row).collect()));
        let stopping = Arc::new(AtomicBool::new(false));
        let mut carrier = Carrier { devices, links: Arc::clone(&links), random: 0x9E37_79B9_7F4A_7C15 };
        let stop = Arc::clone(&stopping);
        let thread = thread::Builder::new().name("wan".into()).spawn(move || carrier.run(&stop));
        let thread = thread.map_err(io_error("no thread for the emulated WAN"))?;
        Ok(Wan { links, stopping, carrier: Some(thread) })
    }

    /// Whether packets are still carried: the thread ends when a device fails.
    pub(super) fn is_running(&self) -> bool {
        self.carrier.as_ref().is_some_and(|carrier| !carrier.is_finished())
    }

    /// Who may change the links, from any thread.
    pub(super) fn controls(&self) -> Controls {
        Controls { links: Arc::clone(&self.links) }
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(carrier) = self.carrier.take() {
            let _ = carrier.join();
        }
    }
}

fn device(namespace: &Namespace) -> Result<SyncDevice, LabError> {
    // The library would make the file, too, and with it a device that this machine may not have.
    if !Path::new(TUN).exists() {
        return Err(LabError::Failed(format!(
            "there is no {TUN}: load the module tun, or give the container the device"
        )));
    }
    let made = namespace.enter(|| {
        let device = DeviceBuilder::new().name(DEVICE).inherit_enable_state().build_sync()?;
        device.set_nonblocking(true)?;
        Ok(device)
    });
    made.and_then(|device| device).map_err(io_error(format!("no TUN device in {}", namespace.name())))
}

fn lock(links: &Mutex<Links>) -> MutexGuard<'_, Links> {
    links.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread's own part.
struct Carrier {
    devices: Vec<SyncDevice>,
    links: Arc<Mutex<Links>>,
    /// State of xorshift64: equal in every run, so that loss is no other luck each time.
    random: u64,
}

impl Carrier {
    fn run(&mut self, stop: &AtomicBool) {
        // What daemons do must not change a link's delay, and the default slack of 50 µs would be added to it.
        let _ = rustix::process::nice(-20);
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        while !stop.load(Ordering::Relaxed) {
            let next = self.deliver();
            let Ok(ready) = self.wait_until(next) else { return };
            for (source, _) in ready.into_iter().enumerate().filter(|(_, ready)| *ready) {
                if self.collect(source).is_err() {
                    return;
                }
            }
        }
    }

    /// Hands out what has arrived; returns when the next packet will.
    fn deliver(&self) -> Option<Instant> {
        let mut links = lock(&self.links);
        for row in links.iter_mut() {
            for (link, device) in row.iter_mut().zip(&self.devices) {
                while let Some(packet) = link.arrived(Instant::now()) {
                    // A full or closed device drops, as a network does.
                    let _ = device.send(&packet);
                }
            }
        }
        links.iter().flatten().filter_map(Link::next_arrival).min()
    }

    /// Sleeps until `next` or a packet; says which devices have any.
    fn wait_until(&self, next: Option<Instant>) -> rustix::io::Result<Vec<bool>> {
        let timeout = next.map_or(LOOK_EVERY, |next| next.saturating_duration_since(Instant::now()).min(LOOK_EVERY));
        let timeout = Timespec { tv_sec: 0, tv_nsec: timeout.subsec_nanos().into() };
        let mut polled: Vec<_> = self.devices.iter().map(|device| PollFd::new(device, PollFlags::IN)).collect();
        match poll(&mut polled, Some(&timeout)) {
            Ok(_) => Ok(polled.iter().map(|fd| !fd.revents().is_empty()).collect()),
            Err(rustix::io::Errno::INTR) => Ok(vec![false; self.devices.len()]),
            Err(error) => Err(error),
        }
    }

    /// Puts what region `source` has sent on its links.
    fn collect(&mut self, source: usize) -> std::io::Result<()> {
        let mut buffer = [0; PACKET_BYTES_MAX];
        for _ in 0..BURST {
            let packet = match self.devices[source].recv(&mut buffer) {
                Ok(length) => &buffer[..length],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let now = Instant::now();
            let chance = self.chance();
            if let Some(target) = target(packet).filter(|target| *target != source && *target < self.devices.len()) {
                lock(&self.links)[source][target].admit(now, packet.to_vec(), chance);
            }
        }
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "53 bits are what a float holds")]
    fn chance(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The region that an IPv4 packet is for, by its address: region 0 has x.x.x.1.
fn target(packet: &[u8]) -> Option<usize> {
    const DESTINATION_END: usize = 19;
    let is_ipv4 = packet.first().is_some_and(|first| first >> 4 == 4);
    let last = packet.get(DESTINATION_END).filter(|_| is_ipv4)?;
    usize::from(*last).checked_sub(1)
}

/// Changes the links while they carry packets.
#[derive(Clone, Debug)]
pub(super) struct Controls {
    links: Arc<Mutex<Links>>,
}

impl Controls {
    /// Carries out a command; the answer shows the links that it is about, or says what is wrong.
    pub(super) fn apply(&self, action: &Action) -> Result<String, String> {
        let mut links = lock(&self.links);
        let touched: Vec<(usize, usize)> = action.ends().directions().collect();
        if touched.is_empty() {
            return Err("a region has no link to itself".into());
        }
        for (from, to) in &touched {
            let link = &mut links[*from][*to];
            match action {
                Action::Cut { .. } => link.set_up(false),
                Action::Heal { .. } => link.set_up(true),
                Action::Loss { percent, .. } => link.conditions.loss_percent = *percent,
                Action::Rate { mbit, buffer_kb, .. } => {
                    link.set_rate((*mbit > 0.0).then_some(*mbit), f64::from(*buffer_kb) * 1e3);
                }
                Action::Links => {}
            }
        }
        Ok(touched.iter().fold(String::new(), |text, (from, to)| text + &describe(*from, *to, &links[*from][*to])))
    }
}

fn describe(from: usize, to: usize, link: &Link) -> String {
    let (conditions, counts) = (&link.conditions, &link.counts);
    let state = if conditions.up { "up " } else { "CUT" };
    let delay_ms = conditions.delay.as_secs_f64() * 1000.0;
    let (from, to) = (region::name(from), region::name(to));
    let mut text = format!("{from} → {to}  {state}  {delay_ms:>4.1} ms  loss {} %", conditions.loss_percent);
    if let Some(rate_mbit) = conditions.rate_mbit {
        let _ = write!(text, "  {rate_mbit} Mbit/s, buffer {} kB", conditions.buffer_bytes / 1e3);
    }
    let _ = writeln!(
        text,
        "  packets: {} delivered, {} lost, {} overflowed, {} cut",
        counts.delivered, counts.lost, counts.overflowed, counts.cut
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_goes_where_its_address_says_and_anything_else_nowhere() {
        let mut packet = [0_u8; 20];
        packet[0] = 0x45;
        packet[16..].copy_from_slice(&[10, 0, 0, 3]);
        assert_eq!(target(&packet), Some(2));
        packet[19] = 0;
        assert_eq!(target(&packet), None);
        packet[0] = 0x60;
        packet[19] = 1;
        assert_eq!(target(&packet), None, "IPv6");
        assert_eq!(target(&[0x45; 19]), None, "too short");
        assert_eq!(target(&[]), None);
    }
}
