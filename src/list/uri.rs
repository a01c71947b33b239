//! What was meant by what isn't a URI of the kind that this crate reads. Pure.

use percent_encoding::percent_decode_str;

/// Hosts whose paths begin with the bucket: the XML API, and the download links of the console.
const HOSTS: [&str; 4] = [
    "storage.googleapis.com",
    "storage.cloud.google.com",
    "commondatastorage.googleapis.com",
    "storage.mtls.googleapis.com",
];

/// The hosts that have the bucket before them.
const DOMAINS: [&str; 2] = [".storage.googleapis.com", ".commondatastorage.googleapis.com"];

/// The `gs://` URI that somebody meant who wrote `text`, where that can be told. It isn't checked.
pub(super) fn meant(text: &str) -> Option<String> {
    let text = text.trim();
    let (scheme, rest) = match text.split_once(':') {
        Some((scheme, rest)) if !scheme.contains(['/', '.']) => (scheme.to_ascii_lowercase(), rest),
        // As a browser shows an address.
        _ if is_host(text) => return of_address(text),
        _ => return Some(format!("gs://{}", text.trim_start_matches('/'))),
    };
    let path = rest.trim_start_matches('/');
    match scheme.as_str() {
        "http" | "https" => of_address(path),
        // The path of a file is one of this machine.
        "file" => None,
        // One slash, three, or a colon alone; and other stores, of whose copy in this one the name is the same.
        _ if !path.is_empty() => Some(format!("gs://{path}")),
        _ => None,
    }
}

fn is_host(address: &str) -> bool {
    let host = host(address).0;
    HOSTS.contains(&&*host) || host == CONSOLE || DOMAINS.iter().any(|domain| host.ends_with(domain))
}

const CONSOLE: &str = "console.cloud.google.com";

fn host(address: &str) -> (String, &str) {
    let (host, path) = address.split_once('/').unwrap_or((address, ""));
    (host.to_ascii_lowercase(), path)
}

/// Of an address without its scheme.
fn of_address(address: &str) -> Option<String> {
    let (host, path) = host(address);
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let (bucket, name) = if host == CONSOLE {
        // Such as storage/browser/_details/bucket/a.png;tab=live_object
        let path = path.split(';').next().unwrap_or_default();
        let below = path.strip_prefix("storage/browser/")?;
        let (bucket, name) = split(below.strip_prefix("_details/").unwrap_or(below));
        (bucket, name)
    } else if let Some(bucket) = DOMAINS.iter().find_map(|domain| host.strip_suffix(domain)) {
        (bucket, path)
    } else if HOSTS.contains(&&*host) {
        // The JSON API has the name in one segment.
        let json = path.strip_prefix("download/").unwrap_or(path).strip_prefix("storage/v1/b/");
        match json.map(|below| below.split_once("/o/").unwrap_or((below.trim_end_matches("/o"), ""))) {
            Some(parts) => parts,
            None => split(path),
        }
    } else {
        return None;
    };
    let name = percent_decode_str(name).decode_utf8().ok()?;
    (!bucket.is_empty()).then(|| format!("gs://{bucket}/{name}"))
}

fn split(path: &str) -> (&str, &str) {
    path.split_once('/').unwrap_or((path, ""))
}

/// The folder that a glob in a prefix is below, and the glob as filters take it; `None` where there is no glob.
pub(super) fn glob(prefix: &str) -> Option<(&str, String)> {
    let first = prefix.find(['*', '?', '[', '{'])?;
    let folder = prefix[..first].rfind('/').map_or(0, |slash| slash + 1);
    let (folder, glob) = prefix.split_at(folder);
    // Without a slash a filter's glob is for files in any folder, which is more than was written.
    Some((folder, if glob.contains('/') { glob.to_owned() } else { format!("/{glob}") }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant() {
        for (text, wanted) in [
            ("bkt/x", "gs://bkt/x"),
            ("/bkt/x", "gs://bkt/x"),
            (" bkt", "gs://bkt"),
            ("gs:/bkt/x", "gs://bkt/x"),
            ("gs:bkt/x", "gs://bkt/x"),
            ("gs:///bkt/x", "gs://bkt/x"),
            ("GS://bkt/x y", "gs://bkt/x y"),
            ("gcs://bkt/x:y", "gs://bkt/x:y"),
            ("s3://bkt/x", "gs://bkt/x"),
            ("https://storage.googleapis.com/bkt/x", "gs://bkt/x"),
            ("http://storage.googleapis.com/bkt", "gs://bkt/"),
            ("https://Storage.GoogleAPIs.com/bkt/a%20b/%C3%BC?generation=7#top", "gs://bkt/a b/ü"),
            ("storage.googleapis.com/bkt/x", "gs://bkt/x"),
            ("https://bkt.storage.googleapis.com/x/", "gs://bkt/x/"),
            ("https://my.bkt.storage.googleapis.com", "gs://my.bkt/"),
            ("https://storage.googleapis.com/storage/v1/b/bkt/o/a%2Fb?alt=media", "gs://bkt/a/b"),
            ("https://storage.googleapis.com/download/storage/v1/b/bkt/o/a%2Fb", "gs://bkt/a/b"),
            ("https://storage.googleapis.com/storage/v1/b/bkt/o", "gs://bkt/"),
            ("https://storage.cloud.google.com/bkt/x?authuser=1", "gs://bkt/x"),
            ("https://console.cloud.google.com/storage/browser/bkt/x;tab=objects?project=p", "gs://bkt/x"),
            ("https://console.cloud.google.com/storage/browser/_details/bkt/x/a.png", "gs://bkt/x/a.png"),
        ] {
            assert_eq!(meant(text).as_deref(), Some(wanted), "{text}");
        }
        for text in ["gs://", "gs:", "https://example.com/bkt/x", "https://storage.googleapis.com/", "file:///data/x"] {
            assert_eq!(meant(text), None, "{text}");
        }
    }

    #[test]
    fn globs_in_prefixes() {
        for (prefix, wanted) in [
            ("train/*.jpg", ("train/", "/*.jpg")),
            ("*.jpg", ("", "/*.jpg")),
            ("train/ca?/**", ("train/", "ca?/**")),
            ("a/b/c-{1,2}", ("a/b/", "/c-{1,2}")),
            ("a/[ab]/c", ("a/", "[ab]/c")),
        ] {
            assert_eq!(glob(prefix), Some((wanted.0, wanted.1.to_owned())), "{prefix}");
        }
        assert_eq!(glob("train/"), None);
    }
}
