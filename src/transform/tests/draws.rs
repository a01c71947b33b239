//! What is drawn never changes: the same seed gives the same operations and pixels in all versions of this crate.

use std::fmt::Write;
use std::path::Path;

use super::*;

/// Set this environment variable to write the golden file anew.
const RENEW: &str = "DATAFLUX_RENEW_DRAWS";

const GOLDEN: &str = include_str!("../../../tests/golden/draws.txt");

#[test]
fn draws_never_change() {
    let mut text = String::new();
    for transforms in all_steps() {
        writeln!(text, "{:?}", transforms.steps[0]).unwrap();
        for seed in 1..=4 {
            let operations = transforms.draw(37, 53, &mut SampleRng::new(seed)).unwrap();
            writeln!(text, "  seed {seed}: {operations:?}").unwrap();
        }
    }
    if std::env::var_os(RENEW).is_some() {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/draws.txt"), &text).unwrap();
        return;
    }
    let differing = text.lines().zip(GOLDEN.lines()).find(|(now, golden)| now != golden);
    assert_eq!(differing, None, "the left is what is drawn now");
    assert_eq!(text.lines().count(), GOLDEN.lines().count());
}

#[test]
fn pixels_never_change() {
    let chain = Transforms::new()
        .step(RandomResizedCrop { scale: (0.3, 1.0), ..RandomResizedCrop::new(64, 80) })
        .horizontal_flip(0.5)
        .color_jitter(0.4, 0.4, 0.4, 0.1)
        .rand_augment()
        .step(RandomRotation { interpolation: Interpolation::Bilinear, fill: [9; 4], ..RandomRotation::new(20.0) })
        .gaussian_blur(5)
        .vertical_flip(0.5)
        .random_grayscale(0.2)
        .step(RandomCrop { padding: 4, ..RandomCrop::new(56, 56) })
        .step(RandomErasing { value: ErasedValue::Noise, ..RandomErasing::new(0.8) })
        .resize_shorter(48)
        .fit(50, 60, [1, 2, 3, 4])
        .center_crop(52, 40);
    let checksums: Vec<_> = [(1, 1), (2, 3), (3, 3), (4, 3), (5, 3), (6, 4)]
        .map(|(seed, channels)| {
            let image = chain.apply(synthetic(90, 110, channels), &mut SampleRng::new(seed)).unwrap();
            assert_eq!((image.height(), image.width(), image.channels()), (52, 40, channels));
            crc32c::crc32c(image.values())
        })
        .into();
    let golden = [321_331_082, 3_096_738_150, 33_332_738, 1_893_365_885, 2_049_530_338, 4_280_167_603];
    assert_eq!(checksums, golden);
}

/// Numbers that a chain takes from the generator, whatever it then does with them.
#[test]
fn a_step_that_does_nothing_takes_as_many_numbers() {
    let numbers_of = |transforms: Transforms| {
        let mut rng = SampleRng::new(7);
        transforms.draw(40, 40, &mut rng).unwrap();
        let next = rng.next_u64();
        let mut other = SampleRng::new(7);
        (0..100).find(|_| other.next_u64() == next)
    };
    let new = Transforms::new;
    for (transforms, count) in [
        (new().resize(9, 9).center_crop(5, 5).resize_shorter(8).fit(3, 3, [0; 4]), 0),
        (new().horizontal_flip(0.0), 1),
        (new().horizontal_flip(1.0), 1),
        (new().vertical_flip(0.0), 1),
        (new().random_grayscale(1.0), 1),
        (new().random_rotation(0.0), 1),
        (new().gaussian_blur(3), 1),
        (new().random_crop(40, 40), 2),
        (new().color_jitter(0.0, 0.0, 0.0, 0.0), 3),
        (new().color_jitter(0.1, 0.0, 0.1, 0.0), 5),
        (new().random_erasing(0.0), 1),
    ] {
        assert_eq!(numbers_of(transforms.clone()), Some(count), "{transforms:?}");
    }
}

/// The distribution of each choice, coarsely.
#[test]
fn choices_are_as_frequent_as_they_should_be() {
    const DRAWS: u32 = 4_000;
    let count = |transforms: &Transforms, wanted: &dyn Fn(&[Operation]) -> bool| {
        let mut rng = SampleRng::new(1);
        (0..DRAWS).filter(|_| wanted(&transforms.draw(60, 60, &mut rng).unwrap())).count() as f64 / f64::from(DRAWS)
    };
    let flipped = count(&Transforms::new().horizontal_flip(0.3), &|operations| !operations.is_empty());
    assert!((flipped - 0.3).abs() < 0.03, "{flipped}");

    // Each of the four factors comes first equally often.
    let jitter = Transforms::new().color_jitter(0.5, 0.5, 0.5, 0.5);
    let is_first: [fn(&Operation) -> bool; 4] = [
        |first| matches!(first, Operation::Brightness { .. }),
        |first| matches!(first, Operation::Contrast { .. }),
        |first| matches!(first, Operation::Saturation { .. }),
        |first| matches!(first, Operation::Hue { .. }),
    ];
    for is_first in is_first {
        let first = count(&jitter, &|operations| is_first(&operations[0]));
        assert!((first - 0.25).abs() < 0.03, "{first}");
    }

    // All places of a crop occur, the last ones included.
    let crop = Transforms::new().random_crop(57, 60);
    for row in 0..4 {
        let here = count(&crop, &|operations| match operations {
            [Operation::CropAndResize { region, .. }] => region.top == row && region.left == 0,
            _ => false,
        });
        assert!((here - 0.25).abs() < 0.03, "{row}: {here}");
    }

    let augment = Transforms::new().step(RandAugment { num_ops: 1, ..RandAugment::new() });
    let none = count(&augment, &|operations| operations.is_empty());
    assert!((none - 1.0 / 14.0).abs() < 0.015, "{none}");
    let left = count(&augment, &|operations| matches!(operations, [Operation::Window { left: 1.., .. }]));
    assert!((left - 1.0 / 28.0).abs() < 0.015, "{left}");
}
