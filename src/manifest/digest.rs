//! Digests of listed objects.

use std::fmt;

use ring::digest::{Context, SHA256};

use super::Entry;

/// SHA-256 of a manifest: of name, size, generation and CRC of each object, in order, and of the list of classes where
/// that differs from the list of folders.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub(crate) [u8; 32]);

impl Digest {
    /// The digest of the same objects with labels numbered by a list of classes. It must differ, because an order may
    /// depend on the numbers, and a run that was trained with other numbers must not be resumed. Like all digests it
    /// must never change.
    pub(super) fn with_classes(self, classes: &[String]) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(b"dataflux classes 1");
        context.update(&self.0);
        for class in classes {
            // No name holds a line feed.
            context.update(class.as_bytes());
            context.update(b"\n");
        }
        sha256(context)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// A running SHA-256 over names in order, each followed by a line feed, which no name can hold. The digest of `ls` and
/// the `order_digest` of `bench` are made by this, so for an epoch without shuffling they are equal.
pub struct NamesDigest(Context);

impl Default for NamesDigest {
    fn default() -> Self {
        Self(Context::new(&SHA256))
    }
}

impl NamesDigest {
    /// Adds the next name.
    pub fn push(&mut self, name: &str) {
        self.0.update(name.as_bytes());
        self.0.update(b"\n");
    }

    /// The digest of the names so far, in hex.
    pub fn finish(&self) -> String {
        sha256(self.0.clone()).to_string()
    }
}

impl fmt::Debug for NamesDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NamesDigest({})", self.finish())
    }
}

fn sha256(context: Context) -> Digest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    Digest(bytes)
}

/// Bytes that are collected before they are hashed, since a call of the hash costs as much as hashing a short name.
const COLLECTED: usize = 16 << 10;

/// The running [`Digest`] of a manifest. Its input must never change, since users' states hold its result.
pub(super) struct ObjectsDigest {
    context: Context,
    collected: Vec<u8>,
}

impl Default for ObjectsDigest {
    fn default() -> Self {
        Self { context: Context::new(&SHA256), collected: Vec::with_capacity(2 * COLLECTED) }
    }
}

impl ObjectsDigest {
    pub(super) fn push<N>(&mut self, name: &[u8], entry: &Entry<N>) {
        self.collected.extend_from_slice(name);
        let mut fields = [0; 21];
        fields[0] = b'\n';
        fields[1..9].copy_from_slice(&entry.size.to_le_bytes());
        fields[9..17].copy_from_slice(&entry.version.generation().unwrap_or_default().to_le_bytes());
        fields[17..].copy_from_slice(&entry.crc32c.unwrap_or(0).to_le_bytes());
        self.collected.extend_from_slice(&fields);
        if self.collected.len() >= COLLECTED {
            self.context.update(&self.collected);
            self.collected.clear();
        }
    }

    pub(super) fn finish(mut self) -> Digest {
        self.context.update(&self.collected);
        sha256(self.context)
    }
}
