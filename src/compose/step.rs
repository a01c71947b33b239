//! The steps of every read, which reports of waits distinguish. They are in this room because composes report theirs.

/// The step that the read of a group has reached, named for what it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadStep {
    /// A slot for a read call.
    Queued,
    /// A slot for a compose call.
    ComposeQueued,
    /// The compose call.
    Composing,
    /// The bytes.
    Reading,
}

/// Callback that is called at each step of a read.
pub(crate) type StepObserver<'a> = &'a (dyn Fn(ReadStep) + Sync);
