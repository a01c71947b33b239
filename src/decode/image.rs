//! Image folders: PNG and JPEG files to planes of `f32`, and labels from folders.

use anyhow::{Context, bail};
use fast_image_resize::images::TypedImage;
use fast_image_resize::pixels::{U8, U8x3};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};
use image::codecs::png::PngDecoder;
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, Limits};

use super::header::{ImageFormat, ImageHeader, encoded};
use super::{Decode, DecodeMemory, ItemMemory, jpeg};
use crate::collate::Collate;
use crate::read::RawSample;

/// Decodes images whose label is the first folder below the prefix: with the prefix `train/`, `train/cat/1.png` and
/// `train/cat/siamese/2.png` are of class `cat`.
///
/// Labels are indices into [`Manifest::labels`](crate::Manifest::labels), the folders' names in byte order. Another
/// data set may have other folders, and so other numbers: give it the classes of the training data with
/// [`classes_from`](crate::DatafluxDataset::classes_from). Objects that are hidden, or no images by their names, are
/// left out of the data set; see [`Filter::images`](crate::list::Filter::images). Pixels are `f32` in `0.0..=1.0`, in
/// three channels (RGB) or one, and normalised if requested.
///
/// Decodes PNG (all kinds; transparency is dropped) and JPEG (baseline and progressive; grey, colour and CMYK). A file
/// that is cut short, or whose pixels don't match their checksum, is an error and never a partly grey image. Rare kinds
/// of JPEG (arithmetic coding, 12 bits) and images of more than [`max_pixels`](Self::max_pixels) are errors, too.
/// Images of other formats, such as WebP, stay in the data set and are errors when they are decoded; exclude them with
/// [`Filter::exclude`](crate::list::Filter::exclude). The error says what the file is. A missing end marker, and bytes
/// after it, are accepted.
///
/// ```
/// use dataflux::ImageFolder;
///
/// let imagenet = ImageFolder::new().resize(224, 224).normalize(&[0.485, 0.456, 0.406], &[0.229, 0.224, 0.225]);
/// let digits = ImageFolder::new().grayscale();
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ImageFolder {
    size: Option<(u32, u32)>,
    grayscale: bool,
    exif_orientation: bool,
    max_pixels: u64,
    /// One for each channel; empty without normalization.
    normalization: Vec<ChannelNormalization>,
}

/// How the values of one channel are normalized: to `(value - mean) * scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct ChannelNormalization {
    mean: f32,
    /// The reciprocal of the standard deviation.
    scale: f32,
}

/// The limit above which Pillow refuses an image by default (twice the size at which it warns). So whatever was
/// prepared with Pillow decodes here, and a file of a few kilobytes that claims 65,535 x 65,535 pixels doesn't take 12
/// GiB.
const DEFAULT_MAX_PIXELS: u64 = 178_956_970;

impl Default for ImageFolder {
    fn default() -> Self {
        Self {
            size: None,
            grayscale: false,
            exif_orientation: true,
            max_pixels: DEFAULT_MAX_PIXELS,
            normalization: Vec::new(),
        }
    }
}

/// The memory that decoding one image takes, in addition to the bytes of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ImageMemory {
    /// Bytes that the decoded [`Image`] holds.
    pub(crate) item_bytes: u64,
    /// Bytes that are held at once at most while it is decoded, converted and resized, including the item.
    pub(crate) peak_bytes: u64,
}

impl ImageFolder {
    /// RGB images of their original sizes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Refuses images of more than `pixels` pixels (width times height, as stored) before any of them are decoded.
    ///
    /// The default is 178,956,970, as in Pillow. The loader keeps to its memory budget whatever the limit is; the limit
    /// is for files whose size is a mistake or an attack.
    #[must_use]
    pub fn max_pixels(mut self, pixels: u64) -> Self {
        self.max_pixels = pixels;
        self
    }

    /// Sets whether images are turned and mirrored according to their EXIF orientation, which cameras and phones write.
    /// Height and width are those after the turn. On by default. If off, pixels are as stored, as in torchvision's
    /// `ImageFolder`.
    #[must_use]
    pub fn exif_orientation(mut self, honour: bool) -> Self {
        self.exif_orientation = honour;
        self
    }

    /// The memory that decoding this file takes, by its header. `None` if the image will be refused before it is
    /// decoded.
    pub(crate) fn memory(&self, bytes: &[u8]) -> Option<ImageMemory> {
        let header = self.header(bytes).ok()?;
        let channels = self.channels() as u64;
        // The decoder's output is converted to eight bits and the requested channels, then resized (first within
        // columns, then within rows), then spread to planes of f32.
        let converted = header.pixels().saturating_mul(channels);
        let (height, width) = self.stored_size(&header, self.orientation(&header, bytes));
        let values = (u64::from(height) * u64::from(width)).saturating_mul(channels);
        let item_bytes = values.saturating_mul(4);
        let between_resizes = channels * u64::from(header.width) * u64::from(height);
        let resized = if self.size.is_some() { values.saturating_add(between_resizes) } else { 0 };
        let peak_bytes = [
            header.decoding_bytes(channels),
            converted.saturating_add(resized),
            if self.size.is_some() { values } else { converted }.saturating_add(item_bytes),
        ];
        Some(ImageMemory { item_bytes, peak_bytes: peak_bytes.into_iter().max().unwrap_or_default() })
    }

    /// The EXIF orientation, if it is to be applied.
    fn orientation(&self, header: &ImageHeader, bytes: &[u8]) -> Orientation {
        let exif = header.exif.clone().filter(|_| self.exif_orientation);
        exif.and_then(|range| Orientation::from_exif_chunk(bytes.get(range)?)).unwrap_or(Orientation::NoTransforms)
    }

    /// Height and width that the image is resized to before it is turned.
    fn stored_size(&self, header: &ImageHeader, orientation: Orientation) -> (u32, u32) {
        match self.size {
            Some((height, width)) if swaps_sides(orientation) => (width, height),
            Some(size) => size,
            None => (header.height, header.width),
        }
    }

    /// The header of an image that may be decoded.
    fn header(&self, bytes: &[u8]) -> anyhow::Result<ImageHeader> {
        let header = ImageHeader::read(bytes)?;
        if header.pixels() > self.max_pixels {
            bail!(
                "it has {} x {} = {} pixels (width x height), more than the {} that ImageFolder::max_pixels allows; raise \
                 that limit, scale the image down, or leave it out",
                header.width,
                header.height,
                header.pixels(),
                self.max_pixels
            );
        }
        Ok(header)
    }

    /// Resizes every image to `height` by `width` pixels, bilinear with antialiasing, whatever its aspect ratio.
    #[must_use]
    pub fn resize(mut self, height: u32, width: u32) -> Self {
        self.size = Some((height, width));
        self
    }

    /// Decodes to one channel of luminance instead of three of colour.
    #[must_use]
    pub fn grayscale(mut self) -> Self {
        self.grayscale = true;
        self
    }

    /// Maps each channel's value `v` to `(v - mean) / std`. There must be one mean and one deviation, not 0, for each
    /// channel; otherwise decoding fails. Two empty lists turn it off.
    #[must_use]
    pub fn normalize(mut self, mean: &[f32], std: &[f32]) -> Self {
        // Lengths that differ are kept, so that `decode` can report them with an object's name.
        let channels = mean.len().max(std.len());
        let value = |values: &[f32], channel: usize| values.get(channel).copied().unwrap_or(f32::NAN);
        let channel = |channel| ChannelNormalization { mean: value(mean, channel), scale: value(std, channel).recip() };
        self.normalization = (0..channels).map(channel).collect();
        self
    }

    fn channels(&self) -> usize {
        if self.grayscale { 1 } else { 3 }
    }
}

/// One image and its label.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// `channels * height * width` values: plane after plane, row after row.
    pub pixels: Vec<f32>,
    /// Channels, height, width.
    pub shape: [usize; 3],
    /// Index in [`Manifest::labels`](crate::Manifest::labels).
    pub label: i64,
    /// The object's whole name.
    pub name: String,
}

impl Decode for ImageFolder {
    type Item = Image;
    type Collate = StackImages;

    fn decode(&self, sample: RawSample) -> anyhow::Result<Image> {
        let Some(label) = sample.entry().label else {
            bail!(
                "it is in no folder below {}, so it has no label; move it into the folder of its class, or decode with \
                 a closure",
                sample.manifest().prefix()
            );
        };
        let channels = self.channels();
        let is_usable = |channel: &ChannelNormalization| (channel.mean * channel.scale).is_finite();
        if !self.normalization.is_empty()
            && (self.normalization.len() != channels || !self.normalization.iter().all(is_usable))
        {
            bail!("normalize() wants {channels} means and as many standard deviations, none of the deviations 0");
        }
        if let Some((height, width)) = self.size.filter(|(height, width)| *height == 0 || *width == 0) {
            bail!("resize({height}, {width}) leaves no pixel; height and width are at least 1");
        }
        let name = sample.name().to_owned();
        let encoding = sample.entry().encoding;
        if !encoding.is_identity() && !ImageHeader::has_known_signature(sample.bytes()) {
            bail!("{}", encoded(encoding.as_str()));
        }
        let header = self.header(sample.bytes())?;
        let orientation = self.orientation(&header, sample.bytes());
        let image = match &header.format {
            ImageFormat::Jpeg(jpeg) => jpeg::decode(sample.bytes(), jpeg)?,
            ImageFormat::Png { missing_end: None } => decode_png(sample.bytes(), &header)?,
            // The decoder requires the end chunk, although no pixel is missing without it.
            ImageFormat::Png { missing_end: Some(at) } => {
                decode_png(&[&sample.bytes()[..*at], PNG_END].concat(), &header)?
            }
        };

        drop(sample);
        let image = self.to_channels(image);
        let (source_height, source_width) = (image.height(), image.width());
        let (height, width) = self.stored_size(&header, orientation);
        let mut bytes = image.into_bytes();
        if (height, width) != (source_height, source_width) {
            let resize = if self.grayscale { resize::<U8> } else { resize::<U8x3> };
            bytes = resize(&mut bytes, [source_height, source_width], [height, width]).with_context(|| {
                format!("it can't be resized from {source_height}x{source_width} to {height}x{width}")
            })?;
        }
        let stored = [channels, height as usize, width as usize];
        let pixels = self.planes(&bytes, stored, orientation);
        let [_, height, width] = stored;
        let shape = if swaps_sides(orientation) { [channels, width, height] } else { stored };
        Ok(Image { pixels, shape, label: label.into(), name })
    }

    fn wants_images(&self) -> bool {
        true
    }

    fn collate(&self) -> StackImages {
        StackImages
    }

    fn item_memory(&self) -> ItemMemory {
        ItemMemory::FromBytes
    }

    fn decode_memory(&self, sample: &RawSample) -> Option<DecodeMemory> {
        let ImageMemory { item_bytes, peak_bytes } = self.memory(sample.bytes())?;
        Some(DecodeMemory { item: item_bytes, scratch: peak_bytes.saturating_sub(item_bytes) })
    }
}

impl ImageFolder {
    fn to_channels(&self, image: DynamicImage) -> DynamicImage {
        match (self.grayscale, image.color()) {
            (true, ColorType::L8) | (false, ColorType::Rgb8) => image,
            (true, _) => image.into_luma8().into(),
            (false, _) => image.into_rgb8().into(),
        }
    }

    /// Converts interleaved bytes to planes of floats, normalises these, and applies the orientation.
    fn planes(&self, bytes: &[u8], [channels, height, width]: [usize; 3], orientation: Orientation) -> Vec<f32> {
        let plane = height * width;
        let mut pixels = Vec::with_capacity(channels * plane);
        for channel in 0..channels {
            let identity = ChannelNormalization { mean: 0.0, scale: 1.0 };
            let ChannelNormalization { mean, scale } = self.normalization.get(channel).copied().unwrap_or(identity);
            let (factor, offset) = (scale / 255.0, -mean * scale);
            let value = |&byte: &u8| f32::from(byte) * factor + offset;
            if orientation == Orientation::NoTransforms {
                pixels.extend(bytes.iter().skip(channel).step_by(channels).map(value));
                continue;
            }
            let (rows, columns) = if swaps_sides(orientation) { (width, height) } else { (height, width) };
            for row in 0..rows {
                pixels.extend((0..columns).map(|column| {
                    let (y, x) = stored_position(orientation, row, column, height, width);
                    value(&bytes[(y * width + x) * channels + channel])
                }));
            }
        }
        pixels
    }
}

/// Resizes an image of pixels `P` from and to a height and width. All of the resizer is compiled into this crate, once
/// for each type of pixel and of image that is named here: with pixels of any of its 13 types, and a source of another
/// type than the target, it would be half of this crate's code.
fn resize<P: PixelTrait>(bytes: &mut [u8], [height, width]: [u32; 2], target: [u32; 2]) -> anyhow::Result<Vec<u8>> {
    let source = TypedImage::<P>::from_buffer(width, height, bytes)?;
    let [height, width] = target;
    let mut resized = vec![0; height as usize * width as usize * P::size()];
    let mut target = TypedImage::<P>::from_buffer(width, height, &mut resized)?;
    let bilinear = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    Resizer::new().resize_typed(&source, &mut target, &bilinear)?;
    Ok(resized)
}

/// Whether the orientation swaps rows and columns.
fn swaps_sides(orientation: Orientation) -> bool {
    matches!(
        orientation,
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
    )
}

/// Row and column in the stored image of `height` by `width` pixels for a row and column of the turned image.
fn stored_position(orientation: Orientation, row: usize, column: usize, height: usize, width: usize) -> (usize, usize) {
    match orientation {
        Orientation::NoTransforms => (row, column),
        Orientation::FlipHorizontal => (row, width - 1 - column),
        Orientation::Rotate180 => (height - 1 - row, width - 1 - column),
        Orientation::FlipVertical => (height - 1 - row, column),
        Orientation::Rotate90FlipH => (column, row),
        Orientation::Rotate90 => (height - 1 - column, row),
        Orientation::Rotate270FlipH => (height - 1 - column, width - 1 - row),
        Orientation::Rotate270 => (column, width - 1 - row),
    }
}

/// The chunk that ends a PNG file.
const PNG_END: &[u8] = b"\0\0\0\0IEND\xae\x42\x60\x82";

fn decode_png(bytes: &[u8], header: &ImageHeader) -> anyhow::Result<DynamicImage> {
    // The limit on what the decoder holds of chunks that aren't pixels, above all of a compressed colour profile: a
    // larger profile is skipped. The file's chunks and a few rows always fit.
    const PROFILE_BYTES: u64 = 64 << 10;
    let row = u64::from(header.width) * 8;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(PROFILE_BYTES + 2 * bytes.len() as u64 + 4 * row);
    PngDecoder::with_limits(std::io::Cursor::new(bytes), limits).and_then(DynamicImage::from_decoder).with_context(
        || {
            let (width, height, count) = (header.width, header.height, bytes.len());
            format!(
                "its {count} bytes are no whole PNG image of {width} x {height} pixels (width x height): it is cut \
                 short or damaged; upload it again, or leave it out"
            )
        },
    )
}

/// Stacked images of one size, and their labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Images {
    /// Image after image, each plane after plane, row after row.
    pub pixels: Vec<f32>,
    /// Number of images, channels, height, width: NCHW.
    pub shape: [usize; 4],
    /// One for each image: index in [`Manifest::labels`](crate::Manifest::labels).
    pub labels: Vec<i64>,
}

/// A [`Collate`] that stacks images into one array.
#[derive(Clone, Copy, Debug, Default)]
pub struct StackImages;

/// From this size on, an image is returned to the system as soon as it is copied into the batch. The allocator keeps
/// smaller ones for later images: this is the largest value of glibc's threshold for separate maps.
const RETURNED_BYTES: u64 = 32 << 20;

impl Collate<Image> for StackImages {
    type Output = Images;

    fn collate(&self, samples: Vec<Image>) -> anyhow::Result<Images> {
        let mut labels = Vec::with_capacity(samples.len());
        labels.extend(samples.iter().map(|image| image.label));
        let values = samples.iter().map(|image| image.pixels.len()).sum::<usize>();
        let mut images = samples.into_iter();
        let Some(Image { mut pixels, shape: [channels, height, width], name, .. }) = images.next() else {
            return Ok(Images { pixels: Vec::new(), shape: [0; 4], labels });
        };
        // The first image becomes the batch, and each other image is dropped once it is copied.
        pixels.reserve_exact(values - pixels.len());
        for image in images {
            let [other_channels, other_height, other_width] = image.shape;
            anyhow::ensure!(
                image.shape == [channels, height, width],
                "images of two sizes don't stack: {name} has {channels}x{height}x{width} (channels, height, width) and {} \
                 has {other_channels}x{other_height}x{other_width}; bring all to one size with .resize(height, width)",
                image.name,
            );
            pixels.extend_from_slice(&image.pixels);
        }
        Ok(Images { pixels, shape: [labels.len(), channels, height, width], labels })
    }

    fn copied_bytes(&self, item_bytes: u64) -> u64 {
        // If there are two images or more, the one that is being copied exists twice.
        if item_bytes < RETURNED_BYTES { item_bytes } else { item_bytes.div_ceil(2) }
    }
}
