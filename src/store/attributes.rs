//! Attributes of objects that have a fixed set of values.

/// The storage class of an object, by which it is priced. A compose needs sources of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[repr(u8)]
pub enum StorageClass {
    /// The listing didn't name one; some emulators leave it out.
    #[default]
    Unspecified = 0,
    /// `STANDARD`.
    Standard = 1,
    /// `NEARLINE`.
    Nearline = 2,
    /// `COLDLINE`.
    Coldline = 3,
    /// `ARCHIVE`.
    Archive = 4,
    /// A class that this crate has no name for, such as one of the three legacy classes.
    Other = 5,
}

impl StorageClass {
    /// All variants, each at the index of its number, which files of manifests hold.
    pub(crate) const ALL: [Self; 6] =
        [Self::Unspecified, Self::Standard, Self::Nearline, Self::Coldline, Self::Archive, Self::Other];

    /// The class that the service calls `name`; an empty name is [`Unspecified`](Self::Unspecified).
    pub fn parse(name: &str) -> Self {
        match name {
            "" => Self::Unspecified,
            "STANDARD" => Self::Standard,
            "NEARLINE" => Self::Nearline,
            "COLDLINE" => Self::Coldline,
            "ARCHIVE" => Self::Archive,
            _ => Self::Other,
        }
    }

    /// The service's name of the class.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "",
            Self::Standard => "STANDARD",
            Self::Nearline => "NEARLINE",
            Self::Coldline => "COLDLINE",
            Self::Archive => "ARCHIVE",
            Self::Other => "OTHER",
        }
    }
}

/// The `Content-Encoding` of an object: how its stored bytes are compressed. Reads return the bytes as stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[repr(u8)]
pub enum ContentEncoding {
    /// No encoding: the bytes are the data itself.
    #[default]
    Identity = 0,
    /// `gzip`, which the service itself decompresses for browsers.
    Gzip = 1,
    /// `br`.
    Brotli = 2,
    /// `zstd`.
    Zstd = 3,
    /// `deflate`.
    Deflate = 4,
    /// An encoding that this crate has no name for, or several encodings.
    Other = 5,
}

impl ContentEncoding {
    /// All variants, each at the index of its number, which files of manifests hold.
    pub(crate) const ALL: [Self; 6] =
        [Self::Identity, Self::Gzip, Self::Brotli, Self::Zstd, Self::Deflate, Self::Other];

    /// The encoding that the object's metadata names, in upper or lower case; an empty name is
    /// [`Identity`](Self::Identity).
    pub fn parse(name: &str) -> Self {
        match name.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Self::Identity,
            "gzip" | "x-gzip" => Self::Gzip,
            "br" => Self::Brotli,
            "zstd" => Self::Zstd,
            "deflate" => Self::Deflate,
            _ => Self::Other,
        }
    }

    /// The name of the encoding, such as `gzip`; empty for [`Identity`](Self::Identity).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "",
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Deflate => "deflate",
            Self::Other => "other",
        }
    }

    /// Whether the bytes are stored as they are.
    pub fn is_identity(self) -> bool {
        self == Self::Identity
    }
}
