//! Trains on photographs in class folders as ImageNet is trained on: random crops, flips and colours, mixup and CutMix
//! for training; a resize and a crop of the middle for validation (`support/folders.rs` has these). The pictures are
//! made by this program, in an emulator.
//!
//! cargo run --release --example train_folders

#[path = "support/folders.rs"]
mod folders;

use anyhow::{Result, ensure};
use candle_core::{D, DType, Device, Module, Tensor};
use candle_nn::{AdamW, Conv2d, Conv2dConfig, Linear, Optimizer, ParamsAdamW, VarBuilder, VarMap, ops};
use dataflux::DataLoader;

use folders::{EPOCHS, Folders, learning_rate};

struct Network {
    convolutions: [Conv2d; 4],
    last: Linear,
}

impl Network {
    fn new(vars: &VarBuilder, classes: usize) -> candle_core::Result<Self> {
        let strided = Conv2dConfig { padding: 1, stride: 2, ..Conv2dConfig::default() };
        let convolution = |from, to, name| candle_nn::conv2d(from, to, 3, strided, vars.pp(name));
        Ok(Self {
            convolutions: [
                convolution(3, 16, "first")?,
                convolution(16, 32, "second")?,
                convolution(32, 64, "third")?,
                convolution(64, 64, "fourth")?,
            ],
            last: candle_nn::linear(64, classes, vars.pp("last"))?,
        })
    }
}

impl Module for Network {
    /// Maps images of shape (n, 3, height, width) to scores of shape (n, classes).
    fn forward(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        let mut maps = images.clone();
        for convolution in &self.convolutions {
            maps = convolution.forward(&maps)?.relu()?;
        }
        self.last.forward(&maps.max(D::Minus1)?.max(D::Minus1)?)
    }
}

fn main() -> Result<()> {
    let Folders { train, validation, classes, emulator: _emulator } = Folders::open()?;
    let train = DataLoader::builder(train).batch_size(25).shuffle(42).build()?;
    let validation = DataLoader::builder(validation).batch_size(50).build()?;

    let device = Device::cuda_if_available(0)?;
    let vars = VarMap::new();
    let network = Network::new(&VarBuilder::from_varmap(&vars, DType::F32, &device), classes)?;
    let mut optimizer = AdamW::new(vars.all_vars(), ParamsAdamW::default())?;
    let mut accuracy = 0.0;
    for epoch in 0..EPOCHS {
        optimizer.set_learning_rate(learning_rate(epoch));
        let mut loss_sum = 0.0;
        let mut batches = train.epoch(epoch)?;
        for batch in &mut batches {
            // Labels are shares of classes, since images are mixed.
            let (images, labels) = batch?.to_candle(&device)?;
            let scores = ops::log_softmax(&network.forward(&images)?, D::Minus1)?;
            let loss = (scores * labels)?.sum(D::Minus1)?.mean_all()?.neg()?;
            optimizer.backward_step(&loss)?;
            loss_sum += f64::from(loss.to_scalar::<f32>()?);
        }
        let loss = loss_sum / batches.stats().batches as f64;

        let mut right = 0;
        for batch in validation.epoch(0)? {
            let (images, labels) = batch?.to_candle(&device)?;
            let guesses = network.forward(&images)?.argmax(D::Minus1)?.to_dtype(DType::I64)?;
            right += u64::from(guesses.eq(&labels)?.to_dtype(DType::U32)?.sum_all()?.to_scalar::<u32>()?);
        }
        accuracy = right as f64 / validation.dataset().len() as f64;
        println!("epoch {epoch}: loss {loss:.3}, validation accuracy {accuracy:.3}");
    }
    ensure!(accuracy > 0.8, "the network has learnt too little: {accuracy}");
    Ok(())
}
