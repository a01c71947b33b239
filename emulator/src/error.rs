//! The error type of the library.

use std::{io, path::PathBuf};

/// Why an emulator could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A textual option (virtual namespace, profile, faults, folder or bucket) that does not parse.
    #[error("bad {what} `{text}`: {why}")]
    Spec {
        /// The kind of option.
        what: &'static str,
        /// The text of the option.
        text: String,
        /// What was wanted and what was got.
        why: String,
    },
    /// Two definitions of one bucket.
    #[error("bucket `{0}` is defined twice")]
    DuplicateBucket(String),
    /// The address could not be bound.
    #[error("cannot listen on {address}")]
    Bind {
        /// Host and port.
        address: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A directory to serve could not be read.
    #[error("cannot read folder {}", path.display())]
    Folder {
        /// The directory or file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Threads could not be started, or signals could not be watched.
    #[error("cannot start the emulator's runtime")]
    Runtime(#[source] io::Error),
}

impl Error {
    pub(crate) fn spec(what: &'static str, text: &str, why: impl Into<String>) -> Self {
        Self::Spec { what, text: text.to_owned(), why: why.into() }
    }
}
