use std::fs;

use proptest::prelude::*;

use super::segment::JudgedObject;
use super::*;
use crate::list::{Filter, Reason};
use crate::store::{ContentEncoding, ObjectMeta, ObjectRef, Objects, StorageClass, Version};

pub(crate) fn object(name: &str, size: u64) -> ObjectMeta {
    ObjectMeta {
        name: name.into(),
        size,
        version: 7.into(),
        crc32c: Some(size as u32),
        storage_class: StorageClass::Standard,
        ..ObjectMeta::default()
    }
}

fn listed(objects: &[ObjectMeta]) -> Objects {
    objects.iter().map(ObjectMeta::to_ref).collect()
}

pub(crate) fn manifest(objects: &[ObjectMeta]) -> Manifest {
    Manifest::new("gs://bucket/p/".parse().unwrap(), &listed(objects)).unwrap()
}

/// A manifest whose samples have these objects as their parts. Names are made here.
pub(crate) fn with_parts(samples: &[Vec<ObjectMeta>]) -> Manifest {
    let mut objects = Vec::new();
    for (number, parts) in samples.iter().enumerate() {
        let named = |(part, object): (usize, &ObjectMeta)| {
            let name = format!("p/{number:06}.{part:02}");
            ObjectMeta { name, ..object.clone() }
        };
        objects.extend(parts.iter().enumerate().map(named));
    }
    let parts = Parts::by_stem((0..samples[0].len()).map(|part| format!("{part:02}")));
    Arc::new(manifest(&objects)).with_parts(&parts).unwrap().0
}

fn left_out(reason: Reason, count: u64) -> LeftOut {
    let mut left_out = LeftOut::default();
    (0..count).for_each(|_| left_out.add(reason));
    left_out
}

/// All entries in order, read by the cursor.
fn all(manifest: &Manifest) -> Vec<Entry> {
    let mut entries = manifest.entries();
    let mut all = Vec::new();
    while let Some(entry) = entries.next().unwrap() {
        all.push(entry.named(Arc::from(entry.name)));
    }
    all
}

#[test]
fn entries_labels_and_what_is_left_out() {
    let objects = ["p/", "p/a/1", "p/a/2", "p/b/", "p/b/c/3", "p/top"].map(|name| object(name, name.len() as u64 % 5));
    let mut objects = objects.to_vec();
    objects[0].size = 0;
    objects[3].size = 0;
    let manifest = manifest(&objects);
    assert_eq!(manifest.labels(), ["a", "b"]);
    assert_eq!(manifest.left_out(), left_out(Reason::DirectoryMarker, 2));
    let got: Vec<_> = all(&manifest).into_iter().map(|entry| (entry.name, entry.label)).collect();
    let wanted = [("p/a/1", Some(0)), ("p/a/2", Some(0)), ("p/b/c/3", Some(1)), ("p/top", None)];
    assert_eq!(got, wanted.map(|(name, label)| (Arc::from(name), label)));
    assert!(manifest.get(4).is_none());
}

/// The error said that this is a defect of dataflux, whatever the reason.
#[test]
fn a_sample_that_is_not_there_is_an_error_that_says_why() {
    let manifest = manifest(&[object("p/a", 1), object("p/b", 2)]);
    assert_eq!(&*manifest.location(SampleId(1)).unwrap().object.name, "p/b");
    for error in [manifest.location(SampleId(2)).unwrap_err(), manifest.location_facts(SampleId(2)).unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("an index below 2, got 2"), "{error}");
    }
    let failure = Error::new(ErrorKind::PermissionDenied, "the listing was refused");
    let failed = Manifest::failed("gs://bucket/p/".parse().unwrap(), failure);
    assert_eq!(failed.location(SampleId(0)).unwrap_err().kind(), ErrorKind::PermissionDenied);
}

#[test]
fn labels_are_sorted_as_folders_are_and_not_as_paths() {
    let manifest = manifest(&["p//b/0", "p/a-b/1", "p/a/2", "p/b/3"].map(|name| object(name, 1)));
    assert_eq!(manifest.labels(), ["a", "a-b", "b"]);
    let got: Vec<_> = all(&manifest).into_iter().map(|entry| entry.label.unwrap()).collect();
    assert_eq!(got, [2, 1, 0, 2]);
}

#[test]
fn labels_of_a_prefix_that_ends_within_a_folders_name_are_whole() {
    let names = ["p/train/b.png", "p/training/a.png", "p/tree.png"].map(|name| object(name, 1));
    let manifest = Manifest::new("gs://bucket/p/tr".parse().unwrap(), &listed(&names)).unwrap();
    assert_eq!(manifest.labels(), ["train", "training"]);
    assert_eq!(all(&manifest).into_iter().map(|entry| entry.label).collect::<Vec<_>>(), [Some(0), Some(1), None]);
}

#[test]
fn slashes_alone_are_no_folder() {
    let manifest = manifest(&["p//", "p///"].map(|name| object(name, 1)));
    assert!(manifest.labels().is_empty() && all(&manifest).iter().all(|entry| entry.label.is_none()));
}

#[test]
fn a_name_that_ends_in_a_slash_and_holds_bytes_is_a_sample() {
    assert_eq!(manifest(&[object("p/x/", 3)]).len(), 1);
}

#[test]
fn temporaries_are_no_samples() {
    let objects = [object("dataflux-composed-objects/1/2", 9), object("z", 1)];
    let manifest = Manifest::new("gs://bucket/".parse().unwrap(), &listed(&objects)).unwrap();
    assert_eq!((manifest.len(), manifest.left_out().count(Reason::Temporary)), (1, 1));
}

#[test]
fn the_digest_covers_names_sizes_and_checksums() {
    let base = manifest(&[object("p/a", 1)]).digest();
    assert_eq!(base, manifest(&[object("p/a", 1)]).digest());
    let changed = |change: fn(&mut ObjectMeta)| {
        let mut other = object("p/a", 1);
        change(&mut other);
        manifest(&[other]).digest()
    };
    assert_eq!(base, changed(|object| object.version = 8.into()), "a copy has other versions");
    assert_ne!(base, changed(|object| object.name = "p/b".into()));
    assert_ne!(base, changed(|object| object.size = 2));
    assert_ne!(base, changed(|object| object.crc32c = Some(2)));
    assert_ne!(base, changed(|object| object.crc32c = None));
}

#[test]
fn nothing_to_read_is_an_error_that_names_the_prefix() {
    let error = Manifest::new("gs://bucket/p/".parse().unwrap(), &Objects::default()).unwrap_err();
    assert!(error.is_not_found());
    assert!(error.to_string().contains("gs://bucket/p/"), "{error}");
}

#[test]
fn unsorted_listings_are_refused() {
    let objects = [object("p/b", 1), object("p/a", 1)];
    assert!(Manifest::new("gs://bucket/p/".parse().unwrap(), &listed(&objects)).is_err());
}

/// A thread that sees a number of rows can read all of them, and they never change.
#[test]
fn chunks_are_read_while_others_are_added() {
    let chunks: Vec<_> = (0..40u64)
        .map(|chunk| {
            let mut writer = chunk::ChunkWriter::default();
            for row in chunk * 4_096..chunk * 4_096 + if chunk == 39 { 5 } else { 4_096 } {
                let name = format!("{row:08}");
                let (_, shared) = writer.compare(name.as_bytes());
                writer.push(name.as_bytes(), shared, Entry { size: row, ..Entry::default() });
            }
            writer.flush().unwrap()
        })
        .collect();
    let table = table::ChunkTable::empty();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while table.rows() < 39 * 4_096 + 5 {
                    let rows = table.rows();
                    for row in (rows.saturating_sub(3)..rows).chain([rows / 2].into_iter().filter(|_| rows > 0)) {
                        let entry = table.entry(row).unwrap();
                        assert_eq!((&*entry.name, entry.size), (&*format!("{row:08}"), row));
                    }
                }
            });
        }
        scope.spawn(|| chunks.iter().for_each(|chunk| table.push(chunk.clone()).unwrap()));
    });
    assert!(table.push(chunks[0].clone()).is_none(), "the last chunk isn't full");
    assert_eq!(table.chunks().count(), 40);
}

/// Never to be changed: users' states hold digests.
#[test]
fn golden_digests() {
    assert_eq!(
        manifest(&[object("p/a", 1)]).digest().to_string(),
        "87428fc522803d31065e7bce3cf03fe47c9fa136d4413fa6a1cb20470d89874f"
    );
    assert_eq!(
        manifest(&a_thousand()).digest().to_string(),
        "e899cec4181c9e236a73bb1b962c305d2d87e65231101efe8a5b713cc95006ae"
    );
}

/// Objects of several classes in several folders, some without a CRC.
fn a_thousand() -> Vec<ObjectMeta> {
    (0..1_000u64)
        .map(|index| {
            let class = [StorageClass::Standard, StorageClass::Nearline, StorageClass::Unspecified];
            ObjectMeta {
                name: format!("p/{}/{index:05}.bin", ["ant", "bee", "été", "😀"][index as usize / 250]),
                size: index * 7_919 % 3_000,
                version: Version::Generation(1_700_000_000_000_000 + index as i64),
                crc32c: (index % 7 != 3).then_some(index as u32 ^ 0xDEAD_BEEF),
                storage_class: class[index as usize % 3],
                ..ObjectMeta::default()
            }
        })
        .collect()
}

/// A temporary folder for a test, which is removed when this is dropped.
struct ScratchFolder(PathBuf);

impl ScratchFolder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("dataflux-manifest-{:016x}", rand::random::<u64>()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("objects.dfm")
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file that was made by [`of_the_golden_file`], once. A new version of the format gets another file.
fn golden() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/manifest/v2.dfm"))
}

/// A thousand objects, a folder mark, and folders whose order differs from that of names.
fn of_the_golden_file() -> Manifest {
    let mut objects = a_thousand();
    objects.extend(["p//odd/1", "p/a-b/1", "p/a/", "p/a/1", "p/alone", "p/largest"].map(|name| object(name, 0)));
    objects.sort_by(|a, b| a.name.cmp(&b.name));
    let largest = objects.iter_mut().find(|object| object.name == "p/largest").unwrap();
    (largest.size, largest.version) = (u64::MAX, i64::MAX.into());
    manifest(&objects)
}

#[test]
fn a_file_of_version_2_stays_what_it_is() {
    let (loaded, made) = (Manifest::load(golden()).unwrap(), of_the_golden_file());
    same(&loaded, &made);
    assert_eq!(loaded.left_out(), left_out(Reason::DirectoryMarker, 1));
    assert_eq!(loaded.labels(), ["a", "a-b", "ant", "bee", "odd", "été", "😀"]);
    let scratch = ScratchFolder::new();
    for manifest in [&loaded, &made] {
        manifest.save(scratch.file()).unwrap();
        assert!(fs::read(scratch.file()).unwrap() == fs::read(golden()).unwrap(), "not the same bytes");
        // Nothing stays beside it.
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1);
    }
}

#[test]
fn encodings_are_kept_and_cost_nothing_where_there_are_none() {
    let mut objects: Vec<_> = (0..5_000).map(|index| object(&format!("p/{index:04}"), index)).collect();
    let (plain, scratch) = (manifest(&objects), ScratchFolder::new());
    // All objects of the second chunk, and few of the first.
    let encodings = [ContentEncoding::Gzip, ContentEncoding::Brotli, ContentEncoding::Other];
    for (index, object) in objects.iter_mut().enumerate().filter(|(index, _)| *index >= 4_096 || index % 100 == 7) {
        object.encoding = encodings[if index >= 4_096 { 0 } else { index % 3 }];
    }
    objects[3].storage_class = StorageClass::Archive;
    let encoded = manifest(&objects);
    encoded.save(scratch.file()).unwrap();
    let loaded = Manifest::load(scratch.file()).unwrap();
    same(&loaded, &encoded);
    let got = all(&loaded).into_iter().map(|entry| (entry.encoding, entry.storage_class));
    assert!(got.eq(objects.iter().map(|object| (object.encoding, object.storage_class))));
    assert_eq!(loaded.digest(), plain.digest(), "how an object is compressed isn't what it is");
    assert_eq!(encoded.memory_bytes(), plain.memory_bytes() + 4_096, "one byte an object of the mixed chunk");
}

/// On NFS another host may replace a file, which makes its pages disappear and ended the process with SIGBUS.
#[test]
fn a_file_on_a_network_file_system_is_copied_and_may_go_while_it_is_open() {
    let (scratch, made) = (ScratchFolder::new(), Manifest::load(golden()).unwrap());
    made.save(scratch.file()).unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(scratch.file()).unwrap();
    let copied = Manifest::load_from(&file, Some("NFS"), &scratch.file()).unwrap();
    // Each read of a mapped file would be a SIGBUS from here on.
    file.set_len(0).unwrap();
    same(&copied, &made);
    copied.verify().unwrap();
    ask(&copied).unwrap();
}

/// Reads a manifest from bytes.
fn opened(bytes: &[u8], scratch: &ScratchFolder) -> Result<Manifest> {
    let mut map = memmap2::MmapMut::map_anon(bytes.len()).unwrap();
    map.copy_from_slice(bytes);
    Manifest::of_bytes(map.make_read_only().unwrap(), &scratch.file())
}

/// Asserts that two manifests are equal in everything that can be read from them.
fn same(a: &Manifest, b: &Manifest) {
    assert_eq!((a.prefix(), a.len(), a.bytes(), a.digest()), (b.prefix(), b.len(), b.bytes(), b.digest()));
    assert_eq!((a.labels(), a.left_out()), (b.labels(), b.left_out()));
    assert!(a.storage_classes().eq(b.storage_classes()));
    assert_eq!(all(a), all(b));
}

/// Reads everything from a manifest. The results may be wrong, but nothing may panic.
fn ask(manifest: &Manifest) -> Result<()> {
    let labels = manifest.labels().len();
    let mut last = Ok(());
    for index in (0..manifest.len().min(10_000)).chain([manifest.len() - 1, manifest.len(), u64::MAX]) {
        let facts = manifest.facts(index);
        assert!(facts.and_then(|facts| facts.label).is_none_or(|label| (label as usize) < labels));
        let entry = manifest.get(index);
        assert!(entry.is_none() || facts.is_some());
        last = last.and(if index < manifest.len() { manifest.at(index).map(drop) } else { Ok(()) });
    }
    let mut entries = manifest.entries();
    while entries.next()?.is_some() {}
    manifest.cuts(manifest.len().div_ceil(10))?;
    last
}

#[test]
fn damaged_files_are_refused_with_a_hint() {
    let scratch = ScratchFolder::new();
    let objects: Vec<_> = (0..20).map(|index| object(&format!("p/{}/{index:02}", index / 9), index)).collect();
    manifest(&objects).save(scratch.file()).unwrap();
    let whole = fs::read(scratch.file()).unwrap();
    let refused = |bytes: &[u8], said: &str, kind: ErrorKind| {
        let error = opened(bytes, &scratch).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(said) && text.contains("objects.dfm") && text.contains("dataflux ls --save"), "{text}");
        assert_eq!(error.kind(), kind, "{text}");
    };
    for at in 0..whole.len() {
        refused(&whole[..at], "cut short", ErrorKind::Integrity);
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            match at {
                0..8 => refused(&bytes, "no manifest", ErrorKind::Config),
                8..12 => refused(&bytes, "another version", ErrorKind::Config),
                // A length may point beyond the end as well as before it.
                12..16 => refused(&bytes, "this manifest ", ErrorKind::Integrity),
                _ => refused(&bytes, "damaged", ErrorKind::Integrity),
            }
        }
    }
    refused(&[&whole[..], b"x"].concat(), "damaged", ErrorKind::Integrity);
    refused(b"{\"objects\":[]}", "no manifest", ErrorKind::Config);
    let missing = Manifest::load(scratch.0.join("no")).unwrap_err();
    assert!(missing.kind() == ErrorKind::Io && std::error::Error::source(&missing).is_some());
    assert_eq!(Manifest::load(&scratch.0).unwrap_err().kind(), ErrorKind::Io);
    for bytes in [&b""[..], b"x", &whole[..whole.len() - 1]] {
        fs::write(scratch.file(), bytes).unwrap();
        assert_eq!(
            Manifest::load(scratch.file()).unwrap_err().to_string(),
            opened(bytes, &scratch).unwrap_err().to_string()
        );
    }
    let nowhere = manifest(&objects).save(scratch.0.join("no/such/folder")).unwrap_err();
    assert!(nowhere.to_string().contains("no/such/folder"), "{nowhere}");
}

/// Corrects the CRCs of a file.
fn with_crcs(mut bytes: Vec<u8>) -> Vec<u8> {
    let head = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    if let Some(body) = bytes.get(head..) {
        let crc = crc32c::crc32c(body);
        bytes[80..84].copy_from_slice(&crc.to_le_bytes());
    }
    if let Some(place) = head.checked_sub(4).filter(|place| place + 4 <= bytes.len()) {
        let crc = crc32c::crc32c(&bytes[..place]);
        bytes[place..place + 4].copy_from_slice(&crc.to_le_bytes());
    }
    bytes
}

#[test]
fn a_file_that_somebody_made_up_with_the_right_crcs_does_no_harm() {
    let scratch = ScratchFolder::new();
    let mut objects: Vec<_> = (0..70).map(|index| object(&format!("p/{}/{index:02}", index / 9), index)).collect();
    objects[7].crc32c = None;
    objects[8].storage_class = StorageClass::Archive;
    objects.push(object("p/0-/x", 1));
    objects.sort_by(|a, b| a.name.cmp(&b.name));
    manifest(&objects).save(scratch.file()).unwrap();
    let whole = fs::read(scratch.file()).unwrap();
    let (mut opened, mut read) = (0, 0);
    let mut look = |bytes: Vec<u8>| {
        if let Ok(manifest) = self::opened(&with_crcs(bytes), &scratch) {
            opened += 1;
            match ask(&manifest) {
                Ok(()) => read += 1,
                Err(error) => assert!(error.to_string().contains("objects.dfm"), "{error}"),
            }
        }
    };
    for at in 16..whole.len() {
        for value in [0, 1, 0x80, 0xFF, whole[at] ^ 1] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            look(bytes);
        }
    }
    // Counts and lengths, whole.
    for at in (16..48).step_by(8).chain([84, 88, 92, 96]) {
        for value in [0, 1, 4_095, 4_096, 4_097, u64::from(u32::MAX), 1 << 40, 1 << 61, u64::MAX] {
            let mut bytes = whole.clone();
            let width = if at < 84 { 8 } else { 4 };
            bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
            look(bytes);
        }
    }
    assert!(opened > 1_000 && read > 1_000 && read < opened, "the test tests nothing: {read} of {opened}");
}

/// Writes and loads a manifest whose objects have these names in this order, with correct CRCs.
fn crafted(names: &[String], scratch: &ScratchFolder) -> Result<Manifest> {
    let honest: Vec<_> = (0..names.len()).map(|index| object(&format!("p/{index:06}"), 1)).collect();
    let mut manifest = manifest(&honest);
    let objects = table::ChunkTable::empty();
    for chunk in names.chunks(4_096) {
        let mut writer = chunk::ChunkWriter::default();
        for name in chunk {
            let (_, shared) = writer.compare(name.as_bytes());
            let facts = Facts { size: 1, storage_class: StorageClass::Standard, ..Facts::default() };
            writer.push(name.as_bytes(), shared, facts);
        }
        objects.push(writer.flush().unwrap()).unwrap();
    }
    let end = ListingEnd {
        labels: table::LabelsWriter::default().finish(),
        left_out: LeftOut::default(),
        totals: manifest.end().totals,
        digest: manifest.digest(),
        failed: None,
    };
    manifest.growth = Arc::new(Growth::whole(Arc::new(objects), end));
    manifest.save(scratch.file()).unwrap();
    Manifest::load(scratch.file())
}

#[test]
fn names_that_somebody_put_out_of_order_twice_or_below_another_prefix_are_refused() {
    let scratch = ScratchFolder::new();
    let names: Vec<String> = (0..9_000).map(|index| format!("p/{index:06}")).collect();
    let with = |changes: &[(usize, &str)]| {
        let mut names = names.clone();
        for (at, name) in changes {
            names[*at] = (*name).to_owned();
        }
        crafted(&names, &scratch)
    };
    // At the ends of a chunk: out of order, twice, elsewhere.
    for changes in [
        [(0, "p/9")],
        [(0, "o/0")],
        [(4_096, "p/004095")],
        [(4_096, "p/000000")],
        [(4_095, "p/9")],
        [(8_999, "p/")],
        [(8_999, "q/1")],
        [(8_192, "p")],
    ] {
        let error = with(&changes).unwrap_err();
        assert!(error.kind() == ErrorKind::Integrity && error.to_string().contains("in order"), "{changes:?}: {error}");
    }
    // Between them only verify() looks.
    for (at, name, said) in [
        (7, "p/000006", "each once"),
        (7, "p/000005", "each once"),
        (5_000, "q/1", "gs://bucket/p/"),
        (7, "p/000006x", "digest"),
    ] {
        let error = with(&[(at, name)]).unwrap().verify().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity);
        assert!(error.to_string().contains(said) && error.to_string().contains("objects.dfm"), "{error}");
    }
    Manifest::load(golden()).unwrap().verify().unwrap();
    of_the_golden_file().verify().unwrap();
    // A chunk of one object.
    manifest(&names[..4_097].iter().map(|name| object(name, 1)).collect::<Vec<_>>()).save(scratch.file()).unwrap();
    Manifest::load(scratch.file()).unwrap().verify().unwrap();
}

#[test]
fn all_reasons_are_saved_and_loaded() {
    let scratch = ScratchFolder::new();
    for reason in Reason::ALL {
        let left_out = left_out(reason, 3);
        let mut builder = ManifestBuilder::new("gs://bucket/p/".parse().unwrap());
        builder.push(Segment::new([ObjectRef { name: "p/a", ..ObjectRef::default() }]));
        builder.leave_out(&left_out);
        builder.finish().unwrap().save(scratch.file()).unwrap();
        assert_eq!(Manifest::load(scratch.file()).unwrap().left_out(), left_out);
    }
}

/// A later version may count more reasons.
#[test]
fn reasons_that_are_not_known_are_passed_over() {
    let scratch = ScratchFolder::new();
    let made = manifest(&[object("p/a", 1), object("p/b/", 0)]);
    made.save(scratch.file()).unwrap();
    let mut bytes = fs::read(scratch.file()).unwrap();
    // All that this version knows, and one more.
    let written = usize::from(bytes[92]);
    let more = Reason::ALL.len() + 1 - written;
    let after = 100 + "bucket".len() + "p/".len() + 8 * written;
    let counts = (0..more).flat_map(|number| if number + 1 < more { 0u64 } else { 5 }.to_le_bytes());
    bytes.splice(after..after, counts.collect::<Vec<_>>());
    let more = more as u64;
    for (at, width, more) in [(12, 4, 8 * more), (16, 8, 8 * more), (92, 4, more)] {
        let mut word = [0; 8];
        word[..width].copy_from_slice(&bytes[at..at + width]);
        let word = (u64::from_le_bytes(word) + more).to_le_bytes();
        bytes[at..at + width].copy_from_slice(&word[..width]);
    }
    fs::write(scratch.file(), with_crcs(bytes)).unwrap();
    same(&Manifest::load(scratch.file()).unwrap(), &made);
}

#[test]
fn segments_are_merged_in_any_order() {
    let builder = |names: &[&[&str]]| {
        let mut builder = ManifestBuilder::new("gs://bucket/p/".parse().unwrap());
        for (generation, names) in (1..).zip(names) {
            let version = Version::Generation(generation);
            builder.push(Segment::new(names.iter().map(|name| ObjectRef { name, version, ..ObjectRef::default() })));
        }
        builder
    };
    let names = |manifest: &Manifest| {
        let all = all(manifest);
        all.iter()
            .map(|entry| format!("{}#{}", entry.name, entry.version.generation().unwrap()))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let apart = builder(&[&["p/c", "p/d"], &[], &["p/a", "p/b"], &["p/e"]]).finish().unwrap();
    assert_eq!(names(&apart), "p/a#3 p/b#3 p/c#1 p/d#1 p/e#4");
    let woven = builder(&[&["p/a", "p/d", "p/g"], &["p/b", "p/e"], &["p/c", "p/f"]]).finish().unwrap();
    assert_eq!(names(&woven), "p/a#1 p/b#2 p/c#3 p/d#1 p/e#2 p/f#3 p/g#1");
    for twice in [&[&["p/a", "p/b"][..], &["p/b"]][..], &[&["p/b", "p/b"]], &[&["p/c", "p/b"]]] {
        let error = builder(twice).finish().unwrap_err();
        assert!(error.kind() == ErrorKind::Internal && error.to_string().contains("gs://bucket/p/b:"), "{error}");
    }
    let newest: &[&[&str]] = &[&["p/a", "p/c"], &["p/a", "p/b"], &["p/b", "p/b"]];
    assert_eq!(names(&builder(newest).newest_wins().finish().unwrap()), "p/a#2 p/b#3 p/c#1");
    assert!(builder(&[&["q/a"]]).finish().unwrap_err().to_string().contains("not below its prefix"));
    assert!(builder(&[&[]]).finish().unwrap_err().is_not_found());
}

/// Rows of an inventory report stay among the objects until it is known which are the newest. Labels were taken from
/// those that aren't wanted, too.
#[test]
fn unwanted_rows_of_a_report_do_not_count_for_the_labels() {
    let prefix: Prefix = "gs://bucket/train".parse().unwrap();
    let objects = listed(&["train.csv", "train/cat/1.png", "train/dog/1.png"].map(|name| object(name, 1)));
    let filter = Filter::new().include("*.png").unwrap();
    let rows = objects.iter().map(|object| JudgedObject { object, against: filter.reason(&prefix, &object) });
    let mut builder = ManifestBuilder::new(prefix.clone()).newest_wins();
    builder.push(Segment::from_judged(rows));
    let manifest = builder.finish().unwrap();
    assert_eq!(manifest.labels(), ["cat", "dog"]);
    assert_eq!(manifest.left_out(), left_out(Reason::NotIncluded, 1));
    manifest.verify().unwrap();
    let folder = Prefix { prefix: "train/".into(), ..prefix };
    let samples = listed(&["train/cat/1.png", "train/dog/1.png"].map(|name| object(name, 1)));
    assert_eq!(manifest.digest(), Manifest::new(folder, &samples).unwrap().digest());
}

#[test]
fn totals_and_cuts() {
    let manifest = manifest(&a_thousand());
    let classes: Vec<_> = manifest.storage_classes().map(|class| (class.storage_class, class.objects)).collect();
    let wanted = [(StorageClass::Unspecified, 333), (StorageClass::Standard, 334), (StorageClass::Nearline, 333)];
    assert_eq!(classes, wanted);
    assert_eq!(manifest.storage_classes().map(|class| class.bytes).sum::<u64>(), manifest.bytes());
    let cuts = manifest.cuts(400).unwrap();
    let wanted = [("p/ant/00000.bin", 400), ("p/bee/00400.bin", 400), ("p/😀/00800.bin", 200)];
    assert_eq!(cuts, wanted.map(|(name, objects)| ListingCut { name: name.to_owned(), objects }));
    assert_eq!(manifest.cuts(u64::MAX).unwrap().len(), 1);
    assert_eq!(manifest.cuts(0).unwrap().len(), 1_000);
}

/// Names below `p/` that share much, nothing, or all but the end; sorted, and each once.
fn names() -> impl Strategy<Value = Vec<String>> {
    let part = prop_oneof![
        4 => "[ab/]{0,3}",
        2 => "[0-9]{1,4}",
        1 => "\\PC{0,8}",
        1 => (0usize..300).prop_map(|length| "é".repeat(length)),
        1 => Just(".JPEG".to_owned()),
    ];
    let name = prop::collection::vec(part, 0..6).prop_map(|parts| {
        let mut name = format!("p/{}", parts.concat());
        // Hidden files would be left out.
        while name.contains("/.") {
            name = name.replace("/.", "/");
        }
        name.truncate((0..=1_024).rev().find(|&end| name.is_char_boundary(end)).unwrap());
        name
    });
    prop::collection::btree_set(name, 1..60).prop_map(|names| names.into_iter().collect())
}

fn class() -> impl Strategy<Value = StorageClass> {
    prop_oneof![3 => Just(StorageClass::Standard), 1 => prop::sample::select(&StorageClass::ALL[..])]
}

fn size() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 1u64..100_000, 1 => any::<u64>(), 1 => Just(u64::MAX), 1 => Just(1)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A manifest returns what was put in, by index, by cursor, and from a file. `repeat` fills chunks.
    #[test]
    fn agrees_with_a_plain_list(
        names in names(),
        fields in prop::collection::vec((size(), any::<i64>(), prop::option::weighted(0.9, any::<u32>()), class()), 1..60),
        repeat in prop_oneof![9 => 1usize..4, 1 => 80usize..300],
        shares in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let names: std::collections::BTreeSet<String> =
            names.iter().flat_map(|name| (0..repeat).map(move |n| if n == 0 { name.clone() } else { format!("{name}{n:03}") })).collect();
        let objects: Vec<ObjectMeta> = names
            .into_iter()
            .zip(fields.iter().cycle())
            .map(|(name, &(size, generation, crc32c, storage_class))| ObjectMeta {
                name,
                size,
                version: if generation > 0 { Version::Generation(generation) } else { Version::None },
                crc32c,
                storage_class,
                ..ObjectMeta::default()
            })
            .collect();
        let plain = manifest(&objects);
        let mut folders: Vec<&str> = objects.iter().filter_map(|object| folder(&object.name)).collect();
        folders.sort_unstable();
        folders.dedup();
        prop_assert_eq!(plain.labels(), &folders);

        // Segments that are cut anywhere, and come in another order.
        let mut cuts: Vec<usize> = shares.iter().map(|share| share.index(objects.len())).chain([0, objects.len()]).collect();
        cuts.sort_unstable();
        let mut builder = ManifestBuilder::new(plain.prefix().clone());
        for cut in cuts.windows(2).rev() {
            builder.push(Segment::new(objects[cut[0]..cut[1]].iter().map(ObjectMeta::to_ref)));
        }
        let of_segments = builder.finish().unwrap();
        // Segments of every third object, not in order.
        let mut builder = ManifestBuilder::new(plain.prefix().clone()).newest_wins();
        for third in 0..3 {
            let objects = objects.iter().rev().skip(third).step_by(3).map(ObjectMeta::to_ref);
            builder.push(Segment::new(segment::sorted(&objects.collect())));
        }
        let merged = builder.finish().unwrap();
        let scratch = ScratchFolder::new();
        merged.save(scratch.file()).unwrap();
        let loaded = Manifest::load(scratch.file()).unwrap();

        for manifest in [&plain, &of_segments, &merged, &loaded] {
            same(manifest, &plain);
            prop_assert_eq!(manifest.len(), objects.len() as u64);
            prop_assert!(manifest.get(manifest.len()).is_none() && manifest.facts(u64::MAX).is_none());
            for (index, object) in objects.iter().enumerate() {
                let entry = manifest.get(index as u64).unwrap();
                prop_assert_eq!(&*entry.name, &object.name);
                let label = entry.label.map(|label| &*manifest.labels()[label as usize]);
                prop_assert_eq!(label, folder(&object.name));
                prop_assert_eq!(
                    (entry.size, &entry.version, entry.crc32c, entry.storage_class),
                    (object.size, &object.version, object.crc32c, object.storage_class)
                );
                prop_assert_eq!(manifest.facts(index as u64), Some(entry.named(())));
            }
        }
    }
}

/// The folder that an object below `p/` is in.
fn folder(name: &str) -> Option<&str> {
    name.strip_prefix("p/")?.trim_start_matches('/').split_once('/').map(|(folder, _)| folder)
}
