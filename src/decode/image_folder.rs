//! Image folders: image files to bitmaps, and labels from folders.

use std::fmt;
use std::sync::Arc;

use anyhow::bail;
use image::metadata::Orientation;

use super::image::Image;
use super::stack::StackImages;
use super::target::{TargetSource, class_number};
use super::{Decode, DecodeMemory, ItemMemory};
use crate::pixels::header::{ImageHeader, encoded};
use crate::pixels::{
    Bitmap, Channels, DecodedImage, Element, Interpolation, JpegDecoding, Layout, PartSize, Region, WantedPart, decode,
    mask_bytes, oriented, resize, stored_region, swaps_sides,
};
use crate::read::RawSample;
use crate::transform::{BitmapKind, Operation, SampleRng, Transforms};

/// Decodes images whose label is the first folder below the prefix: with the prefix `train/`, `train/cat/1.png` and
/// `train/cat/siamese/2.png` are of class `cat`.
///
/// Labels are indices into [`Manifest::labels`](crate::Manifest::labels), the folders' names in byte order. Another
/// data set may have other folders, and so other numbers: give it the classes of the training data with
/// [`classes_from`](crate::DatafluxDataset::classes_from). Objects that are hidden, or no images by their names, are
/// left out of the data set; see [`Filter::images`](crate::list::Filter::images). By default a batch holds `f32` from 0
/// to 1 in three channels (RGB); see [`elements`](Self::elements), [`channels`](Self::channels) and
/// [`normalize`](Self::normalize).
///
/// # Formats
/// | format | what decodes | what is an error |
/// |---|---|---|
/// | JPEG | baseline and progressive; grey, colour, CMYK and YCCK | arithmetic coding, 12 bits, lossless |
/// | PNG | all kinds | |
/// | WebP | lossy, lossless, with alpha; the first frame of an animation | |
/// | GIF | the first frame | |
/// | BMP | 1 to 32 bits, runs of 4 and 8 bits, masks | OS/2 2 headers; a JPEG or PNG inside |
/// | TIFF | the first page: grey, palettes, RGB and CMYK of 1 to 16 bits, with alpha; strips and tiles; uncompressed, PackBits, LZW, Deflate, JPEG, fax group 4 | floating-point and signed numbers, many bands, other compressions, BigTIFF |
///
/// The suffix of a name decides only whether the object is in the data set; what a file is decided by its first bytes.
/// Values of 16 bits become the nearest ones of 8. Transparency is dropped without [`Channels::Rgba`].
///
/// A file that is cut short, or whose pixels don't match their checksum, is an error and never a partly grey image; BMP
/// and TIFF have no checksums, so that damage inside of a file of full length stays unnoticed there. Images of more
/// than [`max_pixels`](Self::max_pixels) are errors, too. Images of other formats, such as AVIF and HEIC, stay in the
/// data set and are errors when they are decoded; exclude them with [`Filter::exclude`](crate::list::Filter::exclude).
/// The error says what the file is. A missing end marker, and bytes after it, are accepted. With
/// [`jpeg_decoding`](Self::jpeg_decoding) only what a crop needs of a JPEG may be decoded; then less damage is noticed.
///
/// ```
/// use dataflux::ImageFolder;
///
/// let imagenet = ImageFolder::new().resize(224, 224).normalize(&[0.485, 0.456, 0.406], &[0.229, 0.224, 0.225]);
/// let digits = ImageFolder::new().grayscale();
/// ```
pub struct ImageFolder<T = f32, L = i64> {
    targets: TargetSource<L>,
    channels: Channels,
    transforms: Transforms,
    exif_orientation: bool,
    jpeg_decoding: JpegDecoding,
    max_pixels: u64,
    pub(super) stack: StackImages<T>,
}

/// The limit above which Pillow refuses an image by default (twice the size at which it warns). So whatever was
/// prepared with Pillow decodes here, and a file of a few kilobytes that claims 65,535 x 65,535 pixels doesn't take 12
/// GiB.
const DEFAULT_MAX_PIXELS: u64 = 178_956_970;

// Derived impls would ask the same of the targets' type `L`, of which the decoder holds no value.
impl<T, L> Clone for ImageFolder<T, L>
where
    StackImages<T>: Clone,
{
    fn clone(&self) -> Self {
        let Self { targets, channels, transforms, exif_orientation, jpeg_decoding, max_pixels, stack } = self;
        Self {
            targets: targets.clone(),
            channels: *channels,
            transforms: transforms.clone(),
            exif_orientation: *exif_orientation,
            jpeg_decoding: *jpeg_decoding,
            max_pixels: *max_pixels,
            stack: stack.clone(),
        }
    }
}

impl<T, L> PartialEq for ImageFolder<T, L>
where
    StackImages<T>: PartialEq,
{
    /// Functions of [targets](Self::targets) are equal if one is a clone of the other.
    fn eq(&self, other: &Self) -> bool {
        let Self { targets, channels, transforms, exif_orientation, jpeg_decoding, max_pixels, stack } = self;
        *targets == other.targets
            && *channels == other.channels
            && *transforms == other.transforms
            && *exif_orientation == other.exif_orientation
            && *jpeg_decoding == other.jpeg_decoding
            && *max_pixels == other.max_pixels
            && *stack == other.stack
    }
}

impl<T, L> fmt::Debug for ImageFolder<T, L>
where
    StackImages<T>: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { targets, channels, transforms, exif_orientation, jpeg_decoding, max_pixels, stack } = self;
        f.debug_struct("ImageFolder")
            .field("targets", targets)
            .field("channels", channels)
            .field("transforms", transforms)
            .field("exif_orientation", exif_orientation)
            .field("jpeg_decoding", jpeg_decoding)
            .field("max_pixels", max_pixels)
            .field("stack", stack)
            .finish()
    }
}

impl Default for ImageFolder {
    fn default() -> Self {
        Self {
            targets: TargetSource::Classes(class_number),
            channels: Channels::default(),
            transforms: Transforms::new(),
            exif_orientation: true,
            jpeg_decoding: JpegDecoding::default(),
            max_pixels: DEFAULT_MAX_PIXELS,
            stack: StackImages::default(),
        }
    }
}

/// The memory that decoding one image takes, in addition to the bytes of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ImageMemory {
    /// Bytes that the decoded [`Image`] holds.
    pub(crate) item_bytes: u64,
    /// Bytes that are held at once at most while it is decoded, converted and transformed, including the item.
    pub(crate) peak_bytes: u64,
}

impl ImageFolder {
    /// RGB images of their original sizes, in batches of `f32`.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<T: Element, L> ImageFolder<T, L> {
    /// Gives each image the target that `target` returns for its sample, in place of the number of its class: a number
    /// for regression, a `Vec` of numbers for several, a text, or a type of yours. [`Images::labels`](crate::Images)
    /// then holds these.
    ///
    /// Targets that are numbers convert to arrays and tensors of shape (images), and `Vec`s of them to those of shape
    /// (images, numbers); see [`Target`](crate::Target). An error of `target` is one of the sample. The function runs
    /// on the decode threads, before the image is decoded. The memory budget doesn't count what it returns.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use dataflux::store::{Client, MemoryStore};
    /// use anyhow::Context;
    /// use dataflux::{DataLoader, DatafluxDataset, ImageFolder, RawSample};
    /// # let store = MemoryStore::new();
    /// # let mut png = Vec::new();
    /// # image::GrayImage::new(8, 8).write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
    /// # [31, 54].iter().for_each(|age| _ = store.insert("my-bucket", &format!("faces/{age}_1.png"), png.clone()));
    /// # let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/faces/")?;
    ///
    /// // The age of a face is in its name: faces/31_1.png
    /// let age = |sample: &RawSample| {
    ///     let file = sample.name().rsplit('/').next().unwrap_or_default();
    ///     let (age, _) = file.split_once('_').context("its name has no '_' behind an age")?;
    ///     Ok(age.parse::<f32>()?)
    /// };
    /// let dataset = dataset.decode(ImageFolder::new().targets(age).resize(64, 64));
    /// for batch in DataLoader::builder(dataset).batch_size(2).build()?.epoch(0)? {
    ///     let (images, ages) = batch?.into_ndarray()?; // or to_candle, to_tch
    ///     assert_eq!((images.shape(), ages.to_vec()), (&[2, 3, 64, 64][..], vec![31.0, 54.0]));
    /// }
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    #[must_use]
    pub fn targets<M, F>(self, target: F) -> ImageFolder<T, M>
    where
        F: Fn(&RawSample) -> anyhow::Result<M> + Send + Sync + 'static,
    {
        let Self { targets: _, channels, transforms, exif_orientation, jpeg_decoding, max_pixels, stack } = self;
        let targets = TargetSource::Given(Arc::new(target));
        ImageFolder { targets, channels, transforms, exif_orientation, jpeg_decoding, max_pixels, stack }
    }

    /// Decodes images in no folder, too: the label of each image is -1. This is for samples whose labels are elsewhere,
    /// for example in [another part](crate::DatafluxDataset::parts). The same as [`targets`](Self::targets) with this
    /// number.
    #[must_use]
    pub fn without_labels(self) -> ImageFolder<T> {
        self.targets(|_| Ok(-1))
    }

    /// Refuses images of more than `pixels` pixels (width times height, as stored) before any of them are decoded.
    /// Tiles of a TIFF image count whole where they reach over its edges, because they are decoded whole.
    ///
    /// The default is 178,956,970, as in Pillow. The loader keeps to its memory budget whatever the limit is; the limit
    /// is for files whose size is a mistake or an attack.
    #[must_use]
    pub fn max_pixels(mut self, pixels: u64) -> Self {
        self.max_pixels = pixels;
        self
    }

    /// Sets whether images are turned and mirrored according to their EXIF orientation, which cameras and phones write
    /// into JPEG, PNG, WebP and TIFF files. Height and width are those after the turn. On by default. If off, pixels
    /// are as stored, as in torchvision's `ImageFolder`.
    #[must_use]
    pub fn exif_orientation(mut self, honour: bool) -> Self {
        self.exif_orientation = honour;
        self
    }

    /// Sets how JPEG files are decoded: by default in Rust, whole. With the feature `turbojpeg`, libjpeg-turbo decodes
    /// them in less time, and of a crop only the part that it needs: see [`JpegDecoding`] for what that changes.
    #[must_use]
    pub fn jpeg_decoding(mut self, decoding: JpegDecoding) -> Self {
        self.jpeg_decoding = decoding;
        self
    }

    /// Resizes every image to `height` by `width` pixels, bilinear with antialiasing, whatever its aspect ratio. The
    /// same as [`transform`](Self::transform) with this step.
    #[must_use]
    pub fn resize(mut self, height: u32, width: u32) -> Self {
        self.transforms = self.transforms.resize(height, width);
        self
    }

    /// Appends steps that change every image once it is decoded. What is random about them is a function of
    /// [`RawSample::rng_seed`].
    #[must_use]
    pub fn transform(mut self, transforms: Transforms) -> Self {
        self.transforms = self.transforms.then(transforms);
        self
    }

    /// Sets the channels that images are decoded to.
    #[must_use]
    pub fn channels(mut self, channels: Channels) -> Self {
        self.channels = channels;
        self
    }

    /// Decodes to one channel of luminance instead of three of colour.
    #[must_use]
    pub fn grayscale(self) -> Self {
        self.channels(Channels::Gray)
    }

    /// Maps each channel's value `v` in a batch to `(v - mean) / std`. There must be one mean and one deviation, not 0,
    /// for each channel; otherwise decoding fails. Two empty lists turn it off. The constants of ImageNet are
    /// [`IMAGENET_MEAN`](crate::IMAGENET_MEAN) and [`IMAGENET_STD`](crate::IMAGENET_STD).
    #[must_use]
    pub fn normalize(mut self, mean: &[f32], std: &[f32]) -> Self {
        self.stack = self.stack.normalize(mean, std);
        self
    }

    /// Sets the order of the numbers of a batch.
    #[must_use]
    pub fn layout(mut self, layout: Layout) -> Self {
        self.stack = self.stack.layout(layout);
        self
    }

    /// Makes batches of another type of numbers, for example `elements::<u8>()`, which holds values of 0 to 255 in a
    /// quarter of the memory.
    #[must_use]
    pub fn elements<U: Element>(self) -> ImageFolder<U, L> {
        let Self { targets, channels, transforms, exif_orientation, jpeg_decoding, max_pixels, stack } = self;
        let stack = stack.elements();
        ImageFolder { targets, channels, transforms, exif_orientation, jpeg_decoding, max_pixels, stack }
    }

    /// The memory that decoding this file takes, by its header. `None` if the image will be refused before it is
    /// decoded.
    pub(crate) fn memory(&self, bytes: &[u8]) -> Option<ImageMemory> {
        let header = self.header(bytes).ok()?;
        let channels = u64::from(self.channels.count());
        let orientation = self.orientation(&header, bytes);
        let (height, width) = seen_size(&header, orientation);
        let (rows, columns) = self.transforms.output_size(height, width)?;
        let item_bytes = (u64::from(rows) * u64::from(columns)).saturating_mul(channels);
        let peak_bytes = header.decoding_bytes(channels).max(self.transforms.peak_bytes(height, width, channels)?);
        // A whole image may have to be turned, which takes a copy.
        let is_turned = orientation != Orientation::NoTransforms;
        let turned_bytes = if is_turned { header.pixels().saturating_mul(2 * channels) } else { 0 };
        Some(ImageMemory { item_bytes, peak_bytes: peak_bytes.max(turned_bytes).max(2 * item_bytes) })
    }

    /// The EXIF orientation, if it is to be applied.
    fn orientation(&self, header: &ImageHeader, bytes: &[u8]) -> Orientation {
        let exif = header.exif.clone().filter(|_| self.exif_orientation);
        exif.and_then(|range| Orientation::from_exif_chunk(bytes.get(range)?)).unwrap_or(Orientation::NoTransforms)
    }

    /// Reads the header of an image, and draws the operations that change it.
    ///
    /// # Errors
    /// The image can't be decoded or changed, as far as its header says.
    pub(super) fn prepare(&self, sample: &RawSample) -> anyhow::Result<PreparedImage> {
        self.stack.normalization.check::<T>(self.channels.count().into())?;
        let header = self.header_of(sample)?;
        let orientation = self.orientation(&header, sample.bytes());
        let (height, width) = seen_size(&header, orientation);
        let operations = self.transforms.draw(height, width, &mut SampleRng::new(sample.rng_seed()))?;
        let (channels, jpeg_decoding) = (self.channels, self.jpeg_decoding);
        Ok(PreparedImage { header, channels, jpeg_decoding, orientation, height, width, operations })
    }

    /// The header of a sample's image that may be decoded.
    pub(super) fn header_of(&self, sample: &RawSample) -> anyhow::Result<ImageHeader> {
        let encoding = sample.entry().encoding;
        if !encoding.is_identity() && !ImageHeader::has_known_signature(sample.bytes()) {
            bail!("{}", encoded(encoding.as_str()));
        }
        self.header(sample.bytes())
    }

    /// Bytes that a mask of this size takes once it is transformed, and those that are held at once at most meanwhile.
    /// `None` if it will be refused.
    pub(super) fn mask_memory(&self, header: &ImageHeader) -> Option<ImageMemory> {
        let (rows, columns) = self.transforms.output_size(header.height, header.width)?;
        let item_bytes = u64::from(rows) * u64::from(columns);
        let peak_bytes = mask_bytes(header).max(self.transforms.peak_bytes(header.height, header.width, 1)?);
        Some(ImageMemory { item_bytes, peak_bytes })
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
        if header.coded_pixels() > self.max_pixels {
            bail!(
                "it has {} x {} pixels (width x height) in tiles of {} pixels together, more than the {} that \
                 ImageFolder::max_pixels allows; raise that limit, save the image with smaller tiles, or leave it out",
                header.width,
                header.height,
                header.coded_pixels(),
                self.max_pixels
            );
        }
        Ok(header)
    }
}

/// An image whose header was read, and what is to be done with its pixels.
pub(super) struct PreparedImage {
    header: ImageHeader,
    channels: Channels,
    jpeg_decoding: JpegDecoding,
    orientation: Orientation,
    /// Rows of the image as it is to be seen.
    pub(super) height: u32,
    /// Columns of the image as it is to be seen.
    pub(super) width: u32,
    /// What changes the image.
    pub(super) operations: Vec<Operation>,
}

impl PreparedImage {
    /// Decodes and changes the image.
    pub(super) fn decode(&self, bytes: &[u8]) -> anyhow::Result<Bitmap> {
        self.apply(self.decode_stored(bytes)?)
    }

    /// Decodes as much of the image as the first operation reads, or more.
    fn decode_stored(&self, bytes: &[u8]) -> anyhow::Result<DecodedImage> {
        decode(bytes, &self.header, self.channels, self.wanted(), self.jpeg_decoding)
    }

    /// The part of the stored image that the first operation reads.
    fn wanted(&self) -> WantedPart {
        let whole = WantedPart { region: Region::whole(self.header.height, self.header.width), target: None };
        let Some(first) = self.operations.first() else { return whole };
        let Some(read) = first.region_read(self.height, self.width) else { return whole };
        let target = self.resize_before_turn().map(|resize| PartSize { height: resize.height, width: resize.width });
        WantedPart { region: self.stored_region(read), target }
    }

    fn stored_region(&self, seen: Region) -> Region {
        stored_region(seen, self.orientation, self.header.height, self.header.width)
    }

    /// The first operation on the stored axes, if it makes the image smaller: it then runs before the turn, which has
    /// fewer pixels to move. If the turn swaps the sides, values may differ by rounding from those of a resize after
    /// it. The nearest pixel of a mirrored image is another one, so that is always found after the turn.
    fn resize_before_turn(&self) -> Option<StoredResize> {
        let Some(&Operation::CropAndResize { region, height, width, interpolation }) = self.operations.first() else {
            return None;
        };
        let is_smaller = u64::from(height) * u64::from(width) <= u64::from(region.height) * u64::from(region.width);
        if interpolation == Interpolation::Nearest || !is_smaller {
            return None;
        }
        let (height, width) = if swaps_sides(self.orientation) { (width, height) } else { (height, width) };
        Some(StoredResize { region: self.stored_region(region), height, width, interpolation })
    }

    /// Applies the operations to the decoded image, and turns it by its EXIF orientation.
    fn apply(&self, DecodedImage { bitmap, part }: DecodedImage) -> anyhow::Result<Bitmap> {
        let run = |operations: &[Operation], image: Bitmap| {
            operations.iter().try_fold(image, |image, operation| operation.apply(image, BitmapKind::Image))
        };
        let turned = |image: Bitmap| oriented(image, self.orientation);
        if let Some(StoredResize { region, height, width, interpolation }) = self.resize_before_turn() {
            let resized = resize(bitmap, part.locate(region), height, width, interpolation)?;
            return run(&self.operations[1..], turned(resized));
        }
        let is_whole = part.is_whole(self.header.height, self.header.width);
        let (Some((first, rest)), false) = (self.operations.split_first(), is_whole) else {
            return run(&self.operations, turned(bitmap));
        };
        let Some(read) = first.region_read(self.height, self.width) else {
            bail!("a part of the image was decoded, and all of it is needed");
        };
        let region = part.locate(self.stored_region(read));
        let (rows, columns) =
            if swaps_sides(self.orientation) { (read.width, read.height) } else { (read.height, read.width) };
        let cropped = resize(bitmap, region, rows, columns, Interpolation::Nearest)?;
        let changed = first.clone().on_region(read).apply(turned(cropped), BitmapKind::Image)?;
        run(rest, changed)
    }

    /// Whether the image is turned or mirrored by its EXIF orientation.
    pub(super) fn is_turned(&self) -> bool {
        self.orientation != Orientation::NoTransforms
    }
}

/// The first operation, on the axes on which the image is stored.
struct StoredResize {
    region: Region,
    height: u32,
    width: u32,
    interpolation: Interpolation,
}

/// Height and width of an image as it is to be seen.
fn seen_size(header: &ImageHeader, orientation: Orientation) -> (u32, u32) {
    if swaps_sides(orientation) { (header.width, header.height) } else { (header.height, header.width) }
}

impl<T: Element, L: Send + 'static> Decode for ImageFolder<T, L> {
    type Item = Image<L>;
    type Collate = StackImages<T>;

    fn decode(&self, sample: RawSample) -> anyhow::Result<Image<L>> {
        let (label, name) = (self.targets.of(&sample)?, sample.name().to_owned());
        let prepared = self.prepare(&sample)?;
        let stored = prepared.decode_stored(sample.bytes())?;

        drop(sample);
        let bitmap = prepared.apply(stored)?;
        Ok(Image { bitmap, label, name })
    }

    fn wants_images(&self) -> bool {
        true
    }

    fn wants_labels(&self) -> bool {
        matches!(self.targets, TargetSource::Classes(_))
    }

    fn collate(&self) -> StackImages<T> {
        self.stack.clone()
    }

    fn item_memory(&self) -> ItemMemory {
        ItemMemory::FromBytes
    }

    fn decode_memory(&self, sample: &RawSample) -> Option<DecodeMemory> {
        let ImageMemory { item_bytes, peak_bytes } = self.memory(sample.bytes())?;
        let scratch = peak_bytes.saturating_sub(item_bytes);
        Some(DecodeMemory { item: item_bytes, scratch, is_estimate: false })
    }
}
