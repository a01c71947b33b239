//! A listing whose manifest is in use before the listing ends.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::build::pack;
use super::classes::{ClassMap, Numbering};
use super::growth::Growth;
use super::segment::{FreedMemory, Segment, SegmentRun};
use super::sink::{ObjectSink, no_samples};
use super::{LeftOut, Listing, Manifest};
use crate::list::{Filter, Lister};
use crate::{Error, ErrorKind, Result, Stage};

/// A listing whose manifest is in use before it ends.
#[derive(Clone, Debug)]
pub(crate) struct StreamingListing {
    pub(crate) lister: Lister,
    pub(crate) filter: Filter,
    pub(crate) classes: Option<Arc<ClassMap>>,
    /// Called with the complete manifest.
    pub(crate) ended: fn(&Manifest),
}

impl StreamingListing {
    /// Returns the manifest as soon as the first object is listed, while a task continues the listing. Dropping the
    /// manifest stops the task.
    pub(crate) async fn open(&self) -> Result<Manifest> {
        let (manifest, first_object) = self.begin(&Handle::current());
        // The sender is dropped without sending where the listing ends without an object.
        if first_object.await.is_err() {
            manifest.complete()?;
        }
        Ok(manifest)
    }

    /// As [`open`](Self::open), without waiting. The receiver is notified of the first object.
    pub(crate) fn begin(&self, runtime: &Handle) -> (Manifest, oneshot::Receiver<()>) {
        let Self { lister, filter, classes, ended } = self.clone();
        let prefix = lister.prefix().clone();
        let lister = lister.fields(filter.fields());
        let mut sink = ObjectSink::new(prefix.clone(), false);
        sink.labeller.in_order = true;
        sink.labeller.numbering = classes.map(Numbering::new);
        let growth = Arc::clone(&sink.growth);
        let manifest = |listing| Manifest {
            _listing: listing,
            is_listed: true,
            ..Manifest::with_growth(prefix.clone(), Arc::clone(&growth))
        };
        let whole = manifest(None);
        let (begun, first_object) = oneshot::channel();
        let mut listing = ListingTask {
            sink: Some(sink),
            left_out: LeftOut::default(),
            freed: FreedMemory::default(),
            begun: Some(begun),
        };
        let task = runtime.spawn(async move {
            let outcome = async {
                // Labels that are in use during the listing can't wait for its end.
                if lister.is_one_folder(&filter).await? {
                    listing.label_below_prefix();
                }
                let pack = pack(lister.prefix().clone(), filter);
                lister.in_order(pack, |(segment, left_out)| listing.take(segment, &left_out)).await
            };
            let outcome = outcome.await;
            listing.end(outcome.err());
            if whole.complete().is_ok() {
                ended(&whole);
            }
        });
        (manifest(Some(Listing(task.abort_handle()))), first_object)
    }
}

/// A listing that fills a manifest in use. Whatever ends its task, also ends the manifest's growth.
struct ListingTask {
    sink: Option<ObjectSink>,
    left_out: LeftOut,
    freed: FreedMemory,
    /// The last field, so that it is dropped after the growth has ended, which its receiver relies on.
    begun: Option<oneshot::Sender<()>>,
}

impl ListingTask {
    /// Labels the samples by the folders in the folder whose name the prefix ends with.
    fn label_below_prefix(&mut self) {
        if let Some(sink) = &mut self.sink {
            sink.labeller.root = sink.prefix.prefix.len() + 1;
        }
    }

    fn take(&mut self, segment: Segment, left_out: &LeftOut) -> Result<()> {
        self.left_out.merge(left_out);
        let Some(sink) = &mut self.sink else { return Ok(()) };
        if segment.is_empty() {
            return Ok(());
        }
        let mut run = SegmentRun::open(segment);
        sink.push(run.name(), run.record)?;
        while run.advance() {
            sink.push(run.name(), run.record)?;
        }
        let bytes = run.bytes;
        drop(run);
        self.freed.add(bytes);
        if let Some(begun) = self.begun.take() {
            // If the manifest is gone, no receiver waits, and this task ends, too.
            let _ = begun.send(());
        }
        Ok(())
    }

    fn end(&mut self, failed: Option<Error>) {
        let Some(mut sink) = self.sink.take() else { return };
        // If one of the next lines panics, threads that wait for the end must be woken nevertheless.
        let _guard = EndGuard(Arc::clone(&sink.growth));
        if std::thread::panicking() {
            return;
        }
        let flushed = sink.flush();
        let empty = (sink.objects == 0).then(|| no_samples(&sink.prefix, &self.left_out));
        sink.end(self.left_out, failed.or(flushed.err()).or(empty));
    }
}

impl Drop for ListingTask {
    fn drop(&mut self) {
        let message = "the task that lists ended before the listing did";
        self.end(Some(Error::new(ErrorKind::Internal, message).stage(Stage::List)));
    }
}

/// Ends the growth of a manifest with an error, unless it has ended before.
struct EndGuard(Arc<Growth>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        if self.0.ended().is_none() {
            let error = Error::new(ErrorKind::Internal, "a task that makes a manifest panicked").stage(Stage::Manifest);
            self.0.fail(error.hint("its panic message is on stderr; please report it"));
        }
    }
}
