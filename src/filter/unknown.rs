//! How many tokens that nobody knows a client may try.
//!
//! A random token costs its sender nothing and the gateway a question to the registry. So each client has a budget for them, by the
//! address that Envoy takes it to have (behind proxies: what `xff_num_trusted_hops` or the proxy protocol say), and past it what a
//! worker does not know is not asked for on its behalf. What is cached goes on, and nobody else notices.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::hash::RandomState;

/// How many seconds' worth may come at once: somebody who starts with a list of old capabilities is no flood.
const BURST: u32 = 5;
/// Most clients that are told apart. Past it, those that come new share one budget: whoever has that many addresses is refused
/// sooner, and memory is not what it costs.
const MAX_CLIENTS: usize = 8_192;
/// How many of those that are remembered are looked at for each that is charged: more than come, so that they get fewer.
const LOOKED_AT: usize = 2;

/// A client, as far as its address tells: of IPv6 the /64 that one subscriber has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Client(Option<IpAddr>);

impl Client {
    /// All that cannot be told apart: what has no IP address, and what there is no room for.
    pub const SOMEBODY: Client = Client(None);

    /// From Envoy's attribute `source.address`, `192.0.2.1:1234` or `[2001:db8::1]:1234`.
    pub fn parse(address: &[u8]) -> Client {
        let address = core::str::from_utf8(address).ok().and_then(|text| text.parse::<SocketAddr>().ok());
        Client(address.map(|address| match address.ip().to_canonical() {
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                [a, b, c, d, 0, 0, 0, 0].into()
            }
            ip @ IpAddr::V4(_) => ip,
        }))
    }
}

/// What clients have used of their budgets.
pub struct Unknown {
    /// Between two unknown tokens, on average. None: no bound.
    every: Option<Duration>,
    /// By client: when all that it used is made up for (the theoretical arrival time of GCRA, ITU-T I.371), monotonic.
    until: HashMap<Client, Duration, RandomState>,
    /// The same clients, to look at them in turn.
    turns: VecDeque<Client>,
}

impl Unknown {
    /// With `per_second` unknown tokens for each client, [`BURST`] seconds' worth at once; 0 is no bound.
    pub fn new(per_second: u32) -> Unknown {
        Unknown {
            every: Duration::from_secs(1).checked_div(per_second),
            until: HashMap::with_hasher(RandomState::new()),
            turns: VecDeque::new(),
        }
    }

    /// Whether `client` has used up its budget at `now` (monotonic).
    pub fn is_spent(&self, client: Client, now: Duration) -> bool {
        let until = self.until.get(&self.known(client)).copied().unwrap_or_default();
        until >= now + Duration::from_secs(BURST.into())
    }

    /// The registry did not know a token that `client` presented.
    pub fn charge(&mut self, client: Client, now: Duration) {
        let Some(every) = self.every else { return };
        for _ in 0..LOOKED_AT.min(self.turns.len()) {
            let Some(other) = self.turns.pop_front() else { break };
            if self.until.get(&other).is_some_and(|until| *until > now) {
                self.turns.push_back(other);
            } else {
                self.until.remove(&other);
            }
        }
        let client = self.known(client);
        let until = self.until.entry(client).or_insert_with(|| {
            self.turns.push_back(client);
            now
        });
        *until = (*until).max(now) + every;
    }

    /// The client whose budget counts: its own, or everybody's where there is no room for more.
    fn known(&self, client: Client) -> Client {
        let has_room = self.until.len() < MAX_CLIENTS || self.until.contains_key(&client);
        if has_room { client } else { Client::SOMEBODY }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(n: u32) -> Client {
        Client(Some(IpAddr::V4(n.into())))
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn clients_by_their_addresses() {
        let same = |a: &str, b: &str| Client::parse(a.as_bytes()) == Client::parse(b.as_bytes());
        assert!(same("192.0.2.1:1", "192.0.2.1:65535") && !same("192.0.2.1:1", "192.0.2.2:1"));
        assert!(same("[::ffff:192.0.2.1]:1", "192.0.2.1:9"));
        assert!(same("[2001:db8:0:1::1]:1", "[2001:db8:0:1:ffff::2]:2"));
        assert!(!same("[2001:db8:0:1::1]:1", "[2001:db8:0:2::1]:1"));
        for odd in ["", "/a/socket", "192.0.2.1", "a:1", "\u{0}"] {
            assert_eq!(Client::parse(odd.as_bytes()), Client::SOMEBODY, "{odd}");
        }
        assert_eq!(Client::parse(b"\xff:1"), Client::SOMEBODY);
    }

    #[test]
    fn a_budget_is_spent_and_comes_back() {
        let mut unknown = Unknown::new(10);
        let now = 100 * SECOND;
        let spend = |unknown: &mut Unknown, now| {
            let mut spent = 0;
            while !unknown.is_spent(client(1), now) {
                unknown.charge(client(1), now);
                spent += 1;
            }
            spent
        };
        assert_eq!(spend(&mut unknown, now), 50);
        assert!(!unknown.is_spent(client(2), now));
        assert_eq!(spend(&mut unknown, now + SECOND), 10);
        assert_eq!(spend(&mut unknown, now + 100 * SECOND), 50);
        // Whoever goes on trying gets its rate, and no more.
        let mut tried = 0;
        for millisecond in 0..10_000 {
            tried += spend(&mut unknown, now + 200 * SECOND + Duration::from_millis(millisecond));
        }
        assert!((149..=150).contains(&tried), "{tried}");
    }

    #[test]
    fn zero_is_no_bound() {
        let mut unknown = Unknown::new(0);
        (0..100_000).for_each(|_| unknown.charge(client(1), SECOND));
        assert!(!unknown.is_spent(client(1), SECOND));
    }

    #[test]
    fn however_many_clients_there_are_memory_is_bounded() {
        let mut unknown = Unknown::new(10);
        for n in 0..100_000 {
            unknown.charge(client(n), 100 * SECOND);
        }
        assert_eq!((unknown.until.len(), unknown.turns.len()), (MAX_CLIENTS + 1, MAX_CLIENTS + 1));
        // The first have their own, the rest one together, which is spent.
        assert!(!unknown.is_spent(client(1), 100 * SECOND));
        assert!(
            unknown.is_spent(client(99_999), 100 * SECOND) && unknown.is_spent(client(200_000), 100 * SECOND)
        );
        // Those whose time is over make room, and it is once what they used is made up for: a tenth of a second for one token.
        for _ in 0..MAX_CLIENTS {
            unknown.charge(client(1), 100 * SECOND + SECOND / 10);
        }
        assert!(unknown.until.len() <= 2 && unknown.turns.len() <= 2, "{}", unknown.until.len());
    }
}
