//! Trains a small network that finds discs in noise, pixel by pixel: images and masks from a bucket, two objects a
//! sample, cropped and flipped alike.
//!
//! cargo run --release --example segmentation

#[path = "support/bucket.rs"]
mod bucket;

use std::io::Cursor;

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{AdamW, Conv2d, Conv2dConfig, Optimizer, ParamsAdamW, VarBuilder, VarMap};
use dataflux::{DataLoader, DatafluxDataset, ImageFolder, Parts, Transforms};
use image::{GrayImage, ImageFormat, Luma, Rgb, RgbImage};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Height and width of the images, and of the crops that the network sees.
const STORED: u32 = 48;
const CROP: u32 = 32;

/// Classes of pixels: background, red disc, blue disc.
const CLASSES: usize = 3;

/// Scores of all classes for each pixel.
struct Network([Conv2d; 3]);

impl Network {
    fn new(vars: &VarBuilder) -> candle_core::Result<Self> {
        let same = Conv2dConfig { padding: 2, ..Conv2dConfig::default() };
        Ok(Self([
            candle_nn::conv2d(3, 12, 5, same, vars.pp("first"))?,
            candle_nn::conv2d(12, 12, 5, same, vars.pp("second"))?,
            candle_nn::conv2d(12, CLASSES, 5, same, vars.pp("last"))?,
        ]))
    }
}

impl Module for Network {
    fn forward(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        let [first, second, last] = &self.0;
        last.forward(&second.forward(&first.forward(images)?.relu()?)?.relu()?)
    }
}

/// An image of a disc in noise, and its mask.
fn scene(number: u64) -> Result<(Vec<u8>, Vec<u8>)> {
    let mut rng = StdRng::seed_from_u64(number);
    let (class, radius) = (1 + (number % 2) as u8, rng.random_range(6..12));
    let [x, y] = [(); 2].map(|()| rng.random_range(radius..STORED - radius));
    let mask = GrayImage::from_fn(STORED, STORED, |column, row| {
        let is_inside = column.abs_diff(x).pow(2) + row.abs_diff(y).pow(2) <= radius.pow(2);
        Luma([if is_inside { class } else { 0 }])
    });
    let image = RgbImage::from_fn(STORED, STORED, |column, row| {
        let mut color = [(); 3].map(|()| rng.random_range(0..140));
        match mask.get_pixel(column, row).0 {
            [1] => color[0] += 80,
            [2] => color[2] += 80,
            _ => {}
        }
        Rgb(color)
    });
    let (mut image_file, mut mask_file) = (Vec::new(), Vec::new());
    image.write_to(&mut Cursor::new(&mut image_file), ImageFormat::Png)?;
    mask.write_to(&mut Cursor::new(&mut mask_file), ImageFormat::Png)?;
    Ok((image_file, mask_file))
}

fn main() -> Result<()> {
    let mut objects = Vec::new();
    for number in 0..160 {
        let folder = if number < 128 { "train" } else { "test" };
        let (image, mask) = scene(number)?;
        objects.push((format!("discs/{folder}/{number:03}.png"), image));
        objects.push((format!("discs/{folder}/{number:03}_mask.png"), mask));
    }
    let (_emulator, client) = bucket::start(objects)?;

    let open = |folder: &str, transforms: Transforms| -> Result<_> {
        let dataset = DatafluxDataset::open_with(client.clone(), &format!("gs://my-bucket/discs/{folder}/"))?
            .parts(Parts::of("{}.png").and("{}_mask.png"))?
            .decode(ImageFolder::new().transform(transforms).with_mask());
        Ok(DataLoader::builder(dataset).batch_size(16).shuffle(42))
    };
    let train = open("train", Transforms::new().random_crop(CROP, CROP).horizontal_flip(0.5).vertical_flip(0.5))?;
    let (train, test) = (train.build()?, open("test", Transforms::new())?.build()?);

    let device = Device::cuda_if_available(0)?;
    let vars = VarMap::new();
    let network = Network::new(&VarBuilder::from_varmap(&vars, DType::F32, &device))?;
    let mut optimizer = AdamW::new(vars.all_vars(), ParamsAdamW { lr: 0.01, ..ParamsAdamW::default() })?;
    for epoch in 0..12 {
        let mut batches = train.epoch(epoch)?;
        let mut losses = Vec::new();
        for batch in &mut batches {
            let (images, masks) = batch?.to_candle(&device)?;
            // A row of scores for each pixel.
            let scores = network.forward(&images)?.permute((0, 2, 3, 1))?.reshape(((), CLASSES))?;
            let loss = candle_nn::loss::cross_entropy(&scores, &masks.flatten_all()?)?;
            optimizer.backward_step(&loss)?;
            losses.push(loss.to_scalar::<f32>()?);
        }
        let stats = batches.stats();
        println!(
            "epoch {epoch}: loss {:.3}, {} samples of 2 objects, calls: {} get, {} compose",
            losses.iter().sum::<f32>() / losses.len() as f32,
            stats.samples,
            stats.ops.get,
            stats.ops.compose,
        );
    }

    let (mut right, mut pixels) = (0, 0);
    for batch in test.epoch(0)? {
        let (images, masks) = batch?.to_candle(&device)?;
        let guesses = network.forward(&images)?.argmax(1)?.to_dtype(DType::U8)?;
        right += guesses.eq(&masks)?.to_dtype(DType::U32)?.sum_all()?.to_scalar::<u32>()?;
        pixels += masks.elem_count();
    }
    let accuracy = f64::from(right) / pixels as f64;
    println!("test accuracy: {accuracy:.4} of all pixels");
    ensure!(accuracy > 0.95, "the network has learned too little");
    Ok(())
}
