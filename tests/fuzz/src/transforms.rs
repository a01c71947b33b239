//! Transforms of images with arbitrary parameters.

use arbitrary::{Result, Unstructured};
use dataflux::{
    Bitmap, ColorJitter, ErasedValue, Fit, GaussianBlur, Interpolation, RandAugment, RandomCrop, RandomErasing,
    RandomResizedCrop, RandomRotation, Resize, ResizeShorter, SampleRng, Transforms,
};

/// Sides of images and of what is made of them, so that runs are fast.
const MAX_SIDE: u32 = 48;

/// Applies up to four steps with arbitrary parameters to an arbitrary image, and the same to a mask.
pub fn transform(data: &[u8]) {
    let _ = transformed(&mut Unstructured::new(data));
}

fn transformed(input: &mut Unstructured<'_>) -> Result<()> {
    let seed = input.arbitrary()?;
    let (height, width) = (input.int_in_range(1..=MAX_SIDE)?, input.int_in_range(1..=MAX_SIDE)?);
    let channels = *input.choose(&[1, 3, 4])?;
    let mut transforms = Transforms::new();
    for _ in 0..input.int_in_range(1..=4)? {
        transforms = step(transforms, input)?;
    }
    let bitmap = |channels: u8| {
        let count = height * width * u32::from(channels);
        let values = (0..count).map(|index| (u64::from(index).wrapping_mul(seed | 1) >> 3) as u8).collect();
        Bitmap::new(height, width, channels, values).expect("a bitmap")
    };
    let changed = transforms.apply(bitmap(channels), &mut SampleRng::new(seed));
    let masked = transforms.apply_with_mask(bitmap(channels), bitmap(1), 255, &mut SampleRng::new(seed));
    if let (Ok(changed), Ok((image, mask))) = (changed, masked) {
        assert_eq!(changed, image);
        assert_eq!((image.height(), image.width()), (mask.height(), mask.width()));
    }
    Ok(())
}

/// A side that is usually small, and now and then anything but large: decoded images are limited by other means.
fn side(input: &mut Unstructured<'_>) -> Result<u32> {
    input.int_in_range(0..=MAX_SIDE)
}

fn interpolation(input: &mut Unstructured<'_>) -> Result<Interpolation> {
    input.choose(&[Interpolation::Nearest, Interpolation::Bilinear]).copied()
}

fn step(transforms: Transforms, input: &mut Unstructured<'_>) -> Result<Transforms> {
    Ok(match input.int_in_range(0..=12)? {
        0 => {
            let (height, width) = (side(input)?, side(input)?);
            transforms.step(Resize { height, width, interpolation: interpolation(input)? })
        }
        1 => {
            let (side, max_size) = (side(input)?, input.arbitrary()?);
            transforms.step(ResizeShorter { side, max_size, interpolation: interpolation(input)? })
        }
        2 => {
            let (height, width, fill) = (side(input)?, side(input)?, input.arbitrary()?);
            transforms.step(Fit { height, width, fill, interpolation: interpolation(input)? })
        }
        3 => transforms.center_crop(side(input)?, side(input)?),
        4 => transforms.step(RandomCrop {
            height: side(input)?,
            width: side(input)?,
            padding: side(input)?,
            pad_if_needed: input.arbitrary()?,
            fill: input.arbitrary()?,
        }),
        5 => transforms.step(RandomResizedCrop {
            height: side(input)?,
            width: side(input)?,
            scale: input.arbitrary()?,
            ratio: input.arbitrary()?,
            interpolation: interpolation(input)?,
        }),
        6 => transforms.horizontal_flip(input.arbitrary()?).vertical_flip(input.arbitrary()?),
        7 => transforms.step(RandomRotation {
            degrees: input.arbitrary()?,
            interpolation: interpolation(input)?,
            fill: input.arbitrary()?,
        }),
        8 => transforms.step(ColorJitter {
            brightness: input.arbitrary()?,
            contrast: input.arbitrary()?,
            saturation: input.arbitrary()?,
            hue: input.arbitrary()?,
        }),
        9 => transforms.random_grayscale(input.arbitrary()?),
        10 => transforms.step(GaussianBlur { kernel_size: input.arbitrary()?, sigma: input.arbitrary()? }),
        11 => transforms.step(RandomErasing {
            probability: input.arbitrary()?,
            scale: input.arbitrary()?,
            ratio: input.arbitrary()?,
            value: if input.arbitrary()? { ErasedValue::Noise } else { ErasedValue::Constant(input.arbitrary()?) },
        }),
        _ => transforms.step(RandAugment {
            num_ops: input.int_in_range(0..=20)?,
            magnitude: input.arbitrary()?,
            num_magnitude_bins: input.arbitrary()?,
            interpolation: interpolation(input)?,
            fill: input.arbitrary()?,
        }),
    })
}
