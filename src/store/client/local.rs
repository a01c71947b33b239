//! Reads of files of this machine.

use super::Client;
use super::call::ClientCall;
use crate::Result;
use crate::store::ObjectId;
use crate::store::capabilities::unsupported;

impl Client {
    /// Whether objects are files of this machine.
    pub(crate) fn is_local(&self) -> bool {
        self.store.local().is_some()
    }

    /// Fills `bytes` with those of an object: with all of them, or with those from `start` on. Blocks.
    ///
    /// # Errors
    /// As for [`LocalReads::read`](crate::store::LocalReads::read); objects aren't files of this machine.
    pub(crate) fn read_local(&self, id: &ObjectId, start: Option<u64>, bytes: &mut [u8]) -> Result<()> {
        let Some(local) = self.store.local() else {
            return Err(unsupported(self.store.endpoint(), "read without the network", "read it by a call"));
        };
        let call = ClientCall::new(self, &id.name, true, bytes.len() as u64);
        self.record_request(&id.name, call.attempt);
        local.read(id, start, bytes)?;
        self.record_chunk(&id.name, bytes.len() as u64);
        call.report_received(bytes.len() as u64);
        Ok(())
    }
}
