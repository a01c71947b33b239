//! Setting up, running, steering and stopping an emulator.

use std::{
    collections::HashMap,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, RwLock, atomic::AtomicU64, mpsc},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{runtime::Runtime, sync::watch};

use crate::{
    bucket::{Base, Bucket, BucketConfig, Namespace},
    buckets,
    content::{Content, Segment, hashes},
    error::Error,
    fault::{Fault, FaultPlan, Faults},
    folder::Folder,
    listen::listen,
    listing::{Entry, ListQuery, page},
    lock::{lock, write},
    object::{Attributes, Object},
    profile::Profile,
    server,
    service::State,
    stats::{Call, Counters, Stats},
    virtual_ns::VirtualSpec,
};

/// How long stopping waits for the listener to close.
const STOP: Duration = Duration::from_secs(2);

/// Attributes of an object that a test puts into a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectOptions {
    /// The storage class; the bucket's when None.
    pub storage_class: Option<String>,
    /// `gzip` for contents that are.
    pub content_encoding: Option<String>,
    /// The media type.
    pub content_type: Option<String>,
    /// An RFC 3339 time of the user's.
    pub custom_time: Option<String>,
    /// The user's own keys and values.
    pub metadata: std::collections::BTreeMap<String, String>,
}

/// Sets up an [`Emulator`].
#[derive(Debug)]
#[must_use = "nothing runs before `start`"]
pub struct Builder {
    host: String,
    port: u16,
    threads: usize,
    seed: u64,
    profile: Profile,
    faults: Faults,
    buckets: Vec<(String, BucketConfig)>,
    virtuals: Vec<VirtualSpec>,
    folders: Vec<(String, PathBuf)>,
}

impl Builder {
    /// The address to listen on; `127.0.0.1` unless told.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = host.into();
        self
    }

    /// The port to listen on; 0, as without this, takes any free one.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Threads that serve; one unless told.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// How fast it answers; [`Profile::fast`] unless told.
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// An empty bucket.
    pub fn bucket(self, name: impl Into<String>) -> Self {
        self.bucket_with(name, BucketConfig::default())
    }

    /// A bucket of this configuration: an empty one, or that of a virtual namespace or folder of the same name.
    pub fn bucket_with(mut self, name: impl Into<String>, config: BucketConfig) -> Self {
        self.buckets.push((name.into(), config));
        self
    }

    /// A bucket of virtual objects.
    pub fn virtual_namespace(mut self, spec: VirtualSpec) -> Self {
        self.virtuals.push(spec);
        self
    }

    /// A bucket of the files below a directory. What is written to the bucket stays in memory: the directory is never
    /// changed.
    pub fn folder(mut self, bucket: impl Into<String>, directory: impl Into<PathBuf>) -> Self {
        self.folders.push((bucket.into(), directory.into()));
        self
    }

    /// Random faults; none unless told.
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// The seed of jitter and faults; 0 unless told.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Binds and serves, on threads of its own: blocking code and other runtimes can use it.
    ///
    /// # Errors
    /// When a bucket's name is bad or taken twice, a folder cannot be read, or the address cannot be bound.
    pub fn start(self) -> Result<Emulator, Error> {
        let namespace = Namespace::default();
        let mut configs: HashMap<String, BucketConfig> = HashMap::new();
        for (name, config) in self.buckets {
            if configs.insert(name.clone(), config).is_some() {
                return Err(Error::DuplicateBucket(name));
            }
        }
        let mut based = Vec::new();
        for spec in self.virtuals {
            based.push((spec.bucket().to_owned(), Base::Virtual(spec)));
        }
        for (bucket, directory) in self.folders {
            based.push((bucket, Base::Folder(Folder::scan(&directory)?)));
        }
        for (name, base) in based {
            let config = configs.remove(&name).unwrap_or_default();
            add(&namespace, &name, config, base)?;
        }
        for (name, config) in configs {
            add(&namespace, &name, config, Base::Empty)?;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(self.threads)
            .thread_name("emulator")
            .enable_all()
            .build()
            .map_err(Error::Runtime)?;
        let within = runtime.enter();
        let bound = listen(&self.host, self.port).and_then(|listener| Ok((listener.local_addr()?, listener)));
        drop(within);
        let (address, listener) = match bound {
            Ok(bound) => bound,
            Err(source) => {
                // Who starts an emulator may be within a runtime, which must not wait for the end of another.
                runtime.shutdown_background();
                return Err(Error::Bind { address: format!("{}:{}", self.host, self.port), source });
            }
        };
        let state = Arc::new(State {
            namespace,
            profile: RwLock::new(self.profile),
            faults: FaultPlan::new(self.faults, self.seed),
            stats: Counters::default(),
            token: RwLock::default(),
            sessions: Mutex::default(),
            seed: self.seed,
            draws: AtomicU64::new(0),
            started: Instant::now(),
            endpoint: format!("http://{address}"),
        });
        let (stop, stopping) = watch::channel(false);
        let (closed, closing) = mpsc::channel();
        let serving = Arc::clone(&state);
        runtime.spawn(async move {
            server::serve(listener, serving, stopping).await;
            // Nobody listens when the emulator was leaked.
            let _ = closed.send(());
        });
        Ok(Emulator { state, stop, closed: Mutex::new(closing), runtime: Some(runtime) })
    }
}

fn add(namespace: &Namespace, name: &str, config: BucketConfig, base: Base) -> Result<(), Error> {
    buckets::check_name(name).map_err(|why| Error::spec("bucket", name, why))?;
    if namespace.add(Bucket::new(name, config, base)) { Ok(()) } else { Err(Error::DuplicateBucket(name.to_owned())) }
}

/// A running emulator. Dropping it stops it: connections end, the port is free, and what it held is gone.
///
/// ```
/// let emulator = dataflux_emulator::Emulator::builder().bucket("photos").start()?;
/// emulator.put("photos", "cat.jpg", "meow");
/// assert_eq!(emulator.names("photos"), ["cat.jpg"]);
/// # Ok::<(), dataflux_emulator::Error>(())
/// ```
pub struct Emulator {
    state: Arc<State>,
    stop: watch::Sender<bool>,
    closed: Mutex<mpsc::Receiver<()>>,
    runtime: Option<Runtime>,
}

impl fmt::Debug for Emulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emulator").field("endpoint", &self.state.endpoint).finish_non_exhaustive()
    }
}

impl Emulator {
    /// Starts setting one up.
    pub fn builder() -> Builder {
        Builder {
            host: "127.0.0.1".to_owned(),
            port: 0,
            threads: 1,
            seed: 0,
            profile: Profile::fast(),
            faults: Faults::none(),
            buckets: Vec::new(),
            virtuals: Vec::new(),
            folders: Vec::new(),
        }
    }

    /// The base URL, such as `http://127.0.0.1:40123`: what `STORAGE_EMULATOR_HOST` wants.
    pub fn endpoint(&self) -> &str {
        &self.state.endpoint
    }

    /// The counters.
    pub fn stats(&self) -> Stats {
        self.state.stats.read()
    }

    /// Sets the counters to zero.
    pub fn reset_stats(&self) {
        self.state.stats.reset();
    }

    /// Creates or replaces an object, and its bucket where that is missing. Returns the generation. Permissions,
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
        if let Err(refusal) = crate::object::check_name(name) {
            panic!("object {name:?}: {}", refusal.message);
        }
        let bucket = self.bucket_or_new(bucket);
        let bytes = bytes.into();
        let (crc32c, md5) = hashes(std::slice::from_ref(&bytes));
        let generation = self.state.namespace.next_generation();
        let object = Object {
            name: name.to_owned(),
            generation,
            metageneration: 1,
            crc32c,
            md5: Some(md5),
            component_count: None,
            created: generation,
            updated: generation,
            attributes: Attributes {
                storage_class: Some(options.storage_class.unwrap_or_else(|| bucket.config().storage_class)),
                content_encoding: options.content_encoding,
                content_type: options.content_type,
                custom_time: options.custom_time,
                metadata: options.metadata,
                ..Attributes::default()
            },
            content: Content::new([Segment::Bytes(bytes)]),
        };
        bucket.replace(name, Some(Arc::new(object)));
        generation
    }

    /// Removes an object; false when there was none. Permissions and holds do not apply.
    pub fn delete(&self, bucket: &str, name: &str) -> bool {
        self.state.namespace.bucket(bucket).is_some_and(|bucket| bucket.replace(name, None))
    }

    /// The contents of an object; None, too, for a file that has changed since the start.
    pub fn get(&self, bucket: &str, name: &str) -> Option<Bytes> {
        let object = self.state.namespace.bucket(bucket)?.get(name).ok()??;
        object.content.read(0, object.size()).ok()
    }

    /// The generation of an object.
    pub fn generation(&self, bucket: &str, name: &str) -> Option<i64> {
        Some(self.state.namespace.bucket(bucket)?.get(name).ok()??.generation)
    }

    /// All names of a bucket in byte order; none when there is no such bucket.
    pub fn names(&self, bucket: &str) -> Vec<String> {
        let Some(bucket) = self.state.namespace.bucket(bucket) else { return Vec::new() };
        let mut names = Vec::new();
        for entry in page(&bucket, &ListQuery::everything()).entries {
            match entry {
                Entry::Object(object) => names.push(object.name.clone()),
                Entry::Run(first, end) => {
                    let mut name = Vec::new();
                    for i in first..end {
                        bucket.base.name(i, &mut name);
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
    /// When the bucket is no virtual namespace or has fewer objects.
    pub fn virtual_name(&self, bucket: &str, index: u64) -> String {
        match self.state.namespace.bucket(bucket).as_deref() {
            Some(Bucket { base: Base::Virtual(spec), .. }) => spec.name(index),
            _ => panic!("no virtual namespace {bucket}"),
        }
    }

    /// Takes a permission away, such as `storage.objects.create`. Every caller counts as a known principal, also one
    /// without credentials, and gets 403; see [`deny_anonymous`](Self::deny_anonymous) for what the service tells the
    /// latter.
    pub fn deny(&self, bucket: &str, permission: &str) {
        write(&self.bucket_or_new(bucket).settings).config.denied.insert(permission.to_owned());
    }

    /// Takes a permission away from anonymous callers: requests without an `Authorization` header get 401. Those with
    /// one, whatever it says, keep the permission unless it is [denied](Self::deny), too.
    pub fn deny_anonymous(&self, bucket: &str, permission: &str) {
        write(&self.bucket_or_new(bucket).settings).config.denied_anonymous.insert(permission.to_owned());
    }

    /// Gives a permission back, to anonymous callers, too.
    pub fn allow(&self, bucket: &str, permission: &str) {
        let bucket = self.bucket_or_new(bucket);
        let config = &mut write(&bucket.settings).config;
        config.denied.remove(permission);
        config.denied_anonymous.remove(permission);
    }

    /// Changes a bucket's configuration, and makes the bucket where it is missing.
    pub fn configure(&self, bucket: &str, change: impl FnOnce(&mut BucketConfig)) {
        let bucket = self.bucket_or_new(bucket);
        let mut settings = write(&bucket.settings);
        change(&mut settings.config);
        settings.metageneration += 1;
    }

    /// Asks every request for this bearer token from now on; with None for none.
    pub fn require_token(&self, token: Option<&str>) {
        *write(&self.state.token) = token.map(str::to_owned);
    }

    /// Replaces the random faults and starts their numbering over.
    pub fn set_faults(&self, faults: Faults) {
        self.state.faults.set(faults);
    }

    /// Replaces delays and limits.
    pub fn set_profile(&self, profile: Profile) {
        *write(&self.state.profile) = profile;
    }

    /// Lets the next `count` calls of a kind go wrong, before any random fault. Scripts for one kind queue up.
    pub fn fault_next(&self, call: Call, fault: Fault, count: u64) {
        self.state.faults.script(call, fault, count);
    }

    /// Ends every unfinished resumable upload, as a week does: later requests get 410.
    pub fn expire_uploads(&self) {
        let sessions: Vec<_> = lock(&self.state.sessions).values().cloned().collect();
        for session in sessions {
            lock(&session).expire();
        }
    }

    /// Blocks until the process gets SIGINT or SIGTERM. Signals are watched from here on; where one may come earlier,
    /// call [`watch_signals`](Self::watch_signals) first.
    ///
    /// # Errors
    /// When the signals cannot be watched.
    pub fn wait(&self) -> Result<(), Error> {
        self.watch_signals()?.wait();
        Ok(())
    }

    /// Watches SIGINT and SIGTERM from now on: they no longer kill the process, not even before it waits for them.
    ///
    /// # Errors
    /// When the signals cannot be watched.
    pub fn watch_signals(&self) -> Result<Signals, Error> {
        let (sender, receiver) = mpsc::channel();
        if let Some(runtime) = &self.runtime {
            let _context = runtime.enter();
            let interrupted = interrupted().map_err(Error::Runtime)?;
            runtime.spawn(async move {
                interrupted.await;
                let _ = sender.send(());
            });
        }
        Ok(Signals { receiver })
    }

    fn bucket_or_new(&self, name: &str) -> Arc<Bucket> {
        loop {
            if let Some(bucket) = self.state.namespace.bucket(name) {
                return bucket;
            }
            self.state.namespace.add(Bucket::new(name, BucketConfig::default(), Base::Empty));
        }
    }
}

/// Signals that are being watched.
#[derive(Debug)]
pub struct Signals {
    receiver: mpsc::Receiver<()>,
}

impl Signals {
    /// Blocks until the first of them, or until the emulator is gone.
    pub fn wait(self) {
        let _ = self.receiver.recv();
    }
}

/// Registers at once; the future ends with the first signal.
#[cfg(unix)]
fn interrupted() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(windows)]
fn interrupted() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = tokio::signal::windows::ctrl_c()?;
    Ok(async move {
        interrupt.recv().await;
    })
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        // Bounded, and on threads that are not the caller's, so that a runtime's thread may do it, too.
        let _ = lock(&self.closed).recv_timeout(STOP);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
