//! A directory tree as the read-only base of a bucket.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use crate::{
    checksum,
    content::{Content, FileState, Segment},
    error::Error,
    object::{self, Attributes, Object},
    timestamp,
};

/// The files of a directory, in the byte order of their names. Found once, at the start; contents are read when asked
/// for, and a file that changes later is served as an error, not as another object: its length and the time of its last
/// modification must stay what they were.
pub(crate) struct Folder {
    files: Vec<FileEntry>,
}

struct FileEntry {
    name: String,
    path: Arc<PathBuf>,
    state: FileState,
    modified: i64,
    /// Made when first asked for, because its checksums cost a pass over the file.
    object: OnceLock<Arc<Object>>,
}

impl Folder {
    /// Finds every regular file below `root`; links are followed to files and not to directories, so that no cycle
    /// can be walked. Names that are not UTF-8 or that the service would refuse are left out.
    pub(crate) fn scan(root: &Path) -> Result<Self, Error> {
        let mut files = Vec::new();
        walk(root, "", &mut files)?;
        files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { files })
    }

    pub(crate) fn len(&self) -> u64 {
        self.files.len() as u64
    }

    pub(crate) fn name(&self, i: u64) -> &str {
        &self.files[i as usize].name
    }

    pub(crate) fn lower_bound(&self, bound: &[u8]) -> u64 {
        self.files.partition_point(|file| file.name.as_bytes() < bound) as u64
    }

    /// The object of file `i`.
    ///
    /// # Errors
    /// When the file cannot be read or is no longer what it was.
    pub(crate) fn object(&self, i: u64) -> io::Result<Arc<Object>> {
        let file = &self.files[i as usize];
        file.state.check(&fs::metadata(file.path.as_path())?)?;
        if let Some(object) = file.object.get() {
            return Ok(Arc::clone(object));
        }
        let object = Arc::new(file.load()?);
        Ok(Arc::clone(file.object.get_or_init(|| object)))
    }
}

fn walk(directory: &Path, prefix: &str, files: &mut Vec<FileEntry>) -> Result<(), Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| Error::Folder { path, source }
    };
    for entry in fs::read_dir(directory).map_err(failed(directory))? {
        let entry = entry.map_err(failed(directory))?;
        let Some(name) = entry.file_name().to_str().map(|name| format!("{prefix}{name}")) else { continue };
        let path = entry.path();
        let kind = entry.file_type().map_err(failed(&path))?;
        if kind.is_dir() {
            walk(&path, &format!("{name}/"), files)?;
            continue;
        }
        // A dangling link is no object.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_file() && object::check_name(&name).is_ok() {
            let modified = metadata.modified().map_or(0, timestamp::from_system).max(1);
            files.push(FileEntry {
                name,
                path: Arc::new(path),
                state: FileState::of(&metadata),
                modified,
                object: OnceLock::new(),
            });
        }
    }
    Ok(())
}

impl FileEntry {
    fn load(&self) -> io::Result<Object> {
        let content = Content::new([Segment::File { path: Arc::clone(&self.path), state: self.state }]);
        // One mebibyte at a time: files may be larger than memory.
        let (mut crc, mut md5, mut at) = (0, checksum::Md5Stream::default(), 0);
        while at < content.len() {
            let piece = content.read_some(at, content.len().min(at + (1 << 20)))?;
            crc = crc32c::crc32c_append(crc, &piece);
            md5.update(&piece);
            at += piece.len() as u64;
        }
        Ok(Object {
            name: self.name.clone(),
            generation: self.modified,
            metageneration: 1,
            crc32c: crc,
            md5: Some(md5.finish()),
            component_count: None,
            created: self.modified,
            updated: self.modified,
            attributes: Attributes { content_type: content_type(&self.name), ..Attributes::default() },
            content,
        })
    }
}

/// The types that tools which upload folders commonly set.
fn content_type(name: &str) -> Option<String> {
    let (_, extension) = name.rsplit_once('.')?;
    let known = match extension.to_ascii_lowercase().as_str() {
        "jpg" | "jpeg" => "image/jpeg",
        "png" => "image/png",
        "txt" => "text/plain",
        "json" => "application/json",
        "csv" => "text/csv",
        _ => return None,
    };
    Some(known.to_owned())
}
