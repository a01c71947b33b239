//! Pictures of shapes in class folders, made at random: a small stand-in for photographs.

use std::io::Cursor;

use anyhow::Result;
use image::{ImageFormat, Rgb, RgbImage};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The classes, which are the folders.
pub(crate) const SHAPES: [&str; 3] = ["disc", "ring", "square"];

/// `count` JPEG files, named `FOLDER/SHAPE/NUMBER.jpg`, of different sizes. `seed` says which.
pub(crate) fn files(folder: &str, count: usize, seed: u64) -> Result<Vec<(String, Vec<u8>)>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut files = Vec::with_capacity(count);
    for number in 0..count {
        let shape = SHAPES[number % SHAPES.len()];
        let mut file = Cursor::new(Vec::new());
        picture(shape, &mut rng).write_to(&mut file, ImageFormat::Jpeg)?;
        files.push((format!("{folder}/{shape}/{number:05}.jpg"), file.into_inner()));
    }
    Ok(files)
}

/// One shape in some colour, somewhere on a noisy background.
fn picture(shape: &str, rng: &mut StdRng) -> RgbImage {
    let (width, height) = (rng.random_range(72..104_u32), rng.random_range(64..96_u32));
    let radius = rng.random_range(16.0..26.0_f32);
    let x = rng.random_range(radius..width as f32 - radius);
    let y = rng.random_range(radius..height as f32 - radius);
    let colour: [u8; 3] = rng.random();
    let ground = colour.map(|value| value.wrapping_add(128));
    RgbImage::from_fn(width, height, |column, row| {
        let (across, down) = ((column as f32 - x).abs(), (row as f32 - y).abs());
        let distance = across.hypot(down);
        let is_inside = match shape {
            "disc" => distance < radius,
            "ring" => distance < radius && distance > 0.6 * radius,
            _ => across.max(down) < 0.9 * radius,
        };
        let noise: i16 = rng.random_range(-10..10);
        Rgb(if is_inside { colour } else { ground }.map(|value| (i16::from(value) + noise).clamp(0, 255) as u8))
    })
}
