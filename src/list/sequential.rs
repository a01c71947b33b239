//! Listing one page after another, for servers that ignore offsets or keep no order.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::Prefix;
use super::driver::endless;
use super::progress::{Progress, ProgressLog};
use super::ranges::MAX_EMPTY_PAGES;
use crate::store::{Client, Fields, ListRequest, Objects};
use crate::{Result, Stage};

/// Pages in a row with only names that were there before, after which a listing is taken to be endless.
const MAX_STALE_PAGES: u32 = 100;

/// A whole listing.
pub(super) struct WholeListing {
    /// In byte order of names.
    pub(super) objects: Objects,
    /// When the server gave its first answer, by its own clock, if it says so.
    pub(super) date: Option<SystemTime>,
}

/// Lists a prefix by following tokens alone.
pub(super) async fn list_sequentially(
    client: &Client,
    prefix: &Prefix,
    page_size: u32,
    fields: Fields,
    progress: &Progress,
) -> Result<WholeListing> {
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
        // The oldest date, so that no object looks older than it was when it was listed.
        date = date.into_iter().chain(page.date).min();
        let known = names.len();
        for object in page.objects.iter() {
            names.insert(object.name.to_owned());
            if object.name.starts_with(&prefix.prefix) {
                objects.push(object);
            }
        }
        (empty, stale) = match (page.objects.is_empty(), names.len() > known) {
            (true, _) => (empty + 1, stale),
            (false, true) => (0, 0),
            (false, false) => (0, stale + 1),
        };
        progress.count_call();
        progress.raise_objects(names.len() as u64);
        log.update(prefix, progress);

        let Some(token) = page.next_page_token else { break };
        if !tokens.insert(token.clone()) || empty > MAX_EMPTY_PAGES || stale > MAX_STALE_PAGES {
            let got =
                format!("{empty} empty and {stale} known pages, and token {token:?}, after {} objects", names.len());
            return Err(endless(prefix, &got));
        }
        request.page_token = Some(token);
    }
    objects.sort();
    Ok(WholeListing { objects, date })
}
