//! Images with masks, for segmentation.

use anyhow::{Context, bail, ensure};

use super::image::Image;
use super::image_folder::{ImageFolder, ImageMemory};
use super::stack::{Images, StackImages};
use super::tuples::{number_and_name, too_few_parts};
use super::{Decode, DecodeMemory, ItemMemory};
use crate::collate::{BatchBuffer, Collate, CollateContext};
use crate::pixels::{Bitmap, Element, decode_mask, recycle};
use crate::read::RawSample;
use crate::transform::BitmapKind;

/// Decodes samples of two parts: an image, and a mask that says of which class each of its pixels is. Made by
/// [`ImageFolder::with_mask`].
///
/// The mask is a PNG with a palette or in grey, of up to 8 bits and of the image's size. Its values are those that are
/// stored: indexes of the palette, whatever the colours are, or values of grey, which are not stretched to 8 bits.
///
/// ```no_run
/// use dataflux::{DataLoader, DatafluxDataset, ImageFolder, Parts, Transforms};
///
/// let train = Transforms::new().random_resized_crop(256, 256).horizontal_flip(0.5).color_jitter(0.4, 0.4, 0.4, 0.1);
/// let dataset = DatafluxDataset::open("gs://my-bucket/voc/")?
///     .parts(Parts::of("images/{}.jpg").and("masks/{}.png"))?
///     .decode(ImageFolder::new().transform(train).with_mask());
/// for batch in DataLoader::builder(dataset).batch_size(16).shuffle(42).build()?.epoch(0)? {
///     let (images, masks) = batch?.into_ndarray()?;
///     assert_eq!((images.shape(), masks.shape()), (&[16, 3, 256, 256][..], &[16, 256, 256][..]));
/// }
/// # Ok::<(), dataflux::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ImageWithMask<T = f32> {
    folder: ImageFolder<T>,
    outside: u8,
}

/// The class of pixels that a mask doesn't have, by default: the one that data sets such as Pascal VOC leave out of the
/// loss.
const OUTSIDE: u8 = 255;

/// One decoded image and its mask, of the same height and width.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskedImage {
    /// The pixels.
    pub bitmap: Bitmap,
    /// The class of each pixel, in one channel.
    pub mask: Bitmap,
    /// The full name of the image's object.
    pub name: String,
}

/// Stacked images of one size, and their masks.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskedImages<T = f32> {
    /// Image after image, in the order of `shape`.
    pub pixels: BatchBuffer<T>,
    /// Number of images, channels, height, width (NCHW), or with [`Layout::Nhwc`](crate::Layout::Nhwc) images, height,
    /// width, channels.
    pub shape: [usize; 4],
    /// The class of each pixel, mask after mask.
    pub masks: Vec<u8>,
    /// Number of masks, height, width.
    pub mask_shape: [usize; 3],
}

/// A [`Collate`] that stacks images and their masks. Images become what [`StackImages`] makes of them.
#[derive(Clone, Debug, PartialEq)]
pub struct StackMaskedImages<T = f32>(StackImages<T>);

impl<T: Element> ImageFolder<T> {
    /// Decodes the second part of each sample as the mask of the first. Both are cropped, flipped and turned by the
    /// same random numbers; masks are resized with nearest interpolation, and keep their values where colours change.
    /// No label is needed. Further parts are ignored. See [`ImageWithMask`].
    ///
    /// The EXIF orientation turns the image and not the mask, because masks are drawn on images as they are seen. If
    /// yours were made for the image as it is stored, turn that [off](Self::exif_orientation).
    pub fn with_mask(self) -> ImageWithMask<T> {
        ImageWithMask { folder: self.without_labels(), outside: OUTSIDE }
    }
}

impl<T: Element> ImageWithMask<T> {
    /// Sets the class of pixels that the mask doesn't have, such as the corners of a rotated image or what a crop adds
    /// around a small one: 255 by default, which most losses ignore.
    #[must_use]
    pub fn outside(mut self, class: u8) -> Self {
        self.outside = class;
        self
    }
}

/// The image and the mask of a sample.
fn two_parts(sample: &RawSample) -> anyhow::Result<[RawSample; 2]> {
    match [sample.part(0), sample.part(1)] {
        [Some(image), Some(mask)] => Ok([image, mask]),
        _ => Err(too_few_parts(sample, 2)),
    }
}

impl<T: Element> Decode for ImageWithMask<T> {
    type Item = MaskedImage;
    type Collate = StackMaskedImages<T>;

    fn decode(&self, sample: RawSample) -> anyhow::Result<MaskedImage> {
        let [image, mask] = two_parts(&sample)?;
        drop(sample);
        let of_mask = number_and_name(&mask, 1);
        let header = self.folder.header_of(&mask).with_context(&of_mask)?;
        let prepared = self.folder.prepare(&image)?;
        if (prepared.height, prepared.width) != (header.height, header.width) {
            let turned = if prepared.is_turned() {
                ", which its EXIF orientation turned: see exif_orientation(false)"
            } else {
                ""
            };
            bail!(
                "the image has {} x {} pixels (height x width){turned}, and {} has {} x {}; wanted the same",
                prepared.height,
                prepared.width,
                of_mask(),
                header.height,
                header.width
            );
        }

        let classes = decode_mask(mask.bytes(), &header).with_context(&of_mask)?;
        let kind = BitmapKind::Mask { outside: self.outside };
        let classes = prepared.operations.iter().try_fold(classes, |mask, operation| operation.apply(mask, kind))?;
        let bitmap = prepared.decode(image.bytes())?;
        ensure!(
            (bitmap.height(), bitmap.width()) == (classes.height(), classes.width()),
            "the image became {} x {} pixels, and its mask {} x {}",
            bitmap.height(),
            bitmap.width(),
            classes.height(),
            classes.width()
        );
        Ok(MaskedImage { bitmap, mask: classes, name: image.name().to_owned() })
    }

    fn wants_images(&self) -> bool {
        true
    }

    fn collate(&self) -> StackMaskedImages<T> {
        StackMaskedImages(self.folder.stack.clone())
    }

    fn item_memory(&self) -> ItemMemory {
        ItemMemory::FromBytes
    }

    fn decode_memory(&self, sample: &RawSample) -> Option<DecodeMemory> {
        let [image, mask] = two_parts(sample).ok()?;
        let ImageMemory { item_bytes: image_bytes, peak_bytes: image_peak } = self.folder.memory(image.bytes())?;
        let header = self.folder.header_of(&mask).ok()?;
        let ImageMemory { item_bytes: mask_bytes, peak_bytes: mask_peak } = self.folder.mask_memory(&header)?;
        // The mask is finished before the image is decoded.
        let item = image_bytes.saturating_add(mask_bytes);
        let peak = mask_peak.max(image_peak.saturating_add(mask_bytes));
        Some(DecodeMemory { item, scratch: peak.saturating_sub(item), is_estimate: false })
    }
}

impl<T: Element> Collate<MaskedImage> for StackMaskedImages<T> {
    type Output = MaskedImages<T>;

    fn collate(&self, samples: Vec<MaskedImage>) -> anyhow::Result<MaskedImages<T>> {
        self.collate_with(samples, &CollateContext::default())
    }

    fn collate_with(&self, samples: Vec<MaskedImage>, context: &CollateContext) -> anyhow::Result<MaskedImages<T>> {
        let (mut images, mut masks) = (Vec::with_capacity(samples.len()), Vec::new());
        let mut mask_shape = [samples.len(), 0, 0];
        if let Some(MaskedImage { mask, .. }) = samples.first() {
            mask_shape = [samples.len(), mask.height() as usize, mask.width() as usize];
            masks.reserve_exact(samples.len().saturating_mul(mask.values().len()));
        }
        for MaskedImage { bitmap, mask, name } in samples {
            ensure!(
                (bitmap.height(), bitmap.width()) == (mask.height(), mask.width()),
                "the image {name} and its mask have different sizes"
            );
            masks.extend_from_slice(mask.values());
            recycle(mask.into_values());
            images.push(Image { bitmap, label: -1_i64, name });
        }
        // Refuses images of different sizes, and so masks of different sizes.
        let Images { pixels, shape, labels: _ } = self.0.collate_with(images, context)?;
        Ok(MaskedImages { pixels, shape, masks, mask_shape })
    }

    fn copied_bytes(&self, item_bytes: u64) -> u64 {
        <StackImages<T> as Collate<Image>>::copied_bytes(&self.0, item_bytes)
    }

    fn batch_bytes(&self, item_bytes: u64) -> u64 {
        <StackImages<T> as Collate<Image>>::batch_bytes(&self.0, item_bytes)
    }
}
