//! Carrying out the call of a route.

use crate::{
    api::{bucket_calls, compose, list_objects, media, object_calls, state::EmulatorState, upload, xml},
    http::{reply::Reply, request::ReceivedRequest},
    refusal::Refusal,
    routing::{batch, route::Route},
};

/// Carries out a call.
pub(crate) fn answer_call(state: &EmulatorState, route: &Route, request: &ReceivedRequest) -> Reply {
    try_answer(state, route, request).unwrap_or_else(|refusal| refuse_call(route, refusal))
}

/// The answer to a call that is refused, in the form of its API.
pub(crate) fn refuse_call(route: &Route, refusal: Refusal) -> Reply {
    if route.is_xml() { xml::refusal_reply(&refusal) } else { refusal.into() }
}

fn try_answer(state: &EmulatorState, route: &Route, request: &ReceivedRequest) -> Result<Reply, Refusal> {
    match route {
        Route::ListBuckets => bucket_calls::list(state, request),
        Route::InsertBucket => bucket_calls::insert(state, request),
        Route::GetBucket(bucket) => bucket_calls::get(state, bucket, request),
        Route::PatchBucket(bucket) => bucket_calls::patch(state, bucket, request),
        Route::DeleteBucket(bucket) => bucket_calls::delete(state, bucket, request),
        Route::TestPermissions(bucket) => bucket_calls::test_permissions(state, bucket, request),
        Route::ListObjects(bucket) => list_objects::list(state, bucket, request),
        Route::GetObject(path) => object_calls::get(state, path, request),
        Route::GetMedia(path) => media::get(state, path, request),
        Route::HeadMedia(path) => media::get(state, path, request).map(Reply::without_body),
        Route::XmlList(bucket) => xml::list(state, bucket, request),
        Route::XmlGet(path) => xml::get(state, path, request),
        Route::XmlHead(path) => xml::get(state, path, request).map(Reply::without_body),
        Route::PatchObject { path, change } => object_calls::patch(state, path, request, *change),
        Route::DeleteObject(path) => object_calls::delete(state, path, request),
        Route::Compose(path) => compose::compose(state, path, request),
        Route::Copy { from, to, answer } => object_calls::copy(state, from, to, request, *answer),
        Route::Upload(bucket) => upload::upload(state, bucket, request),
        Route::ContinueUpload => upload::continue_session(state, request),
        Route::CancelUpload => upload::cancel_session(state, request),
        Route::Batch => batch::batch(state, request, answer_call),
        Route::Stats => Ok(Reply::json_value(&serde_json::to_value(state.stats.snapshot()).unwrap_or_default())),
        Route::ResetStats => {
            state.stats.reset();
            Ok(Reply::empty(204))
        }
    }
}
