//! Files of this machine.

mod refused;
mod walk;

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::capabilities::unsupported;
use super::uri::{BucketUri, Scheme};
use super::{
    Attempt, Body, BucketInfo, ByteRange, Capabilities, CopyProgress, CopyRequest, Fields, ListPage, ListRequest,
    LocalReads, ObjectId, ObjectMeta, ObjectRef, Objects, PutRequest, Store, Version, WriteMode,
};
use crate::lock::lock;
use crate::{Error, ErrorKind, Result};
use refused::refused;
use walk::{Found, NameRange, UNFINISHED, Walk, is_plain};

/// Bytes of a file that are read at once.
const CHUNK: u64 = 1 << 20;

/// Files in a page of a listing, where a request names no number.
const PAGE: usize = 10_000;

/// Listings at most that wait for the call for their next page. A listing whose place is lost starts again at its
/// token, which reads folders twice.
const MAX_PARKED: usize = 512;

/// How long a listing waits for that call. Its place holds the names of the folders that it is in.
const PARKED_FOR: Duration = Duration::from_secs(30);

/// What to do about files that change.
const CHANGED: &str = "list the folder again, and keep writers off it while it is read";

/// Files of this machine, as objects: `file:///data/train/1.jpg` is `/data/train/1.jpg`. Names are paths below the root
/// folder, and there are no buckets.
///
/// - The version of a file is its time of modification in nanoseconds, so a file that is replaced or written to after
///   it was listed is an error that names it. What isn't noticed is a change of the same length by a tool that sets that
///   time back, or within the few milliseconds for which the system's clock of files stands still. Files have no
///   checksums.
/// - Symbolic links are followed. A link to nothing, a link to a folder that it is in, a name that isn't UTF-8, and what
///   is neither file nor folder are errors of the listing.
/// - A write goes to a file beside its destination, `.dataflux-*.new`, which listings leave out. It is written to the
///   disk and renamed when it is whole, in place of a symbolic link if there is one. Missing folders are made.
///   [`WriteMode::Create`] needs a file system with hard links. [`WriteMode::Update`] is atomic among the calls of one
///   process: other processes may write meanwhile. Content types aren't kept; a write with metadata or a
///   `Content-Encoding` is refused.
///
/// ```
/// use std::sync::Arc;
///
/// use dataflux::DatafluxDataset;
/// use dataflux::store::{Client, FileStore};
///
/// let folder = tempfile::tempdir()?;
/// std::fs::write(folder.path().join("tom.txt"), "meow")?;
/// let dataset = DatafluxDataset::open(&format!("file://{}/", folder.path().display()))?;
/// assert_eq!(dataset.len(), 1);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct FileStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    /// Listings between two pages, with the token that continues each.
    parked: Mutex<Vec<(String, Walk)>>,
    /// Numbers the tokens, so that no two listings have the same one.
    tokens: AtomicU64,
}

/// The latest time of modification that was given to a file, in nanoseconds. Held while a file is replaced.
static LAST_WRITE: Mutex<i64> = Mutex::new(0);

impl Default for FileStore {
    fn default() -> Self {
        Self::new()
    }
}

impl FileStore {
    /// All files of this machine.
    pub fn new() -> Self {
        Self::below("/")
    }

    /// The files below a folder: of the store below `/data`, `file:///train/1.jpg` is `/data/train/1.jpg`.
    pub fn below(folder: impl Into<PathBuf>) -> Self {
        let shared = Shared { root: folder.into(), parked: Mutex::default(), tokens: AtomicU64::new(rand::random()) };
        Self { shared: Arc::new(shared) }
    }

    /// Runs `work`, which blocks.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&Shared) -> Result<T> + Send + 'static) -> Result<T> {
        let shared = Arc::clone(&self.shared);
        blocking(move || work(&shared)).await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::new(ErrorKind::Internal, "a call for a file panicked").with_source(error)))
}

/// The version of a file: its time of modification in nanoseconds since 1970, and at least 1.
fn version(metadata: &Metadata) -> i64 {
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    i64::try_from(modified.as_nanos()).unwrap_or(i64::MAX).max(1)
}

fn object_ref<'a>(name: &'a str, metadata: &Metadata) -> ObjectRef<'a> {
    ObjectRef { name, size: metadata.len(), version: version(metadata).into(), ..ObjectRef::default() }
}

fn object_meta(name: &str, metadata: &Metadata) -> ObjectMeta {
    ObjectMeta {
        name: name.to_owned(),
        size: metadata.len(),
        version: version(metadata).into(),
        updated: metadata.modified().ok(),
        ..ObjectMeta::default()
    }
}

/// The error of a version that isn't there.
fn replaced(id: &ObjectId, found: i64) -> Error {
    Error::new(ErrorKind::NotFound, "the file was changed")
        .object(id)
        .mismatch(&id.version, Version::<Arc<str>>::Generation(found))
}

/// The last name or folder of the page that a token follows. A listing begins there if its place is lost.
fn place(token: &str) -> Result<&str> {
    let place = token.split_once(' ').map(|(_, place)| place);
    place.ok_or_else(|| Error::new(ErrorKind::Protocol, "the page token isn't one of this store's"))
}

impl Shared {
    /// The path of an object.
    fn path(&self, id: &ObjectId) -> Result<PathBuf> {
        Self::check_bucket(&id.bucket)?;
        if !is_plain(&id.name) {
            return Err(Error::new(ErrorKind::Config, "no file can have this name")
                .object(id)
                .mismatch("parts between the slashes other than '.' and '..'", format_args!("{:?}", &*id.name))
                .hint("choose another name"));
        }
        Ok(self.root.join(&*id.name))
    }

    fn check_bucket(bucket: &str) -> Result<()> {
        if bucket.is_empty() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, "files have no buckets")
            .object(BucketUri { scheme: Scheme::File, bucket })
            .hint("write file:/// and the path"))
    }

    fn open(&self, id: &ObjectId) -> Result<File> {
        let mut options = File::options();
        options.read(true);
        // The opening of a pipe would wait for a writer.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
        options.open(self.path(id)?).map_err(|error| refused(error).object(id))
    }

    /// Opens a file at its version.
    fn open_version(&self, id: &ObjectId) -> Result<(File, Metadata)> {
        let file = self.open(id)?;
        let metadata = file.metadata().map_err(|error| refused(error).object(id))?;
        check_live(id, &metadata)?;
        Ok((file, metadata))
    }

    fn list(&self, request: &ListRequest) -> Result<ListPage> {
        Self::check_bucket(&request.bucket)?;
        let delimiter = request.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty());
        let mut walk = match &request.page_token {
            None => self.walk(request, None)?,
            Some(token) => self.unpark(token).map_or_else(|| self.walk(request, Some(place(token)?)), Ok)?,
        };
        let before = request.page_token.as_deref().map(place).transpose()?;
        let most = request.page_size.map_or(PAGE, |size| size.max(1) as usize);
        let (mut objects, mut prefixes, mut last) = (Objects::default(), Vec::<String>::new(), None::<String>);
        let next_page_token = loop {
            if objects.len() + prefixes.len() == most {
                break last;
            }
            let (name, metadata) = match walk.next()? {
                None => break None,
                Some(Found::Folder(name)) => (name, None),
                Some(Found::File { name, metadata }) => (name, Some(metadata)),
            };
            let below = &name[request.prefix.len()..];
            if let Some((at, delimiter)) = delimiter.and_then(|delimiter| Some((below.find(delimiter)?, delimiter))) {
                let rolled = &name[..request.prefix.len() + at + delimiter.len()];
                // The last page may have ended with what it rolled up into this prefix.
                let is_known =
                    prefixes.last().is_some_and(|last| last == rolled) || before.is_some_and(|before| before == rolled);
                if !is_known {
                    prefixes.push(rolled.to_owned());
                    last = Some(rolled.to_owned());
                }
            } else if let Some(metadata) = metadata {
                let updated = metadata.modified().ok().filter(|_| request.fields != Fields::Sample);
                objects.push(ObjectRef { updated, ..object_ref(&name, &metadata) });
                last = Some(name);
            }
        };
        let next_page_token = next_page_token.map(|last| {
            let token = format!("{:016x} {last}", self.tokens.fetch_add(1, Ordering::Relaxed));
            self.park(token.clone(), walk);
            token
        });
        let mut page = ListPage { date: Some(SystemTime::now()), next_page_token, ..ListPage::default() };
        (page.objects, page.prefixes) = (objects, prefixes);
        Ok(page)
    }

    fn walk(&self, request: &ListRequest, after: Option<&str>) -> Result<Walk> {
        let range = NameRange {
            prefix: request.prefix.clone(),
            after: after.map(str::to_owned),
            start: request.start_offset.clone(),
            end: request.end_offset.clone(),
        };
        Walk::new(&self.root, range, request.delimiter.as_deref() == Some("/"))
    }

    fn park(&self, token: String, walk: Walk) {
        let mut parked = lock(&self.parked);
        if parked.len() == MAX_PARKED {
            parked.remove(0);
        }
        parked.push((token, walk));
    }

    fn unpark(&self, token: &str) -> Option<Walk> {
        let mut parked = lock(&self.parked);
        let found = parked.iter().position(|(own, _)| own == token)?;
        Some(parked.remove(found).1)
    }

    /// Writes a file beside `path` and replaces the one there.
    fn replace(
        &self,
        id: &ObjectId,
        mode: &WriteMode,
        write: impl FnOnce(&mut File) -> Result<()>,
    ) -> Result<ObjectMeta> {
        let path = self.path(id)?;
        let folder = path.parent().unwrap_or(&self.root);
        let refused = |error: io::Error| {
            let error = refused(error).object(id);
            if error.is_not_found() { error.with_kind(ErrorKind::Config) } else { error }
        };
        let (begin, end) = UNFINISHED;
        let beside = folder.join(format!("{begin}{:016x}{end}", rand::random::<u64>()));
        let written = fs::create_dir_all(folder)
            .and_then(|()| File::create_new(&beside))
            .map_err(refused)
            .and_then(|mut file| write(&mut file).map(|()| file))
            // Before the lock, behind which all writes wait.
            .and_then(|file| file.sync_all().map_err(refused).map(|()| file))
            .and_then(|file| publish(id, mode, &file, &beside, &path));
        if written.is_err() {
            // This often fails for the same reason as the write, which is the error that counts.
            let _ = fs::remove_file(&beside);
        }
        written
    }
}

/// Gives a new file its time and its name.
fn publish(id: &ObjectId, mode: &WriteMode, file: &File, beside: &Path, path: &Path) -> Result<ObjectMeta> {
    let refused = |error| refused(error).object(id);
    let mut last_write = lock(&LAST_WRITE);
    let live = match fs::metadata(path) {
        Ok(live) if live.is_dir() => return Err(Error::new(ErrorKind::Config, "this is a folder").object(id)),
        Ok(live) => Some(version(&live)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(refused(error)),
    };
    let wanted = match mode {
        WriteMode::Overwrite => live.map(Version::Generation),
        WriteMode::Create => None,
        WriteMode::Update(version) => Some(version.clone()),
    };
    let live_version = live.map(Version::Generation);
    if wanted != live_version {
        return Err(precondition(id, wanted.as_ref(), live_version.as_ref()));
    }
    // Systems take the time of files from a clock that stands still for milliseconds.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    *last_write = now.max(last_write.saturating_add(1));
    // A file's time may lie in the future. That is no reason for other files to have such a time.
    let written = last_write.max(live.unwrap_or_default().saturating_add(1));
    file.set_modified(UNIX_EPOCH + Duration::from_nanos(written.unsigned_abs())).map_err(refused)?;
    if *mode == WriteMode::Create {
        // Unlike a renaming, this fails if there is a file by now.
        match fs::hard_link(beside, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(precondition(id, None, None));
            }
            linked => linked.map_err(refused)?,
        }
        // The object is there, whatever becomes of the other name.
        let _ = fs::remove_file(beside);
    } else {
        fs::rename(beside, path).map_err(refused)?;
    }
    let metadata = file.metadata().map_err(refused)?;
    Ok(object_meta(&id.name, &metadata))
}

fn precondition(id: &ObjectId, wanted: Option<&Version>, live: Option<&Version>) -> Error {
    let shown = |version: Option<&Version>, none: &str| version.map_or_else(|| none.to_owned(), Version::to_string);
    Error::new(ErrorKind::Precondition, "the precondition does not hold")
        .object(id)
        .mismatch(shown(wanted, "no file"), shown(live, "a file"))
}

/// Checks that this is a file, and of the version that is asked for.
fn check_live(id: &ObjectId, metadata: &Metadata) -> Result<()> {
    if !metadata.is_file() {
        return Err(Error::new(ErrorKind::NotFound, "this is no file").object(id));
    }
    let found = version(metadata);
    if id.version.is_none() || id.version == Version::Generation(found) { Ok(()) } else { Err(replaced(id, found)) }
}

/// Checks that a file is still of the version that it had when it was opened.
fn check_unchanged(id: &ObjectId, opened: i64, now: &Metadata) -> Result<()> {
    let now = version(now);
    if now == opened {
        return Ok(());
    }
    let [opened, now] = [opened, now].map(Version::<Arc<str>>::Generation);
    Err(Error::new(ErrorKind::Changed, "the file was changed while it was read").object(id).mismatch(opened, now))
}

/// A range of a file that is read piece by piece.
struct Reading {
    id: ObjectId,
    file: File,
    version: i64,
    left: u64,
}

impl Reading {
    /// The next bytes. The file may have changed while they were read, and then they are of no version.
    fn chunk(mut self) -> Result<Option<(Bytes, Self)>> {
        let most = self.left.min(CHUNK);
        if most == 0 {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(most as usize);
        let refused = |error| refused(error).object(&self.id);
        (&mut self.file).take(most).read_to_end(&mut bytes).map_err(refused)?;
        check_unchanged(&self.id, self.version, &self.file.metadata().map_err(refused)?)?;
        // A file that is shorter than its metadata says ends the body, which the caller notices.
        self.left = if bytes.is_empty() { 0 } else { self.left - bytes.len() as u64 };
        Ok((!bytes.is_empty()).then(|| (Bytes::from(bytes), self)))
    }
}

impl LocalReads for FileStore {
    fn read(&self, id: &ObjectId, start: Option<u64>, bytes: &mut [u8]) -> Result<()> {
        let refused = |error| refused(error).object(id);
        let changed = |error: Error| match error.kind() {
            ErrorKind::NotFound => error.with_kind(ErrorKind::Changed).hint(CHANGED),
            _ => error,
        };
        let mut file = self.shared.open(id).map_err(changed)?;
        if let Some(start) = start {
            file.seek(SeekFrom::Start(start)).map_err(refused)?;
        }
        let read = file.read_exact(bytes);
        // A file that has its version after the read had it all the time, so one look is enough.
        let metadata = file.metadata().map_err(refused)?;
        check_live(id, &metadata).map_err(changed)?;
        let (size, wanted) = (metadata.len(), start.unwrap_or_default().saturating_add(bytes.len() as u64));
        if size < wanted || (start.is_none() && size > wanted) {
            return Err(Error::new(ErrorKind::Integrity, "the file has another length than its listing says")
                .object(id)
                .mismatch(format_args!("{wanted} bytes"), format_args!("{size} bytes"))
                .hint(CHANGED));
        }
        read.map_err(refused)
    }
}

#[async_trait]
impl Store for FileStore {
    fn local(&self) -> Option<&dyn LocalReads> {
        Some(self)
    }

    fn scheme(&self) -> Scheme {
        Scheme::File
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { versions: true, conditional_writes: true, ..Capabilities::default() }
    }

    async fn list(&self, request: &ListRequest, _: &Attempt) -> Result<ListPage> {
        let request = request.clone();
        let page = self.run(move |shared| shared.list(&request)).await?;
        if let Some(token) = page.next_page_token.clone() {
            let shared = Arc::downgrade(&self.shared);
            tokio::spawn(async move {
                tokio::time::sleep(PARKED_FOR).await;
                if let Some(shared) = shared.upgrade() {
                    drop(shared.unpark(&token));
                }
            });
        }
        Ok(page)
    }

    async fn stat(&self, id: &ObjectId, _: &Attempt) -> Result<ObjectMeta> {
        let id = id.clone();
        self.run(move |shared| {
            let metadata = fs::metadata(shared.path(&id)?).map_err(|error| refused(error).object(&id))?;
            check_live(&id, &metadata)?;
            Ok(object_meta(&id.name, &metadata))
        })
        .await
    }

    async fn get(&self, id: &ObjectId, range: ByteRange, _: &Attempt) -> Result<Body> {
        let id = id.clone();
        let (first, size, version) = self
            .run(move |shared| {
                let (mut file, metadata) = shared.open_version(&id)?;
                let (size, version) = (metadata.len(), version(&metadata));
                let wanted = match range {
                    ByteRange::All => 0..size,
                    ByteRange::Bounded(range) if range.start < range.end.min(size) => range.start..range.end.min(size),
                    ByteRange::Suffix(length) if length.min(size) > 0 => size.saturating_sub(length)..size,
                    range => {
                        return Err(Error::new(ErrorKind::Integrity, "the range lies outside the file")
                            .object(&id)
                            .mismatch(range, format!("{size} bytes")));
                    }
                };
                if wanted.start > 0 {
                    file.seek(SeekFrom::Start(wanted.start)).map_err(|error| refused(error).object(&id))?;
                }
                let reading = Reading { id, file, version, left: wanted.end - wanted.start };
                Ok((reading.chunk()?, size, version))
            })
            .await?;
        // The first piece is read with the opening; most samples have no other.
        let chunks = stream::try_unfold(first, |next| async move {
            let Some((bytes, reading)) = next else { return Ok(None) };
            let rest = if reading.left == 0 { None } else { blocking(move || reading.chunk()).await? };
            Ok(Some((bytes, rest)))
        });
        Ok(Body { version: version.into(), stored_size: Some(size), crc32c: None, chunks: chunks.boxed() })
    }

    async fn bucket_info(&self, bucket: &str, _: &Attempt) -> Result<BucketInfo> {
        Shared::check_bucket(bucket)?;
        Ok(BucketInfo { free: true, ..BucketInfo::default() })
    }

    async fn put(&self, request: &PutRequest, _: &Attempt) -> Result<ObjectMeta> {
        if request.content_encoding.is_some() || request.storage_class.is_some() || !request.metadata.is_empty() {
            let hint = "write without them; a suffix, such as .gz, says how a file is compressed";
            let what = "keep metadata, a Content-Encoding or a storage class with a file";
            return Err(unsupported(None, what, hint));
        }
        let request = request.clone();
        self.run(move |shared| {
            let id = ObjectId::live(request.bucket, request.name).with_scheme(Scheme::File);
            let write = |file: &mut File| file.write_all(&request.data).map_err(|error| refused(error).object(&id));
            shared.replace(&id, &request.mode, write)
        })
        .await
    }

    async fn copy(&self, request: &CopyRequest, _: Option<&str>, _: &Attempt) -> Result<CopyProgress> {
        let request = request.clone();
        self.run(move |shared| {
            let (mut source, metadata) = shared.open_version(&request.source)?;
            let id = ObjectId::live(request.bucket, request.name).with_scheme(Scheme::File);
            let meta = shared.replace(&id, &request.mode, |file| {
                let copied = io::copy(&mut source, file).map_err(|error| refused(error).object(&id))?;
                let after = source.metadata().map_err(|error| refused(error).object(&request.source))?;
                check_unchanged(&request.source, version(&metadata), &after)?;
                if copied == metadata.len() {
                    return Ok(());
                }
                Err(Error::new(ErrorKind::Io, "the file ended early")
                    .object(&request.source)
                    .mismatch(format_args!("{} bytes", metadata.len()), format_args!("{copied} bytes")))
            })?;
            Ok(CopyProgress::Done(meta))
        })
        .await
    }

    async fn delete(&self, id: &ObjectId, _: &Attempt) -> Result<()> {
        let id = id.clone();
        self.run(move |shared| {
            let path = shared.path(&id)?;
            let _write = lock(&LAST_WRITE);
            let metadata = fs::metadata(&path).map_err(|error| refused(error).object(&id))?;
            check_live(&id, &metadata)?;
            fs::remove_file(&path).map_err(|error| refused(error).object(&id))
        })
        .await
    }
}
