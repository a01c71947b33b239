//! The `fields` parameter, which selects fields of an answer.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{http::query::QueryParameters, refusal::Refusal};

/// A parsed selection, such as `a,b(c,d/e),f/g`. One without children selects everything below it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct FieldSelector {
    pub(crate) children: BTreeMap<String, FieldSelector>,
}

impl FieldSelector {
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        let refusal = || Refusal::parameter("fields", format!("Invalid field selection {text}"));
        let mut rest = text;
        let selector = parse_list(&mut rest, 0).ok_or_else(refusal)?;
        if rest.is_empty() { Ok(selector) } else { Err(refusal()) }
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.children.is_empty()
    }

    /// The selection within the field `name`; `None` when the field is not selected.
    pub(crate) fn child(&self, name: &str) -> Option<&Self> {
        if self.is_everything() { Some(self) } else { self.children.get(name) }
    }

    /// The selected part of `value`.
    pub(crate) fn apply(&self, value: Value) -> Value {
        if self.is_everything() {
            return value;
        }
        match value {
            Value::Array(items) => Value::Array(items.into_iter().map(|item| self.apply(item)).collect()),
            Value::Object(fields) => Value::Object(
                fields
                    .into_iter()
                    .filter_map(|(name, value)| {
                        let inner = self.children.get(&name)?;
                        Some((name, inner.apply(value)))
                    })
                    .collect(),
            ),
            leaf => leaf,
        }
    }
}

/// Selects the fields of `value` that the `fields` parameter names; all when there is none.
pub(crate) fn select_fields(value: Value, query: &QueryParameters) -> Result<Value, Refusal> {
    match query.get("fields") {
        Some(fields) => Ok(FieldSelector::parse(fields)?.apply(value)),
        None => Ok(value),
    }
}

/// How deep a selection may nest. The parser recurses, so that a deeper one could exhaust the stack.
const MAX_DEPTH: usize = 32;

/// Parses a list of items separated by commas. `rest` moves past it.
fn parse_list(rest: &mut &str, depth: usize) -> Option<FieldSelector> {
    let (mut selector, mut selects_all) = (FieldSelector::default(), false);
    loop {
        let (name, below) = parse_item(rest, depth)?;
        if name == "*" {
            selects_all = true;
        } else {
            merge(&mut selector, name, below);
        }
        match rest.strip_prefix(',') {
            Some(more) => *rest = more,
            None => return Some(if selects_all { FieldSelector::default() } else { selector }),
        }
    }
}

/// Parses a field's name and the selection within it. `rest` moves past them.
fn parse_item<'a>(rest: &mut &'a str, depth: usize) -> Option<(&'a str, FieldSelector)> {
    if depth > MAX_DEPTH {
        return None;
    }
    let end = rest.find([',', '(', ')', '/']).unwrap_or(rest.len());
    let (name, tail) = rest.split_at(end);
    if name.is_empty() || name.contains(char::is_whitespace) {
        return None;
    }
    *rest = tail;
    if let Some(inner) = tail.strip_prefix('/') {
        *rest = inner;
        let (name_below, below) = parse_item(rest, depth + 1)?;
        let mut selector = FieldSelector::default();
        if name_below != "*" {
            selector.children.insert(name_below.to_owned(), below);
        }
        return Some((name, selector));
    }
    if let Some(inner) = tail.strip_prefix('(') {
        *rest = inner;
        let selector = parse_list(rest, depth + 1)?;
        *rest = rest.strip_prefix(')')?;
        return Some((name, selector));
    }
    Some((name, FieldSelector::default()))
}

/// Adds the selection of the field `name` to `into`.
fn merge(into: &mut FieldSelector, name: &str, below: FieldSelector) {
    match into.children.get_mut(name) {
        None => drop(into.children.insert(name.to_owned(), below)),
        Some(present) if present.is_everything() || below.is_everything() => *present = FieldSelector::default(),
        Some(present) => {
            for (name, selector) in below.children {
                merge(present, &name, selector);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn select(fields: &str) -> Value {
        let whole = json!({
            "kind": "k", "nextPageToken": "t",
            "items": [{ "name": "a", "size": "1", "metadata": { "x": "1", "y": "2" } }, { "name": "b" }],
        });
        FieldSelector::parse(fields).unwrap().apply(whole)
    }

    #[test]
    fn selections_apply_to_objects_and_arrays() {
        assert_eq!(select("kind"), json!({ "kind": "k" }));
        assert_eq!(select("items/name"), json!({ "items": [{ "name": "a" }, { "name": "b" }] }));
        assert_eq!(
            select("items(name,metadata/x),nextPageToken"),
            json!({ "nextPageToken": "t", "items": [{ "name": "a", "metadata": { "x": "1" } }, { "name": "b" }] })
        );
        assert_eq!(select("items/name,items(size)"), select("items(name,size)"));
        assert_eq!(select("*")["items"][0]["metadata"]["y"], "2");
        assert_eq!(select("items(metadata(*))")["items"][0], json!({ "metadata": { "x": "1", "y": "2" } }));
    }

    #[test]
    fn malformed_selections_are_refused() {
        for text in ["", "a,", "a(b", "a)b", "a()", "a//b", "a(b)c", " a", &"a(".repeat(100)] {
            assert!(FieldSelector::parse(text).is_err(), "{text}");
        }
    }
}
