//! Manifests as files, read where they lie.
//!
//! All numbers are little-endian. A file of version 1 is
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `89 44 46 4D 0D 0A 1A 0A`: not ASCII, "DFM", and line ends, which a transfer as text would change |
//! | 8 | 4 | version: 1 |
//! | 12 | 4 | bytes of the head, its CRC32C included |
//! | 16 | 8 | bytes of the file |
//! | 24 | 8 | objects, at least 1 |
//! | 32 | 8 | labels |
//! | 40 | 8 | places of labels |
//! | 48 | 32 | digest |
//! | 80 | 4 | CRC32C of all that follows the head |
//! | 84 | 4, 4 | bytes of the bucket's name and of the prefix |
//! | 92 | 4, 4 | reasons for which objects were left out, and storage classes |
//! | 100 | | the bucket's name; the prefix |
//! | | 8 each | objects left out, by reason in the order of [`Reason::ALL`](crate::list::Reason::ALL) |
//! | | 8, 8 each | objects and bytes by class: unspecified, standard, nearline, coldline, archive, other |
//! | | 4 | CRC32C of the head up to here |
//! | | 8 each | for each chunk of objects, where it ends, counted from the first |
//! | | 8 each | the same for chunks of labels |
//! | | 4 each | for each label in the order of the listing its place in the order of names, or in that of a list of classes (4,294,967,295: in neither); none where that is the same. Of a list of classes at least one is 4,294,967,295, if need be one more than there are labels |
//! | | | the chunks of objects, as `chunk.rs` describes them: all of 4,096 records but the last |
//! | | | the chunks of labels: of these only the names count |
//!
//! The head is small, and what follows it is read once when a file is opened, for its CRC. Of each chunk its head is
//! checked then, too, and that its first and last names are in UTF-8, below the prefix and after those of the chunk before.
//! What is between them is checked when it is read, as far as that it is an object with a name in UTF-8 and a label that
//! there is, or an error. So a file that somebody made up, CRCs and all, may hold names within a chunk that are out of
//! order, doubled or of another prefix, totals that don't add up and a digest of something else: that takes
//! [`Manifest::verify`], which reads every object.

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use super::chunk::{CHUNK, CLASSES};
use super::digest::ObjectsDigest;
use super::growth::{Growth, ListingEnd};
use super::table::{ChunkTable, Labels};
use super::{Digest, LeftOut, Manifest};
use crate::list::Prefix;
use crate::{Error, ErrorKind, Result, Stage, os};

const MAGIC: [u8; 8] = *b"\x89DFM\r\n\x1a\n";
const VERSION: u32 = 1;
/// Bytes of the head before the bucket's name.
const FIXED: usize = 100;
/// Reasons that every file counts, met or not. Those that came later are counted up to the last that was met, so that
/// the file of a listing which met none of them is what it always was.
const LEAST_REASONS: usize = 8;
/// Bytes at the beginning that say what the rest is.
const OPENING: usize = 16;

impl Manifest {
    /// Writes the manifest into a file, whole or not at all: beside it first, then in its place. Two manifests of the
    /// same listing make the same file, byte for byte. Symbolic links are followed, and a file that is replaced leaves its
    /// permissions to the new one.
    ///
    /// # Errors
    /// What [`try_save`](Self::try_save) finds; the disk is full; the listing failed.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.complete()?;
        let path = path.as_ref();
        let target = SaveTarget::of(path)?;
        let written = target.create().and_then(|file| self.write(file)).and_then(|()| target.replace());
        written.map_err(|error| {
            // What is in the way of the one is often in the way of the other, and the first is what counts.
            let _ = fs::remove_file(&target.beside);
            unwritable(path, error)
        })
    }

    /// Finds out whether [`save`](Self::save) may write there, before a listing that takes long: makes a file beside the
    /// one that is named, and removes it.
    ///
    /// # Errors
    /// The folder isn't there or can't be written to; what has this name is no file.
    pub fn try_save(path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let target = SaveTarget::of(path)?;
        let made = target.create().map(drop);
        made.and(fs::remove_file(&target.beside)).map_err(|error| unwritable(path, error))
    }

    fn write(&self, file: File) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        out.write_all(&self.head())?;
        self.body(|bytes| out.write_all(bytes))?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }

    fn head(&self) -> Vec<u8> {
        let (mut crc, mut length) = (0, 0);
        let counted: Result<(), std::convert::Infallible> = self.body(|bytes| {
            crc = crc32c::crc32c_append(crc, bytes);
            length += bytes.len();
            Ok(())
        });
        let Ok(()) = counted;
        let end = self.end();
        let mut left_out = end.left_out;
        let counts = left_out.counts_mut();
        let reasons = counts.iter().rposition(|count| **count > 0).map_or(0, |last| last + 1).max(LEAST_REASONS);
        let left_out = &counts[..reasons];
        let Prefix { bucket, prefix } = &self.prefix;
        let head_bytes = FIXED + bucket.len() + prefix.len() + 8 * left_out.len() + 16 * end.classes.len() + 4;

        let mut head = Vec::with_capacity(head_bytes);
        head.extend(MAGIC);
        head.extend(VERSION.to_le_bytes());
        head.extend((head_bytes as u32).to_le_bytes());
        head.extend(((head_bytes + length) as u64).to_le_bytes());
        head.extend(self.growth.objects.rows().to_le_bytes());
        head.extend(end.labels.names().rows().to_le_bytes());
        head.extend((end.labels.places().len() as u64).to_le_bytes());
        head.extend(end.digest.0);
        head.extend(crc.to_le_bytes());
        for length in [bucket.len(), prefix.len(), left_out.len(), end.classes.len()] {
            head.extend((length as u32).to_le_bytes());
        }
        head.extend(bucket.as_bytes());
        head.extend(prefix.as_bytes());
        head.extend(left_out.iter().flat_map(|count| count.to_le_bytes()));
        head.extend(
            end.classes.iter().flat_map(|(objects, bytes)| [objects.to_le_bytes(), bytes.to_le_bytes()]).flatten(),
        );
        head.extend(crc32c::crc32c(&head).to_le_bytes());
        head
    }

    /// Hands out all that follows the head.
    fn body<E>(&self, mut write: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let labels = &self.end().labels;
        let tables = [&*self.growth.objects, labels.names()];
        for table in tables {
            let mut end = 0;
            for chunk in table.chunks() {
                end += chunk.len() as u64;
                write(&end.to_le_bytes())?;
            }
        }
        for place in labels.places() {
            write(&place.to_le_bytes())?;
        }
        tables.into_iter().flat_map(ChunkTable::chunks).try_for_each(write)
    }

    /// Opens a file that [`save`](Self::save) has written. It is mapped into memory: 18 million objects open in a moment,
    /// and the processes of a machine that open the same file share its memory.
    ///
    /// Replace the file, by `save` or by renaming another, and never write into it while it is open: what is read then
    /// is an error at best, and the end of the process with SIGBUS if the file has become shorter. On a network file
    /// system, such as NFS, SMB, Lustre or FUSE, even a file that another host replaces may be gone here. So a file
    /// there is read into memory as a whole, some 18 bytes an object in each process, and may be replaced by anybody at
    /// any time.
    ///
    /// # Errors
    /// The file can't be read, is no manifest, or one of another version; it was cut short or damaged. Of a file from
    /// somebody who may have made it up, [`verify`](Self::verify) tells the rest.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let io = |error| unreadable(path, error);
        // Before it is opened, since to open a pipe is to wait for whoever writes into it.
        if !fs::metadata(path).map_err(io)?.is_file() {
            return Err(io(io::Error::other("it is no file")));
        }
        let file = File::open(path).map_err(io)?;
        Self::load_from(&file, os::network_file_system(&file), path)
    }

    /// Opens a file that is on this network file system, if it is on any.
    pub(super) fn load_from(file: &File, network: Option<&str>, path: &Path) -> Result<Self> {
        let bytes = match network {
            Some(network) => {
                tracing::info!(file = %path.display(), network, "the manifest is read into memory instead of mapped");
                os::read_file(file)
            }
            None => os::map_file(file),
        };
        Self::of_bytes(bytes.map_err(|error| unreadable(path, error))?, path)
    }

    /// Reads every object, and proves what [`load`](Self::load) takes from the file as it stands: that all names are below
    /// the prefix, in order and each there once, that objects and bytes of each storage class add up, and that the
    /// [digest](Self::digest) is that of the objects. 18 million objects take 1.4 s; needed only for files
    /// from somebody who may have made them up. Waits for the end of the listing.
    ///
    /// # Errors
    /// What isn't so; the listing failed.
    pub fn verify(&self) -> Result<()> {
        let mut entries = self.entries();
        let (mut digest, mut last, mut index) = (ObjectsDigest::default(), String::new(), 0u64);
        let mut classes = [(0u64, 0u64); CLASSES.len()];
        while let Some(entry) = entries.next()? {
            if !entry.name.starts_with(&self.prefix.prefix) {
                return Err(self.made_up(self.prefix(), format_args!("object {index}: {:?}", entry.name)));
            }
            if index > 0 && entry.name <= &*last {
                let got = format_args!("object {index}: {:?} after {last:?}", entry.name);
                return Err(self.made_up("names in order, each once", got));
            }
            digest.push(entry.name.as_bytes(), &entry);
            let class = &mut classes[entry.storage_class as usize];
            *class = (class.0 + 1, class.1.saturating_add(entry.size));
            last.clear();
            last.push_str(entry.name);
            index += 1;
        }
        if classes != self.end().classes {
            return Err(self.made_up("totals by storage class that add up", "others"));
        }
        let digest = digest.finish();
        if ![digest, digest.with_classes(self.labels())].contains(&self.digest()) {
            return Err(self.made_up(format_args!("objects of the digest {}", self.digest()), digest));
        }
        Ok(())
    }

    fn made_up(&self, wanted: impl fmt::Display, got: impl fmt::Display) -> Error {
        let error = Error::new(ErrorKind::Integrity, "this manifest isn't one that dataflux has made");
        let error = match &self.file {
            Some(file) => error.object(file.display()),
            None => error.object(&self.prefix),
        };
        error.stage(Stage::Manifest).mismatch(wanted, got).hint("list again with `dataflux ls --save`")
    }

    /// Reads the bytes of the file at `path`.
    pub(super) fn of_bytes(map: Mmap, path: &Path) -> Result<Self> {
        Self::read(map, path).map_err(|fault| fault.about(path))
    }

    fn read(map: Mmap, path: &Path) -> Result<Self, FileFault> {
        let bytes = &map[..];
        if !bytes.starts_with(&MAGIC) {
            // The beginning of one, or nothing at all.
            let cut = MAGIC.starts_with(bytes);
            return Err(if cut {
                FileFault::Short { wanted: OPENING as u64, got: bytes.len() }
            } else {
                FileFault::Foreign
            });
        }
        let short = |wanted| FileFault::Short { wanted, got: bytes.len() };
        let mut opening = FieldReader(bytes.get(MAGIC.len()..OPENING).ok_or(short(OPENING as u64))?);
        let (version, head_bytes) = (opening.u32()?, opening.u32()? as usize);
        if version != VERSION {
            return Err(FileFault::Version(version));
        }
        let head = bytes.get(..head_bytes).ok_or(short(head_bytes as u64))?;
        let (head, crc) = head.split_last_chunk::<4>().ok_or(FileFault::Damaged("a head"))?;
        if crc32c::crc32c(head) != u32::from_le_bytes(*crc) {
            return Err(FileFault::Damaged("a head of its CRC32C"));
        }
        let head = FileHead::of(head)?;
        if head.file_bytes > bytes.len() as u64 {
            return Err(short(head.file_bytes));
        }
        if head.file_bytes < bytes.len() as u64 {
            return Err(FileFault::Damaged("no byte after its end"));
        }
        let body = &bytes[head_bytes..];
        if crc32c::crc32c(body) != head.crc {
            return Err(FileFault::Damaged("contents of their CRC32C"));
        }
        let mut fields = FieldReader(body);
        let objects = fields.ends(head.objects)?;
        let labels = fields.ends(head.labels)?;
        let places = fields.take(head.places.checked_mul(4))?;
        let places = places.as_chunks().0.iter().map(|place| u32::from_le_bytes(*place)).collect();
        let start = bytes.len() - fields.0.len();
        let chunks_of_objects = fields.take(objects.last().map(|&end| end as u64))?;
        let chunks_of_labels = fields.take(labels.last().map(|&end| end as u64))?;
        if !fields.0.is_empty() || chunks_of_objects.is_empty() {
            return Err(FileFault::Damaged("sections that fill it"));
        }
        // Copied, since they are handed out as they are, without a second look.
        let names = labels.windows(2).map(|bounds| Box::from(&chunks_of_labels[bounds[0]..bounds[1]])).collect();
        let labels = ChunkTable::owned(head.labels, names).and_then(|names| Labels::new(names, places));
        let bounds = objects.iter().map(|end| start + end).collect();
        let objects = ChunkTable::mapped(head.objects, map, bounds).ok_or(FileFault::Damaged("chunks of objects"))?;
        if !objects.is_in_order(head.prefix.prefix.as_bytes()) {
            return Err(FileFault::Damaged("names in order and below its prefix"));
        }
        let end = ListingEnd {
            labels: labels.ok_or(FileFault::Damaged("labels"))?,
            left_out: head.left_out,
            classes: head.classes,
            digest: head.digest,
            failed: None,
        };
        let growth = Arc::new(Growth::whole(Arc::new(objects), end));
        Ok(Self { prefix: head.prefix, growth, _listing: None, file: Some(path.to_owned()), is_listed: false })
    }
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::Io, "the manifest can't be read")
        .stage(Stage::Manifest)
        .object(path.display())
        .hint("check the path; `dataflux ls --save` makes a manifest")
        .with_source(error)
}

/// Where a manifest is saved.
struct SaveTarget {
    /// Behind all symbolic links.
    path: PathBuf,
    /// In the same folder, since files are renamed within one file system only. Its name doesn't grow with that of the
    /// file, which may be as long as names can be.
    beside: PathBuf,
    /// Of the file that is replaced.
    permissions: Option<Permissions>,
}

impl SaveTarget {
    fn of(path: &Path) -> Result<Self> {
        let there = match fs::metadata(path) {
            Ok(there) => Some(there),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(unwritable(path, error)),
        };
        if let Some(there) = there.as_ref().filter(|there| !there.is_file()) {
            let got = if there.is_dir() { "a folder" } else { "a pipe, a socket or a device" };
            return Err(Error::new(ErrorKind::Config, "the manifest can't be written over what is no file")
                .stage(Stage::Manifest)
                .object(path.display())
                .mismatch("a file, or a name that nothing has", got)
                .hint("name another file"));
        }
        let path = followed(path).map_err(|error| unwritable(path, error))?;
        let beside = path.with_file_name(format!(".dataflux-{:016x}.new", rand::random::<u64>()));
        Ok(Self { path, beside, permissions: there.map(|there| there.permissions()) })
    }

    fn create(&self) -> io::Result<File> {
        let file = File::create_new(&self.beside)?;
        // Before anything is in it, which may be for the eyes of few.
        if let Some(permissions) = &self.permissions {
            file.set_permissions(permissions.clone())?;
        }
        Ok(file)
    }

    fn replace(&self) -> io::Result<()> {
        fs::rename(&self.beside, &self.path)?;
        // The name is a part of its folder, and lasts as long where folders can be told to write.
        let folder = self.path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

/// What a path leads to, where that needs not be there yet.
fn followed(path: &Path) -> io::Result<PathBuf> {
    /// As many as Linux follows.
    const MOST_LINKS: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        // That it can't be read says that it is no link.
        let Ok(link) = fs::read_link(&path) else { return Ok(path) };
        path = path.parent().unwrap_or(Path::new("")).join(link);
    }
    Err(io::Error::other("its symbolic links lead to each other"))
}

fn unwritable(path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::Io, "the manifest can't be written")
        .stage(Stage::Manifest)
        .object(path.display())
        .hint("name a file in a folder that exists, that you may write to, and that has room")
        .with_source(error)
}

/// What the head tells.
struct FileHead {
    file_bytes: u64,
    objects: u64,
    labels: u64,
    places: u64,
    digest: Digest,
    crc: u32,
    prefix: Prefix,
    left_out: LeftOut,
    classes: [(u64, u64); CLASSES.len()],
}

impl FileHead {
    fn of(head: &[u8]) -> Result<Self, FileFault> {
        let mut fields = FieldReader(head);
        fields.take(Some(OPENING as u64))?;
        let [file_bytes, objects, labels, places] = [fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?];
        let digest = Digest(*fields.array()?);
        let crc = fields.u32()?;
        let lengths = [fields.u32()?, fields.u32()?];
        let [reasons, of_classes] = [fields.u32()?, fields.u32()?];
        let [bucket, prefix] = lengths.map(|length| fields.take(Some(length.into())).map(std::str::from_utf8));
        let (Ok(bucket), Ok(prefix)) = (bucket?, prefix?) else { return Err(FileFault::Damaged("a prefix in UTF-8")) };
        // As strict as with what a user writes.
        let prefix: Prefix = format!("gs://{bucket}/{prefix}")
            .parse()
            .ok()
            .filter(|parsed: &Prefix| *parsed.bucket == *bucket)
            .ok_or(FileFault::Damaged("a bucket and a prefix"))?;
        let mut left_out = LeftOut::default();
        for reason in 0..reasons as usize {
            let count = fields.u64()?;
            // Of reasons that this version doesn't know there is nothing to say.
            if let Some(known) = left_out.counts_mut().into_iter().nth(reason) {
                *known = count;
            }
        }
        let mut classes = [(0, 0); CLASSES.len()];
        if of_classes as usize != classes.len() {
            return Err(FileFault::Damaged("as many storage classes as there are"));
        }
        for class in &mut classes {
            *class = (fields.u64()?, fields.u64()?);
        }
        let sum = classes.iter().try_fold(0u64, |sum, &(objects, _)| sum.checked_add(objects));
        if objects == 0 || sum != Some(objects) || !fields.0.is_empty() {
            return Err(FileFault::Damaged("counts that fit together"));
        }
        Ok(Self { file_bytes, objects, labels, places, digest, crc, prefix, left_out, classes })
    }
}

/// Bytes that are read one field after another.
struct FieldReader<'a>(&'a [u8]);

impl<'a> FieldReader<'a> {
    fn take(&mut self, bytes: Option<u64>) -> Result<&'a [u8], FileFault> {
        let taken = bytes.and_then(|bytes| self.0.split_at_checked(usize::try_from(bytes).ok()?));
        let (taken, rest) = taken.ok_or(FileFault::Damaged("sections that are in it"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], FileFault> {
        self.take(Some(N as u64))?.first_chunk().ok_or(FileFault::Damaged("fields"))
    }

    fn u32(&mut self) -> Result<u32, FileFault> {
        self.array().map(|bytes| u32::from_le_bytes(*bytes))
    }

    fn u64(&mut self) -> Result<u64, FileFault> {
        self.array().map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// 0, and where each chunk of a table ends that has `rows`.
    fn ends(&mut self, rows: u64) -> Result<Vec<usize>, FileFault> {
        let ends = self.take(rows.div_ceil(CHUNK as u64).checked_mul(8))?;
        let ends = ends.as_chunks().0.iter().map(|end| usize::try_from(u64::from_le_bytes(*end)).unwrap_or(usize::MAX));
        let ends: Vec<usize> = std::iter::once(0).chain(ends).collect();
        if ends.is_sorted() { Ok(ends) } else { Err(FileFault::Damaged("chunks in order")) }
    }
}

/// What is wrong with a file.
enum FileFault {
    Foreign,
    Version(u32),
    Short {
        wanted: u64,
        got: usize,
    },
    /// What the file doesn't have.
    Damaged(&'static str),
}

impl FileFault {
    fn about(self, path: &Path) -> Error {
        const AGAIN: &str = "list again with `dataflux ls --save`";
        let error = match self {
            Self::Foreign => Error::new(ErrorKind::Config, "this is no manifest")
                .mismatch("a file that `dataflux ls --save` has made", "one that begins otherwise")
                .hint(format!("name another file, or {AGAIN}")),
            Self::Version(version) => Error::new(ErrorKind::Config, "this manifest is of another version of dataflux")
                .mismatch(format_args!("format {VERSION}"), format_args!("format {version}"))
                .hint(format!("open it with the version that made it, or {AGAIN}")),
            Self::Short { wanted, got } => Error::new(ErrorKind::Integrity, "this manifest was cut short")
                .mismatch(format_args!("at least {wanted} bytes"), got)
                .hint(format!("copy it again, or {AGAIN}")),
            Self::Damaged(wanted) => Error::new(ErrorKind::Integrity, "this manifest is damaged")
                .mismatch(wanted, "something else")
                .hint(format!("copy it again, or {AGAIN}")),
        };
        error.stage(Stage::Manifest).object(path.display())
    }
}
