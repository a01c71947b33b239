//! Calls on an object's resource: get, patch, delete, copy; and the preconditions that all calls share.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::{
    bucket::Bucket,
    error::Refusal,
    fields::Selector,
    object::{Attributes, FieldSet, Object},
    route::{Query, Target},
    service::{Reply, Request, State},
    timestamp,
};

/// Conditions on the version that a call meets, named as the parameters are.
#[allow(clippy::struct_field_names)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Preconditions {
    pub(crate) generation_match: Option<i64>,
    pub(crate) generation_not_match: Option<i64>,
    pub(crate) metageneration_match: Option<i64>,
    pub(crate) metageneration_not_match: Option<i64>,
}

impl Preconditions {
    pub(crate) fn parse(query: &Query) -> Result<Self, Refusal> {
        Ok(Self {
            generation_match: query.integer("ifGenerationMatch")?,
            generation_not_match: query.integer("ifGenerationNotMatch")?,
            metageneration_match: query.integer("ifMetagenerationMatch")?,
            metageneration_not_match: query.integer("ifMetagenerationNotMatch")?,
        })
    }

    /// Those on the source of a copy.
    fn parse_source(query: &Query) -> Result<Self, Refusal> {
        Ok(Self {
            generation_match: query.integer("ifSourceGenerationMatch")?,
            generation_not_match: query.integer("ifSourceGenerationNotMatch")?,
            metageneration_match: query.integer("ifSourceMetagenerationMatch")?,
            metageneration_not_match: query.integer("ifSourceMetagenerationNotMatch")?,
        })
    }

    /// For calls that write. A generation of 0 stands for no live version.
    pub(crate) fn check(&self, current: Option<&Object>) -> Result<(), Refusal> {
        self.check_as(current, Refusal::precondition("If-None-Match"))
    }

    /// For calls that read, where an unwanted match is no news and not an error.
    pub(crate) fn check_read(&self, current: &Object) -> Result<(), Refusal> {
        self.check_as(Some(current), Refusal::not_modified())
    }

    fn check_as(&self, current: Option<&Object>, unwanted_match: Refusal) -> Result<(), Refusal> {
        let generation = current.map_or(0, |object| object.generation);
        let metageneration = current.map(|object| object.metageneration);
        if self.generation_match.is_some_and(|wanted| wanted != generation)
            || self.metageneration_match.is_some_and(|wanted| Some(wanted) != metageneration)
        {
            return Err(Refusal::precondition("If-Match"));
        }
        if self.generation_not_match.is_some_and(|unwanted| unwanted == generation)
            || self.metageneration_not_match.is_some_and(|unwanted| Some(unwanted) == metageneration)
        {
            return Err(unwanted_match);
        }
        Ok(())
    }
}

/// Conditions that HTTP has of itself, in its order: on the entity tag, or where there is none on the last change,
/// whose fractions of a second no header has. `etag` may be quoted or not, as what it is compared with.
///
/// # Errors
/// The object is another than the one that is wanted.
pub(crate) fn is_unchanged(request: &Request, etag: &str, updated: i64) -> Result<bool, Refusal> {
    let bare = |tag: &str| tag.trim().trim_start_matches("W/").trim_matches('"').to_owned();
    let names = |tags: &str| tags.split(',').any(|tag| tag.trim() == "*" || bare(tag) == bare(etag));
    let seconds = updated.div_euclid(1_000_000);
    let since = |header| request.header(header).and_then(timestamp::parse_http_date);
    match request.header("if-match") {
        Some(tags) if !names(tags) => return Err(Refusal::precondition("If-Match")),
        None if since("if-unmodified-since").is_some_and(|then| seconds > then) => {
            return Err(Refusal::precondition("If-Unmodified-Since"));
        }
        _ => {}
    }
    Ok(match request.header("if-none-match") {
        Some(tags) => names(tags),
        None => since("if-modified-since").is_some_and(|then| seconds <= then),
    })
}

/// The live version, when it is the one that `generation` asks for.
pub(crate) fn find(bucket: &Bucket, name: &str, generation: Option<i64>) -> Result<Arc<Object>, Refusal> {
    let object = bucket.require(name)?;
    match generation {
        Some(wanted) if wanted != object.generation => {
            Err(Refusal::new(404, "notFound", format!("No such object: {}/{name}#{wanted}", bucket.name)))
        }
        _ => Ok(object),
    }
}

/// The resource of an object, restricted to what the request selects.
pub(crate) fn reply(state: &State, bucket: &str, object: &Object, query: &Query) -> Result<Reply, Refusal> {
    let mut json = Vec::with_capacity(1_024);
    object.write_json(&mut json, bucket, &state.endpoint, FieldSet::ALL);
    if let Some(fields) = query.get("fields") {
        let selector = Selector::parse(fields)?;
        let value = serde_json::from_slice(&json).unwrap_or_default();
        json = selector.apply(value).to_string().into_bytes();
    }
    Ok(Reply::json(json).with("etag", object.etag()))
}

pub(crate) fn get(state: &State, (bucket, name): &Target, request: &Request) -> Result<Reply, Refusal> {
    let bucket = state.bucket_for(bucket, request)?;
    bucket.allows("storage.objects.get", request)?;
    let object = find(&bucket, name, request.query.integer("generation")?)?;
    Preconditions::parse(&request.query)?.check_read(&object)?;
    if is_unchanged(request, &object.etag(), object.updated)? {
        return Ok(Reply::empty(304).with("etag", object.etag()));
    }
    reply(state, &bucket.name, &object, &request.query)
}

pub(crate) fn patch(
    state: &State,
    (bucket, name): &Target,
    request: &Request,
    replace: bool,
) -> Result<Reply, Refusal> {
    let bucket = state.bucket_for(bucket, request)?;
    bucket.allows("storage.objects.update", request)?;
    let resource = request.json()?;
    let (generation, conditions) = (request.query.integer("generation")?, Preconditions::parse(&request.query)?);
    let mut patched = None;
    bucket.change(name, |current| {
        let current = current
            .filter(|current| generation.is_none_or(|wanted| wanted == current.generation))
            .ok_or_else(|| Refusal::no_object(&bucket.name, name))?;
        conditions.check(Some(current))?;
        let mut object = Object::clone(current);
        if replace {
            let storage_class = object.attributes.storage_class.take();
            object.attributes = Attributes { storage_class, ..Attributes::default() };
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
    let object = patched.ok_or_else(|| Refusal::no_object(&bucket.name, name))?;
    reply(state, &bucket.name, &object, &request.query)
}

pub(crate) fn delete(state: &State, (bucket, name): &Target, request: &Request) -> Result<Reply, Refusal> {
    let bucket = state.bucket_for(bucket, request)?;
    bucket.allows("storage.objects.delete", request)?;
    let (generation, conditions) = (request.query.integer("generation")?, Preconditions::parse(&request.query)?);
    bucket.change(name, |current| {
        let current = current
            .filter(|current| generation.is_none_or(|wanted| wanted == current.generation))
            .ok_or_else(|| Refusal::no_object(&bucket.name, name))?;
        conditions.check(Some(current))?;
        bucket.may_lose(current)?;
        Ok(None)
    })?;
    Ok(Reply::empty(204))
}

/// Stores a new version under `name` and returns it. `make` gets its generation.
pub(crate) fn store(
    state: &State,
    request: &Request,
    bucket: &Bucket,
    name: &str,
    conditions: Preconditions,
    make: impl FnOnce(i64) -> Object,
) -> Result<Arc<Object>, Refusal> {
    let may_delete = bucket.allows("storage.objects.delete", request);
    let mut stored = None;
    bucket.change(name, |current| {
        conditions.check(current.map(|current| &**current))?;
        if let Some(current) = current {
            // Replacing a version deletes it.
            may_delete?;
            bucket.may_lose(current)?;
        }
        let mut object = make(state.namespace.next_generation());
        let config = bucket.config();
        object.attributes.storage_class.get_or_insert(config.storage_class);
        object.attributes.event_based_hold |= config.default_event_based_hold;
        let object = Arc::new(object);
        stored = Some(Arc::clone(&object));
        Ok(Some(object))
    })?;
    stored.ok_or_else(|| Refusal::no_object(&bucket.name, name))
}

pub(crate) fn copy(
    state: &State,
    (from_bucket, from_name): &Target,
    (to_bucket, to_name): &Target,
    request: &Request,
    rewrite: bool,
) -> Result<Reply, Refusal> {
    let query = &request.query;
    let (from, to) = (state.bucket_for(from_bucket, request)?, state.bucket_for(to_bucket, request)?);
    from.allows("storage.objects.get", request)?;
    to.allows("storage.objects.create", request)?;
    let source = find(&from, from_name, query.integer("sourceGeneration")?)?;
    Preconditions::parse_source(query)?.check(Some(&source))?;
    let resource: Map<String, Value> = request.json()?;
    let mut attributes = source.attributes.clone();
    attributes.storage_class = None;
    attributes.temporary_hold = false;
    attributes.event_based_hold = false;
    attributes.patch(&resource)?;
    let copy = store(state, request, &to, to_name, Preconditions::parse(query)?, |generation| Object {
        name: to_name.clone(),
        generation,
        metageneration: 1,
        created: generation,
        updated: generation,
        attributes,
        ..Object::clone(&source)
    })?;
    if !rewrite {
        return reply(state, &to.name, &copy, query);
    }
    let mut json = Vec::new();
    copy.write_json(&mut json, &to.name, &state.endpoint, FieldSet::ALL);
    let size = copy.size().to_string();
    let mut value = json!({
        "kind": "storage#rewriteResponse",
        "totalBytesRewritten": size,
        "objectSize": size,
        "done": true,
        "resource": serde_json::from_slice::<Value>(&json).unwrap_or_default(),
    });
    if let Some(fields) = query.get("fields") {
        value = Selector::parse(fields)?.apply(value);
    }
    Ok(Reply::value(&value))
}
