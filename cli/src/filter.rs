//! Options that select objects.

use std::time::SystemTime;

use dataflux::list::{Filter, LeftOut, Reason};
use dataflux::store::StorageClass;

use crate::failure::Usage;
use crate::{output, value};

#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Filters")]
pub(crate) struct FilterArgs {
    /// Only objects of this storage class: standard, nearline, coldline or archive; may be given more than once
    #[arg(long, value_name = "CLASS", value_parser = value::storage_class)]
    storage_class: Vec<StorageClass>,

    /// Only names that this glob matches below the prefix, such as '*.jpg', 'cat/**' or 'raw/'; may be given more than
    /// once. A glob without a slash applies to the last part of a name, in any folder; * stops at a slash, ** doesn't
    #[arg(long, value_name = "GLOB", value_parser = value::glob)]
    include: Vec<String>,

    /// No names that this glob matches, even if --include selects them; may be given more than once
    #[arg(long, value_name = "GLOB", value_parser = value::glob)]
    exclude: Vec<String>,

    /// Match the globs in upper and lower case, so that '*.jpg' matches A.JPG, too
    #[arg(long)]
    ignore_case: bool,

    /// Only images, recognized by the ends of their names in any case (.jpg, .png, .webp and the like). Leaves out
    /// hidden files and folders such as .ipynb_checkpoints, __MACOSX and Thumbs.db
    #[arg(long)]
    images: bool,

    /// Only objects of at least this size, such as 1, 10KiB or 2MB
    #[arg(long, value_name = "SIZE", value_parser = value::size)]
    min_size: Option<u64>,

    /// Only objects of at most this size
    #[arg(long, value_name = "SIZE", value_parser = value::size)]
    max_size: Option<u64>,

    /// Only objects changed at this time or later, such as 2026-01-31 or 2026-01-31T12:00:00Z, or within this time
    /// before now, such as 12h or 7d
    #[arg(long, value_name = "TIME|AGE", value_parser = value::moment_before_now)]
    modified_since: Option<SystemTime>,
}

impl FilterArgs {
    /// The names of all options. The group would do for a conflict, but clap would name its first option instead of the
    /// one given.
    pub(crate) const OPTIONS: [&str; 8] =
        ["storage_class", "include", "exclude", "ignore_case", "images", "min_size", "max_size", "modified_since"];

    /// The filter that selects what both `base` and the options select.
    pub(crate) fn apply(&self, base: Filter) -> anyhow::Result<Filter> {
        if let (Some(min), Some(max)) = (self.min_size, self.max_size)
            && min > max
        {
            let message = format!("--min-size {min} is above --max-size {max}: no object can be both");
            return Err(Usage(message).into());
        }
        let mut filter = self.storage_class.iter().fold(base, |filter, class| filter.storage_class(*class));
        for glob in &self.include {
            filter = filter.include(glob)?;
        }
        for glob in &self.exclude {
            filter = filter.exclude(glob)?;
        }
        if self.ignore_case {
            filter = filter.any_case()?;
        }
        if self.images {
            filter = filter.images();
        }
        if let Some(bytes) = self.min_size {
            filter = filter.min_size(bytes);
        }
        if let Some(bytes) = self.max_size {
            filter = filter.max_size(bytes);
        }
        if let Some(time) = self.modified_since {
            filter = filter.modified_since(time);
        }
        Ok(filter)
    }

    /// The options that left objects out, as they are written on the command line.
    pub(crate) fn causes(&self, left: &LeftOut) -> String {
        let each = |option: &str, values: &mut dyn Iterator<Item = String>| {
            values.map(|value| format!("--{option} {value}")).collect::<Vec<_>>()
        };
        let quoted = |globs: &[String]| globs.iter().map(|glob| format!("'{glob}'")).collect::<Vec<_>>().into_iter();
        let options = left.counts().flat_map(|(reason, _)| match reason {
            Reason::StorageClass => {
                let word = |class: &StorageClass| class.as_str().to_ascii_lowercase();
                each("storage-class", &mut self.storage_class.iter().map(word))
            }
            Reason::NotIncluded => each("include", &mut quoted(&self.include)),
            Reason::Excluded => each("exclude", &mut quoted(&self.exclude)),
            Reason::TooSmall => each("min-size", &mut self.min_size.iter().map(u64::to_string)),
            Reason::TooLarge => each("max-size", &mut self.max_size.iter().map(u64::to_string)),
            Reason::NotModified => {
                each("modified-since", &mut self.modified_since.iter().map(|time| output::time(*time)))
            }
            Reason::Hidden | Reason::NotAnImage if self.images => vec!["--images".to_owned()],
            // Rules for samples, and reasons that have no option.
            _ => Vec::new(),
        });
        let mut options: Vec<_> = options.collect();
        // Two reasons may come from the same option.
        options.dedup();
        options.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use clap::Args;

    use super::*;

    #[test]
    fn all_options_are_named() {
        let command = FilterArgs::augment_args(clap::Command::new("filter"));
        assert!(command.get_arguments().map(|option| option.get_id().as_str()).eq(FilterArgs::OPTIONS));
    }
}
