//! Counts of objects that are stored compressed.

use std::collections::BTreeMap;
use std::fmt;

use dataflux::manifest::Manifest;
use dataflux::store::ContentEncoding;
use serde::Serialize;

use crate::progress;

/// The number of objects of each `Content-Encoding`.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Encodings(BTreeMap<&'static str, u64>);

impl Encodings {
    pub(crate) fn of(all: impl Iterator<Item = ContentEncoding>) -> Self {
        let mut encodings = Self::default();
        all.for_each(|encoding| encodings.add(encoding));
        encodings
    }

    pub(crate) fn of_manifest(manifest: &Manifest) -> dataflux::Result<Self> {
        let (mut encodings, mut entries) = (Self::default(), manifest.entries());
        while let Some(entry) = entries.next()? {
            encodings.add(entry.encoding);
        }
        Ok(encodings)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, encoding: ContentEncoding) {
        if !encoding.is_identity() {
            *self.0.entry(encoding.as_str()).or_default() += 1;
        }
    }

    /// Prints a notice to standard error, since the bytes of compressed objects are not what their names suggest.
    pub(crate) fn print_notice(&self) {
        let count: u64 = self.0.values().sum();
        if count == 0 {
            return;
        }
        let (are, them) = if count == 1 { ("object is", "it") } else { ("objects are", "them") };
        progress::print(&format!(
            "{count} {are} stored compressed, by Content-Encoding ({self}): data sets and `dataflux get` return the \
             bytes as stored; decompress {them} yourself, in the decoder or after the download\n"
        ));
    }
}

impl fmt::Display for Encodings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let counts: Vec<_> = self.0.iter().map(|(encoding, count)| format!("{count} {encoding}")).collect();
        f.write_str(&counts.join(", "))
    }
}
