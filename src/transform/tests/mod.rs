//! Tests of the steps: against Pillow, and with frozen draws.

mod draws;
mod references;

use super::*;
use crate::pixels::{Interpolation, Region};

/// An image of all kinds of values that is the same in all versions of this crate.
fn synthetic(height: u32, width: u32, channels: u8) -> Bitmap {
    let mut rng = SampleRng::new(u64::from(height) << 32 | u64::from(width));
    let mut values = Vec::new();
    for y in 0..height {
        for x in 0..width {
            for channel in 0..u32::from(channels) {
                let smooth = (x * (channel + 1) + y * 2) % 200;
                values.push((u64::from(smooth) + rng.below(40)) as u8);
            }
        }
    }
    Bitmap::new(height, width, channels, values).unwrap()
}

/// One of each kind of step, with unusual parameters, that an image of any size can take.
fn all_steps() -> Vec<Transforms> {
    let fill = [1, 2, 3, 4];
    let new = Transforms::new;
    vec![
        new().resize(20, 31),
        new().step(Resize { interpolation: Interpolation::Bicubic, ..Resize::new(40, 7) }),
        new().resize_shorter(24),
        new().step(ResizeShorter { max_size: Some(30), ..ResizeShorter::new(24) }),
        new().fit(33, 20, fill),
        new().center_crop(18, 40),
        new().step(RandomCrop { padding: 3, pad_if_needed: true, fill, ..RandomCrop::new(24, 24) }),
        new().random_resized_crop(24, 16),
        new().horizontal_flip(0.5),
        new().vertical_flip(0.5),
        new().step(RandomRotation { interpolation: Interpolation::Bilinear, fill, ..RandomRotation::new(45.0) }),
        new().color_jitter(0.4, 0.4, 0.4, 0.1),
        new().random_grayscale(0.5),
        new().gaussian_blur(9),
        new().random_erasing(0.5),
        new().step(RandomErasing { value: ErasedValue::Noise, ..RandomErasing::new(0.9) }),
        new().rand_augment(),
        new().step(RandAugment {
            num_ops: 20,
            magnitude: 30,
            interpolation: Interpolation::Bilinear,
            fill,
            ..RandAugment::new()
        }),
    ]
}

#[test]
fn sizes_are_those_that_were_announced() {
    let sizes = [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (1, 90), (90, 1), (37, 53), (53, 37), (24, 24), (60, 61)];
    for (height, width) in sizes {
        for (channels, seed) in [(1, 1), (3, 2), (4, 3), (3, 4), (3, 5)] {
            for transforms in all_steps() {
                let image = synthetic(height, width, channels);
                let changed = transforms.apply(image, &mut SampleRng::new(seed)).unwrap();
                let announced = transforms.output_size(height, width).unwrap();
                assert_eq!((changed.height(), changed.width()), announced, "{transforms:?} of {height} x {width}");
                assert_eq!(changed.channels(), channels);
                let bytes = u64::from(height.max(announced.0) * width.max(announced.1)) * u64::from(channels);
                let peak = transforms.peak_bytes(height, width, channels.into()).unwrap();
                let least = u64::from(height * width).max(u64::from(announced.0 * announced.1)) * u64::from(channels);
                // A kernel's padding counts much in a tiny image.
                assert!(peak >= least && peak <= 4 * bytes + 16 * 9 * (u64::from(width) + 9), "{transforms:?}: {peak}");
            }
        }
    }
}

#[test]
fn the_shorter_side_is_the_shorter_side() {
    let side = |side, height, width| Transforms::new().resize_shorter(side).output_size(height, width);
    assert_eq!(side(256, 333, 500), Some((256, 384)));
    assert_eq!(side(256, 500, 333), Some((384, 256)));
    assert_eq!(side(256, 100, 100), Some((256, 256)));
    let limited = Transforms::new().step(ResizeShorter { max_size: Some(300), ..ResizeShorter::new(256) });
    assert_eq!(limited.output_size(333, 500), Some((200, 300)));
    assert_eq!(limited.output_size(1, 5_000), Some((1, 300)));
}

#[test]
fn a_narrow_image_does_not_become_a_huge_one() {
    let transforms = Transforms::new().resize_shorter(256);
    assert_eq!(transforms.output_size(1, 100_000), None);
    assert_eq!(transforms.peak_bytes(1, 100_000, 3), None);
    let error = transforms.draw(1, 100_000, &mut SampleRng::new(0)).unwrap_err().to_string();
    assert!(
        error.starts_with("resize_shorter: an image of 1 x 100000 pixels (height x width) would become"),
        "{error}"
    );
    for extreme in [Transforms::new().resize(u32::MAX, u32::MAX), Transforms::new().center_crop(u32::MAX, u32::MAX)] {
        assert!(extreme.draw(1, 1, &mut SampleRng::new(0)).is_err());
    }

    // A large image is not refused for what it is.
    assert_eq!(Transforms::new().horizontal_flip(0.5).output_size(100_000, 100_000), Some((100_000, 100_000)));
}

#[test]
fn a_crop_and_what_follows_are_one_operation() {
    let draw = |transforms: Transforms| transforms.draw(40, 50, &mut SampleRng::new(1)).unwrap();
    let whole = draw(Transforms::new().center_crop(20, 30).resize(8, 9));
    let region = Region { top: 10, left: 10, height: 20, width: 30 };
    let interpolation = Interpolation::Bilinear;
    assert_eq!(whole, [Operation::CropAndResize { region, height: 8, width: 9, interpolation }]);
    let twice = draw(Transforms::new().center_crop(20, 30).center_crop(10, 10).center_crop(4, 4));
    assert_eq!(twice.len(), 1);
    assert_eq!(draw(Transforms::new().resize(40, 50)), []);

    let chain = Transforms::new().random_crop(30, 30).random_resized_crop(16, 16).random_crop(9, 9);
    for seed in 0..20 {
        let image = synthetic(40, 50, 3);
        let fused = chain.apply(image.clone(), &mut SampleRng::new(seed)).unwrap();
        let mut rng = SampleRng::new(seed);
        let steps = [
            Transforms::new().random_crop(30, 30),
            Transforms::new().random_resized_crop(16, 16),
            Transforms::new().random_crop(9, 9),
        ];
        let apart = steps.iter().fold(image, |image, step| step.apply(image, &mut rng).unwrap());
        assert!(fused == apart, "seed {seed}");
    }
}

#[test]
fn a_mask_moves_with_its_image_and_keeps_its_classes() {
    let fill = [200; 4];
    let geometry = Transforms::new()
        .step(RandomRotation { fill, ..RandomRotation::new(30.0) })
        .step(RandomCrop { padding: 4, fill, ..RandomCrop::new(36, 40) })
        .horizontal_flip(0.5)
        .vertical_flip(0.5)
        .step(RandomResizedCrop { interpolation: Interpolation::Nearest, ..RandomResizedCrop::new(24, 24) })
        .step(Fit { interpolation: Interpolation::Nearest, ..Fit::new(30, 40, fill) });
    for seed in 0..50 {
        // Every operation takes nearest neighbours, so that image and mask stay the same.
        let mask = synthetic(37, 53, 1);
        let (image, changed) =
            geometry.apply_with_mask(mask.clone(), mask.clone(), 200, &mut SampleRng::new(seed)).unwrap();
        assert!(image == changed, "seed {seed}");

        let classes = Bitmap::new(37, 53, 1, mask.values().iter().map(|value| value % 2 * 100).collect()).unwrap();
        let all = all_steps().into_iter().fold(Transforms::new(), Transforms::then);
        let (image, changed) =
            all.apply_with_mask(synthetic(37, 53, 3), classes, 255, &mut SampleRng::new(seed)).unwrap();
        assert_eq!((image.height(), image.width()), (changed.height(), changed.width()));
        assert!(changed.values().iter().all(|class| [0, 100, 255].contains(class)), "seed {seed}");
    }

    let colors = Transforms::new()
        .color_jitter(0.5, 0.5, 0.5, 0.5)
        .gaussian_blur(5)
        .random_grayscale(1.0)
        .step(RandomErasing { value: ErasedValue::Noise, ..RandomErasing::new(1.0) });
    let (image, mask) = (synthetic(20, 30, 3), synthetic(20, 30, 1));
    let (changed, same) = colors.apply_with_mask(image.clone(), mask.clone(), 0, &mut SampleRng::new(3)).unwrap();
    assert!(same == mask && changed != image);

    let error = colors.apply_with_mask(image, synthetic(30, 20, 1), 0, &mut SampleRng::new(3)).unwrap_err();
    assert!(error.to_string().contains("20 x 30 pixels (height x width) and its mask 30 x 20"), "{error}");
}

#[test]
fn wrong_parameters_are_errors_that_name_them() {
    let new = Transforms::new;
    let nan = f64::NAN;
    let wrong: Vec<(Transforms, &str)> = vec![
        (new().resize(0, 9), "resize(0, 9) leaves no pixel; wanted a height and a width"),
        (new().resize_shorter(0), "resize_shorter: side is 0"),
        (
            new().step(ResizeShorter { max_size: Some(9), ..ResizeShorter::new(9) }),
            "resize_shorter: max_size is 9; wanted more than side, which is 9",
        ),
        (new().fit(9, 0, [0; 4]), "fit(9, 0) leaves no pixel; wanted a height and a width"),
        (new().center_crop(0, 0), "center_crop(0, 0) leaves no pixel; wanted a height and a width"),
        (new().random_crop(0, 1), "random_crop(0, 1) leaves no pixel; wanted a height and a width"),
        (new().random_crop(20, 21), "random_crop: the image has 20 x 20 pixels (height x width) with its padding"),
        (new().random_resized_crop(1, 0), "random_resized_crop(1, 0) leaves no pixel; wanted a height and a width"),
        (
            new().step(RandomResizedCrop { scale: (0.9, 0.1), ..RandomResizedCrop::new(9, 9) }),
            "random_resized_crop: scale is (0.9, 0.1)",
        ),
        (
            new().step(RandomResizedCrop { ratio: (0.0, 1.0), ..RandomResizedCrop::new(9, 9) }),
            "random_resized_crop: ratio is (0, 1); wanted two numbers from 0.001 to 1000",
        ),
        (new().horizontal_flip(1.1), "horizontal_flip: probability is 1.1; wanted a number from 0 to 1"),
        (new().vertical_flip(nan), "vertical_flip: probability is NaN"),
        (new().random_grayscale(-0.1), "random_grayscale: probability is -0.1"),
        (new().random_rotation(f64::INFINITY), "random_rotation: degrees is (-inf, inf)"),
        (new().random_rotation(-1.0), "random_rotation: degrees is (1, -1)"),
        (
            new().step(RandomRotation { interpolation: Interpolation::Bicubic, ..RandomRotation::new(1.0) }),
            "random_rotation: interpolation is Bicubic; wanted Nearest or Bilinear",
        ),
        (new().color_jitter(nan, 0.0, 0.0, 0.0), "color_jitter: brightness is (0, NaN)"),
        (new().color_jitter(0.0, -0.5, 0.0, 0.0), "color_jitter: contrast is (1.5, 0.5)"),
        (new().color_jitter(0.0, 0.0, f64::INFINITY, 0.0), "color_jitter: saturation is (0, inf)"),
        (
            new().color_jitter(0.0, 0.0, 0.0, 0.6),
            "color_jitter: hue is (-0.6, 0.6); wanted two numbers from -0.5 to 0.5",
        ),
        (new().gaussian_blur(4), "gaussian_blur: kernel_size is 4; wanted an odd number from 1 to 511"),
        (new().gaussian_blur(513), "gaussian_blur: kernel_size is 513"),
        (
            new().step(GaussianBlur { sigma: (0.0, 1.0), ..GaussianBlur::new(3) }),
            "gaussian_blur: sigma is (0, 1); wanted two numbers from 0.001",
        ),
        (new().random_erasing(2.0), "random_erasing: probability is 2"),
        (
            new().step(RandomErasing { scale: (0.1, 1.1), ..RandomErasing::new(0.5) }),
            "random_erasing: scale is (0.1, 1.1); wanted two numbers from 0 to 1",
        ),
        (
            new().step(RandAugment { magnitude: 31, ..RandAugment::new() }),
            "rand_augment: magnitude is 31; wanted less than num_magnitude_bins, which is 31",
        ),
        (
            new().step(RandAugment { num_magnitude_bins: 1, ..RandAugment::new() }),
            "rand_augment: num_magnitude_bins is 1",
        ),
        (new().step(RandAugment { num_ops: 101, ..RandAugment::new() }), "rand_augment: num_ops is 101"),
    ];
    for (transforms, message) in wrong {
        let error = transforms.draw(20, 20, &mut SampleRng::new(0)).unwrap_err().to_string();
        assert!(error.starts_with(message), "got: {error}\nwanted: {message}");
        assert_eq!(transforms.output_size(20, 20), None, "{message}");
        assert_eq!(transforms.peak_bytes(20, 20, 3), None, "{message}");
    }
}

#[test]
fn the_alpha_channel_keeps_its_values() {
    let image = synthetic(20, 30, 4);
    let colors = [
        Operation::Brightness { factor: 1.4 },
        Operation::Contrast { factor: 0.4 },
        Operation::Saturation { factor: 0.4 },
        Operation::Hue { factor: 0.3 },
        Operation::Sharpness { factor: 1.9 },
        Operation::Grayscale,
        Operation::Posterize { bits: 2 },
        Operation::Solarize { threshold: 9.0 },
        Operation::Autocontrast,
        Operation::Equalize,
    ];
    let alpha = |image: &Bitmap| image.values().iter().skip(3).step_by(4).copied().collect::<Vec<_>>();
    for operation in colors {
        let changed = operation.apply(image.clone(), BitmapKind::Image).unwrap();
        assert!(alpha(&changed) == alpha(&image) && changed != image, "{operation:?}");
    }
}
