use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::ErrorKind;

fn prefix(uri: &str) -> Prefix {
    uri.parse().unwrap()
}

fn object(name: &str, size: u64) -> ObjectRef<'_> {
    ObjectRef { name, size, ..ObjectRef::default() }
}

fn included(glob: &str, uri: &str, name: &str) -> bool {
    Filter::everything().include(glob).unwrap().reason(&prefix(uri), &object(name, 1)).is_none()
}

#[test]
fn samples_are_accepted() {
    let reason = |filter: &Filter, uri, name, size| filter.reason(&prefix(uri), &object(name, size));
    let samples = Filter::new();
    assert_eq!(reason(&samples, "gs://bucket/p/", "p/", 0), Some(Reason::DirectoryMarker));
    assert_eq!(reason(&samples, "gs://bucket/p/", "p/x/", 3), None, "bytes are a sample, whatever the name");
    assert_eq!(reason(&samples, "gs://bucket/p/", "p/x", 0), None);
    let ours = "dataflux-composed-objects/1/2";
    assert_eq!(reason(&samples, "gs://bucket", ours, 1), Some(Reason::Temporary));
    assert_eq!(reason(&samples, "gs://bucket/dataflux-composed-objects/", ours, 1), None);
    assert_eq!(reason(&samples, "gs://bucket/dataflux-", ours, 1), Some(Reason::Temporary));
    let all = Filter::everything();
    assert_eq!(reason(&all, "gs://bucket/", "p/", 0).or(reason(&all, "gs://bucket", ours, 1)), None);
    assert_eq!(reason(&Filter::default(), "gs://bucket", "p/", 0), Some(Reason::DirectoryMarker));
}

#[test]
fn bounds_are_inclusive_and_an_unknown_time_is_accepted() {
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let filter = Filter::new().min_size(2).max_size(4).modified_since(at(10));
    let reason = |size, updated| {
        filter.reason(&prefix("gs://bucket"), &ObjectRef { name: "a", size, updated, ..ObjectRef::default() })
    };
    assert_eq!(
        [1, 2, 4, 5].map(|size| reason(size, None)),
        [Some(Reason::TooSmall), None, None, Some(Reason::TooLarge)]
    );
    assert_eq!([9, 10, 11].map(|time| reason(3, Some(at(time)))), [Some(Reason::NotModified), None, None]);
    assert_eq!((filter.fields(), Filter::new().min_size(1).fields()), (Fields::Times, Fields::Sample));
}

#[test]
fn one_of_the_classes_is_enough() {
    let filter = Filter::new().storage_class(StorageClass::Nearline).storage_class(StorageClass::Archive);
    for (storage_class, wanted) in [
        (StorageClass::Nearline, None),
        (StorageClass::Archive, None),
        (StorageClass::Standard, Some(Reason::StorageClass)),
        (StorageClass::Unspecified, Some(Reason::StorageClass)),
    ] {
        let object = ObjectRef { storage_class, ..object("a", 1) };
        assert_eq!(filter.reason(&prefix("gs://bucket"), &object), wanted);
    }
}

#[test]
fn globs_are_below_the_last_slash_of_the_prefix() {
    for uri in ["gs://bucket/train/", "gs://bucket/train/c"] {
        assert!(included("cat/*.png", uri, "train/cat/1.png"));
        assert!(!included("train/**", uri, "train/cat/1.png"));
    }
    assert!(included("train/**", "gs://bucket/tr", "train/cat/1.png"));
    assert!(included("/b/*", "gs://bucket/p/", "p/b/0"));
    assert!(!included("/b/*", "gs://bucket/p/", "p//b/0"));
    assert!(included("//b/*", "gs://bucket/p/", "p//b/0"), "one slash anchors, the next is of the name");
}

#[test]
fn globs_in_folders_and_out_of_them() {
    for (glob, matched, not) in [
        ("*.png", &["a.png", "x/a.png", "x/y/.png"][..], &["a.png/b", "a.PNG", "a.pngs"][..]),
        ("/*.png", &["a.png"], &["x/a.png"]),
        ("x/*", &["x/a", "x/"], &["x/y/a", "w/x/a", "x"]),
        ("x/**", &["x/a", "x/y/a", "x/"], &["x", "w/x/a"]),
        ("**/x/*", &["x/a", "w/x/a"], &["x/y/a"]),
        ("x/**/a", &["x/a", "x/y/z/a"], &["x/ya", "a"]),
        ("raw/", &["raw/a", "raw/", "x/raw/y/a"], &["raw", "xraw/a"]),
        ("/raw/", &["raw/a"], &["x/raw/a"]),
        ("x/raw/", &["x/raw/a"], &["raw/a", "w/x/raw/a"]),
        ("*", &["a", "x/a", "x/"], &[]),
        ("**", &["a", "x/y/a", "/"], &[]),
        ("*.{jpg,png}", &["a.jpg", "x/a.png"], &["a.gif"]),
        ("a{,.gz}", &["a", "a.gz"], &["ab"]),
        ("[0-9]?", &["1x", "y/22"], &["1", "x1", "1/"]),
        (r"\[1\]\*.png", &["[1]*.png"], &["1.png", "[1]x.png"]),
        ("[*]", &["*"], &["a"]),
        ("é {ü,日本}*", &["é ü", "x/é 日本語"], &["e ü", "é u"]),
        ("a\\\\b", &["a\\b"], &["a/b", "ab"]),
        ("\u{1b}[!m]", &["\u{1b}x"], &["\u{1b}m"]),
    ] {
        for name in matched {
            assert!(included(glob, "gs://bucket", name), "{glob:?} must match {name:?}");
        }
        for name in not {
            assert!(!included(glob, "gs://bucket", name), "{glob:?} must not match {name:?}");
        }
    }
}

#[test]
fn brackets_and_question_marks_are_of_bytes_as_documented() {
    assert!(!included("?.png", "gs://bucket", "é.png"));
    assert!(included("??.png", "gs://bucket", "é.png"));
    assert!(included("/x[!a]y", "gs://bucket", "x/y"));
}

#[test]
fn any_glob_includes_and_any_excludes() {
    let filter = Filter::everything().include("*.png").unwrap().include("*.jpg").unwrap();
    let filter = filter.exclude("a*").unwrap().exclude("*z.png").unwrap();
    for (name, wanted) in [
        ("b.png", None),
        ("b.jpg", None),
        ("b.txt", Some(Reason::NotIncluded)),
        ("a.png", Some(Reason::Excluded)),
        ("bz.png", Some(Reason::Excluded)),
        ("a.txt", Some(Reason::NotIncluded)),
    ] {
        assert_eq!(filter.reason(&prefix("gs://bucket"), &object(name, 1)), wanted, "{name}");
    }
    let told = format!("{filter:?}");
    assert!(told.contains("**/*z.png") && told.len() < 400, "{told}");
}

#[test]
fn suffixes_in_any_case() {
    for filter in [
        Filter::new().include("*.{jpg,jpeg}").unwrap().exclude("thumbs/").unwrap().any_case().unwrap(),
        Filter::new().any_case().unwrap().include("*.{jpg,jpeg}").unwrap().exclude("thumbs/").unwrap(),
    ] {
        for (name, wanted) in [
            ("a.jpg", None),
            ("A.JPG", None),
            ("x/a.JpEg", None),
            ("a.png", Some(Reason::NotIncluded)),
            ("Thumbs/a.jpg", Some(Reason::Excluded)),
            ("É.jpg", None),
        ] {
            assert_eq!(filter.reason(&prefix("gs://bucket"), &object(name, 1)), wanted, "{name}");
        }
    }
    // Without it, the case counts.
    assert!(!included("*.jpg", "gs://bucket", "A.JPG"));
    let beyond_ascii = Filter::everything().include("é*").unwrap().any_case().unwrap();
    assert_eq!(beyond_ascii.reason(&prefix("gs://bucket"), &object("É.jpg", 1)), Some(Reason::NotIncluded));
}

#[test]
fn images_only() {
    let filter = Filter::new().images();
    for (name, wanted) in [
        ("train/cat/1.png", None),
        ("train/cat/1.JPEG", None),
        ("train/cat/1.webp", None),
        ("train/1.Jpg", None),
        ("train/cat/v1.2/a.b.jpg", None),
        ("train/cat/labels.csv", Some(Reason::NotAnImage)),
        ("train/cat/1.png.txt", Some(Reason::NotAnImage)),
        ("train/cat/1", Some(Reason::NotAnImage)),
        ("train/cat.png/1", Some(Reason::NotAnImage)),
        ("train/cat/jpg", Some(Reason::NotAnImage)),
        ("train/.ipynb_checkpoints/1-checkpoint.png", Some(Reason::Hidden)),
        ("train/cat/.1.png", Some(Reason::Hidden)),
        ("train/cat/.DS_Store", Some(Reason::Hidden)),
        ("train/cat/Thumbs.db", Some(Reason::Hidden)),
        ("train/__MACOSX/cat/1.png", Some(Reason::Hidden)),
        ("train/cat/", Some(Reason::NotAnImage)),
    ] {
        assert_eq!(filter.reason(&prefix("gs://bucket/train/"), &object(name, 1)), wanted, "{name}");
    }
    // What is hidden is so below the prefix.
    assert_eq!(filter.reason(&prefix("gs://bucket/.data/"), &object(".data/cat/1.png", 1)), None);
}

#[test]
fn hidden_files_are_no_samples_unless_they_are_wanted() {
    for name in [".data/cat/1.txt", "cat/.DS_Store", "__MACOSX/cat/1.txt", "cat/THUMBS.DB"] {
        let reason = |filter: Filter| filter.reason(&prefix("gs://bucket/"), &object(name, 1));
        assert_eq!(reason(Filter::new()), Some(Reason::Hidden), "{name}");
        assert_eq!(reason(Filter::new().hidden()), None, "{name}");
        assert_eq!(reason(Filter::everything()), None, "{name}");
        assert_eq!(reason(Filter::new().hidden().images()), Some(Reason::Hidden), "{name}");
    }
    for name in ["cat/a.b/1.txt", "cat./1", "_cat/1", "cat/..."] {
        let wanted = (name == "cat/...").then_some(Reason::Hidden);
        assert_eq!(Filter::new().reason(&prefix("gs://bucket/"), &object(name, 1)), wanted, "{name}");
    }
}

#[test]
fn invalid_globs_are_refused_and_named() {
    for (glob, said) in [
        ("[a", "missing ']'"),
        ("{a,b", "missing '}'"),
        ("a}", "missing '{'"),
        ("[z-a]", "'z' > 'a'"),
        ("a\\", "dangling"),
        ("", "names nothing"),
        ("//", "names nothing"),
        ("[é]", "{é,è}"),
        ("x[!]é]", "{é,è}"),
        ("[]日]", "{é,è}"),
    ] {
        for error in [Filter::new().include(glob).unwrap_err(), Filter::new().exclude(glob).unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Config);
            let told = error.to_string();
            assert!(told.contains(&format!("'{glob}'")) && told.contains(said), "{told}");
        }
    }
    for glob in ["[]a]é", "[!a]é", r"\[é]", "é[a]"] {
        Filter::new().include(glob).unwrap();
    }
}

#[test]
fn objects_left_out_are_counted_by_reason() {
    let mut left = LeftOut::default();
    assert_eq!((left.to_string(), left.total(), left.counts().count()), ("nothing".to_owned(), 0, 0));
    left.add(Reason::StorageClass);
    (0..12).for_each(|_| left.add(Reason::DirectoryMarker));
    assert_eq!(left.to_string(), "12 folder marks, 1 of another storage class");
    let mut other = LeftOut::default();
    for reason in [Reason::TooLarge, Reason::DirectoryMarker, Reason::TooLarge] {
        other.add(reason);
    }
    other.merge(&left);
    let counts: Vec<_> = other.counts().map(|(reason, count)| (reason.as_str(), count)).collect();
    assert_eq!(counts, [("directory_markers", 13), ("storage_class", 1), ("too_large", 2)]);
    assert_eq!(other.total(), 16);
    assert_eq!(other.count(Reason::DirectoryMarker), 13);
    assert_eq!(format!("{left:?}"), "{DirectoryMarker: 12, StorageClass: 1}");
    assert!(Reason::ALL.is_sorted());
}

/// Matches a glob as documented, part by part and byte by byte.
fn by_the_book(glob: &[&str], name: &[&str]) -> bool {
    match (glob, name) {
        ([], []) => true,
        (["**"], _) => !name.is_empty(),
        (["**", rest @ ..], _) => (0..=name.len()).any(|skipped| by_the_book(rest, &name[skipped..])),
        ([part, rest @ ..], [first, others @ ..]) => {
            part_matches(part.as_bytes(), first.as_bytes()) && by_the_book(rest, others)
        }
        _ => false,
    }
}

fn part_matches(glob: &[u8], part: &[u8]) -> bool {
    match (glob, part) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=part.len()).any(|taken| part_matches(rest, &part[taken..])),
        ([b'?', rest @ ..], [_, others @ ..]) => part_matches(rest, others),
        ([c, rest @ ..], [d, others @ ..]) => c == d && part_matches(rest, others),
        _ => false,
    }
}

proptest! {
    #[test]
    fn globs_match_as_documented(
        glob in prop::collection::vec(prop_oneof![1 => "[*]{2}", 3 => "[abé]{0,2}[*?]?[.]?[ab*]"], 1..5),
        name in prop::collection::vec("[abé]{0,2}([.][ab])?", 1..5),
    ) {
        prop_assume!(glob.iter().all(|part| part == "**" || !part.contains("**")));
        let wanted = by_the_book(
            &glob.iter().map(String::as_str).collect::<Vec<_>>(),
            &name.iter().map(String::as_str).collect::<Vec<_>>(),
        );
        let (glob, name) = (format!("/{}", glob.join("/")), name.join("/"));
        prop_assert_eq!(included(&glob, "gs://bucket", &name), wanted, "{} of {}", glob, name);
    }

    /// Conditions together leave out the objects that any of them leaves out alone, each once, for the first reason in
    /// order.
    #[test]
    fn each_object_has_one_reason_and_counts_add_up(
        objects in prop::collection::vec(
            ("(dataflux-composed-objects/)?[ab]{1,2}(/[ab]?)?", 0..6u64, 0..4u8, prop::option::of(0..9u64)), 0..40),
        conditions in prop::collection::vec(any::<bool>(), 6),
        (least, most, since) in (0..5u64, 0..5u64, 0..9u64),
    ) {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let none = Filter::everything;
        let alone: [(Filter, &[Reason]); 6] = [
            (Filter::new(), &[Reason::Temporary, Reason::DirectoryMarker]),
            (none().storage_class(StorageClass::Standard), &[Reason::StorageClass]),
            (none().include("a*").unwrap(), &[Reason::NotIncluded]),
            (none().exclude("*b").unwrap(), &[Reason::Excluded]),
            (none().min_size(least).max_size(most), &[Reason::TooSmall, Reason::TooLarge]),
            (none().modified_since(at(since)), &[Reason::NotModified]),
        ];
        let mut all = if conditions[0] { Filter::new() } else { none() };
        if conditions[1] { all = all.storage_class(StorageClass::Standard); }
        if conditions[2] { all = all.include("a*").unwrap(); }
        if conditions[3] { all = all.exclude("*b").unwrap(); }
        if conditions[4] { all = all.min_size(least).max_size(most); }
        if conditions[5] { all = all.modified_since(at(since)); }
        let prefix = prefix("gs://bucket");
        let classes =
            [StorageClass::Unspecified, StorageClass::Standard, StorageClass::Nearline, StorageClass::Archive];
        let (mut left, mut kept) = (LeftOut::default(), 0);
        for (name, size, class, updated) in &objects {
            let object = ObjectRef {
                storage_class: classes[usize::from(*class)],
                updated: updated.map(at),
                ..object(name, *size)
            };
            let against: Vec<Reason> = alone.iter().zip(&conditions).filter(|(_, on)| **on)
                .filter_map(|((filter, reasons), _)| {
                    let reason = filter.reason(&prefix, &object);
                    assert!(reason.is_none_or(|reason| reasons.contains(&reason)));
                    reason
                })
                .collect();
            let reason = all.reason(&prefix, &object);
            prop_assert_eq!(reason, against.iter().copied().min());
            match reason {
                Some(reason) => left.add(reason),
                None => kept += 1,
            }
        }
        prop_assert_eq!(kept + left.total(), objects.len() as u64);
    }
}
