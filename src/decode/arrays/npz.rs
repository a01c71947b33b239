//! Archives of NumPy arrays.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};

use super::named::{NamedArrays, missing};
use super::npy::{read_npy, split};
use super::stack::StackArrays;
use super::zip::{Member, members};
use crate::decode::{Decode, DecodeMemory, ItemMemory};
use crate::encoding::DEFAULT_MAX_DECOMPRESSED;
use crate::read::RawSample;

/// Decodes `.npz` files, as `numpy.savez` and `numpy.savez_compressed` write them, to [`NamedArrays`]. A batch has the
/// arrays of each name stacked.
///
/// What [`Npy`](super::Npy) says of arrays is true here, but that arrays may be of any of its types.
///
/// ```no_run
/// use dataflux::{DataLoader, DatafluxDataset, Npz};
///
/// # fn main() -> anyhow::Result<()> {
/// let dataset = DatafluxDataset::open("gs://my-bucket/episodes/")?.decode(Npz::new().arrays(["state", "action"]));
/// let loader = DataLoader::builder(dataset).batch_size(32).build()?;
/// for batch in &mut loader.epoch(0)? {
///     let mut batch = batch?.into_inner();
///     let states = batch.take::<f32>("state")?; // (32, ...)
///     let actions = batch.take::<i64>("action")?;
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Npz {
    max_decompressed: u64,
    arrays: Option<BTreeSet<String>>,
}

impl Default for Npz {
    fn default() -> Self {
        Self { max_decompressed: DEFAULT_MAX_DECOMPRESSED, arrays: None }
    }
}

impl Npz {
    /// Decodes all arrays of an archive, of up to 1 GiB in all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes only the arrays of these names, each of which an archive must have. Others aren't even decompressed.
    #[must_use]
    pub fn arrays<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.arrays = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Sets how many bytes the arrays of an archive may have in all: 1 GiB by default. It is the limit of a compressed
    /// object, too.
    #[must_use]
    pub fn max_decompressed(mut self, bytes: u64) -> Self {
        self.max_decompressed = bytes;
        self
    }

    /// The members to read, each with the name of its array.
    fn chosen<'a>(&self, file: &'a [u8]) -> Result<Vec<(String, Member<'a>)>> {
        let mut chosen = Vec::new();
        let mut names = BTreeSet::new();
        for member in members(file)? {
            let name = member.name.strip_suffix(".npy").map(str::to_owned);
            let Some(name) = name else {
                ensure!(
                    self.arrays.is_some(),
                    "its member {:?} is no .npy file; choose the arrays to decode with Npz::arrays",
                    member.name
                );
                continue;
            };
            if self.arrays.as_ref().is_none_or(|arrays| arrays.contains(&name)) {
                ensure!(names.insert(name.clone()), "it has two arrays {name:?}; save it again");
                chosen.push((name, member));
            }
        }
        if let Some(absent) = self.arrays.iter().flatten().find(|name| !names.contains(*name)) {
            let all = members(file)?;
            let all = all.iter().map(|member| member.name.strip_suffix(".npy").unwrap_or(&member.name));
            bail!(missing(absent, all));
        }
        let total = chosen.iter().fold(0_u64, |total, (_, member)| total.saturating_add(member.size));
        ensure!(
            total <= self.max_decompressed,
            "its arrays have {total} bytes, more than the {} that Npz::max_decompressed allows; raise that limit, \
             choose arrays with Npz::arrays, or leave it out",
            self.max_decompressed
        );
        Ok(chosen)
    }

    fn read(&self, file: &[u8]) -> Result<NamedArrays> {
        let array = |(name, member): (String, Member<'_>)| {
            let array = read_npy(&member.read()?).with_context(|| format!("its array {name:?}"))?;
            Ok((name, array))
        };
        self.chosen(file)?.into_iter().map(array).collect()
    }
}

impl Decode for Npz {
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
            // The directory can't be seen. Archives are seldom compressed again, as that gains nothing.
            return Some(DecodeMemory { item: memory.size, scratch: memory.scratch(), is_estimate: true });
        }
        let chosen = self.chosen(sample.bytes()).ok()?;
        let array_bytes = |(index, (_, member)): (usize, &(String, Member<'_>))| {
            // Of arrays whose headers aren't looked at, the most that they can take.
            let growth = if index < SHOWN_MEMBERS { growth(member) } else { MAX_GROWTH };
            member.size.saturating_mul(growth)
        };
        let item = chosen.iter().enumerate().map(array_bytes).fold(0, u64::saturating_add);
        let scratch = chosen.iter().map(|(_, member)| member.buffer_bytes()).max().unwrap_or_default();
        Some(DecodeMemory { item, scratch, is_estimate: false })
    }
}

/// Members whose headers are read for the memory budget, in some ten microseconds each where they are deflated.
const SHOWN_MEMBERS: usize = 64;

/// Bytes of a member that are read for that. Headers of plain numbers fill 128, unless there are very many dimensions.
const SHOWN_BYTES: usize = 512;

/// Floats of 16 bits become those of 32.
const MAX_GROWTH: u64 = 2;

/// How many times as large the array of a member is as the member.
fn growth(member: &Member<'_>) -> u64 {
    let start = member.start(SHOWN_BYTES);
    split(&start).map_or(MAX_GROWTH, |(header, _)| header.stored.growth())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::DeflateEncoder;
    use flate2::{Compression, Crc};
    use ndarray::array;
    use proptest::prelude::*;

    use super::super::npy::tests::npy;
    use super::*;
    use crate::decode::arrays::AnyArray;

    struct File {
        name: &'static str,
        bytes: Vec<u8>,
        is_deflated: bool,
        is_64: bool,
        /// What the directory claims, if it lies.
        claimed: Option<u64>,
    }

    fn file(name: &'static str, bytes: Vec<u8>) -> File {
        File { name, bytes, is_deflated: false, is_64: false, claimed: None }
    }

    fn deflated(name: &'static str, bytes: Vec<u8>) -> File {
        File { is_deflated: true, ..file(name, bytes) }
    }

    /// Floats of 16 bits were counted half, because the directory says nothing of them.
    #[test]
    fn the_growth_of_halves_is_counted() {
        let halves = npy("<f2", false, "(2, 50)", &[0; 200]);
        let size = halves.len() as u64;
        for file in [file("x.npy", halves.clone()), deflated("x.npy", halves.clone())] {
            let archive = zip(&[file]);
            let members = members(&archive).unwrap();
            assert_eq!((members[0].size, growth(&members[0])), (size, 2));
        }
        let floats = npy("<f4", false, "(50,)", &[0; 200]);
        let archive = zip(&[deflated("x.npy", floats), deflated("y.npy", b"meow".to_vec())]);
        let growths: Vec<_> = members(&archive).unwrap().iter().map(growth).collect();
        assert_eq!(growths, [1, MAX_GROWTH], "of what isn't understood, the most that it may be");
    }

    fn zip(files: &[File]) -> Vec<u8> {
        let (mut archive, mut directory) = (Vec::new(), Vec::new());
        for File { name, bytes, is_deflated, is_64, claimed } in files {
            let start = archive.len() as u32;
            let mut crc = Crc::new();
            crc.update(bytes);
            let mut data = bytes.clone();
            if *is_deflated {
                let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
                encoder.write_all(bytes).unwrap();
                data = encoder.finish().unwrap();
            }
            let size = claimed.unwrap_or(bytes.len() as u64);
            let extra: Vec<u8> = if *is_64 {
                let sizes = [size, data.len() as u64].map(u64::to_le_bytes);
                [&[1, 0, 16, 0][..], &sizes.concat()].concat()
            } else {
                Vec::new()
            };
            let narrow = |number: u64| if *is_64 { u32::MAX } else { number as u32 };
            let mut shared = vec![45, 0, 0, 0, if *is_deflated { 8 } else { 0 }, 0, 0, 0, 0, 0];
            shared.extend(crc.sum().to_le_bytes());
            shared.extend(narrow(data.len() as u64).to_le_bytes());
            shared.extend(narrow(size).to_le_bytes());
            shared.extend((name.len() as u16).to_le_bytes());
            shared.extend((extra.len() as u16).to_le_bytes());
            archive.extend(b"PK\x03\x04");
            archive.extend(&shared);
            archive.extend(name.as_bytes());
            archive.extend(&extra);
            archive.extend(&data);
            directory.extend(b"PK\x01\x02\x2d\x03");
            directory.extend(&shared);
            directory.extend([0; 10]);
            directory.extend(start.to_le_bytes());
            directory.extend(name.as_bytes());
            directory.extend(&extra);
        }
        let (start, size, count) = (archive.len() as u32, directory.len() as u32, files.len() as u16);
        archive.extend(directory);
        archive.extend(b"PK\x05\x06\0\0\0\0");
        archive.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
        archive.extend([size.to_le_bytes(), start.to_le_bytes()].concat());
        archive.extend([0, 0]);
        archive
    }

    fn x() -> Vec<u8> {
        npy("<f4", false, "(2,)", &[1_f32, 2.0].map(f32::to_le_bytes).concat())
    }

    fn y() -> Vec<u8> {
        npy("<i8", false, "()", &3_i64.to_le_bytes())
    }

    fn archive() -> Vec<u8> {
        zip(&[deflated("x.npy", x()), File { is_64: true, ..file("y.npy", y()) }])
    }

    fn error_of(decoder: &Npz, file: &[u8]) -> String {
        format!("{:#}", decoder.read(file).unwrap_err())
    }

    #[test]
    fn stored_and_deflated_arrays_are_read() {
        let arrays = Npz::new().read(&archive()).unwrap();
        assert_eq!(arrays.names().collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(*arrays.get("x").unwrap(), AnyArray::F32(array![1.0, 2.0].into_dyn()));
        assert_eq!(*arrays.get("y").unwrap(), AnyArray::I64(ndarray::arr0(3).into_dyn()));
        assert!(Npz::new().read(&zip(&[])).unwrap().is_empty());

        let mut commented = archive();
        let end = commented.len() - 2;
        commented[end..].copy_from_slice(&3_u16.to_le_bytes());
        commented.extend(b"cat");
        assert_eq!(Npz::new().read(&commented).unwrap(), arrays);
    }

    #[test]
    fn arrays_are_chosen_by_name() {
        let chosen = Npz::new().arrays(["y"]).read(&archive()).unwrap();
        assert_eq!(chosen.names().collect::<Vec<_>>(), ["y"]);
        let error = error_of(&Npz::new().arrays(["z"]), &archive());
        assert!(error.contains(r#"no array "z"; its arrays are ["x", "y"]"#), "{error}");
        let with_text = zip(&[file("x.npy", x()), file("readme.txt", b"cat".to_vec())]);
        assert!(error_of(&Npz::new(), &with_text).contains("Npz::arrays"));
        assert_eq!(Npz::new().arrays(["x"]).read(&with_text).unwrap().len(), 1);
        let twice = zip(&[file("x.npy", x()), file("x.npy", x())]);
        assert!(error_of(&Npz::new(), &twice).contains(r#"two arrays "x""#));
    }

    #[test]
    fn a_member_that_inflates_to_more_than_it_claims_or_may_is_an_error() {
        let zeros = npy("|u1", false, "(10485760,)", &vec![0; 10 << 20]);
        let bomb = zip(&[deflated("x.npy", zeros.clone())]);
        assert!(bomb.len() < 20_000);
        let error = error_of(&Npz::new().max_decompressed(1 << 20), &bomb);
        assert!(error.contains("its arrays have 10485888 bytes, more than the 1048576"), "{error}");

        let lying = zip(&[File { claimed: Some(200), ..deflated("x.npy", zeros.clone()) }]);
        let error = error_of(&Npz::new(), &lying);
        assert!(error.contains("to more than the 200 bytes"), "{error}");
        let lying = zip(&[File { claimed: Some(1 << 62), is_64: true, ..deflated("x.npy", zeros.clone()) }]);
        let error = error_of(&Npz::new(), &lying);
        assert!(error.contains("its arrays have 4611686018427387904 bytes"), "{error}");
        let lying = zip(&[File { claimed: Some(11 << 20), ..deflated("x.npy", zeros) }]);
        assert!(error_of(&Npz::new(), &lying).contains("and claims 11534336"));
    }

    #[test]
    fn archives_that_are_cut_short_or_damaged_are_errors() {
        let archive = archive();
        for length in 0..archive.len() {
            assert!(error_of(&Npz::new(), &archive[..length]).contains("no ZIP archive, or is cut short"), "{length}");
        }
        let wanted = Npz::new().read(&archive).unwrap();
        for index in 0..archive.len() {
            let mut damaged = archive.clone();
            damaged[index] ^= 0x41;
            if let Ok(arrays) = Npz::new().read(&damaged) {
                assert!(arrays.into_inner().into_values().eq(wanted.clone().into_inner().into_values()), "{index}");
            }
        }
        assert!(error_of(&Npz::new(), b"\x93NUMPY").contains("first bytes 93 4e 55"));
        let mut encrypted = zip(&[file("x.npy", x())]);
        let flags = encrypted.windows(4).position(|window| window == b"PK\x01\x02").unwrap() + 8;
        encrypted[flags] = 1;
        assert!(error_of(&Npz::new(), &encrypted).contains("encrypted"));
        encrypted[flags] = 0;
        encrypted[flags + 2] = 12;
        assert!(error_of(&Npz::new(), &encrypted).contains("method 12"));
        let cut = zip(&[deflated("x.npy", x()[..100].to_vec())]);
        assert!(error_of(&Npz::new(), &cut).contains(r#"its array "x""#));
    }

    proptest! {
        #[test]
        fn damaged_archives_never_panic(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut file = archive();
            for (index, byte) in edits {
                let index = index.index(file.len());
                file[index] = byte;
            }
            let _ = Npz::new().read(&file);
        }
    }
}
