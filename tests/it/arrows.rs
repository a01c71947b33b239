//! Arrows between rooms, and between the files of a room, point only back along the path of the data.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::sources::Sources;

/// The rooms, in the order in which data passes through them; `lib.rs` declares them so. A room may use those before
/// it.
const ROOMS: [&str; 19] = [
    "store",
    "pacing",
    "list",
    "manifest",
    "sample",
    "plan",
    "compose",
    "cache",
    "read",
    "encoding",
    "pixels",
    "transform",
    "decode",
    "collate",
    "labels",
    "audit",
    "engine",
    "loader",
    "tensor",
];

/// The modules below all rooms: they use each other, and no room.
const GROUND: [&str; 9] = ["budget", "crc", "error", "io", "lock", "metrics", "observe", "os", "suspension"];

/// The one arrow against the order: a decoder says how its items are usually collated. It takes the place of the arrow
/// from `collate` to `decode`, which is therefore forbidden.
const EXCEPTION: (&str, &str) = ("decode", "collate");

/// Arrows that close a circle among files and still have to be removed: the first file uses the second. The test fails
/// for each that is gone, so that the list only shrinks.
const CLOSING_ARROWS: &[(&str, &str)] = &[];

/// The same for the command line.
const CLOSING_ARROWS_OF_CLI: &[(&str, &str)] = &[];

/// Which file uses which.
type Arrow = (PathBuf, PathBuf);

fn library() -> Sources {
    Sources::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"))
}

/// The room of a file, or the module of the ground.
fn room(file: &Path) -> String {
    let first = file.iter().next().unwrap().to_string_lossy();
    first.strip_suffix(".rs").unwrap_or(&first).to_owned()
}

/// The arrows from a room to a later one, or from the ground to a room.
fn forbidden_arrows(sources: &Sources) -> Vec<String> {
    let position = |room: &str| ROOMS.iter().position(|name| *name == room);
    let is_forbidden = |(from, to): &Arrow| {
        let (from, to) = (room(from), room(to));
        match (position(&from), position(&to)) {
            _ if from == "lib" || from == to => false,
            _ if (&*from, &*to) == EXCEPTION => false,
            _ if (&*to, &*from) == EXCEPTION => true,
            (Some(from), Some(to)) => from < to,
            (None, Some(_)) => true,
            (_, None) => to == "lib",
        }
    };
    let arrows = sources.arrows().into_iter().filter(is_forbidden);
    arrows.map(|(from, to)| format!("{} uses {}", from.display(), to.display())).collect()
}

/// The circles that arrows make, each as the set of its files.
fn circles(arrows: &BTreeSet<Arrow>) -> BTreeSet<BTreeSet<PathBuf>> {
    let mut reached: BTreeMap<&PathBuf, BTreeSet<&PathBuf>> = BTreeMap::new();
    for (from, to) in arrows {
        reached.entry(from).or_default().insert(to);
    }

    // Extends what each file uses by what that uses in turn, until nothing is new.
    loop {
        let mut extended = reached.clone();
        for files in extended.values_mut() {
            let further: Vec<_> = files.iter().filter_map(|file| reached.get(file)).flatten().copied().collect();
            files.extend(further);
        }
        if extended == reached {
            break;
        }
        reached = extended;
    }

    let circle = |(file, uses): (&&PathBuf, &BTreeSet<&PathBuf>)| {
        let returns = |other: &&&PathBuf| reached.get(**other).is_some_and(|uses| uses.contains(*file));
        uses.iter().filter(returns).map(|file| (*file).clone()).collect::<BTreeSet<_>>()
    };
    reached.iter().map(circle).filter(|circle| !circle.is_empty()).collect()
}

/// The circles among the files of a crate without the known arrows; and the known arrows that close no circle any more.
fn wrong_circles(sources: &Sources, known: &[(&str, &str)]) -> Vec<String> {
    let all = sources.arrows();
    let known: BTreeSet<Arrow> = known.iter().map(|(from, to)| (from.into(), to.into())).collect();
    let line = |(from, to): &Arrow| format!("{} uses {}", from.display(), to.display());

    let circles_without_known = circles(&all.difference(&known).cloned().collect());
    let new = circles_without_known.iter().map(|circle| {
        let inside = all.difference(&known).filter(|(from, to)| circle.contains(from) && circle.contains(to));
        format!("a circle: {}", inside.map(line).collect::<Vec<_>>().join(", "))
    });

    let circles = circles(&all);
    let closes = |arrow: &&Arrow| {
        all.contains(arrow) && circles.iter().any(|circle| circle.contains(&arrow.0) && circle.contains(&arrow.1))
    };
    let gone = known.iter().filter(|arrow| !closes(arrow));
    new.chain(gone.map(|arrow| format!("closes no circle any more, so take it off the list: {}", line(arrow))))
        .collect()
}

#[test]
fn rooms_use_only_those_before_them() {
    let library = library();
    assert_eq!(forbidden_arrows(&library), [""; 0]);

    // The guide is text alone.
    let modules = library.rooms().into_iter().filter(|name| name != "guide");
    let (ground, rooms): (Vec<_>, Vec<_>) = modules.partition(|name| GROUND.contains(&&**name));
    assert_eq!(rooms, ROOMS, "lib.rs declares the rooms in the order of the data");
    assert_eq!(ground, GROUND);

    let between_rooms: BTreeSet<_> = library.arrows().into_iter().map(|(from, to)| (room(&from), room(&to))).collect();
    assert!(between_rooms.len() > 60, "the reader sees few arrows: {between_rooms:?}");
}

#[test]
fn files_of_a_crate_make_no_circle() {
    assert_eq!(wrong_circles(&library(), CLOSING_ARROWS), [""; 0]);
    for (root, known) in [("emulator/src/lib.rs", &[][..]), ("cli/src/main.rs", CLOSING_ARROWS_OF_CLI)] {
        let sources = Sources::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(root));
        assert_eq!(wrong_circles(&sources, known), [""; 0], "{root}");
    }
}

/// A small crate of two rooms, some files of which are replaced.
fn sample_with(changes: &[(&'static str, &str)]) -> Sources {
    let files = [
        ("lib.rs", "mod error;\npub mod plan;\nmod loader;\npub use loader::DataLoader;\npub use plan::Group;"),
        ("error.rs", "pub struct Error;"),
        ("plan/mod.rs", "mod parts;\npub use parts::Parts;\npub struct Group;\n#[cfg(test)] mod tests;"),
        ("plan/parts.rs", "pub struct Parts;"),
        ("loader/mod.rs", "mod builder;\nmod running;\npub use builder::Builder;\npub use running::DataLoader;"),
        (
            "loader/builder.rs",
            "use super::DataLoader;\npub struct Builder;\nimpl Builder { fn build() -> DataLoader {} }",
        ),
        ("loader/running.rs", "use crate::plan::Group;\npub struct DataLoader { group: Group }"),
    ];
    let changed = |name: &str| changes.iter().find(|(changed, _)| *changed == name).map(|(_, text)| *text);
    Sources::of_texts(&files.map(|(name, text)| (name, changed(name).unwrap_or(text))))
}

#[test]
fn sees_every_form_of_an_arrow() {
    let good = sample_with(&[]);
    assert_eq!(forbidden_arrows(&good), [""; 0]);
    assert_eq!(wrong_circles(&good, &[]), [""; 0]);

    for bad in [
        "use crate::loader::DataLoader;",
        "#[cfg(test)] mod tests { use super::*; } fn f(of: &crate::loader::DataLoader) {}",
        "#[cfg(test)] use std::fmt; use crate::loader::DataLoader;",
        "use crate::{error::Error, loader::{self, DataLoader}};",
        "use crate::{\n    error,\n    DataLoader,\n};",
        "use crate::DataLoader as Loader;",
        "pub use crate::loader::DataLoader;",
        "pub use super::super::DataLoader;",
        "use crate::loader::*;",
        "use crate as root; fn f() { root::loader::DataLoader::new() }",
        "fn f() { let text = format!(\"{}\", crate::loader::DataLoader::NAME); }",
        "fn f() { use crate::loader; }",
        "impl Parts { #[cfg(test)] fn f<A, B>() {} fn g(of: crate::DataLoader) {} }",
        "pub mod inner { use super::super::super::DataLoader; }",
        "fn f<T>() where Vec<T>: Into<crate::loader::DataLoader> {}",
    ] {
        let seen = forbidden_arrows(&sample_with(&[("plan/parts.rs", bad)]));
        assert!(seen.iter().any(|arrow| arrow.starts_with("plan/parts.rs uses loader/")), "{bad}: {seen:?}");
    }
    assert_eq!(forbidden_arrows(&sample_with(&[("error.rs", "use crate::Group;")])), ["error.rs uses plan/mod.rs"]);

    for harmless in [
        "// use crate::loader::DataLoader;",
        "/// See [`crate::loader::DataLoader`].\npub struct Parts;",
        "const TEXT: &str = \"crate::loader::DataLoader\";",
        "#[cfg(test)] mod tests { use crate::loader::DataLoader; }",
        "#[cfg(test)] fn f<A, B>(of: crate::loader::DataLoader) {}",
        "use std::loader::DataLoader; use other::loader; fn f() { ::crate_name::loader::f::<u8>::crate_name::loader() }",
    ] {
        assert_eq!(forbidden_arrows(&sample_with(&[("plan/parts.rs", harmless)])), [""; 0], "{harmless}");
    }
}

#[test]
fn sees_every_form_of_a_circle() {
    for bad in [
        "use super::builder::Builder;",
        "use super::Builder;",
        "use crate::loader::{Builder};",
        "#[cfg(test)] mod tests {} impl super::DataLoader { fn builder() -> super::Builder {} }",
        "use super::builder; fn f() { builder::Builder::new() }",
        "fn f() { assert!(super::Builder::is_new()) }",
    ] {
        let text = format!("pub struct DataLoader; {bad}");
        let seen = wrong_circles(&sample_with(&[("loader/running.rs", &text)]), &[]);
        let circle = "a circle: loader/builder.rs uses loader/running.rs, loader/running.rs uses loader/builder.rs";
        assert_eq!(seen, [circle], "{bad}");
        let known = [("loader/running.rs", "loader/builder.rs")];
        let listed = wrong_circles(&sample_with(&[("loader/running.rs", &text)]), &known);
        assert_eq!(listed, [""; 0]);
    }

    let uses_module = ("plan/parts.rs", "use super::Group;\npub struct Parts;");
    assert_eq!(wrong_circles(&sample_with(&[uses_module]), &[]), [""; 0], "plan/mod.rs only passes the name on");
    let uses_part = ("plan/mod.rs", "mod parts;\npub use parts::Parts;\npub struct Group { parts: Parts }");
    assert_eq!(wrong_circles(&sample_with(&[uses_part]), &[]), [""; 0]);
    let both = wrong_circles(&sample_with(&[uses_module, uses_part]), &[]);
    assert_eq!(both, ["a circle: plan/mod.rs uses plan/parts.rs, plan/parts.rs uses plan/mod.rs"]);

    for gone in [("loader/running.rs", "loader/builder.rs"), ("loader/running.rs", "plan/mod.rs")] {
        let seen = wrong_circles(&sample_with(&[]), &[gone]);
        assert_eq!(seen.len(), 1);
        assert!(seen[0].starts_with("closes no circle any more"), "{seen:?}");
    }
}

#[test]
fn a_library_behind_a_feature_is_named_in_its_own_file_alone() {
    let library = library();
    let homes_of_parquet = ["labels/table/parquet.rs", "list/inventory/parquet.rs"];
    for (name, wanted) in [
        ("use parquet::", &homes_of_parquet[..]),
        ("candle_core", &["tensor/candle.rs"]),
        // Copying into a tensor is unsafe.
        (" tch::", &["os.rs", "tensor/tch.rs"]),
        ("symphonia_", &["decode/audio/flac.rs"]),
        ("turbojpeg_sys", &["pixels/turbo.rs"]),
        ("lzma_rust2", &["encoding/xz.rs"]),
        ("brotli_decompressor", &["encoding/brotli.rs"]),
    ] {
        // The crate's root re-exports them, so that programs can use the same versions.
        let texts = library.texts().filter(|(file, _)| *file != Path::new("lib.rs"));
        let homes: Vec<_> = texts.filter(|(_, text)| text.contains(name)).map(|(file, _)| file).collect();
        assert_eq!(homes, wanted.iter().map(Path::new).collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn unsafe_code_is_in_two_files() {
    let library = library();
    let with: Vec<_> = library.texts().filter(|(_, text)| text.contains("unsafe {")).map(|(file, _)| file).collect();
    // What makes the calls of libjpeg-turbo sound is private to their file.
    assert_eq!(with, [Path::new("os.rs"), Path::new("pixels/turbo.rs")]);
}
