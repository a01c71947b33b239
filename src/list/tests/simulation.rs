//! Drives [`Ranges`] in virtual time against simulated servers, to bound the calls and the time that a listing takes,
//! and to show that it is exact whatever the server does.
#![allow(clippy::many_single_char_names, clippy::single_match_else, reason = "generators of names are formulas")]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use proptest::prelude::*;

use super::super::keyspace::ListingCut;
use super::super::ranges::{AnswerPage, KeptNames, ListCall, NameInterval, ProtocolViolation, Ranges};

struct SimulatedAnswer<'a> {
    names: Vec<&'a str>,
    prefixes: Vec<String>,
    token: Option<String>,
}

impl AnswerPage for SimulatedAnswer<'_> {
    fn len(&self) -> usize {
        self.names.len()
    }
    fn name(&self, index: usize) -> &str {
        self.names[index]
    }
    fn prefixes(&self) -> &[String] {
        &self.prefixes
    }
    fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }
}

/// The answer of a server that does what the documentation says, and returns at most `cap` objects in a page.
fn serve<'a>(names: &'a NameArena, call: &ListCall, cap: usize) -> SimulatedAnswer<'a> {
    let cap = cap.min(call.page_size as usize);
    let mut at = names.lower(call.start.as_deref().unwrap_or(&call.prefix)).max(names.lower(&call.prefix));
    if let Some(token) = &call.token {
        at = token.parse().unwrap();
    }
    let end = call.end.as_ref().map_or(names.len(), |end| names.lower(end)).min(names.past(&call.prefix));
    let mut answer = SimulatedAnswer { names: vec![], prefixes: vec![], token: None };
    while at < end && answer.names.len() + answer.prefixes.len() < cap {
        let name = names.get(at);
        if let Some(slash) = name[call.prefix.len()..].find('/').filter(|_| call.delimiter) {
            let folder = &name[..=call.prefix.len() + slash];
            at = names.past(folder).min(end);
            answer.prefixes.push(folder.into());
        } else {
            answer.names.push(name);
            at += 1;
        }
    }
    answer.token = (at < end).then(|| at.to_string());
    answer
}

#[derive(Clone, Copy)]
struct ListSetting {
    page: u32,
    cap: usize,
    limit: usize,
    /// How much latencies vary, in per cent.
    noise: u64,
}

struct ListOutcome {
    calls: u64,
    empty: u64,
    /// Objects that came twice, in per cent.
    dropped: f64,
    micros: u64,
    /// The time, as a multiple of that of `n / page / limit` full pages.
    time: f64,
    /// The calls, as a multiple of `n / page`, rounded up.
    ratio: f64,
    /// The time, as a multiple of that of one call after another.
    sequential: f64,
}

fn simulate(names: &NameArena, setting: ListSetting, earlier: Vec<ListingCut>) -> ListOutcome {
    let mut ranges = Ranges::new("", setting.page, earlier);
    let mut flying = BinaryHeap::new();
    let mut answers = HashMap::new();
    let (mut now, mut calls, mut empty, mut came, mut kept) = (0u64, 0u64, 0u64, 0, 0);
    loop {
        while let Some(call) = ranges.next(setting.limit) {
            calls += 1;
            let answer = serve(names, &call, setting.cap);
            let items = (answer.names.len() + answer.prefixes.len()) as u64;
            let micros = 50_000 + 70 * items;
            let noise = 100 - setting.noise + mix(calls ^ 0x63) % (2 * setting.noise + 1);
            empty += u64::from(items == 0);
            came += answer.names.len();
            flying.push(Reverse((now + micros * noise / 100, call.id)));
            answers.insert(call.id, answer);
        }
        let Some(Reverse((then, id))) = flying.pop() else { break };
        now = then;
        kept += ranges.answered(id, &answers.remove(&id).unwrap()).unwrap().objects.len();
    }
    assert!(ranges.is_done());
    assert_eq!(kept, names.len());
    let (n, page) = (names.len() as f64, setting.cap.min(setting.page as usize) as f64);
    let pages = (n / page).ceil();
    ListOutcome {
        calls,
        empty,
        dropped: (came - kept) as f64 / n * 100.0,
        micros: now,
        time: now as f64 / (n / page / setting.limit as f64 * (50_000.0 + 70.0 * page)),
        ratio: calls as f64 / pages,
        sequential: now as f64 / (pages * 50_000.0 + 70.0 * n),
    }
}

const USUAL: ListSetting = ListSetting { page: 1_000, cap: usize::MAX, limit: 64, noise: 0 };

fn bounds(kind: &str, n: u64, setting: ListSetting, most_calls: f64, most_time: f64) {
    let outcome = simulate(&make(kind, n), setting, vec![]);
    assert!(
        outcome.ratio <= most_calls && outcome.time <= most_time,
        "{kind}: {} calls, {:.3} of the ideal; {:.3} of the ideal time",
        outcome.calls,
        outcome.ratio,
        outcome.time
    );
}

#[test]
fn hex() {
    bounds("hex", 2_000_000, USUAL, 1.12, 1.2);
}

#[test]
fn padded_sequence() {
    bounds("sequence", 2_000_000, USUAL, 1.12, 1.2);
}

#[test]
fn unpadded_sequence() {
    bounds("unpadded", 2_000_000, USUAL, 1.12, 1.2);
}

#[test]
fn class_folders() {
    bounds("folders", 2_000_000, USUAL, 1.12, 1.2);
}

#[test]
fn skewed_dates() {
    bounds("dates", 2_000_000, USUAL, 1.25, 1.35);
}

#[test]
fn folders_of_two() {
    bounds("pairs", 2_000_000, USUAL, 1.12, 1.25);
}

/// A script of which two characters had been listed was taken to have no others, and a quarter of the answers were
/// empty.
#[test]
fn mixed_scripts() {
    let setting = ListSetting { limit: 32, ..USUAL };
    bounds("mixedletters", 200_000, setting, 1.6, 2.2);
    bounds("fourscripts", 200_000, setting, 1.6, 2.35);
    bounds("cjk", 200_000, setting, 1.25, 2.0);
}

#[test]
fn a_page_takes_one_call() {
    for kind in KINDS {
        for n in [1, 3, 999, 1_000] {
            assert_eq!(simulate(&make(kind, n), USUAL, vec![]).calls, 1, "{kind}");
        }
    }
    assert_eq!(simulate(&NameArena::new(vec![]), USUAL, vec![]).calls, 1);
}

#[test]
fn small_ones_gain_time_for_few_calls() {
    let setting = ListSetting { page: 5_000, ..USUAL };
    for kind in ["hex", "sequence", "folders"] {
        let outcome = simulate(&make(kind, 10_013), setting, vec![]);
        assert!(outcome.sequential <= 0.6 && outcome.calls <= 12, "{kind}: {}", outcome.sequential);
    }
    for kind in KINDS {
        for n in [1_001, 2_000, 3_500, 7_000, 20_000] {
            let outcome = simulate(&make(kind, n), USUAL, vec![]);
            // A listing of exactly two pages may end with a call for the one object that a new request brought again.
            let plain = (outcome.micros as f64 / outcome.sequential) as u64;
            assert!(outcome.micros <= plain + 51_000, "{kind} of {n}: {} us, not {plain}", outcome.micros);
            // These are too many; the aim is twice the pages and two more. Each constant digit in a long name looks
            // like a place to cut, and in three kinds of names there is little to learn from.
            let times = if ["cjk", "mixedscript", "zipf"].contains(kind) { 8 } else { 6 };
            assert!(outcome.calls <= times * n.div_ceil(1_000) + 20, "{kind} of {n}: {} calls", outcome.calls);
        }
    }
}

#[test]
fn one_at_a_time_is_the_plain_listing() {
    let names = make("pairs", 10_500);
    assert_eq!(simulate(&names, ListSetting { limit: 1, ..USUAL }, vec![]).calls, 11);
}

#[test]
fn a_server_with_a_lower_cap() {
    bounds("hex", 200_000, ListSetting { page: 5_000, cap: 1_000, limit: 8, noise: 30 }, 1.15, 1.25);
}

#[test]
fn an_earlier_listing_gives_the_cuts() {
    let names = make("dates", 200_000);
    let cuts = (0..names.len()).step_by(500).map(|i| ListingCut { name: names.get(i).to_string(), objects: 500 });
    let outcome = simulate(&names, ListSetting { limit: 16, ..USUAL }, cuts.collect());
    assert!(outcome.ratio <= 1.15 && outcome.time <= 1.25, "{} {}", outcome.ratio, outcome.time);
}

/// Lists 100,000 names of every kind, or as many as `DATAFLUX_SIMULATE` says:
/// `DATAFLUX_SIMULATE=2000000 cargo test --release -p dataflux --lib list::tests::simulation::sharing -- --nocapture`
#[test]
#[expect(clippy::print_stdout, reason = "a table to read")]
fn sharing_a_listing_saves_time_whatever_the_names() {
    let n = std::env::var("DATAFLUX_SIMULATE").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000);
    println!("names                n  calls /ideal     ms /ideal   /seq empty dropped%");
    for kind in KINDS {
        let names = make(kind, n);
        let ListOutcome { calls, empty, dropped, micros, time, ratio, sequential } = simulate(&names, USUAL, vec![]);
        let (n, ms) = (names.len(), micros / 1_000);
        println!("{kind:12} {n:9} {calls:6} {ratio:6.3} {ms:6} {time:6.3} {sequential:6.3} {empty:5} {dropped:5.1}");
        assert!(sequential < 0.5, "{kind}: {sequential:.3} of the time that one call after another takes");
    }
}

#[test]
fn protocol_violations_are_reported() {
    let ask = || {
        let mut ranges = Ranges::new("", 3, vec![]);
        let first = ranges.next(1).unwrap();
        let page = SimulatedAnswer { names: vec!["b", "c", "d"], prefixes: vec![], token: Some("t".into()) };
        ranges.answered(first.id, &page).unwrap();
        let second = ranges.next(1).unwrap();
        assert_eq!(second.token.as_deref(), Some("t"));
        (ranges, second.id)
    };
    let answer = |names: &[&'static str], token: Option<&str>| {
        let (mut ranges, id) = ask();
        ranges.answered(id, &SimulatedAnswer { names: names.to_vec(), prefixes: vec![], token: token.map(Into::into) })
    };
    assert!(matches!(answer(&["f", "e"], None), Err(ProtocolViolation::Unsorted { .. })));
    assert!(matches!(answer(&["a", "e"], None), Err(ProtocolViolation::Offset { .. })));
    assert!(matches!(answer(&[], Some("t")), Err(ProtocolViolation::Endless { .. })));
    assert_eq!(answer(&["d", "e"], None).unwrap().objects, 1..2);
    let (mut ranges, mut id) = ask();
    let mut tokens = 0;
    let violation = loop {
        let page = SimulatedAnswer { names: vec![], prefixes: vec![], token: Some(tokens.to_string()) };
        match ranges.answered(id, &page) {
            Ok(_) => id = ranges.next(1).unwrap().id,
            Err(violation) => break violation,
        }
        tokens += 1;
    };
    assert!(tokens == 10_000 && matches!(violation, ProtocolViolation::Endless { .. }), "{tokens} {violation:?}");
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ab/]{1,8}",
        "[0-9]{1,4}",
        "[0-9a-f]{6}",
        "[A-Za-z0-9 _.-]{1,6}",
        "(a|é|/|漢|😀|\u{10FFFF}|\u{1}|\u{D7FF}|\u{E000}|~|0){1,6}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn never_twice_and_never_missing(
        stem in prop_oneof![Just(String::new()), "[a-z0-9/]{1,12}", "[0-9x/]{990,1000}"],
        ends in prop::collection::vec(name(), 0..150),
        cut in 0usize..20,
        every in 0usize..12,
        seed: u64,
    ) {
        let names = NameArena::new(ends.into_iter().map(|end| stem.clone() + &end).filter(|name| name.len() <= 1_024).collect());
        let prefix: String = stem.chars().take(cut).collect();
        let earlier = (0..names.len()).step_by(every.max(1)).filter(|_| every > 0);
        let cuts = earlier.map(|i| ListingCut { name: names.get(i).to_string(), objects: mix(seed ^ i as u64) % 40 });
        exact(&names, &prefix, seed, cuts.collect());
    }
}

/// Lists with a server that misbehaves in every known respect, with answers in any order and a limit that changes.
fn exact(names: &NameArena, prefix: &str, seed: u64, earlier: Vec<ListingCut>) {
    let mut s = seed;
    let mut roll = move |n: u64| {
        s = mix(s);
        s % n.max(1)
    };
    let page = [1, 2, 3, 7, 50][roll(5) as usize];
    let cap = [1, 2, 5, 1000][roll(4) as usize];
    let (no_end, short, empty, no_size, no_delim) =
        (roll(4) == 0, roll(3) == 0, roll(3) == 0, roll(5) == 0, roll(4) == 0);
    let top = [1, 2, 5, 64][roll(4) as usize];
    let mut r = Ranges::new(prefix, page, earlier);
    let mut flying: Vec<(ListCall, SimulatedAnswer)> = vec![];
    let mut kept: Vec<&str> = vec![];
    let mut intervals = vec![];
    let mut calls = 0;
    let all: Vec<&str> = (0..names.len()).map(|i| names.get(i)).filter(|n| n.starts_with(prefix)).collect();
    loop {
        let limit = 1 + roll(top) as usize;
        while let Some(c) = r.next(limit) {
            calls += 1;
            assert!(calls < 40 * (all.len() + 10), "endless: {calls} calls");
            let mut from = all.partition_point(|n| *n < c.start.as_deref().unwrap_or(""));
            let under: Vec<&str> = all.iter().copied().filter(|n| n.starts_with(&c.prefix)).collect();
            let all = if c.delimiter { &under } else { &all };
            if c.delimiter {
                from = all.partition_point(|n| *n < c.start.as_deref().unwrap_or(""));
            }
            let end = c
                .end
                .as_ref()
                .filter(|_| !no_end)
                .map_or(all.len(), |e| all.partition_point(|n| *n < e.as_str()))
                .max(from);
            if let Some(t) = &c.token {
                from = t.split('.').next().unwrap().parse().unwrap();
            }
            let mut n = if no_size { usize::MAX } else { cap.min(c.page_size as usize) };
            if short && n > 1 && n < usize::MAX {
                n = 1 + roll(n as u64) as usize;
            }
            if empty && roll(3) == 0 {
                n = 0;
            }
            let mut p = SimulatedAnswer { names: vec![], prefixes: vec![], token: None };
            let mut at = from;
            while at < end && p.names.len() + p.prefixes.len() < n {
                if c.delimiter
                    && !no_delim
                    && let Some(i) = all[at][c.prefix.len()..].find('/')
                {
                    let f = &all[at][..=c.prefix.len() + i];
                    p.prefixes.push(f.to_string());
                    while at < end && all[at].starts_with(f) {
                        at += 1;
                    }
                } else {
                    p.names.push(all[at]);
                    at += 1;
                }
            }
            p.token = (at < end).then(|| format!("{at}.{calls}"));
            flying.push((c, p));
        }
        if flying.is_empty() {
            break;
        }
        let i = roll(flying.len() as u64) as usize;
        let (c, p) = flying.swap_remove(i);
        let KeptNames { objects, interval: NameInterval { from, to } } =
            r.answered(c.id, &p).unwrap_or_else(|violation| panic!("{violation:?} {c:?}"));
        kept.extend(&p.names[objects.clone()]);
        for n in &p.names[objects] {
            assert!(*n >= from.as_str() && to.as_ref().is_none_or(|t| *n < t.as_str()));
        }
        intervals.push((from, to));
    }
    assert!(r.is_done());
    kept.sort_unstable();
    assert_eq!(kept, all, "seed {seed}");
    let mut at = prefix.to_string();
    intervals.retain(|i| i.1.as_ref() != Some(&i.0));
    intervals.sort();
    for (i, (from, to)) in intervals.iter().enumerate() {
        assert_eq!(*from, at);
        match to {
            Some(t) => at = t.clone(),
            None => assert_eq!(i + 1, intervals.len()),
        }
    }
    assert!(intervals.last().is_some_and(|i| i.1.is_none()));
}

// The kinds of names.

fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
/// All names, sorted, in one arena.
struct NameArena {
    text: String,
    ends: Vec<u32>,
}
impl NameArena {
    fn new(mut names: Vec<String>) -> Self {
        names.sort_unstable();
        names.dedup();
        let mut text = String::new();
        let mut ends = vec![0];
        for n in &names {
            text.push_str(n);
            ends.push(text.len() as u32);
        }
        Self { text, ends }
    }
    fn len(&self) -> usize {
        self.ends.len() - 1
    }
    fn get(&self, i: usize) -> &str {
        &self.text[self.ends[i] as usize..self.ends[i + 1] as usize]
    }
    /// Where what begins with `prefix` ends.
    fn past(&self, prefix: &str) -> usize {
        let (mut low, mut high) = (self.lower(prefix), self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.get(middle).starts_with(prefix) { low = middle + 1 } else { high = middle }
        }
        low
    }
    fn lower(&self, key: &str) -> usize {
        let (mut a, mut b) = (0, self.len());
        while a < b {
            let m = usize::midpoint(a, b);
            if self.get(m) < key { a = m + 1 } else { b = m }
        }
        a
    }
}
fn hexs(i: u64) -> String {
    format!("{i:016x}")
}
fn uuid(i: u64) -> String {
    let (a, b) = (mix(i), mix(i ^ 0xABCD_EF00_1234));
    format!(
        "{:08x}-{:04x}-4{:03x}-{:x}{:03x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xfff,
        8 + (b >> 62),
        (b >> 48) & 0xfff,
        b & 0xffff_ffff_ffff
    )
}
fn hours(n: u64, seed: u64) -> Vec<u64> {
    const HOURS: usize = 1095 * 24;
    let mut order: Vec<usize> = (0..HOURS).collect();
    order.sort_by_key(|h| mix(seed ^ 0xDA7E ^ *h as u64));
    let mut w = vec![0.0; HOURS];
    for (r, h) in order.into_iter().enumerate() {
        w[h] = (r as f64 + 1.0).powf(-1.5);
    }
    let total: f64 = w.iter().sum();
    let mut s = 0.0;
    let mut out = vec![];
    for x in w {
        out.push((s / total * n as f64) as u64);
        s += x;
    }
    out.push(n);
    out
}
fn date(day: u64) -> (u64, u64, u64) {
    let m = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let y = day / 365;
    let mut d = day % 365;
    let mut i = 0;
    while d >= m[i] {
        d -= m[i];
        i += 1;
    }
    (2021 + y, i as u64 + 1, d + 1)
}
fn base(i: u64, len: usize, alphabet: &[u8]) -> String {
    let mut h = mix(i);
    let mut s = String::new();
    for k in 0..len {
        if k % 8 == 7 {
            h = mix(h ^ i);
        }
        s.push(alphabet[(h % alphabet.len() as u64) as usize] as char);
        h /= alphabet.len() as u64;
    }
    s
}
const SYL: [&str; 20] = [
    "ba", "con", "da", "el", "fi", "gra", "ho", "in", "ju", "ka", "lo", "mi", "no", "or", "pre", "re", "sa", "ter",
    "un", "vi",
];
fn word(i: u64) -> String {
    let mut h = mix(i ^ 0x4d);
    let n = 2 + h % 3;
    h /= 3;
    let mut s = String::new();
    for _ in 0..n {
        s += SYL[(h % 20) as usize];
        h /= 20;
    }
    s
}
/// The first letter of a script and how many follow it: Latin, Greek, CJK, emoji.
const SCRIPTS: [(u32, u64); 4] = [(0x61, 26), (0x3b1, 25), (0x4e00, 500), (0x1f600, 80)];
const B64: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const KINDS: &[&str] = &[
    "hex",
    "sequence",
    "unpadded",
    "folders",
    "dates",
    "pairs",
    "uuid",
    "longprefix",
    "longdirs",
    "cjk",
    "mixedscript",
    "fourscripts",
    "mixedletters",
    "emoji",
    "one95",
    "zipf",
    "hive",
    "millis",
    "webdataset",
    "coco",
    "deep",
    "base64",
    "punct",
    "clusters",
    "tails",
    "randascii",
    "words",
    "mixflat",
    "imagenet1281",
    "hashdirs",
    "wordtree",
];
fn make(kind: &str, n: u64) -> NameArena {
    let g = |f: &dyn Fn(u64) -> String| NameArena::new((0..n).map(f).collect());
    match kind {
        "hex" => g(&|i| {
            hexs(
                ((u128::from(i) << 64) / u128::from(n)) as u64
                    + mix(i) % (((1u128 << 64) / u128::from(n)) as u64).max(1),
            )
        }),
        "sequence" => g(&|i| format!("{i:08}")),
        "unpadded" => g(&|i| format!("{i}")),
        "folders" => g(&|i| {
            let c = i * 1000 / n;
            let f = 1_440_764 + c * 9000 + mix(3 ^ c) % 9000;
            let first = (c * n).div_ceil(1000);
            format!("n{f:08}/n{f:08}_{}.JPEG", i - first)
        }),
        "imagenet1281" => g(&|i| {
            let c = i / 1281;
            let f = 1_440_764 + c * 9000 + mix(3 ^ c) % 9000;
            format!("train/n{f:08}/n{f:08}_{}.JPEG", mix(i) % 30000 + (i % 1281) * 30000)
        }),
        "dates" => {
            let s = hours(n, 3);
            let mut v = vec![];
            for h in 0..s.len() - 1 {
                let (y, m, d) = date(h as u64 / 24);
                for k in 0..s[h + 1] - s[h] {
                    v.push(format!("{y:04}/{m:02}/{d:02}/{:02}/{k:08}.bin", h % 24));
                }
            }
            NameArena::new(v)
        }
        "pairs" => g(&|i| format!("{:08}/{}", i / 2, if i % 2 == 0 { "image" } else { "label" })),
        "uuid" => g(&uuid),
        "longprefix" => {
            let p = "projects/vision-lab-042/experiments/run-20240117/".repeat(3) + &"x7y".repeat(60);
            g(&|i| format!("{p}-{i:09}"))
        }
        "longdirs" => {
            let p = "some/very_long_directory_name_2024/with-numbers-0012345/".repeat(2);
            g(&|i| {
                format!(
                    "{p}{}{:03}/{}/{}.json",
                    "a-long-common-part-of-folder-names-".repeat(2),
                    i % 300,
                    "z".repeat(30),
                    hexs(mix(i))
                )
            })
        }
        "cjk" => g(&|i| {
            let h = mix(i);
            let c = |k: u32| char::from_u32(0x4E00 + ((h >> (13 * k)) % 5000) as u32).unwrap();
            format!("{}{}{}/{:05}.jpg", c(0), c(1), c(2), h >> 50)
        }),
        "mixedscript" => g(&|i| {
            let h = mix(i);
            let b = [0x41u32, 0x61, 0x410, 0x3b1, 0x5d0, 0x3042, 0xac00, 0x4e00][(h % 8) as usize];
            let c = |k: u32| char::from_u32(b + ((h >> (8 * k + 3)) % 24) as u32).unwrap();
            format!("{}{}{}{}-{}", c(0), c(1), c(2), c(3), h >> 44)
        }),
        // Each name in one of four scripts.
        "fourscripts" => g(&|i| {
            let h = mix(i);
            let (first, letters) = SCRIPTS[(h % 4) as usize];
            let c = |k: u32| char::from_u32(first + ((h >> (9 * k + 3)) % letters) as u32).unwrap();
            format!("{}{}{}{}-{}", c(0), c(1), c(2), c(3), mix(h) % 1_000)
        }),
        // Each letter of any of them.
        "mixedletters" => g(&|i| {
            let h = mix(i);
            let c = |k: u32| {
                let (first, letters) = SCRIPTS[((h >> (11 * k)) % 4) as usize];
                char::from_u32(first + ((h >> (11 * k + 2)) % letters) as u32).unwrap()
            };
            format!("{}{}{}{}{}-{}", c(0), c(1), c(2), c(3), c(4), mix(h) % 1_000)
        }),
        "emoji" => g(&|i| {
            let h = mix(i);
            let c = |k: u32| char::from_u32(0x1F600 + ((h >> (7 * k)) % 70) as u32).unwrap();
            format!("{}{}{}{}{}", c(0), c(1), c(2), c(3), i % 10)
        }),
        "one95" => g(&|i| {
            if i * 100 < n * 95 {
                format!("class_{:03}/img_{:07}.jpg", 211, i)
            } else {
                let h = mix(i);
                format!("class_{:03}/img_{:07}.jpg", h % 500, i)
            }
        }),
        "zipf" => g(&|i| {
            let u = (mix(i) >> 11) as f64 / (1u64 << 53) as f64;
            let f = (800f64.powf(u)) as u64;
            let f = mix(f) % 100_000;
            format!("user-{f:05}/rec-{i}.json")
        }),
        "hive" => g(&|i| {
            let files = n.div_ceil(366 * 2).max(1);
            let day = i / files;
            let (y, m, d) = date(day);
            format!(
                "warehouse/events/year={y}/month={m:02}/day={d:02}/part-{:05}-{}.snappy.parquet",
                i % files,
                uuid(i)
            )
        }),
        "millis" => g(&|i| {
            let burst = i / 5000;
            let t = 1_690_000_000_000u64 + burst * 3_600_000 * (1 + mix(burst) % 30) / 7 + mix(i) % 400_000;
            format!("{t}-{:04x}", mix(i ^ 5) & 0xffff)
        }),
        "webdataset" => g(&|i| {
            let s = i / 3;
            format!("shard-{:06}/{:06}.{}", s / 1000, s % 1000, ["jpg", "json", "txt"][(i % 3) as usize])
        }),
        "coco" => g(&|i| format!("train2017/{:012}.jpg", i * 5 + mix(i) % 5)),
        "deep" => g(&|i| {
            let h = mix(i);
            format!(
                "{}/{}/{}/{}/{}/{:06}",
                ["alpha", "beta", "gamma"][(h % 3) as usize],
                (h >> 8) % 7,
                ["x", "yy", "zzz", "w"][((h >> 16) % 4) as usize],
                (h >> 24) % 11,
                ["left", "right"][((h >> 32) % 2) as usize],
                i
            )
        }),
        "base64" => g(&|i| base(i, 22, B64)),
        "punct" => g(&|i| base(i, 14, b" !#$%&'()*+,-.:;<=>@ABCXYZ[]^_`abcxyz{|}~")),
        "clusters" => {
            g(&|i| if i % 2 == 0 { format!("aaa/{:09}", i + 123_000_000) } else { format!("zzz/{:09}", i + 7_000_000) })
        }
        "tails" => {
            g(&|i| format!("{}/features/embedding/final.npy", word(i) + &word(i / 7919) + &format!("{}", i % 1000)))
        }
        "randascii" => g(&|i| {
            let l = 3 + mix(i ^ 9) % 20;
            base(i, l as usize, b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
        }),
        "words" => g(&|i| format!("{}_{}_{}", word(i), word(i / 10), word(i.wrapping_mul(31)))),
        "mixflat" => g(&|i| {
            if i < n / 2 {
                format!("img_{i:07}.png")
            } else {
                let h = mix(i);
                format!("tree/{}/{}/{:07}", word(h % 40), h % 9, i)
            }
        }),
        "hashdirs" => g(&|i| {
            let h = mix(i);
            format!("{:02x}/{:02x}/{:014x}", h >> 56, (h >> 48) & 255, h & 0xff_ffff_ffff_ffff >> 8)
        }),
        "wordtree" => g(&|i| {
            let h = mix(i);
            format!("data/images/{}/{}/{}.png", word((h % 30) * (h >> 8 & 3)), word(h >> 32 & 15), i)
        }),
        _ => unreachable!("{kind}"),
    }
}
