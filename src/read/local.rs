//! Reads of files of this machine: many, one after another, into one buffer.

use super::fetcher::Fetcher;
use super::split::{Origin, RawSample};
use crate::manifest::Location;
use crate::plan::{Group, Slice};
use crate::store::StorageClass;
use crate::{Error, ErrorKind, Result, Stage};

impl Fetcher {
    /// Whether objects are files of this machine.
    pub(crate) fn is_local(&self) -> bool {
        self.clients().class(StorageClass::default()).is_local()
    }

    /// Reads the samples of a group, each of one file or of a range of one. Blocks. The outcomes are in the order of
    /// the slices; those behind a read after which `is_cancelled` are missing.
    pub(crate) fn read_local(&self, group: &Group, is_cancelled: impl Fn() -> bool) -> Vec<Result<RawSample>> {
        let size = group.bytes() as usize;
        let mut buffer = match self.buffers().take(size) {
            Ok(buffer) => buffer,
            Err(error) => {
                let error = Error::new(ErrorKind::Config, "there is no memory for these samples")
                    .stage(Stage::Fetch)
                    .object(self.manifest.prefix())
                    .mismatch(format_args!("{size} bytes"), &error)
                    .hint("give the process more memory");
                return group.slices.iter().map(|_| Err(error.clone())).collect();
            }
        };
        let bytes = buffer.fill(size);
        let read = group.slices.iter().map_while(|slice| {
            let wanted = !is_cancelled();
            wanted.then(|| self.read_slice(slice, &mut bytes[range(slice)]))
        });
        let locations: Vec<_> = read.collect();
        let (bytes, origin) = (buffer.freeze(), Origin::new(&self.manifest));
        let samples = group
            .slices
            .iter()
            .zip(locations)
            .map(|(slice, location)| RawSample::proved(&origin, slice.id, location?, bytes.slice(range(slice))));
        samples.collect()
    }

    fn read_slice(&self, slice: &Slice, bytes: &mut [u8]) -> Result<Location> {
        let location = self.manifest.location(slice.id)?;
        let (id, object) = self.only_object(&location);
        let client = self.clients().class(object.storage_class);
        let start = location.range.as_ref().map(|range| range.start);
        client.read_local(&id, start, bytes).map_err(|error| error.stage(Stage::Fetch))?;
        Ok(location)
    }
}

fn range(slice: &Slice) -> std::ops::Range<usize> {
    slice.range.start as usize..slice.range.end as usize
}
