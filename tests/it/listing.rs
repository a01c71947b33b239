//! The parallel lister finds each name exactly once, for any names, page sizes, servers and orders of the answers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dataflux::list::{Lister, ListingCut, Prefix};
use dataflux::store::{
    Attempt, Client, Credentials, GcsConfig, GcsStore, ListPage, ListRequest, MemoryStore, ObjectRef, RetryPolicy,
    Store,
};
use dataflux::{Error, ErrorKind, Result};
use dataflux_emulator::{Call, Emulator, Fault, VirtualSpec};
use proptest::prelude::*;

use crate::support::forwarding::{Forward, Forwarding};

/// A server that only lists names, correct except for its oddities.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is an oddity that a server has or hasn't")]
struct Odd {
    names: Vec<String>,
    /// Answers the calls that a listing doesn't make.
    unused: MemoryStore,
    /// Most items in a page; 0 for no cap.
    cap: usize,
    /// Pages end early at random.
    short: bool,
    /// One page in so many is empty and has a token; 0 for none.
    empty: u64,
    ignores_page_size: bool,
    ignores_start: bool,
    ignores_end: bool,
    ignores_delimiter: bool,
    ignores_prefix: bool,
    /// Refuses the delimiter.
    no_delimiter: bool,
    /// One token in so many is refused; 0 for none.
    expires: u64,
    /// Each page begins with the last name of the one before, under tokens that are always new.
    repeats: bool,
    backwards: bool,
    /// Answers so many calls and then none; 0 for no end.
    silent_after: u64,
    /// The number of calls in progress.
    live: Arc<AtomicU64>,
    /// One try in so many fails; 0 for none.
    fails: u64,
    seed: u64,
    calls: Arc<AtomicU64>,
}

/// A call in progress, which counts until it is dropped.
struct Live(Arc<AtomicU64>);

impl Live {
    fn new(live: &Arc<AtomicU64>) -> Self {
        live.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(live))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// SplitMix64: the same oddities for the same seed.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn object(name: &String) -> ObjectRef<'_> {
    ObjectRef { name, version: 1.into(), ..ObjectRef::default() }
}

#[async_trait]
impl Forward for Odd {
    fn inner(&self) -> &dyn Store {
        &self.unused
    }
    async fn list(&self, request: &ListRequest, _: &Attempt) -> Result<ListPage> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let _live = Live::new(&self.live);
        if self.silent_after > 0 && call >= self.silent_after {
            std::future::pending::<()>().await;
        }
        let random = |what: u64| mix(self.seed ^ mix(call ^ mix(what)));
        tokio::time::sleep(Duration::from_millis(random(0) % 100)).await;
        if self.fails > 0 && random(1).is_multiple_of(self.fails) {
            let kind = if random(2) & 1 == 0 { ErrorKind::Unavailable } else { ErrorKind::RateLimited };
            return Err(Error::new(kind, "a bad day"));
        }
        if request.page_token.is_some() && self.expires > 0 && random(5).is_multiple_of(self.expires) {
            return Err(Error::new(ErrorKind::Protocol, "the token has expired").status(400));
        }
        if request.delimiter.is_some() && self.no_delimiter {
            return Err(Error::new(ErrorKind::Protocol, "what is a delimiter?").status(400));
        }
        for text in [&request.start_offset, &request.end_offset].into_iter().flatten() {
            assert!(text.len() <= 1_024 && !text.contains(['\r', '\n']), "no name can be {text:?}");
        }
        let prefix = if self.ignores_prefix { "" } else { &*request.prefix };
        let start = request.start_offset.as_deref().filter(|_| !self.ignores_start).unwrap_or_default().max(prefix);
        let end = request.end_offset.as_deref().filter(|_| !self.ignores_end);
        let after = request.page_token.as_deref();
        let delimiter = request.delimiter.as_deref().filter(|_| !self.ignores_delimiter);
        let mut cap = request.page_size.map_or(1_000, |size| size as usize);
        if self.cap > 0 {
            cap = cap.min(self.cap);
        }
        if self.short {
            cap = 1 + random(3) as usize % cap;
        }
        if self.ignores_page_size {
            cap = usize::MAX;
        }
        let mut page = ListPage::default();
        if self.empty > 0 && random(4).is_multiple_of(self.empty) && self.cap != 1 {
            // No name has a line feed, so this token is no name.
            page.next_page_token = Some(after.map_or_else(|| "\n".to_owned(), str::to_owned));
            // A repeated token would mean a server that never ends.
            page.next_page_token.as_mut().unwrap().push('\r');
            return Ok(page);
        }
        if self.repeats {
            page.objects = self.names[..cap].iter().map(|name| object(name)).collect();
            page.next_page_token = Some(call.to_string());
            return Ok(page);
        }
        let after = after.map(|token| token.trim_end_matches('\r')).filter(|token| *token != "\n");
        let mut listed = Vec::new();
        let mut last = "";
        for name in &self.names[self.names.partition_point(|name| name.as_str() < start)..] {
            if !name.starts_with(prefix) || end.is_some_and(|end| name.as_str() >= end) {
                break;
            }
            if after.is_some_and(|after| {
                name.as_str() <= after || after.ends_with('/') && name.starts_with(after) && delimiter.is_some()
            }) {
                continue;
            }
            let rolled = delimiter.and_then(|delimiter| {
                let at = name[prefix.len()..].find(delimiter)?;
                Some(&name[..=(prefix.len() + at)])
            });
            if rolled.is_some_and(|rolled| page.prefixes.last().is_some_and(|last| last == rolled)) {
                continue;
            }
            if listed.len() + page.prefixes.len() >= cap {
                page.next_page_token = Some(last.to_owned());
                break;
            }
            if let Some(rolled) = rolled {
                page.prefixes.push(rolled.to_owned());
                last = rolled;
            } else {
                listed.push(name);
                last = name;
            }
        }
        if self.backwards {
            listed.reverse();
        }
        page.objects = listed.into_iter().map(object).collect();
        Ok(page)
    }
}

impl Odd {
    fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self { names: names.into_iter().collect::<BTreeSet<_>>().into_iter().collect(), ..Self::default() }
    }

    /// Lists everything below `prefix` on virtual time. A listing that hangs panics.
    fn listed(
        &self,
        prefix: &str,
        page_size: u32,
        concurrency: usize,
        earlier: Vec<ListingCut>,
    ) -> Result<Vec<String>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let prefix: Prefix = format!("gs://bucket/{prefix}").parse().unwrap();
            let client = Client::new(Arc::new(Forwarding(self.clone())));
            let lister = Lister::new(&client, prefix).page_size(page_size).concurrency(concurrency).earlier(earlier);
            let objects =
                tokio::time::timeout(Duration::from_secs(1_000_000), lister.objects()).await.expect("it hangs");
            Ok(objects?.iter().map(|object| object.name.to_owned()).collect())
        })
    }

    fn below(&self, prefix: &str) -> Vec<String> {
        self.names.iter().filter(|name| name.starts_with(prefix)).cloned().collect()
    }
}

/// A legal name: 1 to 1,024 bytes without CR and LF.
fn name() -> impl Strategy<Value = String> {
    let legal = |text: String| {
        let mut name = text.replace(['\r', '\n'], "/");
        while name.len() > 1_024 {
            name.pop();
        }
        if name.is_empty() { "-".to_owned() } else { name }
    };
    prop_oneof![
        3 => "[ab/]{1,7}".prop_map(legal),
        3 => "[0-9]{1,4}",
        2 => "n0[1-3]/n0[1-3]_[0-9]{1,3}\\.JPEG",
        1 => "[a-z/]{1,3}[\u{0}-\u{20}\u{7f}\u{80}\u{7ff}\u{ffff}\u{10000}\u{10ffff}]{1,3}".prop_map(legal),
        1 => any::<String>().prop_map(legal),
        1 => "[ab]{2}".prop_map(move |end| legal("x/".repeat(511) + &end)),
        1 => "[äöü🐱猫]{1,300}".prop_map(legal),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_name_once_and_sorted_whatever_the_server(
        names in prop::collection::vec(name(), 0..400),
        prefix in prop_oneof![6 => Just(String::new()), 1 => "[ab]", 1 => Just("n0".to_owned()), 1 => Just("x/x/".to_owned())],
        (page_size, concurrency) in (prop_oneof![1u32..5, 5u32..60, Just(5_000)], 1usize..70),
        (cap, short, empty, fails) in (prop_oneof![3 => Just(0usize), 1 => 1usize..20], any::<bool>(), prop_oneof![Just(0u64), 2u64..9], prop_oneof![Just(0u64), Just(20)]),
        odd in prop_oneof![8 => Just(0), 2 => 1..9],
        (known, seed) in (any::<bool>(), any::<u64>()),
    ) {
        let mut server = Odd { cap, short, empty, fails, seed, ..Odd::new(names) };
        match odd {
            1 => server.ignores_page_size = true,
            2 => server.ignores_start = true,
            3 => server.ignores_end = true,
            4 => server.ignores_delimiter = true,
            5 => server.backwards = true,
            6 => server.ignores_prefix = true,
            7 => server.no_delimiter = true,
            8 => server.expires = 20,
            _ => {}
        }
        let cut = |name: &String| ListingCut { name: name.clone(), objects: 7 };
        let earlier = if known { server.names.iter().step_by(7).map(cut).collect() } else { Vec::new() };
        let listed = server.listed(&prefix, page_size, concurrency, earlier).unwrap();
        prop_assert_eq!(listed, server.below(&prefix), "{} calls", server.calls.load(Ordering::Relaxed));
    }
}

#[test]
fn a_name_that_is_one_space_is_a_name() {
    let server = Odd { cap: 1, ..Odd::new([" ".into(), "a".into()]) };
    assert_eq!(server.listed("", 1, 8, Vec::new()).unwrap(), [" ", "a"]);
}

#[test]
fn a_server_that_leads_nowhere_is_left() {
    // Every page is empty and has a new token.
    let server = Odd { names: vec!["a".into()], empty: 1, ..Odd::default() };
    let error = server.listed("", 10, 8, Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(error.to_string().contains("gs://bucket/") && error.to_string().contains("lead nowhere"), "{error}");
}

#[test]
fn pages_that_repeat_under_new_tokens_end() {
    let names = (0..50).map(|n| format!("{n:03}"));
    let server = Odd { repeats: true, ..Odd::new(names) };
    let error = server.listed("", 10, 8, Vec::new()).unwrap_err();
    assert!(error.to_string().contains("lead nowhere"), "{error}");
}

#[tokio::test]
async fn a_dropped_listing_drops_its_calls() {
    let server = Odd { silent_after: 4, ..Odd::new((0..10_000).map(|n| format!("{n:05}"))) };
    let live = Arc::clone(&server.live);
    let mut pages =
        Lister::new(&Client::new(Arc::new(Forwarding(server))), "gs://bucket/".parse().unwrap()).page_size(10).pages();
    for _ in 0..4 {
        pages.next().await.unwrap();
    }
    let waiting = tokio::time::timeout(Duration::from_millis(50), pages.next()).await;
    assert!(waiting.is_err() && live.load(Ordering::SeqCst) > 1, "calls are under way");
    drop(pages);
    while live.load(Ordering::SeqCst) > 0 {
        tokio::task::yield_now().await;
    }
}

const PATTERNS: [&str; 6] = ["sequence", "unpadded", "hex", "folders", "dates", "pairs"];

fn spec(objects: u64, pattern: &str) -> VirtualSpec {
    format!("data:n={objects},pattern={pattern},size=1").parse().unwrap()
}

fn client_of(emulator: &Emulator) -> Client {
    let config = GcsConfig::new().endpoint(emulator.endpoint()).credentials(Credentials::Anonymous);
    let retry = RetryPolicy::default().initial(Duration::from_millis(1)).max(Duration::from_millis(20));
    Client::new(Arc::new(GcsStore::new(config).unwrap())).with_retry(retry.deadline(Duration::from_secs(300)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exact_when_calls_fail_in_every_way() {
    for (nth, pattern) in PATTERNS.into_iter().enumerate() {
        let spec = spec(20_000, pattern);
        let emulator = Emulator::builder().virtual_namespace(spec).start().unwrap();
        let faults = format!("error=0.05,429=0.05,reset=0.05,stall=0.05,stall_ms=300,short=0.05,cut=0.05,seed={nth}");
        emulator.set_faults(faults.parse().unwrap());
        let client = client_of(&emulator).with_stall_timeout(Duration::from_millis(100));
        let lister = Lister::new(&client, "gs://data/".parse().unwrap()).page_size(100);
        let objects = lister.objects().await.unwrap();
        assert_eq!(objects.len(), 20_000, "{pattern:?}");
        for (index, object) in objects.iter().enumerate() {
            assert_eq!(object.name, emulator.virtual_name("data", index as u64), "{pattern:?}");
        }
        assert!(client.metrics().snapshot().retries > 20, "the day was not bad");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_call_is_made_again_and_not_the_listing() {
    let emulator = Emulator::builder().virtual_namespace(spec(1_000, "sequence")).start().unwrap();
    emulator.fault_next(Call::List, Fault::Error, 3);
    let lister = Lister::new(&client_of(&emulator), "gs://data/".parse().unwrap()).page_size(100).concurrency(1);
    assert_eq!(lister.objects().await.unwrap().len(), 1_000);
    assert_eq!(emulator.stats().list, 10 + 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_listed_is_an_error_that_says_so() {
    let emulator = Emulator::builder().virtual_namespace(spec(1_000, "sequence")).start().unwrap();
    let lister = |uri: &str| Lister::new(&client_of(&emulator), uri.parse().unwrap()).page_size(10);
    let error = lister("gs://nobody/").objects().await.unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains("gs://nobody"), "{error}");
    assert_eq!(lister("gs://data/nothing").objects().await.unwrap().len(), 0);
    emulator.deny("data", "storage.objects.list");
    let error = lister("gs://data/").objects().await.unwrap_err();
    assert!(error.is_permission() && error.to_string().contains("storage.objects.list"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_page_is_one_call() {
    let emulator = Emulator::builder().virtual_namespace(spec(5_000, "sequence")).start().unwrap();
    let client = client_of(&emulator);
    let objects = Lister::new(&client, "gs://data/".parse().unwrap()).objects().await.unwrap();
    assert_eq!((objects.len(), emulator.stats().list), (5_000, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_listing_makes_no_more_calls() {
    let emulator = Emulator::builder().virtual_namespace(spec(1_000_000, "sequence")).start().unwrap();
    let client = client_of(&emulator);
    let mut pages = Lister::new(&client, "gs://data/".parse().unwrap()).page_size(10).pages();
    for _ in 0..20 {
        pages.next().await.unwrap();
    }
    drop(pages);
    // The calls in progress still arrive; then no more do.
    let mut before = u64::MAX;
    while emulator.stats().list != before {
        before = emulator.stats().list;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(before < 1_000, "{before} calls");
}
