//! Labels of samples that aren't their folders, and targets: from names, functions and tables.

mod pattern;
mod table;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use self::pattern::NamePattern;
use crate::Result;
use crate::manifest::{LabelSource, Manifest, SampleName};

pub use crate::manifest::{ClassMap, Unlabelled};
pub use table::{LabelTable, LabelTableReader, RowKey, TableFormat};

/// Where the labels of a data set come from; see [`DatafluxDataset::label_by`](crate::DatafluxDataset::label_by).
///
/// Names are those below the last `/` of the listed prefix, as for a [`Filter`](crate::list::Filter): `cat/tom.png` of
/// `gs://bucket/train/cat/tom.png` for the prefix `gs://bucket/train/`, and also for `gs://bucket/train/c`. Folders are
/// counted from where those of [`Manifest::labels`](crate::Manifest::labels) are.
#[derive(Clone)]
pub struct Labels {
    rule: LabelRule,
    unlabelled: Unlabelled,
}

#[derive(Clone)]
enum LabelRule {
    /// The folder at this depth, counted from 0.
    Folder(usize),
    Pattern(NamePattern),
    Function(Arc<LabelFn>),
    /// A column of a table, by its index.
    Table(LabelTable, usize),
}

type LabelFn = dyn Fn(&str) -> Option<String> + Send + Sync;

impl Labels {
    /// The first folder below the prefix, as without a call of
    /// [`label_by`](crate::DatafluxDataset::label_by), except that a sample in no folder is an error.
    pub fn folder() -> Self {
        Self::folder_at(0)
    }

    /// A deeper folder below the prefix: that at 1 is `cat` in `2026/cat/tom.png`, and that at 0 is `2026`.
    pub fn folder_at(depth: usize) -> Self {
        Self::of(LabelRule::Folder(depth))
    }

    /// The part of a name where this pattern has `{label}`.
    ///
    /// - `{label}` stands for one character or more, and `*` for any number of characters, neither with a `/`. `**` stands
    ///   for any number of characters. Each takes as much as it can, from left to right: `{label}_*.jpg` finds the
    ///   label `great_pyrenees` in `great_pyrenees_12.jpg`.
    /// - The pattern must match the whole name, or, if it has neither `/` nor `**`, the last part of a name in any
    ///   folder.
    /// - `\` removes the special meaning of the next character. Upper and lower case differ.
    ///
    /// For anything else use a function, with [`by`](Self::by).
    ///
    /// # Errors
    /// The pattern doesn't have `{label}` once, has two of these side by side, or has another text in braces.
    pub fn pattern(pattern: &str) -> Result<Self> {
        Ok(Self::of(LabelRule::Pattern(NamePattern::parse(pattern)?)))
    }

    /// What a function returns for a name; `None` for a sample without a label.
    ///
    /// ```
    /// use dataflux::Labels;
    ///
    /// // The species of `n02123045/cat_tabby.jpg`.
    /// let labels = Labels::by(|name| Some(name.split(['/', '_']).nth(1)?.to_owned()));
    /// ```
    pub fn by(label: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        Self::of(LabelRule::Function(Arc::new(label)))
    }

    /// The text of a sample in a column of a table. A sample without a row, or with an empty cell, has no label.
    ///
    /// # Errors
    /// The table has no such column.
    pub fn table(table: &LabelTable, column: &str) -> Result<Self> {
        let index = table.column(column)?;
        Ok(Self::of(LabelRule::Table(table.clone(), index)))
    }

    fn of(rule: LabelRule) -> Self {
        Self { rule, unlabelled: Unlabelled::default() }
    }

    /// Sets whether samples without a label are an error, which is the default, or are left out.
    #[must_use]
    pub fn unlabelled(mut self, unlabelled: Unlabelled) -> Self {
        self.unlabelled = unlabelled;
        self
    }

    pub(crate) fn when_unlabelled(&self) -> Unlabelled {
        self.unlabelled
    }

    /// Logs the rows of the table that match no sample, if the labels are from one.
    pub(crate) fn log_unmatched(&self, manifest: &Manifest) -> Result<()> {
        match &self.rule {
            LabelRule::Table(table, _) => log_unmatched(table, manifest),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut labels = f.debug_struct("Labels");
        match &self.rule {
            LabelRule::Folder(depth) => labels.field("folder", depth),
            LabelRule::Pattern(pattern) => labels.field("pattern", &pattern.text()),
            LabelRule::Function(_) => labels.field("function", &"..."),
            LabelRule::Table(table, column) => {
                labels.field("table", table).field("column", &table.column_name(*column))
            }
        };
        labels.field("unlabelled", &self.unlabelled).finish()
    }
}

impl LabelSource for Labels {
    fn label<'a>(&'a self, name: SampleName<'a>, path: &'a str) -> Option<Cow<'a, str>> {
        match &self.rule {
            LabelRule::Folder(depth) => folder_at(path, *depth).map(Cow::Borrowed),
            LabelRule::Pattern(pattern) => pattern.label(name.below()).map(Cow::Borrowed),
            LabelRule::Function(label) => label(name.below()).map(Cow::Owned),
            LabelRule::Table(table, column) => table.label(name, *column).map(Cow::Borrowed),
        }
    }

    fn folder_depth(&self) -> Option<usize> {
        match self.rule {
            LabelRule::Folder(depth) => Some(depth),
            _ => None,
        }
    }

    fn wanted(&self) -> String {
        match &self.rule {
            LabelRule::Folder(0) => "a folder below the prefix that is the label".to_owned(),
            LabelRule::Folder(depth) => format!("a folder at depth {depth} below the prefix that is the label"),
            LabelRule::Pattern(pattern) => format!("names that match {}", pattern.text()),
            LabelRule::Function(_) => "a label from the function given to Labels::by".to_owned(),
            LabelRule::Table(table, column) => {
                format!("a row in {} with a value in '{}'", table.source(), table.column_name(*column))
            }
        }
    }

    fn hint(&self) -> String {
        let hint = match &self.rule {
            LabelRule::Folder(_) => "move each sample into the folder of its class",
            LabelRule::Pattern(_) => "correct the pattern, or the names",
            LabelRule::Function(_) => "correct the function",
            LabelRule::Table(table, _) => return table.hint(),
        };
        hint.to_owned()
    }
}

/// Accepts samples that have a row in a table. The text of the label is not used.
pub(crate) struct RowPresence<'t>(pub(crate) &'t LabelTable);

impl LabelSource for RowPresence<'_> {
    fn label<'a>(&'a self, name: SampleName<'a>, _path: &'a str) -> Option<Cow<'a, str>> {
        self.0.row(name).map(|_| Cow::Borrowed(""))
    }

    fn what(&self) -> &'static str {
        "row in the table"
    }

    fn wanted(&self) -> String {
        format!("a row in {} for each sample", self.0.source())
    }

    fn hint(&self) -> String {
        self.0.hint()
    }
}

/// Logs the rows of a table that match no sample. They are usually those of other data sets.
pub(crate) fn log_unmatched(table: &LabelTable, manifest: &Manifest) -> Result<()> {
    const NAMED: usize = 5;
    let unmatched = table.unmatched(manifest)?;
    if !unmatched.is_empty() {
        tracing::info!(
            prefix = %manifest.prefix(),
            table = table.source(),
            rows = table.len(),
            unmatched = unmatched.len(),
            examples = unmatched[..unmatched.len().min(NAMED)].join(", "),
            "rows of the table match no sample; LabelTable::unmatched returns them all"
        );
    }
    Ok(())
}

/// The folder at this depth on a path. Empty parts, as in `a//b`, don't count.
fn folder_at(path: &str, depth: usize) -> Option<&str> {
    let (folders, _) = path.rsplit_once('/')?;
    folders.split('/').filter(|folder| !folder.is_empty()).nth(depth)
}
