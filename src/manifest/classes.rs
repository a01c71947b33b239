//! Which number a folder has as a class, where a list says so, and which part of a name is the folder.

use std::collections::HashMap;
use std::sync::Arc;

use super::sink::Sink;
use super::table::Labels;
use super::{Digest, Manifest};
use crate::list::{LeftOut, Prefix, is_hidden};
use crate::{Error, ErrorKind, Result, Stage};

/// How many names an error lists at most, so that it stays one that can be read.
const MOST_NAMED: usize = 12;

/// The classes of a data set in the order of their numbers, as another data set has them.
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
            if name.is_empty() || name.contains('/') {
                return wrong("a class has the name of a folder", "a name without '/'", format!("'{name}'"));
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

    /// The number of a folder's class; `None` of a folder that tools hide, which an image data set leaves out.
    ///
    /// # Errors
    /// A folder that is none of the classes.
    pub(super) fn number(&self, folder: &str, prefix: &Prefix) -> Result<Option<u32>> {
        match self.numbers.get(folder) {
            Some(&number) => Ok(Some(number)),
            None if is_hidden(folder) => Ok(None),
            None => Err(self.unknown(&[folder], prefix)),
        }
    }

    fn unknown(&self, folders: &[&str], prefix: &Prefix) -> Error {
        let listed = |names: &mut dyn Iterator<Item = String>, count: usize| {
            let more = count.saturating_sub(MOST_NAMED);
            let named = names.take(MOST_NAMED).collect::<Vec<_>>().join(", ");
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

/// Where in a name of a listing the folder begins that is its label: below the last `/` of the prefix. Where all that is
/// listed is in one folder whose name the prefix ends with, as for `gs://bucket/val` without its slash, below that.
pub(super) fn root(prefix: &str, first: &[u8], last: &[u8]) -> usize {
    let folder = prefix.rfind('/').map_or(0, |slash| slash + 1);
    // Whatever comes between two names begins as both do.
    let is_folder = folder < prefix.len() && [first, last].iter().all(|name| name.get(prefix.len()) == Some(&b'/'));
    if is_folder { prefix.len() + 1 } else { folder }
}

impl Manifest {
    /// The same objects, of which each has the number that `classes` gives its folder. Waits for the end of the listing.
    ///
    /// # Errors
    /// Folders that are none of the classes; a listing that failed.
    pub(crate) fn with_classes(&self, classes: &Classes) -> Result<Self> {
        self.complete()?;
        let end = self.end();
        let folders = end.labels.all();

        // Another list doesn't say which folders there are.
        if end.labels.are_a_list() && folders != classes.names {
            let (first, last) = (self.at(0)?.name, self.at(self.len() - 1)?.name);
            let root = root(&self.prefix.prefix, first.as_bytes(), last.as_bytes());
            return self.by_folder(|_| true, root, self.left_out())?.with_classes(classes);
        }

        let unknown: Vec<_> = folders
            .iter()
            .map(String::as_str)
            .filter(|folder| !classes.numbers.contains_key(*folder) && !is_hidden(folder))
            .collect();
        if !unknown.is_empty() {
            return Err(classes.unknown(&unknown, &self.prefix));
        }
        let labels = end.labels.numbered(&classes.names, |folder| classes.numbers.get(folder).copied());
        let digest = if folders == classes.names { end.digest } else { end.digest.with_classes(&classes.names) };
        Ok(self.relabelled(labels, digest))
    }

    /// Only the objects that are images by their names, and what was found on the way. Waits for the end of the listing. Nothing
    /// is copied where all are. A list of classes is kept; without one, labels are the folders that hold images.
    ///
    /// # Errors
    /// There are no images; a listing that failed; a file that was written to since it was opened.
    pub(crate) fn images(self: &Arc<Self>) -> Result<(Arc<Self>, FoundImages)> {
        let mut found = FoundImages::default();
        let filter = crate::list::Filter::everything().images();
        let (mut first, mut last) = (None::<Vec<u8>>, Vec::new());
        let mut entries = self.entries();
        while let Some(entry) = entries.next()? {
            if let Some(reason) = filter.reason_of_name(&self.prefix, entry.name) {
                found.left_out.add(reason);
                found.example.get_or_insert_with(|| entry.name.to_owned());
                continue;
            }
            if entry.label.is_none() {
                found.without_folder += 1;
                found.first_without_folder.get_or_insert_with(|| entry.name.to_owned());
            }
            last.clear();
            last.extend_from_slice(entry.name.as_bytes());
            first.get_or_insert_with(|| last.clone());
        }
        if found.left_out.total() == 0 {
            return Ok((Arc::clone(self), found));
        }
        let mut left_out = self.left_out();
        left_out.merge(&found.left_out);
        let root = root(&self.prefix.prefix, first.as_deref().unwrap_or_default(), &last);
        let is_image = |name: &str| filter.reason_of_name(&self.prefix, name).is_none();
        let mut images = self.by_folder(is_image, root, left_out)?;

        // A saved manifest may have a list of classes, by which its samples stay numbered.
        if self.end().labels.are_a_list() {
            images = images.with_classes(&*Classes::new(self.labels().to_vec())?)?;
        }

        Ok((Arc::new(images), found))
    }

    /// A copy of the objects that `is_kept` accepts by their names, with labels as the folders have them.
    fn by_folder(&self, is_kept: impl Fn(&str) -> bool, root: usize, left_out: LeftOut) -> Result<Self> {
        let mut sink = Sink::new(self.prefix.clone(), false);
        sink.labeller.root = root;
        let mut entries = self.entries();
        while let Some(entry) = entries.next()? {
            if is_kept(entry.name) {
                sink.push(entry.name.as_bytes(), entry.named(()))?;
            }
        }
        Ok(Self { is_listed: self.is_listed, ..sink.finish(left_out)? })
    }
}

/// What was found while images were told from other objects.
#[derive(Debug, Default)]
pub(crate) struct FoundImages {
    /// Those that are none.
    pub(crate) left_out: LeftOut,
    /// The first of them.
    pub(crate) example: Option<String>,
    /// Images that lie in no folder, and so have no label.
    pub(crate) without_folder: u64,
    /// The first of these.
    pub(crate) first_without_folder: Option<String>,
}

/// Which classes a listing has met, to find out whether a list is just that of its folders.
#[derive(Debug)]
pub(super) struct Numbering {
    pub(super) classes: Arc<Classes>,
    met: Vec<bool>,
    /// Whether there was a hidden folder that is none of the classes.
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

    /// The labels, and the digest of the data where that of the objects is this one.
    pub(super) fn finish(self, objects: Digest) -> (Labels, Digest) {
        let names = self.classes.names();
        let all_met = !self.has_met_hidden && self.met.iter().all(|met| *met);
        let is_of_folders = all_met && names.is_sorted_by(|a, b| a < b);
        let digest = if is_of_folders { objects } else { objects.with_classes(names) };
        (Labels::of_classes(names), digest)
    }
}
