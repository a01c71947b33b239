//! The items of a module, taken apart from their tokens.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// One item of a module, or one member of a trait or an `impl` block.
pub(super) struct Item {
    pub(super) visibility: Visibility,
    /// The keyword that the item begins with, such as `struct`.
    pub(super) keyword: String,
    /// Its name; empty for `use` and `impl`.
    pub(super) name: String,
    pub(super) tokens: Vec<TokenTree>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Visibility {
    Private,
    /// `pub(crate)` and its like.
    Restricted,
    Public,
}

impl Item {
    /// The braces at its end.
    pub(super) fn body(&self) -> Option<&Group> {
        match self.tokens.last() {
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => Some(group),
            _ => None,
        }
    }

    /// The members that it declares itself and that its users see: fields, variants, and what a trait has.
    pub(super) fn members(&self) -> Vec<(String, String)> {
        let Some(body) = self.body() else { return Vec::new() };
        match self.keyword.as_str() {
            "trait" => {
                let members = items(body.stream()).into_iter().filter(|member| !member.name.is_empty());
                members.map(|member| (member.keyword, member.name)).collect()
            }
            "struct" => {
                let fields = fields(body).into_iter().filter(|(visibility, _)| *visibility == Visibility::Public);
                fields.map(|(_, name)| ("field".to_owned(), name)).collect()
            }
            "enum" => fields(body).into_iter().map(|(_, name)| ("variant".to_owned(), name)).collect(),
            _ => Vec::new(),
        }
    }

    /// The path of the type that an `impl` block without a trait is of.
    pub(super) fn implemented_type(&self) -> Option<Vec<String>> {
        let mut at = 1;
        if is_punct(self.tokens.get(at), '<') {
            at += length_of_generics(&self.tokens[at..]);
        }
        let (path, length) = path(&self.tokens[at..]);
        let mut after = at + length;
        if is_punct(self.tokens.get(after), '<') {
            after += length_of_generics(&self.tokens[after..]);
        }
        let is_of_trait = self.tokens.get(after).is_some_and(|token| is_word(token, "for"));
        (!is_of_trait && !path.is_empty()).then_some(path)
    }
}

/// An import of one name.
pub(super) struct Import {
    /// The name that it has here; `*` for all names of a module, which is then the path.
    pub(super) name: String,
    pub(super) path: Vec<String>,
}

/// The single imports of a `use` tree.
pub(super) fn imports(tree: &[TokenTree]) -> Vec<Import> {
    let mut imports = Vec::new();
    for branch in tree.split(|token| is_punct(Some(token), ',')) {
        let (start, length) = path(branch);
        match &branch[length..] {
            // `use ::name` is of another crate.
            rest if start.is_empty() && is_punct(rest.first(), ':') => {}
            [colon, _, TokenTree::Group(group)] if is_punct(Some(colon), ':') => {
                let inner: Vec<_> = group.stream().into_iter().collect();
                for import in self::imports(&inner) {
                    let mut path = start.clone();
                    // `use room::{self}` names the room.
                    path.extend(import.path.into_iter().filter(|name| name != "self"));
                    let name =
                        if import.name == "self" { start.last().cloned().unwrap_or_default() } else { import.name };
                    imports.push(Import { name, path });
                }
            }
            [TokenTree::Group(group)] => imports.extend(self::imports(&group.stream().into_iter().collect::<Vec<_>>())),
            [colon, _, star] if is_punct(Some(colon), ':') && is_punct(Some(star), '*') => {
                imports.push(Import { name: "*".to_owned(), path: start });
            }
            [star] if is_punct(Some(star), '*') => imports.push(Import { name: "*".to_owned(), path: start }),
            [rename, name] if is_word(rename, "as") => imports.push(Import { name: name.to_string(), path: start }),
            _ => {
                if let Some(name) = start.last().cloned() {
                    imports.push(Import { name, path: start });
                }
            }
        }
    }
    imports
}

/// The path that tokens begin with, and how many tokens it has.
pub(super) fn path(tokens: &[TokenTree]) -> (Vec<String>, usize) {
    let mut path = Vec::new();
    let mut at = 0;
    while let Some(TokenTree::Ident(word)) = tokens.get(at) {
        path.push(word.to_string());
        at += 1;
        let goes_on = is_punct(tokens.get(at), ':')
            && is_punct(tokens.get(at + 1), ':')
            && matches!(tokens.get(at + 2), Some(TokenTree::Ident(_)));
        if !goes_on {
            break;
        }
        at += 2;
    }
    (path, at)
}

/// The items that are compiled outside of tests.
pub(super) fn items(tokens: TokenStream) -> Vec<Item> {
    let tokens: Vec<_> = tokens.into_iter().collect();
    let mut items = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let mut is_for_tests = false;
        while let Some(attribute) = attribute(&tokens[at..]) {
            is_for_tests |= attribute.is_for_tests;
            at += attribute.length;
        }
        let (visibility, length) = visibility(&tokens[at..]);
        at += length;
        if !matches!(tokens.get(at), Some(TokenTree::Ident(_))) {
            at += 1;
            continue;
        }

        // Words before the keyword, as in `const fn` and `unsafe extern "C" fn`.
        let is_function = tokens[at..].iter().take(5).position(|token| is_word(token, "fn")).filter(|position| {
            tokens[at..at + position].iter().all(|token| {
                matches!(token, TokenTree::Literal(_))
                    || ["const", "async", "unsafe", "extern"].iter().any(|word| is_word(token, word))
            })
        });
        let mut start = at + is_function.unwrap_or(0);
        if ["unsafe", "auto"].iter().any(|word| is_word(&tokens[start], word)) {
            start += 1;
        }
        let keyword = tokens[start].to_string();
        let end = match keyword.as_str() {
            "use" | "const" | "static" | "type" => start + length_to_semicolon(&tokens[start..]) + 1,
            _ => start + length_of_item(&tokens[start..]),
        }
        .min(tokens.len());
        let is_macro = is_punct(tokens.get(start + 1), '!');
        let name = match keyword.as_str() {
            "use" | "impl" => String::new(),
            "macro_rules" => tokens.get(start + 2).map_or_else(String::new, ToString::to_string),
            _ if is_macro => String::new(),
            _ => {
                let mut words = tokens[start + 1..end].iter().filter(|token| !is_word(token, "mut"));
                words.next().map_or_else(String::new, ToString::to_string)
            }
        };
        let without_semicolon = if is_punct(tokens.get(end - 1), ';') { end - 1 } else { end };
        if !is_for_tests {
            let tokens = &tokens[start..without_semicolon.max(start)];
            if keyword == "macro_rules" {
                items.extend(items_of_macro(tokens));
            }
            items.push(Item { visibility, keyword, name, tokens: tokens.to_vec() });
        }
        at = end;
    }
    items
}

/// The items that a macro of a module makes, as far as their names are in the macro itself.
fn items_of_macro(tokens: &[TokenTree]) -> Vec<Item> {
    let Some(TokenTree::Group(rules)) = tokens.last() else { return Vec::new() };
    let rules: Vec<_> = rules.stream().into_iter().collect();
    let made = rules.windows(2).filter_map(|pair| match pair {
        [arrow, TokenTree::Group(made)] if is_punct(Some(arrow), '>') => Some(items(made.stream())),
        _ => None,
    });
    made.flatten().collect()
}

/// The fields of a struct, or the variants of an enum.
fn fields(body: &Group) -> Vec<(Visibility, String)> {
    let tokens: Vec<_> = body.stream().into_iter().collect();
    let mut fields = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        while let Some(attribute) = attribute(&tokens[at..]) {
            at += attribute.length;
        }
        let (visibility, length) = visibility(&tokens[at..]);
        at += length;
        let Some(TokenTree::Ident(name)) = tokens.get(at) else { break };
        fields.push((visibility, name.to_string()));

        // A comma between angle brackets divides generic arguments.
        let mut depth = 0;
        while let Some(token) = tokens.get(at) {
            at += 1;
            match token {
                TokenTree::Punct(punct) if punct.as_char() == '<' => depth += 1,
                TokenTree::Punct(punct) if punct.as_char() == '>' && !is_punct(tokens.get(at - 2), '-') => depth -= 1,
                TokenTree::Punct(punct) if punct.as_char() == ',' && depth == 0 => break,
                _ => {}
            }
        }
    }
    fields
}

pub(super) struct Attribute {
    pub(super) length: usize,
    /// Whether what follows is compiled for tests alone.
    pub(super) is_for_tests: bool,
}

/// The attribute that tokens begin with. Doc comments are attributes, too.
pub(super) fn attribute(tokens: &[TokenTree]) -> Option<Attribute> {
    if !is_punct(tokens.first(), '#') {
        return None;
    }
    let is_inner = is_punct(tokens.get(1), '!');
    let at = 1 + usize::from(is_inner);
    let Some(TokenTree::Group(group)) = tokens.get(at) else { return None };
    if group.delimiter() != Delimiter::Bracket {
        return None;
    }
    let words: Vec<_> = group.stream().into_iter().collect();
    let is_for_tests = match &words[..] {
        [cfg, TokenTree::Group(condition)] if is_word(cfg, "cfg") => {
            let condition: Vec<_> = condition.stream().into_iter().collect();
            match &condition[..] {
                [all, TokenTree::Group(of)] if is_word(all, "all") => {
                    of.stream().into_iter().any(|t| is_word(&t, "test"))
                }
                [first, ..] => is_word(first, "test") || is_word(first, "doctest"),
                [] => false,
            }
        }
        [test] => is_word(test, "test"),
        _ => false,
    };
    Some(Attribute { length: at + 1, is_for_tests })
}

fn visibility(tokens: &[TokenTree]) -> (Visibility, usize) {
    match tokens {
        [TokenTree::Ident(word), TokenTree::Group(group), ..]
            if word == "pub" && group.delimiter() == Delimiter::Parenthesis =>
        {
            (Visibility::Restricted, 2)
        }
        [TokenTree::Ident(word), ..] if word == "pub" => (Visibility::Public, 1),
        _ => (Visibility::Private, 0),
    }
}

pub(super) fn length_to_semicolon(tokens: &[TokenTree]) -> usize {
    tokens.iter().position(|token| is_punct(Some(token), ';')).unwrap_or(tokens.len())
}

/// Up to the semicolon or the braces that end an item.
fn length_of_item(tokens: &[TokenTree]) -> usize {
    let is_end = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        other => is_punct(Some(other), ';'),
    };
    tokens.iter().position(is_end).map_or(tokens.len(), |end| end + 1)
}

/// Up to the end of what an attribute in code belongs to: an item, a statement, a field, or the arm of a match.
pub(super) fn length_of_annotated(tokens: &[TokenTree]) -> usize {
    let (_, start) = visibility(tokens);
    let is_item = |token| ["fn", "const", "async", "unsafe"].iter().any(|keyword| is_word(token, keyword));
    let end = length_of_item(tokens);
    match tokens.iter().position(|token| is_punct(Some(token), ',')) {
        // The comma may be one between the generic parameters of a function.
        Some(comma) if !tokens.get(start).is_some_and(is_item) => end.min(comma + 1),
        _ => end,
    }
}

fn length_of_generics(tokens: &[TokenTree]) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate() {
        if is_punct(Some(token), '<') {
            depth += 1;
        } else if is_punct(Some(token), '>') && !(at > 0 && is_punct(tokens.get(at - 1), '-')) {
            depth -= 1;
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

pub(super) fn is_punct(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

pub(super) fn is_word(token: &TokenTree, wanted: &str) -> bool {
    matches!(token, TokenTree::Ident(word) if word == wanted)
}
