//! The public names of the library are those of a golden file, so that each change of them is seen.

use std::collections::BTreeSet;
use std::path::Path;

use crate::sources::Sources;

/// Set this environment variable to write the golden file anew.
const RENEW: &str = "DATAFLUX_RENEW_NAMES";

/// The file lacks the fields that a macro makes of its arguments: those of `Counts`.
#[test]
fn public_names_are_those_of_the_golden_file() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = folder.join("tests/golden/public.txt");
    let names = Sources::read(&folder.join("src/lib.rs")).public_names("dataflux");
    if std::env::var_os(RENEW).is_some() {
        let lines: Vec<_> = names.iter().map(String::as_str).collect();
        std::fs::write(&golden, lines.join("\n") + "\n").unwrap();
    }

    let text = std::fs::read_to_string(&golden).unwrap();
    let known: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    let new: Vec<_> = names.difference(&known).collect();
    let gone: Vec<_> = known.difference(&names).collect();
    assert!(
        new.is_empty() && gone.is_empty(),
        "public names have changed. New: {new:#?}. Gone: {gone:#?}. If users are meant to see this, write it into \
         CHANGELOG.md and renew the file: {RENEW}=1 cargo test -p dataflux --test it public_names"
    );
}

#[test]
fn names_are_those_that_a_user_reaches() {
    let sources = Sources::of_texts(&[
        ("lib.rs", "mod error;\npub mod store;\nmod loader;\npub use loader::{Loader, LIMIT as MAX};\nfn private() {}"),
        ("error.rs", "pub struct Error;"),
        (
            "store/mod.rs",
            "mod memory;\npub use memory::Memory;\npub(crate) use memory::Inner;\n
            pub trait Store: Send { const KIND: u8; type Body; fn get(&self) -> Vec<u8>; }\n
            pub(crate) fn hidden() {}\npub const fn size<const N: usize>() -> usize { N }\n
            macro_rules! made { ($($name:ident)+) => { pub struct Made { $(pub $name: u8)+ } impl Made { pub fn new() {} } } }",
        ),
        (
            "store/memory.rs",
            "pub struct Memory { pub size: u64, pub map: HashMap<u8, fn() -> u8>, pub last: u8, inner: Inner }\n
            pub struct Inner { pub field: u8 }\n
            impl Memory { pub fn new() -> Self {} fn grow(&self) {} pub(crate) fn shrink(&self) {} #[cfg(test)] pub fn x() {} }\n
            impl super::Store for Memory { fn get(&self) -> Vec<u8> {} }",
        ),
        (
            "loader.rs",
            "pub enum Loader<T> { Idle, Running(T), #[doc(hidden)] Done { left: u8 } }\npub static LIMIT: u8 = 1;\n
            impl<T: Fn() -> u8> Loader<T> { pub async fn run(self) {} }\nimpl<T> crate::store::Memory { pub fn of() {} }",
        ),
    ]);
    let expected = [
        "dataflux::Loader (enum)",
        "dataflux::Loader::Done (variant)",
        "dataflux::Loader::Idle (variant)",
        "dataflux::Loader::Running (variant)",
        "dataflux::Loader::run (fn)",
        "dataflux::MAX (static)",
        "dataflux::store (mod)",
        "dataflux::store::Made (struct)",
        "dataflux::store::Made::new (fn)",
        "dataflux::store::Memory (struct)",
        "dataflux::store::Memory::last (field)",
        "dataflux::store::Memory::map (field)",
        "dataflux::store::Memory::new (fn)",
        "dataflux::store::Memory::of (fn)",
        "dataflux::store::Memory::size (field)",
        "dataflux::store::Store (trait)",
        "dataflux::store::Store::Body (type)",
        "dataflux::store::Store::KIND (const)",
        "dataflux::store::Store::get (fn)",
        "dataflux::store::size (fn)",
    ];
    assert_eq!(sources.public_names("dataflux").into_iter().collect::<Vec<_>>(), expected);
}
