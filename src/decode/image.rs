//! Folders of images: PNG and JPEG to `f32` planes, and the label from the folder.

use anyhow::{Context, bail};
use fast_image_resize::images::{Image as Pixels, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::{ColorType, DynamicImage, ImageReader};

use super::Decode;
use super::header::ImageHeader;
use crate::collate::Collate;
use crate::split::RawSample;

/// Decodes images whose label is the folder they are in: `train/cat/1.png` of prefix `train/` is of class `cat`.
///
/// Labels are indices into [`Manifest::labels`](crate::Manifest::labels), the folders' names in byte order. Pixels are
/// `f32` in `0.0..=1.0`, three channels (RGB) or one, then normalised if asked for.
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
    max_pixels: u64,
    /// Mean and one over the standard deviation, by channel.
    normal: Vec<(f32, f32)>,
}

/// What Pillow opens by default (an error above; twice the size at which it warns): so that what others could prepare
/// with it decodes here, and a file of a few kilobytes that claims 65,535 x 65,535 pixels doesn't take 12 GiB.
const DEFAULT_MAX_PIXELS: u64 = 178_956_970;

impl Default for ImageFolder {
    fn default() -> Self {
        Self { size: None, grayscale: false, max_pixels: DEFAULT_MAX_PIXELS, normal: Vec::new() }
    }
}

/// What decoding one image takes of memory, beside the bytes of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
// The memory budget is about to ask for it.
#[allow(dead_code)]
pub(crate) struct ImageMemory {
    /// Bytes that the decoded [`Image`] holds.
    pub(crate) item_bytes: u64,
    /// Bytes that are held at once while it is decoded, converted and resized, the item's own included, at most.
    pub(crate) peak_bytes: u64,
}

impl ImageFolder {
    /// RGB at the size that each image has.
    pub fn new() -> Self {
        Self::default()
    }

    /// Refuses images of more than `pixels` pixels (width times height, as stored) before anything of them is decoded.
    ///
    /// The default is 178,956,970, as of Pillow. The memory budget of a loader holds whatever this is; this limit is
    /// for files whose size is a mistake, or an attack.
    #[must_use]
    pub fn max_pixels(mut self, pixels: u64) -> Self {
        self.max_pixels = pixels;
        self
    }

    /// What decoding the image in these bytes takes of memory, by its header; `None` for one that will be refused before
    /// anything is decoded.
    // The memory budget is about to ask for it.
    #[allow(dead_code)]
    pub(crate) fn memory(&self, bytes: &[u8]) -> Option<ImageMemory> {
        let header = self.header(bytes).ok()?;
        let channels = self.channels() as u64;
        let decoded = header.decoded_bytes();
        // The decoder's output is converted to eight bits and the channels wanted, then resized (by rows first, by
        // columns then), then spread to planes of f32.
        let converted = header.pixels() * channels;
        let (height, width) = self.size.unwrap_or((header.height, header.width));
        let (height, width) = (u64::from(height), u64::from(width));
        let resized =
            if self.size.is_some() { channels * (width * height + width * u64::from(header.height)) } else { 0 };
        let item_bytes = height * width * channels * 4;
        let peak_bytes = [
            decoded + header.scratch_bytes(),
            decoded + converted,
            converted + resized,
            if self.size.is_some() { channels * width * height } else { converted } + item_bytes,
        ];
        Some(ImageMemory { item_bytes, peak_bytes: peak_bytes.into_iter().max().unwrap_or_default() })
    }

    /// The header of an image that is small enough to be decoded.
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

    /// One channel of luminance instead of three of colour.
    #[must_use]
    pub fn grayscale(mut self) -> Self {
        self.grayscale = true;
        self
    }

    /// Maps each channel's value `v` to `(v - mean) / std`. As many values as there are channels; a decode fails
    /// otherwise.
    #[must_use]
    pub fn normalize(mut self, mean: &[f32], std: &[f32]) -> Self {
        // Lengths that differ are kept as they are, to be told of with an object's name by `decode`.
        let scale = std.iter().copied().chain(std::iter::repeat(f32::NAN));
        self.normal = mean.iter().copied().zip(scale.map(f32::recip)).collect();
        self.normal.extend(std.iter().skip(mean.len()).map(|_| (f32::NAN, f32::NAN)));
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
        if !self.normal.is_empty()
            && (self.normal.len() != channels || self.normal.iter().any(|(mean, scale)| !(mean * scale).is_finite()))
        {
            bail!("normalize() wants {channels} means and as many standard deviations, none of them 0");
        }
        let name = sample.name().to_owned();
        self.header(sample.bytes())?;
        let mut reader = ImageReader::new(std::io::Cursor::new(sample.bytes()));
        // `max_pixels` bounds what is decoded.
        reader.no_limits();
        let image =
            reader.with_guessed_format().context("its first bytes can't be read")?.decode().with_context(|| {
                let bytes = sample.bytes().len();
                format!("its {bytes} bytes are no whole PNG or JPEG image; upload it again, or leave it out")
            })?;
        drop(sample);
        let image = self.to_channels(image);
        let (source_height, source_width) = (image.height(), image.width());
        let (height, width) = self.size.unwrap_or((source_height, source_width));
        let bytes = if (height, width) == (source_height, source_width) {
            image.into_bytes()
        } else {
            self.resized(&image, height, width).with_context(|| {
                format!("it can't be resized from {source_height}x{source_width} to {height}x{width}")
            })?
        };
        let shape = [channels, height as usize, width as usize];
        Ok(Image { pixels: self.planes(&bytes, shape), shape, label: label.into(), name })
    }

    fn collate(&self) -> StackImages {
        StackImages
    }

    fn item_bytes(&self, size: u64) -> Option<u64> {
        let values = match self.size {
            Some((height, width)) => u64::from(height) * u64::from(width) * self.channels() as u64,
            // Of an image of unknown size: lossy formats hold about one bit a value.
            None => size.saturating_mul(8),
        };
        // Twice, since the images and the batch made of them are there at the same time.
        Some(values.saturating_mul(4 * 2))
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

    fn resized(&self, image: &DynamicImage, height: u32, width: u32) -> anyhow::Result<Vec<u8>> {
        let kind = if self.grayscale { PixelType::U8 } else { PixelType::U8x3 };
        let source = ImageRef::new(image.width(), image.height(), image.as_bytes(), kind)?;
        let mut target = Pixels::new(width, height, kind);
        let bilinear = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
        Resizer::new().resize(&source, &mut target, &bilinear)?;
        Ok(target.into_vec())
    }

    /// Interleaved bytes to planes of floats.
    fn planes(&self, bytes: &[u8], [channels, height, width]: [usize; 3]) -> Vec<f32> {
        let plane = height * width;
        let mut pixels = Vec::with_capacity(channels * plane);
        for channel in 0..channels {
            let (mean, scale) = self.normal.get(channel).copied().unwrap_or((0.0, 1.0));
            let (factor, offset) = (scale / 255.0, -mean * scale);
            pixels.extend(bytes.iter().skip(channel).step_by(channels).map(|&byte| f32::from(byte) * factor + offset));
        }
        pixels
    }
}

/// Images of one size, stacked, and their labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Images {
    /// Image after image, each plane after plane, row after row.
    pub pixels: Vec<f32>,
    /// Images, channels, height, width: NCHW.
    pub shape: [usize; 4],
    /// One for each image: index in [`Manifest::labels`](crate::Manifest::labels).
    pub labels: Vec<i64>,
}

/// Stacks images into one array.
#[derive(Clone, Copy, Debug, Default)]
pub struct StackImages;

impl Collate<Image> for StackImages {
    type Output = Images;

    fn collate(&self, samples: Vec<Image>) -> anyhow::Result<Images> {
        let [channels, height, width] = samples.first().map_or([0; 3], |first| first.shape);
        let mut pixels = Vec::with_capacity(samples.iter().map(|image| image.pixels.len()).sum());
        let mut labels = Vec::with_capacity(samples.len());
        for image in &samples {
            let [other_channels, other_height, other_width] = image.shape;
            anyhow::ensure!(
                image.shape == [channels, height, width],
                "images of two sizes don't stack: {} has {channels}x{height}x{width} (channels, height, width) and {} \
                 has {other_channels}x{other_height}x{other_width}; bring all to one size with .resize(height, width)",
                samples[0].name,
                image.name,
            );
            pixels.extend_from_slice(&image.pixels);
            labels.push(image.label);
        }
        Ok(Images { pixels, shape: [samples.len(), channels, height, width], labels })
    }
}
