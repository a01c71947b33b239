//! Lists of classes, which number the folders, and which part of a name is the folder.

use std::collections::HashMap;
use std::sync::Arc;

use super::Digest;
use super::table::Labels;
use crate::list::{Prefix, is_hidden};
use crate::{Error, ErrorKind, Result, Stage};

/// Most names that an error lists, so that it stays readable.
const MAX_NAMES: usize = 12;

/// A list of classes in the order of their numbers, usually taken from another data set.
#[derive(Debug)]
pub(crate) struct Classes {
    names: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl Classes {
    /// # Errors
    /// No classes; one that comes twice; one that can't be the name of a folder.
    pub(crate) fn new(names: Vec<String>) -> Result<Arc<Self>> {
        let wrong = |message: &str, wanted: &str, got: String| {
            Err(Error::new(ErrorKind::Config, message)
                .stage(Stage::Manifest)
                .mismatch(wanted, got)
                .hint("take the list from the training data: classes_from(&train), or train.manifest().labels()"))
        };
        if names.is_empty() || u32::try_from(names.len()).is_err() {
            return wrong("this can't be a list of classes", "at least one class", names.len().to_string());
        }
        let mut numbers = HashMap::with_capacity(names.len());
        for (number, name) in (0..).zip(&names) {
            if name.is_empty() || name.contains(['/', '\n']) {
                return wrong(
                    "a class has the name of a folder",
                    "a name without '/' and line feeds",
                    format!("'{}'", name.escape_debug()),
                );
            }
            if let Some(before) = numbers.insert(name.clone(), number) {
                return wrong(
                    "a class is in the list twice",
                    "each once",
                    format!("'{name}' as {before} and {number}"),
                );
            }
        }
        Ok(Arc::new(Self { names, numbers }))
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// The number of the class of this name.
    pub(super) fn get(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    /// The number of a folder's class; `None` for a hidden folder, which image data sets leave out.
    ///
    /// # Errors
    /// The folder is none of the classes.
    pub(super) fn number(&self, folder: &str, prefix: &Prefix) -> Result<Option<u32>> {
        match self.numbers.get(folder) {
            Some(&number) => Ok(Some(number)),
            None if is_hidden(folder) => Ok(None),
            None => Err(self.unknown(&[folder], prefix)),
        }
    }

    /// The error of folders that are none of the classes.
    pub(super) fn unknown(&self, folders: &[&str], prefix: &Prefix) -> Error {
        let listed = |names: &mut dyn Iterator<Item = String>, count: usize| {
            let more = count.saturating_sub(MAX_NAMES);
            let named = names.take(MAX_NAMES).collect::<Vec<_>>().join(", ");
            if more > 0 { format!("{named} and {more} more") } else { named }
        };
        let quoted = |name: &str| format!("'{name}'");
        let classes = listed(&mut self.names.iter().map(|name| quoted(name)), self.names.len());
        let unknown = listed(&mut folders.iter().map(|name| quoted(name)), folders.len());
        let (folder, is) = if folders.len() == 1 { ("a folder", "is") } else { ("folders", "are") };
        Error::new(ErrorKind::Config, format!("{folder} of this data set {is} none of the classes"))
            .stage(Stage::Manifest)
            .object(prefix)
            .mismatch(format_args!("folders of the {} classes {classes}", self.names.len()), unknown)
            .hint(
                "correct the folder's name, leave it out by a filter, or add the class to the list that all data sets \
                 share; what is no image is left out if .decode(ImageFolder) comes before the classes",
            )
    }
}

/// Where the folder that is the label begins in a name: behind the last `/` of the prefix. But where all listed names,
/// from `first` to `last`, are in one folder whose name the prefix ends with, as for `gs://bucket/val` without its
/// slash, the label begins behind the slash of that folder.
pub(super) fn label_root(prefix: &str, first: &[u8], last: &[u8]) -> usize {
    let folder = prefix.rfind('/').map_or(0, |slash| slash + 1);
    // All names between two names begin with their common prefix.
    let is_folder = folder < prefix.len() && [first, last].iter().all(|name| name.get(prefix.len()) == Some(&b'/'));
    if is_folder { prefix.len() + 1 } else { folder }
}

/// Where a name begins to count in digests and splits: behind the prefix. Where the label root is behind the slash of
/// the one folder that holds all names, this slash belongs to the prefix: `gs://bucket/val` and `gs://bucket/val/` are
/// then the same data.
pub(super) fn names_root(prefix: &str, label_root: usize) -> usize {
    label_root.max(prefix.len())
}

/// Numbers folders by a list of classes, and records which classes occur, to find out whether the list is just that of
/// the folders.
#[derive(Debug)]
pub(super) struct Numbering {
    classes: Arc<Classes>,
    /// Which classes occur.
    met: Vec<bool>,
    /// Whether a hidden folder occurs that is none of the classes.
    has_met_hidden: bool,
}

impl Numbering {
    pub(super) fn new(classes: Arc<Classes>) -> Self {
        let met = vec![false; classes.names.len()];
        Self { classes, met, has_met_hidden: false }
    }

    pub(super) fn number(&mut self, folder: &[u8], prefix: &Prefix) -> Result<Option<u32>> {
        let number = self.classes.number(&String::from_utf8_lossy(folder), prefix)?;
        match number {
            Some(number) => self.met[number as usize] = true,
            None => self.has_met_hidden = true,
        }
        Ok(number)
    }

    /// The labels, and the digest of the data, given that of the objects.
    pub(super) fn finish(self, objects: Digest) -> (Labels, Digest) {
        let names = self.classes.names();
        let all_met = !self.has_met_hidden && self.met.iter().all(|met| *met);
        let is_of_folders = all_met && names.is_sorted_by(|a, b| a < b);
        let digest = if is_of_folders { objects } else { objects.with_classes(names) };
        (Labels::of_classes(names), digest)
    }
}
