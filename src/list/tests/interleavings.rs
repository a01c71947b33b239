//! Runs the driver of a listing under shuttle, with threads as calls, in as many interleavings as there is time for.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use shuttle::sync::mpsc::{Receiver, Sender, channel};
use shuttle::{check_pct, check_random, future, thread};

use super::super::driver::{ListAnswer, ListCalls, ListDriver, Page};
use super::super::ranges::{CallId, Ranges};
use crate::Result;
use crate::metrics::Metrics;
use crate::pacing::ConcurrencyLimit;
use crate::store::{Fields, ListPage, ListRequest, ObjectRef};

/// Calls as threads.
struct ThreadCalls {
    names: Arc<BTreeSet<String>>,
    sender: Sender<ListAnswer>,
    receiver: Receiver<ListAnswer>,
    in_flight: usize,
    most_in_flight: usize,
}

impl ListCalls for ThreadCalls {
    fn start(&mut self, id: CallId, request: ListRequest) {
        let (names, answers) = (Arc::clone(&self.names), self.sender.clone());
        thread::spawn(move || {
            let page = serve(&names, &request);
            answers.send(ListAnswer { id, page: Ok(page) }).expect("the driver waits for all");
        });
        self.in_flight += 1;
        self.most_in_flight = self.most_in_flight.max(self.in_flight);
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn next(&mut self) -> impl Future<Output = Option<Result<ListAnswer>>> {
        let answer = (self.in_flight > 0).then(|| self.receiver.recv().expect("the driver has a sender, too"));
        self.in_flight -= usize::from(answer.is_some());
        std::future::ready(answer.map(Ok))
    }
}

/// The page of `names` that the service would return.
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
        page.objects.push(ObjectRef { name, version: 1.into(), ..ObjectRef::default() });
        last = Some(name.clone());
    }
    page
}

/// Lists `names` and checks that each comes once. Returns the most calls that were in flight at once.
fn list(names: &Arc<BTreeSet<String>>, page_size: u32, concurrency: usize) -> usize {
    let prefix = "gs://bucket".parse().unwrap();
    let (sender, receiver) = channel();
    let calls = ThreadCalls { names: Arc::clone(names), sender, receiver, in_flight: 0, most_in_flight: 0 };
    let ranges = Ranges::new("", page_size, Vec::new());
    let (limit, metrics) = (ConcurrencyLimit::new(concurrency, Duration::ZERO), Arc::new(Metrics::default()));
    let mut driver = ListDriver::new(ranges, limit, calls, metrics, Arc::default(), prefix, Fields::default());
    let mut listed: Vec<String> = Vec::new();
    future::block_on(async {
        while let Some(page) = driver.next().await.expect("the server is right") {
            listed.extend(Page::iter(&page).map(|object| object.name.to_owned()));
        }
    });
    listed.sort();
    assert!(listed.iter().eq(names.iter()), "{listed:?}");
    assert_eq!(driver.calls.in_flight(), 0, "calls are left behind");
    driver.calls.most_in_flight
}

fn sequence(count: usize) -> Arc<BTreeSet<String>> {
    Arc::new((0..count).map(|number| format!("{number:04}")).collect())
}

/// Folders of different sizes, so that some ranges are listed early and others have to be cut.
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
fn idle_calls_get_work() {
    check_random(|| assert_eq!(list(&sequence(200), 5, 4), 4, "calls had nothing to do"), 200);
}
