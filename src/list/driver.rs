//! The running listing: makes the calls that [`Ranges`] asks for, many at once, and gives it the answers.
//!
//! A call is a task of the runtime, so pages are parsed on all its threads. The task that polls
//! [`Pages::next`](super::Pages::next) alone decides what a page means, so there is no lock and no shared state.
//!
//! **Why it ends.** Each [`ListDriver::next`] waits for a call in flight. Each answer either moves its range forward,
//! which happens at most once for each name, or is empty, and only so many empty answers in a row are tolerated.
//! [`Ranges::next`] returns a call whenever none is in flight and names are left; if it ever didn't, the driver would
//! return an error rather than wait.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::Prefix;
use super::progress::{Progress, ProgressLog};
use super::ranges::{AnswerPage, CallId, KeptNames, NameInterval, ProtocolViolation, Ranges};
use crate::metrics::Metrics;
use crate::pacing::ConcurrencyLimit;
use crate::store::{Client, Fields, ListPage, ListRequest, ObjectRef, Objects};
use crate::{Error, ErrorKind, Result, Stage};

/// Most bytes of pages in flight, or received and not asked for yet, counted at the size of the largest page so far. It
/// is a quarter of the memory budget that loaders have by default. Pages of 5,000 names of 40 bytes take 1.5 MB each
/// with their text, so 170 calls may be in flight; pages of the longest names take 11 MB.
const MAX_PAGE_BYTES: usize = 256 << 20;

/// Objects of one page, in byte order of names, and the part of the listing that they cover.
#[derive(Debug)]
pub struct Page {
    pub(super) objects: Objects,
    pub(super) kept: Range<usize>,
    /// The intervals of all pages tile the listing.
    pub(super) interval: NameInterval,
    pub(super) date: Option<SystemTime>,
}

impl Page {
    /// The objects.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = ObjectRef<'_>> {
        self.kept.clone().map(|index| self.objects.get(index).expect("kept objects are in the page"))
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether there are no objects.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// When the server answered, by its own clock; `None` where it doesn't say.
    pub(crate) fn date(&self) -> Option<SystemTime> {
        self.date
    }
}

/// Why pages end early.
#[derive(Debug)]
pub(super) enum StopReason {
    Failed(Error),
    /// The server doesn't keep to the order of names, as described here, so the pages so far may lack names.
    OutOfOrder(String),
}

/// The answer to a call.
pub(super) struct ListAnswer {
    pub(super) id: CallId,
    pub(super) page: Result<ListPage>,
}

/// Makes calls.
pub(super) trait ListCalls {
    /// Starts a call.
    fn start(&mut self, id: CallId, request: ListRequest);

    /// Calls started whose answer [`next`](Self::next) has not returned.
    fn in_flight(&self) -> usize;

    /// The next answer, in any order; `None` if no call is in flight.
    fn next(&mut self) -> impl Future<Output = Option<Result<ListAnswer>>> + Send;
}

/// Calls as tasks of the runtime. Dropping this stops all of them.
#[derive(Debug)]
pub(super) struct TaskCalls {
    client: Client,
    in_flight: JoinSet<ListAnswer>,
}

impl TaskCalls {
    pub(super) fn new(client: Client) -> Self {
        Self { client, in_flight: JoinSet::new() }
    }
}

impl ListCalls for TaskCalls {
    fn start(&mut self, id: CallId, request: ListRequest) {
        let client = self.client.clone();
        self.in_flight.spawn(async move { ListAnswer { id, page: client.list(&request).await } });
    }

    fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    async fn next(&mut self) -> Option<Result<ListAnswer>> {
        Some(self.in_flight.join_next().await?.map_err(panicked))
    }
}

/// The error of a task that panicked.
pub(super) fn panicked(error: JoinError) -> Error {
    Error::new(ErrorKind::Internal, "a task of a listing panicked").stage(Stage::List).with_source(error)
}

/// Drives [`Ranges`] with real calls.
#[derive(Debug)]
pub(super) struct ListDriver<C> {
    ranges: Ranges,
    limit: ConcurrencyLimit,
    pub(super) calls: C,
    metrics: Arc<Metrics>,
    /// Refused calls, by the metrics, that the limit knows of.
    refused: u64,
    /// Bytes of the largest page so far.
    largest_page: usize,
    progress: Arc<Progress>,
    pub(super) prefix: Prefix,
    /// What all calls have in common.
    request: ListRequest,
    started: Instant,
    log: ProgressLog,
}

impl<C> ListDriver<C> {
    pub(super) fn new(
        ranges: Ranges,
        limit: ConcurrencyLimit,
        calls: C,
        metrics: Arc<Metrics>,
        progress: Arc<Progress>,
        prefix: Prefix,
        fields: Fields,
    ) -> Self {
        let started = Instant::now();
        let mut request = ListRequest::new(Arc::clone(&prefix.bucket), &*prefix.prefix);
        request.fields = fields;
        Self {
            ranges,
            limit,
            calls,
            refused: metrics.list_refused.load(Ordering::Relaxed),
            metrics,
            largest_page: 0,
            progress,
            prefix,
            request,
            started,
            log: ProgressLog::new(started),
        }
    }
}

impl<C> Drop for ListDriver<C> {
    fn drop(&mut self) {
        self.progress.set_in_flight(0);
    }
}

impl<C: ListCalls> ListDriver<C> {
    pub(super) async fn next(&mut self) -> Result<Option<Page>, StopReason> {
        self.start_calls();
        if self.ranges.is_done() {
            // The calls still in flight are about folders, which are no longer of use.
            return Ok(None);
        }
        let (id, page) = loop {
            let Some(answer) = self.calls.next().await else {
                let error = Error::new(ErrorKind::Internal, "a listing has names left and nothing to ask for");
                return Err(StopReason::Failed(error.stage(Stage::List).object(&self.prefix)));
            };
            let ListAnswer { id, page } = answer.map_err(StopReason::Failed)?;
            match page {
                Ok(page) => break (id, page),
                // A token may have expired, or come from a server that has been replaced; 410 and 400 say so.
                Err(error) if self.ranges.failed(id, matches!(error.http_status(), Some(400 | 404 | 410))) => {
                    tracing::debug!(%error, "listing on without this call");
                    self.start_calls();
                }
                Err(error) => return Err(StopReason::Failed(error.stage(Stage::List))),
            }
        };
        self.adapt_limit(&page);
        self.progress.count_call();
        let folders: usize = page.prefixes.iter().map(|folder| 2 * folder.len() + size_of::<String>()).sum();
        self.largest_page = self.largest_page.max(page.objects.bytes_with_text() + folders);

        let KeptNames { objects: kept, interval } = match self.ranges.answered(id, &page) {
            Ok(kept) => kept,
            Err(ProtocolViolation::Endless { token }) => {
                let got = format!("nothing but empty pages, the last with token {token:?}");
                return Err(StopReason::Failed(endless(&self.prefix, &got)));
            }
            Err(ProtocolViolation::Unsorted { before, name }) => {
                return Err(StopReason::OutOfOrder(format!("{name:?} after {before:?}")));
            }
            Err(ProtocolViolation::Offset { start, name }) => {
                return Err(StopReason::OutOfOrder(format!("{name:?} of names from {start:?} on")));
            }
        };
        self.progress.add_objects(kept.len() as u64);
        self.log.update(&self.prefix, &self.progress);
        Ok(Some(Page { objects: page.objects, kept, interval, date: page.date }))
    }

    fn adapt_limit(&mut self, page: &ListPage) {
        let (in_flight, before) = (self.calls.in_flight() + 1, self.limit.limit());
        self.limit.record_call(self.started.elapsed(), page.objects.len() as u64, in_flight);
        if self.limit.limit() != before {
            tracing::debug!(before, now = self.limit.limit(), "list calls at once");
        }
    }

    /// Starts calls up to the limit, where there are any to make.
    fn start_calls(&mut self) {
        let refused = self.metrics.list_refused.load(Ordering::Relaxed);
        if refused > self.refused {
            self.limit.record_refusals(self.started.elapsed(), (refused - self.refused) as usize);
            self.refused = refused;
        }
        let limit = self.limit.limit().min(calls_within(MAX_PAGE_BYTES, self.largest_page));
        while let Some(call) = self.ranges.next(limit) {
            let request = ListRequest {
                prefix: call.prefix,
                delimiter: call.delimiter.then(|| "/".to_owned()),
                start_offset: call.start,
                end_offset: call.end,
                page_token: call.token,
                page_size: Some(call.page_size),
                ..self.request.clone()
            };
            self.calls.start(call.id, request);
        }
        self.progress.set_in_flight(self.calls.in_flight());
    }
}

/// How many calls may be in flight if their pages are to take at most `bytes`; at least one.
fn calls_within(bytes: usize, largest_page: usize) -> usize {
    (bytes / largest_page.max(1)).max(1)
}

/// The error of a listing that never ends.
pub(super) fn endless(prefix: &Prefix, got: &str) -> Error {
    Error::new(ErrorKind::Protocol, "the server's pages lead nowhere")
        .stage(Stage::List)
        .object(prefix)
        .mismatch("a listing that ends", got)
        .hint("a server that doesn't page can't be listed; see what stands between here and the bucket")
}

impl AnswerPage for ListPage {
    fn len(&self) -> usize {
        self.objects.len()
    }

    fn name(&self, index: usize) -> &str {
        self.objects.name(index).unwrap_or_default()
    }

    fn prefixes(&self) -> &[String] {
        &self.prefixes
    }

    fn token(&self) -> Option<&str> {
        self.next_page_token.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::CONCURRENCY;

    /// Bytes of a page of 5,000 objects with names of `name_bytes` bytes.
    fn page(name_bytes: usize) -> usize {
        let mut objects = Objects::default();
        let name = "n".repeat(name_bytes);
        (0..5_000).for_each(|_| objects.push(ObjectRef { name: &name, ..ObjectRef::default() }));
        objects.bytes_with_text()
    }

    /// 256 pages of the longest names were held at once, which took 2.9 GB with their text.
    #[test]
    fn pages_in_flight_are_bounded_by_their_bytes() {
        for (name_bytes, least) in [(10, 150), (40, 150), (1_024, 20)] {
            let page = page(name_bytes);
            assert!(page > 5_000 * 2 * name_bytes);
            let calls = calls_within(MAX_PAGE_BYTES, page);
            assert!(calls >= least && calls * page <= MAX_PAGE_BYTES, "{calls} of {page} bytes");
        }
        assert_eq!(calls_within(MAX_PAGE_BYTES, MAX_PAGE_BYTES + 1), 1, "a page that is too large comes by itself");
        assert!(calls_within(MAX_PAGE_BYTES, 0) > CONCURRENCY, "nothing is known yet");
    }
}
