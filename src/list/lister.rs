//! The listing itself: what [`Ranges`] wants asked, asked; many calls at once, one owner of the state.
//!
//! A call is a task of the runtime, so that pages are parsed on all its threads. What a page means is decided by the one
//! who polls [`Pages::next`]: no lock, no shared state.
//!
//! **Why it ends.** Each [`ListDriver::next`] waits for a call that is under way, and each answer either
//! moves its range forward, which happens once for each name at most, or is empty, of which only so many in a row are
//! borne. [`Ranges::next`] gives a call whenever none is under way and names are left; if it ever didn't, that is an
//! error and no wait.

use std::collections::HashSet;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::in_order::InOrder;
use super::ranges::{CallId, KeptNames, MOST_EMPTY, ProtocolViolation, Ranges};
use super::{PAGE_SIZE, Prefix};
use crate::metrics::Metrics;
use crate::pacing::ConcurrencyLimit;
use crate::store::{Client, Fields, ListPage, ListRequest, ObjectRef, Objects};
use crate::{Error, ErrorKind, Result, Stage};

/// Calls at once unless told otherwise. A page of 5,000 takes some 0.4 s, so that this many bring 3 million objects a
/// second, which is what two cores parse; and 640 calls a second are an eighth of what a bucket serves at first.
pub const CONCURRENCY: usize = 256;

/// Pages that wait to be worked on, for each thread that does it: enough to keep it busy, few megabytes.
const WAITING: usize = 4;

/// Most bytes of pages that are being received or were received and not asked for yet, at the size of the largest page
/// so far. A quarter of the memory budget that loaders have by default; pages of 5,000 names of 40 bytes take 1.5 MB
/// each with their text, so that 170 calls may be under way, and those of the longest names there are 11 MB.
const MAX_PAGE_BYTES: usize = 256 << 20;

/// Pages in a row that bring nothing but names that were there before, after which a listing is taken to lead nowhere.
const MOST_STALE: u32 = 100;

/// How long a listing takes before its progress is logged: one that is done sooner needs no word.
const FIRST_REPORT: Duration = Duration::from_secs(10);

/// Lists the objects below a prefix by many calls at once, each name once, whatever the server does about pages.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
/// use std::sync::Arc;
/// use dataflux::list::Lister;
/// use dataflux::store::{Client, MemoryStore};
///
/// let store = MemoryStore::new();
/// (0..100).for_each(|n| _ = store.insert("cats", &format!("{n}.png"), "meow"));
/// let client = Client::new(Arc::new(store));
/// let objects = Lister::new(&client, "gs://cats/".parse()?).page_size(10).objects().await?;
/// assert_eq!(objects.len(), 100);
/// # Ok::<_, dataflux::Error>(()) })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is listed until pages are asked for"]
pub struct Lister {
    client: Client,
    prefix: Prefix,
    page_size: u32,
    concurrency: usize,
    fields: Fields,
    known: Vec<(String, u64)>,
    progress: Arc<Progress>,
}

/// How far a listing is. Numbers only grow, but for the calls in flight.
#[derive(Debug, Default)]
pub struct Progress {
    objects: AtomicU64,
    calls: AtomicU64,
    in_flight: AtomicUsize,
}

impl Progress {
    /// Objects listed.
    pub fn objects(&self) -> u64 {
        self.objects.load(Ordering::Relaxed)
    }

    /// Calls answered.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Calls under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// Logs the progress of a listing that takes long: after ten seconds, and each time it has taken twice as long.
#[derive(Debug)]
pub(super) struct ProgressLog {
    started: Instant,
    due: Duration,
}

impl ProgressLog {
    pub(super) fn new(started: Instant) -> Self {
        Self { started, due: FIRST_REPORT }
    }

    fn update(&mut self, prefix: &Prefix, progress: &Progress) {
        let elapsed = self.started.elapsed();
        if elapsed < self.due {
            return;
        }
        while self.due <= elapsed {
            self.due *= 2;
        }
        // A target of its own, so that programs can show progress and leave out the rest.
        tracing::info!(
            target: "dataflux::progress",
            "listing {prefix}: {} objects by {} calls after {elapsed:.0?}", progress.objects(), progress.calls()
        );
    }
}

/// Objects of one page, in byte order of names, and which part of the listing they are.
#[derive(Debug)]
pub struct Page {
    objects: Objects,
    kept: Range<usize>,
    /// First name of the part, inclusive, and first beyond it; `None` is the end of the listing. The parts of all pages
    /// are the whole without a gap or an overlap.
    part: (String, Option<String>),
    date: Option<SystemTime>,
}

impl Page {
    /// The objects.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = ObjectRef<'_>> {
        self.kept.clone().map(|index| self.objects.get(index).expect("what is kept is in the page"))
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// When the server answered, by its own clock; `None` where it doesn't say.
    pub(crate) fn date(&self) -> Option<SystemTime> {
        self.date
    }
}

impl Lister {
    /// A listing of `prefix`: pages of 5,000, up to 256 calls at once, what samples need.
    pub fn new(client: &Client, prefix: Prefix) -> Self {
        Self {
            client: client.clone(),
            prefix,
            page_size: PAGE_SIZE,
            concurrency: CONCURRENCY,
            fields: Fields::default(),
            known: Vec::new(),
            progress: Arc::default(),
        }
    }

    /// Objects to ask for in a call; a server may give fewer. 0 counts as 1.
    pub fn page_size(mut self, objects: u32) -> Self {
        self.page_size = objects.max(1);
        self
    }

    /// Most calls at once: a ceiling, below which as many are made as help. 1 is one call after another. 0 counts as 1.
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.concurrency = calls.max(1);
        self
    }

    /// What to ask for of each object.
    pub fn fields(mut self, fields: Fields) -> Self {
        self.fields = fields;
        self
    }

    /// Names at which an earlier listing can be cut, in byte order, each with the number of objects from it to the next:
    /// work is divided by them from the first call on. They may be outdated.
    pub fn known(mut self, cuts: Vec<(String, u64)>) -> Self {
        self.known = cuts;
        self
    }

    /// What is listed.
    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// Tells `progress` how far it is, instead of one of its own.
    pub fn watched(mut self, progress: Arc<Progress>) -> Self {
        self.progress = progress;
        self
    }

    /// Where to see how far it is.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// The pages, in no order. The calls are tasks of the runtime this is used on.
    pub fn pages(self) -> Pages {
        let mut request = ListRequest::new(Arc::clone(&self.prefix.bucket), &*self.prefix.prefix);
        request.fields = self.fields;
        let started = Instant::now();
        Pages(ListDriver {
            ranges: Ranges::new(&self.prefix.prefix, self.page_size, self.known),
            concurrency: ConcurrencyLimit::new(self.concurrency, Duration::ZERO),
            calls: TaskCalls { client: self.client.clone(), under_way: JoinSet::new() },
            metrics: Arc::clone(self.client.metrics()),
            refused: self.client.metrics().list_refused.load(Ordering::Relaxed),
            largest: 0,
            progress: self.progress,
            prefix: self.prefix,
            request,
            started,
            log: ProgressLog::new(started),
        })
    }

    /// Hands each page to `make`, on all threads of the runtime this is used on, and returns what it made of them, in no
    /// order. Of a server that doesn't keep to the order of names, the one page there is holds everything.
    ///
    /// # Errors
    /// Whatever the store answers when retrying has not helped, and a listing that never ends.
    ///
    /// # Cancel safety
    /// Reads only: dropping the future stops all calls.
    pub async fn collect<T: Send + 'static>(self, make: impl Fn(&Page) -> T + Send + Sync + 'static) -> Result<Vec<T>> {
        let make = Arc::new(make);
        let (client, prefix, page_size, fields) =
            (self.client.clone(), self.prefix.clone(), self.page_size, self.fields);
        let progress = self.progress();
        let most = WAITING * tokio::runtime::Handle::current().metrics().num_workers();
        let mut pages = self.pages();
        let (mut made, mut making) = (Vec::new(), JoinSet::new());
        loop {
            let page = tokio::select! {
                Some(done) = making.join_next() => {
                    made.push(done.map_err(panicked)?);
                    continue;
                }
                page = pages.0.next(), if making.len() < most => page,
            };
            match page {
                Ok(Some(page)) => {
                    let make = Arc::clone(&make);
                    making.spawn(async move { make(&page) });
                }
                Ok(None) => break,
                Err(StopReason::Failed(error)) => return Err(error),
                Err(StopReason::OutOfOrder(lie)) => {
                    drop((pages, making));
                    tracing::warn!(%prefix, lie, "the server doesn't keep to the order of names; listing one page after another");
                    let (objects, date) = one_by_one(&client, &prefix, page_size, fields, &progress).await?;
                    let kept = 0..objects.len();
                    return Ok(vec![make(&Page { objects, kept, part: (String::new(), None), date })]);
                }
            }
        }
        while let Some(done) = making.join_next().await {
            made.push(done.map_err(panicked)?);
        }
        Ok(made)
    }

    /// As [`collect`](Self::collect), and hands what was made to `take`, in byte order of names, as soon as nothing before
    /// it is missing. What came before an error is handed over, too.
    ///
    /// # Errors
    /// As for [`collect`](Self::collect), a server that doesn't keep to the order of names, and what `take` refuses.
    ///
    /// # Cancel safety
    /// Reads only: dropping the future stops all calls.
    pub(crate) async fn in_order<T: Send + 'static>(
        self,
        make: impl Fn(&Page) -> T + Send + Sync + 'static,
        mut take: impl FnMut(T) -> Result<()> + Send,
    ) -> Result<()> {
        let make = Arc::new(make);
        let prefix = self.prefix.clone();
        let most = WAITING * tokio::runtime::Handle::current().metrics().num_workers();
        let mut parts = InOrder::new(&prefix.prefix);
        let mut pages = self.pages();
        let (mut making, mut listed) = (JoinSet::new(), None);
        loop {
            tokio::select! {
                Some(done) = making.join_next() => {
                    let (part, made) = done.map_err(panicked)?;
                    parts.push(part, made);
                    while let Some(made) = parts.next() {
                        take(made)?;
                        // Much may have waited for this one part; others want this thread, too.
                        tokio::task::yield_now().await;
                    }
                }
                page = pages.next(), if listed.is_none() && making.len() < most => match page {
                    Ok(Some(page)) => {
                        let make = Arc::clone(&make);
                        making.spawn(async move {
                            let made = make(&page);
                            (page.part, made)
                        });
                    }
                    end => listed = Some(end.map(drop)),
                },
                else => break,
            }
        }
        listed.unwrap_or(Ok(()))?;
        if parts.is_complete() {
            return Ok(());
        }
        let error = Error::new(ErrorKind::Internal, "a listing has ended and a part of it is missing");
        Err(error.stage(Stage::List).object(prefix))
    }

    /// All objects, in byte order of names.
    ///
    /// # Errors
    /// As for [`collect`](Self::collect).
    pub async fn objects(self) -> Result<Objects> {
        let pages = self.collect(|page| page.iter().collect::<Objects>()).await?;
        let mut all = Objects::default();
        let mut pages: Vec<_> = pages.into_iter().filter(|page| !page.is_empty()).collect();
        pages.sort_by(|a, b| a.name(0).cmp(&b.name(0)));
        for page in &pages {
            all.extend(page.iter());
        }
        Ok(all)
    }
}

fn panicked(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Internal, "a task of a listing panicked").stage(Stage::List).with_source(error)
}

/// Pages of a listing that is under way. Dropping it stops all calls.
#[derive(Debug)]
pub struct Pages(ListDriver<TaskCalls>);

impl Pages {
    /// The next page that came; `None` after the last. Pages may be empty.
    ///
    /// # Errors
    /// As for [`Lister::collect`], and a server that doesn't keep to the order of names. None can follow.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Result<Option<Page>> {
        self.0.next().await.map_err(|stop| match stop {
            StopReason::Failed(error) => error,
            StopReason::OutOfOrder(lie) => {
                Error::new(ErrorKind::Protocol, "the server doesn't keep to the order of names")
                    .stage(Stage::List)
                    .object(&self.0.prefix)
                    .mismatch("names in byte order, from startOffset on", lie)
                    .hint("Lister::collect lists it one page after another; so does a data set without streaming")
            }
        })
    }
}

/// Why pages end early.
#[derive(Debug)]
pub(super) enum StopReason {
    Failed(Error),
    /// The pages so far may lack names.
    OutOfOrder(String),
}

/// Where calls are made.
pub(super) trait ListCalls {
    /// Starts a call.
    fn start(&mut self, id: CallId, request: ListRequest);

    /// Calls started whose answer [`next`](Self::next) has not given.
    fn under_way(&self) -> usize;

    /// The next answer, in any order; `None` if no call is under way.
    fn next(&mut self) -> impl Future<Output = Option<Result<(CallId, Result<ListPage>)>>> + Send;
}

/// Calls as tasks, which dropping this stops.
#[derive(Debug)]
struct TaskCalls {
    client: Client,
    under_way: JoinSet<(CallId, Result<ListPage>)>,
}

impl ListCalls for TaskCalls {
    fn start(&mut self, id: CallId, request: ListRequest) {
        let client = self.client.clone();
        self.under_way.spawn(async move { (id, client.list(&request).await) });
    }

    fn under_way(&self) -> usize {
        self.under_way.len()
    }

    async fn next(&mut self) -> Option<Result<(CallId, Result<ListPage>)>> {
        Some(self.under_way.join_next().await?.map_err(panicked))
    }
}

impl<C> Drop for ListDriver<C> {
    fn drop(&mut self) {
        self.progress.in_flight.store(0, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub(super) struct ListDriver<C> {
    pub(super) ranges: Ranges,
    pub(super) concurrency: ConcurrencyLimit,
    pub(super) calls: C,
    pub(super) metrics: Arc<Metrics>,
    /// Refusals seen.
    pub(super) refused: u64,
    /// Bytes of the largest page so far.
    pub(super) largest: usize,
    pub(super) progress: Arc<Progress>,
    pub(super) prefix: Prefix,
    /// What all calls have in common.
    pub(super) request: ListRequest,
    pub(super) started: Instant,
    pub(super) log: ProgressLog,
}

impl<C: ListCalls> ListDriver<C> {
    pub(super) async fn next(&mut self) -> Result<Option<Page>, StopReason> {
        self.start();
        if self.ranges.is_done() {
            // What is still under way is about folders, of which nobody needs to know any more.
            return Ok(None);
        }
        let (id, page) = loop {
            let Some(answer) = self.calls.next().await else {
                let error = Error::new(ErrorKind::Internal, "a listing has names left and nothing to ask for");
                return Err(StopReason::Failed(error.stage(Stage::List).object(&self.prefix)));
            };
            let (id, answer) = answer.map_err(StopReason::Failed)?;
            match answer {
                Ok(page) => break (id, page),
                // A token may have expired, or be of a server that has been replaced; 410 says so, and 400.
                Err(error) if self.ranges.failed(id, matches!(error.http_status(), Some(400 | 404 | 410))) => {
                    tracing::debug!(%error, "listing on without this call");
                    self.start();
                }
                Err(error) => return Err(StopReason::Failed(error.stage(Stage::List))),
            }
        };
        let (in_flight, limit) = (self.calls.under_way() + 1, self.concurrency.limit());
        self.concurrency.record_call(self.started.elapsed(), page.objects.len() as u64, in_flight);
        if self.concurrency.limit() != limit {
            tracing::debug!(before = limit, now = self.concurrency.limit(), "list calls at once");
        }
        self.progress.calls.fetch_add(1, Ordering::Relaxed);
        let folders: usize = page.prefixes.iter().map(|folder| 2 * folder.len() + size_of::<String>()).sum();
        self.largest = self.largest.max(page.objects.bytes_with_text() + folders);
        let KeptNames { objects: kept, from, to } = match self.ranges.answered(id, &page) {
            Ok(kept) => kept,
            Err(ProtocolViolation::Nowhere { token }) => {
                let what = format!("nothing but empty pages, the last with token {token:?}");
                return Err(StopReason::Failed(leads_nowhere(&self.prefix, &what)));
            }
            Err(ProtocolViolation::Unsorted { before, name }) => {
                return Err(StopReason::OutOfOrder(format!("{name:?} after {before:?}")));
            }
            Err(ProtocolViolation::Offset { start, name }) => {
                return Err(StopReason::OutOfOrder(format!("{name:?} of names from {start:?} on")));
            }
        };
        self.progress.objects.fetch_add(kept.len() as u64, Ordering::Relaxed);
        self.log.update(&self.prefix, &self.progress);
        Ok(Some(Page { objects: page.objects, kept, part: (from, to), date: page.date }))
    }

    /// Starts the calls that may be under way now and are not.
    fn start(&mut self) {
        let refused = self.metrics.list_refused.load(Ordering::Relaxed);
        if refused > self.refused {
            self.concurrency.record_refusals(self.started.elapsed(), (refused - self.refused) as usize);
            self.refused = refused;
        }
        let limit = self.concurrency.limit().min(calls_within(MAX_PAGE_BYTES, self.largest));
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
        self.progress.in_flight.store(self.calls.under_way(), Ordering::Relaxed);
    }
}

/// How many calls may be under way where their pages are to take no more than `bytes`: one at least.
fn calls_within(bytes: usize, largest_page: usize) -> usize {
    (bytes / largest_page.max(1)).max(1)
}

fn leads_nowhere(prefix: &Prefix, what: &str) -> Error {
    Error::new(ErrorKind::Protocol, "the server's pages lead nowhere")
        .stage(Stage::List)
        .object(prefix)
        .mismatch("a listing that ends", what)
        .hint("a server that doesn't page can't be listed; see what stands between here and the bucket")
}

/// The whole listing, one page after another and by nothing but tokens: for servers that ignore offsets or keep no
/// order.
async fn one_by_one(
    client: &Client,
    prefix: &Prefix,
    page_size: u32,
    fields: Fields,
    progress: &Progress,
) -> Result<(Objects, Option<SystemTime>)> {
    let mut request = ListRequest::new(Arc::clone(&prefix.bucket), &*prefix.prefix);
    (request.page_size, request.fields) = (Some(page_size), fields);
    let mut objects = Objects::default();
    let mut date: Option<SystemTime> = None;
    let mut names = HashSet::new();
    let mut tokens = HashSet::new();
    let (mut empty, mut stale) = (0, 0);
    let mut log = ProgressLog::new(Instant::now());
    loop {
        let page = client.list(&request).await.map_err(|error| error.stage(Stage::List))?;
        // The oldest, so that nothing looks older than it was when it was listed.
        date = date.into_iter().chain(page.date).min();
        let before = names.len();
        for object in page.objects.iter() {
            names.insert(object.name.to_owned());
            if object.name.starts_with(&prefix.prefix) {
                objects.push(object);
            }
        }
        (empty, stale) = match (page.objects.is_empty(), names.len() > before) {
            (true, _) => (empty + 1, stale),
            (false, true) => (0, 0),
            (false, false) => (0, stale + 1),
        };
        progress.calls.fetch_add(1, Ordering::Relaxed);
        progress.objects.fetch_max(names.len() as u64, Ordering::Relaxed);
        log.update(prefix, progress);
        let Some(token) = page.next_page_token else { break };
        if !tokens.insert(token.clone()) || empty > MOST_EMPTY || stale > MOST_STALE {
            let what =
                format!("{empty} empty and {stale} known pages, and token {token:?}, after {} objects", names.len());
            return Err(leads_nowhere(prefix, &what));
        }
        request.page_token = Some(token);
    }
    objects.sort();
    Ok((objects, date))
}

impl super::ranges::Page for ListPage {
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

    /// A page of 5,000 objects with names of so many bytes.
    fn page(name_bytes: usize) -> usize {
        let mut objects = Objects::default();
        let name = "n".repeat(name_bytes);
        (0..5_000).for_each(|_| objects.push(ObjectRef { name: &name, ..ObjectRef::default() }));
        objects.bytes_with_text()
    }

    /// 256 pages of the longest names were held at once, 2.9 GB of them with their text.
    #[test]
    fn pages_under_way_are_bounded_by_their_bytes() {
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
