//! What the errors about image files say: which file it is, and what to do.

use anyhow::anyhow;

/// The message for a file of which pixels are missing or damaged. `kind` is the name of its format.
pub(super) fn not_whole(kind: &str, bytes: &[u8], width: u32, height: u32) -> String {
    let count = bytes.len();
    format!(
        "its {count} bytes are no whole {kind} image of {width} x {height} pixels (width x height): it is cut short or \
         damaged; upload it again, or leave it out"
    )
}

/// The message for a file whose headers are damaged, or end too early. `kind` is the name of its format, with an
/// article.
pub(super) fn damaged_headers(kind: &str) -> String {
    format!("it is {kind} image with damaged headers; upload it again, or leave it out")
}

/// The error for a legal file that no decoder here can decode. `what` names its kind, with an article; `advice` is an
/// imperative.
pub(super) fn unsupported(what: &str, advice: &str) -> anyhow::Error {
    anyhow!("it is {what}, which ImageFolder can't decode; {advice}, leave it out, or decode it with a closure")
}
