//! Calls counted by storage class, since that is what their price goes by.

use std::sync::Arc;

use crate::metrics::Counts;
use crate::store::{Buffers, Client, StorageClass};

/// A client for the objects of each storage class. What they count is counted by the client they are of, too.
#[derive(Clone, Debug)]
pub(crate) struct Clients([Client; StorageClass::ALL.len()]);

impl Clients {
    pub(crate) fn of(client: &Client) -> Self {
        Self(std::array::from_fn(|_| client.with_own_counts()))
    }

    /// The same with counts that begin at 0, and that count for these, too.
    pub(crate) fn apart(&self) -> Self {
        Self(self.0.each_ref().map(Client::with_own_counts))
    }

    /// The same, with bodies put into `buffers`.
    pub(crate) fn with_buffers(&self, buffers: &Arc<Buffers>) -> Self {
        Self(self.0.each_ref().map(|client| client.with_buffers(Arc::clone(buffers))))
    }

    /// The same for calls that repeat others.
    pub(crate) fn repeating(&self) -> Self {
        Self(self.0.each_ref().map(Client::repeating))
    }

    pub(crate) fn class(&self, class: StorageClass) -> &Client {
        &self.0[class as usize]
    }

    /// What was counted so far.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (StorageClass, Counts)> {
        StorageClass::ALL.into_iter().zip(self.0.iter().map(|client| client.metrics().snapshot()))
    }
}
