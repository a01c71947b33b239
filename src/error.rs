//! The error type of this crate.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of an [`Error`]. The predicates on [`Error`] answer the questions that programs usually have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument or a setting that can't work. No call was made.
    Config,
    /// The bucket or object doesn't exist.
    NotFound,
    /// The object was overwritten or deleted after it was listed.
    Changed,
    /// A precondition of a request did not hold.
    Precondition,
    /// The credentials are valid and don't allow this.
    PermissionDenied,
    /// There are no credentials, or the service refuses them.
    Unauthenticated,
    /// The service asks to slow down.
    RateLimited,
    /// The service or the connection to it failed; a retry may help.
    Unavailable,
    /// No answer arrived in time.
    Timeout,
    /// Bytes that don't match their checksum or length.
    Integrity,
    /// An answer that makes no sense.
    Protocol,
    /// The store can't do what was asked of it.
    Unsupported,
    /// The user's decoder refused a sample.
    Decode,
    /// The samples of a batch don't fit together.
    Collate,
    /// The epoch was dropped or the process is shutting down.
    Cancelled,
    /// The system refused access to a file, or a new thread.
    Io,
    /// A panic in a worker, or a bug of this crate.
    Internal,
}

/// The stage of the data path in which an error occurred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Listing the prefix.
    List,
    /// Building the manifest.
    Manifest,
    /// Choosing the order of samples.
    Sample,
    /// Grouping samples into downloads.
    Plan,
    /// Composing and downloading.
    Fetch,
    /// Splitting payloads into samples and proving them.
    Split,
    /// The user's decoder.
    Decode,
    /// Collating samples into a batch.
    Collate,
    /// Delivering batches to the training loop.
    Deliver,
    /// Converting a batch to tensors.
    Tensor,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::List => "list",
            Self::Manifest => "manifest",
            Self::Sample => "sample",
            Self::Plan => "plan",
            Self::Fetch => "fetch",
            Self::Split => "split",
            Self::Decode => "decode",
            Self::Collate => "collate",
            Self::Deliver => "deliver",
            Self::Tensor => "tensor",
        })
    }
}

/// An error that names the object, what was expected, what was found, and what to do.
///
/// It is one pointer wide. [`Display`](fmt::Display) writes one line and never repeats
/// [`source`](std::error::Error::source).
///
/// ```
/// use dataflux::{DatafluxDataset, ErrorKind};
///
/// let error = DatafluxDataset::open("my-bucket/train/").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Config);
/// assert!(error.to_string().contains("gs://my-bucket/train/"));
/// ```
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    kind: ErrorKind,
    stage: Option<Stage>,
    object: Option<String>,
    message: String,
    wanted: Option<String>,
    got: Option<String>,
    hint: Option<String>,
    status: Option<u16>,
    retry_after: Option<Duration>,
    tries: u32,
    /// Whether an earlier attempt of the call may have done what was asked for.
    left_open: bool,
    unreachable: bool,
    /// Shared, since a failed listing returns its error to every caller.
    source: Option<Arc<dyn std::error::Error + Send + Sync + 'static>>,
}

impl Error {
    /// An error of `kind`. The message says what happened and has no full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            stage: None,
            object: None,
            message: message.into(),
            wanted: None,
            got: None,
            hint: None,
            status: None,
            retry_after: None,
            tries: 1,
            left_open: false,
            unreachable: false,
            source: None,
        }))
    }

    /// Names the object or bucket that the error is about, unless it has a name already.
    #[must_use]
    pub fn object(mut self, object: impl fmt::Display) -> Self {
        self.0.object.get_or_insert_with(|| object.to_string());
        self
    }

    /// Names the stage in which the error occurred, unless it names one already.
    #[must_use]
    pub fn stage(mut self, stage: Stage) -> Self {
        self.0.stage.get_or_insert(stage);
        self
    }

    /// Adds what was wanted and what was found instead.
    #[must_use]
    pub fn mismatch(mut self, wanted: impl fmt::Display, got: impl fmt::Display) -> Self {
        self.0.wanted = Some(wanted.to_string());
        self.0.got = Some(got.to_string());
        self
    }

    /// Adds what the reader can do about the error.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the HTTP status of the answer.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.0.status = Some(status);
        self
    }

    /// Adds how long the service asks to wait before another attempt.
    #[must_use]
    pub fn retry_after(mut self, wait: Option<Duration>) -> Self {
        self.0.retry_after = wait;
        self
    }

    /// Appends to the message what only a caller knows, such as the number of attempts.
    #[must_use]
    pub(crate) fn append(mut self, more: &str) -> Self {
        self.0.message.push_str(more);
        self
    }

    /// Sets the number of attempts of the call.
    #[must_use]
    pub(crate) fn tried(mut self, tries: u32) -> Self {
        self.0.tries = tries;
        self
    }

    /// Sets whether an earlier attempt may have done what was asked for.
    #[must_use]
    pub(crate) fn with_left_open(mut self, left_open: bool) -> Self {
        self.0.left_open = left_open;
        self
    }

    /// Whether the service's answer means that this attempt changed nothing.
    pub(crate) fn is_refusal(&self) -> bool {
        use ErrorKind::{NotFound, PermissionDenied, Precondition, RateLimited, Unauthenticated};
        let refused = matches!(self.0.kind, NotFound | Precondition | PermissionDenied | Unauthenticated | RateLimited);
        refused || self.0.status == Some(400)
    }

    /// Whether the service's answers mean that no attempt of the call changed anything.
    pub(crate) fn did_nothing(&self) -> bool {
        self.is_refusal() && !self.0.left_open
    }

    /// Number of attempts before this error was returned: 1 for an error of the first attempt.
    pub fn tries(&self) -> u32 {
        self.0.tries
    }

    /// Marks the error of a host whose name doesn't resolve or that refuses connections.
    #[must_use]
    pub(crate) fn unreachable(mut self) -> Self {
        self.0.unreachable = true;
        self
    }

    /// Whether the host's name doesn't resolve or the host refuses connections, as for a wrong address.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.0.unreachable
    }

    /// Sets the error that caused this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// The same error with another kind, where a caller knows better what the error means.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The stage in which the error occurred, if known.
    pub fn at_stage(&self) -> Option<Stage> {
        self.0.stage
    }

    /// The object or bucket that the error is about, as a `gs://` URI, if there is one.
    pub fn about(&self) -> Option<&str> {
        self.0.object.as_deref()
    }

    /// What the reader can do about the error, if anything.
    pub fn what_to_do(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The HTTP status, if a server sent one.
    pub fn http_status(&self) -> Option<u16> {
        self.0.status
    }

    /// How long the service asked to wait, if it did.
    pub fn wait_asked(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the bucket or object doesn't exist.
    pub fn is_not_found(&self) -> bool {
        self.0.kind == ErrorKind::NotFound
    }

    /// Whether the object was overwritten or deleted after it was listed.
    pub fn is_changed(&self) -> bool {
        self.0.kind == ErrorKind::Changed
    }

    /// Whether permissions or credentials are missing.
    pub fn is_permission(&self) -> bool {
        matches!(self.0.kind, ErrorKind::PermissionDenied | ErrorKind::Unauthenticated)
    }

    /// Whether the service asks for fewer calls: there are too many (429), or it could not serve this one for now
    /// (503).
    pub(crate) fn asks_for_fewer_calls(&self) -> bool {
        self.kind() == ErrorKind::RateLimited || self.http_status() == Some(503)
    }

    /// Whether the same call may succeed if it is repeated.
    pub fn is_retryable(&self) -> bool {
        matches!(self.0.kind, ErrorKind::RateLimited | ErrorKind::Unavailable | ErrorKind::Timeout)
    }

    /// Whether the work was cancelled rather than failed.
    pub fn is_cancelled(&self) -> bool {
        self.0.kind == ErrorKind::Cancelled
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        if let Some(stage) = inner.stage {
            write!(f, "{stage}: ")?;
        }
        if let Some(object) = &inner.object {
            write!(f, "{object}: ")?;
        }
        f.write_str(&inner.message)?;
        if let (Some(wanted), Some(got)) = (&inner.wanted, &inner.got) {
            write!(f, " (wanted {wanted}, got {got})")?;
        }
        if let Some(hint) = &inner.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| &**source as _)
    }
}

/// The message of a panic in a user's code.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pointer_wide() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }

    #[test]
    fn display_writes_every_part_once() {
        let error = Error::new(ErrorKind::Changed, "the object was overwritten after it was listed")
            .stage(Stage::Fetch)
            .object("gs://b/o")
            .mismatch("generation 1", "generation 2")
            .hint("list the prefix again")
            .with_source(std::io::Error::other("underneath"));
        assert_eq!(
            error.to_string(),
            "fetch: gs://b/o: the object was overwritten after it was listed \
             (wanted generation 1, got generation 2); list the prefix again"
        );
        assert!(std::error::Error::source(&error).is_some());
    }
}
