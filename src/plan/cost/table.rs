//! The price list as data: the built-in one, or a user's file.

use std::fmt::Display;
use std::path::Path;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::store::StorageClass;
use crate::{Error, ErrorKind, Result, Stage};

/// Prices of one storage class at one type of location, in dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct PriceRow {
    /// For one call of class A.
    pub(crate) class_a: f64,
    /// For one call of class B.
    pub(crate) class_b: f64,
    /// For retrieving a GiB.
    pub(crate) retrieval: f64,
    /// For storing a GiB for a month.
    pub(crate) storage_month: f64,
    /// For replicating a GiB to another region.
    pub(crate) replication: f64,
    /// Days that an object is billed for at least.
    pub(crate) minimum_days: u32,
}

/// The prices at one location.
pub(crate) struct LocationPrices {
    /// By storage class, in the order of [`CLASSES`].
    pub(crate) rows: [PriceRow; 4],
    /// Whether rows of flat namespaces were taken for a hierarchical one, because the table has no others.
    pub(crate) is_from_flat: bool,
    /// Whether the table has this very location.
    pub(crate) is_known_location: bool,
}

/// What a row of the table is for.
#[derive(Clone, Copy, Debug, PartialEq)]
struct RowKey {
    is_hierarchical: bool,
    location_type: LocationType,
    class: StorageClass,
}

/// Storage classes that have prices, in the order of the prices.
pub(crate) const CLASSES: [StorageClass; 4] =
    [StorageClass::Standard, StorageClass::Nearline, StorageClass::Coldline, StorageClass::Archive];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LocationType {
    Region,
    DualRegion,
    MultiRegion,
}

const LOCATION_TYPES: [(&str, LocationType); 3] = [
    ("region", LocationType::Region),
    ("dual-region", LocationType::DualRegion),
    ("multi-region", LocationType::MultiRegion),
];

impl LocationType {
    pub(crate) fn parse(word: &str) -> Option<Self> {
        LOCATION_TYPES.iter().find(|(name, _)| *name == word).map(|(_, location_type)| *location_type)
    }
}

/// A location whose storage has prices of its own.
#[derive(Clone, Debug, PartialEq)]
struct PricedLocation {
    name: String,
    location_type: LocationType,
    storage_month: [f64; 4],
}

/// The prices of Google Cloud Storage: dollars by storage class, type of location and type of namespace.
///
/// The built-in table is the public price list at [`date`](Self::date). Prices of your contract or location may differ:
/// `dataflux plan --print-prices` prints the table to start from, and [`load`](Self::load) reads it back.
///
/// ```
/// use dataflux::plan::PriceTable;
/// use dataflux::store::{BucketInfo, StorageClass};
///
/// let half = PriceTable::built_in_json().replace("\"class_b_per_1000\": 0.0004", "\"class_b_per_1000\": 0.0002");
/// let table = PriceTable::from_json(&half)?;
/// let bucket = BucketInfo::default();
/// assert_eq!(PriceTable::built_in().of(&bucket).direct(StorageClass::Standard, 1_000_000), 0.4);
/// assert_eq!(table.of(&bucket).direct(StorageClass::Standard, 1_000_000), 0.2);
/// # Ok::<(), dataflux::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct PriceTable {
    date: String,
    source: String,
    rows: Vec<(RowKey, PriceRow)>,
    locations: Vec<PricedLocation>,
}

const BUILT_IN: &str = include_str!("prices.json");

static TABLE: LazyLock<PriceTable> = LazyLock::new(|| {
    PriceTable::from_json(BUILT_IN).unwrap_or_else(|error| panic!("the built-in price table: {error}"))
});

impl PriceTable {
    /// The public price list at its [`date`](Self::date).
    pub fn built_in() -> &'static Self {
        &TABLE
    }

    /// The built-in table as JSON, with its notes, from which to make another table.
    pub fn built_in_json() -> &'static str {
        BUILT_IN
    }

    /// Reads a table from a file, in the form of [`built_in_json`](Self::built_in_json).
    ///
    /// # Errors
    /// The file can't be read; errors of [`from_json`](Self::from_json), with the file's name.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::new(ErrorKind::Io, "the price table can't be read")
                .stage(Stage::Plan)
                .object(path.display())
                .hint("`dataflux plan --print-prices` prints one to start from")
                .with_source(error)
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads a table in the form of [`built_in_json`](Self::built_in_json). Rows of hierarchical namespaces may be
    /// missing, in which case those of flat namespaces are used instead. Everything else is required.
    ///
    /// # Errors
    /// An invalid table; the error names the field and what was wanted there.
    pub fn from_json(text: &str) -> Result<Self> {
        Self::parse(text, "the price table")
    }

    fn parse(text: &str, file: &str) -> Result<Self> {
        let value: Value =
            serde_json::from_str(text).map_err(|error| refused(file).mismatch("a price table as JSON", error))?;
        let top = JsonAt { path: file.to_owned(), value: &value };
        let fields = top.fields(&["date", "currency", "source", "notes", "rows", "locations"])?;
        fields.get("currency")?.one_of(&[("USD", ())])?;
        let mut table = Self {
            date: fields.get("date")?.text()?.to_owned(),
            source: fields.get("source")?.text()?.to_owned(),
            rows: Vec::new(),
            locations: Vec::new(),
        };
        for at in fields.get("rows")?.items()? {
            let row = at.fields(&[
                "namespace",
                "location_type",
                "class",
                "class_a_per_1000",
                "class_b_per_1000",
                "retrieval_per_gib",
                "storage_per_gib_month",
                "minimum_days",
                "replication_per_gib",
            ])?;
            let key = RowKey {
                is_hierarchical: row.get("namespace")?.one_of(&[("flat", false), ("hierarchical", true)])?,
                location_type: row.get("location_type")?.one_of(&LOCATION_TYPES)?,
                class: row.get("class")?.one_of(&CLASSES.map(|class| (class.as_str(), class)))?,
            };
            if table.row(key).is_some() {
                return Err(refused(&at.path).mismatch("one row of each kind", "another of the same"));
            }
            let price = PriceRow {
                class_a: row.get("class_a_per_1000")?.dollars()? / 1_000.0,
                class_b: row.get("class_b_per_1000")?.dollars()? / 1_000.0,
                retrieval: row.get("retrieval_per_gib")?.dollars()?,
                storage_month: row.get("storage_per_gib_month")?.dollars()?,
                replication: row.get("replication_per_gib")?.dollars()?,
                minimum_days: row.get("minimum_days")?.days()?,
            };
            table.rows.push((key, price));
        }
        for (word, location_type) in LOCATION_TYPES {
            for class in CLASSES {
                if table.row(RowKey { is_hierarchical: false, location_type, class }).is_none() {
                    let wanted = format!("a row for flat, {word}, {}", class.as_str());
                    return Err(refused(&format!("{file}: rows")).mismatch(wanted, "none"));
                }
            }
        }
        for at in fields.get("locations")?.items()? {
            let location = at.fields(&["location", "location_type", "storage_per_gib_month"])?;
            let storage = location.get("storage_per_gib_month")?;
            let classes = storage.fields(&CLASSES.map(StorageClass::as_str))?;
            let mut storage_month = [0.0; 4];
            for (month, class) in storage_month.iter_mut().zip(CLASSES) {
                *month = classes.get(class.as_str())?.dollars()?;
            }
            let name = location.get("location")?.text()?.to_owned();
            let location_type = location.get("location_type")?.one_of(&LOCATION_TYPES)?;
            table.locations.push(PricedLocation { name, location_type, storage_month });
        }
        Ok(table)
    }

    fn row(&self, key: RowKey) -> Option<&PriceRow> {
        self.rows.iter().find(|(other, _)| *other == key).map(|(_, row)| row)
    }

    /// The prices at a location, whose storage may have prices of its own.
    pub(crate) fn rows(
        &self,
        is_hierarchical: bool,
        location_type: LocationType,
        location: Option<&str>,
    ) -> LocationPrices {
        let mut is_from_flat = false;
        let mut rows = CLASSES.map(|class| {
            let own = self.row(RowKey { is_hierarchical, location_type, class });
            is_from_flat |= own.is_none();
            let row = own.or_else(|| self.row(RowKey { is_hierarchical: false, location_type, class }));
            *row.unwrap_or_else(|| unreachable!("the table was checked to have a row for every flat namespace"))
        });

        // The type matters, too: a configurable dual-region may be in "US", and costs more than the multi-region "US".
        let known = self.locations.iter().find(|known| {
            known.location_type == location_type && location.is_some_and(|name| known.name.eq_ignore_ascii_case(name))
        });
        if let Some(known) = known {
            for (row, month) in rows.iter_mut().zip(known.storage_month) {
                row.storage_month = month;
            }
        }
        LocationPrices { rows, is_from_flat, is_known_location: known.is_some() }
    }

    /// Date of the price list, as written in the table.
    pub fn date(&self) -> &str {
        &self.date
    }

    /// Source of the prices.
    pub fn source(&self) -> &str {
        &self.source
    }
}

fn refused(at: &str) -> Error {
    Error::new(ErrorKind::Config, "this is no price table")
        .stage(Stage::Plan)
        .object(at)
        .hint("compare it with what `dataflux plan --print-prices` prints")
}

/// A value of the file, and its path.
struct JsonAt<'a> {
    path: String,
    value: &'a Value,
}

/// The fields of an object of the file.
struct JsonFields<'a> {
    path: String,
    map: &'a Map<String, Value>,
}

impl<'a> JsonAt<'a> {
    fn wrong(&self, wanted: impl Display) -> Error {
        refused(&self.path).mismatch(wanted, self.value)
    }

    /// An object with these fields and no others, since a misspelled name would otherwise leave a price unchanged.
    fn fields(&self, names: &[&str]) -> Result<JsonFields<'a>> {
        let map = self.value.as_object().ok_or_else(|| self.wrong(format!("an object of {}", names.join(", "))))?;
        if let Some(other) = map.keys().find(|key| !names.contains(&key.as_str())) {
            return Err(refused(&self.path).mismatch(format!("only {}", names.join(", ")), other));
        }
        Ok(JsonFields { path: self.path.clone(), map })
    }

    fn items(&self) -> Result<impl Iterator<Item = JsonAt<'a>>> {
        let items = self.value.as_array().ok_or_else(|| self.wrong("a list"))?;
        let path = self.path.clone();
        Ok(items.iter().enumerate().map(move |(index, value)| JsonAt { path: format!("{path}[{index}]"), value }))
    }

    fn text(&self) -> Result<&'a str> {
        self.value.as_str().ok_or_else(|| self.wrong("a text"))
    }

    fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Result<T> {
        let found = self.value.as_str().and_then(|word| words.iter().find(|(other, _)| *other == word));
        let wanted = || words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ");
        found.map(|(_, value)| *value).ok_or_else(|| self.wrong(wanted()))
    }

    fn dollars(&self) -> Result<f64> {
        let dollars = self.value.as_f64().filter(|dollars| dollars.is_finite() && *dollars >= 0.0);
        dollars.ok_or_else(|| self.wrong("a number of dollars, 0 or more"))
    }

    fn days(&self) -> Result<u32> {
        let days = self.value.as_u64().and_then(|days| u32::try_from(days).ok());
        days.ok_or_else(|| self.wrong("a whole number of days, 0 or more"))
    }
}

impl<'a> JsonFields<'a> {
    fn get(&self, name: &str) -> Result<JsonAt<'a>> {
        let path = format!("{}: {name}", self.path);
        match self.map.get(name) {
            Some(value) => Ok(JsonAt { path, value }),
            None => Err(refused(&path).mismatch("a value", "none")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_table_is_valid() {
        let table = PriceTable::built_in();
        assert_eq!((table.date(), table.source()), ("2026-09-20", "https://cloud.google.com/storage/pricing"));
        let prices = table.rows(true, LocationType::Region, Some("us-central1"));
        assert_eq!((prices.rows[0].class_a, prices.is_from_flat, prices.is_known_location), (0.005e-3, true, true));
        let prices = table.rows(false, LocationType::Region, Some("us-east4"));
        let standard = prices.rows[0].storage_month;
        assert_eq!((standard, prices.is_from_flat, prices.is_known_location), (0.023, false, true));
    }

    #[test]
    fn a_dual_region_in_the_us_is_not_priced_as_the_multi_region_us() {
        let month = |kind| PriceTable::built_in().rows(false, kind, Some("us")).rows[0].storage_month;
        assert_eq!((month(LocationType::MultiRegion), month(LocationType::DualRegion)), (0.026, 0.044));
    }

    #[test]
    fn what_is_wrong_in_a_table_is_named() {
        let with = |old: &str, new: &str| {
            assert!(BUILT_IN.contains(old), "{old}");
            PriceTable::from_json(&BUILT_IN.replacen(old, new, 1)).unwrap_err().to_string()
        };
        for (old, new, part) in [
            ("\"class_b_per_1000\": 0.0004", "\"class_b_per_1000\": \"0.0004\"", "rows[0]: class_b_per_1000"),
            ("\"class_b_per_1000\": 0.0004", "\"class_b_per_1000\": -1", "a number of dollars, 0 or more"),
            ("\"class_b_per_1000\": 0.0004,", "", "rows[0]: class_b_per_1000"),
            ("\"class_b_per_1000\"", "\"class_b_per_10000\"", "class_b_per_10000"),
            ("\"minimum_days\": 30", "\"minimum_days\": 30.5", "rows[1]: minimum_days"),
            ("\"class\": \"NEARLINE\"", "\"class\": \"nearline\"", "\"STANDARD\" or \"NEARLINE\""),
            ("\"class\": \"NEARLINE\"", "\"class\": \"STANDARD\"", "one row of each kind"),
            ("\"dual-region\"", "\"region\"", "one row of each kind"),
            ("\"USD\"", "\"EUR\"", "currency"),
            ("\"US-CENTRAL1\"", "7", "locations[0]: location"),
            ("\"NEARLINE\": 0.01, ", "", "locations[0]: storage_per_gib_month: NEARLINE"),
            ("\"rows\": [", "\"rows\": {", "a price table as JSON"),
        ] {
            let error = with(old, new);
            assert!(error.contains(part), "{new}: {error}");
        }
        let none = PriceTable::from_json(r#"{"date":"","currency":"USD","source":"","rows":[],"locations":[]}"#);
        assert!(none.unwrap_err().to_string().contains("a row for flat, region, STANDARD"));
        let missing = PriceTable::load("/nowhere/prices.json").unwrap_err().to_string();
        assert!(missing.contains("/nowhere/prices.json") && missing.contains("--print-prices"), "{missing}");
    }

    #[test]
    fn a_table_may_know_hierarchical_namespaces() {
        let own = r#""rows": [{"namespace": "hierarchical", "location_type": "region", "class": "STANDARD",
            "class_a_per_1000": 7, "class_b_per_1000": 1, "retrieval_per_gib": 0, "storage_per_gib_month": 0.02,
            "minimum_days": 0, "replication_per_gib": 0},"#;
        let table = PriceTable::from_json(&BUILT_IN.replacen("\"rows\": [", own, 1)).unwrap();
        let prices = |hierarchical| table.rows(hierarchical, LocationType::Region, None);
        assert_eq!((prices(true).rows[0].class_a, prices(false).rows[0].class_a), (0.007, 0.005e-3));
        assert!(prices(true).is_from_flat, "the other classes are taken from the flat ones");
    }
}
