//! A directory tree as the read-only base of a bucket.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use crate::{
    checksum::Hasher,
    error::Error,
    naming::check_object_name,
    objects::{
        attributes::ObjectAttributes,
        content::{Content, ContentSegment, FileState},
        version::ObjectVersion,
    },
    timestamp,
};

/// The files of a directory, in the byte order of their names. They are found once, at the start, and their contents
/// are read on request. A file that changes later is served as an error, not as another object: its length and
/// modification time must stay the same.
pub(crate) struct Folder {
    files: Vec<FolderFile>,
}

struct FolderFile {
    name: String,
    path: Arc<PathBuf>,
    state: FileState,
    /// The modification time in microseconds since 1970, at least 1.
    modified: i64,
    /// Made on the first request, because its checksums take a pass over the file.
    object: OnceLock<Arc<ObjectVersion>>,
}

impl Folder {
    /// Finds every regular file below `root`. Links to files are followed; links to directories are not, so that the
    /// walk cannot run in a circle. Names that are not UTF-8 or that the service would refuse are left out.
    pub(crate) fn scan(root: &Path) -> Result<Self, Error> {
        let mut files = Vec::new();
        walk(root, "", &mut files)?;
        files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { files })
    }

    /// The number of files.
    pub(crate) fn len(&self) -> u64 {
        self.files.len() as u64
    }

    pub(crate) fn name(&self, i: u64) -> &str {
        &self.files[i as usize].name
    }

    /// The first index whose name is not below `bound`.
    pub(crate) fn lower_bound(&self, bound: &[u8]) -> u64 {
        self.files.partition_point(|file| file.name.as_bytes() < bound) as u64
    }

    /// The object of file `i`.
    ///
    /// # Errors
    /// When the file cannot be read or has changed.
    pub(crate) fn object(&self, i: u64) -> io::Result<Arc<ObjectVersion>> {
        let file = &self.files[i as usize];
        file.state.check(&fs::metadata(file.path.as_path())?)?;
        if let Some(object) = file.object.get() {
            return Ok(Arc::clone(object));
        }

        let object = Arc::new(file.load()?);
        Ok(Arc::clone(file.object.get_or_init(|| object)))
    }
}

fn walk(directory: &Path, prefix: &str, files: &mut Vec<FolderFile>) -> Result<(), Error> {
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

        // A dangling link is not an object.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_file() && check_object_name(&name).is_ok() {
            let modified = metadata.modified().map_or(0, timestamp::from_system_time).max(1);
            files.push(FolderFile {
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

impl FolderFile {
    fn load(&self) -> io::Result<ObjectVersion> {
        let content = Content::new([ContentSegment::File { path: Arc::clone(&self.path), state: self.state }]);

        // Read in pieces of one mebibyte, since a file may be larger than memory.
        let (mut hasher, mut at) = (Hasher::default(), 0);
        while at < content.len() {
            let piece = content.read_some(at, content.len().min(at + (1 << 20)))?;
            hasher.update(&piece);
            at += piece.len() as u64;
        }

        let attributes = ObjectAttributes { content_type: content_type(&self.name), ..ObjectAttributes::default() };
        Ok(ObjectVersion::new(self.name.clone(), self.modified, hasher.finish(), attributes, content))
    }
}

/// The media type that upload tools commonly set for a file name.
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
