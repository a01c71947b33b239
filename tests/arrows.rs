//! The way of the data goes one way: a module may use those before it, and none after it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Modules in the order of the data's way; `lib.rs` lists them so.
const WAY: [&str; 15] = [
    "store", "list", "manifest", "sample", "plan", "pacing", "compose", "cache", "read", "decode", "collate",
    "observe", "engine", "loader", "tensor",
];
/// What stands under all of them, and uses none of them, but for the kinds named beside it.
const GROUND: [(&str, &[&str]); 7] =
    [("error", &[]), ("budget", &[]), ("crc", &[]), ("io", &[]), ("metrics", &[]), ("os", &[]), ("suspension", &[])];
/// The one arrow that goes against the way: a decoder says how its items are usually collated.
const AGAINST: [(&str, &str); 1] = [("decode", "collate")];

fn sources(of: &Path, into: &mut Vec<PathBuf>) {
    if of.is_dir() {
        of.read_dir().unwrap().for_each(|entry| sources(&entry.unwrap().path(), into));
    } else if of.extension().is_some_and(|extension| extension == "rs") {
        into.push(of.to_owned());
    }
}

/// Names of modules that `use crate::…` and other paths in the code name.
fn named(text: &str) -> BTreeSet<String> {
    let modules: Vec<&str> = WAY.iter().copied().chain(GROUND.map(|(name, _)| name)).collect();
    let code = text.split("#[cfg(test)]").next().unwrap();
    let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    code.match_indices("crate::")
        .map(|(at, path)| {
            code[at + path.len()..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>()
        })
        .filter(|name| modules.contains(&name.as_str()))
        .collect()
}

#[test]
fn arrows_point_back_along_the_way_of_the_data() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let place = |name: &str| WAY.iter().position(|module| *module == name);
    let mut seen = 0;
    for module in WAY.iter().copied().chain(GROUND.map(|(name, _)| name)) {
        let mut files = Vec::new();
        sources(&root.join(module), &mut files);
        sources(&root.join(format!("{module}.rs")), &mut files);
        files.retain(|file| file.exists());
        assert!(!files.is_empty(), "no module {module}");
        for file in files {
            for used in named(&std::fs::read_to_string(&file).unwrap()) {
                seen += 1;
                let allowed = match (place(module), place(&used)) {
                    (_, None) | (None, Some(_)) if module == used => true,
                    (_, None) => true,
                    (None, Some(_)) => GROUND.iter().any(|(name, uses)| *name == module && uses.contains(&&*used)),
                    // An arrow against the way takes the place of the one along it, or there would be a circle.
                    (Some(_), Some(_)) if AGAINST.contains(&(&used, module)) => false,
                    (Some(from), Some(to)) => to <= from || AGAINST.contains(&(module, &used)),
                };
                assert!(allowed, "{} uses {used}, which comes after {module}", file.display());
            }
        }
    }
    assert!(seen > 40, "the test sees no arrows any more: {seen}");
    let lib = std::fs::read_to_string(root.join("lib.rs")).unwrap();
    let listed: Vec<&str> = lib
        .lines()
        .filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'))
        .filter(|name| WAY.contains(name))
        .collect();
    assert_eq!(listed, WAY, "lib.rs lists the modules in the order of the data's way");
}

#[test]
fn a_library_behind_a_feature_is_named_in_its_own_file_alone() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for (library, home) in [
        ("candle_core", "tensor/candle.rs"),
        (" tch::", "tensor/tch.rs"),
        ("ndarray::", "tensor/array.rs"),
        ("use parquet::", "list/inventory/parquet.rs"),
    ] {
        let homes: Vec<_> = files
            .iter()
            .filter(|file| std::fs::read_to_string(file).unwrap().contains(library))
            .map(|file| file.strip_prefix(&root).unwrap().to_owned())
            .collect();
        assert_eq!(homes, [Path::new(home)], "{library}");
    }
}

#[test]
fn unsafe_code_is_in_one_module() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let with: Vec<_> =
        files.iter().filter(|file| std::fs::read_to_string(file).unwrap().contains("unsafe {")).collect();
    assert_eq!(with, [&root.join("os.rs")]);
}
