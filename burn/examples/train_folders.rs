//! Trains on photographs in class folders as ImageNet is trained on, with burn's `Learner`: random crops, flips and
//! colours, mixup and CutMix for training; a resize and a crop of the middle for validation (`support/folders.rs` of
//! dataflux has these). The pictures are made by this program, in an emulator.
//!
//! cargo run --release --example train_folders

#[path = "../../examples/support/folders.rs"]
mod folders;
#[path = "support/report.rs"]
mod report;

use std::sync::Arc;

use anyhow::{Error, Result, bail, ensure};
use burn::data::dataloader::DataLoader as _;
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Linear, LinearConfig, PaddingConfig2d};
use burn::optim::AdamWConfig;
use burn::optim::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::tensor::activation::{log_softmax, relu};
use burn::tensor::{Device, Int, Tensor};
use burn::train::metric::{AccuracyMetric, LossMetric};
use burn::train::{
    ClassificationOutput, ExecutionStrategy, InferenceStep, Learner, SupervisedTraining, TrainOutput, TrainStep,
};
use dataflux::DataLoader;
use dataflux_burn::BurnDataLoader;

use folders::{EPOCHS, Folders, learning_rate};

#[derive(Module, Debug)]
struct Network {
    convolutions: Vec<Conv2d>,
    last: Linear,
}

impl Network {
    fn new(classes: usize, device: &Device) -> Self {
        let convolution = |from, to| {
            let strided = Conv2dConfig::new([from, to], [3, 3]).with_stride([2, 2]);
            strided.with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1)).init(device)
        };
        Self {
            convolutions: vec![convolution(3, 16), convolution(16, 32), convolution(32, 64), convolution(64, 64)],
            last: LinearConfig::new(64, classes).init(device),
        }
    }

    /// Maps images of shape (n, 3, height, width) to scores of shape (n, classes).
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let maps = self.convolutions.iter().fold(images, |maps, convolution| relu(convolution.forward(maps)));
        self.last.forward(maps.max_dims(&[2, 3]).flatten::<2>(1, 3))
    }
}

impl TrainStep for Network {
    /// Labels are shares of classes, since images are mixed.
    type Input = (Tensor<4>, Tensor<2>);
    type Output = ClassificationOutput;

    fn step(&self, (images, shares): Self::Input) -> TrainOutput<ClassificationOutput> {
        let scores = self.forward(images);
        let loss = (log_softmax(scores.clone(), 1) * shares.clone()).sum_dim(1).mean().neg();
        let largest = shares.argmax(1).squeeze_dim::<1>(1);
        TrainOutput::new(self, loss.backward(), ClassificationOutput::new(loss, scores, largest))
    }
}

impl InferenceStep for Network {
    type Input = (Tensor<4>, Tensor<1, Int>);
    type Output = ClassificationOutput;

    fn step(&self, (images, labels): Self::Input) -> ClassificationOutput {
        let scores = self.forward(images);
        let loss = CrossEntropyLossConfig::new().init(&scores.device()).forward(scores.clone(), labels.clone());
        ClassificationOutput::new(loss, scores, labels)
    }
}

fn main() -> Result<()> {
    let Folders { train, validation, classes, emulator: _emulator } = Folders::open()?;
    let batch_size = 25;
    let steps = EPOCHS as usize * (train.len() as usize).div_ceil(batch_size);
    let train = DataLoader::builder(train).batch_size(batch_size).shuffle(42).build()?;

    let device = Device::default();
    let train = BurnDataLoader::new(train, &device)?;
    let validation = BurnDataLoader::new(DataLoader::builder(validation).batch_size(50).build()?, &device)?;

    device.seed(7);
    let network = Network::new(classes, &device.clone().autodiff());
    let folder = tempfile::tempdir()?;
    let training = SupervisedTraining::new(folder.path(), Arc::new(train.clone()), Arc::new(validation.clone()))
        .with_training_strategy(ExecutionStrategy::SingleDevice(device.clone().autodiff()).into())
        .with_application_logger(None)
        .renderer(Box::new(report::EpochReport::default()))
        .metrics((AccuracyMetric::new(), LossMetric::new()))
        .num_epochs(EPOCHS as usize);
    let schedule = CosineAnnealingLrSchedulerConfig::new(learning_rate(0), steps).init().map_err(Error::msg)?;
    let result = training.launch(Learner::new(network, AdamWConfig::new().init(), schedule));
    if let Some(error) = result.error {
        bail!("the training stopped: {error}");
    }

    let mut right = 0;
    for batch in validation.iter() {
        let (images, labels) = batch?;
        let guesses = result.model.forward(images).argmax(1).squeeze_dim::<1>(1);
        right += guesses.equal(labels).int().sum().into_scalar::<i64>();
    }
    let accuracy = right as f64 / validation.num_items() as f64;
    println!("validation accuracy: {accuracy:.3}");
    ensure!(accuracy > 0.8, "the network has learnt too little: {accuracy}");
    Ok(())
}
