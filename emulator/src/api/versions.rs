//! The steps that calls on objects share: finding a version, storing one, and answering with its resource.

use std::sync::Arc;

use crate::{
    api::{
        field_selector::FieldSelector,
        object_json::{ObjectFields, write_object},
        preconditions::Preconditions,
        state::EmulatorState,
    },
    buckets::stored::StoredBucket,
    http::{query::QueryParameters, reply::Reply, request::ReceivedRequest},
    objects::version::ObjectVersion,
    refusal::Refusal,
};

/// The live version of an object, if it has the wanted generation.
pub(crate) fn find_version(
    bucket: &StoredBucket,
    name: &str,
    generation: Option<i64>,
) -> Result<Arc<ObjectVersion>, Refusal> {
    let object = bucket.get(name)?.ok_or_else(|| Refusal::no_object(&bucket.name, name))?;
    match generation {
        Some(wanted) if wanted != object.generation => {
            Err(Refusal::new(404, "notFound", format!("No such object: {}/{name}#{wanted}", bucket.name)))
        }
        _ => Ok(object),
    }
}

/// Stores the version that `make` returns for its generation, and returns it.
pub(crate) fn store_version(
    state: &EmulatorState,
    request: &ReceivedRequest,
    bucket: &StoredBucket,
    name: &str,
    conditions: Preconditions,
    make: impl FnOnce(i64) -> ObjectVersion,
) -> Result<Arc<ObjectVersion>, Refusal> {
    let may_delete = bucket.check_permission("storage.objects.delete", request.caller());
    let mut stored = None;
    bucket.change(name, |current| {
        conditions.check_write(current.map(|current| &**current))?;
        if let Some(current) = current {
            // Replacing a version deletes it.
            may_delete?;
            bucket.check_unprotected(current)?;
        }

        let mut object = make(state.buckets.next_generation());
        let config = bucket.config();
        object.attributes.storage_class.get_or_insert(config.storage_class);
        object.attributes.event_based_hold |= config.default_event_based_hold;
        let object = Arc::new(object);
        stored = Some(Arc::clone(&object));
        Ok(Some(object))
    })?;
    stored.ok_or_else(|| Refusal::no_object(&bucket.name, name))
}

/// The resource of an object, with the fields that the request selects.
pub(crate) fn object_reply(
    state: &EmulatorState,
    bucket: &str,
    object: &ObjectVersion,
    query: &QueryParameters,
) -> Result<Reply, Refusal> {
    let mut json = Vec::with_capacity(1_024);
    write_object(&mut json, object, bucket, &state.endpoint, ObjectFields::ALL);
    if let Some(fields) = query.get("fields") {
        let selector = FieldSelector::parse(fields)?;
        let value = serde_json::from_slice(&json).unwrap_or_default();
        json = selector.apply(value).to_string().into_bytes();
    }
    Ok(Reply::json(json).with_header("etag", object.etag()))
}
