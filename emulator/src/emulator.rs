//! A running emulator: reading and changing its objects, steering it, and stopping it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    net::TcpListener,
    runtime::{Handle, Runtime},
    sync::watch,
};

use crate::{
    api::state::EmulatorState,
    buckets::{
        base::BucketBase,
        config::BucketConfig,
        list_query::ListQuery,
        listing::{ListEntry, collect_page},
        stored::StoredBucket,
    },
    checksum::hash_pieces,
    error::Error,
    locks::{lock, write},
    naming::check_object_name,
    objects::{attributes::ObjectAttributes, content::Content, version::ObjectVersion},
    server::connection::serve,
    signals::SignalWatch,
    traffic::{
        fault::{Fault, Faults},
        profile::Profile,
        stats::{Call, Stats},
    },
};

/// How long dropping an emulator waits for the listener to close. It closes at once, unless a thread that serves is
/// busy.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// A running emulator. Dropping it stops it: connections end, the port is free, and its objects are gone.
///
/// ```
/// let emulator = dataflux_emulator::Emulator::builder().bucket("photos").start()?;
/// emulator.put("photos", "cat.jpg", "meow");
/// assert_eq!(emulator.names("photos"), ["cat.jpg"]);
/// # Ok::<(), dataflux_emulator::Error>(())
/// ```
pub struct Emulator {
    state: Arc<EmulatorState>,
    stop: watch::Sender<bool>,
    /// Gets a message when the listener has closed.
    closed: Mutex<mpsc::Receiver<()>>,
    handle: Handle,
    /// `None` only while the emulator is dropped.
    runtime: Option<Runtime>,
}

/// Attributes of an object that a test puts into a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectOptions {
    /// The storage class; the bucket's when `None`.
    pub storage_class: Option<String>,
    /// The content encoding, such as `gzip` for contents that are compressed.
    pub content_encoding: Option<String>,
    /// The media type.
    pub content_type: Option<String>,
    /// The custom time, an RFC 3339 time that users can set.
    pub custom_time: Option<String>,
    /// The user's metadata: keys and values.
    pub metadata: BTreeMap<String, String>,
}

impl fmt::Debug for Emulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emulator").field("endpoint", &self.state.endpoint).finish_non_exhaustive()
    }
}

impl Emulator {
    /// Serves on the threads of `runtime`.
    pub(crate) fn serve(state: Arc<EmulatorState>, listener: TcpListener, runtime: Runtime) -> Self {
        let (stop, stopping) = watch::channel(false);
        let (closed, closing) = mpsc::channel();
        let serving = Arc::clone(&state);
        runtime.spawn(async move {
            serve(listener, serving, stopping).await;
            // Nobody listens when the emulator was leaked.
            let _ = closed.send(());
        });
        Self { state, stop, closed: Mutex::new(closing), handle: runtime.handle().clone(), runtime: Some(runtime) }
    }

    /// The base URL, such as `http://127.0.0.1:40123`: the value for `STORAGE_EMULATOR_HOST`.
    pub fn endpoint(&self) -> &str {
        &self.state.endpoint
    }

    /// The current values of the counters.
    pub fn stats(&self) -> Stats {
        self.state.stats.snapshot()
    }

    /// Sets the counters to zero.
    pub fn reset_stats(&self) {
        self.state.stats.reset();
    }

    /// Creates or replaces an object, and creates its bucket if that is missing. Returns the generation. Permissions,
    /// holds, limits and faults do not apply.
    ///
    /// # Panics
    /// When the service would refuse the name.
    pub fn put(&self, bucket: &str, name: &str, bytes: impl Into<Bytes>) -> i64 {
        self.put_with(bucket, name, bytes, ObjectOptions::default())
    }

    /// As [`put`](Self::put), with attributes.
    ///
    /// # Panics
    /// When the service would refuse the name.
    pub fn put_with(&self, bucket: &str, name: &str, bytes: impl Into<Bytes>, options: ObjectOptions) -> i64 {
        if let Err(refusal) = check_object_name(name) {
            panic!("object {name:?}: {}", refusal.message);
        }

        let bucket = self.bucket_or_new(bucket);
        let attributes = ObjectAttributes {
            storage_class: Some(options.storage_class.unwrap_or_else(|| bucket.config().storage_class)),
            content_encoding: options.content_encoding,
            content_type: options.content_type,
            custom_time: options.custom_time,
            metadata: options.metadata,
            ..ObjectAttributes::default()
        };
        let bytes = bytes.into();
        let hashes = hash_pieces(std::slice::from_ref(&bytes));
        let generation = self.state.buckets.next_generation();
        let object = ObjectVersion::new(name.to_owned(), generation, hashes, attributes, Content::from_bytes(bytes));
        bucket.replace(name, Some(Arc::new(object)));
        generation
    }

    /// Deletes an object. Returns false when there was none. Permissions and holds do not apply.
    pub fn delete(&self, bucket: &str, name: &str) -> bool {
        self.state.buckets.bucket(bucket).is_some_and(|bucket| bucket.replace(name, None))
    }

    /// The contents of an object. `None` when there is none, and for a file that has changed since the start.
    pub fn get(&self, bucket: &str, name: &str) -> Option<Bytes> {
        let object = self.live_version(bucket, name)?;
        object.content.read(0, object.size()).ok()
    }

    /// The generation of an object.
    pub fn generation(&self, bucket: &str, name: &str) -> Option<i64> {
        Some(self.live_version(bucket, name)?.generation)
    }

    fn live_version(&self, bucket: &str, name: &str) -> Option<Arc<ObjectVersion>> {
        self.state.buckets.bucket(bucket)?.get(name).ok()?
    }

    /// All names of a bucket in byte order; none when there is no bucket of this name.
    pub fn names(&self, bucket: &str) -> Vec<String> {
        let Some(bucket) = self.state.buckets.bucket(bucket) else { return Vec::new() };
        let mut names = Vec::new();
        for entry in collect_page(&bucket, &ListQuery::everything()).entries {
            match entry {
                ListEntry::Object(object) => names.push(object.name.clone()),
                ListEntry::Run(run) => {
                    let mut name = Vec::new();
                    for i in run {
                        bucket.base.read_name(i, &mut name);
                        names.push(String::from_utf8_lossy(&name).into_owned());
                    }
                }
            }
        }
        names
    }

    /// The name of object `index` of a virtual namespace.
    ///
    /// # Panics
    /// When the bucket is not a virtual namespace, or has no object with this index.
    pub fn virtual_name(&self, bucket: &str, index: u64) -> String {
        match self.state.buckets.bucket(bucket).as_deref() {
            Some(StoredBucket { base: BucketBase::Virtual(spec), .. }) => spec.name(index),
            _ => panic!("no virtual namespace {bucket}"),
        }
    }

    /// Takes a permission away, such as `storage.objects.create`. Every caller, even one without credentials, counts as
    /// a known principal and gets 403. For the answer that the service gives to anonymous callers, see
    /// [`deny_anonymous`](Self::deny_anonymous).
    pub fn deny(&self, bucket: &str, permission: &str) {
        self.change_config(bucket, |config| {
            config.denied.insert(permission.to_owned());
        });
    }

    /// Takes a permission away from anonymous callers: requests without an `Authorization` header get 401. Requests
    /// with any such header keep the permission, unless it is [denied](Self::deny) as well.
    pub fn deny_anonymous(&self, bucket: &str, permission: &str) {
        self.change_config(bucket, |config| {
            config.denied_anonymous.insert(permission.to_owned());
        });
    }

    /// Gives a permission back to all callers, including anonymous ones.
    pub fn allow(&self, bucket: &str, permission: &str) {
        self.change_config(bucket, |config| {
            config.denied.remove(permission);
            config.denied_anonymous.remove(permission);
        });
    }

    /// Changes the configuration of a bucket, and creates the bucket if it is missing.
    pub fn configure(&self, bucket: &str, change: impl FnOnce(&mut BucketConfig)) {
        let bucket = self.bucket_or_new(bucket);
        let mut settings = write(&bucket.settings);
        change(&mut settings.config);
        settings.metageneration += 1;
    }

    /// Changes permissions, which the metageneration does not cover.
    fn change_config(&self, bucket: &str, change: impl FnOnce(&mut BucketConfig)) {
        change(&mut write(&self.bucket_or_new(bucket).settings).config);
    }

    fn bucket_or_new(&self, name: &str) -> Arc<StoredBucket> {
        loop {
            if let Some(bucket) = self.state.buckets.bucket(name) {
                return bucket;
            }
            self.state.buckets.add(StoredBucket::new(name, BucketConfig::default(), BucketBase::Empty));
        }
    }

    /// Requires this bearer token of all requests from now on; `None` requires none.
    pub fn require_token(&self, token: Option<&str>) {
        *write(&self.state.token) = token.map(str::to_owned);
    }

    /// Replaces the random faults and restarts their numbering.
    pub fn set_faults(&self, faults: Faults) {
        self.state.faults.set(faults);
    }

    /// Replaces delays and rate limits.
    pub fn set_profile(&self, profile: Profile) {
        *write(&self.state.profile) = profile;
    }

    /// Makes the next `count` calls of a kind fail. Scripted faults come before random ones, and those for the same
    /// kind of call queue up.
    pub fn fault_next(&self, call: Call, fault: Fault, count: u64) {
        self.state.faults.script(call, fault, count);
    }

    /// Expires every unfinished resumable upload, as the service does after a week: later requests get 410.
    pub fn expire_uploads(&self) {
        let sessions: Vec<_> = lock(&self.state.uploads).values().cloned().collect();
        for session in sessions {
            lock(&session).expire();
        }
    }

    /// Blocks until the process gets SIGINT or SIGTERM. Signals are watched from this call on; if one can come earlier,
    /// call [`watch_signals`](Self::watch_signals) first.
    ///
    /// # Errors
    /// When the signals cannot be watched.
    pub fn wait(&self) -> Result<(), Error> {
        self.watch_signals()?.wait();
        Ok(())
    }

    /// Watches SIGINT and SIGTERM from this call on. They no longer kill the process, even before it waits for them.
    ///
    /// # Errors
    /// When the signals cannot be watched.
    pub fn watch_signals(&self) -> Result<SignalWatch, Error> {
        SignalWatch::start(&self.handle).map_err(Error::Runtime)
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        // The wait has a bound and the work is on other threads, so that a thread of a runtime can drop an emulator,
        // too.
        let _ = lock(&self.closed).recv_timeout(STOP_TIMEOUT);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
