//! The parameters of a listing, and page tokens.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::buckets::glob::Glob;

/// The parameters of one page of a listing. The default has no limit on names, and a page size of 0.
#[derive(Default)]
pub(crate) struct ListQuery {
    pub(crate) prefix: Vec<u8>,
    /// Empty for none.
    pub(crate) delimiter: Vec<u8>,
    /// The first name that is wanted, inclusive.
    pub(crate) start: Vec<u8>,
    /// Where names stop to be wanted, exclusive.
    pub(crate) end: Option<Vec<u8>>,
    /// The common prefix whose own object was the last entry of the previous page.
    pub(crate) half_done: Option<Vec<u8>>,
    /// The largest number of objects and prefixes on the page.
    pub(crate) max_entries: u64,
    pub(crate) glob: Option<Glob>,
    /// Whether an object whose name is a common prefix is listed, too.
    pub(crate) include_trailing_delimiter: bool,
}

impl ListQuery {
    /// All objects, on one page.
    pub(crate) fn everything() -> Self {
        Self { max_entries: u64::MAX, ..Self::default() }
    }

    /// Starts after `name`. If `name` is a common prefix, as the last entry of a page may be, starts after all names
    /// below it.
    pub(crate) fn start_after(&mut self, name: &str) {
        let name = name.as_bytes();
        let is_common_prefix = name.starts_with(&self.prefix) && self.common_prefix_of(name) == Some(name);
        self.start = match successor(name).filter(|_| is_common_prefix) {
            Some(after) => after,
            None => [name, b"\0"].concat(),
        };
    }

    /// Starts where the page ended that returned this token. Returns `None` if the text is not a token.
    pub(crate) fn resume(&mut self, token: &str) -> Option<()> {
        let PageToken { key, is_half_done } = PageToken::decode(token)?;
        self.half_done = is_half_done.then(|| key.clone());
        self.start = key.max(std::mem::take(&mut self.start));
        Some(())
    }

    /// Where names stop to be wanted, exclusive: the smaller of `end` and the end of the prefix.
    pub(crate) fn upper_bound(&self) -> Option<Vec<u8>> {
        let after_prefix = successor(&self.prefix);
        match (&self.end, after_prefix) {
            (Some(end), Some(after)) => Some(after.min(end.clone())),
            (Some(end), None) => Some(end.clone()),
            (None, after) => after,
        }
    }

    /// The part of `name` up to the first delimiter after the prefix, inclusive.
    pub(crate) fn common_prefix_of<'a>(&self, name: &'a [u8]) -> Option<&'a [u8]> {
        if self.delimiter.is_empty() {
            return None;
        }
        let rest = &name[self.prefix.len()..];
        let at = rest.windows(self.delimiter.len()).position(|window| window == self.delimiter)?;
        Some(&name[..self.prefix.len() + at + self.delimiter.len()])
    }
}

/// The least byte string above all strings that start with `prefix`; `None` when there is none.
pub(crate) fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut after = prefix[..=last].to_vec();
    after[last] += 1;
    Some(after)
}

/// Where the next page starts. The text of a token has the service's framing.
pub(crate) struct PageToken {
    /// The first name of the next page.
    pub(crate) key: Vec<u8>,
    /// Whether `key` is a common prefix whose own object was the last entry of this page.
    pub(crate) is_half_done: bool,
}

impl PageToken {
    pub(crate) fn encode(&self) -> String {
        let length = self.key.len();
        let mut bytes = vec![0x0A, (length & 0x7F) as u8 | 0x80, (length >> 7) as u8];
        bytes.extend_from_slice(&self.key);
        if self.is_half_done {
            bytes.extend_from_slice(&[0x10, 1]);
        }
        STANDARD.encode(bytes)
    }

    fn decode(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text).ok()?;
        let [0x0A, low, high, rest @ ..] = bytes.as_slice() else { return None };
        let length = usize::from(low & 0x7F) | usize::from(*high) << 7;
        let (key, tail) = rest.split_at_checked(length)?;
        let is_half_done = match tail {
            [] => false,
            [0x10, 1] => true,
            _ => return None,
        };
        Some(Self { key: key.to_vec(), is_half_done })
    }
}
