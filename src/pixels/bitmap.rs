//! Decoded images in memory.

use std::fmt;

use anyhow::ensure;

/// A decoded image: values of eight bits, row after row, the channels of a pixel side by side (height, width,
/// channels).
///
/// ```
/// use dataflux::Bitmap;
///
/// let mut image = Bitmap::new(1, 2, 3, vec![255, 0, 0, 0, 0, 255])?;
/// image.values_mut().iter_mut().for_each(|value| *value = 255 - *value);
/// assert_eq!((image.height(), image.width(), image.channels()), (1, 2, 3));
/// assert_eq!(image.values(), [0, 255, 255, 255, 255, 0]);
/// # Ok::<_, anyhow::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Bitmap {
    height: u32,
    width: u32,
    channels: u8,
    values: Vec<u8>,
}

impl Bitmap {
    /// An image of these values: `height * width * channels` of them. One channel is grey, three are RGB, four are RGB
    /// and alpha.
    ///
    /// # Errors
    /// There is another number of values, no pixel, or another number of channels.
    pub fn new(height: u32, width: u32, channels: u8, values: Vec<u8>) -> anyhow::Result<Self> {
        ensure!(matches!(channels, 1 | 3 | 4), "an image has 1, 3 or 4 channels, and not {channels}");
        let count = u64::from(height) * u64::from(width) * u64::from(channels);
        ensure!(
            count > 0 && values.len() as u64 == count,
            "an image of {height} x {width} x {channels} (height x width x channels) has {count} values, and at least \
             one; got {}",
            values.len()
        );
        Ok(Self { height, width, channels, values })
    }

    /// Rows.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Pixels of a row.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Values of a pixel: 1 (grey), 3 (RGB) or 4 (RGB and alpha).
    pub fn channels(&self) -> u8 {
        self.channels
    }

    /// The values.
    pub fn values(&self) -> &[u8] {
        &self.values
    }

    /// The values, to be changed in place.
    pub fn values_mut(&mut self) -> &mut [u8] {
        &mut self.values
    }

    /// The values, without a copy.
    pub fn into_values(self) -> Vec<u8> {
        self.values
    }

    /// Values of a row.
    pub(crate) fn row_length(&self) -> usize {
        self.width as usize * usize::from(self.channels)
    }
}

impl fmt::Debug for Bitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { height, width, channels, .. } = self;
        write!(f, "Bitmap({height} x {width} x {channels})")
    }
}
