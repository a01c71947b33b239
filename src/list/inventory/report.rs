//! Which files belong to a report, by their names and by the report's manifest. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::{Error, ErrorKind, Result, Stage};

/// The format of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Format {
    Csv,
    Parquet,
}

impl Format {
    /// The format by the end of a name.
    pub(super) fn of(name: &str) -> Option<Self> {
        match name.rsplit_once('.')?.1 {
            "csv" => Some(Self::Csv),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// A report's `..._manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReportManifest {
    /// The last parts of the shards' names. Shards are in the same folder as the manifest.
    pub(super) shards: Vec<String>,
    /// Rows in all shards together.
    pub(super) records: Option<u64>,
    /// When the snapshot was taken, as written there.
    pub(super) snapshot_time: Option<String>,
}

/// The fields that the service writes, in either spelling.
#[derive(Deserialize)]
struct ReportJson {
    #[serde(alias = "reportShardsFileNames", alias = "reportNames")]
    report_shards_file_names: Vec<String>,
    #[serde(alias = "recordsProcessed")]
    records_processed: Option<JsonNumber>,
    #[serde(alias = "shardCount")]
    shard_count: Option<JsonNumber>,
    #[serde(alias = "snapshotTime")]
    snapshot_time: Option<serde_json::Value>,
}

/// A number, which JSON of protocol buffers may have as a text.
#[derive(Deserialize)]
#[serde(untagged)]
enum JsonNumber {
    Number(u64),
    Text(String),
}

impl JsonNumber {
    fn get(self) -> Result<u64> {
        match self {
            Self::Number(number) => Ok(number),
            Self::Text(text) => text.parse().map_err(|_| {
                Error::new(ErrorKind::Protocol, "the report's manifest has a count that is none")
                    .mismatch("a whole number", format!("{text:?}"))
            }),
        }
    }
}

impl ReportManifest {
    /// Parses the JSON. The error doesn't name the file.
    pub(super) fn parse(json: &[u8]) -> Result<Self> {
        let json: ReportJson = serde_json::from_slice(json).map_err(|error| {
            Error::new(ErrorKind::Protocol, "this isn't the manifest of an inventory report")
                .stage(Stage::List)
                .mismatch("JSON with report_shards_file_names", &error)
                .hint("name the report's ..._manifest.json, one of its shards, or the folder with all of them")
        })?;
        let last_part = |name: String| name.rsplit_once('/').map(|(_, last)| last.to_owned()).unwrap_or(name);
        let shards: Vec<String> = json.report_shards_file_names.into_iter().map(last_part).collect();
        let distinct: BTreeSet<&String> = shards.iter().collect();
        let count = json.shard_count.map(JsonNumber::get).transpose()?.unwrap_or(shards.len() as u64);
        if distinct.len() as u64 != count || distinct.len() != shards.len() {
            return Err(Error::new(ErrorKind::Protocol, "the report's manifest contradicts itself")
                .stage(Stage::List)
                .mismatch(
                    format_args!("{count} shards"),
                    format_args!("{} names of which {} differ", shards.len(), distinct.len()),
                )
                .hint("take the manifest that the service wrote"));
        }
        let snapshot_time = json.snapshot_time.map(|time| match time {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        });
        Ok(Self { shards, records: json.records_processed.map(JsonNumber::get).transpose()?, snapshot_time })
    }
}

/// The report in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FolderContents {
    /// A report's manifest, and the shards around it.
    Manifest { manifest: String, shards: Vec<String> },
    /// Shards of one snapshot without a manifest.
    Shards(Vec<String>),
}

/// The parts of a name: `KEY_manifest.json` or `KEY_3.parquet`.
enum ReportName<'a> {
    Manifest { key: &'a str },
    Shard { key: &'a str, number: Option<u64> },
}

impl<'a> ReportName<'a> {
    /// `None` for files of other kinds.
    fn parse(name: &'a str) -> Option<Self> {
        if let Some(key) = name.strip_suffix("manifest.json") {
            return Some(Self::Manifest { key: key.strip_suffix('_').unwrap_or(key) });
        }
        Format::of(name)?;
        let (stem, _) = name.rsplit_once('.')?;
        let numbered = stem.rsplit_once('_').and_then(|(key, number)| Some((key, number.parse().ok()?)));
        Some(match numbered {
            Some((key, number)) => Self::Shard { key, number: Some(number) },
            None => Self::Shard { key: stem, number: None },
        })
    }
}

/// A shard without a manifest. Shards are sorted by their numbers.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct NumberedShard {
    number: Option<u64>,
    name: String,
}

/// The single report among `names`, which are full names or paths. Files of other kinds are ignored. The error doesn't
/// name the folder.
pub(super) fn find(names: impl IntoIterator<Item = String>) -> Result<FolderContents> {
    let (mut manifests, mut shards) = (Vec::new(), BTreeMap::<String, Vec<NumberedShard>>::new());
    for name in names {
        match ReportName::parse(&name) {
            Some(ReportName::Manifest { key }) => manifests.push((key.to_owned(), name)),
            Some(ReportName::Shard { key, number }) => {
                let key = key.to_owned();
                shards.entry(key).or_default().push(NumberedShard { number, name });
            }
            None => {}
        }
    }
    let keys: BTreeSet<&str> = manifests.iter().map(|(key, _)| &**key).chain(shards.keys().map(|key| &**key)).collect();
    if keys.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "there is no inventory report")
            .stage(Stage::List)
            .mismatch("a ..._manifest.json, or shards that end in .csv or .parquet", "none")
            .hint("the first report comes up to a day after its configuration was made"));
    }
    // A plain `manifest.json` has no key, so the shards that it names count.
    let is_plain = |key: &str| key.is_empty() || key.ends_with('/');
    match &*manifests {
        [(key, manifest)] if keys.len() == 1 || is_plain(key) => {
            let manifest = manifest.clone();
            let shards = shards.into_values().flatten().map(|shard| shard.name).collect();
            return Ok(FolderContents::Manifest { manifest, shards });
        }
        [] if keys.len() == 1 => {
            let mut shards: Vec<_> = shards.into_values().flatten().collect();
            shards.sort();
            check_numbers(&shards)?;
            return Ok(FolderContents::Shards(shards.into_iter().map(|shard| shard.name).collect()));
        }
        _ => {}
    }
    let more = if keys.len() > 4 { ", ..." } else { "" };
    let some: Vec<&str> = keys.iter().copied().take(4).collect();
    Err(Error::new(ErrorKind::Config, "there is more than one inventory report")
        .stage(Stage::List)
        .mismatch("one snapshot", format_args!("{}: {}{more}", keys.len(), some.join(", ")))
        .hint("name the ..._manifest.json of the one to read"))
}

/// Checks that no shard is missing, as far as the numbers of sorted shards show.
fn check_numbers(shards: &[NumberedShard]) -> Result<()> {
    let first = shards.first().and_then(|shard| shard.number).unwrap_or_default();
    let expected = (0..).map(|index| first.wrapping_add(index));
    let gap = shards.iter().zip(expected).find(|(shard, wanted)| shard.number.is_some_and(|number| number != *wanted));
    if first > 1 || gap.is_some() || (shards.len() > 1 && shards.iter().any(|shard| shard.number.is_none())) {
        let name = &gap.map_or(&shards[0], |(shard, _)| shard).name;
        return Err(Error::new(ErrorKind::NotFound, "a shard of the report is missing, or there twice")
            .stage(Stage::List)
            .mismatch("shards numbered one after another", format_args!("{name} out of turn"))
            .hint("copy the whole report, with its ..._manifest.json"));
    }
    Ok(())
}
