//! [`Lister`], the settings of a listing, and [`Pages`], a listing in progress.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::driver::{ListDriver, Page, StopReason, TaskCalls, panicked};
use super::in_order::InOrder;
use super::keyspace::ListingCut;
use super::progress::Progress;
use super::ranges::{NameInterval, Ranges};
use super::sequential::{WholeListing, list_sequentially};
use super::{Filter, PAGE_SIZE, Prefix};
use crate::pacing::ConcurrencyLimit;
use crate::store::{Client, Fields, ListRequest, Objects};
use crate::{Error, ErrorKind, Result, Stage};

/// Calls at once, by default. A page of 5,000 objects takes some 0.4 s, so 256 calls bring 3 million objects a second,
/// which is what two cores parse. These are 640 calls a second, an eighth of what a bucket serves at first.
pub const CONCURRENCY: usize = 256;

/// Pages that wait for each worker thread: enough to keep it busy, and only a few megabytes.
const WAITING_PAGES: usize = 4;

/// Pages that are searched for a sample on each side of a folder. They are listed one after another, so that this many
/// delay the first batch by some seconds.
const MAX_PAGES_BESIDE: usize = 16;

/// Lists the objects below a prefix by many calls at once, each name once, however the server cuts its pages.
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
    earlier: Vec<ListingCut>,
    progress: Arc<Progress>,
}

impl Lister {
    /// A listing of `prefix` with pages of 5,000 objects, up to 256 calls at once, and the fields that samples need.
    pub fn new(client: &Client, prefix: Prefix) -> Self {
        Self {
            client: client.clone(),
            prefix,
            page_size: PAGE_SIZE,
            concurrency: CONCURRENCY,
            fields: Fields::default(),
            earlier: Vec::new(),
            progress: Arc::default(),
        }
    }

    /// Objects to ask for in a call; a server may return fewer. 0 counts as 1.
    pub fn page_size(mut self, objects: u32) -> Self {
        self.page_size = objects.max(1);
        self
    }

    /// Most calls at once. The lister makes fewer where more don't help. 1 means one call after another; 0 counts as 1.
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.concurrency = calls.max(1);
        self
    }

    /// Which fields to ask for.
    pub fn fields(mut self, fields: Fields) -> Self {
        self.fields = fields;
        self
    }

    /// Divides the work by the cuts of an earlier listing, which must be in byte order of names, from the first call
    /// on. The cuts may be outdated. [`Manifest::cuts`](crate::Manifest::cuts) makes them.
    pub fn earlier(mut self, cuts: Vec<ListingCut>) -> Self {
        self.earlier = cuts;
        self
    }

    /// The prefix that is listed.
    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// Reports progress to `progress` instead of to a [`Progress`] of its own.
    pub fn watched(mut self, progress: Arc<Progress>) -> Self {
        self.progress = progress;
        self
    }

    /// Whether the prefix has no slash at its end and all objects that `filter` accepts are in the one folder of this
    /// name. This takes two calls of one page where the first page holds such an object, or is the last.
    ///
    /// # Errors
    /// Too many pages without an object that the filter accepts; a call failed.
    pub(crate) async fn is_one_folder(&self, filter: &Filter) -> Result<bool> {
        let Prefix { bucket, prefix, .. } = &self.prefix;
        if prefix.is_empty() || prefix.ends_with('/') {
            return Ok(false);
        }
        let beside = ListRequest { fields: filter.fields(), ..ListRequest::new(Arc::clone(bucket), &**prefix) };
        // The names before those of the folder, and the names after them: '0' is the character after '/'.
        let before = ListRequest { end_offset: Some(format!("{prefix}/")), ..beside.clone() };
        let after = ListRequest { start_offset: Some(format!("{prefix}0")), ..beside };
        for mut request in [before, after] {
            let mut pages = 0;
            loop {
                let page = self.client.list(&request).await?;
                if page.objects.iter().any(|object| filter.reason(&self.prefix, &object).is_none()) {
                    return Ok(false);
                }
                pages += 1;
                request.page_token = page.next_page_token;
                if request.page_token.is_none() {
                    break;
                }
                if pages == MAX_PAGES_BESIDE {
                    return Err(self.unsure_folder());
                }
            }
        }
        Ok(true)
    }

    /// The error of a prefix whose labels aren't sure before its listing ends.
    fn unsure_folder(&self) -> Error {
        let prefix = &self.prefix;
        Error::new(ErrorKind::Config, "the labels of this prefix are not sure before its listing ends")
            .stage(Stage::List)
            .object(prefix)
            .mismatch(format_args!("names below {prefix}/, or samples beside them"), "many objects that are left out")
            .hint(format!("open {prefix}/, with its slash, or open the data set without streaming(true)"))
    }

    /// The progress of the listing.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// The pages, in no particular order. Calls are tasks of the current runtime.
    pub fn pages(self) -> Pages {
        let metrics = Arc::clone(self.client.metrics());
        let ranges = Ranges::new(&self.prefix.prefix, self.page_size, self.earlier);
        let limit = ConcurrencyLimit::new(self.concurrency, Duration::ZERO);
        let calls = TaskCalls::new(self.client);
        Pages(ListDriver::new(ranges, limit, calls, metrics, self.progress, self.prefix, self.fields))
    }

    /// Hands each page to `make`, on all threads of the current runtime, and returns the results in no particular
    /// order. If the server doesn't keep to the order of names, a single page holds everything.
    ///
    /// # Errors
    /// What the store answers when retrying has not helped; a listing that never ends.
    ///
    /// # Cancel safety
    /// Reads only: dropping the future stops all calls.
    pub async fn collect<T: Send + 'static>(self, make: impl Fn(&Page) -> T + Send + Sync + 'static) -> Result<Vec<T>> {
        let make = Arc::new(make);
        let (client, prefix, page_size, fields) =
            (self.client.clone(), self.prefix.clone(), self.page_size, self.fields);
        let progress = self.progress();
        let most = WAITING_PAGES * Handle::current().metrics().num_workers();
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
                Err(StopReason::OutOfOrder(violation)) => {
                    drop((pages, making));
                    tracing::warn!(
                        %prefix, violation,
                        "the server doesn't keep to the order of names; listing one page after another"
                    );
                    let WholeListing { objects, date } =
                        list_sequentially(&client, &prefix, page_size, fields, &progress).await?;
                    let kept = 0..objects.len();
                    let interval = NameInterval { from: prefix.prefix, to: None };
                    return Ok(vec![make(&Page { objects, kept, interval, date })]);
                }
            }
        }
        while let Some(done) = making.join_next().await {
            made.push(done.map_err(panicked)?);
        }
        Ok(made)
    }

    /// As [`collect`](Self::collect), but hands the results to `take`, in byte order of names, each as soon as all
    /// results before it are there. Results before an error are handed over, too.
    ///
    /// # Errors
    /// As for [`collect`](Self::collect); a server that doesn't keep to the order of names; an error of `take`.
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
        let most = WAITING_PAGES * Handle::current().metrics().num_workers();
        let mut parts = InOrder::new(&prefix.prefix);
        let mut pages = self.pages();
        let (mut making, mut listed) = (JoinSet::new(), None);
        loop {
            tokio::select! {
                Some(done) = making.join_next() => {
                    let (interval, made) = done.map_err(panicked)?;
                    parts.push(interval, made);
                    while let Some(made) = parts.next() {
                        take(made)?;
                        // Many parts may have waited for this one, and other tasks want this thread, too.
                        tokio::task::yield_now().await;
                    }
                }
                page = pages.next(), if listed.is_none() && making.len() < most => match page {
                    Ok(Some(page)) => {
                        let make = Arc::clone(&make);
                        making.spawn(async move {
                            let made = make(&page);
                            (page.interval, made)
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

/// Pages of a listing in progress. Dropping this stops all calls.
#[derive(Debug)]
pub struct Pages(ListDriver<TaskCalls>);

impl Pages {
    /// The next page that came; `None` after the last. Pages may be empty.
    ///
    /// # Errors
    /// As for [`Lister::collect`]; a server that doesn't keep to the order of names. No page follows an error.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Result<Option<Page>> {
        self.0.next().await.map_err(|stop| match stop {
            StopReason::Failed(error) => error,
            StopReason::OutOfOrder(violation) => {
                Error::new(ErrorKind::Protocol, "the server doesn't keep to the order of names")
                    .stage(Stage::List)
                    .object(&self.0.prefix)
                    .mismatch("names in byte order, from startOffset on", violation)
                    .hint("Lister::collect lists it one page after another; so does a data set without streaming")
            }
        })
    }
}
