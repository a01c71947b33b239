//! Files of safetensors.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::elements::{ArrayHeader, StoredType};
use super::named::{NamedArrays, missing};
use super::stack::StackArrays;
use crate::decode::{Decode, DecodeMemory, ItemMemory};
use crate::encoding::{DEFAULT_MAX_DECOMPRESSED, first_bytes};
use crate::read::RawSample;

/// The longest header that the format allows.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The longest header that is parsed for the memory budget, in microseconds. Those of samples have some hundred bytes.
const SHORT_HEADER_BYTES: u64 = 16 << 10;

/// The key of a header that is no tensor.
const METADATA: &str = "__metadata__";

/// Decodes `.safetensors` files to [`NamedArrays`], decompressed if they are [compressed](crate::encoding). A batch has
/// the tensors of each name stacked.
///
/// Tensors of `F16` and `BF16` are read to `f32`, which has all their values. Those of 8 bits and less are errors.
///
/// ```no_run
/// use dataflux::{DataLoader, DatafluxDataset, Safetensors};
///
/// # fn main() -> anyhow::Result<()> {
/// let dataset = DatafluxDataset::open("gs://my-bucket/latents/")?.decode(Safetensors::new().tensors(["latent"]));
/// let loader = DataLoader::builder(dataset).batch_size(32).build()?;
/// for batch in &mut loader.epoch(0)? {
///     let latents = batch?.into_inner().take::<f32>("latent")?; // (32, ...)
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Safetensors {
    max_decompressed: u64,
    tensors: Option<BTreeSet<String>>,
}

impl Default for Safetensors {
    fn default() -> Self {
        Self { max_decompressed: DEFAULT_MAX_DECOMPRESSED, tensors: None }
    }
}

/// What a header says of a tensor.
#[derive(Debug, Deserialize)]
struct TensorEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

impl Safetensors {
    /// Decodes all tensors of a file, of up to 1 GiB if it is compressed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes only the tensors of these names, each of which a file must have.
    #[must_use]
    pub fn tensors<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.tensors = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Sets how many bytes a compressed object may decompress to: 1 GiB by default.
    #[must_use]
    pub fn max_decompressed(mut self, bytes: u64) -> Self {
        self.max_decompressed = bytes;
        self
    }

    fn read(&self, file: &[u8]) -> Result<NamedArrays> {
        let (entries, data) = split(file)?;
        if let Some(absent) = self.tensors.iter().flatten().find(|name| !entries.contains_key(*name)) {
            bail!(missing(absent, entries.keys().map(String::as_str)));
        }
        let is_chosen = |name: &String| self.tensors.as_ref().is_none_or(|names| names.contains(name));
        let chosen = entries.into_iter().filter(|(name, _)| is_chosen(name));
        let tensor = |(name, entry): (String, TensorEntry)| {
            let (start, end) = entry.data_offsets;
            let bytes = data.get(start..end).unwrap_or_default();
            let array = header_of(entry).and_then(|header| header.read(bytes));
            Ok((name.clone(), array.with_context(|| format!("its tensor {name:?}"))?))
        };
        chosen.map(tensor).collect()
    }
}

/// The entries of a file's header, whose tensors fill the bytes behind it without gaps; and these bytes.
fn split(file: &[u8]) -> Result<(BTreeMap<String, TensorEntry>, &[u8])> {
    let unknown = || {
        format!(
            "it is no safetensors file, or is cut short ({}, of {} bytes; the length of a header that begins with {{ \
             was wanted); upload it again, or leave it out",
            first_bytes(file),
            file.len()
        )
    };
    let (length, rest) = file.split_first_chunk().with_context(unknown)?;
    let length = u64::from_le_bytes(*length);
    ensure!(length <= MAX_HEADER_BYTES && rest.first().is_none_or(|first| *first == b'{'), unknown());
    let (header, data) = rest.split_at_checked(length as usize).with_context(unknown)?;

    let mut values: BTreeMap<String, Value> =
        serde_json::from_slice(header).context("its safetensors header is damaged; upload it again")?;
    values.remove(METADATA);
    let entry = |(name, value)| {
        let entry = TensorEntry::deserialize(value).with_context(|| format!("its tensor {name:?}"))?;
        Ok((name, entry))
    };
    let entries: BTreeMap<_, _> = values.into_iter().map(entry).collect::<Result<_>>()?;

    // Tensors that overlap, or bytes of none, are a sign of a damaged header or of something hidden.
    let mut offsets: Vec<_> = entries.values().map(|entry| entry.data_offsets).collect();
    offsets.sort_unstable();
    let mut filled = 0;
    for (start, end) in offsets {
        ensure!(
            start == filled && end >= start,
            "its tensors overlap or leave gaps, at byte {start} of its data; save it again"
        );
        filled = end;
    }
    ensure!(
        filled == data.len(),
        "its tensors have {} bytes and should have {filled}, by its header; it is cut short or damaged: upload it \
         again",
        data.len()
    );
    Ok((entries, data))
}

fn header_of(entry: TensorEntry) -> Result<ArrayHeader> {
    let stored = match &*entry.dtype {
        "BOOL" => StoredType::Bool,
        "I8" => StoredType::I8,
        "I16" => StoredType::I16,
        "I32" => StoredType::I32,
        "I64" => StoredType::I64,
        "U8" => StoredType::U8,
        "U16" => StoredType::U16,
        "U32" => StoredType::U32,
        "U64" => StoredType::U64,
        "F16" => StoredType::F16,
        "BF16" => StoredType::Bf16,
        "F32" => StoredType::F32,
        "F64" => StoredType::F64,
        other => {
            bail!("its numbers are {other:?}, and BOOL, I8 to I64, U8 to U64, F16, BF16, F32 and F64 are supported")
        }
    };
    Ok(ArrayHeader { stored, is_big_endian: false, is_fortran: false, shape: entry.shape })
}

impl Decode for Safetensors {
    type Item = NamedArrays;
    type Collate = StackArrays;

    fn decode(&self, sample: RawSample) -> Result<NamedArrays> {
        let bytes = sample.decompress(self.max_decompressed)?;
        drop(sample);
        self.read(&bytes)
    }

    fn collate(&self) -> StackArrays {
        StackArrays
    }

    fn item_memory(&self) -> ItemMemory {
        ItemMemory::FromBytes
    }

    fn decode_memory(&self, sample: &RawSample) -> Option<DecodeMemory> {
        let memory = sample.decompression_memory(self.max_decompressed);
        if memory.is_compressed() {
            // The header can't be seen, nor whether floats have 16 bits.
            return Some(DecodeMemory { item: memory.size, scratch: memory.scratch(), is_estimate: true });
        }
        // Longer headers are counted by the size of the file; floats of 16 bits become twice as large.
        let length = u64::from_le_bytes(*sample.bytes().first_chunk()?);
        if length > SHORT_HEADER_BYTES {
            return Some(DecodeMemory { item: memory.size.saturating_mul(2), scratch: 0, is_estimate: false });
        }
        let (entries, _) = split(sample.bytes()).ok()?;
        let is_chosen = |name: &String| self.tensors.as_ref().is_none_or(|names| names.contains(name));
        let item = entries.into_iter().filter(|(name, _)| is_chosen(name)).map(|(_, entry)| {
            let (start, end) = entry.data_offsets;
            let growth = header_of(entry).map_or(1, |header| header.stored.growth());
            (end - start) as u64 * growth
        });
        Some(DecodeMemory { item: item.sum(), scratch: 0, is_estimate: false })
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;
    use crate::decode::arrays::AnyArray;

    fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
    }

    const HEADER: &str = r#"{"__metadata__": {"format": "pt"},
        "y": {"dtype": "I64", "shape": [], "data_offsets": [8, 16]},
        "h": {"dtype": "BF16", "shape": [1, 2], "data_offsets": [16, 20]},
        "x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}  "#;

    fn file() -> Vec<u8> {
        let data = [&[1_f32, 2.0].map(f32::to_le_bytes).concat()[..], &3_i64.to_le_bytes(), &[0x80, 0x3f, 0, 0x40]];
        with_header(HEADER, &data.concat())
    }

    fn error_of(file: &[u8]) -> String {
        format!("{:#}", Safetensors::new().read(file).unwrap_err())
    }

    #[test]
    fn tensors_are_read_by_name() {
        let tensors = Safetensors::new().read(&file()).unwrap();
        assert_eq!(tensors.names().collect::<Vec<_>>(), ["h", "x", "y"]);
        assert_eq!(*tensors.get("x").unwrap(), AnyArray::F32(array![1.0, 2.0].into_dyn()));
        assert_eq!(*tensors.get("h").unwrap(), AnyArray::F32(array![[1.0, 2.0]].into_dyn()));
        assert_eq!(*tensors.get("y").unwrap(), AnyArray::I64(ndarray::arr0(3).into_dyn()));
        assert!(Safetensors::new().read(&with_header("{}", b"")).unwrap().is_empty());

        let chosen = Safetensors::new().tensors(["x"]).read(&file()).unwrap();
        assert_eq!(chosen.names().collect::<Vec<_>>(), ["x"]);
        let error = Safetensors::new().tensors(["z"]).read(&file()).unwrap_err().to_string();
        assert!(error.contains(r#"no array "z"; its arrays are ["h", "x", "y"]"#), "{error}");
    }

    #[test]
    fn files_that_are_cut_short_or_too_long_are_errors() {
        let file = file();
        for length in 0..file.len() {
            assert!(error_of(&file[..length]).contains("cut short"), "{length}");
        }
        assert!(error_of(&[&file[..], b"!"].concat()).contains("have 21 bytes and should have 20"));
        assert!(error_of(b"").contains("it is empty"));
        assert!(error_of(b"\x93NUMPY\x01\0....").contains("first bytes 93 4e 55"));
    }

    #[test]
    fn headers_that_claim_too_much_or_nonsense_are_errors() {
        assert!(error_of(&[&u64::MAX.to_le_bytes()[..], b"{}"].concat()).contains("no safetensors file"));
        let one = |dtype: &str, shape: &str, offsets: &str| {
            let header = format!(r#"{{"x": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {offsets}}}}}"#);
            error_of(&with_header(&header, &[0; 8]))
        };
        assert!(one("F32", "[1152921504606846976]", "[0, 8]").contains("should have 4611686018427387904"));
        assert!(one("F32", "[4611686018427387904]", "[0, 8]").contains("no memory can hold"));
        assert!(one("F32", "[4294967296, 4294967296]", "[0, 8]").contains("no memory can hold"));
        assert!(one("F32", "[3]", "[0, 8]").contains("should have 12"));
        assert!(one("F32", "[-1]", "[0, 8]").contains("its tensor \"x\""));
        assert!(one("F32", "[2]", "[8, 0]").contains("overlap or leave gaps"));
        assert!(one("F32", "[2]", "[0, 18446744073709551615]").contains("cut short or damaged"));
        assert!(one("F32", "[1]", "[4, 8]").contains("overlap or leave gaps"));
        assert!(one("F8_E4M3", "[8]", "[0, 8]").contains("F8_E4M3"));
        for header in ["[]", "{", "", r#"{"x": 1}"#, r#"{"x": {"dtype": "F32"}}"#] {
            assert!(Safetensors::new().read(&with_header(header, b"")).is_err(), "{header}");
        }
        let nested = format!(r#"{{"x": {}"#, "[".repeat(100_000));
        assert!(error_of(&with_header(&nested, b"")).contains("recursion limit"));
    }

    proptest! {
        #[test]
        fn damaged_files_never_panic(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut file = file();
            for (index, byte) in edits {
                let index = index.index(file.len());
                file[index] = byte;
            }
            let _ = Safetensors::new().read(&file);
        }
    }
}
