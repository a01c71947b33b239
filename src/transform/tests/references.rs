//! Each operation against the result of Pillow, or of torchvision's formula for the blur.

use std::collections::BTreeMap;

use super::*;

/// What tests/data/transforms/make.py writes.
const REFERENCES: &[u8] = include_bytes!("../../../tests/data/transforms/references.bin");

/// The images, by their names. Name of a result: name of the input, operation, parameters.
fn references() -> BTreeMap<&'static str, Bitmap> {
    let end = REFERENCES.windows(2).position(|bytes| bytes == b"\n\n").unwrap();
    let text = std::str::from_utf8(&REFERENCES[..end]).unwrap();
    let mut data = &REFERENCES[end + 2..];
    let mut lines = text.lines();
    assert!(lines.next().unwrap().starts_with("Pillow "));
    let images = lines.map(|line| {
        let words: Vec<_> = line.splitn(4, ' ').collect();
        let [height, width, channels] = [0, 1, 2].map(|at: usize| words[at].parse::<u32>().unwrap());
        let (values, rest) = data.split_at((height * width * channels) as usize);
        data = rest;
        (words[3], Bitmap::new(height, width, channels as u8, values.to_vec()).unwrap())
    });
    let images: BTreeMap<_, _> = images.collect();
    assert_eq!(data, b"");
    images
}

/// The operations that a name asks for.
fn operations(name: &str, image: &Bitmap) -> Vec<Operation> {
    let fill = [11, 120, 240, 0];
    let mut words = name.split(' ').skip(1);
    let word = words.next().unwrap();
    let mut interpolation = Interpolation::Nearest;
    let mut numbers = Vec::new();
    for word in words {
        match word {
            "nearest" => {}
            "bilinear" => interpolation = Interpolation::Bilinear,
            "bicubic" => interpolation = Interpolation::Bicubic,
            number => numbers.push(number.parse::<f64>().unwrap()),
        }
    }
    let whole: Vec<_> = numbers.iter().map(|number| *number as i64).collect();
    let size = |at: usize| whole[at] as u32;
    let factor = numbers.first().copied().unwrap_or_default();
    let (rows, columns) = (image.height(), image.width());
    let step = |step: Transforms| step.draw(rows, columns, &mut SampleRng::new(0)).unwrap();
    let operation = match word {
        "resize" => return step(Transforms::new().step(Resize { height: size(0), width: size(1), interpolation })),
        "resize_shorter" => {
            return step(Transforms::new().step(ResizeShorter { interpolation, ..ResizeShorter::new(size(0)) }));
        }
        "fit" => return step(Transforms::new().step(Fit { interpolation, ..Fit::new(size(0), size(1), fill) })),
        "center_crop" => return step(Transforms::new().center_crop(size(0), size(1))),
        "crop_and_resize" => {
            let region = Region { top: size(0), left: size(1), height: size(2), width: size(3) };
            Operation::CropAndResize { region, height: size(4), width: size(5), interpolation }
        }
        "window" => Operation::Window { top: whole[0], left: whole[1], height: size(2), width: size(3), fill },
        "translate" => Operation::Window { top: -whole[1], left: -whole[0], height: rows, width: columns, fill },
        "flip_horizontal" => Operation::FlipHorizontal,
        "flip_vertical" => Operation::FlipVertical,
        "rotate" => Operation::Rotate { degrees: factor, interpolation, fill },
        "shear" => Operation::Shear { x: numbers[0], y: numbers[1], interpolation, fill },
        "brightness" => Operation::Brightness { factor },
        "contrast" => Operation::Contrast { factor },
        "saturation" => Operation::Saturation { factor },
        "hue" => Operation::Hue { factor },
        "sharpness" => Operation::Sharpness { factor },
        "grayscale" => Operation::Grayscale,
        "posterize" => Operation::Posterize { bits: size(0) as u8 },
        "solarize" => Operation::Solarize { threshold: factor },
        "autocontrast" => Operation::Autocontrast,
        "equalize" => Operation::Equalize,
        "blur" => Operation::Blur { kernel_size: size(0), sigma: numbers[1] },
        // No step inverts, but a threshold of 0 does.
        "invert" => Operation::Solarize { threshold: 0.0 },
        other => panic!("{other}"),
    };
    vec![operation]
}

/// The largest and the mean difference that the documentation of the operation's step states.
fn bounds(name: &str) -> (u8, f64) {
    let is = |word: &str| name.split(' ').any(|other| other == word);
    if is("resize") || is("crop_and_resize") || is("resize_shorter") || is("fit") {
        match () {
            () if is("nearest") => (0, 0.0),
            () if is("bilinear") => (1, 0.05),
            () => (2, 0.05),
        }
    } else if is("blur") {
        (1, 0.001)
    } else {
        (0, 0.0)
    }
}

#[test]
fn operations_give_what_pillow_gives() {
    let references = references();
    let mut compared = 0;
    let mut failures = Vec::new();
    for (name, expected) in &references {
        let Some((input, _)) = name.split_once(' ') else { continue };
        let image = &references[input];
        let kind = if input == "mask" { BitmapKind::Mask { outside: 11 } } else { BitmapKind::Image };
        let result = operations(name, image)
            .iter()
            .fold(image.clone(), |image, operation| operation.apply(image, kind).unwrap());
        let size = |image: &Bitmap| (image.height(), image.width(), image.channels());
        assert_eq!(size(&result), size(expected), "{name}");
        let differences = result.values().iter().zip(expected.values()).map(|(left, right)| left.abs_diff(*right));
        let largest = differences.clone().max().unwrap();
        let mean = differences.map(f64::from).sum::<f64>() / result.values().len() as f64;
        let (most, most_on_average) = bounds(name);
        if largest > most || mean > most_on_average {
            failures.push(format!("{name}: largest {largest} of {most}, mean {mean:.4} of {most_on_average}"));
        }
        compared += 1;
    }
    assert!(failures.is_empty(), "{failures:#?}");
    assert_eq!(compared, 130);
}
