// Links between chapters are links to their files, as GitHub and the book (`scripts/book`) want them. Where Markdown has
// two definitions of a link, the first one counts: so links.md, before each chapter, makes them links to these modules.
#![doc = include_str!("guide/links.md")]
#![doc = include_str!("../docs/guide/README.md")]

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/guide/concepts.md")]
pub mod concepts {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/guide/stores.md")]
pub mod stores {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/guide/order.md")]
pub mod order {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/guide/listing.md")]
pub mod listing {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/guide/images.md")]
pub mod images {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/guide/labels.md")]
pub mod labels {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/guide/decoding.md")]
pub mod decoding {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/guide/tensors.md")]
pub mod tensors {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/guide/parts.md")]
pub mod parts {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/guide/memory.md")]
pub mod memory {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/guide/cost.md")]
pub mod cost {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/guide/observe.md")]
pub mod observe {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/guide/cookbook.md")]
pub mod cookbook {}
