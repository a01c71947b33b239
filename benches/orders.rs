//! Measures what lookups in an order cost, by sampler. Works on generated names, without a network.
//!
//! cargo bench --bench orders -- 1000000

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use dataflux::Manifest;
use dataflux::sample::{
    BlockShuffle, Order, Sampler, Scope, Sequential, Shuffle, Stratified, Subset, Weighted, WindowShuffle,
};
use dataflux::store::{ObjectRef, Objects};

/// Number of lookups that are averaged.
const LOOKS: u64 = 1_000_000;

fn main() -> anyhow::Result<()> {
    // `cargo bench` adds `--bench`.
    let samples = std::env::args().nth(1).filter(|arg| arg != "--bench");
    let samples: u64 = samples.map_or(Ok(1_000_000), |samples| samples.parse())?;
    let mut objects = Objects::default();
    let mut name = String::new();
    for index in 0..samples {
        use std::fmt::Write;
        name.clear();
        write!(name, "train/{:03}/{index:010}.bin", index * 1_000 / samples)?;
        objects.push(ObjectRef { name: &name, size: 4_096, ..ObjectRef::default() });
    }
    let scope = Scope::new(Arc::new(Manifest::new("gs://bucket/train/".parse()?, &objects)?));
    drop(objects);
    let weights: Vec<_> = (0..samples).map(|index| (index % 10 + 1) as f64).collect();
    let samplers: [Box<dyn Sampler>; 9] = [
        Box::new(Sequential),
        Box::new(Shuffle::new(42)),
        Box::new(WindowShuffle::new(42, 10_000)),
        Box::new(BlockShuffle::new(42, 256, 64)),
        Box::new(Weighted::new(42, &weights)?),
        Box::new(Weighted::without_replacement(42, &weights)?),
        Box::new(Stratified::by_label(42)),
        Box::new(Subset::range(samples / 2..samples).then(Shuffle::new(42))),
        Box::new(Subset::filter(scope.manifest(), |entry| entry.name.contains('7'))?.then(Shuffle::new(42))),
    ];
    println!("{samples} samples in 1,000 folders");
    println!("{:>12} {:>12} {:>13} {:>13}  sampler", "to make, ms", "an epoch, ms", "far looks, ns", "in a row, ns");
    for sampler in samplers {
        let begun = Instant::now();
        let orders = sampler.orders(&scope)?;
        let make = begun.elapsed();
        let begun = Instant::now();
        let mut order = orders.order(1);
        let epoch = begun.elapsed();
        let far = nanoseconds(&mut order, |look| {
            // Knuth's multiplier: each lookup is far from the last, and all differ.
            ((u128::from(look.wrapping_mul(6_364_136_223_846_793_005)) * u128::from(orders.len())) >> 64) as u64
        });
        let row = nanoseconds(&mut order, |look| look % orders.len());
        let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
        println!("{:>12.3} {:>12.3} {far:>13.0} {row:>13.0}  {}", ms(make), ms(epoch), sampler.identity());
    }
    Ok(())
}

fn nanoseconds(order: &mut Order, position: impl Fn(u64) -> u64) -> f64 {
    let begun = Instant::now();
    (0..LOOKS).for_each(|look| _ = black_box(order.at(position(look))));
    begun.elapsed().as_secs_f64() * 1e9 / LOOKS as f64
}
