//! The cache by itself: what is put in is what comes out, or nothing is.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Instant;

use proptest::prelude::*;

use super::format::UNIT;
use super::*;

/// Longer than anything here takes, so that only a hang lasts that long.
const HANG: Duration = Duration::from_secs(60);

/// A folder that is removed when this is dropped.
struct ScratchCache(PathBuf);

impl ScratchCache {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("dataflux-cache-{:016x}", rand::random::<u64>()));
        Self(path)
    }

    fn open(&self, segment_bytes: u64) -> Cache {
        self.bounded(1 << 30, segment_bytes)
    }

    fn bounded(&self, max_bytes: u64, segment_bytes: u64) -> Cache {
        self.with_files(max_bytes, segment_bytes, usize::MAX)
    }

    fn with_files(&self, max_bytes: u64, segment_bytes: u64, max_open: usize) -> Cache {
        Cache::of_segments(&self.0, max_bytes, segment_bytes, max_open).unwrap()
    }

    fn segments(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path());
        let mut segments: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "segment")).collect();
        segments.sort();
        segments
    }

    fn bytes(&self) -> u64 {
        self.segments().iter().map(|path| path.metadata().unwrap().len()).sum()
    }

    /// A copy of the folder, as if a process were killed now.
    fn as_killed(&self) -> Self {
        let copy = Self::new();
        copy_folder(&self.0, &copy.0);
        copy
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

impl Drop for ScratchCache {
    fn drop(&mut self) {
        // Writer threads that are about to end may still use the folder.
        for _ in 0..100 {
            if fs::remove_dir_all(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The name and the bytes of an object, by its number.
fn object(number: u32) -> (String, Vec<u8>) {
    let name = format!("p/{number:04}");
    let size = 1 + (number as usize * 7_919) % 400;
    let bytes = name.bytes().cycle().take(size).collect();
    (name, bytes)
}

fn put(cache: &Cache, number: u32) {
    let (name, bytes) = object(number);
    let key = CacheKey::of_generation("data", &name, i64::from(number));
    cache.put(&key, crc32c::crc32c(&bytes), &bytes, &Arc::default());
}

fn hash(number: u32) -> u64 {
    CacheKey::of_generation("data", &object(number).0, i64::from(number)).hash()
}

/// Whether the cache has the object. Panics if it has other bytes than were put.
fn has(cache: &Cache, number: u32) -> bool {
    cache.refresh();
    let (name, bytes) = object(number);
    let key = CacheKey::of_generation("data", &name, i64::from(number));
    let Some(location) = cache.find([key.hash()])[0] else { return false };
    let wanted = CacheRequest { key, location, size: bytes.len() as u64, crc32c: crc32c::crc32c(&bytes) };
    let mut into = vec![0; wanted.bytes()];
    let Some(range) = cache.read(&[wanted], &mut into)[0].clone() else { return false };
    assert_eq!(into[range], bytes, "{name}");
    true
}

fn eventually(what: &str, is: impl Fn() -> bool) {
    let until = Instant::now() + HANG;
    while !is() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn samples_are_visible_to_all_processes() {
    let folder = ScratchCache::new();
    let (one, other) = (folder.open(4 << 10), folder.open(4 << 10));
    (0..100).for_each(|number| put(&one, number));
    (100..200).for_each(|number| put(&other, number));
    for cache in [&one, &other] {
        cache.flush(HANG);
    }
    let third = folder.open(4 << 10);
    assert!(folder.segments().len() > 8, "closed ones and open ones");
    for cache in [&one, &other, &third] {
        assert!((0..200).all(|number| has(cache, number)));
        assert!(!has(cache, 200));
        assert_eq!(cache.samples(), 200);
    }
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder.0), 0o700);
    for name in [MARKER_NAME, "lock", "claims"] {
        let path = folder.0.join(name);
        assert!(name == "claims" && !path.exists() || mode(&path) == 0o600, "{name}");
    }
    assert!(folder.segments().iter().all(|path| mode(path) == 0o600));
}

const MARKER_NAME: &str = "dataflux-cache";

#[test]
fn another_generation_or_crc_is_a_miss() {
    let folder = ScratchCache::new();
    let cache = folder.open(4 << 10);
    put(&cache, 1);
    cache.flush(HANG);
    let (name, bytes) = object(1);
    let key = CacheKey::of_generation("data", &name, 2);
    assert_eq!(cache.find([key.hash()]), [None]);
    // As when two keys have one hash.
    let location = cache.find([hash(1)])[0].unwrap();
    let crc32c = crc32c::crc32c(&bytes);
    for wanted in [
        CacheRequest { key, location, size: bytes.len() as u64, crc32c },
        CacheRequest {
            key: CacheKey::of_generation("data", &name, 1),
            location,
            size: bytes.len() as u64,
            crc32c: !crc32c,
        },
        CacheRequest { key: CacheKey::of_generation("data", &name, 1), location, size: bytes.len() as u64 - 1, crc32c },
    ] {
        assert_eq!(cache.read(&[wanted], &mut vec![0; wanted.bytes()]), [None]);
    }
}

/// A segment that is truncated at any byte opens, has all whole records, and is continued.
#[test]
fn a_segment_truncated_anywhere() {
    let folder = ScratchCache::new();
    let cache = folder.open(1 << 20);
    (0..4).for_each(|number| put(&cache, number));
    cache.flush(HANG);
    let size = folder.bytes();
    let mut whole = 0;
    for end in 0..size {
        let killed = folder.as_killed();
        fs::File::options().write(true).open(&killed.segments()[0]).unwrap().set_len(end).unwrap();
        let cache = killed.open(1 << 20);
        let there = (0..4).filter(|number| has(&cache, *number)).count();
        assert!((0..there as u32).all(|number| has(&cache, number)), "the first ones, at {end}");
        whole = whole.max(there);
        (0..8).for_each(|number| put(&cache, number));
        cache.flush(HANG);
        assert!((0..8).all(|number| has(&cache, number)), "at {end}");
        assert_eq!(killed.segments().len(), 1, "it is continued, at {end}");
        let killed = killed.as_killed();
        let again = killed.open(1 << 20);
        assert!((0..8).all(|number| has(&again, number)), "at {end}");
    }
    assert_eq!(whole, 3, "otherwise this proves nothing");
}

/// A segment whose writer runs `does` before one of the calls.
struct InterruptedSegment<'a> {
    file: &'a fs::File,
    before: std::cell::Cell<usize>,
    does: &'a dyn Fn(),
}

impl InterruptedSegment<'_> {
    fn call(&self) {
        let left = self.before.get();
        self.before.set(left.wrapping_sub(1));
        if left == 0 {
            (self.does)();
        }
    }
}

impl segment::SegmentSource for InterruptedSegment<'_> {
    fn read_exact_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        self.call();
        FileExt::read_exact_at(self.file, into, at)
    }

    fn size(&self) -> io::Result<u64> {
        self.call();
        segment::SegmentSource::size(self.file)
    }
}

#[test]
fn a_segment_that_is_closed_during_a_scan_is_learned_whole() {
    let folder = ScratchCache::new();
    fs::create_dir(&folder.0).unwrap();
    let mut bytes = format::SegmentHead::default().encode().to_vec();
    let mut entries = Vec::new();
    let ends: Vec<_> = (0..6)
        .map(|number| {
            entries.push(format::IndexEntry { hash: hash(number), at_unit: (bytes.len() as u64 / UNIT) as u32 });
            let (name, object) = object(number);
            let key = CacheKey::of_generation("data", &name, i64::from(number));
            key.write_record(&object, crc32c::crc32c(&object), &mut bytes);
            bytes.len()
        })
        .collect();
    // Before the first scan, and after one.
    for seen in [0, 2] {
        for before in 0.. {
            let path = folder.0.join(format!("{seen}-{before}"));
            let file = fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
            let (mut scan, mut known) = (segment::SegmentScan::default(), Vec::new());
            if seen > 0 {
                file.write_all_at(&bytes[..ends[seen - 1]], 0).unwrap();
                known.extend(scan.resume(&file).unwrap());
            }
            file.write_all_at(&bytes[..ends[3]], 0).unwrap();
            let close = || {
                file.write_all_at(&bytes[ends[3]..], ends[3] as u64).unwrap();
                segment::close(&file, bytes.len() as u64, &entries).unwrap();
            };
            let watched = InterruptedSegment { file: &file, before: before.into(), does: &close };
            known.extend(scan.resume(&watched).unwrap());
            let has_closed = watched.before.get() > before;
            if !has_closed {
                assert_eq!(before, 3, "the head, the size, the records");
                break;
            }
            // As at the next refresh.
            if !scan.is_complete {
                known.extend(scan.resume(&file).unwrap());
            }
            assert!(scan.is_complete);
            assert_eq!(known, entries, "{seen} known, closed before call {before}");
        }
    }
}

#[test]
fn the_oldest_segment_that_no_process_uses_is_evicted() {
    let folder = ScratchCache::new();
    let (segment, max) = (4 << 10, 32 << 10);
    let first = folder.bounded(max, segment);
    for number in 0..1_000 {
        put(&first, number);
        first.flush(HANG);
        assert!(folder.bytes() <= max, "{}", folder.bytes());
    }
    let kept: Vec<_> = (0..1_000).filter(|number| has(&first, *number)).collect();
    assert!(kept.len() > 80 && kept == (0..kept.len() as u32).collect::<Vec<_>>(), "what came first: {kept:?}");

    // Another process, which uses one of the segments.
    let second = folder.bounded(max, segment);
    assert!(has(&second, 0));
    put(&second, 2_000);
    second.flush(HANG);
    assert!(!has(&second, 2_000), "all of it is in use");
    drop(first);
    eventually("the first has closed its segments", || {
        second.begin_epoch();
        put(&second, 2_000);
        second.flush(HANG);
        has(&second, 2_000)
    });
    (2_001..3_000).for_each(|number| put(&second, number));
    second.flush(HANG);
    assert!(has(&second, 0), "its segment is in use");
    assert!(!kept[20..].iter().any(|number| has(&second, *number)));
    assert!(folder.bytes() <= max, "{}", folder.bytes());

    // A loop that changes to other data.
    for _ in 0..10 {
        second.begin_epoch();
    }
    (3_000..3_500).for_each(|number| put(&second, number));
    second.flush(HANG);
    assert!(has(&second, 3_000) && !has(&second, 0));
    assert!(folder.bytes() <= max, "{}", folder.bytes());
}

#[test]
fn a_large_cache_has_few_files_open_and_keeps_used_segments() {
    let folder = ScratchCache::new();
    let (segment, max) = (4 << 10, 64 << 10);
    let cache = folder.with_files(max, segment, 3);
    let open = |cache: &Cache| cache.0.shared.segments().values().filter(|segment| segment.is_open()).count();
    for number in 0..1_000 {
        put(&cache, number);
        cache.flush(HANG);
        assert!(open(&cache) <= 3);
    }
    let kept: Vec<_> = (0..1_000).filter(|number| has(&cache, *number)).collect();
    assert!(folder.segments().len() > 10 && kept.len() > 160, "{}", kept.len());
    // Closed segments are still in use.
    assert_eq!(kept, (0..kept.len() as u32).collect::<Vec<_>>());
    let other = folder.with_files(max, segment, 3);
    for number in kept.iter().rev().chain(&kept) {
        assert!(has(&cache, *number) && has(&other, *number));
        assert!(open(&cache) <= 3 && open(&other) <= 3);
    }
    // The segments read least recently were closed.
    let locations = cache.find(kept.iter().map(|number| hash(*number)));
    let mut last: Vec<u32> = locations.into_iter().flatten().map(|location| location.segment).collect();
    last.dedup();
    for number in &last[last.len() - 3..] {
        assert!(cache.0.shared.segments()[number].is_open());
    }
}

/// Runs in a process of its own, because the limit is the process's.
#[test]
fn a_shortage_of_descriptors_passes() {
    const CHILD: &str = "DATAFLUX_TEST_FEW_FILES";
    if std::env::var_os(CHILD).is_none() {
        let mut child = std::process::Command::new("sh");
        child.args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""]).arg(std::env::current_exe().unwrap());
        child.args(["--exact", "cache::tests::a_shortage_of_descriptors_passes", "--nocapture"]).env(CHILD, "1");
        let output = child.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}{output:?}");
        return;
    }
    let folder = ScratchCache::new();
    let (cache, other) = (folder.open(4 << 10), folder.open(4 << 10));
    (0..30).for_each(|number| put(&cache, number));
    cache.flush(HANG);
    assert!((0..30).all(|number| has(&other, number)));
    let hashes = [hash(1_000), hash(1_001)];
    assert_eq!(cache.claim(&hashes), [ClaimOutcome::Mine; 2]);

    let mut files: Vec<_> = std::iter::from_fn(|| fs::File::open("/dev/null").ok()).collect();
    assert!(fs::File::open("/dev/null").is_err());
    (30..60).for_each(|number| put(&cache, number));
    cache.flush(HANG);
    assert_eq!(cache.claim(&[1, 2]), [ClaimOutcome::Unrecorded; 2]);
    cache.release(hashes[0]);
    cache.flush(HANG);
    // A change of the folder, so that it is read.
    fs::create_dir(folder.0.join("new")).unwrap();
    for cache in [&cache, &other] {
        cache.refresh();
        assert!(!cache.0.shared.is_off() && !cache.0.shared.is_read_only());
    }
    files.clear();

    (60..90).for_each(|number| put(&cache, number));
    cache.flush(HANG);
    assert!((0..30).chain(60..90).all(|number| has(&other, number)));
    let theirs = ClaimOutcome::Theirs(cache.0.shared.folder.member);
    eventually("the claim is released late", || other.claim(&hashes[..1]) == [ClaimOutcome::Mine]);
    assert_eq!(other.claim(&hashes[1..]), [theirs]);
}

#[test]
fn only_one_of_two_processes_reads_a_sample() {
    let folder = ScratchCache::new();
    let (one, other) = (folder.open(4 << 10), folder.open(4 << 10));
    let hashes: Vec<_> = (0..10).map(hash).collect();
    assert_eq!(one.claim(&hashes), [ClaimOutcome::Mine; 10]);
    let theirs = ClaimOutcome::Theirs(one.0.shared.folder.member);
    assert_eq!(other.claim(&hashes), [theirs; 10]);
    assert_eq!(one.claim(&hashes[..1]), [theirs], "an epoch of the same process waits, too");
    // A sample is visible to others before its claim is released.
    put(&one, 0);
    one.release(hashes[0]);
    one.release(hashes[1]);
    one.flush(HANG);
    assert!(has(&other, 0));
    assert_eq!(other.claim(&hashes[..3]), [ClaimOutcome::Mine, ClaimOutcome::Mine, theirs]);
    // Claims of a process without progress are ignored, and so are those of a dead process.
    other.ignore_claims_of(one.0.shared.folder.member);
    assert_eq!(other.claim(&hashes[2..3]), [ClaimOutcome::Mine]);
    let third = folder.open(4 << 10);
    assert_eq!(third.claim(&hashes[3..4]), [theirs]);
    drop(one);
    eventually("it is seen to be dead", || third.claim(&hashes[3..4]) == [ClaimOutcome::Mine]);
}

#[test]
fn progress_is_recorded_for_writes_and_releases_only() {
    let folder = ScratchCache::new();
    let (one, other) = (folder.open(4 << 10), folder.open(4 << 10));
    let who = one.0.shared.folder.member;
    let mut progress = other.last_progress(who).unwrap();
    one.claim(&[hash(1), hash(2)]);
    one.refresh();
    assert_eq!(other.last_progress(who), Some(progress), "a claim is no progress");
    let steps: [fn(&Cache); 3] = [|cache| put(cache, 1), |cache| cache.release(hash(1)), |cache| put(cache, 3)];
    for step in steps {
        // Clocks may stand still for a moment.
        eventually("progress", || {
            step(&one);
            one.flush(HANG);
            other.last_progress(who) != Some(progress)
        });
        progress = other.last_progress(who).unwrap();
        one.flush(HANG);
        assert_eq!(other.last_progress(who), Some(progress));
    }
    drop(one);
    eventually("it is dead", || other.last_progress(who).is_none());
}

#[test]
fn claims_without_room_are_unrecorded_and_waits_for_the_lock_end() {
    let folder = ScratchCache::new();
    let cache = folder.open(4 << 10);
    // Hashes of one bucket of the table.
    let hashes: Vec<u64> = (1..=6).map(|number| number << 20).collect();
    let claimed = cache.claim(&hashes);
    assert_eq!(claimed.iter().filter(|claimed| **claimed == ClaimOutcome::Mine).count(), 4);
    assert_eq!(claimed[4..], [ClaimOutcome::Unrecorded; 2]);
    let _stopped = cache.0.shared.folder.lock_claims(HANG).unwrap().unwrap();
    assert_eq!(cache.claim(&hashes), [ClaimOutcome::Unrecorded; 6]);
}

#[test]
fn a_full_disk_stops_writes_and_not_reads() {
    for code in [libc::ENOSPC, libc::EDQUOT, libc::EROFS, libc::EIO] {
        let folder = ScratchCache::new();
        let cache = folder.open(1 << 20);
        (0..10).for_each(|number| put(&cache, number));
        cache.flush(HANG);
        let size = folder.bytes();
        *cache.0.shared.fault.lock().unwrap() = Some(io::Error::from_raw_os_error(code));
        (10..20).for_each(|number| put(&cache, number));
        cache.flush(HANG);
        assert!((0..10).all(|number| has(&cache, number)) && !(10..20).any(|number| has(&cache, number)));
        assert_eq!(folder.bytes(), size, "the partial write is removed");
        assert_eq!(cache.claim(&[1, 2]), [ClaimOutcome::Unrecorded; 2], "nobody waits for what will not be written");
        let another = folder.open(1 << 20);
        assert!((0..10).all(|number| has(&another, number)));
    }
}

/// After one full disk, nothing was written for the rest of the process.
#[test]
fn a_cache_is_written_again_some_minutes_after_its_disk_was_full() {
    let folder = ScratchCache::new();
    let cache = folder.open(1 << 20);
    let is_suspended = || cache.0.shared.is_read_only();
    let full = || *cache.0.shared.fault.lock().unwrap() = Some(io::Error::from_raw_os_error(libc::ENOSPC));
    put(&cache, 0);
    cache.flush(HANG);
    full();
    put(&cache, 1);
    cache.flush(HANG);
    assert!(is_suspended());

    cache.0.shared.writing.end_interval();
    full();
    put(&cache, 2);
    cache.flush(HANG);
    assert!(is_suspended() && !has(&cache, 2), "a trial that fails");

    cache.0.shared.writing.end_interval();
    (3..10).for_each(|number| put(&cache, number));
    cache.flush(HANG);
    assert!(!is_suspended() && has(&cache, 0) && !(1..3).any(|number| has(&cache, number)));
    let another = folder.open(1 << 20);
    assert!((3..10).all(|number| has(&another, number)));
    assert!(!cache.0.shared.writing.is_first_report(), "it was reported");
}

#[test]
fn a_cache_is_read_again_some_minutes_after_its_disk_failed() {
    let folder = ScratchCache::new();
    let cache = folder.open(1 << 20);
    put(&cache, 0);
    cache.flush(HANG);
    cache.0.shared.turn_off(&io::Error::from_raw_os_error(libc::EIO));
    assert!(cache.0.shared.is_off() && cache.0.shared.is_read_only() && !has(&cache, 0));
    cache.0.shared.reading.end_interval();
    assert!(has(&cache, 0));
    assert!(!cache.0.shared.is_off());
}

#[test]
fn a_removed_folder_turns_the_cache_off() {
    let folder = ScratchCache::new();
    let cache = folder.open(4 << 10);
    put(&cache, 1);
    cache.flush(HANG);
    fs::remove_dir_all(&folder.0).unwrap();
    assert!(!has(&cache, 1));
    put(&cache, 2);
    cache.release(3);
    cache.flush(HANG);
    assert!(cache.0.shared.is_off());
}

#[test]
fn a_refresh_in_passing_does_not_wait_for_another() {
    let folder = ScratchCache::new();
    let (cache, other) = (folder.open(4 << 10), folder.open(4 << 10));
    put(&other, 1);
    other.flush(HANG);
    let scanning = cache.0.shared.folder_changed.lock().unwrap();
    let (done, wait) = crossbeam_channel::bounded(1);
    let clone = cache.clone();
    std::thread::spawn(move || {
        clone.refresh_after(Duration::ZERO);
        done.send(clone.samples())
    });
    assert_eq!(wait.recv_timeout(HANG), Ok(0));
    drop(scanning);
    cache.refresh_after(Duration::ZERO);
    assert_eq!(cache.samples(), 1);
}

#[test]
fn a_panicking_job_ends_no_reader() {
    let folder = ScratchCache::new();
    let cache = folder.open(4 << 10);
    for _ in 0..READERS.end {
        // Without output on stderr.
        cache.run(|| std::panic::resume_unwind(Box::new(())));
    }
    let (done, wait) = crossbeam_channel::bounded(1);
    cache.run(move || done.send(()).unwrap());
    wait.recv_timeout(HANG).unwrap();
}

#[test]
fn errors_of_open_say_what_to_do() {
    let folder = ScratchCache::new();
    let error = |path: &Path, bytes| Cache::open(path, bytes).unwrap_err().to_string();
    assert!(error(&folder.0, 1_000).contains("at least 1048576 bytes, got 1000"));
    fs::create_dir(&folder.0).unwrap();
    fs::write(folder.0.join("thesis.tex"), "my own").unwrap();
    let said = error(&folder.0, 1 << 30);
    assert!(said.contains("got thesis.tex") && said.contains("a folder for nothing but the cache"), "{said}");
    let said = error(&folder.0.join("thesis.tex"), 1 << 30);
    assert!(said.contains("not a folder"), "{said}");
    let said = error(&folder.0.join("thesis.tex/cache"), 1 << 30);
    assert!(said.contains("may write to"), "{said}");
    fs::remove_file(folder.0.join("thesis.tex")).unwrap();
    for (marker, wanted) in [("dataflux cache, version 1\n", "another version"), ("something", "no cache")] {
        fs::write(folder.0.join(MARKER_NAME), marker).unwrap();
        let said = error(&folder.0, 1 << 30);
        assert!(said.contains(wanted), "{said}");
    }
    // As a process leaves the marker that is killed while it writes it.
    for end in 0.."dataflux cache, version 2".len() {
        fs::write(folder.0.join(MARKER_NAME), &"dataflux cache, version 2\n"[..end]).unwrap();
        drop(Cache::open(&folder.0, 1 << 30).unwrap());
    }
}

#[derive(Clone, Debug)]
enum CacheStep {
    Put(u32),
    Get(u32),
    Flush,
    /// Another process opens the cache.
    Open,
    /// The process is killed, and the end of a segment is not on the disk.
    Cut(prop::sample::Index, prop::sample::Index),
    /// The process is killed, and a bit on the disk flips.
    Flip(prop::sample::Index, prop::sample::Index),
}

/// Whether the cache has a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IsCached {
    /// Unknown, because something was damaged.
    Perhaps,
    /// As soon as the write is done.
    Put,
    Surely,
}

fn step() -> impl Strategy<Value = CacheStep> {
    prop_oneof![
        8 => (0u32..60).prop_map(CacheStep::Put),
        4 => (0u32..60).prop_map(CacheStep::Get),
        2 => Just(CacheStep::Flush),
        1 => Just(CacheStep::Open),
        1 => (any::<prop::sample::Index>(), any::<prop::sample::Index>()).prop_map(|(file, at)| CacheStep::Cut(file, at)),
        1 => (any::<prop::sample::Index>(), any::<prop::sample::Index>()).prop_map(|(file, at)| CacheStep::Flip(file, at)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// With room for all, a sample that was written is there until something is damaged. Whatever happens, every sample
    /// that is there is right, the limit holds, and samples that are put later are there.
    #[test]
    fn the_cache_never_returns_a_wrong_byte(
        steps in prop::collection::vec(step(), 1..80),
        max_bytes in prop_oneof![Just(1u64 << 30), Just(8 << 10)],
    ) {
        let segment = 2 << 10;
        let mut folder = ScratchCache::new();
        let mut caches = vec![folder.bounded(max_bytes, segment)];
        let mut model: HashMap<u32, IsCached> = HashMap::new();
        let roomy = max_bytes > 1 << 20;
        for (turn, step) in steps.into_iter().enumerate() {
            match step {
                CacheStep::Put(number) => {
                    put(&caches[turn % caches.len()], number);
                    // A damaged sample is replaced only after a read has found the damage.
                    model.entry(number).or_insert(IsCached::Put);
                }
                CacheStep::Get(number) => {
                    let there = has(&caches[turn % caches.len()], number);
                    prop_assert!(!there || model.contains_key(&number));
                    prop_assert!(there || !roomy || model.get(&number) != Some(&IsCached::Surely), "{number}");
                }
                CacheStep::Flush => {
                    for cache in &caches {
                        cache.flush(HANG);
                    }
                    model.values_mut().filter(|kept| **kept == IsCached::Put).for_each(|kept| *kept = IsCached::Surely);
                    prop_assert!(folder.bytes() <= max_bytes);
                }
                CacheStep::Open if caches.len() < 3 => caches.push(folder.bounded(max_bytes, segment)),
                CacheStep::Open => {}
                CacheStep::Cut(file, at) | CacheStep::Flip(file, at) => {
                    for cache in &caches {
                        cache.flush(HANG);
                    }
                    let killed = folder.as_killed();
                    caches.clear();
                    folder = killed;
                    let segments = folder.segments();
                    if !segments.is_empty() {
                        let path = &segments[file.index(segments.len())];
                        let file = fs::File::options().read(true).write(true).open(path).unwrap();
                        let size = file.metadata().unwrap().len() as usize;
                        if size > 0 && matches!(step, CacheStep::Cut(..)) {
                            file.set_len(at.index(size) as u64).unwrap();
                        } else if size > 0 {
                            let bit = at.index(8 * size);
                            let mut byte = [0];
                            file.read_exact_at(&mut byte, bit as u64 / 8).unwrap();
                            byte[0] ^= 1 << (bit % 8);
                            file.write_all_at(&byte, bit as u64 / 8).unwrap();
                        }
                    }
                    for kept in model.values_mut() {
                        *kept = IsCached::Perhaps;
                    }
                    caches.push(folder.bounded(max_bytes, segment));
                }
            }
        }
        if roomy {
            let last = &caches[0];
            // A read finds the damaged samples.
            (0..60).filter(|number| !has(last, *number)).for_each(|number| put(last, number));
            last.flush(HANG);
            prop_assert!((0..60).all(|number| has(last, number)));
        }
    }
}

/// Locks were requested on files opened for reading only, which NFS refuses, so files of dead processes were kept.
#[test]
fn files_of_dead_processes_are_removed_if_locks_need_files_opened_for_writing() {
    let scratch = ScratchCache::new();
    drop(scratch.open(1 << 20));
    let members = || fs::read_dir(scratch.0.join("members")).unwrap().count();
    // The thread of the dropped cache removes its own file when it ends.
    for _ in 0..6_000 {
        if members() == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let dead = scratch.0.join("members").join("00000000000000aa");
    fs::write(&dead, "").unwrap();
    let living = scratch.open(1 << 20);
    assert!(!dead.exists());
    // The file of a living process stays.
    let other = scratch.open(1 << 20);
    assert_eq!(members(), 2);
    drop((living, other));
}
