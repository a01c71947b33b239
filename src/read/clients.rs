//! Clients whose calls are counted by storage class, because prices depend on the class.

use std::sync::Arc;

use crate::metrics::Counts;
use crate::store::{Buffers, Client, StorageClass};

/// A client for the objects of each storage class. Their calls are also counted by the client that they were made from.
#[derive(Clone, Debug)]
pub(crate) struct Clients([Client; StorageClass::ALL.len()]);

impl Clients {
    pub(crate) fn of(client: &Client) -> Self {
        Self(std::array::from_fn(|_| client.with_own_counts()))
    }

    /// The same clients with counts that begin at 0. Their calls are also counted by `self`.
    pub(crate) fn apart(&self) -> Self {
        Self(self.0.each_ref().map(Client::with_own_counts))
    }

    /// The same clients, which read bodies into `buffers`.
    pub(crate) fn with_buffers(&self, buffers: &Arc<Buffers>) -> Self {
        Self(self.0.each_ref().map(|client| client.with_buffers(Arc::clone(buffers))))
    }

    /// The same clients for calls that repeat others.
    pub(crate) fn repeating(&self) -> Self {
        Self(self.0.each_ref().map(Client::repeating))
    }

    pub(crate) fn class(&self, class: StorageClass) -> &Client {
        &self.0[class as usize]
    }

    /// The calls of each storage class so far.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (StorageClass, Counts)> {
        StorageClass::ALL.into_iter().zip(self.0.iter().map(|client| client.metrics().snapshot()))
    }
}
