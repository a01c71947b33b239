//! Manifests as files, which are mapped into memory.
//!
//! All numbers are little-endian. A file of version 2 is
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `89 44 46 4D 0D 0A 1A 0A`: not ASCII, "DFM", and line ends, which a transfer as text would change |
//! | 8 | 4 | version: 2 |
//! | 12 | 4 | bytes of the head, its CRC32C included |
//! | 16 | 8 | bytes of the file |
//! | 24 | 8 | objects, at least 1 |
//! | 32 | 8 | labels |
//! | 40 | 8 | indexes of labels |
//! | 48 | 16, 8, 8 | digest: of names, sizes and checksums |
//! | 80 | 4 | CRC32C of all that follows the head |
//! | 84 | 4, 4 | bytes of the bucket and of the prefix |
//! | 92 | 4, 4 | reasons for which objects were left out, and storage classes |
//! | 100 | | the bucket: its name, and unless it is of `gs://`, the scheme and `://` before that; the prefix |
//! | | 8 each | objects left out, by reason in the order of [`Reason::ALL`](crate::list::Reason::ALL) |
//! | | 8, 8 each | objects and bytes by class: unspecified, standard, nearline, coldline, archive, other |
//! | | 4 | CRC32C of the head up to here |
//! | | 8 each | for each chunk of objects, where it ends, counted from the first |
//! | | 8 each | the same for chunks of labels |
//! | | 4 each | for each label in the order of the listing, its index in the order of names or in a list of classes (4,294,967,295: in neither); absent where the order of the listing is that of names. For a list of classes at least one is 4,294,967,295, which may be an additional one. For labels that aren't those of folders the last one, an additional one, is 4,294,967,294 |
//! | | | the chunks of objects, as `chunk.rs` describes them: all of 4,096 records but the last |
//! | | | the chunks of labels, whose records have no meaning except for their names |
//!
//! The head is small. What follows it is read once when a file is opened, to check its CRC. Then the head of each chunk
//! is checked, and that its first and last names are in UTF-8, below the prefix, and after those of the chunk before.
//! The records between them are checked when they are read: each is an object with a name in UTF-8 and an existing
//! label, or an error. So a forged file with valid CRCs may hold names within a chunk that are out of order, doubled or
//! of another prefix, totals that don't add up, and a wrong digest. [`Manifest::verify`] finds these, since it reads
//! every object.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use super::chunk::CHUNK;
use super::digest::{LabelsDigest, ObjectsDigest};
use super::growth::{ClassTotals, Growth, ListingEnd};
use super::save::{check_save, save};
use super::table::{ChunkTable, LabelTexts};
use super::{Digest, LeftOut, Manifest};
use crate::list::Prefix;
use crate::store::Scheme;
use crate::{Error, ErrorKind, Result, Stage, os};

/// What errors of saving call it.
const WHAT: &str = "the manifest";
const MAGIC: [u8; 8] = *b"\x89DFM\r\n\x1a\n";
const VERSION: u32 = 2;
/// Bytes of the head before the bucket.
const FIXED: usize = 100;
/// Reasons that every file counts, whether they apply or not. Reasons added later are only written up to the last one
/// that applies, so that files without them never change.
const MIN_REASONS: usize = 8;
/// Bytes before the length of the file: magic number, version and length of the head.
const OPENING: usize = 16;

impl Manifest {
    /// Writes the manifest into a file, whole or not at all: it is written beside its destination and then renamed. Two
    /// manifests of the same listing make the same file, byte for byte. Symbolic links are followed, and the
    /// permissions of a file that is replaced are kept.
    ///
    /// # Errors
    /// Those of [`check_save`](Self::check_save); the disk is full; the listing failed; the samples have [several
    /// parts](crate::Parts), which a file doesn't hold: save the manifest of the data set before that.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.complete()?;
        if self.parts.is_some() {
            return Err(Error::new(ErrorKind::Unsupported, "a file can't hold samples of several objects")
                .stage(Stage::Manifest)
                .object(path.as_ref().display())
                .mismatch("a manifest of objects", format_args!("one whose samples have {} parts", self.part_count()))
                .hint("save dataset.manifest() before .parts(..), and call .parts(..) on what from_manifest() opens"));
        }
        save(path.as_ref(), WHAT, |file| self.write(file))
    }

    /// Checks whether [`save`](Self::save) can write to `path`, for use before a long listing: makes a file beside
    /// `path` and removes it.
    ///
    /// # Errors
    /// The folder doesn't exist or can't be written to; `path` exists and is no file.
    pub fn check_save(path: impl AsRef<Path>) -> Result<()> {
        check_save(path.as_ref(), WHAT)
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
        let counts = end.left_out.0;
        let reasons = counts.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1).max(MIN_REASONS);
        let left_out = &counts[..reasons];
        let totals = end.totals.iter();
        let Prefix { scheme, bucket, prefix } = &self.prefix;
        let bucket = if *scheme == Scheme::Gs { bucket.to_string() } else { self.prefix.bucket_uri().to_string() };
        let head_bytes = FIXED + bucket.len() + prefix.len() + 8 * left_out.len() + 16 * totals.len() + 4;

        let mut head = Vec::with_capacity(head_bytes);
        head.extend(MAGIC);
        head.extend(VERSION.to_le_bytes());
        head.extend((head_bytes as u32).to_le_bytes());
        head.extend(((head_bytes + length) as u64).to_le_bytes());
        head.extend(self.growth.objects.rows().to_le_bytes());
        head.extend(end.labels.names().rows().to_le_bytes());
        head.extend((end.labels.indexes().len() as u64).to_le_bytes());
        head.extend(end.digest.bytes());
        head.extend(crc.to_le_bytes());
        for length in [bucket.len(), prefix.len(), left_out.len(), totals.len()] {
            head.extend((length as u32).to_le_bytes());
        }
        head.extend(bucket.as_bytes());
        head.extend(prefix.as_bytes());
        head.extend(left_out.iter().flat_map(|count| count.to_le_bytes()));
        head.extend(totals.flat_map(|total| [total.objects.to_le_bytes(), total.bytes.to_le_bytes()]).flatten());
        head.extend(crc32c::crc32c(&head).to_le_bytes());
        head
    }

    /// Passes everything behind the head to `write`.
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
        for index in labels.indexes() {
            write(&index.to_le_bytes())?;
        }
        tables.into_iter().flat_map(ChunkTable::chunks).try_for_each(write)
    }

    /// Opens a file that [`save`](Self::save) has written. The file is mapped into memory, so 18 million objects open
    /// in a moment, and processes on the same machine that open the same file share its memory.
    ///
    /// Replace the file by `save` or by renaming another file, but never write into it while it is open: a read then
    /// returns an error at best, and ends the process with SIGBUS if the file has become shorter. On a network file
    /// system, for example NFS, SMB, Lustre or FUSE, even a file that another host replaces may disappear here. So a
    /// file there is read into memory as a whole, which takes some 18 bytes for each object in each process, and may be
    /// replaced at any time.
    ///
    /// # Errors
    /// The file can't be read, is no manifest, or has another version; it was cut short or damaged. For a file from an
    /// untrusted source, [`verify`](Self::verify) checks the rest.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let io = |error| unreadable(path, error);
        // Checked before the file is opened, since opening a pipe waits for its writer.
        if !fs::metadata(path).map_err(io)?.is_file() {
            return Err(io(io::Error::other("it is no file")));
        }
        let file = File::open(path).map_err(io)?;
        Self::load_from(&file, os::network_file_system(&file), path)
    }

    /// Opens a file that is on the network file system `network`, if it is on any.
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

    /// Reads every object, and checks what [`load`](Self::load) doesn't: that all names are below the prefix, in order,
    /// and each there once, that objects and bytes of each storage class add up, and that the [digest](Self::digest) is
    /// that of the objects. This is needed only for files from an untrusted source. 18 million objects take 1.4 s.
    /// Waits for the end of the listing.
    ///
    /// # Errors
    /// One of these doesn't hold; the listing failed.
    pub fn verify(&self) -> Result<()> {
        let (root, mut entries) = (self.names_root()?, self.entries());
        let (mut digest, mut last, mut index) = (ObjectsDigest::default(), String::new(), 0u64);
        let mut given = LabelsDigest::default();
        let mut totals = ClassTotals::default();
        while let Some(entry) = entries.next()? {
            if !entry.name.starts_with(&self.prefix.prefix) {
                return Err(self.forged(self.prefix(), format_args!("object {index}: {:?}", entry.name)));
            }
            if index > 0 && entry.name <= &*last {
                let got = format_args!("object {index}: {:?} after {last:?}", entry.name);
                return Err(self.forged("names in order, each once", got));
            }
            digest.push(entry.name.as_bytes().get(root..).unwrap_or_default(), &entry);
            given.push(entry.label);
            totals.add(entry.storage_class, entry.size);
            last.clear();
            last.push_str(entry.name);
            index += 1;
        }
        if let Some(parts) = &self.parts {
            totals.merge(&parts.sums.totals);
        }
        if totals != self.end().totals {
            return Err(self.forged("totals by storage class that add up", "others"));
        }
        let digest = self.of_all_parts(digest.finish());
        let is_right = if self.end().labels.are_given() {
            given.finish(digest, self.labels(), Some) == self.digest()
        } else {
            [digest, digest.with_classes(self.labels())].contains(&self.digest())
        };
        if !is_right {
            return Err(self.forged(format_args!("objects of the digest {}", self.digest()), digest));
        }
        Ok(())
    }

    fn forged(&self, wanted: impl fmt::Display, got: impl fmt::Display) -> Error {
        let error = Error::new(ErrorKind::Integrity, "this manifest isn't one that dataflux has made");
        let error = match &self.file {
            Some(file) => error.object(file.display()),
            None => error.object(&self.prefix),
        };
        error.stage(Stage::Manifest).mismatch(wanted, got).hint("list again with `dataflux ls --save`")
    }

    /// Reads a manifest from the bytes of the file at `path`.
    pub(super) fn of_bytes(map: Mmap, path: &Path) -> Result<Self> {
        Self::read(map, path).map_err(|fault| fault.about(path))
    }

    fn read(map: Mmap, path: &Path) -> Result<Self, FileFault> {
        let bytes = &map[..];
        if !bytes.starts_with(&MAGIC) {
            // An empty file, or a manifest cut within its magic number.
            let is_cut = MAGIC.starts_with(bytes);
            return Err(if is_cut {
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
        let indexes = fields.take(head.label_indexes.checked_mul(4))?;
        let indexes = indexes.as_chunks().0.iter().map(|index| u32::from_le_bytes(*index)).collect();
        let start = bytes.len() - fields.0.len();
        let chunks_of_objects = fields.take(objects.last().map(|&end| end as u64))?;
        let chunks_of_labels = fields.take(labels.last().map(|&end| end as u64))?;
        if !fields.0.is_empty() || chunks_of_objects.is_empty() {
            return Err(FileFault::Damaged("sections that fill it"));
        }
        // Labels are copied, since they are handed out later without another check.
        let names = labels.windows(2).map(|bounds| Box::from(&chunks_of_labels[bounds[0]..bounds[1]])).collect();
        let labels = ChunkTable::owned(head.labels, names).and_then(|names| LabelTexts::new(names, indexes));
        let bounds = objects.iter().map(|end| start + end).collect();
        let objects = ChunkTable::mapped(head.objects, map, bounds).ok_or(FileFault::Damaged("chunks of objects"))?;
        if !objects.is_in_order(head.prefix.prefix.as_bytes()) {
            return Err(FileFault::Damaged("names in order and below its prefix"));
        }
        let end = ListingEnd {
            labels: labels.ok_or(FileFault::Damaged("labels"))?,
            left_out: head.left_out,
            totals: head.totals,
            digest: head.digest,
            failed: None,
        };
        let growth = Arc::new(Growth::whole(Arc::new(objects), end));
        Ok(Self { file: Some(path.to_owned()), ..Self::with_growth(head.prefix, growth) })
    }
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::Io, "the manifest can't be read")
        .stage(Stage::Manifest)
        .object(path.display())
        .hint("check the path; `dataflux ls --save` makes a manifest")
        .with_source(error)
}

/// The head of a file.
struct FileHead {
    file_bytes: u64,
    objects: u64,
    labels: u64,
    label_indexes: u64,
    digest: Digest,
    /// CRC32C of everything behind the head.
    crc: u32,
    prefix: Prefix,
    left_out: LeftOut,
    totals: ClassTotals,
}

impl FileHead {
    fn of(head: &[u8]) -> Result<Self, FileFault> {
        let mut fields = FieldReader(head);
        fields.take(Some(OPENING as u64))?;
        let [file_bytes, objects, labels, label_indexes] = [fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?];
        let digest = Digest::of_bytes(*fields.array()?);
        let crc = fields.u32()?;
        let lengths = [fields.u32()?, fields.u32()?];
        let [reasons, storage_classes] = [fields.u32()?, fields.u32()?];
        let [bucket, prefix] = lengths.map(|length| fields.take(Some(length.into())).map(std::str::from_utf8));
        let (Ok(bucket), Ok(prefix)) = (bucket?, prefix?) else { return Err(FileFault::Damaged("a prefix in UTF-8")) };
        let (scheme, bucket) = bucket.split_once("://").unwrap_or((Scheme::Gs.as_str(), bucket));
        // Parsed as strictly as a user's URI.
        let prefix: Prefix = format!("{scheme}://{bucket}/{prefix}")
            .parse()
            .ok()
            .filter(|parsed: &Prefix| *parsed.bucket == *bucket)
            .ok_or(FileFault::Damaged("a bucket and a prefix"))?;
        let mut left_out = LeftOut::default();
        for reason in 0..reasons as usize {
            let count = fields.u64()?;
            // Counts of reasons that this version doesn't know are ignored.
            if let Some(known) = left_out.0.get_mut(reason) {
                *known = count;
            }
        }
        let mut totals = ClassTotals::default();
        if storage_classes as usize != totals.iter().len() {
            return Err(FileFault::Damaged("as many storage classes as there are"));
        }
        for total in totals.iter_mut() {
            (total.objects, total.bytes) = (fields.u64()?, fields.u64()?);
        }
        let sum = totals.iter().try_fold(0u64, |sum, total| sum.checked_add(total.objects));
        if objects == 0 || sum != Some(objects) || !fields.0.is_empty() {
            return Err(FileFault::Damaged("counts that fit together"));
        }
        Ok(Self { file_bytes, objects, labels, label_indexes, digest, crc, prefix, left_out, totals })
    }
}

/// Reads fields from the beginning of bytes.
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

    /// 0, and where each chunk of a table with `rows` rows ends.
    fn ends(&mut self, rows: u64) -> Result<Vec<usize>, FileFault> {
        let ends = self.take(rows.div_ceil(CHUNK as u64).checked_mul(8))?;
        let ends = ends.as_chunks().0.iter().map(|end| usize::try_from(u64::from_le_bytes(*end)).unwrap_or(usize::MAX));
        let ends: Vec<usize> = std::iter::once(0).chain(ends).collect();
        if ends.is_sorted() { Ok(ends) } else { Err(FileFault::Damaged("chunks in order")) }
    }
}

/// What is wrong with a file.
enum FileFault {
    /// It isn't a manifest.
    Foreign,
    /// It has this other version.
    Version(u32),
    Short {
        wanted: u64,
        got: usize,
    },
    /// It lacks this.
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
