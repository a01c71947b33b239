//! The guide is the same in the three places where it is read: in the library's documentation, on GitHub, and as a book
//! (`scripts/book`). And links between the project's texts lead somewhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = project().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What a text in Markdown says of links and code.
#[derive(Debug, Default)]
struct Text {
    /// All lines but those of code, with a space behind each.
    prose: String,
    /// The targets of links that stand in the text.
    inline: Vec<String>,
    /// The targets of links that are defined on lines of their own, by their labels.
    defined: BTreeMap<String, String>,
    /// What links within the page can name.
    anchors: Vec<String>,
    /// The first lines of blocks of code, without the fence.
    languages: Vec<String>,
}

impl Text {
    fn of(markdown: &str) -> Self {
        let mut text = Self::default();
        let mut is_code = false;
        for line in markdown.lines() {
            if let Some(language) = line.trim_start().strip_prefix("```") {
                if !is_code {
                    text.languages.push(language.to_owned());
                }
                is_code = !is_code;
            } else if !is_code {
                text.add(line);
            }
        }
        text
    }

    fn add(&mut self, line: &str) {
        self.prose.extend([line, " "]);
        let heading = line.trim_start_matches('#');
        if let Some(heading) = heading.strip_prefix(' ').filter(|_| line.starts_with('#')) {
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            self.anchors.push(kept.collect::<String>().to_lowercase().replace(' ', "-"));
        }
        if let Some((label, target)) = line.strip_prefix('[').and_then(|line| line.split_once("]: ")) {
            self.defined.insert(label.to_owned(), target.to_owned());
        }
        for (start, _) in line.match_indices("](") {
            let target = &line[start + 2..];
            self.inline.push(target[..target.find(')').expect("a link ends on its line")].to_owned());
        }
    }

    fn targets(&self) -> impl Iterator<Item = &String> {
        self.inline.iter().chain(self.defined.values())
    }
}

#[test]
fn markdown_is_read() {
    let text =
        Text::of("# It's one, or two\n[a](b.md#c) [`d`](crate::d)\n```rust\n# [e](f)\n```\n```\nx\n```\n[g h]: i.md\n");
    assert_eq!(text.anchors, ["its-one-or-two"]);
    assert_eq!(text.inline, ["b.md#c", "crate::d"]);
    assert_eq!(text.defined, BTreeMap::from([("g h".to_owned(), "i.md".to_owned())]));
    assert_eq!(text.languages, ["rust", ""]);
}

/// The files of the guide, without `SUMMARY.md`.
fn chapters() -> Vec<String> {
    let names = project().join("docs/guide").read_dir().unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != "SUMMARY.md");
    names.sort();
    names
}

#[test]
fn every_list_of_chapters_has_all_of_them() {
    let summary = Text::of(&read("docs/guide/SUMMARY.md")).inline;
    let mut sorted = summary.clone();
    sorted.sort();
    assert_eq!(sorted, chapters(), "docs/guide/SUMMARY.md lists the files of docs/guide");

    let modules = read("src/guide.rs");
    let included = modules.lines().filter_map(|line| line.split_once("(\"../docs/guide/")?.1.split('"').next());
    assert_eq!(included.collect::<Vec<_>>(), summary, "src/guide.rs includes them in the order of SUMMARY.md");
    assert_eq!(modules.matches("include_str!(\"guide/links.md\")").count(), summary.len(), "and links.md before each");

    let readme = read("docs/guide/README.md");
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| [")?.split(']').next());
    let rows: Vec<_> = rows.map(|name| format!("{name}.md")).collect();
    assert_eq!(rows, summary[1..], "the table of docs/guide/README.md has them in the order of SUMMARY.md");
}

#[test]
fn chapters_link_to_chapters_for_every_reader() {
    let for_rustdoc = Text::of(&read("src/guide/links.md")).defined;
    for chapter in chapters() {
        let text = Text::of(&read(Path::new("docs/guide").join(&chapter)));
        for target in &text.inline {
            let is_for_all = ["crate::", "https://", "#"].iter().any(|start| target.starts_with(start));
            assert!(
                is_for_all && !target.starts_with("crate::guide"),
                "{chapter}: rustdoc or the book has no ({target}): to link to a chapter, write [words], define \
                 `[words]: that_chapter.md` at the end of the file, and the same for rustdoc in src/guide/links.md"
            );
        }
        for (label, target) in &text.defined {
            let wanted = format!("crate::guide::{}", target.replacen(".md", "", 1));
            assert_eq!(for_rustdoc.get(label), Some(&wanted), "{chapter}: [{label}] in src/guide/links.md");
        }
        for label in for_rustdoc.keys() {
            let mark = format!("[{label}]");
            let mut uses = text.prose.split(&mark).skip(1);
            assert!(
                uses.all(|rest| rest.starts_with(['(', ':'])) || text.defined.contains_key(label),
                "{chapter}: define [{label}] at the end of the file, or only rustdoc has the link"
            );
        }
    }
}

/// The page of documentation of `dataflux-burn`, which GitHub shows, too.
const BURN: &str = "burn/README.md";

/// mdBook hides lines that begin with `# ` in blocks that are said to be Rust, and in no others. GitHub shows all lines.
#[test]
fn blocks_of_code_name_their_language() {
    let languages = ["rust", "rust,no_run", "toml", "json", "sh", "text"];
    let chapters = chapters().into_iter().map(|chapter| format!("docs/guide/{chapter}"));
    for page in chapters.chain([BURN.to_owned()]) {
        for language in Text::of(&read(&page)).languages {
            assert!(languages.contains(&&*language), "{page}: a block of code is of language '{language}'");
        }
    }
    let shown = read(BURN);
    assert!(!shown.lines().any(|line| line.starts_with("# ") && line != "# dataflux-burn"), "{BURN} hides lines");
}

#[test]
fn links_lead_to_files_and_headings() {
    let pages = ["docs/benchmarks.md", "docs/comparison.md", "docs/guide/SUMMARY.md", BURN];
    let mut pages = Vec::from(pages.map(PathBuf::from));
    pages.extend(chapters().iter().map(|chapter| Path::new("docs/guide").join(chapter)));
    for entry in project().read_dir().unwrap() {
        let name = PathBuf::from(entry.unwrap().file_name());
        if name.extension().is_some_and(|suffix| suffix == "md") {
            pages.push(name);
        }
    }

    // Of files that the book doesn't have.
    let on_github = "https://github.com/dataflux-rs/dataflux/blob/main/";
    let (mut count, mut count_on_github) = (0, 0);
    for page in &pages {
        for target in Text::of(&read(page)).targets() {
            let in_project = target.strip_prefix(on_github);
            if in_project.is_none() && (target.starts_with("https://") || target.starts_with("crate::")) {
                continue;
            }
            count += 1;
            count_on_github += usize::from(in_project.is_some());
            let path = in_project.unwrap_or(target);
            let (file, anchor) = path.split_once('#').map_or((path, None), |(file, anchor)| (file, Some(anchor)));
            let file = match in_project {
                Some(_) => PathBuf::from(file),
                None if file.is_empty() => page.clone(),
                None => page.parent().unwrap().join(file),
            };
            assert!(project().join(&file).exists(), "{}: there is no {target}", page.display());
            if let Some(anchor) = anchor {
                let anchors = Text::of(&read(&file)).anchors;
                assert!(
                    anchors.iter().any(|found| found == anchor),
                    "{}: {target} isn't in {anchors:?}",
                    page.display()
                );
            }
        }
    }
    assert!(count > 50 && count_on_github > 1, "only {count} links were found, {count_on_github} of them on GitHub");
}
