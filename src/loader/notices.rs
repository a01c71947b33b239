//! What is logged about a listing: its end, objects that were left out, doubtful labels, and cold storage.

use crate::list::{Prefix, Reason};
use crate::manifest::{ClassMap, FoundImages, Manifest, UnlabelledSamples};
use crate::plan::cold_notice;
use crate::store::{Capabilities, Client};

/// Logs that a listing has ended.
pub(super) fn log_listed(manifest: &Manifest) {
    tracing::info!(
        prefix = %manifest.prefix(),
        samples = manifest.len(),
        bytes = manifest.bytes(),
        left_out = %manifest.left_out(),
        "listed"
    );
    warn_of_cold(manifest);
}

/// As [`log_listed`], for a listing of images.
pub(super) fn log_images_listed(manifest: &Manifest) {
    log_listed(manifest);
    let left_out = manifest.left_out();
    if left_out.count(Reason::Hidden) + left_out.count(Reason::NotAnImage) > 0 {
        tracing::warn!(prefix = %manifest.prefix(), %left_out, "{LEFT_OUT}");
    }
}

/// As [`log_images_listed`], where the folders are labels.
pub(super) fn log_labelled_images_listed(manifest: &Manifest) {
    log_images_listed(manifest);
    warn_of_labels(manifest, None);
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

/// Warns of images without a label.
pub(super) fn warn_of_unlabelled(images: &Manifest) {
    if let Some((images_in_none, example)) = images.without_label() {
        tracing::warn!(
            prefix = %images.prefix(),
            images = images_in_none,
            example = &*example,
            "images in no folder have no label and can't be decoded; move them into one, or set labels with label_by"
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
/// slash.
pub(super) fn warn_of_labels(images: &Manifest, classes: Option<&ClassMap>) {
    let prefix = images.prefix();
    let labels = images.labels();
    let lacks_slash = !prefix.prefix.is_empty() && !prefix.prefix.ends_with('/');
    match (classes, labels) {
        (None, [one]) => {
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
                "all images are of one class; if the classes are the folders within it, open {meant} instead"
            );
        }
        (None, labels) if lacks_slash && labels.iter().all(|label| label.starts_with(last_part(prefix))) => {
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
    &prefix.prefix[prefix.prefix.rfind('/').map_or(0, |slash| slash + 1)..]
}

/// Warns if objects are in a storage class whose reads are charged for.
pub(super) fn warn_of_cold(manifest: &Manifest) {
    let classes: Vec<_> =
        manifest.storage_classes().map(|class| (class.storage_class, class.objects, class.bytes)).collect();
    if let Some(notice) = cold_notice(&classes) {
        tracing::warn!(prefix = %manifest.prefix(), "{notice}");
    }
}
