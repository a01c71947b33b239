use super::*;
use crate::store::ObjectMeta;

pub(crate) fn object(name: &str, size: u64) -> ObjectMeta {
    ObjectMeta {
        name: name.into(),
        size,
        generation: 7,
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

/// All entries, in order, by the cursor.
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
    assert_eq!(manifest.left_out(), LeftOut { directory_markers: 2, ..LeftOut::default() });
    let got: Vec<_> = all(&manifest).into_iter().map(|entry| (entry.name, entry.label)).collect();
    let wanted = [("p/a/1", Some(0)), ("p/a/2", Some(0)), ("p/b/c/3", Some(1)), ("p/top", None)];
    assert_eq!(got, wanted.map(|(name, label)| (Arc::from(name), label)));
    assert!(manifest.get(4).is_none());
}

#[test]
fn labels_are_sorted_as_folders_are_and_not_as_paths() {
    let manifest = manifest(&["p//b/0", "p/a-b/1", "p/a/2", "p/b/3"].map(|name| object(name, 1)));
    assert_eq!(manifest.labels(), ["a", "a-b", "b"]);
    let got: Vec<_> = all(&manifest).into_iter().map(|entry| entry.label.unwrap()).collect();
    assert_eq!(got, [2, 1, 0, 2]);
}

#[test]
fn a_name_that_ends_in_a_slash_and_holds_bytes_is_a_sample() {
    assert_eq!(manifest(&[object("p/x/", 3)]).len(), 1);
}

#[test]
fn temporaries_are_no_samples() {
    let objects = [object("dataflux-composed-objects/1/2", 9), object("z", 1)];
    let manifest = Manifest::new("gs://bucket/".parse().unwrap(), &listed(&objects)).unwrap();
    assert_eq!((manifest.len(), manifest.left_out().temporaries), (1, 1));
}

#[test]
fn the_digest_tells_every_field_apart() {
    let base = manifest(&[object("p/a", 1)]).digest();
    assert_eq!(base, manifest(&[object("p/a", 1)]).digest());
    let mut other = object("p/a", 1);
    other.generation = 8;
    assert_ne!(base, manifest(&[other]).digest());
    assert_ne!(base, manifest(&[object("p/b", 1)]).digest());
    assert_ne!(base, manifest(&[object("p/a", 2)]).digest());
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

/// What states of users name. The values are those of the code before this one was written.
#[test]
fn the_digest_is_what_it_always_was() {
    assert_eq!(
        manifest(&[object("p/a", 1)]).digest().to_string(),
        "dc3225c8d86d4ae00a4dfa78edf9e221c9c0f32ce7e5d4cec9cba9061b4fab14"
    );
    assert_eq!(
        manifest(&a_thousand()).digest().to_string(),
        "9c10c40f74724b09325ffc1f64b778e89280cb71aa98986ad2d97e11f9f1198e"
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
                generation: 1_700_000_000_000_000 + index as i64,
                crc32c: (index % 7 != 3).then_some(index as u32 ^ 0xDEAD_BEEF),
                storage_class: class[index as usize % 3],
                ..ObjectMeta::default()
            }
        })
        .collect()
}
