//! The `fields` parameter: partial responses.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::Refusal;

/// What `a,b(c,d/e),f/g` selects. An empty map stands for everything below.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Selector {
    pub(crate) children: BTreeMap<String, Selector>,
}

impl Selector {
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        let refusal = || Refusal::parameter("fields", format!("Invalid field selection {text}"));
        let mut rest = text;
        let selector = list(&mut rest, 0).ok_or_else(refusal)?;
        if rest.is_empty() { Ok(selector) } else { Err(refusal()) }
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.children.is_empty()
    }

    /// What it selects of the field `name`; None when that is not selected.
    pub(crate) fn of(&self, name: &str) -> Option<&Self> {
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

/// Nobody nests deeper; a longer one would only exhaust the stack.
const DEPTH: usize = 32;

fn list(rest: &mut &str, depth: usize) -> Option<Selector> {
    let (mut selector, mut everything) = (Selector::default(), false);
    loop {
        let (name, below) = item(rest, depth)?;
        if name == "*" {
            everything = true;
        } else {
            merge(&mut selector, name, below);
        }
        match rest.strip_prefix(',') {
            Some(more) => *rest = more,
            None => return Some(if everything { Selector::default() } else { selector }),
        }
    }
}

fn item<'a>(rest: &mut &'a str, depth: usize) -> Option<(&'a str, Selector)> {
    if depth > DEPTH {
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
        let (name_below, below) = item(rest, depth + 1)?;
        let mut selector = Selector::default();
        if name_below != "*" {
            selector.children.insert(name_below.to_owned(), below);
        }
        return Some((name, selector));
    }
    if let Some(inner) = tail.strip_prefix('(') {
        *rest = inner;
        let selector = list(rest, depth + 1)?;
        *rest = rest.strip_prefix(')')?;
        return Some((name, selector));
    }
    Some((name, Selector::default()))
}

fn merge(into: &mut Selector, name: &str, below: Selector) {
    match into.children.get_mut(name) {
        None => drop(into.children.insert(name.to_owned(), below)),
        Some(present) if present.is_everything() || below.is_everything() => *present = Selector::default(),
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
        Selector::parse(fields).unwrap().apply(whole)
    }

    #[test]
    fn selects() {
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
    fn refuses() {
        for text in ["", "a,", "a(b", "a)b", "a()", "a//b", "a(b)c", " a", &"a(".repeat(100)] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
    }
}
