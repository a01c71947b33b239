//! The price list as data: built in, or a file of the user's.

use std::fmt::Display;
use std::path::Path;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::store::StorageClass;
use crate::{Error, ErrorKind, Result, Stage};

/// Dollars of one storage class at one type of location.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PriceRow {
    /// For one call.
    pub(crate) class_a: f64,
    pub(crate) class_b: f64,
    /// For a GiB.
    pub(crate) retrieval: f64,
    pub(crate) storage_month: f64,
    pub(crate) replication: f64,
    /// Days that an object is billed for at least.
    pub(crate) minimum_days: u32,
}

/// Storage classes that have prices, in the order of a [`PricedLocation`]'s.
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

/// A place whose storage has a price of its own.
#[derive(Clone, Debug, PartialEq)]
struct PricedLocation {
    name: String,
    kind: LocationType,
    storage_month: [f64; 4],
}

/// What Google Cloud Storage costs: dollars by storage class, type of location and type of namespace.
///
/// The built-in table is the public price list at [`date`](Self::date). Your contract may say otherwise, and so may your
/// location: `dataflux plan --print-prices` prints the table to start from, and [`load`](Self::load) reads it back.
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
    rows: Vec<((bool, LocationType, StorageClass), PriceRow)>,
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

    /// The built-in table as JSON, with its notes: what a table of one's own starts from.
    pub fn built_in_json() -> &'static str {
        BUILT_IN
    }

    /// Reads a table from a file, in the form of [`built_in_json`](Self::built_in_json).
    ///
    /// # Errors
    /// A file that can't be read; all that [`from_json`](Self::from_json) refuses, with the file's name.
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

    /// Reads a table in the form of [`built_in_json`](Self::built_in_json). Rows of hierarchical namespaces may be missing,
    /// in which case those of flat ones hold for them; all else must be there.
    ///
    /// # Errors
    /// What is no such table; the error names the field and what was wanted there.
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
            let key = (
                row.get("namespace")?.one_of(&[("flat", false), ("hierarchical", true)])?,
                row.get("location_type")?.one_of(&LOCATION_TYPES)?,
                row.get("class")?.one_of(&CLASSES.map(|class| (class.as_str(), class)))?,
            );
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
                if table.row((false, location_type, class)).is_none() {
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
            let kind = location.get("location_type")?.one_of(&LOCATION_TYPES)?;
            table.locations.push(PricedLocation { name, kind, storage_month });
        }
        Ok(table)
    }

    fn row(&self, key: (bool, LocationType, StorageClass)) -> Option<&PriceRow> {
        self.rows.iter().find(|(other, _)| *other == key).map(|(_, row)| row)
    }

    /// The prices of the four classes, where a location that is named may have storage of its own price; whether those
    /// of flat namespaces were taken for want of others, and whether the location is known.
    pub(crate) fn rows(
        &self,
        hierarchical: bool,
        kind: LocationType,
        location: Option<&str>,
    ) -> ([PriceRow; 4], bool, bool) {
        let mut from_flat = false;
        // A dual-region of one's own choice is in "US", too, and costs more than the multi-region of that name.
        let is_there = |place: &&PricedLocation| {
            place.kind == kind && location.is_some_and(|name| place.name.eq_ignore_ascii_case(name))
        };
        let place = self.locations.iter().find(is_there);
        let rows = CLASSES.map(|class| {
            let own = self.row((hierarchical, kind, class));
            from_flat |= own.is_none();
            // That there is one for each flat namespace was checked.
            own.or_else(|| self.row((false, kind, class))).copied()
        });
        let mut rows =
            rows.map(|row| row.unwrap_or_else(|| unreachable!("a table has a row for every flat namespace")));
        if let Some(place) = place {
            for (row, month) in rows.iter_mut().zip(place.storage_month) {
                row.storage_month = month;
            }
        }
        (rows, from_flat, place.is_some())
    }

    /// Day of the price list, as the table has it.
    pub fn date(&self) -> &str {
        &self.date
    }

    /// Where the prices are from.
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

/// A value of the file, and where it is.
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

    /// An object of these fields and no others: a slip of the pen in a name would leave a price as it is.
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
    fn the_built_in_table_is_one() {
        let table = PriceTable::built_in();
        assert_eq!((table.date(), table.source()), ("2026-09-20", "https://cloud.google.com/storage/pricing"));
        let (rows, from_flat, placed) = table.rows(true, LocationType::Region, Some("us-central1"));
        assert_eq!((rows[0].class_a, from_flat, placed), (0.005e-3, true, true));
        let (rows, from_flat, placed) = table.rows(false, LocationType::Region, Some("us-east4"));
        assert_eq!((rows[0].storage_month, from_flat, placed), (0.023, false, true));
    }

    #[test]
    fn a_dual_region_in_the_us_is_not_priced_as_the_multi_region_us() {
        let month = |kind| PriceTable::built_in().rows(false, kind, Some("us")).0[0].storage_month;
        assert_eq!((month(LocationType::MultiRegion), month(LocationType::DualRegion)), (0.026, 0.044));
    }

    #[test]
    fn what_is_wrong_in_a_table_is_named() {
        let with = |old: &str, new: &str| {
            assert!(BUILT_IN.contains(old), "{old}");
            PriceTable::from_json(&BUILT_IN.replacen(old, new, 1)).unwrap_err().to_string()
        };
        for (old, new, told) in [
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
            assert!(error.contains(told), "{new}: {error}");
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
        assert_eq!((prices(true).0[0].class_a, prices(false).0[0].class_a), (0.007, 0.005e-3));
        assert!(prices(true).1, "the other classes are taken from the flat ones");
    }
}
