//! Tests of decoders on samples, as the engine calls them.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use flate2::write::GzEncoder;
use ndarray::array;

use super::*;
use crate::manifest::tests::{manifest, object};
use crate::read::Origin;
use crate::sample::SampleId;
use crate::store::ContentEncoding;

fn sample(name: &str, encoding: ContentEncoding, bytes: Vec<u8>) -> RawSample {
    let mut object = object(name, bytes.len() as u64);
    object.encoding = encoding;
    let manifest = Arc::new(manifest(&[object]));
    let location = manifest.location(SampleId(0)).unwrap();
    RawSample::verified_before(&Origin::new(&manifest), SampleId(0), location, Bytes::from(bytes))
}

fn plain(name: &str, bytes: Vec<u8>) -> RawSample {
    sample(name, ContentEncoding::Identity, bytes)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn npy() -> Vec<u8> {
    let header = format!("{:117}\n", "{'descr': '<f2', 'fortran_order': False, 'shape': (2,), }");
    [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), &[0, 0x3c, 0, 0x40]].concat()
}

#[test]
fn decoders_decompress_by_encoding_and_by_name() {
    let array = array![1_f32, 2.0].into_dyn();
    assert_eq!(Npy::<f32>::new().decode(plain("p/a.npy", npy())).unwrap(), array);
    assert_eq!(Npy::<f32>::new().decode(plain("p/a.npy.gz", gzip(&npy()))).unwrap(), array);
    let encoded = sample("p/a.npy", ContentEncoding::Gzip, gzip(&npy()));
    assert_eq!(Npy::<f32>::new().decode(encoded.clone()).unwrap(), array);
    assert_eq!(encoded.bytes()[..2], [0x1f, 0x8b], "what is stored stays");

    assert_eq!(Text::new().decode(plain("p/a.txt.gz", gzip(b"cat"))).unwrap(), "cat");
    assert_eq!(Json::<Vec<u8>>::new().decode(plain("p/a.json.gz", gzip(b"[1, 2]"))).unwrap(), [1, 2]);
    let table = CsvRows::new().decode(plain("p/a.csv.gz", gzip(b"x\n1\n"))).unwrap();
    assert_eq!(table.get(0, 0), Some("1"));

    let unknown = sample("p/a.txt", ContentEncoding::Other, b"cat".to_vec());
    assert!(Text::new().decode(unknown).unwrap_err().to_string().contains("Content-Encoding"));
    let error = Text::new().max_decompressed(2).decode(plain("p/a.txt.gz", gzip(b"cat"))).unwrap_err().to_string();
    assert!(error.contains("more than the 2 bytes"), "{error}");
    let error = Text::new().decode(plain("p/a.txt.gz", b"cat".to_vec())).unwrap_err().to_string();
    assert!(error.contains("wanted 1f 8b, got first bytes 63 61 74"), "{error}");
}

#[test]
fn what_is_not_compressed_is_not_copied() {
    let raw = plain("p/a", b"cat".to_vec());
    assert_eq!(raw.decompress(0).unwrap().as_ptr(), raw.bytes().as_ptr());
}

#[test]
fn memory_is_known_before_decoding() {
    /// What decompressing gzip takes beside its output.
    const WINDOW: u64 = 64 << 10;
    let memory = |item, scratch| Some(DecodeMemory { item, scratch, is_estimate: false });
    let estimate = |item, scratch| Some(DecodeMemory { item, scratch, is_estimate: true });
    // Two floats of 16 bits become 32 bits; 132 bytes is the file's size.
    assert_eq!(Npy::<f32>::new().decode_memory(&plain("p/a.npy", npy())), memory(264, 0));
    // What is compressed may be such floats, too.
    let gzipped = plain("p/a.npy.gz", gzip(&npy()));
    assert_eq!(Npy::<f32>::new().decode_memory(&gzipped), estimate(132, 132 + WINDOW));
    assert_eq!(Npy::<i64>::new().decode_memory(&gzipped), memory(132, 132 + WINDOW));
    assert_eq!(Text::new().decode_memory(&plain("p/a", vec![b'a'; 100])), memory(100, 0));
    let zeros = gzip(&b"0".repeat(100_000));
    assert_eq!(Text::new().decode_memory(&plain("p/a.gz", zeros.clone())), memory(100_000, WINDOW));
    assert_eq!(Text::new().max_decompressed(50).decode_memory(&plain("p/a.gz", zeros)), memory(50, WINDOW));
    // zlib claims nothing.
    let zlib = sample("p/a", ContentEncoding::Deflate, vec![0; 100]);
    assert_eq!(Text::new().decode_memory(&zlib), estimate(400, WINDOW));
    for sample in [plain("p/a", Vec::new()), plain("p/a.gz", Vec::new()), plain("p/a.zst", vec![1; 3])] {
        let _ = (Npy::<u8>::new().decode_memory(&sample), Npz::new().decode_memory(&sample));
        let _ = (Safetensors::new().decode_memory(&sample), CsvRows::new().decode_memory(&sample));
        #[cfg(feature = "audio")]
        let _ = (Wav::new().decode_memory(&sample), Flac::new().decode_memory(&sample));
    }
}
