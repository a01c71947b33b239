//! Stacks images of several sizes, padded to the largest of their batch.

use anyhow::bail;
use ndarray::{Array3, s};

use super::image::Image;
use super::stack::{Images, StackImages};
use crate::collate::{BatchBuffer, Collate};
use crate::os::use_large_pages;
use crate::pixels::{Element, Layout, recycle, write};

/// A [`Collate`] that stacks images of several sizes, for example for detection or segmentation. Each image is padded
/// at the bottom and on the right to the height of the batch's highest image and the width of its widest, rounded up to
/// a [multiple](Self::multiple_of). The padding is 0, also where images are [normalized](crate::ImageFolder::normalize).
///
/// The padded size is bounded, since one large image makes the whole batch large: the loader counts each image as one of
/// the largest size and four channels against its memory budget.
///
/// ```no_run
/// use dataflux::{DatafluxDataset, Decode, ImageFolder, PadImages, Transforms};
///
/// let folder = ImageFolder::new().transform(Transforms::new().resize_shorter(480));
/// let pad = PadImages::new(folder.collate(), 1_024, 1_024).multiple_of(32);
/// let dataset = DatafluxDataset::open("gs://my-bucket/train/")?.decode(folder).collate(pad);
/// # Ok::<(), dataflux::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct PadImages<T = f32> {
    stack: StackImages<T>,
    max_height: u32,
    max_width: u32,
    multiple: u32,
}

/// Stacked images of several sizes, padded to one, with their own sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct PaddedImages<T = f32, L = i64> {
    /// The padded images, and the labels.
    pub images: Images<T, L>,
    /// Height and width of every image with its padding.
    pub padded_size: [usize; 2],
    /// Height and width of each image, without its padding.
    pub sizes: Vec<[usize; 2]>,
}

impl<T, L> PaddedImages<T, L> {
    /// Which pixels are those of an image: an array of shape (images, height, width) that is 1 there, and 0 in the
    /// padding.
    pub fn mask(&self) -> Array3<u8> {
        let [height, width] = self.padded_size;
        let mut mask = Array3::zeros((self.sizes.len(), height, width));
        for (mut mask, [height, width]) in mask.outer_iter_mut().zip(&self.sizes) {
            mask.slice_mut(s![..*height, ..*width]).fill(1);
        }
        mask
    }
}

impl<T: Element> PadImages<T> {
    /// Pads images that are at most `max_height` by `max_width` pixels large; a larger one is an error that names it.
    /// Of `stack` it takes normalization, layout and type of the numbers.
    pub fn new(stack: StackImages<T>, max_height: u32, max_width: u32) -> Self {
        Self { stack, max_height, max_width, multiple: 1 }
    }

    /// Rounds the padded height and width up to a multiple of this, at least 1, as models with strides need it. They may
    /// then exceed the bounds by less than this.
    #[must_use]
    pub fn multiple_of(self, multiple: u32) -> Self {
        Self { multiple: multiple.max(1), ..self }
    }

    /// Height and width with padding, for images of at most this size.
    fn padded_size(&self, height: u32, width: u32) -> (usize, usize) {
        let rounded = |side: u32| (side as usize).next_multiple_of(self.multiple as usize);
        (rounded(height), rounded(width))
    }
}

impl<T: Element, L: Send + 'static> Collate<Image<L>> for PadImages<T> {
    type Output = PaddedImages<T, L>;

    fn collate(&self, samples: Vec<Image<L>>) -> anyhow::Result<PaddedImages<T, L>> {
        let Some(first) = samples.first() else {
            let images = Images { pixels: BatchBuffer::default(), shape: [0; 4], labels: Vec::new() };
            return Ok(PaddedImages { images, padded_size: [0; 2], sizes: Vec::new() });
        };
        let channels = first.bitmap.channels();
        let (mut height, mut width) = (0, 0);
        for Image { bitmap, name, .. } in &samples {
            if bitmap.channels() != channels {
                bail!(
                    "images of different channels don't stack: {} has {channels}, and {name} {}; bring all to the same \
                     channels in the step given to map",
                    first.name,
                    bitmap.channels()
                );
            }
            if bitmap.height() > self.max_height || bitmap.width() > self.max_width {
                bail!(
                    "{name} has {} x {} pixels (height x width), more than the {} x {} that PadImages was given; make it \
                     smaller by a transform, such as Fit, or allow more",
                    bitmap.height(),
                    bitmap.width(),
                    self.max_height,
                    self.max_width
                );
            }
            height = height.max(bitmap.height());
            width = width.max(bitmap.width());
        }
        let channels = usize::from(channels);
        self.stack.normalization.check::<T>(channels)?;

        let (height, width) = self.padded_size(height, width);
        let count = height * width * channels;
        let mut pixels = vec![T::default(); samples.len() * count];
        use_large_pages(&mut pixels);
        let mut sizes = Vec::with_capacity(samples.len());
        let mut labels = Vec::with_capacity(samples.len());
        let mut numbers = Vec::new();
        for (Image { bitmap, label, .. }, place) in samples.into_iter().zip(pixels.chunks_exact_mut(count)) {
            let (rows, columns) = (bitmap.height() as usize, bitmap.width() as usize);
            numbers.resize(bitmap.values().len(), T::default());
            write(&bitmap, &self.stack.normalization, self.stack.layout, &mut numbers);

            // Rows of an image in the order NHWC have the channels of a pixel side by side.
            let (planes, values) = match self.stack.layout {
                Layout::Nchw => (channels, 1),
                Layout::Nhwc => (1, channels),
            };
            for plane in 0..planes {
                let rows_of = |numbers: usize, height: usize| plane * height * numbers..(plane + 1) * height * numbers;
                let from = numbers[rows_of(columns * values, rows)].chunks_exact(columns * values);
                let to = place[rows_of(width * values, height)].chunks_exact_mut(width * values);
                to.zip(from).for_each(|(to, from)| to[..from.len()].copy_from_slice(from));
            }
            recycle(bitmap.into_values());
            sizes.push([rows, columns]);
            labels.push(label);
        }
        let [a, b, c] = self.stack.layout.shape(channels, height, width);
        Ok(PaddedImages {
            images: Images { pixels: pixels.into(), shape: [labels.len(), a, b, c], labels },
            padded_size: [height, width],
            sizes,
        })
    }

    fn copied_bytes(&self, item_bytes: u64) -> u64 {
        <Self as Collate<Image<L>>>::batch_bytes(self, item_bytes)
    }

    fn batch_bytes(&self, _: u64) -> u64 {
        let (height, width) = self.padded_size(self.max_height, self.max_width);
        (height as u64).saturating_mul(width as u64).saturating_mul(4 * size_of::<T>() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pixels::Bitmap;

    fn image(height: u32, width: u32, channels: u8, value: u8) -> Image {
        let values = vec![value; (height * width * u32::from(channels)) as usize];
        Image {
            bitmap: Bitmap::new(height, width, channels, values).unwrap(),
            label: value.into(),
            name: format!("p/{value}"),
        }
    }

    #[test]
    fn each_image_is_padded_at_the_bottom_and_on_the_right() {
        for layout in [Layout::Nchw, Layout::Nhwc] {
            let stack = StackImages::new().layout(layout).normalize(&[0.5, 0.5, 0.0], &[1.0, 1.0, 1.0]);
            let pad = PadImages::new(stack, 10, 10).multiple_of(4);
            let batch = pad.collate(vec![image(2, 5, 3, 51), image(6, 3, 3, 102)]).unwrap();
            let (height, width) = (8, 8);
            let [a, b, c] = layout.shape(3, height, width);
            assert_eq!(batch.images.shape, [2, a, b, c]);
            assert_eq!(
                (batch.sizes.as_slice(), batch.images.labels.as_slice()),
                (&[[2, 5], [6, 3]][..], &[51, 102][..])
            );

            let mask = batch.mask();
            assert_eq!(mask.shape(), [2, height, width]);
            for (index, value) in [0.2, 0.4].into_iter().enumerate() {
                for (row, column, channel) in
                    (0..height).flat_map(|y| (0..width).flat_map(move |x| (0..3).map(move |c| (y, x, c))))
                {
                    let at = match layout {
                        Layout::Nchw => (channel * height + row) * width + column,
                        Layout::Nhwc => (row * width + column) * 3 + channel,
                    };
                    let [rows, columns] = batch.sizes[index];
                    let is_image = row < rows && column < columns;
                    assert_eq!(mask[[index, row, column]], u8::from(is_image));
                    let wanted = if is_image { value - [0.5, 0.5, 0.0][channel] } else { 0.0 };
                    let got = batch.images.pixels[index * height * width * 3 + at];
                    assert!((got - wanted).abs() < 1e-6, "{layout:?} {index} {row} {column} {channel}: {got} {wanted}");
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error_that_names_the_image() {
        let pad = PadImages::new(StackImages::new(), 10, 20);
        assert_eq!(pad.collate(vec![image(10, 20, 1, 1)]).unwrap().images.shape, [1, 1, 10, 20]);
        let error = pad.collate(vec![image(10, 20, 1, 1), image(11, 2, 1, 2)]).unwrap_err().to_string();
        assert!(error.contains("p/2 has 11 x 2 pixels (height x width), more than the 10 x 20"), "{error}");
        let error = pad.collate(vec![image(1, 1, 1, 1), image(1, 1, 3, 2)]).unwrap_err().to_string();
        assert!(error.contains("p/1 has 1, and p/2 3"), "{error}");
        let none = pad.collate(Vec::<Image>::new()).unwrap();
        assert_eq!((none.images.shape, none.mask().len()), ([0; 4], 0));
    }

    #[test]
    fn an_image_counts_as_the_largest_one() {
        let bytes = |pad: &PadImages| Collate::<Image>::batch_bytes(pad, 300);
        assert_eq!(bytes(&PadImages::new(StackImages::new(), 10, 20)), 10 * 20 * 4 * 4);
        assert_eq!(bytes(&PadImages::new(StackImages::new(), 10, 20).multiple_of(16)), 16 * 32 * 4 * 4);
    }
}
