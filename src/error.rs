//! The one error of this crate.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in one word; see the predicates on [`Error`] for the questions programs usually ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument or a setting that can't work; nothing was tried.
    Config,
    /// The bucket or object isn't there.
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
    /// The service or the way to it failed; trying again may help.
    Unavailable,
    /// No answer in the time allowed.
    Timeout,
    /// Bytes that don't match their checksum or length.
    Integrity,
    /// An answer that makes no sense.
    Protocol,
    /// The user's decoder refused a sample.
    Decode,
    /// The samples of a batch don't fit together.
    Collate,
    /// The epoch was dropped or the process is shutting down.
    Cancelled,
    /// A local file or thread could not be had.
    Io,
    /// A panic in a worker, or a bug of this crate.
    Internal,
}

/// Where in the way of the data it went wrong.
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
    /// Cutting payloads into samples and proving them.
    Split,
    /// The user's decoder.
    Decode,
    /// Making a batch of samples.
    Collate,
    /// Handing batches to the training loop.
    Deliver,
    /// Making tensors of a batch.
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

/// An error that names the object, what was wanted, what was got and what to do.
///
/// One pointer wide. [`Display`](fmt::Display) is one line and never repeats [`source`](std::error::Error::source).
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
    left_open: bool,
    unreachable: bool,
    /// Shared, since a listing that failed tells everyone who asks.
    source: Option<Arc<dyn std::error::Error + Send + Sync + 'static>>,
}

impl Error {
    /// An error of `kind`; `message` says what happened, without a full stop.
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

    /// Names the object (or bucket) this is about; the first to name it wins.
    #[must_use]
    pub fn object(mut self, object: impl fmt::Display) -> Self {
        self.0.object.get_or_insert_with(|| object.to_string());
        self
    }

    /// Names the stage this happened in; the first to name it wins.
    #[must_use]
    pub fn stage(mut self, stage: Stage) -> Self {
        self.0.stage.get_or_insert(stage);
        self
    }

    /// Says what was wanted and what was got instead.
    #[must_use]
    pub fn mismatch(mut self, wanted: impl fmt::Display, got: impl fmt::Display) -> Self {
        self.0.wanted = Some(wanted.to_string());
        self.0.got = Some(got.to_string());
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// The HTTP status that told of it.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.0.status = Some(status);
        self
    }

    /// How long the service asks to wait before another try.
    #[must_use]
    pub fn retry_after(mut self, wait: Option<Duration>) -> Self {
        self.0.retry_after = wait;
        self
    }

    /// Adds to what happened, when a caller knows more of it: how often it was tried, say.
    #[must_use]
    pub(crate) fn append(mut self, more: &str) -> Self {
        self.0.message.push_str(more);
        self
    }

    /// Notes how often the call was tried in all.
    #[must_use]
    pub(crate) fn tried(mut self, tries: u32) -> Self {
        self.0.tries = tries;
        self
    }

    /// Notes whether a try before this one may have done what was asked for.
    #[must_use]
    pub(crate) fn with_left_open(mut self, left_open: bool) -> Self {
        self.0.left_open = left_open;
        self
    }

    /// Whether the service said clearly that this try did nothing.
    pub(crate) fn is_refusal(&self) -> bool {
        use ErrorKind::{NotFound, PermissionDenied, Precondition, RateLimited, Unauthenticated};
        let said = matches!(self.0.kind, NotFound | Precondition | PermissionDenied | Unauthenticated | RateLimited);
        said || self.0.status == Some(400)
    }

    /// Whether the service said clearly of each try of the call that it did nothing.
    pub(crate) fn did_nothing(&self) -> bool {
        self.is_refusal() && !self.0.left_open
    }

    /// How often the call was tried before this error was returned: 1 for an error of the first try.
    pub fn tries(&self) -> u32 {
        self.0.tries
    }

    /// Marks an error of a host whose name doesn't resolve or that refuses connections.
    #[must_use]
    pub(crate) fn unreachable(mut self) -> Self {
        self.0.unreachable = true;
        self
    }

    /// Whether the host's name doesn't resolve or it refuses connections, which a wrong address does for ever.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.0.unreachable
    }

    /// The error underneath.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// The same error under another kind, when a caller knows better what it means.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Where in the way of the data, if known.
    pub fn at_stage(&self) -> Option<Stage> {
        self.0.stage
    }

    /// The object or bucket, as a `gs://` URI, if one is concerned.
    pub fn about(&self) -> Option<&str> {
        self.0.object.as_deref()
    }

    /// What to do about it, if there is something.
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

    /// Whether the bucket or object isn't there.
    pub fn is_not_found(&self) -> bool {
        self.0.kind == ErrorKind::NotFound
    }

    /// Whether the object is another than the one listed.
    pub fn is_changed(&self) -> bool {
        self.0.kind == ErrorKind::Changed
    }

    /// Whether rights or credentials are what is missing.
    pub fn is_permission(&self) -> bool {
        matches!(self.0.kind, ErrorKind::PermissionDenied | ErrorKind::Unauthenticated)
    }

    /// Whether the service asks for fewer calls: there are too many (429), or it could not serve this one for now
    /// (503).
    pub(crate) fn asks_for_fewer_calls(&self) -> bool {
        self.kind() == ErrorKind::RateLimited || self.http_status() == Some(503)
    }

    /// Whether the same call may succeed if it is made again.
    pub fn is_retryable(&self) -> bool {
        matches!(self.0.kind, ErrorKind::RateLimited | ErrorKind::Unavailable | ErrorKind::Timeout)
    }

    /// Whether the work was called off and not failed.
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

/// What a panic in a user's code said.
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
    fn display_says_it_all_once() {
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
