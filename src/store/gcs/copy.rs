//! Copying an object on the server.

use reqwest::header::CONTENT_LENGTH;
use reqwest::{Method, StatusCode};

use super::http::{CREATE, Http, Permission, RequestTask, text};
use super::path::{OBJECT_FIELDS, encode, generation, object_path, required_generation};
use super::wire;
use crate::Result;
use crate::store::uri::{BucketUri, Scheme};
use crate::store::{Attempt, CopyProgress, CopyRequest, ObjectId};

/// Makes one call of a copy. The service answers each call within half a minute; a copy to another location or class
/// that takes longer continues with further calls.
pub(super) async fn copy(
    http: &Http,
    request: &CopyRequest,
    continuation: Option<&str>,
    attempt: &Attempt,
) -> Result<CopyProgress> {
    let source = object_path(&request.source.bucket, &request.source.name)?;
    let target = object_path(&request.bucket, &request.name)?;
    let mut path = format!(
        "{source}/rewriteTo{target}?prettyPrint=false\
         &fields=done,rewriteToken,totalBytesRewritten,resource({OBJECT_FIELDS})"
    );
    if let Some(generation) = generation(&request.source.version)? {
        path = format!("{path}&sourceGeneration={generation}&ifSourceGenerationMatch={generation}");
    }
    if let Some(generation) = required_generation(&request.mode)? {
        path = format!("{path}&ifGenerationMatch={generation}");
    }
    if let Some(token) = continuation {
        path = format!("{path}&rewriteToken={}", encode(token));
    }

    let id = ObjectId::live(request.bucket.clone(), request.name.clone());
    let permission = Permission { name: "storage.objects.create and storage.objects.get", ..CREATE };
    let task = RequestTask { permission, about: &id };
    // Without a body the copy has the metadata of its source.
    let call = http.mutation(Method::POST, &path, attempt).header(CONTENT_LENGTH, 0);
    let (answer, bearer) = http.send_any(call, attempt, &task).await?;
    match answer.response.status() {
        status if status.is_success() => {
            let text = text(answer).await.map_err(|error| error.object(&id))?;
            wire::parse_copy(&text).map_err(|error| task.malformed(error))
        }
        // What must exist is the source.
        StatusCode::NOT_FOUND => {
            let task = RequestTask { about: &request.source, ..task };
            let error = http.refused(answer, bearer, &task).await;
            Err(if request.source.bucket == request.bucket {
                error
            } else {
                error.hint(format!(
                    "check the name, and whether the bucket {} exists",
                    BucketUri { scheme: Scheme::Gs, bucket: &request.bucket }
                ))
            })
        }
        _ => Err(http.refused(answer, bearer, &task).await),
    }
}
