//! Calls on the resource of an object: get, patch, delete and copy.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::{
    api::{
        field_selector::select_fields,
        object_json::{ObjectFields, write_object},
        preconditions::{Preconditions, is_not_modified},
        state::{EmulatorState, ObjectPath},
        versions::{find_version, object_reply, store_version},
    },
    buckets::stored::StoredBucket,
    http::{reply::Reply, request::ReceivedRequest},
    objects::{attributes::ObjectAttributes, version::ObjectVersion},
    refusal::Refusal,
    timestamp,
};

pub(crate) fn get(state: &EmulatorState, path: &ObjectPath, request: &ReceivedRequest) -> Result<Reply, Refusal> {
    let bucket = state.billed_bucket(&path.bucket, request)?;
    bucket.check_permission("storage.objects.get", request.caller())?;
    let object = find_version(&bucket, &path.name, request.query.integer("generation")?)?;
    Preconditions::parse(&request.query)?.check_read(&object)?;
    if is_not_modified(request, &object.etag(), object.updated)? {
        return Ok(Reply::not_modified(object.etag()));
    }
    object_reply(state, &bucket.name, &object, &request.query)
}

/// How a request changes the attributes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttributeChange {
    /// Attributes that the request does not name keep their values.
    Merge,
    /// Attributes that the request does not name are removed, except the storage class.
    Replace,
}

pub(crate) fn patch(
    state: &EmulatorState,
    path: &ObjectPath,
    request: &ReceivedRequest,
    change: AttributeChange,
) -> Result<Reply, Refusal> {
    let bucket = state.billed_bucket(&path.bucket, request)?;
    bucket.check_permission("storage.objects.update", request.caller())?;
    let resource = request.json()?;
    let condition = VersionCondition::parse(request)?;

    let mut patched = None;
    bucket.change(&path.name, |current| {
        let current = condition.check(&bucket, &path.name, current)?;
        let mut object = ObjectVersion::clone(current);
        if change == AttributeChange::Replace {
            let storage_class = object.attributes.storage_class.take();
            object.attributes = ObjectAttributes { storage_class, ..ObjectAttributes::default() };
        } else if resource.contains_key("storageClass") {
            return Err(Refusal::invalid("The storage class is changed by a rewrite and not by a patch."));
        }
        let class = object.attributes.storage_class.clone();
        object.attributes.patch(&resource)?;
        object.attributes.storage_class = class;
        object.metageneration += 1;
        object.updated = timestamp::now();

        let object = Arc::new(object);
        patched = Some(Arc::clone(&object));
        Ok(Some(object))
    })?;

    let object = patched.ok_or_else(|| Refusal::no_object(&bucket.name, &path.name))?;
    object_reply(state, &bucket.name, &object, &request.query)
}

pub(crate) fn delete(state: &EmulatorState, path: &ObjectPath, request: &ReceivedRequest) -> Result<Reply, Refusal> {
    let bucket = state.billed_bucket(&path.bucket, request)?;
    bucket.check_permission("storage.objects.delete", request.caller())?;
    let condition = VersionCondition::parse(request)?;
    bucket.change(&path.name, |current| {
        let current = condition.check(&bucket, &path.name, current)?;
        bucket.check_unprotected(current)?;
        Ok(None)
    })?;
    Ok(Reply::empty(204))
}

/// The version that a request to change an object applies to.
struct VersionCondition {
    generation: Option<i64>,
    preconditions: Preconditions,
}

impl VersionCondition {
    fn parse(request: &ReceivedRequest) -> Result<Self, Refusal> {
        let generation = request.query.integer("generation")?;
        Ok(Self { generation, preconditions: Preconditions::parse(&request.query)? })
    }

    /// Returns the live version if the request applies to it.
    fn check<'a>(
        &self,
        bucket: &StoredBucket,
        name: &str,
        current: Option<&'a Arc<ObjectVersion>>,
    ) -> Result<&'a ObjectVersion, Refusal> {
        let current = current
            .filter(|current| self.generation.is_none_or(|wanted| wanted == current.generation))
            .ok_or_else(|| Refusal::no_object(&bucket.name, name))?;
        self.preconditions.check_write(Some(current))?;
        Ok(current)
    }
}

/// The form of the answer to a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CopyAnswer {
    /// The resource of the copy.
    Resource,
    /// A rewrite response, which contains the resource.
    Rewrite,
}

pub(crate) fn copy(
    state: &EmulatorState,
    from: &ObjectPath,
    to: &ObjectPath,
    request: &ReceivedRequest,
    answer: CopyAnswer,
) -> Result<Reply, Refusal> {
    let query = &request.query;
    let from_bucket = state.billed_bucket(&from.bucket, request)?;
    let to_bucket = state.billed_bucket(&to.bucket, request)?;
    from_bucket.check_permission("storage.objects.get", request.caller())?;
    to_bucket.check_permission("storage.objects.create", request.caller())?;
    let source = find_version(&from_bucket, &from.name, query.integer("sourceGeneration")?)?;
    Preconditions::parse_source(query)?.check_write(Some(&source))?;

    let resource: Map<String, Value> = request.json()?;
    let mut attributes = source.attributes.clone();
    attributes.storage_class = None;
    attributes.temporary_hold = false;
    attributes.event_based_hold = false;
    attributes.patch(&resource)?;

    let conditions = Preconditions::parse(query)?;
    let copy = store_version(state, request, &to_bucket, &to.name, conditions, |generation| ObjectVersion {
        name: to.name.clone(),
        generation,
        metageneration: 1,
        created: generation,
        updated: generation,
        attributes,
        ..ObjectVersion::clone(&source)
    })?;
    if answer == CopyAnswer::Resource {
        return object_reply(state, &to_bucket.name, &copy, query);
    }

    let mut json = Vec::new();
    write_object(&mut json, &copy, &to_bucket.name, &state.endpoint, ObjectFields::ALL);
    let size = copy.size().to_string();
    let value = json!({
        "kind": "storage#rewriteResponse",
        "totalBytesRewritten": size,
        "objectSize": size,
        "done": true,
        "resource": serde_json::from_slice::<Value>(&json).unwrap_or_default(),
    });
    Ok(Reply::json_value(&select_fields(value, query)?))
}
