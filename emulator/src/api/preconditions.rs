//! Preconditions of calls: those in parameters, and those of HTTP in headers.

use crate::{
    http::{query::QueryParameters, request::ReceivedRequest},
    objects::version::ObjectVersion,
    refusal::Refusal,
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
    pub(crate) fn parse(query: &QueryParameters) -> Result<Self, Refusal> {
        Ok(Self {
            generation_match: query.integer("ifGenerationMatch")?,
            generation_not_match: query.integer("ifGenerationNotMatch")?,
            metageneration_match: query.integer("ifMetagenerationMatch")?,
            metageneration_not_match: query.integer("ifMetagenerationNotMatch")?,
        })
    }

    /// Parses the conditions on the source of a copy.
    pub(crate) fn parse_source(query: &QueryParameters) -> Result<Self, Refusal> {
        Ok(Self {
            generation_match: query.integer("ifSourceGenerationMatch")?,
            generation_not_match: query.integer("ifSourceGenerationNotMatch")?,
            metageneration_match: query.integer("ifSourceMetagenerationMatch")?,
            metageneration_not_match: query.integer("ifSourceMetagenerationNotMatch")?,
        })
    }

    /// Checks a call that writes. A generation of 0 means that there is no live version.
    pub(crate) fn check_write(&self, current: Option<&ObjectVersion>) -> Result<(), Refusal> {
        self.check(current, Refusal::precondition("If-None-Match"))
    }

    /// Checks a call that reads. An unwanted match is answered with "not modified", which is not an error.
    pub(crate) fn check_read(&self, current: &ObjectVersion) -> Result<(), Refusal> {
        self.check(Some(current), Refusal::not_modified())
    }

    fn check(&self, current: Option<&ObjectVersion>, unwanted_match: Refusal) -> Result<(), Refusal> {
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

/// Evaluates the conditional headers of HTTP in the order that HTTP defines. A condition on the entity tag replaces one
/// on the last change, which is compared in whole seconds, as headers have no fractions. `etag` may be quoted or not.
/// Returns true when the answer is "not modified".
///
/// # Errors
/// When the object is not the version that the request requires.
pub(crate) fn is_not_modified(request: &ReceivedRequest, etag: &str, updated: i64) -> Result<bool, Refusal> {
    let bare = |tag: &str| tag.trim().trim_start_matches("W/").trim_matches('"').to_owned();
    let contains_tag = |tags: &str| tags.split(',').any(|tag| tag.trim() == "*" || bare(tag) == bare(etag));
    let updated_seconds = updated.div_euclid(1_000_000);
    let date = |header| request.header(header).and_then(timestamp::parse_http_date);

    match request.header("if-match") {
        Some(tags) if !contains_tag(tags) => return Err(Refusal::precondition("If-Match")),
        None if date("if-unmodified-since").is_some_and(|then| updated_seconds > then) => {
            return Err(Refusal::precondition("If-Unmodified-Since"));
        }
        _ => {}
    }
    Ok(match request.header("if-none-match") {
        Some(tags) => contains_tag(tags),
        None => date("if-modified-since").is_some_and(|then| updated_seconds <= then),
    })
}
