//! The layers of the sources: no circle among the files, and none among the folders.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The modules that each module uses. A module is the path of its file below `src`, such as `api/xml`.
type Arrows = BTreeMap<String, BTreeSet<String>>;

/// Reads all modules below a directory. `mod.rs` is the module of its directory.
fn read_modules(directory: &Path, prefix: &str, modules: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if path.is_dir() {
            read_modules(&path, &format!("{prefix}{name}/"), modules);
        } else {
            let module =
                if name == "mod" { prefix.trim_end_matches('/').to_owned() } else { format!("{prefix}{name}") };
            modules.insert(module, fs::read_to_string(&path).unwrap());
        }
    }
}

/// The code of a file without its comments and its tests.
fn code(source: &str) -> String {
    let (code, _) = source.split_once("#[cfg(test)]").unwrap_or((source, ""));
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Collects the paths of a use tree such as `a::{b, c::d}`, and returns the text after it.
fn collect_paths<'a>(tree: &'a str, prefix: &str, paths: &mut Vec<String>) -> &'a str {
    let tree = tree.trim_start();
    if let Some(mut branches) = tree.strip_prefix('{') {
        loop {
            branches = branches.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
            if let Some(rest) = branches.strip_prefix('}') {
                return rest;
            }
            branches = collect_paths(branches, prefix, paths);
        }
    }

    let end = tree.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(tree.len());
    let (name, rest) = tree.split_at(end);
    assert!(!name.is_empty(), "the use tree ends in no name: {tree:.40}");
    let path = format!("{prefix}{name}");
    if let Some(branches) = rest.strip_prefix("::") {
        return collect_paths(branches, &format!("{path}/"), paths);
    }
    paths.push(path);
    rest
}

/// The module that a path names, or that defines the item that it names.
fn module_of<'a>(path: &str, modules: &'a BTreeMap<String, String>) -> Option<&'a str> {
    let mut path = path;
    loop {
        if let Some((module, _)) = modules.get_key_value(path) {
            return Some(module);
        }
        path = path.rsplit_once('/')?.0;
    }
}

fn arrows(modules: &BTreeMap<String, String>) -> Arrows {
    let mut arrows = Arrows::new();
    for (module, source) in modules {
        let code = code(source);
        assert!(!code.contains("super::"), "{module} names a module by `super`, which this test does not follow");
        let mut paths = Vec::new();
        for (at, start) in code.match_indices("crate::") {
            collect_paths(&code[at + start.len()..], "", &mut paths);
        }

        let used = arrows.entry(module.clone()).or_default();
        for path in paths {
            let target = module_of(&path, modules).unwrap_or_else(|| panic!("{module}: no module defines {path}"));
            if target != module {
                used.insert(target.to_owned());
            }
        }
    }
    arrows
}

/// The arrows between folders. A file outside of all folders counts as a folder.
fn folder_arrows(arrows: &Arrows) -> Arrows {
    let folder = |module: &str| module.split('/').next().unwrap().to_owned();
    let mut folders = Arrows::new();
    for (module, used) in arrows {
        let from = folder(module);
        let targets = used.iter().map(|target| folder(target)).filter(|target| *target != from);
        folders.entry(from.clone()).or_default().extend(targets);
    }
    folders
}

/// A circle, if there is one. Removes modules that use no other modules until each module left leads to a circle.
fn find_circle(arrows: &Arrows) -> Option<Vec<String>> {
    let mut left = arrows.clone();
    loop {
        let done: BTreeSet<String> =
            left.iter().filter(|(_, used)| used.is_empty()).map(|(module, _)| module.clone()).collect();
        if done.is_empty() {
            break;
        }
        left.retain(|module, _| !done.contains(module));
        for used in left.values_mut() {
            used.retain(|target| !done.contains(target));
        }
    }

    let mut path = vec![left.keys().next()?.clone()];
    loop {
        let next = left[path.last().unwrap()].first().unwrap().clone();
        if let Some(start) = path.iter().position(|module| *module == next) {
            path.push(next);
            return Some(path.split_off(start));
        }
        path.push(next);
    }
}

#[test]
fn files_and_folders_form_no_circle() {
    let mut modules = BTreeMap::new();
    read_modules(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut modules);
    let arrows = arrows(&modules);
    assert!(arrows.values().map(BTreeSet::len).sum::<usize>() > 100, "the test sees too few arrows: {arrows:?}");
    assert_eq!(find_circle(&arrows), None, "among files");
    assert_eq!(find_circle(&folder_arrows(&arrows)), None, "among folders");
}

#[test]
fn a_circle_is_found() {
    let modules = |sources: &[(&str, &str)]| {
        sources.iter().map(|(module, source)| ((*module).to_owned(), (*source).to_owned())).collect()
    };
    let straight =
        [("a", "use crate::{b::C, d::{e::F, g}};"), ("b", "// crate::a\n"), ("d/e", ""), ("d/g", "crate::b::h()")];
    assert_eq!(find_circle(&arrows(&modules(&straight))), None);

    let mut circle = straight;
    circle[1].1 = "use std::fmt;\nuse crate::d::g::{self, i};";
    let found = find_circle(&arrows(&modules(&circle)));
    assert_eq!(found, Some(vec!["b".to_owned(), "d/g".to_owned(), "b".to_owned()]));

    let folders = [("a/x", "use crate::b::y;"), ("a/z", ""), ("b/y", "use crate::a::z;")];
    let arrows = arrows(&modules(&folders));
    assert_eq!(find_circle(&arrows), None);
    assert!(find_circle(&folder_arrows(&arrows)).is_some());
}
