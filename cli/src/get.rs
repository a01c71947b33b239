//! `dataflux get`: downloads the objects below a prefix as files.

mod names;
mod partial;

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dataflux::list::{Filter, LeftOut, Lister, Prefix};
use dataflux::manifest::{Entry, Manifest, ManifestBuilder};
use dataflux::read::{Download, Lanes, MAX_STREAMS, MEMORY_BUDGET, MIN_PART_SIZE};
use dataflux::store::{Client, ObjectId};
use indicatif::ProgressBar;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinSet, spawn_blocking};

use crate::access::AccessArgs;
use crate::encodings::Encodings;
use crate::filter::FilterArgs;
use crate::{output, progress, source, value};

use names::{FilePath, Names, SameNames};
use partial::Swept;

/// Download the objects below a prefix into a folder
///
/// A file has the name of its object below the last slash of the prefix. A file that exists and has the size and CRC32C
/// of its object is kept, so that an interrupted download resumes; any other file is replaced once the new one is
/// complete and proved.
///
/// Until then the new file is beside the old one as .dataflux- and 16 digits. An error, SIGINT and SIGTERM remove it
/// (exit codes 130 and 143). A get that is killed leaves it; a later get into the same folder removes it once it is a
/// day old.
///
/// Nothing is ever written outside the folder, through a symbolic link in it, or over another object's file. All names
/// are checked before anything is read, and names that can't be files are a failure that lists the first hundred: an
/// empty part (a//b), the parts . and .., a zero byte, parts of more than 255 bytes, an object below another (a and
/// a/b), and names that the file system treats as the same, because of case or of Unicode's normal forms.
/// --escape-names makes the first three valid.
///
/// Bytes are written as stored: an object with a Content-Encoding stays compressed, and a notice says so.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  dataflux get gs://bucket/train/ train
  dataflux get gs://bucket/train/ train --include '*.jpg' --concurrency 128
  dataflux get gs://bucket/models/large.bin . --max-streams 16 --memory-budget 1GiB --json

Markers of folders (empty objects whose names end in a slash) become folders.")]
pub(crate) struct Args {
    /// The prefix of the objects' names, as gs://BUCKET/PREFIX or file:///PREFIX; it need not be a whole folder
    uri: Prefix,

    /// The target folder; created if it doesn't exist
    dir: PathBuf,

    /// Load the objects from this manifest, saved by `dataflux ls --save`, instead of listing
    #[arg(long, value_name = "FILE", conflicts_with_all = FilterArgs::OPTIONS)]
    manifest: Option<PathBuf>,

    /// Only objects that a data set takes as samples: no markers of folders, no temporary objects of data loaders, and
    /// no hidden files, such as .DS_Store and what is in .ipynb_checkpoints
    #[arg(long, help_heading = "Filters")]
    samples: bool,

    /// Write characters that can't stand in a file's name as %XX, an empty part as a single %, and % as %25
    #[arg(long)]
    escape_names: bool,

    /// Maximum number of concurrent reads, those of parts included
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = value::at_least_one)]
    concurrency: usize,

    /// Maximum number of concurrent reads of one object
    #[arg(long, value_name = "N", default_value_t = MAX_STREAMS, value_parser = value::at_least_one)]
    max_streams: usize,

    /// Minimum size of the parts in which a large object is read
    #[arg(long, value_name = "BYTES", default_value_t = MIN_PART_SIZE, value_parser = value::bytes)]
    min_part_size: u64,

    /// Maximum number of bytes to hold in memory before they are written
    #[arg(long, value_name = "BYTES", default_value_t = MEMORY_BUDGET, value_parser = value::bytes)]
    memory_budget: u64,

    /// Flush each file to the disk before it gets its name; slower, but files survive a crash of the system
    #[arg(long)]
    sync: bool,

    #[command(flatten)]
    filter: FilterArgs,

    #[command(flatten)]
    access: AccessArgs,
}

/// How long the end waits for partial files to be removed, which takes milliseconds. Tasks that take longer only read.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Default, Serialize)]
struct Report {
    /// All selected objects, including those whose files existed already.
    objects: u64,
    bytes: u64,
    seconds: f64,
    /// Files whose bytes have the CRC32C of their object, including those that existed already.
    verified: u64,
    /// Files that existed already.
    skipped: u64,
    /// Files whose bytes are compressed, as their objects are; omitted if there are none.
    #[serde(skip_serializing_if = "Encodings::is_empty")]
    content_encodings: Encodings,
}

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    let base = if args.samples { Filter::new() } else { Filter::everything() };
    let filter = args.filter.apply(base)?;
    let client = args.access.reader(&args.uri)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let manifest = if let Some(file) = &args.manifest {
        source::check_prefix(Manifest::load(file)?, file, &args.uri)?
    } else {
        let lister = Lister::new(&client, args.uri.clone());
        let _spinner = progress::listing(lister.progress());
        let builder = runtime.block_on(ManifestBuilder::list(lister, filter))?;
        if builder.objects() == 0 {
            return Err(nothing(args, &builder.left_out()));
        }
        builder.finish()?
    };
    fs::create_dir_all(&args.dir).with_context(|| format!("{} can't be created", args.dir.display()))?;
    // Each folder below this one is checked for links; the path to it is the user's own.
    let dir = args.dir.canonicalize().with_context(|| format!("{} can't be opened", args.dir.display()))?;
    let names = Names::new(&args.uri, args.escape_names);
    check_names(&manifest, &names, same_names(&dir)?)?;
    let content_encodings = Encodings::of_manifest(&manifest)?;
    content_encodings.print_notice();
    let started = Instant::now();
    let outcome = runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            done = download(args, &client, &manifest, names, dir) => done.map(Ok),
            _ = interrupt.recv() => Ok(Err(130)),
            _ = terminate.recv() => Ok(Err(143)),
        }
    });
    // Ends the downloads under way, which removes their partial files.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    let report = match outcome? {
        Ok(report) => report,
        Err(code) => {
            progress::print("ended by a signal: run the same command again to resume\n");
            std::process::exit(code);
        }
    };
    let report = Report { seconds: started.elapsed().as_secs_f64(), content_encodings, ..report };
    if json {
        return output::json(&report);
    }
    let rate = report.bytes as f64 / report.seconds.max(1e-9);
    output::table(&[
        ("objects", format!("{}, {} of them existed already", report.objects, report.skipped)),
        ("bytes", format!("{} ({}/s)", output::bytes(report.bytes), indicatif::HumanBytes(rate as u64))),
        ("seconds", format!("{:.3}", report.seconds)),
        ("verified", report.verified.to_string()),
    ])
}

fn nothing(args: &Args, left_out: &LeftOut) -> anyhow::Error {
    if left_out.total() == 0
        && let Some(hint) = source::glob_hint(&args.uri)
    {
        anyhow::anyhow!("{}: no object has this prefix; {hint}", args.uri)
    } else if left_out.total() == 0 {
        anyhow::anyhow!(
            "{}: no object has this prefix; check its spelling, and list what is above it with `dataflux ls`",
            args.uri
        )
    } else {
        let options = args.filter.causes(left_out);
        anyhow::anyhow!("{}: all objects are left out: {left_out}; loosen {options}", args.uri)
    }
}

/// Maximum number of invalid names in an error: enough to see what they have in common.
const MAX_REPORTED: u64 = 100;

/// Checks all names before anything is read. The error lists the names that can't be files.
fn check_names(manifest: &Manifest, names: &Names, same: SameNames) -> Result<()> {
    let mut tree = names::Tree::new(same);
    // Names by reason, in the order in which the reasons were found.
    let (mut refused, mut count) = (Vec::<(String, Vec<String>)>::new(), 0);
    let mut entries = manifest.entries();
    while let Some(entry) = entries.next()? {
        let Err(reason) = names.path(entry.name, entry.size).and_then(|path| tree.add(entry.name, &path)) else {
            continue;
        };
        count += 1;
        if count > MAX_REPORTED {
            continue;
        }
        let name = manifest.prefix().uri(entry.name).to_string();
        match refused.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, names)) => names.push(name),
            None => refused.push((reason, vec![name])),
        }
    }
    let reasons: Vec<_> = refused.iter().map(|(reason, names)| format!("{}: {reason}", names.join(", "))).collect();
    let reasons = reasons.join("; ");
    match count {
        0 => Ok(()),
        1 => bail!(reasons),
        2..=MAX_REPORTED => bail!("{count} of {} objects can't be files: {reasons}", manifest.len()),
        _ => bail!("{count} of {} objects can't be files; the first {MAX_REPORTED}: {reasons}", manifest.len()),
    }
}

/// Which different names the file system treats as the same.
fn same_names(dir: &Path) -> Result<SameNames> {
    // Probe files are named like partial files, so that those of a killed process are removed with them.
    let stem = format!(".dataflux-{:016x}", RandomState::new().hash_one(0));
    let case = probe(dir, &stem, &stem.to_uppercase());
    let case = case.with_context(|| format!("{} can't be written to", dir.display()))?;
    let [composed, decomposed] = partial::FORMS.map(|end| format!("{stem}{end}"));
    // If the file system refuses such names, its rules are unknown, and names that may collide are refused.
    Ok(SameNames { case, form: probe(dir, &composed, &decomposed).unwrap_or(true) })
}

/// Whether a file that is created under one name also exists under another.
fn probe(dir: &Path, name: &str, other: &str) -> io::Result<bool> {
    let file = dir.join(name);
    // Only a new file: a link that somebody planted under this name would have its target emptied.
    OpenOptions::new().write(true).create_new(true).open(&file)?;
    let same = dir.join(other).exists();
    fs::remove_file(&file)?;
    Ok(same)
}

/// The state that all downloads share.
struct Job {
    client: Client,
    dir: PathBuf,
    lanes: Lanes,
    min_part_size: u64,
    max_streams: usize,
    sync: bool,
    swept: Arc<Swept>,
    verified: AtomicU64,
    skipped: AtomicU64,
    bar: ProgressBar,
}

async fn download(args: &Args, client: &Client, manifest: &Manifest, names: Names, dir: PathBuf) -> Result<Report> {
    let job = Arc::new(Job {
        client: client.clone(),
        dir,
        lanes: Lanes::new(args.concurrency, args.memory_budget),
        min_part_size: args.min_part_size,
        max_streams: args.max_streams,
        sync: args.sync,
        swept: Arc::default(),
        verified: AtomicU64::new(0),
        skipped: AtomicU64::new(0),
        bar: progress::samples("downloading", manifest.len()),
    });
    // Dropping the set, as the first error does, ends the downloads under way.
    let mut under_way = JoinSet::new();
    for index in 0..manifest.len() {
        let Some(entry) = manifest.get(index) else { bail!("the manifest was written to while it was read") };
        let path = names.path(&entry.name, entry.size).map_err(anyhow::Error::msg)?;
        let (job, id) = (Arc::clone(&job), manifest.id(&entry));
        under_way.spawn(async move { job.download(id, entry, path).await });
        while under_way.len() >= args.concurrency
            && let Some(done) = under_way.join_next().await
        {
            done??;
        }
    }
    while let Some(done) = under_way.join_next().await {
        done??;
    }
    let (verified, skipped) = (job.verified.load(Ordering::Relaxed), job.skipped.load(Ordering::Relaxed));
    Ok(Report { objects: manifest.len(), bytes: manifest.bytes(), verified, skipped, ..Report::default() })
}

impl Job {
    /// Downloads one object to its path.
    async fn download(&self, id: ObjectId, entry: Entry, path: FilePath) -> Result<()> {
        let about = id.to_string();
        let (dir, swept, size, crc32c) = (self.dir.clone(), Arc::clone(&self.swept), entry.size, entry.crc32c);
        let prepared = spawn_blocking(move || prepare(&dir, &swept, &path, size, crc32c)).await?.context(about)?;
        let verified = match prepared {
            Prepared::Folder => true,
            Prepared::Same => {
                self.skipped.fetch_add(1, Ordering::Relaxed);
                true
            }
            Prepared::Wanted(path) => {
                let download = Download::of(&self.client, id, size, crc32c).within(&self.lanes).sync(self.sync);
                let download = download.min_part_size(self.min_part_size).max_streams(self.max_streams);
                download.into_file(path).await?.verified
            }
        };
        self.verified.fetch_add(u64::from(verified), Ordering::Relaxed);
        self.bar.inc(1);
        Ok(())
    }
}

/// What has to be done about an object.
enum Prepared {
    /// Nothing: the object is the marker of a folder, which exists now.
    Folder,
    /// Nothing: the file exists and has the object's bytes.
    Same,
    /// The object is to be downloaded to this path.
    Wanted(PathBuf),
}

/// Creates the folders of a path, none of which may be a link, and inspects the file.
fn prepare(dir: &Path, swept: &Swept, target: &FilePath, size: u64, crc32c: Option<u32>) -> Result<Prepared> {
    let mut path = dir.to_owned();
    for folder in &target.folders {
        path.push(folder);
        match fs::create_dir(&path) {
            Ok(()) => continue,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("{} can't be created", path.display())),
        }
        if !path.symlink_metadata()?.is_dir() {
            bail!("{} is in the way: it isn't a folder; remove it, or choose another folder", path.display());
        }
    }
    let Some(file) = &target.file else { return Ok(Prepared::Folder) };
    swept.sweep(&path);
    path.push(file);
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Prepared::Wanted(path)),
        Err(error) => Err(error).with_context(|| format!("{} can't be inspected", path.display())),
        Ok(there) if !there.is_file() => {
            bail!("{} is in the way: it isn't a file; remove it, or choose another folder", path.display())
        }
        Ok(there) if there.len() == size && crc32c.is_some() && crc_of(&path)? == crc32c => Ok(Prepared::Same),
        Ok(_) => Ok(Prepared::Wanted(path)),
    }
}

/// CRC32C of a file; `None` if it can't be opened, in which case it is replaced.
fn crc_of(path: &Path) -> Result<Option<u32>> {
    let Ok(mut file) = File::open(path) else { return Ok(None) };
    let (mut buffer, mut crc) = (vec![0; 1 << 20], 0);
    loop {
        match file.read(&mut buffer).with_context(|| format!("{} can't be read", path.display()))? {
            0 => return Ok(Some(crc)),
            read => crc = crc32c::crc32c_append(crc, &buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn probing_follows_no_link_and_empties_no_file() {
        let folder = std::env::temp_dir().join(format!("dataflux-probe-{}", std::process::id()));
        let dir = folder.join("dir");
        fs::create_dir_all(&dir).unwrap();
        fs::write(folder.join("victim"), "precious").unwrap();
        std::os::unix::fs::symlink("../victim", dir.join("planted")).unwrap();
        let planted = probe(&dir, "planted", "PLANTED").unwrap_err().kind();
        let victim = fs::read(folder.join("victim")).unwrap();
        let (first, again) = (same_names(&dir).unwrap(), same_names(&dir).unwrap());
        let left = fs::read_dir(&dir).unwrap().count();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!((planted, victim.as_slice()), (io::ErrorKind::AlreadyExists, b"precious".as_slice()));
        assert_eq!((first, left), (again, 1));
    }
}
