use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::manifest::tests::{manifest, object};
use crate::manifest::{ClassMap, SampleId};
use crate::store::{ObjectMeta, StorageClass};

fn listing(names: &[&str]) -> Arc<Manifest> {
    Arc::new(manifest(&objects(names)))
}

fn objects(names: &[&str]) -> Vec<ObjectMeta> {
    let mut names = names.to_vec();
    names.sort_unstable();
    names.iter().zip(1..).map(|(name, size)| object(name, size)).collect()
}

/// The names of the parts of each sample, in order.
fn names(manifest: &Manifest) -> Vec<Vec<String>> {
    let names = |index| {
        let location = manifest.location(SampleId(index)).unwrap();
        location.entries().map(|entry| entry.name.to_string()).collect()
    };
    (0..manifest.len()).map(names).collect()
}

fn join(listing: &Arc<Manifest>, parts: &Parts) -> Manifest {
    listing.with_parts(parts).unwrap().0
}

fn error(listing: &Arc<Manifest>, parts: &Parts) -> String {
    listing.with_parts(parts).unwrap_err().to_string()
}

#[test]
fn images_and_masks_beside_each_other() {
    let listing = listing(&["p/1.png", "p/10.png", "p/10_mask.png", "p/1_mask.png", "p/2_mask.png", "p/readme"]);
    let joined = join(&listing, &Parts::of("{}.png").and("{}_mask.png"));
    assert_eq!(names(&joined), [["p/1.png", "p/1_mask.png"], ["p/10.png", "p/10_mask.png"]]);
    let left_out = joined.left_out();
    assert_eq!((left_out.count(Reason::NotAPart), left_out.count(Reason::Incomplete)), (1, 1));
    assert_eq!((joined.len(), joined.part_count()), (2, 2));
    assert_eq!(joined.bytes(), listing.bytes() - 5 - 6, "2_mask.png and readme");
    assert_eq!(joined.storage_classes().map(|class| class.objects).sum::<u64>(), 4);
}

#[test]
fn parts_below_other_prefixes_whether_they_end_with_a_slash_or_not() {
    let images = listing(&["p/a/1.jpg", "p/a/2.jpg", "p/b/1.jpg"]);
    for prefix in ["gs://other/masks/", "gs://other/masks"] {
        let masks = ["masks/a/1.png", "masks/a/2.png", "masks/b/1.png", "masks/c/9.png"];
        let masks: crate::store::Objects = objects(&masks).iter().map(ObjectMeta::to_ref).collect();
        let masks = Manifest::new(prefix.parse().unwrap(), &masks).unwrap();
        let joined = join(&images, &Parts::of("{}.jpg").and_in(masks, "{}.png"));
        assert_eq!(names(&joined)[2], ["p/b/1.jpg", "masks/b/1.png"]);
        assert_eq!(joined.left_out().total(), 0, "what another data set has more is not of this one");
        let location = joined.location(SampleId(2)).unwrap();
        assert_eq!(&*location.parts[0].bucket, "other");
        assert_eq!(location.parts[0].object.label, Some(1));
        let ids: Vec<_> = joined.objects(&location).map(|(id, _)| id.to_string()).collect();
        assert!(
            ids[0].starts_with("gs://bucket/p/b/1.jpg") && ids[1].starts_with("gs://other/masks/b/1.png"),
            "{ids:?}"
        );
    }
}

#[test]
fn the_pattern_with_the_most_text_wins_in_another_listing_too() {
    let images = listing(&["p/1.jpg", "p/1_mask.jpg"]);
    let others = listing(&["p/1.png", "p/1_mask.png"]);
    let parts = || Parts::of("{}.jpg").and_in(Arc::clone(&others), "{}.png").and_in(Arc::clone(&others), "{}_mask.png");
    let text = error(&images, &parts());
    assert!(text.contains("a sample lacks a part: p/1_mask.jpg"), "{text}");
    assert!(
        text.contains("gs://bucket/p/1_mask.png for the first, got one that belongs to the part '{}_mask.png'"),
        "{text}"
    );
    let joined = join(&images, &parts().missing(MissingParts::Skip));
    assert_eq!(names(&joined), [["p/1.jpg", "p/1.png", "p/1_mask.png"]]);
}

#[test]
fn folders_in_patterns() {
    let listing = listing(&["p/images/a/1.jpg", "p/images/a/2.jpg", "p/masks/a/1.png", "p/masks/a/2.png"]);
    let joined = join(&listing, &Parts::of("images/{}.jpg").and("masks/{}.png"));
    assert_eq!(names(&joined)[1], ["p/images/a/2.jpg", "p/masks/a/2.png"]);
    assert_eq!(joined.labels(), ["images"]);
}

#[test]
fn incomplete_samples_are_an_error_or_counted() {
    let listing = listing(&["p/a.jpg", "p/a.json", "p/b.jpg", "p/c.jpg", "p/c.txt", "p/d.json", "p/e.jpg", "p/f.jpg"]);
    let parts = Parts::by_stem(["jpg", "json"]);
    let text = error(&listing, &parts);
    assert!(text.contains("samples lack a part: p/b.jpg, p/c.jpg, p/e.jpg and 1 more"), "{text}");
    assert!(text.contains("wanted gs://bucket/p/b.json for the first, got no such object; 4 of 5 samples"), "{text}");
    assert!(text.contains("MissingParts::Skip"), "{text}");

    let (joined, found) = listing.with_parts(&parts.missing(MissingParts::Skip)).unwrap();
    assert_eq!(names(&joined), [["p/a.jpg", "p/a.json"]]);
    let left_out = joined.left_out();
    assert_eq!((left_out.count(Reason::NotAPart), left_out.count(Reason::Incomplete)), (1, 5));
    assert_eq!(found.incomplete, 4);
    assert_eq!(found.example.unwrap(), ("p/b.jpg".to_owned(), "gs://bucket/p/b.json".to_owned()));

    let none = Parts::of("{}.jpg").and("{}.xml").missing(MissingParts::Skip);
    let text = error(&listing, &none);
    assert!(text.contains("5 of 5 samples are incomplete") && !text.contains("MissingParts::Skip"), "{text}");
}

#[test]
fn parts_that_cannot_be_are_refused() {
    let listing = listing(&["p/a.jpg", "p/a.json"]);
    for (parts, wanted) in [
        (Parts::of("{}.png"), "'{}.png' below gs://bucket/p/, got 2 objects such as p/a.jpg"),
        (Parts::of("*.jpg"), "got '*.jpg'"),
        (Parts::of("{}.jpg").and("{}.jpg"), "'{}.jpg' twice"),
        (Parts::by_stem([""; 0]), "at least one, got none"),
    ] {
        let text = error(&listing, &parts);
        assert!(text.contains(wanted), "{text}");
    }
    let joined = Arc::new(join(&listing, &Parts::by_stem(["jpg", "json"])));
    assert!(error(&joined, &Parts::of("{}.jpg")).contains("several parts already"));
    assert!(error(&listing, &Parts::of("{}.jpg").and_in(joined, "{}.jpg")).contains("one of samples of 2 parts"));
}

#[test]
fn one_part_is_a_filter() {
    let joined = join(&listing(&["p/a.jpg", "p/a.json"]), &Parts::of("{}.jpg"));
    assert_eq!((joined.len(), joined.part_count(), joined.parts.is_none()), (1, 1, true));
}

#[test]
fn a_location_sums_its_parts() {
    let joined = join(&listing(&["p/a.0", "p/a.1", "p/a.2"]), &Parts::by_stem(["0", "1", "2"]));
    let location = joined.location(SampleId(0)).unwrap();
    assert_eq!(location.bytes(), 1 + 2 + 3);
    let parts = [b"a".as_slice(), b"bc", b"def"];
    let mut known = location.clone();
    known.object.crc32c = Some(crc32c::crc32c(parts[0]));
    for (part, bytes) in known.parts.iter_mut().zip(&parts[1..]) {
        part.object.crc32c = Some(crc32c::crc32c(bytes));
    }
    assert_eq!(known.crc32c(), Some(crc32c::crc32c(b"abcdef")));
    known.parts[1].object.crc32c = None;
    assert_eq!(known.crc32c(), None);
    let facts = joined.location_facts(SampleId(0)).unwrap();
    assert!(facts.sizes().eq(location.sizes()));
}

#[test]
fn the_digest_has_the_sizes_and_checksums_of_all_parts_and_the_names_of_the_first() {
    let names = ["p/a.jpg", "p/a.json", "p/b.jpg", "p/b.json"];
    let base = objects(&names);
    let parts = Parts::by_stem(["jpg", "json"]);
    let digest = |objects: &[ObjectMeta]| join(&Arc::new(manifest(objects)), &parts).digest();
    let of_base = digest(&base);
    assert_eq!(digest(&base), of_base);

    let first_alone = join(&Arc::new(manifest(&base)), &Parts::of("{}.jpg")).digest();
    assert_eq!(of_base.names_key(), first_alone.names_key());
    let difference = |other: &[ObjectMeta]| of_base.difference(&digest(other)).map(|difference| difference.to_string());
    let mut other = base.clone();
    other[1].size += 1;
    assert_eq!(difference(&other).unwrap(), "sizes differ");
    let mut other = base.clone();
    other[3].crc32c = Some(99);
    assert_eq!(difference(&other).unwrap(), "checksums differ");
    let mut unknown = base.clone();
    unknown[3].crc32c = None;
    assert_eq!(difference(&unknown), None, "a store may lack checksums");
    let mut swapped = base;
    (swapped[1].size, swapped[3].size) = (swapped[3].size, swapped[1].size);
    assert_eq!(difference(&swapped).unwrap(), "sizes differ");
}

/// A saved state holds it.
#[test]
fn golden_digest() {
    let joined = join(&listing(&["p/a.jpg", "p/a.json"]), &Parts::by_stem(["jpg", "json"]));
    assert_eq!(joined.digest().to_string(), GOLDEN_DIGEST);
}

const GOLDEN_DIGEST: &str = "6132092c204ed896a135df88122dc685e306901cb677ec71a732155741a1d849";

#[test]
fn images_and_classes_of_samples_keep_their_parts() {
    let listing = listing(&["p/a/1.jpg", "p/a/1.txt", "p/b/1.tar", "p/b/1.txt", "p/b/2.jpg", "p/b/2.txt"]);
    let joined = Arc::new(join(&listing, &Parts::of("{}.jpg").and("{}.txt").missing(MissingParts::Skip)));
    let classes = ClassMap::new(["b", "a"]).unwrap();
    let (images, found) = joined.images().unwrap();
    assert_eq!((images.len(), found.left_out.total()), (2, 0));
    let classified = images.with_classes(&classes).unwrap();
    assert_eq!(names(&classified), names(&joined));
    assert_eq!(classified.location(SampleId(0)).unwrap().parts[0].object.label, Some(1));
    classified.verify().unwrap();
    // A list of other classes replaces this one: the folders are looked up again.
    let swapped = ClassMap::new(["a", "b"]).unwrap();
    assert_eq!(names(&classified.with_classes(&swapped).unwrap()), names(&joined));
}

#[test]
fn what_is_no_image_leaves_with_its_parts() {
    let listing = listing(&["p/a/1.jpg", "p/a/1.jpg.txt", "p/a/2.tar", "p/a/2.tar.txt", "p/b/3.jpg", "p/b/3.jpg.txt"]);
    let joined = Arc::new(join(&listing, &Parts::of("{}").and("{}.txt")));
    assert_eq!(joined.len(), 3);
    let (images, found) = joined.images().unwrap();
    assert_eq!(found.left_out.count(Reason::NotAnImage), 1);
    assert_eq!(names(&images)[1], ["p/b/3.jpg", "p/b/3.jpg.txt"]);
    assert_eq!(images.digest(), join(&listing_without_tar(), &Parts::of("{}").and("{}.txt")).digest());
    images.verify().unwrap();
}

fn listing_without_tar() -> Arc<Manifest> {
    let mut objects =
        objects(&["p/a/1.jpg", "p/a/1.jpg.txt", "p/a/2.tar", "p/a/2.tar.txt", "p/b/3.jpg", "p/b/3.jpg.txt"]);
    objects.drain(2..4);
    Arc::new(manifest(&objects))
}

#[test]
fn a_file_does_not_hold_parts() {
    let joined = join(&listing(&["p/a.jpg", "p/a.json"]), &Parts::by_stem(["jpg", "json"]));
    let path = std::env::temp_dir().join(format!("dataflux-parts-{}.dfm", std::process::id()));
    let error = joined.save(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(!path.exists() && error.to_string().contains("one whose samples have 2 parts"), "{error}");
}

#[test]
fn memory_is_four_bytes_for_each_further_part_beside_the_listing() {
    let names: Vec<String> = (0..1_000).flat_map(|n| ["0", "1", "2"].map(|part| format!("p/{n:04}.{part}"))).collect();
    let listing = listing(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let joined = join(&listing, &Parts::by_stem(["0", "1", "2"]));
    let first = join(&listing, &Parts::of("{}.0"));
    assert_eq!(joined.memory_bytes(), first.memory_bytes() + listing.growth.objects.bytes() + 2 * 4_000);
}

proptest! {
    #[test]
    fn samples_are_those_of_a_map(
        objects in prop::collection::btree_set(("[ab]{1,2}", prop::sample::select(vec![".x", ".y", ".z", "_m.x", ""])), 1..60),
    ) {
        let names_there: BTreeSet<String> = objects.iter().map(|(stem, suffix)| format!("p/{stem}{suffix}")).collect();
        let listed: Vec<_> = names_there.iter().map(|name| object(name, name.len() as u64)).collect();
        let listing = Arc::new(manifest(&listed));
        let parts = Parts::of("{}.x").and("{}.y").and("{}_m.x").missing(MissingParts::Skip);

        let firsts = names_there.iter().filter(|name| name.strip_suffix(".x").is_some_and(|stem| !stem.ends_with("_m")));
        let samples = firsts.map(|name| {
            let stem = name.strip_suffix(".x").unwrap();
            [".x", ".y", "_m.x"].map(|suffix| format!("{stem}{suffix}"))
        });
        let complete: Vec<_> = samples.filter(|sample| sample.iter().all(|name| names_there.contains(name))).collect();
        let matching = names_there.iter().filter(|name| [".x", ".y"].iter().any(|end| name.ends_with(end))).count();
        let Ok((joined, _)) = listing.with_parts(&parts) else {
            prop_assert!(complete.is_empty());
            return Ok(());
        };
        prop_assert_eq!(names(&joined), complete.iter().map(|sample| sample.to_vec()).collect::<Vec<_>>());
        let left_out = joined.left_out();
        prop_assert_eq!(left_out.count(Reason::NotAPart) as usize, names_there.len() - matching);
        prop_assert_eq!(left_out.count(Reason::Incomplete) as usize, matching - 3 * complete.len());
        prop_assert_eq!(joined.storage_classes().next().unwrap().storage_class, StorageClass::Standard);
        joined.verify().unwrap();
    }
}
