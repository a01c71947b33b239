//! Data sets and networks of the tests.

#[path = "../../../examples/support/bucket.rs"]
mod bucket;

use std::io::Cursor;
use std::sync::Arc;

use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor};
use burn::train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep};
use dataflux::store::{Client, MemoryStore};
use dataflux::{DatafluxDataset, ImageFolder};
use dataflux_emulator::Emulator;
use image::{ImageFormat, Luma, RgbImage};

/// Pixels of a side of the images.
pub(crate) const SIDE: usize = 4;

/// A grey image whose pixels are `value`.
pub(crate) fn png(value: u8) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    let pixel = image::Pixel::to_rgb(&Luma([value]));
    RgbImage::from_pixel(SIDE as u32, SIDE as u32, pixel).write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

/// `count` images in the folders `train/dark` and `train/light`. The value of the pixels is the number in the name.
pub(crate) fn images(count: usize) -> Vec<(String, Vec<u8>)> {
    let folder = |index: usize| if index * 2 < count { "dark" } else { "light" };
    (0..count).map(|index| (format!("train/{}/{index:03}.png", folder(index)), png(index as u8))).collect()
}

/// A data set of these objects in an emulator, which stops when it is dropped.
pub(crate) fn emulated(objects: Vec<(String, Vec<u8>)>) -> (Emulator, DatafluxDataset<ImageFolder>) {
    let (emulator, client) = bucket::start(objects).unwrap();
    let dataset = DatafluxDataset::open_with(client, "gs://my-bucket/train/").unwrap();
    (emulator, dataset.decode(ImageFolder::new()))
}

/// A data set of these objects in memory.
pub(crate) fn in_memory(objects: Vec<(String, Vec<u8>)>) -> DatafluxDataset {
    let store = MemoryStore::new();
    for (name, bytes) in objects {
        store.insert("my-bucket", &name, bytes);
    }
    DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/train/").unwrap()
}

/// Images and their labels.
pub(crate) type ImageTensors = (Tensor<4>, Tensor<1, Int>);

/// A linear classifier of the images.
#[derive(Module, Debug)]
pub(crate) struct Classifier {
    linear: Linear,
}

impl Classifier {
    pub(crate) fn new(device: &Device) -> Self {
        Self { linear: LinearConfig::new(3 * SIDE * SIDE, 2).init(device) }
    }

    fn output(&self, (images, labels): ImageTensors) -> ClassificationOutput {
        let scores = self.linear.forward(images.flatten::<2>(1, 3));
        let loss = CrossEntropyLossConfig::new().init(&scores.device()).forward(scores.clone(), labels.clone());
        ClassificationOutput::new(loss, scores, labels)
    }
}

impl TrainStep for Classifier {
    type Input = ImageTensors;
    type Output = ClassificationOutput;

    fn step(&self, batch: ImageTensors) -> TrainOutput<ClassificationOutput> {
        let output = self.output(batch);
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

impl InferenceStep for Classifier {
    type Input = ImageTensors;
    type Output = ClassificationOutput;

    fn step(&self, batch: ImageTensors) -> ClassificationOutput {
        self.output(batch)
    }
}
