//! The decode threads of a loader.

use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};

use super::assembly::DecodeJob;
use super::sample_code::guarded;
use crate::{Error, ErrorKind, Result, Stage};

/// The decode threads, and the channel of their jobs.
pub(crate) struct DecodePool {
    pub(crate) jobs: Sender<DecodeJob>,
    pub(crate) threads: Vec<JoinHandle<()>>,
}

/// Starts the decode threads. Each ends when it receives [`DecodeJob::End`], or when the last sender is dropped.
pub(crate) fn start(threads: usize) -> Result<DecodePool> {
    // The channel has no bound, because each job holds a part of the memory budget or of what a gate granted.
    let (jobs, work) = crossbeam_channel::unbounded();
    let threads = (0..threads).map(|index| {
        let work = work.clone();
        std::thread::Builder::new().name(format!("dataflux-decode-{index}")).spawn(move || run(work)).map_err(|error| {
            Error::new(ErrorKind::Io, "a decode thread could not be started")
                .stage(Stage::Decode)
                .mismatch(format_args!("{threads} threads"), index)
                .hint("lower decode_threads, or raise the limit on threads (ulimit -u)")
                .with_source(error)
        })
    });
    let threads = threads.collect::<Result<_>>()?;
    Ok(DecodePool { jobs, threads })
}

fn run(work: Receiver<DecodeJob>) {
    for job in work {
        if matches!(job, DecodeJob::End) {
            return;
        }
        // The job also drops what the user's code made, which may panic. Then the channel of the batch closes, the
        // training loop gets an error, and the thread is there for the next job.
        let _ = guarded(|| {
            match job {
                DecodeJob::Decode { assembly, slot, sample, until_decoded, granted } => {
                    if assembly.decode(vec![(slot, sample)], granted) {
                        assembly.collate();
                    }
                    drop(until_decoded);
                }
                DecodeJob::Collate(assembly) => assembly.collate(),
                DecodeJob::Discard(unneeded) => drop(unneeded),
                DecodeJob::End => {}
            }
            Ok(())
        });
    }
}
