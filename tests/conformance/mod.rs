//! What every store must do: one list of named cases, for any backend.
//!
//! A backend that is known to be wrong somewhere names the case and the reason; the case must then fail, so that a
//! deviation that has gone doesn't stay on the list.

mod capabilities;
mod listing;
mod reading;
mod writing;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use dataflux::store::{
    Attempt, Capabilities, Client, ComposeRequest, CopyRequest, ListRequest, ObjectId, ObjectMeta, PutRequest,
    RetryPolicy, Store, Version,
};
use dataflux::{Error, ErrorKind};
use futures_util::future::BoxFuture;

/// A store, and a bucket of it for which this process has all permissions.
#[derive(Clone)]
pub(crate) struct Target {
    store: Arc<dyn Store>,
    client: Client,
    bucket: Arc<str>,
    /// The prefix of all names of this case, so that cases don't interfere.
    root: String,
}

const MISSING_BUCKET: &str = "no-such-bucket-anywhere";

type Case = fn(Target) -> BoxFuture<'static, Result<()>>;

/// Lists the cases under the names of their functions.
macro_rules! cases {
    ($($module:ident { $($case:ident,)+ })+) => {
        const CASES: &[(&str, Case)] = &[$($((stringify!($case), |target| Box::pin($module::$case(target))),)+)+];
    };
}

cases! {
    capabilities {
        capabilities_do_not_change,
        writes_have_versions_and_checksums_as_declared,
        operations_that_are_not_declared_are_unsupported,
    }
    listing {
        an_empty_listing_is_no_error,
        a_missing_bucket_is_not_found,
        names_come_in_byte_order,
        a_prefix_selects,
        offsets_select_start_inclusive_end_exclusive,
        pages_join_without_gap_or_repeat,
        page_size_is_honoured,
        a_delimiter_rolls_up,
        prefixes_are_not_repeated_across_pages,
        listing_tells_what_stat_tells,
        details_come_when_asked_for,
        listing_within_one_letter,
    }
    reading {
        whole_objects,
        ranges,
        suffix_ranges,
        a_suffix_of_an_empty_object_is_refused,
        a_range_beyond_the_end_is_refused,
        empty_objects,
        missing_objects_are_not_found,
        an_overwritten_generation_is_changed,
        a_deleted_generation_is_changed,
        encoded_objects_come_as_stored,
        ranges_of_encoded_objects_come_as_stored,
        bodies_tell_of_the_whole_object,
        bucket_facts,
        facts_of_a_missing_bucket,
        permissions_held,
    }
    writing {
        put_tells_of_the_object,
        names_of_all_kinds,
        generations_grow,
        put_if_absent,
        put_if_generation,
        large_objects,
        copies_have_the_bytes_and_metadata_of_their_source,
        copy_of_a_generation,
        copy_if_absent,
        copy_of_what_is_gone_is_refused,
        metadata_and_class_are_kept,
        metadata_is_updated_key_by_key,
        update_of_what_is_gone_is_refused,
        delete_a_generation,
        delete_the_live_one,
        delete_of_another_generation_is_refused,
        compose_joins_in_order,
        compose_of_composites,
        compose_of_32,
        compose_of_33_is_refused,
        compose_of_empty_objects,
        compose_keeps_metadata_and_custom_time,
        compose_of_a_missing_source_is_refused,
        compose_of_another_generation_is_refused,
        compose_of_another_crc_is_refused,
        compose_onto_something_is_refused,
        compose_of_two_classes_is_refused,
        compose_leaves_the_sources,
    }
}

/// The cases that a store without a capability can't pass.
fn lacking(can: Capabilities) -> Vec<(&'static str, &'static str)> {
    let of = |about: &[&str], can: bool, reason: &'static str| {
        let about: Vec<_> = about.iter().map(ToString::to_string).collect();
        let cases = CASES.iter().map(|(name, _)| *name);
        let lacking = cases.filter(move |name| !can && about.iter().any(|about| name.starts_with(about)));
        lacking.map(|name| (name, reason)).collect::<Vec<_>>()
    };
    let updates = ["metadata_is_updated", "update_of_what_is_gone"];
    [
        of(&["compose_"], can.compose, "it can't compose"),
        of(&updates, can.metadata_updates, "it can't update metadata"),
        of(&["permissions_"], can.permissions, "it doesn't report permissions"),
    ]
    .concat()
}

/// Runs every case against `store`. `deviations` are the cases known to fail, each with its reason, beside those that
/// follow from the capabilities that the store lacks.
#[allow(clippy::print_stdout, reason = "a run shows its deviations")]
pub(crate) async fn run(store: Arc<dyn Store>, bucket: &str, deviations: &[(&'static str, &'static str)]) {
    let retry = RetryPolicy::default().initial(Duration::from_millis(1)).deadline(Duration::from_secs(20));
    let client = Client::new(store.clone()).with_retry(retry);
    let deviations = [lacking(store.capabilities()), deviations.to_vec()].concat();
    let mut wrong = Vec::new();
    for (name, _) in &deviations {
        if !CASES.iter().any(|(case, _)| case == name) {
            wrong.push(format!("{name}: a deviation from a case that there isn't"));
        }
    }
    for (name, case) in CASES {
        let target =
            Target { store: store.clone(), client: client.clone(), bucket: bucket.into(), root: format!("{name}/") };
        // Nothing may hang: no case takes more than a second on any backend that works.
        let outcome = tokio::time::timeout(Duration::from_secs(60), case(target))
            .await
            .context("it hangs")
            .and_then(|outcome| outcome);
        match (outcome, deviations.iter().find(|(deviation, _)| deviation == name)) {
            (Ok(()), None) => println!("ok       {name}"),
            (Err(error), None) => wrong.push(format!("{name}: {error:#}")),
            (Err(error), Some((_, reason))) => println!("deviates {name}: {reason} ({error:#})"),
            (Ok(()), Some((_, reason))) => wrong.push(format!("{name}: it no longer deviates ({reason})")),
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases are wrong:\n{}", wrong.len(), CASES.len(), wrong.join("\n"));
}

impl Target {
    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.root)
    }

    fn id(&self, name: &str, version: impl Into<Version>) -> ObjectId {
        ObjectId::new(self.bucket.clone(), self.name(name), version).with_scheme(self.store.scheme())
    }

    /// The checksum that an object of these bytes has in this store, if it has any.
    fn crc32c(&self, bytes: &[u8]) -> Option<u32> {
        self.store.capabilities().checksums.then(|| crc32c::crc32c(bytes))
    }

    /// The URI of a bucket that isn't there.
    fn missing_bucket(&self) -> String {
        format!("{}://{MISSING_BUCKET}", self.store.scheme().as_str())
    }

    fn live(&self, name: &str) -> ObjectId {
        self.id(name, Version::None)
    }

    fn put_request(&self, name: &str, data: impl Into<bytes::Bytes>) -> PutRequest {
        PutRequest::new(self.bucket.clone(), self.name(name), data)
    }

    fn copy_request(&self, from: &str, version: impl Into<Version>, to: &str) -> CopyRequest {
        CopyRequest::new(self.id(from, version), self.bucket.clone(), self.name(to))
    }

    async fn put(&self, name: &str, data: impl Into<bytes::Bytes>) -> Result<ObjectMeta> {
        Ok(self.client.put(&self.put_request(name, data)).await?)
    }

    async fn put_all(&self, names: &[&str]) -> Result<()> {
        for name in names {
            self.put(name, name.as_bytes().to_vec()).await?;
        }
        Ok(())
    }

    /// A request for the names of this case that begin with `prefix`.
    fn list_request(&self, prefix: &str) -> ListRequest {
        ListRequest::new(self.bucket.clone(), self.name(prefix))
    }

    /// All pages: names and prefixes without the root, in the order they came.
    async fn list(&self, mut request: ListRequest) -> Result<(Vec<String>, Vec<String>)> {
        let (mut names, mut prefixes) = (Vec::new(), Vec::new());
        let strip = |name: &str| {
            let short = name.strip_prefix(&self.root).with_context(|| format!("{name} is of another prefix"))?;
            Ok::<_, anyhow::Error>(short.to_owned())
        };
        for _ in 0..1000 {
            let page = self.client.list(&request).await?;
            for object in page.objects.iter() {
                names.push(strip(object.name)?);
            }
            for prefix in &page.prefixes {
                prefixes.push(strip(prefix)?);
            }
            request.page_token = page.next_page_token;
            if request.page_token.is_none() {
                return Ok((names, prefixes));
            }
        }
        bail!("the listing doesn't end")
    }

    async fn names(&self, request: ListRequest) -> Result<Vec<String>> {
        Ok(self.list(request).await?.0)
    }

    /// The live object, read whole.
    async fn read(&self, name: &str) -> Result<Vec<u8>> {
        let meta = self.client.stat(&self.live(name)).await?;
        let payload = self.client.read(&self.id(name, &meta.version), None, meta.size).await?;
        Ok(payload.bytes.to_vec())
    }

    /// A compose of `sources`, whose bytes together are `data`.
    fn compose_request(&self, destination: &str, sources: &[&ObjectMeta], data: &[u8]) -> ComposeRequest {
        ComposeRequest::new(
            self.bucket.clone(),
            self.name(destination).into(),
            sources.iter().map(|source| (source.name.as_str().into(), source.version.clone())).collect(),
            data.len() as u64,
            crc32c::crc32c(data),
            std::time::SystemTime::now(),
        )
    }

    /// One try of a compose, as the store itself answers it.
    async fn compose_once(&self, request: &ComposeRequest) -> dataflux::Result<ObjectMeta> {
        self.store.compose(request, &Attempt::first()).await
    }

    async fn exists(&self, name: &str) -> Result<bool> {
        match self.client.stat(&self.live(name)).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Checks that the call is refused with an error of one of `kinds` that names the object.
fn refused<T: std::fmt::Debug>(result: dataflux::Result<T>, kinds: &[ErrorKind], about: &str) -> Result<Error> {
    let error = match result {
        Ok(value) => bail!("nothing was refused: {value:?}"),
        Err(error) => error,
    };
    ensure!(kinds.contains(&error.kind()), "refused as {:?}, not as {kinds:?}: {error}", error.kind());
    ensure!(error.to_string().contains(about), "the error does not name {about}: {error}");
    Ok(error)
}

/// Bytes that show where they are from.
fn telling(name: &str, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 100);
    for line in 0.. {
        if bytes.len() >= len {
            break;
        }
        // Long lines for many bytes, which saves time.
        bytes.extend(format!("{name}:{line:>width$}\n", width = len / 1000).bytes());
    }
    bytes.truncate(len);
    bytes
}
