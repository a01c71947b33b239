//! A cache of host addresses: one look-up serves all connections for a while.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::lock::lock;
use crate::{Error, ErrorKind};

/// How long addresses are used before they are looked up again. The system doesn't report how long an answer is valid.
/// With 30 s there are at most two look-ups a minute, however many connections are opened, and a host that moves is
/// found again within half a minute.
const LIFETIME: Duration = Duration::from_secs(30);

/// How long a failed look-up is the answer to all connections that want the same host. A call that is retried a second
/// later looks the host up again.
const FAILURE_LIFETIME: Duration = Duration::from_millis(500);

type Lookup = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// Resolver that looks each host up once for all connections that want it at the same time. It rotates the addresses,
/// so that connections spread over all of them.
#[derive(Clone)]
pub(super) struct CachedResolver {
    /// Blocks until the name service has answered.
    lookup: Arc<Lookup>,
    hosts: Arc<Mutex<HashMap<String, Host>>>,
}

/// The cached addresses of one host.
#[derive(Default)]
struct Host {
    addresses: Vec<SocketAddr>,
    failure: Option<String>,
    /// When the host is to be looked up again.
    due: Option<Instant>,
    /// Becomes true when the look-up under way has ended. The look-up runs on a thread of its own, so it ends whether
    /// or not anybody waits for it: the future that started it may never be polled again.
    ended: Option<watch::Receiver<bool>>,
    /// Number of answers so far, by which addresses are rotated.
    answers: usize,
}

impl Host {
    fn record(&mut self, outcome: io::Result<Vec<SocketAddr>>) {
        let lifetime = match outcome {
            Ok(addresses) if !addresses.is_empty() => {
                (self.addresses, self.failure) = (addresses, None);
                LIFETIME
            }
            // While the name service fails, the old addresses stay in use.
            outcome => {
                let reason = outcome.err().map_or_else(|| "it has no address".to_owned(), |error| error.to_string());
                self.failure = Some(reason);
                FAILURE_LIFETIME
            }
        };
        self.due = Some(Instant::now() + lifetime);
        self.ended = None;
    }

    fn answer(&mut self) -> crate::Result<Vec<SocketAddr>> {
        if self.addresses.is_empty() {
            let reason = self.failure.as_deref().unwrap_or("it has no address");
            return Err(Error::new(ErrorKind::Unavailable, reason));
        }
        self.answers = self.answers.wrapping_add(1);
        Ok(rotated(&self.addresses, self.answers))
    }
}

impl CachedResolver {
    /// The resolver of this process, which asks the system.
    pub(super) fn shared() -> Self {
        static SHARED: LazyLock<CachedResolver> =
            LazyLock::new(|| CachedResolver::new(|name| Ok((name, 0).to_socket_addrs()?.collect())));
        SHARED.clone()
    }

    fn new(lookup: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Self {
        Self { lookup: Arc::new(lookup), hosts: Arc::default() }
    }

    async fn addresses(&self, name: &str) -> crate::Result<Vec<SocketAddr>> {
        loop {
            let (mut ended, is_own) = {
                let mut hosts = lock(&self.hosts);
                let host = hosts.entry(name.to_owned()).or_default();
                if host.due.is_some_and(|due| Instant::now() < due) {
                    return host.answer();
                }
                // A look-up whose runtime was dropped closes its channel without ending.
                match host.ended.clone().filter(|ended| ended.has_changed().is_ok()) {
                    Some(ended) => (ended, false),
                    None => (host.ended.insert(self.look_up(name)).clone(), true),
                }
            };
            if ended.wait_for(|&ended| ended).await.is_err() && is_own {
                return Err(Error::new(ErrorKind::Unavailable, "the look-up was cancelled"));
            }
        }
    }

    /// Looks a host up on a thread that may block. The outcome is recorded before the returned channel becomes true.
    fn look_up(&self, name: &str) -> watch::Receiver<bool> {
        let (end, ended) = watch::channel(false);
        let (resolver, name) = (self.clone(), name.to_owned());
        tokio::task::spawn_blocking(move || {
            let outcome = (resolver.lookup)(&name);
            lock(&resolver.hosts).entry(name).or_default().record(outcome);
            end.send_replace(true);
        });
        ended
    }
}

impl Resolve for CachedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let addresses = resolver.addresses(name.as_str()).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// The addresses, rotated by `shift` within each family. The family that the system prefers stays first: a machine
/// without a route to the other family would wait for each connection.
fn rotated(addresses: &[SocketAddr], shift: usize) -> Vec<SocketAddr> {
    let preferred = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (mut first, mut rest): (Vec<_>, Vec<_>) =
        addresses.iter().copied().partition(|address| address.is_ipv4() == preferred);
    for family in [&mut first, &mut rest] {
        if !family.is_empty() {
            let start = shift % family.len();
            family.rotate_left(start);
        }
    }
    first.append(&mut rest);
    first
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use futures_util::future::join_all;

    use super::*;

    /// A resolver of four addresses that takes 20 ms, counts what it is asked, and can be switched off.
    fn counting() -> (CachedResolver, Arc<AtomicUsize>, Arc<AtomicBool>) {
        let (count, off) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, switch) = (Arc::clone(&count), Arc::clone(&off));
        let resolver = CachedResolver::new(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            let off = switch.load(Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(20));
            if off {
                return Err(io::Error::other("Name or service not known"));
            }
            Ok((1..=4).map(|last| SocketAddr::from(([127, 0, 0, last], 0))).collect())
        });
        (resolver, count, off)
    }

    #[tokio::test(start_paused = true)]
    async fn many_connections_take_one_lookup_and_use_all_addresses() {
        let (resolver, count, _) = counting();
        let answers = join_all((0..1_000).map(|_| resolver.addresses("storage.test"))).await;
        assert_eq!(count.load(Ordering::SeqCst), 1, "look-ups of 1,000 connections at once");
        let mut firsts = std::collections::BTreeMap::new();
        for answer in answers {
            let addresses = answer.unwrap();
            assert_eq!(
                addresses.iter().collect::<BTreeSet<_>>().len(),
                4,
                "each answer has all addresses to fall back on"
            );
            *firsts.entry(addresses[0]).or_insert(0) += 1;
        }
        assert_eq!(firsts.into_values().collect::<Vec<_>>(), [250; 4]);
        resolver.addresses("other.test").await.unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_holds_for_half_a_minute_and_a_failure_for_half_a_second() {
        let (resolver, count, off) = counting();
        off.store(true, Ordering::SeqCst);
        let failures = join_all((0..100).map(|_| resolver.addresses("a"))).await;
        assert!(failures.iter().all(|failure| failure.as_ref().unwrap_err().to_string().contains("not known")));
        assert_eq!(count.load(Ordering::SeqCst), 1);
        tokio::time::advance(FAILURE_LIFETIME).await;
        off.store(false, Ordering::SeqCst);
        resolver.addresses("a").await.unwrap();
        tokio::time::advance(LIFETIME.saturating_sub(Duration::from_millis(1))).await;
        resolver.addresses("a").await.unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 2);
        tokio::time::advance(Duration::from_millis(1)).await;
        resolver.addresses("a").await.unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 3);
        // The old addresses are used while the name service fails.
        off.store(true, Ordering::SeqCst);
        tokio::time::advance(LIFETIME).await;
        assert_eq!(resolver.addresses("a").await.unwrap().len(), 4);
        assert_eq!(count.load(Ordering::SeqCst), 4);
    }

    #[tokio::test]
    async fn a_dropped_future_does_not_block_the_others() {
        let (resolver, count, _) = counting();
        assert!(resolver.addresses("a").now_or_never().is_none());
        assert_eq!(resolver.addresses("a").await.unwrap().len(), 4);
        assert_eq!(count.load(Ordering::SeqCst), 1, "the look-up that was started is used");
    }

    /// The first caller once held a lock that all others in the process waited for.
    #[test]
    fn a_caller_whose_runtime_stops_does_not_block_the_others() {
        let (resolver, ..) = counting();
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (stopped_runtime, other_runtime) = (runtime(), runtime());
        let stopped = resolver.clone();
        stopped_runtime.spawn(async move { stopped.addresses("a").await.map(drop) });
        stopped_runtime.block_on(tokio::task::yield_now());
        // The task exists, and nobody polls it.
        let others = async { tokio::time::timeout(Duration::from_secs(20), resolver.addresses("a")).await };
        assert_eq!(other_runtime.block_on(others).expect("it waits forever").unwrap().len(), 4);
        drop(stopped_runtime);
    }

    #[test]
    fn the_preferred_family_stays_first() {
        let v6 = |last: u16| SocketAddr::from(([0x2001, 0, 0, 0, 0, 0, 0, last], 0));
        let v4 = |last: u8| SocketAddr::from(([10, 0, 0, last], 0));
        assert_eq!(rotated(&[v6(1), v4(1), v6(2), v4(2)], 1), [v6(2), v6(1), v4(2), v4(1)]);
        assert_eq!(rotated(&[v4(1)], 7), [v4(1)]);
        assert!(rotated(&[], 7).is_empty());
    }
}
