//! Which compression an object has.

use anyhow::bail;

use super::output::{BoundedOutput, first_bytes};
use super::{deflate, zstd};
use crate::store::ContentEncoding;

/// How an object is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// gzip, of one member or several.
    Gzip,
    /// zlib, which HTTP calls `deflate`.
    Zlib,
    /// Zstandard, of one frame or several, without a dictionary.
    Zstd,
    /// bzip2, of one stream or several. Decompressed with the feature `bzip2`.
    Bzip2,
    /// xz, of one stream or several. Decompressed with the feature `xz`.
    Xz,
    /// Brotli. Decompressed with the feature `brotli`.
    Brotli,
}

impl Compression {
    /// The compression of an object with this `Content-Encoding` and name; `None` if it has none. Its encoding decides,
    /// and without one the suffix of its name in lower case.
    ///
    /// # Errors
    /// The `Content-Encoding` is unknown.
    pub fn of(encoding: ContentEncoding, name: &str) -> anyhow::Result<Option<Self>> {
        Ok(Some(match encoding {
            ContentEncoding::Identity => {
                let suffix = name.rsplit_once('.').map_or("", |(_, suffix)| suffix);
                return Ok(Self::of_suffix(suffix));
            }
            ContentEncoding::Gzip => Self::Gzip,
            ContentEncoding::Deflate => Self::Zlib,
            ContentEncoding::Zstd => Self::Zstd,
            ContentEncoding::Brotli => Self::Brotli,
            ContentEncoding::Other => bail!(
                "its Content-Encoding is none of gzip, deflate, zstd and br, or several; decompress it with a decoder \
                 of your own, or upload it with another"
            ),
        }))
    }

    /// The compression that a suffix such as `gz` stands for, without its dot.
    pub fn of_suffix(suffix: &str) -> Option<Self> {
        Some(match suffix {
            "gz" => Self::Gzip,
            "zst" => Self::Zstd,
            "bz2" => Self::Bzip2,
            "xz" => Self::Xz,
            "br" => Self::Brotli,
            _ => return None,
        })
    }

    /// The name of the compression, such as `gzip`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zlib => "zlib",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Brotli => "brotli",
        }
    }

    /// The bytes that every file of this compression begins with. zlib has a checked header instead, and Brotli
    /// nothing.
    fn signature(self) -> &'static [u8] {
        match self {
            Self::Gzip => deflate::GZIP_SIGNATURE,
            Self::Zstd => zstd::SIGNATURE,
            Self::Bzip2 => b"BZh",
            Self::Xz => b"\xfd7zXZ\0",
            Self::Zlib | Self::Brotli => b"",
        }
    }

    /// Decompresses a whole object.
    ///
    /// Memory is bounded by `limit` and what the decompressor needs, which is 128 MiB at most, whatever the bytes
    /// claim.
    ///
    /// # Errors
    /// The bytes don't begin as this compression does, are cut short or damaged, are followed by others, decompress to
    /// more than `limit` bytes, or the feature that decompresses them is off.
    pub fn decompress(self, stored: &[u8], limit: u64) -> anyhow::Result<Vec<u8>> {
        self.check_signature(stored)?;
        let mut output = BoundedOutput::new(self.as_str(), stored.len(), limit, self.decompressed_size(stored));
        match self {
            Self::Gzip => deflate::gunzip(stored, &mut output)?,
            Self::Zlib => deflate::unzlib(stored, &mut output)?,
            Self::Zstd => zstd::decompress(stored, &mut output)?,
            #[cfg(feature = "bzip2")]
            Self::Bzip2 => super::bzip2::decompress(stored, &mut output)?,
            #[cfg(feature = "xz")]
            Self::Xz => super::xz::decompress(stored, &mut output)?,
            #[cfg(feature = "brotli")]
            Self::Brotli => super::brotli::decompress(stored, &mut output)?,
            #[cfg(not(all(feature = "bzip2", feature = "xz", feature = "brotli")))]
            missing => {
                let name = missing.as_str();
                bail!("it is compressed with {name}, which takes the feature `{name}` of dataflux; enable that feature")
            }
        }
        Ok(output.into_bytes())
    }

    /// The size that the object's headers claim it decompresses to, which needn't be true; `None` if they claim none.
    pub fn decompressed_size(self, stored: &[u8]) -> Option<u64> {
        match self {
            Self::Gzip => deflate::gunzipped_size(stored),
            Self::Zstd => zstd::decompressed_size(stored),
            #[cfg(feature = "xz")]
            Self::Xz => super::xz::decompressed_size(stored),
            _ => None,
        }
    }

    /// Bytes that the decompressor of this object holds beside its output, at most: its window, by the object's header,
    /// and its tables. It is at least 1.
    pub(super) fn window_bytes(self, stored: &[u8]) -> u64 {
        match self {
            Self::Gzip | Self::Zlib => deflate::WINDOW_BYTES,
            Self::Zstd => zstd::window_bytes(stored),
            #[cfg(feature = "bzip2")]
            Self::Bzip2 => super::bzip2::window_bytes(stored),
            #[cfg(feature = "xz")]
            Self::Xz => super::xz::window_bytes(stored),
            #[cfg(feature = "brotli")]
            Self::Brotli => super::brotli::window_bytes(stored),
            // It is refused.
            #[cfg(not(all(feature = "bzip2", feature = "xz", feature = "brotli")))]
            _ => 1,
        }
    }

    fn check_signature(self, stored: &[u8]) -> anyhow::Result<()> {
        let is_right = match self {
            Self::Zlib => deflate::is_zlib(stored),
            // A file may begin with a frame that holds no data.
            Self::Zstd if matches!(stored, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]) => true,
            _ => stored.starts_with(self.signature()),
        };
        if is_right {
            return Ok(());
        }
        let wanted: Vec<_> = self.signature().iter().map(|byte| format!("{byte:02x}")).collect();
        let wanted = if wanted.is_empty() { "a header of zlib".to_owned() } else { wanted.join(" ") };
        bail!(
            "it is compressed with {} by its Content-Encoding or name, but isn't by its bytes (wanted {wanted}, got \
             {}); correct its Content-Encoding or name",
            self.as_str(),
            first_bytes(stored)
        )
    }
}
