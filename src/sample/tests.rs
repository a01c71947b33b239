//! Orders of all samplers: frozen, whole, and as random as they say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::manifest::tests::{manifest, object};
use crate::manifest::{KnownSamples, Manifest};

/// Samples of several folders, in proportions of 8, 4, 2, 1 and 1, some of them in none.
fn data(samples: u64) -> Arc<Manifest> {
    let folder = |index: u64| {
        ["a/", "b/", "a/", "c/", "a/", "b/", "a/", "", "a/", "b/", "a/", "c/", "a/", "b/", "a/", "d/"]
            [(index % 16) as usize]
    };
    let mut names: Vec<_> = (0..samples).map(|index| format!("p/{}{index:06}", folder(index))).collect();
    names.sort_unstable();
    Arc::new(manifest(&names.iter().map(|name| object(name, 10)).collect::<Vec<_>>()))
}

fn ids(sampler: &dyn Sampler, manifest: &Arc<Manifest>, epoch: u64) -> Vec<u64> {
    let orders = sampler.orders(&Scope::new(Arc::clone(manifest))).unwrap();
    orders.order(epoch).ids(0..orders.len()).map(|id| id.0).collect()
}

fn weights(samples: u64) -> Vec<f64> {
    (0..samples).map(|index| (index % 5) as f64).collect()
}

/// A mixture of three parts of samples that aren't in `a/` to one part of samples in `a/`.
fn mixture(manifest: &Arc<Manifest>, seed: u64, length: EpochLength) -> Mixture {
    let often = Subset::below(manifest, "p/a/").unwrap().then(Shuffle::new(seed));
    let rest = Subset::filter(manifest, |entry| !entry.name.starts_with("p/a/")).unwrap().then(Shuffle::new(seed));
    Mixture::new(seed).add(rest, 3.0).add(often, 1.0).epoch_length(length)
}

/// One sampler of each kind that gives every sample once.
fn whole(seed: u64, size: u64) -> Vec<Box<dyn Sampler>> {
    vec![
        Box::new(Sequential),
        Box::new(Shuffle::new(seed)),
        Box::new(WindowShuffle::new(seed, size)),
        Box::new(BlockShuffle::new(seed, size, 3)),
        Box::new(BlockShuffle::new(seed, 3, size)),
        Box::new(Stratified::by_label(seed)),
    ]
}

/// One sampler of each kind, without those that contain others.
fn all(samples: u64, seed: u64, size: u64) -> Vec<Box<dyn Sampler>> {
    let half = || Subset::range(samples / 2..samples);
    let mut all = whole(seed, size);
    all.extend(whole(seed, size).into_iter().map(|sampler| Box::new(half().then(sampler)) as Box<dyn Sampler>));
    let heavy = (0..samples).map(|index| (index + 1) as f64).collect::<Vec<_>>();
    all.push(Box::new(Weighted::new(seed, &heavy).unwrap()));
    all.push(Box::new(Weighted::new(seed, &heavy).unwrap().samples(2 * samples)));
    all.push(Box::new(Weighted::without_replacement(seed, &heavy).unwrap()));
    all.push(Box::new(Weighted::without_replacement(seed, &heavy).unwrap().samples(samples.div_ceil(2))));
    all
}

/// Samplers that contain others.
fn made_of_others(manifest: &Arc<Manifest>, seed: u64, size: u64) -> Vec<Box<dyn Sampler>> {
    let samples = manifest.len();
    let odd = || Subset::ids((0..samples).step_by(2).map(SampleId));
    let end = || Subset::range(samples / 3..samples);
    let heavy = (0..samples - samples / 3).map(|index| (index + 1) as f64).collect::<Vec<_>>();
    let mixture = |length| {
        let parts = Mixture::new(seed).add(odd().then(Shuffle::new(seed)), 0.7).add(end(), 0.3);
        parts.add(Stratified::by_label(seed), 1.0).epoch_length(length)
    };
    vec![
        Box::new(odd().then(BlockShuffle::new(seed, size, 2))),
        Box::new(end().then(odd())),
        Box::new(odd().then(Subset::range(0..samples.div_ceil(4)).then(Shuffle::new(seed)))),
        Box::new(end().then(Weighted::new(seed, &heavy).unwrap())),
        Box::new(end().then(Weighted::without_replacement(seed, &heavy).unwrap())),
        Box::new(mixture(EpochLength::UntilAll)),
        Box::new(mixture(EpochLength::Samples(3 * samples + 10))),
        Box::new(end().then(mixture_of_ends(seed))),
    ]
}

/// A mixture that works for any number of samples.
fn mixture_of_ends(seed: u64) -> Mixture {
    let first = Subset::range(0..1).then(Shuffle::new(seed));
    Mixture::new(seed).add(first, 2.0).add(Shuffle::new(seed), 1.0).epoch_length(EpochLength::UntilAll)
}

/// Never to be changed: saved states rely on these orders.
#[test]
fn golden() {
    let manifest = data(20);
    let found: Vec<_> = [
        Box::new(Shuffle::new(42)) as Box<dyn Sampler>,
        Box::new(WindowShuffle::new(42, 7)),
        Box::new(BlockShuffle::new(42, 3, 2)),
        Box::new(Stratified::by_label(42)),
        Box::new(Weighted::new(42, &weights(20)).unwrap()),
        Box::new(Weighted::without_replacement(42, &weights(20)).unwrap()),
        Box::new(Subset::ids([3, 1, 4, 15, 9, 4].map(SampleId)).then(Shuffle::new(42))),
        Box::new(mixture(&manifest, 42, EpochLength::Samples(20))),
    ]
    .iter()
    .map(|sampler| (sampler.identity(), ids(sampler, &manifest, 1)))
    .collect();
    let wanted: Vec<(String, Vec<u64>)> = serde_json::from_str(include_str!("golden/orders.json")).unwrap();
    assert_eq!(found, wanted, "{}", serde_json::to_string(&found).unwrap());
}

/// Never to be changed: saved states rely on this order.
#[test]
fn golden_windows() {
    let order = |samples, window, epoch| {
        let scope = Scope::new(data(16)).narrow(samples, |number| number);
        WindowShuffle::new(42, window).orders(&scope).unwrap().order(epoch)
    };
    assert_eq!(order(10, 4, 1).ids(0..10).map(|id| id.0).collect::<Vec<_>>(), [3, 0, 2, 1, 4, 5, 7, 6, 9, 8]);
    let mut order = order(1_000_000, 100_000, 0);
    assert_eq!(
        [0, 1, 99_999, 100_000, 999_999].map(|position| order.at(position).0),
        [19_512, 14_732, 20_499, 189_176, 984_524]
    );
}

proptest! {
    /// A sampler returns the same at each position, in whatever order positions are asked for.
    #[test]
    fn random_access(samples in 1u64..200, seed: u64, size in 1u64..40, epoch in 0u64..3, jumps in prop::collection::vec(any::<prop::sample::Index>(), 20)) {
        let manifest = data(samples);
        for sampler in all(samples, seed, size).into_iter().chain(made_of_others(&manifest, seed, size)) {
            let ids = ids(&sampler, &manifest, epoch);
            let mut order = sampler.orders(&Scope::new(Arc::clone(&manifest))).unwrap().order(epoch);
            for at in jumps.iter().map(|jump| jump.index(ids.len())) {
                prop_assert_eq!(order.at(at as u64).0, ids[at], "{:?}", sampler);
            }
        }
    }

    /// The inner subset took indexes in the manifest for places in the outer subset, and so gave other samples.
    #[test]
    fn nested_subsets_have_the_samples_of_both(
        samples in 1u64..200, cut in any::<[prop::sample::Index; 2]>(), outer in 0usize..4, middle in 0usize..4, inner in 0usize..4,
        mixed: bool,
    ) {
        let manifest = data(samples);
        let from = cut[0].index(samples as usize) as u64;
        let to = from + 1 + cut[1].index((samples - from) as usize) as u64;
        let is_of = |kind: usize, index: u64| match kind {
            0 => (from..to).contains(&index),
            1 => index.is_multiple_of(3),
            2 => manifest.get(index).unwrap().name.ends_with(['1', '2', '5']),
            _ => manifest.get(index).unwrap().name.starts_with("p/a/"),
        };
        // By places only outside: within another, a range has another meaning.
        let subset = |kind: usize| Some(match kind {
            0 => Subset::ids((from..to).map(SampleId)),
            1 => Subset::ids((0..samples).step_by(3).map(SampleId)),
            2 => Subset::filter(&manifest, |entry| entry.name.ends_with(['1', '2', '5'])).unwrap(),
            _ => Subset::below(&manifest, "p/a/").ok()?,
        });
        let wanted: Vec<u64> =
            (0..samples).filter(|index| [outer, middle, inner].iter().all(|kind| is_of(*kind, *index))).collect();
        let outermost = if outer == 0 { Some(Subset::range(from..to)) } else { subset(outer) };
        if let (Some(outer), Some(middle), Some(inner)) = (outermost, subset(middle), subset(inner)) {
            let inner: Box<dyn Sampler> = if mixed { Box::new(Mixture::new(1).add(inner, 1.0)) } else { Box::new(inner) };
            let sampler = outer.then(middle.then(inner));
            match sampler.orders(&Scope::new(Arc::clone(&manifest))) {
                Ok(_) => prop_assert_eq!(ids(&sampler, &manifest, 0), wanted),
                Err(error) => prop_assert!(wanted.is_empty(), "{:?}: {}", sampler, error),
            }
        }
    }

    #[test]
    fn every_sample_once(samples in 1u64..300, seed: u64, size in 1u64..40, epoch in 0u64..3) {
        let manifest = data(samples);
        for sampler in whole(seed, size) {
            let mut ids = ids(&sampler, &manifest, epoch);
            ids.sort_unstable();
            prop_assert!(ids.into_iter().eq(0..samples), "{:?}", sampler);
            let half = Subset::ids((0..samples).step_by(2).map(SampleId)).then(sampler);
            let mut ids = self::ids(&half, &manifest, epoch);
            ids.sort_unstable();
            prop_assert!(ids.into_iter().eq((0..samples).step_by(2)), "{:?}", half);
        }
    }

    /// Each window holds the samples that it has in order of names. Positions that are settled before all samples are
    /// listed keep their samples.
    #[test]
    fn windows_are_shuffled_each_within_itself(
        samples in 1u64..500, window in 1u64..200, seed: u64, epoch in 0u64..3, listed in 1u64..500,
    ) {
        let manifest = data(samples);
        let sampler = WindowShuffle::new(seed, window);
        let ids = ids(&sampler, &manifest, epoch);
        for (number, ids) in (0..).zip(ids.chunks(window as usize)) {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            prop_assert!(ids.into_iter().eq(number * window..samples.min((number + 1) * window)));
        }
        let listed = listed.min(samples);
        let settled = sampler.settled(listed);
        let early = Scope::new(manifest).narrow(listed, |number| number);
        let mut early = sampler.orders(&early).unwrap().order(epoch);
        prop_assert!(early.ids(0..settled).map(|id| id.0).eq(ids[..settled as usize].iter().copied()));
    }

    /// Samples of a group come from at most as many blocks as are mixed.
    #[test]
    fn blocks_stay_together(samples in 1u64..500, block in 1u64..50, mixed in 1u64..8, seed: u64) {
        let ids = ids(&BlockShuffle::new(seed, block, mixed), &data(samples), 0);
        let mut blocks_left: BTreeSet<u64> = (0..samples.div_ceil(block)).collect();
        let mut ids = ids.into_iter();
        while !blocks_left.is_empty() {
            // The next group: as many samples as its blocks have, which the short one tells.
            let group: Vec<u64> = ids.as_slice().iter().take((block * mixed) as usize).map(|id| id / block).collect();
            let mut seen = BTreeSet::new();
            let mut taken = 0;
            for of in group {
                if !seen.contains(&of) && seen.len() as u64 == mixed {
                    break;
                }
                seen.insert(of);
                taken += 1;
            }
            let whole: u64 = seen.iter().map(|of| block.min(samples - of * block)).sum();
            prop_assert_eq!(taken, whole, "blocks {:?}", seen);
            ids.by_ref().take(taken as usize).for_each(drop);
            for of in seen {
                prop_assert!(blocks_left.remove(&of));
            }
        }
    }

    /// Any stretch holds the share of each label to within six samples; see `interleave`.
    #[test]
    fn strata_are_in_proportion_in_every_stretch(samples in 1u64..600, seed: u64, from: prop::sample::Index, len: prop::sample::Index) {
        let manifest = data(samples);
        let ids = ids(&Stratified::by_label(seed), &manifest, 0);
        let label = |id: &u64| manifest.facts(*id).unwrap().label;
        let counted = |ids: &[u64]| {
            ids.iter().map(label).fold(BTreeMap::new(), |mut counts: BTreeMap<_, f64>, label| {
                *counts.entry(label).or_default() += 1.0;
                counts
            })
        };
        let from = from.index(ids.len());
        let stretch = &ids[from..=from + len.index(ids.len() - from)];
        let there = counted(stretch);
        for (label, all) in counted(&ids) {
            let share = all * stretch.len() as f64 / samples as f64;
            let there = there.get(&label).copied().unwrap_or(0.0);
            prop_assert!((there - share).abs() < 6.0, "{} of {} in {:?}", there, share, stretch);
        }
    }
}

/// Each of 10 blocks is equally often at each of 10 places (81 degrees of freedom; 99.9th percentile 125), and few
/// pairs of neighbours stay neighbours.
#[test]
fn blocks_are_as_likely_at_every_place_and_their_samples_mixed() {
    const RUNS: u64 = 4_000;
    let scope = Scope::new(data(100));
    let orders = BlockShuffle::new(5, 10, 2).orders(&scope).unwrap();
    let mut counts = [[0f64; 10]; 10];
    let mut neighbours = 0;
    for epoch in 0..RUNS {
        let ids: Vec<_> = orders.order(epoch).ids(0..100).map(|id| id.0).collect();
        neighbours += ids.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) == 1).count() as u64;
        // One sample of each group, which is of either of its two blocks equally often.
        (0..10).for_each(|place| counts[place][(ids[place * 10] / 10) as usize] += 1.0);
    }
    let wanted = RUNS as f64 / 10.0;
    let chi: f64 = counts.iter().flatten().map(|count| (count - wanted).powi(2) / wanted).sum();
    assert!(chi < 125.0, "chi-square {chi}");
    // Of 20 samples of two blocks 18 pairs are neighbours, and a pair is side by side in 2 of 20 orders; five groups.
    let wanted = RUNS as f64 * 5.0 * 1.8;
    assert!((neighbours as f64 - wanted).abs() < 0.03 * wanted, "{neighbours} pairs, {wanted} wanted");
}

#[test]
fn samples_of_no_weight_are_never_drawn() {
    let manifest = data(100);
    for epoch in 0..20 {
        for sampler in [
            Weighted::new(3, &weights(100)).unwrap().samples(500),
            Weighted::without_replacement(3, &weights(100)).unwrap(),
        ] {
            assert!(ids(&sampler, &manifest, epoch).iter().all(|id| id % 5 > 0));
        }
    }
    let once = ids(&Weighted::without_replacement(3, &weights(100)).unwrap(), &manifest, 0);
    assert_eq!((once.len(), once.iter().collect::<BTreeSet<_>>().len()), (80, 80));
}

#[test]
fn epochs_and_seeds_give_other_orders() {
    let manifest = data(64);
    let mut seen = BTreeSet::new();
    let mut identities = BTreeSet::new();
    for seed in [1, 2] {
        for sampler in all(64, seed, 16) {
            identities.insert(sampler.identity());
            for epoch in [0, 1] {
                seen.insert(ids(&sampler, &manifest, epoch));
            }
        }
    }
    // 16 samplers, two of which have no seed; the fewer weighted draws are the first of all of them, but fewer.
    assert_eq!((identities.len(), seen.len()), (2 * 14 + 2, 4 * 14 + 2));
}

#[test]
fn samplers_that_cannot_order_the_data_are_refused() {
    let manifest = data(10);
    let scope = Scope::new(Arc::clone(&manifest));
    let other = data(11);
    for (sampler, said) in [
        (Box::new(WindowShuffle::new(1, 0)) as Box<dyn Sampler>, "at least 1"),
        (Box::new(BlockShuffle::new(1, 0, 1)), "0 and 1"),
        (Box::new(BlockShuffle::new(1, 1, 0)), "1 and 0"),
        (Box::new(Subset::range(4..4)), "no samples"),
        (Box::new(Subset::range(4..11)), "wanted indexes below 10, got 10"),
        (Box::new(Subset::ids([])), "no samples"),
        (Box::new(Subset::ids([SampleId(u64::MAX)])), "indexes below 10"),
        (Box::new(Subset::filter(&other, |entry| entry.name.ends_with('1')).unwrap()), "other data"),
        (Box::new(Subset::below(&data(50), "p/").unwrap()), "other data"),
        (Box::new(Subset::range(0..3).then(Subset::range(0..4))), "indexes below 3"),
        (Box::new(Subset::range(0..3).then(Subset::ids([SampleId(9)]))), "some of 3 samples, got 1 of"),
        (Box::new(Subset::range(0..3).then(Subset::ids([SampleId(10)]))), "indexes below 10"),
        (Box::new(Weighted::new(1, &[1.0; 10]).unwrap().samples(0)), "give Weighted::samples more"),
        (Box::new(Weighted::without_replacement(1, &[1.0; 10]).unwrap().samples(0)), "give Weighted::samples more"),
        (Box::new(Weighted::new(1, &[1.0; 9]).unwrap()), "10 weights, got 9"),
        (Box::new(Weighted::without_replacement(1, &weights(10)).unwrap().samples(9)), "at most the 8 samples"),
    ] {
        let error = sampler.orders(&scope).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(said), "{error}");
    }
}

/// A sampler of this many positions that names a missing sample at position 3.
#[derive(Debug)]
struct WrongAtOne(u64);

impl Sampler for WrongAtOne {
    fn identity(&self) -> String {
        "wrong".into()
    }

    fn orders(&self, scope: &Scope) -> crate::Result<Orders> {
        let samples = scope.len();
        Ok(Orders::new(self.0, move |_| move |position| if position == 3 { samples } else { position }))
    }
}

#[test]
fn a_sampler_that_names_no_sample_is_an_error_that_names_it() {
    for sampler in [Box::new(WrongAtOne(5)) as Box<dyn Sampler>, Box::new(Subset::range(0..10).then(WrongAtOne(5)))] {
        let sampling = Sampling::new(sampler, data(10)).unwrap();
        let mut order = sampling.epoch_order(0);
        assert_eq!(order.positions(KnownSamples::All(10)).unwrap(), KnownSamples::All(5));
        assert_eq!(order.ids(0..3, KnownSamples::All(10)).unwrap(), [0, 1, 2].map(SampleId));
        // What fills up the last batch is the first of the order.
        assert_eq!(order.ids(4..7, KnownSamples::All(10)).unwrap(), [4, 0, 1].map(SampleId));
        let error = order.ids(2..5, KnownSamples::All(10)).unwrap_err();
        let said = ["a number below 10, got 10", "a sample of its subset, got one beyond it"];
        let error = error.to_string();
        assert!(error.contains("wrong") && said.iter().any(|said| error.contains(said)), "{error}");
    }
    let nothing = Sampling::new(Box::new(WrongAtOne(0)), data(10)).unwrap();
    assert!(
        nothing.epoch_order(0).positions(KnownSamples::All(10)).unwrap_err().to_string().contains("without samples")
    );
}

/// A sampler that settles `0` positions more than are listed, and whose orders lack the last `1` positions.
#[derive(Debug)]
struct OverSettling(u64, u64);

impl Sampler for OverSettling {
    fn identity(&self) -> String {
        "hasty".into()
    }

    fn orders(&self, scope: &Scope) -> crate::Result<Orders> {
        Ok(Orders::new(scope.len().saturating_sub(self.1), |_| |position| position))
    }

    fn settled(&self, listed: u64) -> u64 {
        listed + self.0
    }
}

/// Positions behind the order's end repeated its beginning, or divided by zero.
#[test]
fn a_sampler_that_settles_more_than_it_orders_is_an_error_that_names_it() {
    for (sampler, from) in [(OverSettling(3, 0), 4), (OverSettling(0, 2), 2), (OverSettling(0, 10), 0)] {
        let sampling = Sampling::new(Box::new(sampler), data(10)).unwrap();
        let mut order = sampling.epoch_order(0);
        let KnownSamples::AtLeast(settled) = order.positions(KnownSamples::AtLeast(4)).unwrap() else {
            panic!("all of a part")
        };
        assert_eq!(order.ids(0..from, KnownSamples::AtLeast(4)).unwrap().len() as u64, from);
        let error = order.ids(0..settled, KnownSamples::AtLeast(4)).unwrap_err().to_string();
        assert!(error.contains("sampler hasty") && error.contains("as its order of 4 samples has"), "{error}");
    }
    // Nor may it have said so before all was listed.
    let sampling = Sampling::new(Box::new(OverSettling(2, 0)), data(10)).unwrap();
    let mut order = sampling.epoch_order(0);
    assert_eq!(order.positions(KnownSamples::AtLeast(9)).unwrap(), KnownSamples::AtLeast(11));
    let error = order.positions(KnownSamples::All(10)).unwrap_err().to_string();
    assert!(error.contains("sampler hasty") && error.contains("at most 10") && error.contains("got 11"), "{error}");
    assert_eq!(order.positions(KnownSamples::AtLeast(0)).unwrap(), KnownSamples::AtLeast(0));
}

/// A sampler that panics in the given function.
#[derive(Debug)]
struct PanicsAt(&'static str);

impl PanicsAt {
    fn at(&self, place: &str) {
        assert!(self.0 != place, "no {place}");
    }
}

impl Sampler for PanicsAt {
    fn identity(&self) -> String {
        self.at("identity");
        "panics".into()
    }

    fn orders(&self, scope: &Scope) -> crate::Result<Orders> {
        self.at("orders");
        let place = self.0;
        Ok(Orders::new(scope.len(), move |_| {
            PanicsAt(place).at("order");
            move |position| {
                if position == 5 {
                    PanicsAt(place).at("position");
                }
                position
            }
        }))
    }

    fn settled(&self, listed: u64) -> u64 {
        self.at("settled");
        listed
    }
}

#[test]
fn a_sampler_that_panics_is_an_error_that_names_it() {
    let error = Sampling::new(Box::new(PanicsAt("identity")), data(10)).unwrap_err().to_string();
    assert!(error.contains("Sampler::identity panicked") && error.contains("no identity"), "{error}");
    for place in ["orders", "settled", "order", "position"] {
        let sampling = Sampling::new(Box::new(PanicsAt(place)), data(10)).unwrap();
        let mut order = sampling.epoch_order(0);
        assert_eq!(sampling.check().is_err(), place == "orders");
        assert_eq!(order.positions(KnownSamples::AtLeast(5)).is_err(), place == "settled");
        for _ in 0..2 {
            assert_eq!(order.ids(0..5, KnownSamples::All(10)).is_ok(), ["settled", "position"].contains(&place));
            let error = match place {
                "settled" => order.positions(KnownSamples::AtLeast(5)).unwrap_err().to_string(),
                _ => order.ids(3..8, KnownSamples::All(10)).unwrap_err().to_string(),
            };
            assert!(error.contains("sampler panics: the sampler panicked"), "{error}");
            assert!(error.contains(&format!("no {place}")), "{error}");
        }
    }
}

/// A resume without a sampler, and the replay of an audit log, would have used the built-in sampler instead.
#[test]
fn a_sampler_that_calls_itself_a_built_in_one_is_refused() {
    #[derive(Debug)]
    struct FakeScope(&'static str);

    impl Sampler for FakeScope {
        fn identity(&self) -> String {
            self.0.into()
        }

        fn orders(&self, scope: &Scope) -> crate::Result<Orders> {
            Sequential.orders(scope)
        }
    }

    for identity in ["sequential", "shuffle(seed=42)", "windows(seed=1, samples=2)"] {
        let error = Sampling::new(Box::new(FakeScope(identity)), data(10)).unwrap_err().to_string();
        assert!(error.contains(&format!("got {identity}")), "{error}");
    }
    let own: [Box<dyn Sampler>; 4] = [
        Box::new(FakeScope("shuffled(seed=42)")),
        Box::new(Shuffle::new(42)),
        Box::new(Box::new(Arc::new(Sequential)) as Box<dyn Sampler>),
        Box::new(Arc::new(WindowShuffle::new(1, 2)) as Arc<dyn Sampler>),
    ];
    for sampler in own {
        assert!(Sampling::new(sampler, data(10)).is_ok());
    }
}

/// Log lines with a loader's settings contained all weights or all indexes.
#[test]
fn debug_is_short() {
    let weights = vec![1.5; 10_000];
    let subset = Subset::ids((0..10_000).map(SampleId));
    for sampler in [
        Box::new(Weighted::new(1, &weights).unwrap()) as Box<dyn Sampler>,
        Box::new(Weighted::without_replacement(1, &weights).unwrap()),
        Box::new(subset.clone().then(Shuffle::new(1))),
        Box::new(Mixture::new(1).add(subset, 1.0)),
    ] {
        let debug = format!("{sampler:?}");
        assert!(debug.len() < 300 && debug.contains("10000"), "{debug}");
    }
}

/// Never to be changed: saved states rely on these draws, on every machine.
#[test]
fn golden_draws() {
    let weights: Vec<_> = (0..10_000u32).map(|index| f64::from(index % 17) + 1.0 / f64::from(index + 1)).collect();
    let heavy: Vec<_> = (0..10_000u32).map(|index| 1e-3 + f64::from(u8::from(index == 77)) * 1e3).collect();
    let manifest = data(10_000);
    let drawn = |sampler: &Weighted, epoch| {
        subset::fingerprint(ids(sampler, &manifest, epoch).iter().map(|id| id.to_le_bytes()))
    };
    let mut found = Vec::new();
    for weights in [&weights, &heavy] {
        let once = Weighted::without_replacement(42, weights).unwrap();
        let again = Weighted::new(42, weights).unwrap().samples(100_000);
        found.extend([drawn(&again, 0), drawn(&again, 1), drawn(&once, 0), drawn(&once, 1)]);
        found.push(drawn(&once.samples(100), 0));
    }
    let wanted = [
        ["b6e3b7f65f1d58d3", "0373758b8ec4a5f7", "91c249a576906259", "0e81b79be0d63c4c", "d7a74e0ef2b8f005"],
        ["c1a62fbd29f4d69b", "978e404e07cfd5ac", "6b09678841a17e58", "996f0e358ce967ff", "b93d6c5b53844bfc"],
    ];
    assert_eq!(found, wanted.as_flattened());
}

/// In any number of epochs a part has its share, and none of its samples comes again before all of them have come.
#[test]
fn parts_of_a_mixture_continue_from_epoch_to_epoch() {
    let manifest = data(200);
    let often: BTreeSet<u64> = (0..200).filter(|id| manifest.get(*id).unwrap().name.starts_with("p/a/")).collect();
    for (length, samples, both) in [
        (EpochLength::UntilFirst, 133, [100, 33]),
        (EpochLength::UntilAll, 400, [300, 100]),
        (EpochLength::Samples(1_000), 1_000, [750, 250]),
        (EpochLength::Samples(8), 8, [6, 2]),
    ] {
        let orders = mixture(&manifest, 5, length).orders(&Scope::new(Arc::clone(&manifest))).unwrap();
        assert_eq!(orders.len(), samples);
        let mut times = vec![0; 200];
        for epoch in 0..40 {
            let mut counts = [0, 0];
            for id in orders.order(epoch).ids(0..samples) {
                let part = usize::from(often.contains(&id.0));
                // Each part has a hundred samples.
                assert_eq!(times[id.0 as usize], (epoch * both[part] + counts[part]) / 100, "{id:?} in epoch {epoch}");
                times[id.0 as usize] += 1;
                counts[part] += 1;
            }
            assert_eq!(counts, both);
        }
    }
}

#[test]
fn folders_are_found_by_their_names() {
    let manifest = data(100);
    for (prefix, wanted) in [("p/a/", 50), ("p/b/", 25), ("p/d/", 6), ("p/", 100), ("", 100), ("p/0", 6)] {
        let chosen = ids(&Subset::below(&manifest, prefix).unwrap(), &manifest, 0);
        assert_eq!(chosen.len(), wanted, "{prefix}");
        assert!(chosen.iter().all(|id| manifest.get(*id).unwrap().name.starts_with(prefix)));
    }
    for prefix in ["p/aa", "q", "p/z/", "a"] {
        let error = Subset::below(&manifest, prefix).unwrap_err().to_string();
        let said = format!("such as p/000007, got {prefix:?}");
        assert!(error.contains("no sample's name begins so") && error.contains(&said), "{error}");
    }
}
