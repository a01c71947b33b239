//! Compositions.

use serde_json::Value;

use crate::{
    checksum,
    content::Content,
    error::Refusal,
    object::{Attributes, Object},
    objects::{Preconditions, find, reply, store},
    route::Target,
    service::{Reply, Request, State},
};

/// What the service takes.
const MOST_SOURCES: usize = 32;
/// What the emulator takes: composites of composites of themselves multiply, and each keeps a list of its parts.
const MOST_SEGMENTS: usize = 1_000_000;

pub(crate) fn compose(state: &State, (bucket, name): &Target, request: &Request) -> Result<Reply, Refusal> {
    let bucket = state.bucket_for(bucket, request)?;
    bucket.allows("storage.objects.create", request)?;
    bucket.allows("storage.objects.get", request)?;
    let body = request.json()?;
    let sources = body.get("sourceObjects").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if sources.is_empty() {
        return Err(Refusal::new(400, "required", "You must provide at least one source component."));
    }
    if sources.len() > MOST_SOURCES {
        let message = format!(
            "The number of source components provided ({}) exceeds the maximum ({MOST_SOURCES}).",
            sources.len()
        );
        return Err(Refusal::invalid(message));
    }
    let mut objects = Vec::with_capacity(sources.len());
    for source in sources {
        let name = source.get("name").and_then(Value::as_str).unwrap_or_default();
        crate::object::check_name(name)?;
        let object = find(&bucket, name, integer(source, "generation")?)?;
        let wanted = source.get("objectPreconditions").map(|conditions| integer(conditions, "ifGenerationMatch"));
        Preconditions { generation_match: wanted.transpose()?.flatten(), ..Preconditions::default() }
            .check(Some(&object))?;
        objects.push(object);
    }
    let class = objects[0].class().to_owned();
    if let Some(other) = objects.iter().find(|object| object.class() != class) {
        let message = format!(
            "All source objects must have the same storage class: {} has {class}, {} has {}.",
            objects[0].name,
            other.name,
            other.class()
        );
        return Err(Refusal::invalid(message));
    }
    let segments: usize = objects.iter().map(|object| object.content.segments().len()).sum();
    if segments > MOST_SEGMENTS {
        let message = format!("The composite has {segments} parts and the emulator keeps at most {MOST_SEGMENTS}.");
        return Err(Refusal::invalid(message));
    }
    let (mut crc, mut components) = (0, 0_u32);
    for object in &objects {
        crc = checksum::combine(crc, object.crc32c, object.size());
        components = components.saturating_add(object.component_count.unwrap_or(1));
    }
    let mut attributes = Attributes::default();
    if let Some(destination) = body.get("destination").and_then(Value::as_object) {
        attributes.patch(destination)?;
        if attributes.storage_class.as_ref().is_some_and(|wanted| *wanted != class) {
            return Err(Refusal::invalid(format!(
                "The composite must have the storage class of its sources, {class}."
            )));
        }
        crate::upload::check_hashes(destination, crc, None)?;
    }
    attributes.storage_class = Some(class);
    let delete_sources = body.get("deleteSourceObjects").and_then(Value::as_bool).unwrap_or(false);
    if delete_sources {
        bucket.allows("storage.objects.delete", request)?;
    }
    let content = Content::new(objects.iter().flat_map(|object| object.content.segments().cloned()));
    let composite = store(state, request, &bucket, name, Preconditions::parse(&request.query)?, |generation| Object {
        name: name.clone(),
        generation,
        metageneration: 1,
        crc32c: crc,
        md5: None,
        component_count: Some(components),
        created: generation,
        updated: generation,
        attributes,
        content,
    })?;
    state.stats.composed(composite.size());
    if delete_sources {
        for source in objects.iter().filter(|source| source.name != *name) {
            bucket.change(&source.name, |current| {
                // A version that came since is not what was composed.
                Ok(current.filter(|current| current.generation != source.generation).cloned())
            })?;
        }
    }
    reply(state, &bucket.name, &composite, &request.query)
}

/// 64-bit integers come as strings, and from some clients as numbers.
fn integer(value: &Value, key: &'static str) -> Result<Option<i64>, Refusal> {
    let refusal = || Refusal::invalid(format!("Invalid value for {key}: an integer is wanted."));
    match value.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => text.parse().map(Some).map_err(|_| refusal()),
        Some(number) => number.as_i64().map(Some).ok_or_else(refusal),
    }
}
