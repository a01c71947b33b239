//! The path of an object's file below a folder. No I/O.

use std::collections::HashMap;
use std::fmt::Write as _;

use dataflux::list::Prefix;
use unicode_normalization::UnicodeNormalization;

/// Longest name of a file that file systems accept, in bytes.
const MAX_PART: usize = 255;

/// The path of an object's file. Every part is the name of one entry of a folder, so the path can't leave the folder.
#[derive(Debug, PartialEq)]
pub(crate) struct FilePath {
    pub(crate) folders: Vec<String>,
    /// `None` for the marker of a folder.
    pub(crate) file: Option<String>,
}

/// How names of objects become paths of files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    /// Number of bytes to drop from a name: the folders of the prefix.
    dropped: usize,
    escape: bool,
}

impl Names {
    pub(crate) fn new(prefix: &Prefix, escape: bool) -> Self {
        Self { dropped: prefix.prefix.rfind('/').map_or(0, |slash| slash + 1), escape }
    }

    /// The path of an object's file, or the reason why it can't have one.
    pub(crate) fn path(&self, name: &str, size: u64) -> Result<FilePath, String> {
        let below = name.get(self.dropped..).unwrap_or(name);
        // The marker of the prefix itself is the target folder.
        if below.is_empty() && size == 0 {
            return Ok(FilePath { folders: Vec::new(), file: None });
        }
        let (below, is_marker) = match below.strip_suffix('/') {
            Some(folder) if size == 0 => (folder, true),
            _ => (below, false),
        };
        let mut parts = below.split('/').map(|part| self.part(part)).collect::<Result<Vec<_>, _>>()?;
        let file = if is_marker { None } else { parts.pop() };
        Ok(FilePath { folders: parts, file })
    }

    fn part(&self, part: &str) -> Result<String, String> {
        let reason = match part {
            "" => Some("an empty part in its name can't be a file or a folder".to_owned()),
            "." | ".." => Some(format!("the part {part} of its name would lead elsewhere")),
            _ => part.contains(unfit).then(|| "a character in its name can't stand in that of a file".to_owned()),
        };
        let written = match (reason, self.escape) {
            (None, false) => part.to_owned(),
            (Some(reason), false) => return Err(format!("{reason}; --escape-names writes it differently")),
            (_, true) => escaped(part),
        };
        if written.len() > MAX_PART {
            let bytes = written.len();
            return Err(format!(
                "a part of its name has {bytes} bytes, and file systems take {MAX_PART}; leave it out with --exclude"
            ));
        }
        Ok(written)
    }
}

/// Whether no file's name may contain a character. A backslash separates folders on some systems.
fn unfit(c: char) -> bool {
    c == '\0' || (cfg!(windows) && (c.is_control() || r#"\:*?"<>|"#.contains(c)))
}

/// Escapes a part so that it names an entry of its folder, and different parts stay different. Characters that can't
/// stand in a file's name are written as `%XX`, and so is `%`.
fn escaped(part: &str) -> String {
    if part.is_empty() {
        return "%".to_owned();
    }
    let dots = part == "." || part == "..";
    let mut out = String::with_capacity(part.len());
    for c in part.chars() {
        if c == '%' || unfit(c) || (dots && c == '.') {
            // All of these characters have one byte.
            let _ = write!(out, "%{:02X}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// Which different names a file system treats as the same.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct SameNames {
    /// Names that differ only in case.
    pub(crate) case: bool,
    /// Names that differ only in Unicode's normal form: `é` as one character, or as `e` and an accent.
    pub(crate) form: bool,
}

/// Paths, added in byte order of the objects' names, none of which may collide with another.
#[derive(Debug)]
pub(crate) struct Tree {
    /// Names of files that the next name may begin with. In byte order, all names between a name and those below it
    /// begin with that name, too, so earlier files can't collide. No two names are written as the same path.
    files: Vec<String>,
    /// The name added last.
    last: String,
    same: SameNames,
    /// All entries by folded path, if the file system treats different names as the same: a collision may then be with
    /// any earlier name.
    folded: Option<HashMap<String, TreeEntry>>,
}

/// An entry of a [`Tree`].
#[derive(Debug)]
struct TreeEntry {
    path: String,
    is_file: bool,
}

impl Tree {
    pub(crate) fn new(same: SameNames) -> Self {
        let folded = (same != SameNames::default()).then(HashMap::new);
        Self { files: Vec::new(), last: String::new(), same, folded }
    }

    /// Adds the path of the object `name`, or returns the reason why it collides.
    pub(crate) fn add(&mut self, name: &str, file: &FilePath) -> Result<(), String> {
        let collision = |file: &str| {
            format!(
                "its file and that of {} collide; leave one of them out with --exclude",
                file.trim_start_matches('/')
            )
        };
        // The search for collisions relies on the order. No object has an empty name.
        if name <= self.last.as_str() {
            return Err(format!("it comes after {} in the manifest, where names must go up: save another", self.last));
        }
        name.clone_into(&mut self.last);
        self.files.retain(|file| name.starts_with(file.as_str()));
        if let Some(file) = self.files.iter().find(|file| name[file.len()..].starts_with('/')) {
            return Err(collision(file));
        }
        if let Some(folded) = &mut self.folded {
            let path: String = file.folders.iter().chain(&file.file).flat_map(|part| ["/", part]).collect();
            let ends = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
            for end in ends.filter(|&end| end > 0) {
                let (here, is_file) = (&path[..end], file.file.is_some() && end == path.len());
                let entry = folded.entry(fold(here, self.same));
                let other = entry.or_insert_with(|| TreeEntry { path: here.to_owned(), is_file });
                if other.path != here || other.is_file != is_file {
                    return Err(collision(&other.path));
                }
            }
        }
        if file.file.is_some() {
            self.files.push(name.to_owned());
        }
        Ok(())
    }
}

/// Maps names that some file system treats as the same to the same text, and a few more. Case is folded letter by
/// letter, since the lower case of a word depends on its end, and through upper case, since several lower-case letters
/// share an upper-case one. The normal form is applied first and last, since a letter in its other case may have
/// another form.
fn fold(path: &str, same: SameNames) -> String {
    let normal = |text: &str| if same.form { text.nfd().collect() } else { text.to_owned() };
    let path = normal(path);
    if !same.case {
        return path;
    }
    normal(&path.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str, size: u64, escape: bool) -> Result<String, String> {
        let names = Names::new(&"gs://bucket/p/q".parse().unwrap(), escape);
        names.path(name, size).map(|path| {
            let folders: String = path.folders.iter().flat_map(|folder| [folder, "/"]).collect();
            folders + path.file.as_deref().unwrap_or_default()
        })
    }

    #[test]
    fn paths_start_below_the_folders_of_the_prefix() {
        for (name, size, wanted) in [
            ("p/q", 1, "q"),
            ("p/qa/b", 1, "qa/b"),
            ("p/q/", 0, "q/"),
            ("p/", 0, ""),
            ("p/q 100%.txt", 1, "q 100%.txt"),
            ("p/q...", 1, "q..."),
            ("p/q\n\u{1b}", 1, "q\n\u{1b}"),
        ] {
            assert_eq!(path(name, size, false).as_deref(), Ok(wanted), "{name:?}");
        }
    }

    #[test]
    fn parts_that_leave_the_folder_are_refused_or_escaped() {
        for (name, escaped) in [
            ("p/../x", "%2E%2E/x"),
            ("p/q/../../../x", "q/%2E%2E/%2E%2E/%2E%2E/x"),
            ("p/q/./x", "q/%2E/x"),
            ("p/q//x", "q/%/x"),
            ("p//etc/passwd", "%/etc/passwd"),
            ("p/q/", "q/%"),
            ("p/q\0", "q%00"),
            ("p/%2E%2E/q%", "%252E%252E/q%25"),
        ] {
            if !name.contains("%2E") {
                let why = path(name, 1, false).unwrap_err();
                assert!(why.contains("--escape-names"), "{name:?}: {why}");
            }
            assert_eq!(path(name, 1, true).as_deref(), Ok(escaped), "{name:?}");
        }
        for escape in [false, true] {
            assert!(path(&format!("p/q{}", "é".repeat(127)), 1, escape).is_ok());
            assert!(path(&format!("p/q{}", "é".repeat(150)), 1, escape).unwrap_err().contains("301 bytes"));
        }
        assert!(path(&format!("p/q{}", "%".repeat(100)), 1, true).unwrap_err().contains("301 bytes"));
    }

    const ALL: [SameNames; 4] = [
        SameNames { case: false, form: false },
        SameNames { case: true, form: false },
        SameNames { case: false, form: true },
        SameNames { case: true, form: true },
    ];

    fn collide(names: &[&str], same: SameNames) -> Result<(), String> {
        let (how, mut tree) = (Names { dropped: 0, escape: false }, Tree::new(same));
        let mut sorted = names.to_vec();
        sorted.sort_unstable();
        sorted.into_iter().try_for_each(|name| tree.add(name, &how.path(name, u64::from(!name.ends_with('/')))?))
    }

    #[test]
    fn no_two_objects_have_the_same_file() {
        for names in [&["a", "a/b"][..], &["a", "a-", "a!x/y", "a/b/c"], &["x/a", "x/a/"]] {
            for same in ALL {
                assert!(collide(names, same).unwrap_err().contains("--exclude"), "{names:?}");
            }
        }
        for names in [&["a/", "a/b", "a/c/", "a/c/d", "aa", "a-/b"][..], &["é", "e", "日/本"]] {
            for same in ALL {
                assert_eq!(collide(names, same), Ok(()), "{names:?}");
            }
        }
        for names in
            [&["a", "A"][..], &["B/x", "b/y"], &["É", "é"], &["A/x", "a"], &["σ", "ς"], &["\u{212a}", "k"], &["ſ", "s"]]
        {
            for same in ALL {
                assert_eq!(collide(names, same).is_err(), same.case, "{names:?} {same:?}");
            }
        }
    }

    #[test]
    fn names_that_differ_only_in_normal_form_collide() {
        for names in [
            &["\u{e9}", "e\u{301}"][..],
            &["caf\u{e9}/a", "cafe\u{301}/b"],
            &["\u{ac00}", "\u{1100}\u{1161}"],
            // Two accents in either order.
            &["q\u{307}\u{323}", "q\u{323}\u{307}"],
        ] {
            for same in ALL {
                assert_eq!(collide(names, same).is_err(), same.form, "{names:?} {same:?}");
            }
        }
        // Names that differ in both.
        for names in [&["\u{c9}", "e\u{301}"][..], &["\u{212b}", "a\u{30a}"]] {
            for same in ALL {
                assert_eq!(collide(names, same).is_err(), same.case && same.form, "{names:?} {same:?}");
            }
        }
    }

    #[test]
    fn a_manifest_with_unsorted_names_is_refused() {
        let how = Names { dropped: 0, escape: false };
        for names in [["b", "a"], ["a", "a"]] {
            let mut tree = Tree::new(SameNames::default());
            assert_eq!(tree.add(names[0], &how.path(names[0], 1).unwrap()), Ok(()));
            assert!(tree.add(names[1], &how.path(names[1], 1).unwrap()).unwrap_err().contains("must go up"));
        }
    }
}
