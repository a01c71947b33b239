//! Files of one NumPy array.

use std::fmt;
use std::marker::PhantomData;

use anyhow::{Context, Result, bail, ensure};
use ndarray::ArrayD;

use super::elements::sealed::ArrayElement as _;
use super::elements::{AnyArray, ArrayElement, ArrayHeader, StoredType};
use super::stack::StackArrays;
use crate::decode::{Decode, DecodeMemory, ItemMemory};
use crate::encoding::{DEFAULT_MAX_DECOMPRESSED, first_bytes};
use crate::read::RawSample;

const SIGNATURE: &[u8] = b"\x93NUMPY";

/// NumPy itself refuses longer headers unless it is asked not to; those of plain numbers have about 100 bytes.
const MAX_HEADER_BYTES: usize = 10_000;

/// Decodes `.npy` files, as `numpy.save` writes them, to arrays of `T`, decompressed if they are
/// [compressed](crate::encoding). Arrays of one shape stack to one of a batch.
///
/// Numbers are in either byte order, and in C or Fortran order. Those of a file must be of type `T`; only `float16` is
/// read to `f32`, which has all its values. Structures, objects, texts, times and complex numbers are errors.
///
/// ```no_run
/// use dataflux::{DataLoader, DatafluxDataset, Npy};
///
/// # fn main() -> anyhow::Result<()> {
/// let dataset = DatafluxDataset::open("gs://my-bucket/spectra/")?.decode(Npy::<f32>::new());
/// let loader = DataLoader::builder(dataset).batch_size(32).build()?;
/// for batch in &mut loader.epoch(0)? {
///     let spectra = batch?.into_ndarray()?; // (32, ...)
/// }
/// # Ok(()) }
/// ```
///
/// With a label, such as the index of the object's folder, decode in a closure:
///
/// ```
/// use dataflux::ndarray::ArrayD;
/// use dataflux::{Decode, Npy, RawSample};
///
/// let labelled = |sample: RawSample| -> anyhow::Result<(ArrayD<f32>, Option<u32>)> {
///     let label = sample.entry().label;
///     Ok((Npy::new().decode(sample)?, label))
/// };
/// # fn check(_: impl Decode) {}
/// # check(labelled);
/// ```
pub struct Npy<T> {
    max_decompressed: u64,
    element: PhantomData<fn() -> T>,
}

impl<T> Npy<T> {
    /// Decodes files of up to 1 GiB, if they are compressed.
    pub fn new() -> Self {
        Self { max_decompressed: DEFAULT_MAX_DECOMPRESSED, element: PhantomData }
    }

    /// Sets how many bytes a compressed object may decompress to: 1 GiB by default.
    #[must_use]
    pub fn max_decompressed(mut self, bytes: u64) -> Self {
        self.max_decompressed = bytes;
        self
    }
}

impl<T> Default for Npy<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for Npy<T> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<T> fmt::Debug for Npy<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Npy").field("max_decompressed", &self.max_decompressed).finish_non_exhaustive()
    }
}

impl<T: ArrayElement> Decode for Npy<T> {
    type Item = ArrayD<T>;
    type Collate = StackArrays;

    fn decode(&self, sample: RawSample) -> Result<ArrayD<T>> {
        let bytes = sample.decompress(self.max_decompressed)?;
        drop(sample);
        read_npy(&bytes)?.try_into_array()
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
            // The header can't be seen, and floats of 32 bits may be stored as 16.
            let is_estimate = memory.is_estimate || T::NAME == f32::NAME;
            return Some(DecodeMemory { item: memory.size, scratch: memory.scratch(), is_estimate });
        }
        let factor = split(sample.bytes()).map_or(1, |(header, _)| header.stored.growth());
        Some(DecodeMemory { item: memory.size.saturating_mul(factor), scratch: 0, is_estimate: false })
    }
}

/// The array of a file.
///
/// # Errors
/// The file is of another format, damaged or cut short, or holds no plain numbers.
pub(super) fn read_npy(file: &[u8]) -> Result<AnyArray> {
    let (header, numbers) = split(file)?;
    header.read(numbers)
}

/// What a file's header says, and the bytes behind it.
pub(super) fn split(file: &[u8]) -> Result<(ArrayHeader, &[u8])> {
    let Some(rest) = file.strip_prefix(SIGNATURE) else {
        bail!(
            "it is no file of NumPy ({}, and {} was wanted); leave it out, or decode it otherwise",
            first_bytes(file),
            first_bytes(SIGNATURE)
        );
    };
    let cut = "its NumPy header is cut short; upload it again";
    let ([major, minor], rest) = rest.split_first_chunk().context(cut)?;
    let (length, rest) = match major {
        1 => {
            let (length, rest) = rest.split_first_chunk().context(cut)?;
            (usize::from(u16::from_le_bytes(*length)), rest)
        }
        2 | 3 => {
            let (length, rest) = rest.split_first_chunk().context(cut)?;
            (u32::from_le_bytes(*length) as usize, rest)
        }
        _ => bail!("it is a NumPy file of version {major}.{minor}, and 1 to 3 are supported; save it again"),
    };
    ensure!(
        length <= MAX_HEADER_BYTES,
        "its NumPy header claims {length} bytes, and {MAX_HEADER_BYTES} are allowed; it is damaged, or no plain numbers"
    );
    let (header, numbers) = rest.split_at_checked(length).context(cut)?;
    let header = Literal { rest: header }.header().with_context(|| {
        format!("its NumPy header {:?} is none of plain numbers", String::from_utf8_lossy(header).trim_end())
    })?;
    Ok((header, numbers))
}

/// A literal of Python, of which a header is made.
struct Literal<'a> {
    rest: &'a [u8],
}

impl<'a> Literal<'a> {
    /// Reads a dictionary such as `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
    fn header(mut self) -> Result<ArrayHeader> {
        let (mut number_type, mut is_fortran, mut shape) = (None, None, None);
        self.expect(b'{')?;
        while !self.accepts(b'}') {
            let key = self.text()?;
            self.expect(b':')?;
            match key {
                b"descr" => number_type = Some(self.number_type()?),
                b"fortran_order" => is_fortran = Some(self.truth()?),
                b"shape" => shape = Some(self.shape()?),
                other => bail!("it has an unknown key {:?}", String::from_utf8_lossy(other)),
            }
            if !self.accepts(b',') {
                self.expect(b'}')?;
                break;
            }
        }
        self.skip_space();
        ensure!(self.rest.is_empty(), "something follows its dictionary");
        let (stored, is_big_endian) = number_type.context("the key 'descr' is missing")?;
        let is_fortran = is_fortran.context("the key 'fortran_order' is missing")?;
        let shape = shape.context("the key 'shape' is missing")?;
        Ok(ArrayHeader { stored, is_big_endian, is_fortran, shape })
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }

    fn accepts(&mut self, byte: u8) -> bool {
        self.skip_space();
        let rest = self.rest.strip_prefix(&[byte]);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        ensure!(self.accepts(byte), "a {:?} is missing", char::from(byte));
        Ok(())
    }

    fn text(&mut self) -> Result<&'a [u8]> {
        self.skip_space();
        let Some((&quote @ (b'\'' | b'"'), rest)) = self.rest.split_first() else { bail!("a text is missing") };
        let end = rest.iter().position(|byte| *byte == quote).context("a text has no end")?;
        self.rest = &rest[end + 1..];
        Ok(&rest[..end])
    }

    fn number_type(&mut self) -> Result<(StoredType, bool)> {
        self.skip_space();
        ensure!(self.rest.first() != Some(&b'['), "its numbers are structures, of which save each field by itself");
        let text = self.text()?;
        let unknown = || {
            let text = String::from_utf8_lossy(text);
            let what = if text.contains('O') { ", which is objects of Python" } else { "" };
            format!(
                "its type is {text:?}{what}, and bool, integers of 8 to 64 bits and floats of 16 to 64 are supported"
            )
        };
        let (order, kind) = text.split_first().with_context(unknown)?;
        let stored = match kind {
            b"b1" => StoredType::Bool,
            b"i1" => StoredType::I8,
            b"i2" => StoredType::I16,
            b"i4" => StoredType::I32,
            b"i8" => StoredType::I64,
            b"u1" => StoredType::U8,
            b"u2" => StoredType::U16,
            b"u4" => StoredType::U32,
            b"u8" => StoredType::U64,
            b"f2" => StoredType::F16,
            b"f4" => StoredType::F32,
            b"f8" => StoredType::F64,
            _ => bail!(unknown()),
        };
        let is_big_endian = match order {
            b'>' => true,
            b'<' => false,
            b'|' if stored.stored_bytes() == 1 => false,
            _ => bail!(unknown()),
        };
        Ok((stored, is_big_endian))
    }

    fn truth(&mut self) -> Result<bool> {
        self.skip_space();
        for (word, value) in [(&b"True"[..], true), (b"False", false)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Ok(value);
            }
        }
        bail!("its order is neither True nor False")
    }

    fn shape(&mut self) -> Result<Vec<usize>> {
        let mut shape = Vec::new();
        self.expect(b'(')?;
        while !self.accepts(b')') {
            let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let (number, rest) = self.rest.split_at(digits);
            let number = std::str::from_utf8(number)?;
            shape.push(number.parse().with_context(|| format!("its shape has the length {number:?}"))?);
            // Python 2 wrote lengths as `3L`.
            self.rest = rest.strip_prefix(b"L").unwrap_or(rest);
            if !self.accepts(b',') {
                self.expect(b')')?;
                break;
            }
        }
        Ok(shape)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;

    /// A file as NumPy writes it.
    pub(in super::super) fn npy(descr: &str, is_fortran: bool, shape: &str, numbers: &[u8]) -> Vec<u8> {
        let order = if is_fortran { "True" } else { "False" };
        with_header(&format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}"), numbers)
    }

    fn with_header(header: &str, numbers: &[u8]) -> Vec<u8> {
        let mut file = [SIGNATURE, &[1, 0]].concat();
        let padded = (10 + header.len() + 1).next_multiple_of(64);
        file.extend(((padded - 10) as u16).to_le_bytes());
        file.extend(header.as_bytes());
        file.resize(padded - 1, b' ');
        file.push(b'\n');
        file.extend(numbers);
        file
    }

    fn error_of(file: &[u8]) -> String {
        format!("{:#}", read_npy(file).unwrap_err())
    }

    #[test]
    fn orders_of_bytes_and_indices_are_read() {
        let numbers: Vec<u8> = (1..=6_i16).flat_map(i16::to_le_bytes).collect();
        let swapped: Vec<u8> = (1..=6_i16).flat_map(i16::to_be_bytes).collect();
        let wanted = AnyArray::I16(array![[1, 2, 3], [4, 5, 6]].into_dyn());
        assert_eq!(read_npy(&npy("<i2", false, "(2, 3)", &numbers)).unwrap(), wanted);
        assert_eq!(read_npy(&npy(">i2", false, "(2L, 3L)", &swapped)).unwrap(), wanted);
        let fortran = AnyArray::I16(array![[1, 3, 5], [2, 4, 6]].into_dyn());
        assert_eq!(read_npy(&npy("<i2", true, "(2, 3)", &numbers)).unwrap(), fortran);
        assert_eq!(read_npy(&npy("<i2", false, "(6,)", &numbers)).unwrap().shape(), [6]);
        assert_eq!(read_npy(&npy("<i2", false, "()", &numbers[..2])).unwrap().shape(), [0; 0]);
        assert_eq!(read_npy(&npy("<i2", true, "(0, 7)", b"")).unwrap().shape(), [0, 7]);
        let flags = read_npy(&npy("|b1", false, "(2,)", &[0, 1])).unwrap();
        assert_eq!(flags, AnyArray::Bool(array![false, true].into_dyn()));
        let nan = read_npy(&npy("<f4", false, "(1,)", &f32::NAN.to_le_bytes())).unwrap();
        assert!(nan.try_into_array::<f32>().unwrap()[0].is_nan());
    }

    #[test]
    fn all_versions_are_read() {
        let first = npy("<u4", false, "(1,)", &[7, 0, 0, 0]);
        let mut second = first.clone();
        second[6] = 2;
        second.splice(10..10, [0, 0]);
        assert_eq!(read_npy(&second).unwrap(), read_npy(&first).unwrap());
        second[6] = 4;
        assert!(error_of(&second).contains("version 4.0"));
        // A header that claims 4 GiB.
        let claim = [SIGNATURE, &[2, 0, 0xff, 0xff, 0xff, 0xff], b"{"].concat();
        assert!(error_of(&claim).contains("claims 4294967295 bytes"));
    }

    #[test]
    fn files_that_are_cut_short_or_too_long_are_errors() {
        let file = npy("<f8", false, "(2, 2)", &[0; 32]);
        for length in 0..file.len() {
            let error = error_of(&file[..length]);
            let wanted = if length < SIGNATURE.len() { "no file of NumPy" } else { "cut short" };
            assert!(error.contains(wanted), "{length}: {error}");
        }
        assert!(error_of(&[&file[..], &[0]].concat()).contains("have 33 bytes and should have 32"));
        assert!(error_of(b"").contains("it is empty, and first bytes 93 4e 55 4d 50 59 was wanted"));
    }

    #[test]
    fn headers_that_claim_too_much_or_nonsense_are_errors() {
        let claims = |shape: &str| error_of(&npy("<f8", false, shape, &[0; 8]));
        assert!(claims("(1152921504606846976,)").contains("no memory can hold"));
        assert!(claims("(4294967296, 4294967296, 4294967296)").contains("no memory can hold"));
        assert!(claims("(1152921504606846976, 0, 16)").contains("no memory can hold"));
        assert!(claims("(99999999999999999999,)").contains("the length \"99999999999999999999\""));
        assert!(claims("(-1,)").contains("the length \"\""));
        assert!(claims("(1,").contains("none of plain numbers"));
        assert!(claims(&format!("({})", "1, ".repeat(100))).contains("100 dimensions"));

        let of_type = |descr: &str| error_of(&npy(descr, false, "(1,)", &[0; 8]));
        assert!(of_type("|O").contains("objects of Python"));
        assert!(of_type("<c8").contains("its type is \"<c8\""));
        assert!(of_type("<U5").contains("its type is \"<U5\""));
        assert!(of_type("").contains("its type is \"\""));
        assert!(of_type("|f8").contains("its type is \"|f8\""));
        let structure = "{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (1,)}";
        assert!(error_of(&with_header(structure, &[0; 4])).contains("structures"));
        for header in
            ["", "{", "{}", "[]", "{'shape': (1,)}", "{'descr': '<f4', 'fortran_order': 0, 'shape': ()}", "{'x': 1}"]
        {
            assert!(error_of(&with_header(header, b"")).contains("none of plain numbers"), "{header}");
        }
    }

    proptest! {
        #[test]
        fn damaged_files_never_panic(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut file = npy("<f4", false, "(2, 3)", &[1; 24]);
            for (index, byte) in edits {
                let index = index.index(file.len());
                file[index] = byte;
            }
            let _ = read_npy(&file);
        }
    }
}
