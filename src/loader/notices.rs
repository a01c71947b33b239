//! What is logged about a listing: its end, objects that were left out, doubtful labels, and cold storage.

use crate::list::{Prefix, Reason};
use crate::manifest::{FoundImages, LeftOutByParts, Manifest, UnlabelledSamples};
use crate::plan::cold_notice;
use crate::store::{Capabilities, Client};

/// Logs that a listing has ended, and warns of hidden files that it left out.
pub(super) fn log_listed(manifest: &Manifest) {
    log_end(manifest);
    let hidden_files = manifest.left_out().count(Reason::Hidden);
    if hidden_files > 0 {
        tracing::warn!(
            prefix = %manifest.prefix(),
            hidden_files,
            "hidden files, such as .DS_Store, and files in hidden folders are left out; to keep them, list with \
             Filter::new().hidden()"
        );
    }
}

/// As [`log_listed`], for a listing of images.
pub(super) fn log_images_listed(manifest: &Manifest) {
    log_end(manifest);
    let left_out = manifest.left_out();
    if left_out.count(Reason::Hidden) + left_out.count(Reason::NotAnImage) > 0 {
        tracing::warn!(prefix = %manifest.prefix(), %left_out, "{LEFT_OUT}");
    }
}

fn log_end(manifest: &Manifest) {
    tracing::info!(
        prefix = %manifest.prefix(),
        samples = manifest.len(),
        bytes = manifest.bytes(),
        left_out = %manifest.left_out(),
        "listed"
    );
    warn_of_cold(manifest);
}

/// As [`log_images_listed`], where the folders are labels.
pub(super) fn log_labelled_images_listed(manifest: &Manifest) {
    log_images_listed(manifest);
    warn_of_labels(manifest);
}

/// The warning that an image data set leaves out objects.
const LEFT_OUT: &str = "an image data set leaves out what is hidden, and what has no image's suffix";

/// Warns of the objects that an image data set leaves out.
pub(super) fn warn_of_left_out(images: &Manifest, found: &FoundImages) {
    if let Some(example) = &found.example {
        let left_out = &found.left_out;
        tracing::warn!(prefix = %images.prefix(), %left_out, example, "{LEFT_OUT}");
    }
}

/// Warns of samples without a label, for a decoder that fails for them. A manifest that can't be read is an error of
/// the loader that is about to be built.
pub(super) fn warn_of_unlabelled(manifest: &Manifest) {
    if let Ok(UnlabelledSamples { count, names }) = manifest.without_label()
        && let Some(example) = names.first()
    {
        tracing::warn!(
            prefix = %manifest.prefix(),
            samples = count,
            example,
            "samples in no folder of a class have no label and can't be decoded; move them into one, or set labels with label_by"
        );
    }
}

/// Logs the samples that were left out because they have no label.
pub(super) fn log_unlabelled(labelled: &Manifest, without: &UnlabelledSamples) {
    if without.count > 0 {
        let (prefix, samples, examples) = (labelled.prefix(), without.count, without.listed());
        tracing::warn!(%prefix, samples, examples, "samples without a label, or without a row in the table, are left out");
    }
}

/// Warns of samples that were left out because they lack a part, and of other objects that belong to no sample.
pub(super) fn warn_of_incomplete(samples: &Manifest, found: &LeftOutByParts) {
    let (prefix, left_out) = (samples.prefix(), &found.left_out);
    if let Some((example, missing)) = &found.example {
        let incomplete = found.incomplete;
        tracing::warn!(%prefix, incomplete, example, missing, %left_out, "samples that lack a part are left out");
    } else if left_out.total() > 0 {
        tracing::warn!(%prefix, %left_out, "objects that belong to no sample are left out");
    }
}

/// Warns of what can't be promised for the objects of a store that lacks checksums or versions.
pub(super) fn warn_of_lacks(client: &Client, prefix: &Prefix) {
    let Capabilities { versions, checksums, .. } = client.capabilities();
    if !checksums {
        tracing::warn!(
            %prefix,
            "this store reports no checksums of its objects, so samples are delivered unverified (`verified` is false)"
        );
    }
    if !versions {
        tracing::warn!(
            %prefix,
            "this store has no versions of objects, so an object that is overwritten after it was listed is noticed \
             only if its length or checksum differs"
        );
    }
}

/// Warns if the labels are probably not the intended ones: if there is only one class, or if the URI lacks its last
/// slash. A list of classes is always intended.
pub(super) fn warn_of_labels(manifest: &Manifest) {
    if !matches!(manifest.class_list(), Ok(None)) {
        return;
    }
    let prefix = manifest.prefix();
    let lacks_slash = !prefix.prefix.is_empty() && !prefix.prefix.ends_with('/');
    match manifest.labels() {
        [one] => {
            let folder = prefix.prefix.rfind('/').map_or(0, |slash| slash + 1);
            let above = &prefix.prefix[..folder];
            let is_cut_name =
                lacks_slash && !above.ends_with(&format!("{one}/")) && one.starts_with(&prefix.prefix[folder..]);
            let meant = if is_cut_name {
                prefix.uri(&format!("{above}{one}/")).to_string()
            } else {
                format!("{prefix}{}{one}/", if lacks_slash { "/" } else { "" })
            };
            tracing::warn!(
                %prefix,
                class = one,
                "all samples are of one class; if the classes are the folders within it, open {meant} instead"
            );
        }
        labels if lacks_slash && labels.iter().all(|label| label.starts_with(last_part(prefix))) => {
            let some = labels.iter().take(MAX_LISTED_FOLDERS).map(String::as_str).collect::<Vec<_>>().join(", ");
            tracing::warn!(
                %prefix,
                classes = some,
                "the URI ends without a slash, and the classes are the folders that it begins; for the folders within one, \
                 add the slash"
            );
        }
        _ => {}
    }
}

/// How many folders a warning names at most.
const MAX_LISTED_FOLDERS: usize = 8;

/// The part of a prefix after its last slash.
fn last_part(prefix: &Prefix) -> &str {
    prefix.below(&prefix.prefix)
}

/// Warns if objects are in a storage class whose reads are charged for.
pub(super) fn warn_of_cold(manifest: &Manifest) {
    let classes: Vec<_> =
        manifest.storage_classes().map(|class| (class.storage_class, class.objects, class.bytes)).collect();
    if let Some(notice) = cold_notice(&classes) {
        tracing::warn!(prefix = %manifest.prefix(), "{notice}");
    }
}
