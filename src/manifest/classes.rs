//! Lists of classes, which number the labels, and which part of a name is the folder.

use std::collections::HashMap;
use std::sync::Arc;

use super::Digest;
use super::table::LabelTexts;
use crate::list::{Prefix, is_hidden};
use crate::{Error, ErrorKind, Result, Stage};

/// Most names that an error lists, so that it stays readable.
const MAX_NAMES: usize = 12;

/// The classes of a data set in the order of their numbers: those that a model is trained with.
///
/// Save the classes beside the model, and give them to each data set that the model is used with.
///
/// ```
/// # use std::sync::Arc;
/// # use dataflux::store::{Client, MemoryStore};
/// use dataflux::{ClassMap, DatafluxDataset};
/// # let store = MemoryStore::new();
/// # ["train/cat/1", "train/dog/2", "val/dog/3"].iter().for_each(|name| _ = store.insert("my-bucket", name, "sample"));
/// # let client = Client::new(Arc::new(store));
/// # let open = |uri| DatafluxDataset::open_with(client.clone(), uri);
/// # let path = std::env::temp_dir().join(format!("dataflux-doc-{}-classes.json", std::process::id()));
///
/// let train = open("gs://my-bucket/train/")?;
/// train.class_map()?.save(&path)?; // ["cat", "dog"]
///
/// let classes = ClassMap::load(&path)?;
/// let val = open("gs://my-bucket/val/")?.classes(&classes)?;
/// assert_eq!(val.manifest().get(0).and_then(|entry| entry.label), classes.number("dog"));
/// # std::fs::remove_file(&path).unwrap();
/// # Ok::<(), dataflux::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassMap {
    names: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl ClassMap {
    /// Numbers these classes from 0.
    ///
    /// # Errors
    /// No class; a class that comes twice, is empty, or has a line feed.
    pub fn new<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Result<Self> {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        if names.is_empty() || u32::try_from(names.len()).is_err() {
            return Err(no_list("this can't be a list of classes", "at least one class", names.len().to_string()));
        }
        let mut numbers = HashMap::with_capacity(names.len());
        for (number, name) in (0..).zip(&names) {
            if name.is_empty() || name.contains('\n') {
                return Err(no_list(
                    "a class has a name",
                    "a name without line feeds",
                    format!("'{}' as {number}", name.escape_debug()),
                ));
            }
            if let Some(before) = numbers.insert(name.clone(), number) {
                let got = format!("'{name}' as {before} and {number}");
                return Err(no_list("a class is in the list twice", "each once", got));
            }
        }
        Ok(Self { names, numbers })
    }

    /// The classes, in the order of their numbers.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// How many classes there are: at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a list of classes is never empty")]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// The number of the class of this name.
    pub fn number(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    /// The name of the class of this number.
    pub fn name(&self, number: u32) -> Option<&str> {
        self.names.get(number as usize).map(String::as_str)
    }

    /// The number of a folder's class; `None` for a hidden folder, which image data sets leave out.
    ///
    /// # Errors
    /// The folder is none of the classes.
    pub(super) fn folder_number(&self, folder: &str, prefix: &Prefix) -> Result<Option<u32>> {
        match self.number(folder) {
            Some(number) => Ok(Some(number)),
            None if is_hidden(folder) => Ok(None),
            None => Err(self.unknown_folders(&[folder], prefix)),
        }
    }

    /// Refuses a class that can't be the name of a folder.
    pub(crate) fn check_folders(&self) -> Result<()> {
        match self.names.iter().find(|name| name.contains('/')) {
            None => Ok(()),
            Some(name) => {
                let error = no_list("a class has the name of a folder", "a name without '/'", format!("'{name}'"));
                Err(error.hint("call label_by before classes, where labels aren't folders"))
            }
        }
    }

    /// The error of folders that are none of the classes.
    pub(super) fn unknown_folders(&self, folders: &[&str], prefix: &Prefix) -> Error {
        let (folder, is) = if folders.len() == 1 { ("a folder", "is") } else { ("folders", "are") };
        self.unknown(format!("{folder} of this data set {is} none of the classes"), "folders", folders, prefix).hint(
            "correct the folder's name, leave it out by a filter, or add the class to the list that all data sets share; \
             what is no image is left out if .decode(ImageFolder) comes before the classes",
        )
    }

    /// The error of labels that are none of the classes.
    pub(super) fn unknown_labels(&self, labels: &[&str], prefix: &Prefix) -> Error {
        let (label, is) = if labels.len() == 1 { ("a label", "is") } else { ("labels", "are") };
        self.unknown(format!("{label} of this data set {is} none of the classes"), "labels", labels, prefix)
            .hint("correct the label where it comes from, or add the class to the list that all data sets share")
    }

    fn unknown(&self, message: String, what: &str, unknown: &[&str], prefix: &Prefix) -> Error {
        let classes = listed(self.names.iter().map(String::as_str), self.names.len());
        Error::new(ErrorKind::Config, message).stage(Stage::Manifest).object(prefix).mismatch(
            format_args!("{what} of the {} classes {classes}", self.names.len()),
            listed(unknown.iter().copied(), unknown.len()),
        )
    }
}

#[expect(clippy::into_iter_without_iter, reason = "`names` returns the slice to iterate over")]
impl<'a> IntoIterator for &'a ClassMap {
    type Item = &'a String;
    type IntoIter = std::slice::Iter<'a, String>;

    fn into_iter(self) -> Self::IntoIter {
        self.names.iter()
    }
}

fn no_list(message: &str, wanted: &str, got: String) -> Error {
    Error::new(ErrorKind::Config, message)
        .stage(Stage::Manifest)
        .mismatch(wanted, got)
        .hint("take the list from the training data: classes_from(&train), or train.class_map()")
}

/// The first names in quotes, and how many more there are.
pub(super) fn listed<'a>(names: impl Iterator<Item = &'a str>, count: usize) -> String {
    let more = count.saturating_sub(MAX_NAMES);
    let named = names.take(MAX_NAMES).map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{named} and {more} more") } else { named }
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
    classes: Arc<ClassMap>,
    /// Which classes occur.
    met: Vec<bool>,
    /// Whether a hidden folder occurs that is none of the classes.
    has_met_hidden: bool,
}

impl Numbering {
    pub(super) fn new(classes: Arc<ClassMap>) -> Self {
        let met = vec![false; classes.names.len()];
        Self { classes, met, has_met_hidden: false }
    }

    pub(super) fn number(&mut self, folder: &[u8], prefix: &Prefix) -> Result<Option<u32>> {
        let number = self.classes.folder_number(&String::from_utf8_lossy(folder), prefix)?;
        match number {
            Some(number) => self.met[number as usize] = true,
            None => self.has_met_hidden = true,
        }
        Ok(number)
    }

    /// The labels, and the digest of the data, given that of the objects.
    pub(super) fn finish(self, objects: Digest) -> (LabelTexts, Digest) {
        let names = self.classes.names();
        let all_met = !self.has_met_hidden && self.met.iter().all(|met| *met);
        let is_of_folders = all_met && names.is_sorted_by(|a, b| a < b);
        let digest = if is_of_folders { objects } else { objects.with_classes(names) };
        (LabelTexts::of_classes(names), digest)
    }
}
