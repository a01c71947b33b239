//! Errors of the system about files.

use std::io;

use crate::{Error, ErrorKind};

/// The error of a refused call for a file.
pub(super) fn refused(error: io::Error) -> Error {
    let (kind, message) = match error.kind() {
        io::ErrorKind::NotFound => (ErrorKind::NotFound, "there is no such file"),
        io::ErrorKind::AlreadyExists => (ErrorKind::Config, "a folder that this needs is a file"),
        io::ErrorKind::NotADirectory => (ErrorKind::NotFound, "a part of this path is no folder"),
        io::ErrorKind::IsADirectory => (ErrorKind::NotFound, "this is a folder"),
        io::ErrorKind::PermissionDenied => (ErrorKind::PermissionDenied, "the system doesn't permit this"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (ErrorKind::Io, "the disk is full"),
        io::ErrorKind::ReadOnlyFilesystem => (ErrorKind::PermissionDenied, "the file system is read-only"),
        io::ErrorKind::InvalidFilename => (ErrorKind::Config, "the file system has no such names"),
        _ => (ErrorKind::Io, "the system refused access to the file"),
    };
    Error::new(kind, message).with_source(error)
}
