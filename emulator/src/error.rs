//! The error of the library, and the refusals that go out over HTTP.

use std::{io, path::PathBuf};

use serde_json::json;

/// Why an emulator could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A textual option (virtual namespace, profile, faults, folder, bucket) that does not parse.
    #[error("bad {what} `{text}`: {why}")]
    Spec {
        /// What the text was meant to be.
        what: &'static str,
        /// The text.
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
        /// The system's answer.
        source: io::Error,
    },
    /// A directory to serve could not be read.
    #[error("cannot read folder {}", path.display())]
    Folder {
        /// The directory or file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Threads could not be started or signals not be watched.
    #[error("cannot start the emulator's runtime")]
    Runtime(#[source] io::Error),
}

impl Error {
    pub(crate) fn spec(what: &'static str, text: &str, why: impl Into<String>) -> Self {
        Self::Spec { what, text: text.to_owned(), why: why.into() }
    }
}

/// A refusal: status, reason and message of the service's JSON error body.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) domain: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// The header or parameter at fault: kind and name.
    pub(crate) location: Option<(&'static str, &'static str)>,
    /// Bytes of the object, where a range is beyond its end.
    pub(crate) size: Option<u64>,
}

impl Refusal {
    pub(crate) fn new(status: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { status, domain: "global", reason, message: message.into(), location: None, size: None }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "invalid", message)
    }

    pub(crate) fn parameter(name: &'static str, message: impl Into<String>) -> Self {
        Self { location: Some(("parameter", name)), ..Self::new(400, "invalidParameter", message) }
    }

    pub(crate) fn no_route() -> Self {
        Self::new(404, "notFound", "Not Found")
    }

    pub(crate) fn no_bucket() -> Self {
        Self::new(404, "notFound", "The specified bucket does not exist.")
    }

    pub(crate) fn no_object(bucket: &str, name: &str) -> Self {
        Self::new(404, "notFound", format!("No such object: {bucket}/{name}"))
    }

    pub(crate) fn precondition(header: &'static str) -> Self {
        let message = "At least one of the pre-conditions you specified did not hold.";
        Self { location: Some(("header", header)), ..Self::new(412, "conditionNotMet", message) }
    }

    pub(crate) fn not_modified() -> Self {
        Self::new(304, "notModified", "Not Modified")
    }

    /// What a caller with credentials is told.
    pub(crate) fn denied(permission: &str) -> Self {
        Self::new(403, "forbidden", lacks("emulator@dataflux.iam.gserviceaccount.com", permission))
    }

    /// What a caller without credentials is told.
    pub(crate) fn denied_anonymous(permission: &str) -> Self {
        let refusal = Self::new(401, "required", lacks("Anonymous caller", permission));
        Self { location: Some(("header", "Authorization")), ..refusal }
    }

    pub(crate) fn rate_limited(message: impl Into<String>) -> Self {
        Self { domain: "usageLimits", ..Self::new(429, "rateLimitExceeded", message) }
    }

    pub(crate) fn unavailable() -> Self {
        Self::new(503, "backendError", "We encountered an internal error. Please try again.")
    }

    /// A file that is served is not what it was at the start.
    pub(crate) fn file(name: &str, why: &io::Error) -> Self {
        Self::new(500, "internalError", format!("The file behind '{name}' cannot be served as it was found: {why}."))
    }

    pub(crate) fn body(&self) -> Vec<u8> {
        if self.status == 304 {
            return Vec::new();
        }
        let mut detail = json!({ "message": self.message, "domain": self.domain, "reason": self.reason });
        if let Some((kind, name)) = self.location {
            detail["locationType"] = kind.into();
            detail["location"] = name.into();
        }
        json!({ "error": { "code": self.status, "message": self.message, "errors": [detail] } })
            .to_string()
            .into_bytes()
    }
}

fn lacks(caller: &str, permission: &str) -> String {
    let thing = if permission.starts_with("storage.buckets") { "bucket" } else { "object" };
    format!(
        "{caller} does not have {permission} access to the Google Cloud Storage {thing}. Permission '{permission}' denied \
         on resource (or it may not exist)."
    )
}
