//! The patterns of the `matchGlob` parameter.

/// A pattern with `*` (which does not match `/`), `**` (which does), `?`, `[a-z]`, `[!a]` and `{one,two}`.
#[derive(Debug)]
pub(crate) struct Glob {
    /// The pattern without braces: one for each combination of their alternatives.
    patterns: Vec<Vec<char>>,
}

/// The most patterns that the braces may expand to. Braces multiply, so a short pattern could take all memory.
const MAX_PATTERNS: usize = 1_000;
/// How deep braces may nest; deeper ones are refused.
const MAX_DEPTH: usize = 32;
/// The most bytes of a pattern, which is also the most bytes of a name.
const MAX_BYTES: usize = 1_024;

impl Glob {
    /// Returns `None` when the pattern is malformed or exceeds a limit.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_BYTES {
            return None;
        }
        let patterns = expand_braces(text)?;
        Some(Self { patterns: patterns.iter().map(|pattern| pattern.chars().collect()).collect() })
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        self.patterns.iter().any(|pattern| matches_pattern(pattern, &name))
    }
}

/// Expands all braces. It does not recurse, because the client would choose the depth of the recursion.
fn expand_braces(text: &str) -> Option<Vec<String>> {
    let (mut out, mut open) = (Vec::new(), vec![text.to_owned()]);
    while let Some(text) = open.pop() {
        if text.contains('{') {
            open.extend(expand_first_braces(&text)?);
        } else if text.contains('}') || out.len() == MAX_PATTERNS {
            return None;
        } else {
            out.push(text);
        }
    }
    Some(out)
}

/// The text with its first pair of braces replaced by each of their alternatives; `None` when no brace closes the first
/// one.
fn expand_first_braces(text: &str) -> Option<Vec<String>> {
    let open = text.find('{')?;
    let (mut depth, mut starts, mut close) = (0, vec![open + 1], None);
    for (at, character) in text[open..].char_indices().map(|(at, character)| (at + open, character)) {
        match character {
            '{' if depth == MAX_DEPTH => return None,
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    close = Some(at);
                    break;
                }
            }
            ',' if depth == 1 => starts.push(at + 1),
            _ => {}
        }
    }

    let close = close?;
    let ends = starts.iter().skip(1).map(|start| start - 1).chain([close]);
    let whole =
        |(start, end): (&usize, usize)| format!("{}{}{}", &text[..open], &text[*start..end], &text[close + 1..]);
    Some(starts.iter().zip(ends).map(whole).collect())
}

/// Matches a pattern without braces. `row` holds which prefixes of the name the elements of the pattern so far can
/// match. There is no backtracking, so no pattern is slow.
fn matches_pattern(mut pattern: &[char], name: &[char]) -> bool {
    let mut row = vec![false; name.len() + 1];
    row[0] = true;
    while let [head, tail @ ..] = pattern {
        let mut next = vec![false; name.len() + 1];
        pattern = tail;
        match head {
            '*' => {
                let crosses_slash = tail.first() == Some(&'*');
                if crosses_slash {
                    pattern = &tail[1..];
                }
                let mut open = false;
                for at in 0..=name.len() {
                    open = row[at] || open && (crosses_slash || name[at - 1] != '/');
                    next[at] = open;
                }
            }
            '[' => {
                let Some(length) = tail.iter().skip(1).position(|c| *c == ']').map(|at| at + 1) else { return false };
                let (set, rest) = (&tail[..length], &tail[length + 1..]);
                pattern = rest;
                for at in 0..name.len() {
                    next[at + 1] = row[at] && name[at] != '/' && is_in_set(set, name[at]);
                }
            }
            literal => {
                for at in 0..name.len() {
                    next[at + 1] = row[at] && (if *literal == '?' { name[at] != '/' } else { name[at] == *literal });
                }
            }
        }
        row = next;
    }
    row[name.len()]
}

/// Whether `wanted` is in the set between the brackets `[` and `]`.
fn is_in_set(set: &[char], wanted: char) -> bool {
    let (negated, mut set) = match set {
        ['!' | '^', rest @ ..] => (true, rest),
        set => (false, set),
    };
    let mut found = false;
    while let [first, rest @ ..] = set {
        if let ['-', last, rest @ ..] = rest {
            found |= (*first..=*last).contains(&wanted);
            set = rest;
        } else {
            found |= *first == wanted;
            set = rest;
        }
    }
    found != negated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names() {
        for (pattern, name, expected) in [
            ("*.jpg", "a.jpg", true),
            ("*.jpg", "d/a.jpg", false),
            ("**.jpg", "d/a.jpg", true),
            ("**/a?.jpg", "x/y/ab.jpg", true),
            ("d/*/z", "d/e/z", true),
            ("d/*/z", "d/e/f/z", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("{a,b}/{c,d}.png", "b/c.png", true),
            ("{a,b}/{c,d}.png", "c/c.png", false),
            ("é?", "éü", true),
            ("", "", true),
            ("a", "ab", false),
        ] {
            assert_eq!(Glob::parse(pattern).unwrap().matches(name), expected, "{pattern} on {name}");
        }
        assert!(Glob::parse("{a").is_none());
        assert!(Glob::parse("a}").is_none());
        assert!(Glob::parse("{a}}").is_none());
    }

    #[test]
    fn patterns_over_a_limit_are_refused() {
        let nested = |depth| format!("{}a,b{}", "{".repeat(depth), "}".repeat(depth));
        assert!(Glob::parse(&nested(MAX_DEPTH)).unwrap().matches("b"));
        for depth in [MAX_DEPTH + 1, 500, 1_000_000] {
            assert!(Glob::parse(&nested(depth)).is_none(), "{depth} deep");
        }
        assert!(Glob::parse(&"a".repeat(MAX_BYTES)).is_some());
        assert!(Glob::parse(&"a".repeat(MAX_BYTES + 1)).is_none());
        // Braces next to each other are not deep.
        assert!(Glob::parse(&"{}".repeat(MAX_BYTES / 2)).unwrap().matches(""));
        assert!(Glob::parse(&"{a,b}".repeat(10)).is_none(), "1,024 alternatives");
        assert_eq!(Glob::parse(&format!("{{{}}}", ",".repeat(MAX_PATTERNS - 1))).unwrap().patterns.len(), MAX_PATTERNS);
    }
}
