//! Reads all objects of one sample at once, into one buffer.

use bytes::Bytes;
use futures_util::future::try_join_all;

use super::fetcher::{Fetcher, ObjectSum};
use crate::compose::{ReadStep, StepObserver};
use crate::manifest::Location;
use crate::plan::MIN_RANGED;
use crate::{Error, ErrorKind, Result};

impl Fetcher {
    /// The bytes of the parts of a sample, end to end, and the sum of each that isn't empty. Each call waits for a slot
    /// of its own. The first error ends the reads of the other parts; it names the object.
    pub(super) async fn parts(
        &self,
        location: &Location,
        group_number: u64,
        on_step: StepObserver<'_>,
    ) -> Result<(Vec<ObjectSum>, Bytes)> {
        self.gates.record_number(group_number);
        on_step(ReadStep::Reading);
        // The sizes come from a listing, and may be any numbers.
        let size = usize::try_from(location.bytes()).ok();
        let buffer = size.and_then(|size| self.buffers().take(size).ok().map(|buffer| (size, buffer)));
        let (size, mut buffer) = buffer.ok_or_else(|| {
            Error::new(ErrorKind::Config, "there is no memory for the parts of this sample")
                .object(self.manifest.id(&location.object))
                .mismatch(format_args!("{} bytes", location.bytes()), "less")
                .hint("leave the sample out with a filter, or give the process more memory")
        })?;

        let mut rest = buffer.fill(size);
        let mut reads = Vec::with_capacity(location.parts.len() + 1);
        for (id, entry) in self.manifest.objects(location).filter(|(_, entry)| entry.size > 0) {
            let (part, behind) = rest.split_at_mut(entry.size as usize);
            rest = behind;
            let download = self.download((id, entry), group_number);
            let download = if entry.size < MIN_RANGED { download.in_one_call() } else { download };
            reads.push(download.into_slice(part));
        }
        let sums = try_join_all(reads).await?;
        Ok((sums.into_iter().map(|(sent, computed)| ObjectSum { sent, computed }).collect(), buffer.freeze()))
    }
}
