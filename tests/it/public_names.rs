//! The reader of sources finds the public names of a crate.

use crate::sources::Sources;

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
