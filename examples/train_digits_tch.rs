//! Like `train_digits`, with tch. Install libtorch first:
//!
//! eval "$(scripts/libtorch)" && cargo run --release --features tch --example train_digits_tch

mod support;

use clap::Parser;
use tch::nn::{ConvConfig, Module, ModuleT, OptimizerConfig, VarStore};
use tch::{Device, Kind, Tensor, no_grad};

fn network(vars: &tch::nn::Path) -> impl Module + use<> {
    let same = ConvConfig { padding: 1, ..ConvConfig::default() };
    tch::nn::seq()
        .add(tch::nn::conv2d(vars / "first", 1, 16, 3, same))
        .add_fn(Tensor::relu)
        .add(tch::nn::conv2d(vars / "second", 16, 32, 3, same))
        .add_fn(|maps| maps.relu().max_pool2d_default(2).flatten(1, -1))
        .add(tch::nn::linear(vars / "hidden", 32 * 4 * 4, 64, tch::nn::LinearConfig::default()))
        .add_fn(Tensor::relu)
        .add(tch::nn::linear(vars / "last", 64, 10, tch::nn::LinearConfig::default()))
}

fn main() -> anyhow::Result<()> {
    let args = support::Args::parse();
    let digits = support::Digits::open(&args)?;
    tch::manual_seed(42);
    let vars = VarStore::new(Device::cuda_if_available());
    let network = network(&vars.root());
    let mut optimizer = tch::nn::AdamW::default().build(&vars, 0.004)?;
    for epoch in 0..args.epochs {
        // From 0.004 down to a tenth of that, along a cosine.
        let done = epoch as f64 / args.epochs as f64;
        optimizer.set_lr(0.004 * (0.55 + 0.45 * (std::f64::consts::PI * done).cos()));
        digits.epoch(epoch, |batch| {
            let samples = batch.len() as f64;
            let (images, labels) = batch.to_tch(vars.device())?;
            let loss = network.forward(&images).cross_entropy_for_logits(&labels);
            optimizer.backward_step(&loss);
            Ok(loss.double_value(&[]) * samples)
        })?;
    }
    let mut right = 0;
    for batch in digits.test.epoch(0)? {
        let (images, labels) = batch?.to_tch(vars.device())?;
        let guesses = no_grad(|| network.forward_t(&images, false).argmax(-1, false));
        right += guesses.eq_tensor(&labels).sum(Kind::Int64).int64_value(&[]) as u64;
    }
    digits.report(right)
}
