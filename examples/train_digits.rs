//! Trains a small convolutional network with candle on images read from a bucket; by default from an emulator that this
//! program starts and fills.
//!
//! cargo run --release --example train_digits

mod support;

use candle_core::{D, DType, Device, Module, Tensor};
use candle_nn::{AdamW, Conv2d, Conv2dConfig, Linear, Optimizer, ParamsAdamW, VarBuilder, VarMap};
use clap::Parser;

struct Network {
    first: Conv2d,
    second: Conv2d,
    hidden: Linear,
    last: Linear,
}

impl Network {
    fn new(vars: &VarBuilder) -> candle_core::Result<Self> {
        let same = Conv2dConfig { padding: 1, ..Conv2dConfig::default() };
        Ok(Self {
            first: candle_nn::conv2d(1, 16, 3, same, vars.pp("first"))?,
            second: candle_nn::conv2d(16, 32, 3, same, vars.pp("second"))?,
            hidden: candle_nn::linear(32 * 4 * 4, 64, vars.pp("hidden"))?,
            last: candle_nn::linear(64, 10, vars.pp("last"))?,
        })
    }
}

impl Module for Network {
    /// Maps images of shape (n, 1, 8, 8) to scores of shape (n, 10).
    fn forward(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        let maps = self.first.forward(images)?.relu()?;
        let maps = self.second.forward(&maps)?.relu()?.max_pool2d(2)?;
        self.last.forward(&self.hidden.forward(&maps.flatten_from(1)?)?.relu()?)
    }
}

fn main() -> anyhow::Result<()> {
    let args = support::Args::parse();
    let digits = support::Digits::open(&args)?;
    let device = Device::cuda_if_available(0)?;
    let vars = VarMap::new();
    let network = Network::new(&VarBuilder::from_varmap(&vars, DType::F32, &device))?;
    let mut optimizer = AdamW::new(vars.all_vars(), ParamsAdamW::default())?;
    for epoch in 0..args.epochs {
        // From 0.004 down to a tenth of that, along a cosine.
        let done = epoch as f64 / args.epochs as f64;
        optimizer.set_learning_rate(0.004 * (0.55 + 0.45 * (std::f64::consts::PI * done).cos()));
        digits.epoch(epoch, |batch| {
            let samples = batch.len() as f64;
            let (images, labels) = batch.to_candle(&device)?;
            let loss = candle_nn::loss::cross_entropy(&network.forward(&images)?, &labels)?;
            optimizer.backward_step(&loss)?;
            Ok(f64::from(loss.to_scalar::<f32>()?) * samples)
        })?;
    }
    let mut right = 0;
    for batch in digits.test.epoch(0)? {
        let (images, labels) = batch?.to_candle(&device)?;
        let guesses = network.forward(&images)?.argmax(D::Minus1)?.to_dtype(DType::I64)?;
        right += u64::from(guesses.eq(&labels)?.to_dtype(DType::U32)?.sum_all()?.to_scalar::<u32>()?);
    }
    digits.report(right)
}
