//! A table, and how the row of a sample is found.

use std::fmt;
use std::sync::Arc;

use super::rows::TableRows;
use crate::Result;
use crate::manifest::{Manifest, SampleName};
use crate::read::RawSample;

/// A table of labels and targets with a row for each sample, read once from CSV, JSON lines or Parquet.
///
/// [`Labels::table`](crate::Labels::table) makes classes of a column. The other methods make functions of columns,
/// which return the target of a sample: for [`ImageFolder::targets`](crate::ImageFolder::targets), or for a decoder of
/// yours. Samples without a row are found before training by
/// [`DatafluxDataset::match_table`](crate::DatafluxDataset::match_table); otherwise each is an error when it is
/// decoded.
///
/// A row takes the bytes of its cells, 4 more for each cell, and 8 more. A column of numbers takes another 4 a row for
/// the function that returns them. Clones share the rows.
///
/// ```
/// # use std::sync::Arc;
/// # use dataflux::store::{Client, MemoryStore};
/// use dataflux::{DataLoader, DatafluxDataset, ImageFolder, LabelTable, Labels};
/// # let store = MemoryStore::new();
/// # let mut png = Vec::new();
/// # image::GrayImage::new(8, 8).write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
/// # ["faces/1.png", "faces/2.png"].iter().for_each(|name| _ = store.insert("my-bucket", name, png.clone()));
/// # store.insert("my-bucket", "faces.csv", "file,age,mood\n1.png,31,happy\n2.png,54,sad\n");
/// # let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/faces/")?;
///
/// // file,age,mood
/// // 1.png,31,happy
/// // 2.png,54,sad
/// let table = LabelTable::reader("file").open(dataset.client(), "gs://my-bucket/faces.csv")?;
///
/// // Classes:
/// let moods = dataset.clone().decode(ImageFolder::new()).label_by(Labels::table(&table, "mood")?)?;
/// assert_eq!(moods.manifest().labels(), ["happy", "sad"]);
///
/// // Or numbers:
/// let ages = dataset.decode(ImageFolder::new().targets(table.number("age")?));
/// let batch = DataLoader::builder(ages).batch_size(2).build()?.epoch(0)?.next().expect("a batch")?;
/// assert_eq!(batch.labels, [31.0, 54.0]);
/// # Ok::<(), dataflux::Error>(())
/// ```
#[derive(Clone)]
pub struct LabelTable {
    pub(super) rows: Arc<TableRows>,
    row_key: RowKey,
}

/// Which part of a sample's name is in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RowKey {
    /// The name below the last `/` of the listed prefix: `cat/1.png` of `gs://bucket/train/cat/1.png` for the prefix
    /// `gs://bucket/train/`.
    #[default]
    BelowPrefix,
    /// The whole name, with or without the bucket: `train/cat/1.png` or `gs://bucket/train/cat/1.png`.
    FullName,
    /// The name below the prefix without its suffix: `cat/1`.
    Stem,
}

impl RowKey {
    /// The key of a sample, as errors show it.
    fn of(self, name: SampleName<'_>) -> &str {
        match self {
            Self::BelowPrefix => name.below(),
            Self::FullName => name.whole,
            Self::Stem => stem(name.below()),
        }
    }
}

/// A name without the suffix of its last part. A dot at the beginning of that part begins no suffix.
pub(super) fn stem(name: &str) -> &str {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[file..].rfind('.') {
        None | Some(0) => name,
        Some(dot) => &name[..file + dot],
    }
}

impl LabelTable {
    pub(super) fn new(rows: TableRows, row_key: RowKey) -> Self {
        Self { rows: Arc::new(rows), row_key }
    }

    /// The names of the columns.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.rows.column_names()
    }

    /// How many rows there are. Rows that are equal count once.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the table is from: the URI of the object with its generation, the path of a file, or `a reader`.
    pub fn source(&self) -> &str {
        self.rows.source()
    }

    /// The text of a cell, by the key of its row and the name of its column; `None` where there is no such row or
    /// column. An absent or `null` cell is empty, and a list is its JSON.
    pub fn get(&self, key: &str, column: &str) -> Option<&str> {
        Some(self.rows.cell(self.rows.find(key)?, self.rows.column(column).ok()?))
    }

    /// The keys of rows that match no sample, in byte order. Data that are split into several prefixes usually have
    /// rows for the others, so these are no error. Waits for the end of the listing.
    ///
    /// # Errors
    /// The listing failed; the manifest's file was written to since it was opened.
    pub fn unmatched(&self, manifest: &Manifest) -> Result<Vec<&str>> {
        let mut is_matched = vec![false; self.len()];
        manifest.complete()?;
        manifest.for_each_name(|name| {
            if let Some(row) = self.row(name) {
                is_matched[row] = true;
            }
        })?;
        let mut keys: Vec<&str> =
            is_matched.iter().enumerate().filter(|(_, is)| !**is).map(|(row, _)| self.rows.key(row)).collect();
        keys.sort_unstable();
        Ok(keys)
    }

    /// The row of a sample.
    pub(crate) fn row(&self, name: SampleName<'_>) -> Option<usize> {
        let key = self.row_key.of(name);
        self.rows.find(key).or_else(|| {
            // Only here is the text of the URI made, which most tables don't have.
            (self.row_key == RowKey::FullName).then(|| self.rows.find(&name.prefix.uri(key).to_string())).flatten()
        })
    }

    /// The cell of a sample in a column; `None` where it has no row, or an empty cell.
    pub(crate) fn label(&self, name: SampleName<'_>, column: usize) -> Option<&str> {
        Some(self.rows.cell(self.row(name)?, column)).filter(|cell| !cell.is_empty())
    }

    /// The index of a column.
    pub(crate) fn column(&self, name: &str) -> Result<usize> {
        self.rows.column(name)
    }

    pub(crate) fn column_name(&self, column: usize) -> &str {
        self.rows.column_names().nth(column).unwrap_or_default()
    }

    /// What to do about samples without a row.
    pub(crate) fn hint(&self) -> String {
        let key = self.rows.keys().next().unwrap_or_default();
        format!(
            "add rows, or match another part of the names: LabelTableReader::row_key (it is {:?} now, and the first key is \
             '{key}')",
            self.row_key
        )
    }

    /// The row of a sample that is decoded.
    pub(super) fn row_of(&self, sample: &RawSample) -> anyhow::Result<usize> {
        let name = sample.manifest().sample_name(sample.name());
        self.row(name).ok_or_else(|| {
            anyhow::anyhow!(
                "{} has no row of its key '{}'; {}, or leave such samples out: \
                 dataset.match_table(&table, Unlabelled::LeaveOut)",
                self.source(),
                self.row_key.of(name),
                self.hint()
            )
        })
    }
}

/// Without the rows, of which there may be millions.
impl fmt::Debug for LabelTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LabelTable")
            .field("source", &self.source())
            .field("columns", &self.columns().collect::<Vec<_>>())
            .field("rows", &self.len())
            .field("row_key", &self.row_key)
            .finish()
    }
}
