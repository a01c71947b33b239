//! Pictures in class folders, to train on as ImageNet is trained on: random crops, flips and colours, mixup and CutMix
//! for training; a resize and a crop of the middle for validation.

#[path = "bucket.rs"]
mod bucket;
#[path = "shapes.rs"]
mod shapes;

use anyhow::Result;
use dataflux::{
    Collated, DatafluxDataset, Decode, IMAGENET_MEAN, IMAGENET_STD, ImageFolder, MixImages, RandomResizedCrop,
    Transforms,
};
use dataflux_emulator::Emulator;

pub(crate) const EPOCHS: u64 = 12;
const SIDE: u32 = 48;

/// The learning rate of an epoch: from 0.003 to almost 0, along a cosine.
pub(crate) fn learning_rate(epoch: u64) -> f64 {
    0.0015 * (1.0 + (std::f64::consts::PI * epoch as f64 / EPOCHS as f64).cos())
}

/// The data sets, and the emulator that they are in.
pub(crate) struct Folders {
    pub(crate) train: DatafluxDataset<Collated<ImageFolder, MixImages>>,
    pub(crate) validation: DatafluxDataset<ImageFolder>,
    pub(crate) classes: usize,
    /// Stops when it is dropped.
    pub(crate) emulator: Emulator,
}

impl Folders {
    /// Makes pictures, and starts an emulator that has them.
    pub(crate) fn open() -> Result<Self> {
        let files = [shapes::files("train", 900, 1)?, shapes::files("val", 150, 2)?].concat();
        let (emulator, client) = bucket::start(files)?;

        // Half of the image at least: a smaller part may miss the shape.
        let crop = RandomResizedCrop { scale: (0.5, 1.0), ..RandomResizedCrop::new(SIDE, SIDE) };
        let train = Transforms::new().step(crop).horizontal_flip(0.5).color_jitter(0.4, 0.4, 0.4, 0.1);
        let validation = Transforms::new().resize_shorter(SIDE * 8 / 7).center_crop(SIDE, SIDE);
        let images = ImageFolder::new().normalize(&IMAGENET_MEAN, &IMAGENET_STD);
        let (train, validation) = (images.clone().transform(train), images.transform(validation));

        let open = |part: &str| DatafluxDataset::open_with(client.clone(), &format!("gs://my-bucket/{part}/"));
        let stack = train.collate();
        let train = open("train")?.decode(train);
        let validation = open("val")?.decode(validation).classes_from(&train)?;
        let classes = train.manifest().labels().len();
        println!("{} images to train on and {} to validate, of {classes} classes", train.len(), validation.len());

        let train = train.collate(MixImages::new(stack, classes).mixup(0.1).cutmix(0.1));
        Ok(Self { train, validation, classes, emulator })
    }
}
