//! A reader of Rust sources: the modules of a crate, what each file uses of the others, and the names that are public.
//!
//! It works on tokens, so strings and comments never look like code. It knows nothing of types: a path ends at the
//! first item that is no module, and the file that defines this item is the one that is used.

mod items;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};

use self::items::{Item, Visibility, attribute, is_punct, length_of_annotated, length_to_semicolon, path};

/// The sources of one crate.
pub(crate) struct Sources {
    /// The text of each file, by its path below the folder of the crate's root.
    texts: BTreeMap<PathBuf, String>,
    /// All modules that are compiled outside of tests; the crate's root is the first.
    modules: Vec<Module>,
}

struct Module {
    parent: Option<usize>,
    visibility: Visibility,
    file: PathBuf,
    names: BTreeMap<String, Vec<Definition>>,
    /// The modules whose names a `*` brings in here.
    globs: Vec<Vec<String>>,
    uses: Vec<Use>,
    /// The single names in its code.
    words: HashSet<String>,
    items: Vec<Item>,
}

/// What a name in a module stands for.
#[derive(Clone)]
enum Definition {
    Module(usize),
    Item,
    Import(Vec<String>),
}

/// A path that a module names.
struct Use {
    path: Vec<String>,
    /// The name under which a `pub use` passes it on.
    reexported_as: Option<String>,
}

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Module(usize),
    /// An item of a module, by name.
    Item(usize, String),
}

impl Sources {
    /// Reads the crate whose root, `lib.rs` or `main.rs`, is at `crate_root`.
    pub(crate) fn read(crate_root: &Path) -> Self {
        let folder = crate_root.parent().unwrap();
        let mut texts = BTreeMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(inner) = folders.pop() {
            for entry in inner.read_dir().unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = std::fs::read_to_string(&path).unwrap();
                    texts.insert(path.strip_prefix(folder).unwrap().to_owned(), text);
                }
            }
        }
        Self::parse(texts, Path::new(crate_root.file_name().unwrap()))
    }

    /// A crate of these files, the first of which is its root.
    pub(crate) fn of_texts(texts: &[(&str, &str)]) -> Self {
        let map = texts.iter().map(|(file, text)| (PathBuf::from(file), (*text).to_owned())).collect();
        Self::parse(map, Path::new(texts[0].0))
    }

    fn parse(texts: BTreeMap<PathBuf, String>, root: &Path) -> Self {
        let mut sources = Self { texts, modules: Vec::new() };
        sources.add_file(None, Visibility::Public, root);
        sources
    }

    /// Each file and its text, tests included.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.texts.iter().map(|(file, text)| (file.as_path(), text.as_str()))
    }

    fn add_file(&mut self, parent: Option<usize>, visibility: Visibility, file: &Path) -> usize {
        let text = self.texts.get(file).unwrap_or_else(|| panic!("no file {}", file.display()));
        let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{}: {error}", file.display()));

        let is_root = ["lib.rs", "main.rs", "mod.rs"].iter().any(|name| file.ends_with(name));
        let children = if is_root { file.parent().unwrap().to_owned() } else { file.with_extension("") };
        self.add_module(parent, visibility, file, &children, tokens)
    }

    /// Adds a module whose submodules have their files in the folder `children`.
    fn add_module(
        &mut self,
        parent: Option<usize>,
        visibility: Visibility,
        file: &Path,
        children: &Path,
        tokens: TokenStream,
    ) -> usize {
        let number = self.modules.len();
        self.modules.push(Module {
            parent,
            visibility,
            file: file.to_owned(),
            names: BTreeMap::new(),
            globs: Vec::new(),
            uses: Vec::new(),
            words: HashSet::new(),
            items: Vec::new(),
        });

        let items = items::items(tokens);
        for item in &items {
            match item.keyword.as_str() {
                "mod" => {
                    let folder = children.join(&item.name);
                    let child = if let Some(body) = item.body() {
                        self.add_module(Some(number), item.visibility, file, &folder, body.stream())
                    } else {
                        let beside = folder.with_extension("rs");
                        let child = if self.texts.contains_key(&beside) { beside } else { folder.join("mod.rs") };
                        self.add_file(Some(number), item.visibility, &child)
                    };
                    self.modules[number].define(&item.name, Definition::Module(child));
                }
                "use" => self.modules[number].import(&item.tokens[1..], item.visibility != Visibility::Private),
                _ => {
                    if !item.name.is_empty() {
                        self.modules[number].define(&item.name, Definition::Item);
                    }
                    self.modules[number].scan(&item.tokens);
                }
            }
        }

        self.modules[number].items = items;
        number
    }

    /// Which files use which others. A `pub use` of what lies below its own module counts as no use unless the module's
    /// code has the name: otherwise the module only passes it on.
    pub(crate) fn arrows(&self) -> BTreeSet<(PathBuf, PathBuf)> {
        let mut arrows = BTreeSet::new();
        for (number, module) in self.modules.iter().enumerate() {
            for used in &module.uses {
                let is_passed_on = used.reexported_as.as_ref().is_some_and(|name| !module.words.contains(name));
                for target in self.resolve(number, &used.path) {
                    let (Target::Module(of) | Target::Item(of, _)) = target;
                    let file = &self.modules[of].file;
                    if *file != module.file && !(is_passed_on && self.is_below(of, number)) {
                        arrows.insert((module.file.clone(), file.clone()));
                    }
                }
            }
        }
        arrows
    }

    /// Modules that the crate's root declares, in its order.
    pub(crate) fn rooms(&self) -> Vec<String> {
        let root = &self.modules[0];
        root.items.iter().filter(|item| item.keyword == "mod").map(|item| item.name.clone()).collect()
    }

    fn is_below(&self, module: usize, above: usize) -> bool {
        module != above && std::iter::successors(Some(module), |at| self.modules[*at].parent).any(|at| at == above)
    }

    /// What a path in the code of a module leads to; nothing for the paths of other crates.
    fn resolve(&self, module: usize, path: &[String]) -> BTreeSet<Target> {
        let mut found = BTreeSet::new();
        self.resolve_into(module, path, &mut HashSet::new(), &mut found);
        found
    }

    fn resolve_into(
        &self,
        module: usize,
        path: &[String],
        visited: &mut HashSet<(usize, Vec<String>)>,
        found: &mut BTreeSet<Target>,
    ) {
        let Some((first, rest)) = path.split_first() else { return };
        if !visited.insert((module, path.to_vec())) {
            return;
        }
        let start = match first.as_str() {
            "crate" => Some(0),
            "self" => Some(module),
            "super" => self.modules[module].parent,
            _ => None,
        };
        match start {
            Some(start) if rest.is_empty() => drop(found.insert(Target::Module(start))),
            Some(start) if rest[0] == "super" => self.resolve_into(start, rest, visited, found),
            Some(start) => self.look_up(start, rest, visited, found),
            None => self.look_up(module, path, visited, found),
        }
    }

    /// Looks up a path whose first name is one of this module.
    fn look_up(
        &self,
        module: usize,
        path: &[String],
        visited: &mut HashSet<(usize, Vec<String>)>,
        found: &mut BTreeSet<Target>,
    ) {
        let (name, rest) = (&path[0], &path[1..]);
        let here = &self.modules[module];

        for definition in here.names.get(name).into_iter().flatten() {
            match definition {
                Definition::Module(child) if rest.is_empty() => drop(found.insert(Target::Module(*child))),
                Definition::Module(child) => self.look_up(*child, rest, visited, found),
                Definition::Item => drop(found.insert(Target::Item(module, name.clone()))),
                Definition::Import(import) => {
                    let mut through = BTreeSet::new();
                    self.resolve_into(module, import, visited, &mut through);
                    for target in through {
                        match target {
                            Target::Module(of) if !rest.is_empty() => self.look_up(of, rest, visited, found),
                            target => drop(found.insert(target)),
                        }
                    }
                }
            }
        }

        if !here.names.contains_key(name) {
            for glob in &here.globs {
                let mut through = BTreeSet::new();
                self.resolve_into(module, glob, visited, &mut through);
                for target in through {
                    if let Target::Module(of) = target
                        && of != module
                    {
                        self.look_up(of, path, visited, found);
                    }
                }
            }
        }
    }

    /// The public names of the crate, one a line: those that its users reach from its root, with their members.
    pub(crate) fn public_names(&self, name: &str) -> BTreeSet<String> {
        let mut lines = BTreeSet::new();
        let mut items = BTreeMap::new();
        self.public_names_of(0, name, &mut HashSet::new(), &mut lines, &mut items);

        for (target, path) in &items {
            let Target::Item(module, name) = target else { continue };
            for item in self.modules[*module].items.iter().filter(|item| item.name == *name) {
                lines.extend(item.members().into_iter().map(|(kind, member)| format!("{path}::{member} ({kind})")));
            }
        }
        for (number, module) in self.modules.iter().enumerate() {
            for block in module.items.iter().filter(|item| item.keyword == "impl") {
                let targets = block.implemented_type().map(|path| self.resolve(number, &path)).unwrap_or_default();
                for path in targets.iter().filter_map(|target| items.get(target)) {
                    let members = block.body().into_iter().flat_map(|body| items::items(body.stream()));
                    for member in members.filter(|member| member.visibility == Visibility::Public) {
                        lines.insert(format!("{path}::{} ({})", member.name, member.keyword));
                    }
                }
            }
        }
        lines
    }

    fn public_names_of(
        &self,
        module: usize,
        path: &str,
        visited: &mut HashSet<usize>,
        lines: &mut BTreeSet<String>,
        items: &mut BTreeMap<Target, String>,
    ) {
        if !visited.insert(module) {
            return;
        }
        let here = &self.modules[module];
        let public = here.items.iter().filter(|item| item.visibility == Visibility::Public);
        let mut names: BTreeSet<(String, Vec<String>)> = BTreeSet::new();
        for item in public {
            if item.keyword == "use" {
                for import in items::imports(&item.tokens[1..]) {
                    names.insert((import.name, import.path));
                }
            } else {
                names.insert((item.name.clone(), vec!["self".to_owned(), item.name.clone()]));
            }
        }

        for (name, leads_to) in names {
            let path = format!("{path}::{name}");
            for target in self.resolve(module, &leads_to) {
                match target {
                    Target::Module(of) if self.modules[of].visibility == Visibility::Public => {
                        lines.insert(format!("{path} (mod)"));
                        self.public_names_of(of, &path, visited, lines, items);
                    }
                    Target::Module(_) => {}
                    Target::Item(of, ref name) => {
                        let kinds = self.modules[of].items.iter().filter(|item| item.name == *name);
                        lines.extend(kinds.map(|item| format!("{path} ({})", item.keyword)));
                        // Members stand under the shortest path alone.
                        let known = items.entry(target).or_insert_with(|| path.clone());
                        if path.len() < known.len() {
                            known.clone_from(&path);
                        }
                    }
                }
            }
        }
    }
}

impl Module {
    fn define(&mut self, name: &str, definition: Definition) {
        self.names.entry(name.to_owned()).or_default().push(definition);
    }

    /// Takes in the tree of a `use`.
    fn import(&mut self, tree: &[TokenTree], is_reexport: bool) {
        for import in items::imports(tree) {
            if import.name == "*" {
                self.globs.push(import.path.clone());
            } else if import.name != "_" {
                self.define(&import.name, Definition::Import(import.path.clone()));
            }
            self.uses.push(Use { path: import.path, reexported_as: is_reexport.then_some(import.name) });
        }
    }

    /// Takes in the paths that code names, in macros, too.
    fn scan(&mut self, tokens: &[TokenTree]) {
        let mut at = 0;
        while at < tokens.len() {
            if let Some(attribute) = attribute(&tokens[at..]) {
                at += attribute.length;
                if attribute.is_for_tests {
                    at += length_of_annotated(&tokens[at..]);
                }
                continue;
            }
            match &tokens[at] {
                TokenTree::Group(group) => self.scan(&group.stream().into_iter().collect::<Vec<_>>()),
                // Precise captures, as in `impl Sized + use<'a>`, are no import.
                TokenTree::Ident(word) if word == "use" && !is_punct(tokens.get(at + 1), '<') => {
                    let end = at + length_to_semicolon(&tokens[at..]);
                    self.import(&tokens[at + 1..end], false);
                    at = end;
                    continue;
                }
                TokenTree::Ident(_) => {
                    let (path, length) = path(&tokens[at..]);
                    // A path after `::` belongs to another crate, or continues one after generic arguments.
                    let is_rest = at > 1 && is_punct(tokens.get(at - 1), ':') && is_punct(tokens.get(at - 2), ':');
                    if !is_rest {
                        self.words.insert(path[0].clone());
                        if path.len() > 1 {
                            self.uses.push(Use { path, reexported_as: None });
                        }
                    }
                    at += length;
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
    }
}
