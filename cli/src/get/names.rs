//! Where in a folder an object goes. Pure.

use std::collections::HashMap;
use std::fmt::Write as _;

use dataflux::list::Prefix;
use unicode_normalization::UnicodeNormalization;

/// Longest name that file systems take, in bytes.
const LONGEST: usize = 255;

/// Where an object goes: every part is the name of one thing in a folder, and no way out of it.
#[derive(Debug, PartialEq)]
pub(crate) struct Place {
    pub(crate) folders: Vec<String>,
    /// None for the mark of a folder.
    pub(crate) file: Option<String>,
}

/// How names of objects become those of files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    /// Bytes of a name that are left away: the folders of the prefix.
    above: usize,
    escape: bool,
}

impl Names {
    pub(crate) fn new(prefix: &Prefix, escape: bool) -> Self {
        Self { above: prefix.prefix.rfind('/').map_or(0, |slash| slash + 1), escape }
    }

    /// The place of an object, or why it can have none.
    pub(crate) fn place(&self, name: &str, size: u64) -> Result<Place, String> {
        let below = name.get(self.above..).unwrap_or(name);
        // The prefix's own mark is the folder that all goes into.
        if below.is_empty() && size == 0 {
            return Ok(Place { folders: Vec::new(), file: None });
        }
        let (below, is_mark) = match below.strip_suffix('/') {
            Some(folder) if size == 0 => (folder, true),
            _ => (below, false),
        };
        let mut parts = below.split('/').map(|part| self.part(part)).collect::<Result<Vec<_>, _>>()?;
        let file = if is_mark { None } else { parts.pop() };
        Ok(Place { folders: parts, file })
    }

    fn part(&self, part: &str) -> Result<String, String> {
        let why = match part {
            "" => Some("an empty part in its name can't be a file or a folder".to_owned()),
            "." | ".." => Some(format!("the part {part} of its name would lead elsewhere")),
            _ => part.contains(unfit).then(|| "a character in its name can't stand in that of a file".to_owned()),
        };
        let written = match (why, self.escape) {
            (None, false) => part.to_owned(),
            (Some(why), false) => return Err(format!("{why}; --escape-names writes it another way")),
            (_, true) => escaped(part),
        };
        if written.len() > LONGEST {
            let bytes = written.len();
            return Err(format!(
                "a part of its name has {bytes} bytes, and file systems take {LONGEST}; leave it out with --exclude"
            ));
        }
        Ok(written)
    }
}

/// What no file's name may hold; a backslash leads elsewhere on some systems.
fn unfit(c: char) -> bool {
    c == '\0' || (cfg!(windows) && (c.is_control() || r#"\:*?"<>|"#.contains(c)))
}

/// A part that is no way out, no two of them the same: what can't stand is written as `%XX`, and `%`, too.
fn escaped(part: &str) -> String {
    if part.is_empty() {
        return "%".to_owned();
    }
    let dots = part == "." || part == "..";
    let mut out = String::with_capacity(part.len());
    for c in part.chars() {
        if c == '%' || unfit(c) || (dots && c == '.') {
            // All of these are of one byte.
            let _ = write!(out, "%{:02X}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// Which names a file system takes for the same.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct SameNames {
    /// Those that differ in case alone.
    pub(crate) case: bool,
    /// Those that differ in Unicode's normal form alone: `é` as one character, or as `e` and an accent.
    pub(crate) form: bool,
}

/// Places in byte order of the objects' names, of which none may take another's.
#[derive(Debug)]
pub(crate) struct Tree {
    /// Objects that become files and whose names begin that of what comes next: between a name and what would be below it,
    /// byte order has only such as begin with it, too. No two names are written the same way.
    files: Vec<String>,
    /// The name before.
    last: String,
    same: SameNames,
    /// Of a file system that takes different names for the same, everything: what is in the way may be anywhere. The
    /// value tells a file.
    folded: Option<HashMap<String, (String, bool)>>,
}

impl Tree {
    pub(crate) fn new(same: SameNames) -> Self {
        let folded = (same != SameNames::default()).then(HashMap::new);
        Self { files: Vec::new(), last: String::new(), same, folded }
    }

    /// Adds a place, or says what is in its way.
    pub(crate) fn add(&mut self, name: &str, place: &Place) -> Result<(), String> {
        let in_the_way = |file: &str| {
            format!(
                "its file and that of {} would be in each other's way; leave one of them out with --exclude",
                file.trim_start_matches('/')
            )
        };
        // What is in the way is looked for in that order. The name of an object isn't empty.
        if name <= self.last.as_str() {
            return Err(format!("it comes after {} in the manifest, where names must go up: save another", self.last));
        }
        name.clone_into(&mut self.last);
        self.files.retain(|file| name.starts_with(file.as_str()));
        if let Some(file) = self.files.iter().find(|file| name[file.len()..].starts_with('/')) {
            return Err(in_the_way(file));
        }
        if let Some(folded) = &mut self.folded {
            let path: String = place.folders.iter().chain(&place.file).flat_map(|part| ["/", part]).collect();
            let is_file = place.file.is_some();
            let ends = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
            for end in ends.filter(|&end| end > 0) {
                let (here, file) = (&path[..end], is_file && end == path.len());
                let (other, is_file) = folded.entry(fold(here, self.same)).or_insert_with(|| (here.to_owned(), file));
                if other != here || *is_file != file {
                    return Err(in_the_way(other));
                }
            }
        }
        if place.file.is_some() {
            self.files.push(name.to_owned());
        }
        Ok(())
    }
}

/// Names that some file system takes for the same become the same, and a few that none does: letter by letter, since
/// the small form of a word depends on its end, and by way of capitals, of which several small letters share one. The
/// normal form comes first and last, since a letter in its other case may be one that has another form.
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

    fn place(name: &str, size: u64, escape: bool) -> Result<String, String> {
        let names = Names::new(&"gs://bucket/p/q".parse().unwrap(), escape);
        names.place(name, size).map(|place| {
            let folders: String = place.folders.iter().flat_map(|folder| [folder, "/"]).collect();
            folders + place.file.as_deref().unwrap_or_default()
        })
    }

    #[test]
    fn names_are_those_below_the_prefix() {
        for (name, size, wanted) in [
            ("p/q", 1, "q"),
            ("p/qa/b", 1, "qa/b"),
            ("p/q/", 0, "q/"),
            ("p/", 0, ""),
            ("p/q 100%.txt", 1, "q 100%.txt"),
            ("p/q...", 1, "q..."),
            ("p/q\n\u{1b}", 1, "q\n\u{1b}"),
        ] {
            assert_eq!(place(name, size, false).as_deref(), Ok(wanted), "{name:?}");
        }
    }

    #[test]
    fn what_leads_elsewhere_is_refused_or_written_another_way() {
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
                let why = place(name, 1, false).unwrap_err();
                assert!(why.contains("--escape-names"), "{name:?}: {why}");
            }
            assert_eq!(place(name, 1, true).as_deref(), Ok(escaped), "{name:?}");
        }
        for escape in [false, true] {
            assert!(place(&format!("p/q{}", "é".repeat(127)), 1, escape).is_ok());
            assert!(place(&format!("p/q{}", "é".repeat(150)), 1, escape).unwrap_err().contains("301 bytes"));
        }
        assert!(place(&format!("p/q{}", "%".repeat(100)), 1, true).unwrap_err().contains("301 bytes"));
    }

    const ALL: [SameNames; 4] = [
        SameNames { case: false, form: false },
        SameNames { case: true, form: false },
        SameNames { case: false, form: true },
        SameNames { case: true, form: true },
    ];

    fn collide(names: &[&str], same: SameNames) -> Result<(), String> {
        let (how, mut tree) = (Names { above: 0, escape: false }, Tree::new(same));
        let mut sorted = names.to_vec();
        sorted.sort_unstable();
        sorted.into_iter().try_for_each(|name| tree.add(name, &how.place(name, u64::from(!name.ends_with('/')))?))
    }

    #[test]
    fn no_object_takes_the_place_of_another() {
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
    fn names_equal_but_for_their_normal_form_are_in_each_others_way() {
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
        // In both at once.
        for names in [&["\u{c9}", "e\u{301}"][..], &["\u{212b}", "a\u{30a}"]] {
            for same in ALL {
                assert_eq!(collide(names, same).is_err(), same.case && same.form, "{names:?} {same:?}");
            }
        }
    }

    #[test]
    fn a_manifest_whose_names_do_not_go_up_is_refused() {
        let how = Names { above: 0, escape: false };
        for names in [["b", "a"], ["a", "a"]] {
            let mut tree = Tree::new(SameNames::default());
            assert_eq!(tree.add(names[0], &how.place(names[0], 1).unwrap()), Ok(()));
            assert!(tree.add(names[1], &how.place(names[1], 1).unwrap()).unwrap_err().contains("must go up"));
        }
    }
}
