//! A file that is written in pieces under a temporary name, and renamed once it is whole.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::{Error, ErrorKind, Result};

/// Bytes for one write call: enough that the change of threads costs nothing compared to copying them.
const WRITE_BYTES: usize = 1 << 20;

/// Bytes that one stream into a file holds at most: one batch being written, one being filled, and the chunk that fills
/// it.
pub(crate) const STREAM_BYTES: u64 = 3 << 20;

/// A new file in the target's folder, under a temporary name. Dropping it removes the file.
#[derive(Debug)]
pub(crate) struct PartialFile {
    file: Arc<File>,
    path: PathBuf,
    target: PathBuf,
    is_renamed: bool,
}

impl PartialFile {
    pub(crate) async fn create(target: &Path, size: u64) -> Result<Self> {
        let target = target.to_owned();
        blocking(target.clone(), move || {
            let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            // The name is random, so that no two collide, and short, so that it fits wherever the target's name fits.
            let path = folder.join(format!(".dataflux-{:016x}", rand::random::<u64>()));
            let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
            let partial = Self { file: Arc::new(file), path, target, is_renamed: false };
            partial.file.set_len(size)?;
            Ok(partial)
        })
        .await
    }

    /// A writer of consecutive bytes from offset `at` on.
    pub(crate) fn writer(&self, at: u64) -> FileWriter {
        let (file, target) = (Arc::clone(&self.file), self.target.clone());
        FileWriter { file, target, at, batch: Vec::new(), filled: 0, writing: None }
    }

    /// Renames the file to its target, which is replaced if it exists. With `sync`, its bytes are on the disk before
    /// that. The folder is synced as well; if the system refuses that, a warning is logged, since the file is whole and
    /// has its name.
    pub(crate) async fn rename(mut self, sync: bool) -> Result<()> {
        blocking(self.target.clone(), move || {
            if sync {
                self.file.sync_all()?;
            }
            std::fs::rename(&self.path, &self.target)?;
            self.is_renamed = true;
            #[cfg(unix)]
            if sync && let Some(folder) = self.path.parent() {
                let synced = File::open(folder).and_then(|folder| folder.sync_all());
                if let Err(error) = synced {
                    let folder = folder.display();
                    tracing::warn!(%folder, %error, "the folder can't be synced: a power cut may lose the file's name");
                }
            }
            Ok(())
        })
        .await
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.is_renamed {
            // A drop can't report an error.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Writes consecutive bytes, one batch while the next is received.
pub(crate) struct FileWriter {
    file: Arc<File>,
    target: PathBuf,
    /// Offset in the file of the batch that is being filled.
    at: u64,
    batch: Vec<Bytes>,
    /// Bytes in the batch.
    filled: usize,
    writing: Option<JoinHandle<io::Result<()>>>,
}

impl FileWriter {
    pub(crate) async fn push(&mut self, chunk: Bytes) -> Result<()> {
        self.filled += chunk.len();
        self.batch.push(chunk);
        if self.filled >= WRITE_BYTES { self.flush().await } else { Ok(()) }
    }

    pub(crate) async fn finish(mut self) -> Result<()> {
        self.flush().await?;
        self.finish_write().await
    }

    async fn flush(&mut self) -> Result<()> {
        self.finish_write().await?;
        let (file, batch, at) = (Arc::clone(&self.file), std::mem::take(&mut self.batch), self.at);
        self.at += std::mem::take(&mut self.filled) as u64;
        self.writing = Some(spawn_blocking(move || {
            batch.iter().try_fold(at, |at, chunk| file.write_all_at(chunk, at).map(|()| at + chunk.len() as u64))?;
            Ok(())
        }));
        Ok(())
    }

    /// Waits for the batch that is being written.
    async fn finish_write(&mut self) -> Result<()> {
        match self.writing.take() {
            Some(writing) => writing.await.map_err(|_| panicked())?.map_err(|error| refused(&self.target, error)),
            None => Ok(()),
        }
    }
}

/// Runs work that may wait for a disk on a blocking thread.
async fn blocking<T: Send + 'static>(
    target: PathBuf,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let done = spawn_blocking(work).await.map_err(|_| panicked())?;
    done.map_err(|error| refused(&target, error))
}

fn refused(target: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("{} can't be written", target.display()))
        .hint("is there room, and may this user write there?")
        .with_source(error)
}

fn panicked() -> Error {
    Error::new(ErrorKind::Internal, "a thread that writes to a file panicked")
}
