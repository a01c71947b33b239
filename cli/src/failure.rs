//! Failures: how they are printed, and which ends are no failures.

use std::fmt;
use std::io;

use clap::builder::StyledStr;
use clap::error::ContextValue;
use dataflux::store::StoreUri;

/// Arguments that can't work together. The exit code is 2, as for arguments that clap refuses.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The error with its arguments as the library shows addresses, since one that was pasted may be signed.
pub(crate) fn without_credentials(mut error: clap::Error) -> clap::Error {
    let redacted: Vec<_> = error.context().filter_map(|(kind, value)| Some((kind, redact(value)?))).collect();
    for (kind, value) in redacted {
        error.insert(kind, value);
    }
    error
}

/// The value without credentials; `None` if it holds none.
fn redact(value: &ContextValue) -> Option<ContextValue> {
    // The library refuses an argument that holds credentials, and its error shows the argument without them.
    let redact = |text: &str| {
        let error = text.parse::<StoreUri>().err()?;
        Some(error.about()?.to_owned()).filter(|shown| shown != text)
    };
    match value {
        ContextValue::String(text) => redact(text).map(ContextValue::String),
        // A suggestion repeats the argument between quotation marks. It is left out.
        ContextValue::StyledStrs(texts) => {
            let holds_secret =
                |text: &StyledStr| text.to_string().split(['\'', ' ']).any(|word| redact(word).is_some());
            texts.iter().any(holds_secret).then(|| ContextValue::StyledStrs(Vec::new()))
        }
        _ => None,
    }
}

/// The reader of standard output has closed it.
#[derive(Debug)]
pub(crate) struct ReaderGone;

impl fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output was closed")
    }
}

impl std::error::Error for ReaderGone {}

/// The error of a failed write to standard output.
pub(crate) fn stdout_error(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        ReaderGone.into()
    } else {
        anyhow::Error::new(error).context("standard output can't be written")
    }
}

/// An error and its causes on one line, safe to print: names of objects may hold anything.
pub(crate) fn line(error: &anyhow::Error) -> String {
    let mut chain = error.chain().map(message);
    let error = chain.next().unwrap_or_default();
    let causes: Vec<_> = chain.collect();
    if causes.is_empty() {
        return printable(&error);
    }
    printable(&format!("{error} (cause: {})", causes.join(": ")))
}

/// The message of an error without its causes. It names options of the command line instead of calls of the library.
fn message(error: &(dyn std::error::Error + 'static)) -> String {
    let text = error.to_string();
    let Some(error) = error.downcast_ref::<dataflux::Error>() else { return text };
    // An object's name may contain anything, so it isn't translated.
    let object = error.about().and_then(|object| Some(text.find(object)? + object.len())).unwrap_or_default();
    let (object, rest) = text.split_at(object);
    format!("{object}{}", with_options(rest))
}

/// Phrases in which the library addresses programs, mostly in hints, and their equivalents on the command line.
const OPTIONS: &[(&str, &str)] = &[
    ("name the project that pays in GcsConfig::user_project", "name the project that pays with --project"),
    ("read anonymously if the bucket is public", "give --anonymous if the bucket is public"),
    ("hand credentials over in GcsConfig::credentials", "take it out of STORAGE_EMULATOR_HOST"),
    ("hand over a TokenSource", "log in with `gcloud auth application-default login`"),
    (
        "(STORAGE_EMULATOR_HOST or CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE in the environment, GcsConfig::endpoint in a program)",
        "(STORAGE_EMULATOR_HOST or CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE in the environment)",
    ),
    ("raise .memory_budget(bytes) or lower .batch_size(n)", "raise --memory-budget or lower --batch-size"),
    ("make images smaller with .resize(height, width)", "make images smaller with --decode image:HxW"),
    ("lower io_threads", "lower --io-threads"),
    ("lower decode_threads", "lower --decode-threads"),
    ("leave epoch_budget_usd out for no bound", "leave --epoch-budget out for no bound"),
    ("Strategy::Direct", "--strategy direct"),
    ("Strategy::compose()", "--strategy compose"),
    ("Strategy::Auto by price alone", "--strategy auto by price alone"),
    ("raise the limit of .on_error(..)", "raise the limit of --on-error"),
    ("give it the bytes that the disk can spare, such as 100 << 30", "give --cache DIR:BYTES what the disk can spare"),
    ("ImageFolder::max_pixels", "--max-pixels"),
    ("a decoder's item_bytes, or else please report it", "please report it"),
    ("with the feature for it", "with the feature for it, and build this program with that"),
];

fn with_options(text: &str) -> String {
    OPTIONS.iter().fold(text.to_owned(), |text, (call, option)| text.replace(call, option))
}

/// Replaces control characters, which could do anything to a terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push(' '),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn one_line_with_causes_and_without_escape_sequences() {
        let error = Err::<(), _>(io::Error::other("first\nsecond")).context("gs://b/\u{1b}[2Jx").unwrap_err();
        assert_eq!(line(&error), r"gs://b/\u{1b}[2Jx (cause: first second)");
        assert_eq!(line(&anyhow::anyhow!("alone")), "alone");
    }

    /// Parts of hints that no command can cause: its options don't allow the situation, or the command prints another
    /// message.
    const OF_PROGRAMS: [&str; 22] = [
        "Batch::into_inner",
        "Filter::include(",
        "first_epoch()",
        "comes before the classes",
        "Sampler::",
        "resume_all()",
        "Weighted",
        "WindowShuffle",
        "Lister::collect",
        "global_batch_size",
        ".batch_size(n) with",
        ".shard(rank, world_size)",
        ".unordered(true)",
        "pad_last",
        "into_memory",
        "WriteMode::",
        "MissingParts::",
        ".parts(..)",
        "ClassMap::",
        "label_by",
        "Unlabelled::",
        "LabelTableReader::",
    ];

    /// The texts in the calls of `.hint(..)`, up to the tests of a source file.
    fn hints(source: &str) -> Vec<String> {
        let source = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let mut hints = Vec::new();
        for call in source.split(".hint(").skip(1) {
            let (mut depth, mut in_text, mut text, mut escaped) = (1, false, String::new(), false);
            for c in call.chars() {
                match c {
                    _ if escaped => escaped = false,
                    '\\' if in_text => escaped = true,
                    '"' => in_text = !in_text,
                    _ if in_text => text.push(c),
                    '(' => depth += 1,
                    ')' => depth -= 1,
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
            }
            hints.push(text);
        }
        hints
    }

    /// Whether a word looks like code: a path, a method, a name with an underscore.
    fn names_a_call(word: &str) -> bool {
        if word.contains('{') {
            return false;
        }
        let word = word.trim_matches(|c: char| !c.is_alphanumeric() && c != '_' && c != '.' && c != '(');
        let snake = word.contains('_') && word.chars().all(|c| c.is_ascii_lowercase() || matches!(c, '_' | '(' | ')'));
        word.contains("::") || (word.starts_with('.') && word.contains('(')) || snake
    }

    fn sources(folder: &std::path::Path, into: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, into);
            } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
                into.push(path);
            }
        }
    }

    #[test]
    fn hints_that_name_calls_have_equivalents_on_the_command_line() {
        let mut files = Vec::new();
        sources(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../src")), &mut files);
        let all: Vec<_> = files.iter().flat_map(|file| hints(&std::fs::read_to_string(file).unwrap())).collect();
        assert!(all.len() > 100, "only {} hints were found", all.len());
        let untranslated: Vec<_> = all
            .iter()
            .map(|hint| with_options(hint))
            .filter(|hint| {
                hint.split_whitespace().any(names_a_call) && !OF_PROGRAMS.iter().any(|word| hint.contains(word))
            })
            .collect();
        assert_eq!(
            untranslated, [""; 0],
            "give them a line in OPTIONS, or in OF_PROGRAMS where no command can cause them"
        );
    }

    #[test]
    fn hints_name_options() {
        let error = dataflux::Error::new(dataflux::ErrorKind::Config, "nobody pays")
            .object("gs://b/Strategy::Direct")
            .hint("name the project that pays in GcsConfig::user_project");
        let line = line(&anyhow::Error::new(error));
        assert_eq!(line, "gs://b/Strategy::Direct: nobody pays; name the project that pays with --project");
    }

    #[test]
    fn only_a_closed_standard_output_counts_as_success() {
        let closed = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(stdout_error(closed()).is::<ReaderGone>());
        assert!(!stdout_error(io::ErrorKind::StorageFull.into()).is::<ReaderGone>());
        assert!(!anyhow::Error::new(closed()).is::<ReaderGone>(), "a connection may break, too");
    }
}
