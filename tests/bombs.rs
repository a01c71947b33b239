//! Objects made to exhaust memory are errors that say what is wrong, and take little memory.
//!
//! A program of its own, which starts a process for each case, because it measures the peak memory of a process.
#![cfg(target_os = "linux")]

mod support;

use std::io::Write;

use dataflux::store::MemoryStore;
use dataflux::{CsvRows, DatafluxDataset, Decode, ErrorKind, ImageFolder, Json, Npy, Npz, Safetensors, Text};
use flate2::{Compress, Compression, Crc, FlushCompress};
use support::client;
use support::process::{MIB, forget_peak, in_own_process, peak};

/// Memory that a file may take in addition to its own bytes.
const MOST: u64 = 24 * MIB;

/// What reading an object of these bytes by this decoder returns. Fails if that takes more than [`MOST`] bytes.
fn decoded<D: Decode>(decode: D, name: &str, bytes: Vec<u8>) -> dataflux::Result<D::Item> {
    let store = MemoryStore::new().with_bucket("data");
    store.insert("data", &format!("p/cat/{name}"), bytes);
    let dataset = DatafluxDataset::open_with(client(store), "gs://data/p/").unwrap().decode(decode);
    forget_peak();
    let before = peak();
    let item = dataset.get(0);
    let grown = peak() - before;
    println!("budget: {name} took {grown} bytes");
    assert!(grown <= MOST, "{name} took {grown} bytes");
    item
}

/// The message with which the decoder refuses an object, which names the object.
fn refusal<D: Decode>(decode: D, name: &str, bytes: Vec<u8>) -> String {
    let Err(error) = decoded(decode, name, bytes) else { panic!("{name} was decoded") };
    assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
    let message = error.to_string();
    assert!(message.contains(name), "{message}");
    message
}

fn chunk(kind: &[u8], data: &[u8]) -> Vec<u8> {
    let mut crc = Crc::new();
    crc.update(kind);
    crc.update(data);
    [&(data.len() as u32).to_be_bytes()[..], kind, data, &crc.sum().to_be_bytes()].concat()
}

/// A grey PNG of these sides, with chunks before its image data.
fn png(width: u32, height: u32, before: &[u8], data: &[u8]) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 0, 0, 0, 0]].concat();
    let signature = b"\x89PNG\r\n\x1a\n";
    [signature, &chunk(b"IHDR", &header)[..], before, &chunk(b"IDAT", data), &chunk(b"IEND", b"")].concat()
}

/// A zlib stream of a GiB of zeros, without a checksum: the same blocks over and over.
fn gibibyte_of_zeros() -> Vec<u8> {
    let zeros = vec![0; 8 << 20];
    let mut blocks = Vec::with_capacity(1 << 20);
    Compress::new(Compression::best(), false).compress_vec(&zeros, &mut blocks, FlushCompress::Full).unwrap();
    [&[0x78, 0xda][..], &blocks.repeat(128)].concat()
}

#[test]
fn images_that_claim_or_inflate_to_gigabytes() {
    in_own_process("images_that_claim_or_inflate_to_gigabytes", || {
        let allowed = "60000 x 60000 = 3600000000 pixels (width x height), more than the 178956970 that";
        let bomb = gibibyte_of_zeros();
        assert!(refusal(ImageFolder::new(), "claims.png", png(60_000, 60_000, b"", &bomb[..1_000])).contains(allowed));

        let mut jpeg = vec![0xff, 0xd8, 0xff, 0xc0, 0, 11, 8];
        jpeg.extend([60_000_u16.to_be_bytes(); 2].concat());
        jpeg.extend([1, 1, 0x11, 0, 0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0]);
        assert!(refusal(ImageFolder::new(), "claims.jpg", jpeg.clone()).contains(allowed));
        #[cfg(feature = "turbojpeg")]
        {
            let turbo = || ImageFolder::new().jpeg_decoding(dataflux::JpegDecoding::Turbo);
            assert!(refusal(turbo(), "claims.jpg", jpeg.clone()).contains(allowed));
            // An image of the allowed size, of which no pixel is there, takes no more either.
            jpeg.splice(7..11, [2_000_u16.to_be_bytes(); 2].concat());
            let message = refusal(turbo(), "empty.jpg", jpeg);
            assert!(message.contains("cut short or damaged"), "{message}");
        }

        // More rows than the header claims are not inflated; a profile is only as far as it is plausible.
        let rows = decoded(ImageFolder::new(), "rows.png", png(64, 64, b"", &bomb));
        assert_eq!(rows.unwrap().bitmap.height(), 64);
        let profile = [&b"bomb\0\0"[..], &bomb].concat();
        let _ = decoded(ImageFolder::new(), "profile.png", png(64, 64, &chunk(b"iCCP", &profile), &bomb));
        let _ = decoded(ImageFolder::new(), "text.png", png(64, 64, &chunk(b"zTXt", &profile), &bomb));
        let text = [&b"bomb\0\x01\0\0\0"[..], &bomb].concat();
        let _ = decoded(ImageFolder::new(), "international.png", png(64, 64, &chunk(b"iTXt", &text), &bomb));
    });
}

/// A grey TIFF image of one pixel and one strip, followed by `count` bytes that are 3, which are the values of these
/// tags.
fn tiff(tags: &[u16], count: u32) -> Vec<u8> {
    let single = [256, 257, 258, 262, 273, 279];
    let places = (8_u32.to_le_bytes(), (10 + 12 * single.len() as u32 + 4).to_le_bytes());
    let entries = single.into_iter().flat_map(|tag| {
        let (kind, count, value) = match tag {
            _ if tags.contains(&tag) => (1, count, places.1),
            258 | 273 => (3, 1, places.0),
            _ => (3, 1, 1_u32.to_le_bytes()),
        };
        [&u16::to_le_bytes(tag)[..], &u16::to_le_bytes(kind), &count.to_le_bytes(), &value].concat()
    });
    let head = [b"II*\0", &places.0[..], &[single.len() as u8, 0]].concat();
    head.into_iter().chain(entries).chain([0; 4]).chain(std::iter::repeat_n(3, count as usize)).collect()
}

#[test]
fn tiff_images_with_millions_of_values() {
    in_own_process("tiff_images_with_millions_of_values", || {
        // Without them it is an image, whose pixel is the byte at 8: the number of tags.
        assert_eq!(decoded(ImageFolder::new(), "one.tif", tiff(&[], 0)).unwrap().bitmap.values(), [6; 3]);
        let message = refusal(ImageFolder::new(), "bits.tif", tiff(&[258], 4 << 20));
        assert!(message.contains("tag 258 has 4194304 values and should have 65535 at most"), "{message}");
        let message = refusal(ImageFolder::new(), "fewer_bits.tif", tiff(&[258], 60_000));
        assert!(message.contains("1 samples of [3, 3, 3, 3, 3, 3, 3, 3] bits"), "{message:.2000}");
        let message = refusal(ImageFolder::new(), "strips.tif", tiff(&[273, 279], 4 << 20));
        assert!(message.contains("it has 4194304 strips or tiles and should have 1"), "{message}");
    });
}

#[test]
fn files_that_decompress_to_ten_gigabytes() {
    in_own_process("files_that_decompress_to_ten_gigabytes", || {
        let mut member = flate2::write::GzEncoder::new(Vec::new(), Compression::best());
        member.write_all(&vec![0; 10 << 20]).unwrap();
        let bomb = member.finish().unwrap().repeat(1_024);
        let allowed = "it decompresses (gzip) to more than the 1048576 bytes that are allowed";
        assert!(refusal(Text::new().max_decompressed(MIB), "zeros.txt.gz", bomb.clone()).contains(allowed));
        assert!(refusal(CsvRows::new().max_decompressed(MIB), "zeros.csv.gz", bomb.clone()).contains(allowed));
        assert!(refusal(Npy::<f32>::new().max_decompressed(MIB), "zeros.npy.gz", bomb).contains(allowed));
    });
}

fn npy(shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
    [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// An archive with one deflated member that claims this size.
fn npz(claimed: u64, data: &[u8]) -> Vec<u8> {
    let mut member = flate2::write::DeflateEncoder::new(Vec::new(), Compression::best());
    member.write_all(data).unwrap();
    let stored = member.finish().unwrap();
    let sizes = [&[1, 0, 16, 0][..], &claimed.to_le_bytes(), &(stored.len() as u64).to_le_bytes()].concat();
    let mut shared = [&[45, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &[0xff; 8]].concat();
    shared.extend([5, 0, sizes.len() as u8, 0]);
    let local = [b"PK\x03\x04", &shared[..], b"x.npy", &sizes, &stored].concat();
    let central = [b"PK\x01\x02\x2d\x03", &shared[..], &[0; 14], b"x.npy", &sizes].concat();
    let places = [(central.len() as u32).to_le_bytes(), (local.len() as u32).to_le_bytes()].concat();
    [&local[..], &central, b"PK\x05\x06\0\0\0\0\x01\0\x01\0", &places, &[0, 0]].concat()
}

#[test]
fn arrays_that_claim_more_than_they_have() {
    in_own_process("arrays_that_claim_more_than_they_have", || {
        let message = refusal(Npy::<f32>::new(), "cut.npy", npy("(1000, 1000)", &[0; 100]));
        assert!(message.contains("have 100 bytes and should have 4000000"), "{message}");
        assert!(message.contains("it is cut short: upload it again"), "{message}");
        let message = refusal(Npy::<f32>::new(), "claims.npy", npy("(1152921504606846976,)", &[0; 100]));
        assert!(message.contains("have 100 bytes and should have 4611686018427387904"), "{message}");

        let message = refusal(Npz::new(), "claims.npz", npz(1 << 60, &npy("(2,)", &[0; 8])));
        assert!(message.contains("its arrays have 1152921504606846976 bytes, more than the 1073741824"), "{message}");
        let message = refusal(Npz::new(), "lies.npz", npz(1 << 29, &npy("(2,)", &[0; 8])));
        assert!(message.contains("claims 536870912"), "{message}");
        let message = refusal(Npz::new(), "inflates.npz", npz(1_000, &vec![0; 16 << 20]));
        assert!(message.contains("to more than the 1000 bytes"), "{message}");

        let length = [&(1_u64 << 60).to_le_bytes()[..], b"{}"].concat();
        let message = refusal(Safetensors::new(), "length.safetensors", length);
        assert!(message.contains("it is no safetensors file, or is cut short"), "{message}");
        let header = r#"{"x":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,1152921504606846976]}}"#;
        let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 8]].concat();
        let message = refusal(Safetensors::new(), "claims.safetensors", file);
        assert!(message.contains("have 8 bytes and should have 1152921504606846976"), "{message}");
    });
}

#[test]
fn texts_without_an_end() {
    in_own_process("texts_without_an_end", || {
        let field = [b"a,b\n1,\"", &*vec![b'x'; 4 << 20]].concat();
        let message = refusal(CsvRows::new(), "field.csv", field);
        assert!(message.contains("no closing quote for the cell that begins in line 2"), "{message}");
        let message = refusal(CsvRows::new(), "commas.csv", [b"a\n", &*vec![b','; 1 << 20]].concat());
        assert!(message.contains("has 1048577 fields, and its first one 1"), "{message}");
        let message = refusal(CsvRows::new().max_decompressed(MIB), "columns.csv", vec![b','; 1 << 20]);
        assert!(message.contains("raise that limit with max_decompressed"), "{message}");
        let message = refusal(Json::<Vec<u8>>::new(), "deep.json", vec![b'['; 4 << 20]);
        assert!(message.contains("no JSON value of"), "{message}");
    });
}

#[cfg(feature = "audio")]
#[test]
fn audio_that_claims_hours() {
    use dataflux::{Flac, Wav};

    in_own_process("audio_that_claims_hours", || {
        let format = [1, 0, 1, 0, 0x80, 0x3e, 0, 0, 0, 0x7d, 0, 0, 2, 0, 16, 0];
        let claim = [b"data", &(u32::MAX - 1).to_le_bytes()[..], &[0; 100]].concat();
        let wav = [b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0", &format[..], &claim].concat();
        let message = refusal(Wav::new(), "claims.wav", wav);
        assert!(message.contains("has 100 bytes of samples and claims 4294967294"), "{message}");

        // Blocks of 65,535 frames, of 2^24 - 1 bytes, in eight channels; and 2^36 - 1 frames, or an unknown number.
        let flac = |frames: u64| {
            let numbers = 655_350_u64 << 44 | 7 << 41 | 31 << 36 | frames;
            let block = [&[0xff; 10][..], &numbers.to_be_bytes(), &[0; 16]].concat();
            let frame = [&[0xff, 0xf8, 0x70, 0x70, 0, 0xff, 0xfe][..], &[0; 100]].concat();
            [b"fLaC\x80\0\0\x22", &block[..], &frame].concat()
        };
        let message = refusal(Flac::new(), "claims.flac", flac((1 << 36) - 1));
        assert!(message.contains("68719476735 frames of 8 channels"), "{message}");
        let message = refusal(Flac::new(), "blocks.flac", flac(0));
        assert!(message.contains("damaged"), "{message}");
        // Few enough frames to be allowed, of which there is none.
        let message = refusal(Flac::new(), "few.flac", flac(30_000_000));
        assert!(message.contains("damaged"), "{message}");
    });
}
