//! Calls that change something: put, copy, compose, changes of metadata, delete.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tracing::debug;

use super::Client;
use super::call::ClientCall;
use crate::metrics::{Counter, add, count};
use crate::store::capabilities::unsupported;
use crate::store::reading::Amount;
use crate::store::{
    Attempt, ComposeRequest, CopyProgress, CopyRequest, ObjectId, ObjectMeta, PutRequest, Version, WriteMode,
};
use crate::{Error, ErrorKind, Result};

impl Client {
    /// Joins objects on the server into a new one.
    ///
    /// If the answer to a compose is lost, the retry finds its result, which is adopted if length and CRC are right.
    /// Without a CRC, which only some emulators leave out, the call fails instead.
    ///
    /// # Errors
    /// [`Precondition`](ErrorKind::Precondition) when another object has the destination's name,
    /// [`NotFound`](ErrorKind::NotFound) when a source is gone, [`Integrity`](ErrorKind::Integrity) when the result
    /// isn't what was asked for (**then it exists, and the caller has to delete it**, as after any error that leaves
    /// open whether it exists), [`PermissionDenied`](ErrorKind::PermissionDenied) for a read-only caller,
    /// [`Unsupported`](ErrorKind::Unsupported) where the store can't compose.
    pub async fn compose(&self, request: &ComposeRequest) -> Result<ObjectMeta> {
        let id = self.id(&request.bucket, &request.destination);
        self.require(self.capabilities().compose, "compose objects", "read the objects individually", &id)?;
        let call = ClientCall::new(self, &id.name, true, 0).with_refusal_counter(&self.metrics.write_refused);
        let creation = Creation {
            id,
            expected: SizeAndCrc { size: request.size, crc32c: Some(request.crc32c) },
            calls: &self.metrics.compose,
            bytes: Some(&self.metrics.bytes_composed),
        };
        self.create(call, creation, |attempt| async move { self.store.compose(request, &attempt).await }).await
    }

    /// Writes a whole object. The call isn't retried with [`WriteMode::Overwrite`], since a late attempt could
    /// overwrite what another writer put there in between.
    ///
    /// If an answer is lost, the retry finds the precondition failed, perhaps by the object that the first attempt
    /// wrote. That object is adopted if its length and CRC are those of `data`; then its metadata may be another
    /// writer's who wrote the same bytes. Where the store reports no CRC, the error says that nothing shows who wrote
    /// the object. An attempt that the service refused, with 429 for example, wrote nothing, and what a retry finds
    /// then is another writer's.
    ///
    /// # Errors
    /// [`Precondition`](ErrorKind::Precondition) when the live object isn't the one that the [`WriteMode`] may replace,
    /// or when a lost attempt can't be told from another writer's, as by a caller who may not read the object,
    /// [`Unsupported`](ErrorKind::Unsupported) when there is such a condition and the store can't write conditionally,
    /// [`Config`](ErrorKind::Config) for an update of [`Version::None`], and the last error when the policy gives up.
    pub async fn put(&self, request: &PutRequest) -> Result<ObjectMeta> {
        let id = self.id(&request.bucket, &request.name);
        let size = request.data.len() as u64;
        let call = self.conditional_call(&request.mode, size, &id)?;
        let expected = SizeAndCrc { size, crc32c: Some(crc32c::crc32c(&request.data)) };
        let creation = Creation { id, expected, calls: &self.metrics.put, bytes: None };
        let attempt = |attempt| async move {
            add(&self.metrics.bytes_sent, size);
            self.store.put(request, &attempt).await
        };
        self.create(call, creation, attempt).await
    }

    /// Copies an object on the server, within a bucket or into another one. The call isn't retried with
    /// [`WriteMode::Overwrite`], for the reason given at [`put`](Self::put). A copy that takes several requests
    /// continues from the last one that was answered.
    ///
    /// `source` has the facts about the object as a look-up or a listing reported them. That version is copied, where
    /// the store has versions, and the copy is checked against its length and CRC. If an answer is lost, the copy that
    /// the retry finds is adopted as for `put`.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) when the source, or that version of it, doesn't exist,
    /// [`Config`](ErrorKind::Config) when the request names another version than `source`,
    /// [`Precondition`](ErrorKind::Precondition) when the live object isn't the one that the [`WriteMode`] may replace,
    /// [`Integrity`](ErrorKind::Integrity) when the copy isn't like `source`, [`Protocol`](ErrorKind::Protocol) when
    /// the copy makes no progress, and the last error when the policy gives up.
    pub async fn copy(&self, request: &CopyRequest, source: &ObjectMeta) -> Result<ObjectMeta> {
        let id = self.id(&request.bucket, &request.name);
        let mut request = request.clone();
        request.source.version = request.source.version.or(source.version.clone());
        if request.source.version != source.version {
            return Err(Error::new(ErrorKind::Config, "the facts are about another version than the one to copy")
                .mismatch(&request.source.version, &source.version)
                .object(request.source));
        }

        let mut call = self.conditional_call(&request.mode, source.size, &id)?;
        let creation = Creation { id, expected: SizeAndCrc::of(source), calls: &self.metrics.copy, bytes: None };
        let mut last: Option<(String, u64)> = None;
        let outcome = loop {
            let (request, continuation) = (&request, last.as_ref().map(|(continuation, _)| continuation.as_str()));
            let attempt = |attempt| async move { self.store.copy(request, continuation, &attempt).await };
            let (continuation, copied) = match self.attempt(&mut call, &creation, attempt).await {
                Ok(CopyProgress::Done(copy)) => break Ok(copy),
                Ok(CopyProgress::Unfinished { continuation, copied }) => (continuation, copied),
                Err(error) => break Err(error),
            };
            // Each answer copies some bytes, so that the loop ends.
            if last.as_ref().is_some_and(|(_, before)| copied <= *before) {
                let error = Error::new(ErrorKind::Protocol, "the copy makes no progress").object(&creation.id);
                break Err(error.mismatch(format!("more than {}", Amount(copied)), "another answer without the copy"));
            }
            last = Some((continuation, copied));
            call.begin_step();
        };
        self.conclude(&call, &creation, outcome).await
    }

    /// Sets key-value pairs of an object, either of the named version or of the live one. Pairs with other keys
    /// stay. The call may be made more than once.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) when the object, or the named version, doesn't exist,
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) without the right to update it,
    /// [`Unsupported`](ErrorKind::Unsupported) where the store can't update metadata, and the last error when the
    /// policy gives up.
    pub async fn update_metadata(&self, id: &ObjectId, metadata: &BTreeMap<String, String>) -> Result<ObjectMeta> {
        self.require(self.capabilities().metadata_updates, "update metadata", "write the object again", id)?;
        let attempt = |attempt| async move { self.store.update_metadata(id, metadata, &attempt).await };
        ClientCall::new(self, &id.name, true, 0).run(id, &self.metrics.update, attempt).await
    }

    /// Removes an object: the named version, or the live one. Without a version nobody else may write to that
    /// name, since the call may be made more than once.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) when the first attempt found nothing. If a later one finds nothing, that is
    /// success where a version was named. Without one it is an error: the object may have been deleted by an earlier
    /// attempt, or may never have existed.
    pub async fn delete(&self, id: &ObjectId) -> Result<()> {
        let call = ClientCall::new(self, &id.name, true, 0).with_refusal_counter(&self.metrics.write_refused);
        let attempt = |attempt| async move { self.store.delete(id, &attempt).await };
        match call.run(id, &self.metrics.delete, attempt).await {
            Err(error) if error.is_not_found() && error.tries() > 1 && !id.version.is_none() => Ok(()),
            outcome => outcome,
        }
    }

    /// Whatever has this name.
    fn id(&self, bucket: &Arc<str>, name: &Arc<str>) -> ObjectId {
        ObjectId::live(Arc::clone(bucket), Arc::clone(name)).with_scheme(self.scheme())
    }

    /// An error unless the store `can` do what a call relies on.
    fn require(&self, can: bool, operation: &str, instead: &str, id: &ObjectId) -> Result<()> {
        if can { Ok(()) } else { Err(unsupported(self.store.endpoint(), operation, instead).object(id)) }
    }

    /// A call that writes `size` bytes. It can be repeated safely only if it says what it may replace.
    fn conditional_call(&self, mode: &WriteMode, size: u64, id: &ObjectId) -> Result<ClientCall<'_>> {
        let conditional = *mode != WriteMode::Overwrite;
        self.require(
            !conditional || self.capabilities().conditional_writes,
            "write on a condition",
            "use WriteMode::Overwrite, and have one writer for each name",
            id,
        )?;
        if matches!(mode, WriteMode::Update(Version::None | Version::Generation(..1))) {
            return Err(Error::new(ErrorKind::Config, "an update must name the version that it replaces")
                .object(id)
                .hint("use WriteMode::Overwrite to replace any version"));
        }
        let call = ClientCall::new(self, &id.name, conditional, size).with_refusal_counter(&self.metrics.write_refused);
        Ok(call.with_upload_of(size))
    }

    /// Makes attempts until one succeeds. The error of a failed precondition is returned as it is: it may have met the
    /// result of an earlier attempt.
    async fn attempt<T, F>(
        &self,
        call: &mut ClientCall<'_>,
        creation: &Creation<'_>,
        attempt: impl Fn(Attempt) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        loop {
            count(creation.calls);
            match call.report_answer(call.within(attempt(call.attempt)).await) {
                Ok(answer) => return Ok(answer),
                Err(error) if call.may_be_own(&error) => return Err(error),
                Err(error) => call.recover(error, &creation.id).await?,
            }
        }
    }

    /// Makes attempts until one creates the object, or finds that an earlier one has created it.
    async fn create<F>(
        &self,
        mut call: ClientCall<'_>,
        creation: Creation<'_>,
        attempt: impl Fn(Attempt) -> F,
    ) -> Result<ObjectMeta>
    where
        F: Future<Output = Result<ObjectMeta>>,
    {
        let outcome = self.attempt(&mut call, &creation, attempt).await;
        self.conclude(&call, &creation, outcome).await
    }

    /// Checks what a call created, or adopts what one of its attempts has created.
    async fn conclude(
        &self,
        call: &ClientCall<'_>,
        creation: &Creation<'_>,
        outcome: Result<ObjectMeta>,
    ) -> Result<ObjectMeta> {
        call.finish(match outcome {
            Ok(meta) => {
                creation.count_bytes(&meta);
                creation.check(meta)
            }
            Err(error) if call.may_be_own(&error) => self.adopt(creation, error).await,
            Err(error) => Err(error),
        })
    }

    /// Takes the object with the destination's name for the result of an earlier attempt if length and CRC prove that
    /// it has the bytes that were to be written. Without a CRC on both sides nothing is proved: another writer's object
    /// may have the same length.
    async fn adopt(&self, creation: &Creation<'_>, refusal: Error) -> Result<ObjectMeta> {
        let Creation { id, expected, .. } = creation;
        let unclear = |message: &str| Error::new(ErrorKind::Precondition, message).object(id);
        let found = self.stat(id).await.map_err(|error| {
            unclear(
                "an earlier attempt, whose answer was lost, or another writer has written this object, and the look-up \
                 that would show which failed",
            )
            .hint("look whether the object exists, and compare it with what was to be written")
            .with_source(error)
        })?;
        let got = SizeAndCrc::of(&found);
        if *expected == got && expected.crc32c.is_some() {
            creation.count_bytes(&found);
            debug!(object = %id, version = %found.version, "adopted the result of a lost attempt");
            return Ok(found);
        }
        if expected.fits(&found) {
            let message = "an earlier attempt, whose answer was lost, or another writer has written this object, and \
                           without a checksum nothing shows which";
            return Err(unclear(message)
                .mismatch(expected, got)
                .hint("compare the object with what was to be written, and name its version to replace it")
                .with_source(refusal));
        }
        Err(refusal.object(id).mismatch(expected, got).hint("another writer uses this name: choose another"))
    }
}

/// What a call creates, and where it is counted.
struct Creation<'a> {
    id: ObjectId,
    expected: SizeAndCrc,
    calls: &'a Counter,
    /// Counts the bytes of the object created.
    bytes: Option<&'a Counter>,
}

impl Creation<'_> {
    fn count_bytes(&self, created: &ObjectMeta) {
        if let Some(bytes) = self.bytes {
            add(bytes, created.size);
        }
    }

    /// The object written, if it is what was to be written.
    fn check(&self, written: ObjectMeta) -> Result<ObjectMeta> {
        if self.expected.fits(&written) {
            return Ok(written);
        }
        Err(Error::new(ErrorKind::Integrity, "the object written is not what was to be written")
            .object(ObjectId { version: written.version.clone(), ..self.id.clone() })
            .mismatch(self.expected, SizeAndCrc::of(&written))
            .hint("a source changed after it was listed, or bytes changed in transit: delete the object, list again"))
    }
}

/// Length and CRC of an object.
#[derive(Clone, Copy, PartialEq)]
struct SizeAndCrc {
    size: u64,
    /// `None` where the service reports none.
    crc32c: Option<u32>,
}

impl SizeAndCrc {
    fn of(meta: &ObjectMeta) -> Self {
        Self { size: meta.size, crc32c: meta.crc32c }
    }

    /// Whether an object may have these; a CRC that isn't known fits any other.
    fn fits(self, meta: &ObjectMeta) -> bool {
        meta.size == self.size && self.crc32c.zip(meta.crc32c).is_none_or(|(wanted, got)| wanted == got)
    }
}

impl fmt::Display for SizeAndCrc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Amount(self.size))?;
        self.crc32c.map_or(Ok(()), |crc| write!(f, " of crc32c {crc:08x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Fault, FaultStore, MemoryStore, StoreCall};

    #[tokio::test(start_paused = true)]
    async fn a_conditional_copy_whose_answer_was_lost_is_adopted() {
        let store = MemoryStore::new();
        let version = store.insert("cats", "tom", "meow");
        let faults = FaultStore::new(Arc::new(store.clone()));
        let client = Client::new(Arc::new(faults.clone()));
        let id = ObjectId::new("cats", "tom", version);
        let source = client.stat(&id).await.unwrap();

        let mut request = CopyRequest::new(id, "cats", "tim");
        request.mode = WriteMode::Create;
        faults.fail_next(StoreCall::Copy, Fault::LostResponse(ErrorKind::Unavailable), 1);
        let copy = client.copy(&request, &source).await.unwrap();
        assert_eq!((copy.size, copy.crc32c), (source.size, source.crc32c));
        assert_eq!(client.metrics().snapshot().copy, 2);

        // Without a condition a second attempt could overwrite what another writer put there.
        request.mode = WriteMode::Overwrite;
        faults.fail_next(StoreCall::Copy, Fault::LostResponse(ErrorKind::Unavailable), 1);
        assert_eq!(client.copy(&request, &source).await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(faults.calls(StoreCall::Copy), 3);
    }
}
