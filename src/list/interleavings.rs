//! The driver of a listing under shuttle: calls are threads that answer in every order there is time for.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use shuttle::sync::mpsc::{Receiver, Sender, channel};
use shuttle::{check_pct, check_random, future, thread};
use tokio::time::Instant;

use super::Prefix;
use super::lister::{ListCalls, ListDriver, Page, ProgressLog};
use super::ranges::{CallId, Ranges};
use crate::Result;
use crate::metrics::Metrics;
use crate::pacing::ConcurrencyLimit;
use crate::store::{ListPage, ListRequest, ObjectRef};

type ScriptedAnswer = (CallId, Result<ListPage>);

/// Calls as threads.
struct ThreadCalls {
    names: Arc<BTreeSet<String>>,
    answers: (Sender<ScriptedAnswer>, Receiver<ScriptedAnswer>),
    under_way: usize,
    most: usize,
}

impl ListCalls for ThreadCalls {
    fn start(&mut self, id: CallId, request: ListRequest) {
        let (names, answers) = (Arc::clone(&self.names), self.answers.0.clone());
        thread::spawn(move || {
            let page = serve(&names, &request);
            answers.send((id, Ok(page))).expect("the driver waits for all");
        });
        self.under_way += 1;
        self.most = self.most.max(self.under_way);
    }

    fn under_way(&self) -> usize {
        self.under_way
    }

    fn next(&mut self) -> impl Future<Output = Option<Result<ScriptedAnswer>>> {
        let answer = (self.under_way > 0).then(|| self.answers.1.recv().expect("the driver has a sender, too"));
        self.under_way -= usize::from(answer.is_some());
        std::future::ready(answer.map(Ok))
    }
}

/// A page of `names`, as the service answers.
fn serve(names: &BTreeSet<String>, request: &ListRequest) -> ListPage {
    let size = request.page_size.map_or(usize::MAX, |size| size as usize);
    let (start, after) = (request.start_offset.as_deref().unwrap_or_default(), request.page_token.as_deref());
    let below = |name: &&String| request.end_offset.as_ref().is_none_or(|end| *name < end);
    let mut page = ListPage::default();
    let mut last = None;
    for name in names.range(start.to_owned()..).take_while(below) {
        if !name.starts_with(&request.prefix) || after.is_some_and(|after| name.as_str() <= after) {
            continue;
        }
        if page.objects.len() == size {
            page.next_page_token = last;
            break;
        }
        page.objects.push(ObjectRef { name, generation: 1, ..ObjectRef::default() });
        last = Some(name.clone());
    }
    page
}

/// Lists `names` and checks that they come once each; returns the most calls that were under way at once.
fn list(names: &Arc<BTreeSet<String>>, page_size: u32, concurrency: usize) -> usize {
    let prefix = Prefix { bucket: "bucket".into(), prefix: String::new() };
    let calls = ThreadCalls { names: Arc::clone(names), answers: channel(), under_way: 0, most: 0 };
    let ranges = Ranges::new("", page_size, Vec::new());
    let mut driver = ListDriver {
        ranges,
        concurrency: ConcurrencyLimit::new(concurrency, Duration::ZERO),
        calls,
        metrics: Arc::new(Metrics::default()),
        refused: 0,
        largest: 0,
        progress: Arc::default(),
        request: ListRequest::new("bucket", ""),
        prefix,
        started: Instant::now(),
        log: ProgressLog::new(Instant::now()),
    };
    let mut listed: Vec<String> = Vec::new();
    future::block_on(async {
        while let Some(page) = driver.next().await.expect("the server is right") {
            listed.extend(Page::iter(&page).map(|object| object.name.to_owned()));
        }
    });
    listed.sort();
    assert!(listed.iter().eq(names.iter()), "{listed:?}");
    assert_eq!(driver.calls.under_way(), 0, "calls are left behind");
    driver.calls.most
}

fn sequence(count: usize) -> Arc<BTreeSet<String>> {
    Arc::new((0..count).map(|number| format!("{number:04}")).collect())
}

/// Folders of different sizes, so that some workers are done early and steal.
fn folders() -> Arc<BTreeSet<String>> {
    let sizes = [1, 40, 2, 3, 1, 9];
    let names =
        sizes.iter().enumerate().flat_map(|(folder, &size)| (0..size).map(move |n| format!("f{folder}/{n:03}")));
    Arc::new(names.collect())
}

#[test]
fn every_name_once_in_any_interleaving() {
    for (names, page_size) in [(sequence(60), 5), (folders(), 4), (sequence(7), 1), (sequence(0), 5)] {
        let names = &names;
        let (random, depth) = (Arc::clone(names), Arc::clone(names));
        check_random(move || _ = list(&random, page_size, 4), 500);
        check_pct(move || _ = list(&depth, page_size, 3), 300, 3);
    }
}

#[test]
fn idle_workers_steal() {
    check_random(|| assert_eq!(list(&sequence(200), 5, 4), 4, "workers had nothing to do"), 200);
}
