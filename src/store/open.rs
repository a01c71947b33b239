//! From a URI to its store.

use std::sync::Arc;

use super::{Client, FileStore, GcsConfig, GcsStore, MemoryStore, Scheme, Store, StoreUri};
use crate::Result;

impl Client {
    /// A client of the store that a URI is in, with the settings of the environment: for `gs://` those of
    /// [`GcsConfig::from_env`]. Makes no network call.
    ///
    /// ```
    /// use dataflux::store::Client;
    ///
    /// let client = Client::open(&"file:///data/train/".parse()?)?;
    /// assert!(!client.capabilities().compose);
    /// # Ok::<_, dataflux::Error>(())
    /// ```
    ///
    /// # Errors
    /// The environment has a setting that can't work.
    pub fn open(uri: &StoreUri) -> Result<Self> {
        Ok(Self::new(match uri.scheme {
            Scheme::Gs => Arc::new(GcsStore::new(GcsConfig::from_env())?) as Arc<dyn Store>,
            Scheme::File => Arc::new(FileStore::new()),
            Scheme::Mem => Arc::new(MemoryStore::shared()),
        }))
    }
}
