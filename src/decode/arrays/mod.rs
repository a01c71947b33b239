//! Arrays of numbers: files of NumPy and safetensors.

mod elements;
mod named;
mod npy;
mod npz;
mod pad;
mod safetensors;
mod stack;
mod zip;

pub use elements::{AnyArray, ArrayElement};
pub use named::NamedArrays;
pub use npy::Npy;
pub use npz::Npz;
pub use pad::{PadArrays, PaddedArrays};
pub use safetensors::Safetensors;
pub use stack::StackArrays;
