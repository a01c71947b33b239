//! The query parameters of a request.

use percent_encoding::percent_decode_str;

use crate::refusal::Refusal;

/// The decoded query parameters of a request, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct QueryParameters(Vec<(String, String)>);

impl QueryParameters {
    pub(crate) fn parse(text: &str) -> Self {
        let decode = |part: &str| percent_decode_str(&part.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decode(k), decode(v))).collect(),
        )
    }

    /// The first value of a parameter.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// All values of a parameter.
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The first value of a parameter, unless it is empty.
    pub(crate) fn non_empty(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|value| !value.is_empty())
    }

    pub(crate) fn is_true(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    pub(crate) fn integer(&self, key: &'static str) -> Result<Option<i64>, Refusal> {
        self.get(key)
            .map(|text| {
                text.parse().map_err(|_| {
                    Refusal::parameter(key, format!("Invalid value '{text}' for {key}: an integer is wanted."))
                })
            })
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = QueryParameters::parse("a=1+2&b=%2B&c&a=3");
        assert_eq!((query.get("a"), query.get("b"), query.get("c")), (Some("1 2"), Some("+"), Some("")));
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["1 2", "3"]);
    }
}
