//! Setting up an emulator.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, RwLock, atomic::AtomicU64},
    time::Instant,
};

use crate::{
    api::state::EmulatorState,
    buckets::{base::BucketBase, config::BucketConfig, folder::Folder, registry::BucketRegistry, stored::StoredBucket},
    emulator::Emulator,
    error::Error,
    naming::check_bucket_name,
    objects::virtual_namespace::VirtualSpec,
    server::listen::listen,
    traffic::{
        fault::{FaultPlan, Faults},
        profile::Profile,
        stats::StatsCounters,
    },
};

/// Sets up an [`Emulator`].
#[derive(Debug)]
#[must_use = "nothing runs before `start`"]
pub struct EmulatorBuilder {
    host: String,
    port: u16,
    threads: usize,
    seed: u64,
    profile: Profile,
    faults: Faults,
    configs: BTreeMap<String, BucketConfig>,
    virtuals: Vec<VirtualSpec>,
    folders: Vec<FolderBucket>,
    /// A bucket that was configured twice.
    duplicate: Option<String>,
}

/// A bucket of the files in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderBucket {
    /// The name of the bucket.
    pub bucket: String,
    /// The directory.
    pub directory: PathBuf,
}

impl EmulatorBuilder {
    /// The address to listen on; `127.0.0.1` by default.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = host.into();
        self
    }

    /// The port to listen on; 0, the default, takes any free port.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The number of threads that serve; 1 by default.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Delays and rate limits; [`Profile::fast`] by default.
    pub fn profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// Adds an empty bucket.
    pub fn bucket(self, name: impl Into<String>) -> Self {
        self.bucket_with(name, BucketConfig::default())
    }

    /// Adds an empty bucket with this configuration, or configures the virtual namespace or folder of the same name.
    pub fn bucket_with(mut self, name: impl Into<String>, config: BucketConfig) -> Self {
        let name = name.into();
        if self.configs.insert(name.clone(), config).is_some() {
            self.duplicate.get_or_insert(name);
        }
        self
    }

    /// Adds a bucket of virtual objects.
    pub fn virtual_namespace(mut self, spec: VirtualSpec) -> Self {
        self.virtuals.push(spec);
        self
    }

    /// Adds a bucket of the files below a directory. Writes to the bucket stay in memory: the directory never changes.
    pub fn folder(mut self, bucket: impl Into<String>, directory: impl Into<PathBuf>) -> Self {
        self.folders.push(FolderBucket { bucket: bucket.into(), directory: directory.into() });
        self
    }

    /// Random faults; none by default.
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// The seed of jitter and faults; 0 by default.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Binds the address and serves on threads of its own, so that blocking code and other runtimes can use the
    /// emulator.
    ///
    /// # Errors
    /// When the name of a bucket is invalid or defined twice, a folder cannot be read, or the address cannot be bound.
    pub fn start(self) -> Result<Emulator, Error> {
        if let Some(name) = self.duplicate {
            return Err(Error::DuplicateBucket(name));
        }
        let buckets = make_buckets(self.configs, self.virtuals, self.folders)?;

        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(self.threads)
            .thread_name("emulator")
            .enable_all()
            .build()
            .map_err(Error::Runtime)?;
        let context = runtime.enter();
        let bound = listen(&self.host, self.port).and_then(|listener| Ok((listener.local_addr()?, listener)));
        drop(context);
        let (address, listener) = match bound {
            Ok(bound) => bound,
            Err(source) => {
                // The caller may be on a thread of another runtime, which must not block until this one has stopped.
                runtime.shutdown_background();
                return Err(Error::Bind { address: format!("{}:{}", self.host, self.port), source });
            }
        };

        let state = EmulatorState {
            buckets,
            profile: RwLock::new(self.profile),
            faults: FaultPlan::new(self.faults, self.seed),
            stats: StatsCounters::default(),
            token: RwLock::default(),
            uploads: Mutex::default(),
            seed: self.seed,
            draws: AtomicU64::new(0),
            started: Instant::now(),
            endpoint: format!("http://{address}"),
        };
        Ok(Emulator::serve(Arc::new(state), listener, runtime))
    }
}

/// Makes all buckets. A configuration without a namespace or folder of its name makes an empty bucket.
fn make_buckets(
    mut configs: BTreeMap<String, BucketConfig>,
    virtuals: Vec<VirtualSpec>,
    folders: Vec<FolderBucket>,
) -> Result<BucketRegistry, Error> {
    let registry = BucketRegistry::default();
    let add = |name: &str, config: BucketConfig, base: BucketBase| {
        check_bucket_name(name).map_err(|why| Error::spec("bucket", name, why))?;
        if registry.add(StoredBucket::new(name, config, base)) {
            Ok(())
        } else {
            Err(Error::DuplicateBucket(name.to_owned()))
        }
    };

    let folders = folders
        .into_iter()
        .map(|FolderBucket { bucket, directory }| Ok((bucket, BucketBase::Folder(Folder::scan(&directory)?))))
        .collect::<Result<Vec<_>, Error>>()?;
    let virtuals = virtuals.into_iter().map(|spec| (spec.bucket().to_owned(), BucketBase::Virtual(spec)));
    for (name, base) in virtuals.chain(folders) {
        let config = configs.remove(&name).unwrap_or_default();
        add(&name, config, base)?;
    }
    for (name, config) in configs {
        add(&name, config, BucketBase::Empty)?;
    }
    Ok(registry)
}

impl Emulator {
    /// Starts the set-up of an emulator.
    pub fn builder() -> EmulatorBuilder {
        EmulatorBuilder {
            host: "127.0.0.1".to_owned(),
            port: 0,
            threads: 1,
            seed: 0,
            profile: Profile::fast(),
            faults: Faults::none(),
            configs: BTreeMap::new(),
            virtuals: Vec::new(),
            folders: Vec::new(),
            duplicate: None,
        }
    }
}
