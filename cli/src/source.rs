//! The samples that a command works on: listed, or loaded from a manifest.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use dataflux::list::{Filter, Prefix, Progress};
use dataflux::store::Client;
use dataflux::{DatafluxDataset, Manifest};

use crate::failure::Usage;
use crate::filter::FilterArgs;
use crate::progress;

/// Opens the samples below `prefix`: lists them, or loads them from a manifest.
pub(crate) fn open(
    client: &Client,
    prefix: &Prefix,
    manifest: Option<&Path>,
    filter: &FilterArgs,
) -> Result<DatafluxDataset> {
    let builder = DatafluxDataset::builder().client(client.clone());
    if let Some(file) = manifest {
        return Ok(builder.from_manifest(check_prefix(Manifest::load(file)?, file, prefix)?)?);
    }
    let listing = Arc::new(Progress::default());
    let _spinner = progress::listing(Arc::clone(&listing));
    let opened = builder.filter(filter.apply(Filter::new())?).progress(listing).open(&prefix.to_string());
    Ok(opened.map_err(|error| match glob_hint(prefix) {
        Some(hint) if error.what_to_do().is_some_and(|hint| hint.contains("isn't a glob")) => error.hint(hint),
        _ => error,
    })?)
}

/// A hint for a prefix that no name begins with, if it looks like a glob.
pub(crate) fn glob_hint(prefix: &Prefix) -> Option<String> {
    let (folder, glob) = prefix.glob()?;
    Some(format!("a prefix isn't a glob: write {folder} --include '{glob}'"))
}

/// Returns the manifest if it is of this prefix.
pub(crate) fn check_prefix(manifest: Manifest, file: &Path, prefix: &Prefix) -> Result<Manifest> {
    if manifest.prefix() == prefix {
        return Ok(manifest);
    }
    let (file, of) = (file.display(), manifest.prefix());
    Err(Usage(format!("{file} is a manifest of {of}, not of {prefix}: name {of}, or save another")).into())
}
