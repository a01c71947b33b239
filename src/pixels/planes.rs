//! Writes bitmaps into batches: to numbers of another type, normalized, and in the layout that a model wants.

use anyhow::ensure;

use super::Bitmap;

/// The means of ImageNet's channels (RGB), for [`ImageFolder::normalize`](crate::ImageFolder::normalize).
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];

/// The standard deviations of ImageNet's channels (RGB), for [`ImageFolder::normalize`](crate::ImageFolder::normalize).
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// The order of the numbers of a batch of images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Layout {
    /// Images, channels, rows, columns: plane after plane, as candle, tch and burn want it.
    #[default]
    Nchw,
    /// Images, rows, columns, channels: pixel after pixel.
    Nhwc,
}

impl Layout {
    /// Channels, height and width in the order of this layout.
    pub(crate) fn shape(self, channels: usize, height: usize, width: usize) -> [usize; 3] {
        match self {
            Self::Nchw => [channels, height, width],
            Self::Nhwc => [height, width, channels],
        }
    }
}

/// Type of the numbers of a batch of images: `f32`, or `u8` for the values as they are; with the feature `candle` or
/// `tch` also `f16` and `bf16` of the crate half.
pub trait Element: sealed::Element {}

mod sealed {
    pub trait Element: Copy + Default + Send + Sync + 'static {
        /// Whether values can be normalized.
        const IS_FLOAT: bool;

        /// `byte * factor + offset`; the byte itself if this is no float.
        fn of(byte: u8, factor: f32, offset: f32) -> Self;

        /// `self * share + other * (1 - share)`, rounded if this is no float.
        fn blend(self, other: Self, share: f32) -> Self;
    }
}

impl Element for f32 {}
impl sealed::Element for f32 {
    const IS_FLOAT: bool = true;

    #[inline]
    fn of(byte: u8, factor: f32, offset: f32) -> Self {
        f32::from(byte) * factor + offset
    }

    #[inline]
    fn blend(self, other: Self, share: f32) -> Self {
        self * share + other * (1.0 - share)
    }
}

#[cfg(any(feature = "candle", feature = "tch"))]
macro_rules! half_elements {
    ($($half:ty),*) => {$(
        impl Element for $half {}
        impl sealed::Element for $half {
            const IS_FLOAT: bool = true;

            #[inline]
            fn of(byte: u8, factor: f32, offset: f32) -> Self {
                Self::from_f32(f32::from(byte) * factor + offset)
            }

            #[inline]
            fn blend(self, other: Self, share: f32) -> Self {
                Self::from_f32(self.to_f32().blend(other.to_f32(), share))
            }
        }
    )*};
}

#[cfg(any(feature = "candle", feature = "tch"))]
half_elements!(half::f16, half::bf16);

impl Element for u8 {}
impl sealed::Element for u8 {
    const IS_FLOAT: bool = false;

    #[inline]
    fn of(byte: u8, _: f32, _: f32) -> Self {
        byte
    }

    #[inline]
    fn blend(self, other: Self, share: f32) -> Self {
        f32::from(self).blend(f32::from(other), share).round_ties_even() as Self
    }
}

/// How values of 0 to 255 become numbers of 0 to 1, or normalized ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Normalization {
    /// One for each channel; empty without normalization.
    channels: Vec<ChannelNormalization>,
}

/// The values of one channel become `(value - mean) * scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct ChannelNormalization {
    mean: f32,
    /// The reciprocal of the standard deviation.
    scale: f32,
}

impl Normalization {
    /// Lengths that differ are kept, so that [`check`](Self::check) reports them.
    pub(crate) fn new(mean: &[f32], std: &[f32]) -> Self {
        let value = |values: &[f32], channel: usize| values.get(channel).copied().unwrap_or(f32::NAN);
        let channel = |channel| ChannelNormalization { mean: value(mean, channel), scale: value(std, channel).recip() };
        Self { channels: (0..mean.len().max(std.len())).map(channel).collect() }
    }

    /// Checks that there is a mean and a deviation for each channel.
    pub(crate) fn check<T: Element>(&self, channels: usize) -> anyhow::Result<()> {
        let is_usable = |channel: &ChannelNormalization| (channel.mean * channel.scale).is_finite();
        ensure!(
            self.channels.is_empty() || self.channels.len() == channels && self.channels.iter().all(is_usable),
            "normalize() wants {channels} means and as many standard deviations, none of the deviations 0"
        );
        ensure!(
            self.channels.is_empty() || T::IS_FLOAT,
            "values of eight bits can't be normalized; leave out normalize(), or make batches of f32"
        );
        Ok(())
    }

    /// Factor and offset of a channel's bytes.
    fn of_bytes(&self, channel: usize) -> (f32, f32) {
        let identity = ChannelNormalization { mean: 0.0, scale: 1.0 };
        let ChannelNormalization { mean, scale } = self.channels.get(channel).copied().unwrap_or(identity);
        (scale / 255.0, -mean * scale)
    }
}

/// Writes an image into its place in a batch, which has as many numbers as the image.
pub(crate) fn write<T: Element>(image: &Bitmap, normalization: &Normalization, layout: Layout, place: &mut [T]) {
    // Compiled once more for each newer generation of processors, of which the best one that there is runs.
    pulp::Arch::new().dispatch(|| write_here(image, normalization, layout, place));
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "only what is inlined is compiled for the processor that there is")]
fn write_here<T: Element>(image: &Bitmap, normalization: &Normalization, layout: Layout, place: &mut [T]) {
    match (layout, image.channels()) {
        (Layout::Nchw, 3) => write_planes::<T, 3>(image.values(), normalization, place),
        (Layout::Nchw, 4) => write_planes::<T, 4>(image.values(), normalization, place),
        (_, 1) => write_pixels::<T, 1>(image.values(), normalization, place),
        (Layout::Nhwc, 3) => write_pixels::<T, 3>(image.values(), normalization, place),
        (Layout::Nhwc, _) => write_pixels::<T, 4>(image.values(), normalization, place),
        (Layout::Nchw, _) => unreachable!("an image has 1, 3 or 4 channels"),
    }
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "see `write_here`")]
fn write_planes<T: Element, const C: usize>(values: &[u8], normalization: &Normalization, place: &mut [T]) {
    let (pixels, _) = values.as_chunks::<C>();
    for (channel, plane) in place.chunks_exact_mut(pixels.len()).enumerate() {
        let (factor, offset) = normalization.of_bytes(channel);
        for (number, pixel) in plane.iter_mut().zip(pixels) {
            *number = T::of(pixel[channel], factor, offset);
        }
    }
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "see `write_here`")]
fn write_pixels<T: Element, const C: usize>(values: &[u8], normalization: &Normalization, place: &mut [T]) {
    let of_bytes: [_; C] = std::array::from_fn(|channel| normalization.of_bytes(channel));
    let (numbers, _) = place.as_chunks_mut::<C>();
    let (pixels, _) = values.as_chunks::<C>();
    for (numbers, pixel) in numbers.iter_mut().zip(pixels) {
        for channel in 0..C {
            let (factor, offset) = of_bytes[channel];
            numbers[channel] = T::of(pixel[channel], factor, offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_where_its_layout_has_it() {
        let (height, width) = (5, 9);
        for channels in [1_u8, 3, 4] {
            let count = height * width * usize::from(channels);
            let image = Bitmap::new(5, 9, channels, (0..count as u8).collect()).unwrap();
            let channels = usize::from(channels);
            let mean: Vec<f32> = (0..channels).map(|channel| 0.1 * channel as f32).collect();
            let std: Vec<f32> = (0..channels).map(|channel| 0.5 + channel as f32).collect();
            let normalization = Normalization::new(&mean, &std);
            normalization.check::<f32>(channels).unwrap();
            for layout in [Layout::Nchw, Layout::Nhwc] {
                let mut floats = vec![0.0_f32; count];
                write(&image, &normalization, layout, &mut floats);
                let mut bytes = vec![0_u8; count];
                write(&image, &Normalization::default(), layout, &mut bytes);
                for (y, x, channel) in
                    (0..height).flat_map(|y| (0..width).flat_map(move |x| (0..channels).map(move |c| (y, x, c))))
                {
                    let at = match layout {
                        Layout::Nchw => (channel * height + y) * width + x,
                        Layout::Nhwc => (y * width + x) * channels + channel,
                    };
                    let byte = image.values()[(y * width + x) * channels + channel];
                    assert_eq!(bytes[at], byte);
                    let expected = (f32::from(byte) / 255.0 - mean[channel]) / std[channel];
                    assert!((floats[at] - expected).abs() < 1e-6, "{layout:?}, {channels} channels");
                }
            }
        }
    }

    #[test]
    fn bytes_are_not_normalized() {
        assert!(Normalization::new(&[0.5], &[0.5]).check::<u8>(1).is_err());
        assert!(Normalization::default().check::<u8>(3).is_ok());
    }
}
