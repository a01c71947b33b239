//! Copying an object on the server.

use reqwest::Method;
use reqwest::header::CONTENT_LENGTH;

use super::http::{CREATE, Http, Permission, RequestTask};
use super::path::{OBJECT_FIELDS, encode, generation, object_path, required_generation};
use super::wire::{self, CopyProgress};
use crate::Result;
use crate::store::{Attempt, CopyRequest, ObjectId, ObjectMeta};

/// Copies an object. The service answers each call within half a minute; a copy to another location or class that takes
/// longer continues with further calls.
pub(super) async fn copy(http: &Http, request: &CopyRequest, attempt: &Attempt) -> Result<ObjectMeta> {
    let source = object_path(&request.source.bucket, &request.source.name)?;
    let target = object_path(&request.bucket, &request.name)?;
    let mut path =
        format!("{source}/rewriteTo{target}?prettyPrint=false&fields=rewriteToken,resource({OBJECT_FIELDS})");
    if let Some(generation) = generation(&request.source.version)? {
        path = format!("{path}&sourceGeneration={generation}");
    }
    if let Some(generation) = required_generation(&request.mode)? {
        path = format!("{path}&ifGenerationMatch={generation}");
    }

    let id = ObjectId::live(request.bucket.clone(), request.name.clone());
    let permission = Permission { name: "storage.objects.create and storage.objects.get", ..CREATE };
    let task = RequestTask { permission, about: &id };
    let mut token = String::new();
    loop {
        // Without a body the copy has the metadata of its source.
        let call = http.mutation(Method::POST, &format!("{path}{token}"), attempt).header(CONTENT_LENGTH, 0);
        let text = http.json(call, attempt, &task).await?;
        match wire::parse_copy(&text).map_err(|error| task.malformed(error))? {
            CopyProgress::Done(meta) => return Ok(meta),
            CopyProgress::More(next) => token = format!("&rewriteToken={}", encode(&next)),
        }
    }
}
