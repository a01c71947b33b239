//! Like `train_folders`, with tch. Install libtorch first:
//!
//! eval "$(scripts/libtorch)" && cargo run --release --features tch --example train_folders_tch

#[path = "support/folders.rs"]
mod folders;

use anyhow::{Result, ensure};
use dataflux::DataLoader;
use tch::nn::{AdamW, ConvConfig, LinearConfig, Module, OptimizerConfig, VarStore};
use tch::{Device, Kind, Reduction, Tensor, no_grad};

use folders::{EPOCHS, Folders, learning_rate};

/// Maps images of shape (n, 3, height, width) to scores of shape (n, classes).
fn network(vars: &tch::nn::Path, classes: i64) -> impl Module + use<> {
    let strided = ConvConfig { padding: 1, stride: 2, ..ConvConfig::default() };
    let convolution = |from, to, name| tch::nn::conv2d(vars / name, from, to, 3, strided);
    tch::nn::seq()
        .add(convolution(3, 16, "first"))
        .add_fn(Tensor::relu)
        .add(convolution(16, 32, "second"))
        .add_fn(Tensor::relu)
        .add(convolution(32, 64, "third"))
        .add_fn(Tensor::relu)
        .add(convolution(64, 64, "fourth"))
        .add_fn(|maps| maps.relu().amax([2, 3], false))
        .add(tch::nn::linear(vars / "last", 64, classes, LinearConfig::default()))
}

fn main() -> Result<()> {
    let Folders { train, validation, classes, emulator: _emulator } = Folders::open()?;
    tch::manual_seed(42);
    let vars = VarStore::new(Device::cuda_if_available());
    let network = network(&vars.root(), classes as i64);
    let mut optimizer = AdamW::default().build(&vars, learning_rate(0))?;

    // A thread of each loader makes tensors of the next batch, on the device, while the network trains on this one.
    let train = DataLoader::builder(train).batch_size(25).shuffle(42).device(vars.device()).build()?;
    let validation = DataLoader::builder(validation).batch_size(50).device(vars.device()).build()?;
    let mut accuracy = 0.0;
    for epoch in 0..EPOCHS {
        optimizer.set_lr(learning_rate(epoch));
        let mut loss_sum = 0.0;
        let mut batches = train.epoch(epoch)?;
        for batch in &mut batches {
            // Labels are shares of classes, since images are mixed.
            let (images, labels) = batch?.into_inner();
            let scores = network.forward(&images);
            let loss = scores.cross_entropy_loss::<Tensor>(&labels, None, Reduction::Mean, -100, 0.0);
            optimizer.backward_step(&loss);
            loss_sum += loss.double_value(&[]);
        }
        let loss = loss_sum / batches.stats().batches as f64;

        let mut right = 0;
        for batch in validation.epoch(0)? {
            let (images, labels) = batch?.into_inner();
            let guesses = no_grad(|| network.forward(&images).argmax(-1, false));
            right += guesses.eq_tensor(&labels).sum(Kind::Int64).int64_value(&[]) as u64;
        }
        accuracy = right as f64 / validation.dataset().len() as f64;
        println!("epoch {epoch}: loss {loss:.3}, validation accuracy {accuracy:.3}");
    }
    ensure!(accuracy > 0.8, "the network has learnt too little: {accuracy}");
    Ok(())
}
