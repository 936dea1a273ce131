//! F1, F2: what each node's discovery lists. A dead node's services go everywhere within their bound, those of a live one stay
//! while at most two refreshes in a row can have been lost, and nobody is listed under an address that is not its region's.
//!
//! Knows the status that a node shows, and the times that discovery documents, and nothing else of the engine.

use std::net::{IpAddr, SocketAddr};

use engine::control::status::ServiceStatus;
use net::reactor::Mono;

use super::Violation;

/// A dead service is gone everywhere within its bound.
pub const GONE: &str = "F1 the dead are gone";
/// A live one is listed.
pub const LISTED: &str = "F1 the living are listed";
/// Addresses belong to their regions.
pub const ADDRESSES: &str = "F2 addresses belong to their regions";

/// The services of every node.
pub const SERVICES: [&str; 3] = ["discovery", "replication", "storage"];

/// The longest time to live (15 s) and the grace of a peer (7 s), and a second for what was on its way and for the status.
const GONE_MS_MAX: u64 = 15_000 + 7_000 + 1_000;
/// The longest wait before a given-up link is dialled again (30 s), an exchange (5 s), its deadline (1 s), and the status.
const LISTED_MS_MAX: u64 = 30_000 + 5_000 + 1_000 + 1_000;
/// Two refreshes may be lost.
const KEPT_MS_MIN: u64 = 10_000;
/// Links that are healthy for this long have carried an exchange.
const EXCHANGED_MS: u64 = 6_000;

/// What a running node shows.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Differs between the runs of a node.
    pub run: u64,
    /// Its list.
    pub services: Vec<ServiceStatus>,
}

/// Since when a node is up in which run, or down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Life {
    run: Option<u64>,
    since: Mono,
}

/// What was seen at earlier looks.
#[derive(Debug)]
pub struct Services {
    regions: Vec<(String, IpAddr)>,
    lives: Vec<Life>,
    /// By observer and subject: whether all services were listed at the last look, in the same runs.
    listed: Vec<Vec<bool>>,
    /// The last look at which links had carried an exchange.
    exchanged_at: Mono,
    /// How often a live node had to be listed, and was.
    pub checked: u64,
}

impl Services {
    /// Of these regions, with one node each at that address; all down.
    #[must_use]
    pub fn new(regions: Vec<(String, IpAddr)>) -> Services {
        let count = regions.len();
        Services {
            regions,
            lives: vec![Life { run: None, since: Mono(0) }; count],
            listed: vec![vec![false; count]; count],
            exchanged_at: Mono(0),
            checked: 0,
        }
    }

    /// Looks at what every node that is up shows now. `healthy_since` is the last moment at which any link was at fault,
    /// `None` while one is. What happens between two looks is taken to happen at the later one.
    ///
    /// # Errors
    /// [`GONE`], [`LISTED`], [`ADDRESSES`].
    pub fn look(&mut self, now: Mono, healthy_since: Option<Mono>, nodes: &[Option<Shown>]) -> Result<(), Violation> {
        for (index, node) in nodes.iter().enumerate() {
            let run = node.as_ref().map(|node| node.run);
            if self.lives[index].run != run {
                self.lives[index] = Life { run, since: now };
                self.listed[index].fill(false);
                for row in &mut self.listed {
                    row[index] = false;
                }
            }
        }
        if healthy_since.is_some_and(|since| now >= since.plus_ms(EXCHANGED_MS)) {
            self.exchanged_at = now;
        }
        for (observer, node) in nodes.iter().enumerate() {
            let Some(node) = node else { continue };
            self.addresses(observer, &node.services)?;
            for subject in 0..nodes.len() {
                if subject != observer {
                    self.pair(now, healthy_since, observer, subject, &node.services)?;
                }
            }
        }
        Ok(())
    }

    fn addresses(&self, observer: usize, services: &[ServiceStatus]) -> Result<(), Violation> {
        for service in services {
            let address: Option<SocketAddr> = service.address.parse().ok();
            let right = address.is_some_and(|address| {
                // Two nodes may say that they are of one region.
                let mut places = self.regions.iter().filter(|(name, _)| *name == service.region);
                // What a node lists of itself is for its own host.
                let own = self.regions[observer].0 == service.region && address.ip().is_loopback();
                own || places.any(|(_, ip)| *ip == address.ip())
            });
            if !right {
                return Err(Violation::new(ADDRESSES, format!("{} lists {service:?}", self.regions[observer].0)));
            }
        }
        Ok(())
    }

    fn pair(
        &mut self,
        now: Mono,
        healthy_since: Option<Mono>,
        observer: usize,
        subject: usize,
        services: &[ServiceStatus],
    ) -> Result<(), Violation> {
        let (name, ip) = &self.regions[subject];
        let is_there = |address: &str| address.parse().is_ok_and(|address: SocketAddr| address.ip() == *ip);
        let is_listed = |service: &ServiceStatus| {
            let lives = matches!(service.state.as_str(), "alive" | "suspect");
            service.region == *name && is_there(&service.address) && lives
        };
        let life = self.lives[subject];
        let describe = |what: &str| {
            let shown: Vec<&ServiceStatus> = services.iter().filter(|service| service.region == *name).collect();
            let since = life.since.0 / 1_000_000;
            format!("{} {what} {name} (as it is since {since} ms): {shown:?}", self.regions[observer].0)
        };
        if life.run.is_none() {
            let found = services.iter().any(is_listed);
            if found && now >= life.since.plus_ms(GONE_MS_MAX) {
                return Err(Violation::new(GONE, describe("still lists")));
            }
            return Ok(());
        }
        let all = SERVICES.iter().all(|wanted| services.iter().any(|one| is_listed(one) && one.service == *wanted));
        let since = self.lives[observer].since.max(life.since);
        let due = healthy_since.is_some_and(|healthy| now >= healthy.max(since).plus_ms(LISTED_MS_MAX));
        if due && !all {
            return Err(Violation::new(LISTED, describe("does not list")));
        }
        let kept = self.listed[observer][subject] && now < self.exchanged_at.plus_ms(KEPT_MS_MIN);
        if kept && !all {
            return Err(Violation::new(LISTED, describe("no longer lists")));
        }
        self.checked += u64::from(due || kept);
        self.listed[observer][subject] = all;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "10.0.0.1:1";
    const OTHER: &str = "10.0.0.2:1";

    fn at(seconds: u64) -> Mono {
        Mono(seconds * 1_000_000_000)
    }

    fn watch() -> Services {
        let ip = |last| IpAddr::from([10, 0, 0, last]);
        Services::new(vec![("sfo".to_owned(), ip(1)), ("nyc".to_owned(), ip(2))])
    }

    fn list(region: &str, address: &str, state: &str) -> Vec<ServiceStatus> {
        let service = |name: &str| ServiceStatus {
            service: name.to_owned(),
            region: region.to_owned(),
            address: address.to_owned(),
            state: state.to_owned(),
        };
        SERVICES.map(service).into()
    }

    fn shown(run: u64, services: Vec<ServiceStatus>) -> Option<Shown> {
        Some(Shown { run, services })
    }

    fn checker(result: Result<(), Violation>) -> Option<&'static str> {
        result.err().map(|violation| violation.checker)
    }

    #[test]
    fn the_dead_have_to_go() {
        let mut services = watch();
        let nodes = [shown(1, list("nyc", OTHER, "alive")), None];
        assert_eq!(checker(services.look(at(0), None, &nodes)), None);
        assert_eq!(checker(services.look(at(22), None, &nodes)), None);
        assert_eq!(checker(services.look(at(23), None, &nodes)), Some(GONE));
        let nodes = [shown(1, list("nyc", OTHER, "gone")), None];
        assert_eq!(checker(services.look(at(23), None, &nodes)), None);
    }

    #[test]
    fn the_living_have_to_be_listed_once_links_are_healthy() {
        for state in ["gone", "suspect"] {
            let mut services = watch();
            let nodes = [shown(1, list("nyc", OTHER, state)), shown(2, list("sfo", OWN, "alive"))];
            assert_eq!(checker(services.look(at(1), Some(at(0)), &nodes)), None);
            assert_eq!(checker(services.look(at(37), Some(at(0)), &nodes)), None);
            let due = checker(services.look(at(38), Some(at(0)), &nodes));
            assert_eq!(due, (state == "gone").then_some(LISTED));
            let restarted = [nodes[0].clone(), shown(3, list("sfo", OWN, "alive"))];
            assert_eq!(checker(services.look(at(39), Some(at(0)), &restarted)), None, "a new run has its time");
        }
    }

    #[test]
    fn two_lost_refreshes_do_not_end_a_life() {
        for (lost_for, expected) in [(9, Some(LISTED)), (10, None)] {
            let mut services = watch();
            let alive = [shown(1, list("nyc", OTHER, "alive")), shown(2, list("sfo", OWN, "alive"))];
            assert_eq!(checker(services.look(at(1), Some(at(0)), &alive)), None);
            assert_eq!(checker(services.look(at(6), Some(at(0)), &alive)), None);
            let gone = [shown(1, list("nyc", OTHER, "gone")), shown(2, list("sfo", OWN, "alive"))];
            assert_eq!(checker(services.look(at(6 + lost_for), None, &gone)), expected);
        }
    }

    #[test]
    fn foreign_addresses_are_found() {
        for (region, address, expected) in [
            ("nyc", OTHER, None),
            ("nyc", OWN, Some(ADDRESSES)),
            ("nyc", "127.0.0.1:1", Some(ADDRESSES)),
            ("nyc", "0.0.0.0:1", Some(ADDRESSES)),
            ("ams", OTHER, Some(ADDRESSES)),
            ("sfo", "127.0.0.1:1", None),
            ("sfo", OWN, None),
            ("nyc", "nonsense", Some(ADDRESSES)),
        ] {
            let nodes = [shown(1, list(region, address, "alive")), None];
            assert_eq!(checker(watch().look(at(0), None, &nodes)), expected, "{region} {address}");
        }
    }
}
