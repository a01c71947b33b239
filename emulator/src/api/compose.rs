//! The call that composes objects.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::{
    api::{
        expected_hashes::check_resource_crc32c,
        preconditions::Preconditions,
        state::{EmulatorState, ObjectPath},
        versions::{find_version, object_reply, store_version},
    },
    buckets::stored::StoredBucket,
    checksum,
    http::{reply::Reply, request::ReceivedRequest},
    naming::check_object_name,
    objects::{attributes::ObjectAttributes, content::Content, version::ObjectVersion},
    refusal::Refusal,
};

/// The most sources of one composition, as in the service.
const MAX_SOURCES: usize = 32;
/// The most segments of a composite. The service has no such limit, but here each composite keeps a list of its
/// segments, and composites of composites multiply them.
const MAX_SEGMENTS: usize = 1_000_000;

pub(crate) fn compose(state: &EmulatorState, path: &ObjectPath, request: &ReceivedRequest) -> Result<Reply, Refusal> {
    let bucket = state.billed_bucket(&path.bucket, request)?;
    bucket.check_permission("storage.objects.create", request.caller())?;
    bucket.check_permission("storage.objects.get", request.caller())?;

    let body = request.json()?;
    let sources = find_sources(&bucket, &body)?;
    let storage_class = common_storage_class(&sources)?;
    let segments: usize = sources.iter().map(|source| source.content.segments().len()).sum();
    if segments > MAX_SEGMENTS {
        let message = format!("The composite has {segments} parts and the emulator keeps at most {MAX_SEGMENTS}.");
        return Err(Refusal::invalid(message));
    }

    let (mut crc32c, mut component_count) = (0, 0_u32);
    for source in &sources {
        crc32c = checksum::combine(crc32c, source.crc32c, source.size());
        component_count = component_count.saturating_add(source.component_count.unwrap_or(1));
    }

    let mut attributes = ObjectAttributes::default();
    if let Some(destination) = body.get("destination").and_then(Value::as_object) {
        attributes.patch(destination)?;
        if attributes.storage_class.as_ref().is_some_and(|wanted| *wanted != storage_class) {
            return Err(Refusal::invalid(format!(
                "The composite must have the storage class of its sources, {storage_class}."
            )));
        }
        check_resource_crc32c(destination, crc32c)?;
    }
    attributes.storage_class = Some(storage_class);

    let deletes_sources = body.get("deleteSourceObjects").and_then(Value::as_bool).unwrap_or(false);
    if deletes_sources {
        bucket.check_permission("storage.objects.delete", request.caller())?;
    }

    let content = Content::new(sources.iter().flat_map(|source| source.content.segments().cloned()));
    let conditions = Preconditions::parse(&request.query)?;
    let composite = store_version(state, request, &bucket, &path.name, conditions, |generation| ObjectVersion {
        name: path.name.clone(),
        generation,
        metageneration: 1,
        crc32c,
        md5: None,
        component_count: Some(component_count),
        created: generation,
        updated: generation,
        attributes,
        content,
    })?;
    state.stats.count_composed(composite.size());

    if deletes_sources {
        for source in sources.iter().filter(|source| source.name != path.name) {
            bucket.change(&source.name, |current| {
                // A version that is newer than the source was not composed and stays.
                Ok(current.filter(|current| current.generation != source.generation).cloned())
            })?;
        }
    }
    object_reply(state, &bucket.name, &composite, &request.query)
}

/// Finds the sources that the body names, and checks their preconditions.
fn find_sources(bucket: &StoredBucket, body: &Map<String, Value>) -> Result<Vec<Arc<ObjectVersion>>, Refusal> {
    let named = body.get("sourceObjects").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if named.is_empty() {
        return Err(Refusal::new(400, "required", "You must provide at least one source component."));
    }
    if named.len() > MAX_SOURCES {
        let message =
            format!("The number of source components provided ({}) exceeds the maximum ({MAX_SOURCES}).", named.len());
        return Err(Refusal::invalid(message));
    }

    let mut sources = Vec::with_capacity(named.len());
    for source in named {
        let name = source.get("name").and_then(Value::as_str).unwrap_or_default();
        check_object_name(name)?;
        let object = find_version(bucket, name, integer(source, "generation")?)?;
        let generation_match = source.get("objectPreconditions").map(|given| integer(given, "ifGenerationMatch"));
        Preconditions { generation_match: generation_match.transpose()?.flatten(), ..Preconditions::default() }
            .check_write(Some(&object))?;
        sources.push(object);
    }
    Ok(sources)
}

/// The storage class of all sources. Refuses if they differ.
fn common_storage_class(sources: &[Arc<ObjectVersion>]) -> Result<String, Refusal> {
    let first = &sources[0];
    let class = first.storage_class();
    if let Some(other) = sources.iter().find(|source| source.storage_class() != class) {
        let message = format!(
            "All source objects must have the same storage class: {} has {class}, {} has {}.",
            first.name,
            other.name,
            other.storage_class()
        );
        return Err(Refusal::invalid(message));
    }
    Ok(class.to_owned())
}

/// A 64-bit integer, which comes as a string, or from some clients as a number.
fn integer(value: &Value, key: &'static str) -> Result<Option<i64>, Refusal> {
    let refusal = || Refusal::invalid(format!("Invalid value for {key}: an integer is wanted."));
    match value.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => text.parse().map(Some).map_err(|_| refusal()),
        Some(number) => number.as_i64().map(Some).ok_or_else(refusal),
    }
}
