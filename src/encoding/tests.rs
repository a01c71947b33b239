//! Tests of all compressions.

use std::io::Write;

use flate2::write::{GzEncoder, ZlibEncoder};

use super::*;
use crate::store::ContentEncoding;

fn text() -> Vec<u8> {
    b"meow ".repeat(50)
}

fn hex(digits: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
    digits.as_bytes().chunks(2).map(|pair| digit(pair[0]) * 16 + digit(pair[1])).collect()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Each compression that is enabled, with [`text`] as other programs compress it.
fn files() -> Vec<(Compression, Vec<u8>)> {
    vec![
        (Compression::Gzip, gzip(&text())),
        (Compression::Zlib, zlib(&text())),
        (Compression::Zstd, hex("28b52ffd24fa650000286d656f772001007250450bf5671ded")),
        #[cfg(feature = "bzip2")]
        (
            Compression::Bzip2,
            hex("425a683931415926535947fd407800004a9180400002028080200020a5460668351622fa2c45a8b85dc914e142411ff501e0"),
        ),
        #[cfg(feature = "xz")]
        (
            Compression::Xz,
            hex("fd377a585a000004e6d6b4460200210116000000742fe5a3e000f9000b5d0036994a4596593fab33c0000000\
                 e67a8c77335448e2000127fa01000000cacec463b1c467fb020000000004595a"),
        ),
        #[cfg(feature = "brotli")]
        (Compression::Brotli, hex("1bf900f88d946edeb404296babb7bb582d0a789d00")),
    ]
}

fn error_of(compression: Compression, bytes: &[u8]) -> String {
    format!("{:#}", compression.decompress(bytes, 1 << 20).unwrap_err())
}

#[test]
fn all_compressions_decompress_within_a_limit() {
    for (compression, file) in files() {
        assert_eq!(compression.decompress(&file, 1_000).unwrap(), text(), "{compression:?}");
        assert_eq!(compression.decompress(&file, 250).unwrap(), text(), "{compression:?}");
        for limit in [0, 1, 100, 249] {
            let error = compression.decompress(&file, limit).unwrap_err().to_string();
            assert!(error.contains(&format!("to more than the {limit} bytes")), "{compression:?}: {error}");
        }
    }
}

#[test]
fn files_that_are_cut_short_damaged_or_followed_by_others_are_errors() {
    for (compression, file) in files() {
        for length in 0..file.len() {
            assert!(compression.decompress(&file[..length], 1_000).is_err(), "{compression:?} of {length} bytes");
        }
        // Not every flipped bit is an error: a gzip header holds a time, and brotli no checksum.
        for index in 0..file.len() {
            for bit in 0..8 {
                let mut damaged = file.clone();
                damaged[index] ^= 1 << bit;
                if let Ok(bytes) = compression.decompress(&damaged, 1_000)
                    && compression != Compression::Brotli
                {
                    assert_eq!(bytes, text(), "{compression:?}: bit {bit} of byte {index}");
                }
            }
        }
        let followed = [&file[..], b"garbage"].concat();
        let error = error_of(compression, &followed);
        if compression != Compression::Xz {
            assert!(error.contains("7 bytes follow the end"), "{compression:?}: {error}");
        }
    }
}

#[test]
fn files_may_have_several_members() {
    for (compression, file) in files() {
        if !matches!(compression, Compression::Zlib | Compression::Brotli) {
            assert_eq!(compression.decompress(&file.repeat(3), 1_000).unwrap(), text().repeat(3), "{compression:?}");
            let error = compression.decompress(&file.repeat(3), 749).unwrap_err().to_string();
            assert!(error.contains("to more than the 749 bytes"), "{compression:?}: {error}");
        }
    }
    let padded = [&gzip(&text())[..], &[0; 500]].concat();
    assert_eq!(Compression::Gzip.decompress(&padded, 1_000).unwrap(), text());
    #[cfg(feature = "bzip2")]
    {
        let empty = hex("425a683917724538509000000000");
        assert_eq!(Compression::Bzip2.decompress(&empty, 0).unwrap(), b"");
    }
    assert_eq!(Compression::Gzip.decompress(&gzip(b""), 0).unwrap(), b"");
    let skippable = [&[0x53, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 7, 7][..], &files()[2].1].concat();
    assert_eq!(Compression::Zstd.decompress(&skippable, 1_000).unwrap(), text());
    assert_eq!(Compression::Zstd.decompressed_size(&skippable), Some(250));
}

/// What deflate makes of zeros is the same code over and over, so 10 GiB of them are as easily written.
#[test]
fn ten_gigabytes_of_zeros_are_an_error_in_bounded_memory() {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&vec![0; 10 << 20]).unwrap();
    let member = encoder.finish().unwrap();
    let bomb = member.repeat(1_024);
    let error = Compression::Gzip.decompress(&bomb, 1 << 20).unwrap_err().to_string();
    assert!(error.contains("to more than the 1048576 bytes"), "{error}");

    // A block of zstd that repeats one byte 128 KiB times takes four bytes; the frame claims 80 GiB.
    let mut bomb = hex("28b52ffdc0");
    bomb.push(0x58);
    bomb.extend((80_u64 << 30).to_le_bytes());
    for _ in 0..(80_u64 << 30) / (128 << 10) {
        bomb.extend([2, 0, 0x10, 0]);
    }
    bomb.extend([1, 0, 0]);
    assert_eq!(Compression::Zstd.decompressed_size(&bomb), Some(80 << 30));
    let error = Compression::Zstd.decompress(&bomb, 1 << 20).unwrap_err().to_string();
    assert!(error.contains("to more than the 1048576 bytes"), "{error}");
}

#[test]
fn a_window_of_gigabytes_is_refused() {
    // A window of 2^40 bytes, and one empty block.
    let file = hex("28b52ffd00f0010000");
    let error = error_of(Compression::Zstd, &file);
    assert!(error.contains("damaged") || error.contains("window"), "{error}");
    assert!(error.to_lowercase().contains("window"), "{error}");
}

#[test]
fn headers_claim_the_size() {
    for (compression, file) in files() {
        let wanted = match compression {
            Compression::Gzip | Compression::Zstd | Compression::Xz => Some(250),
            _ => None,
        };
        assert_eq!(compression.decompressed_size(&file), wanted, "{compression:?}");
        for length in 0..file.len() {
            let _ = compression.decompressed_size(&file[..length]);
        }
    }
    // The last of many members may be empty, as bgzip writes it.
    let members = [gzip(&text().repeat(1_000)).repeat(10), gzip(b"")].concat();
    assert_eq!(Compression::Gzip.decompressed_size(&members), None);
    let zstd = &files()[2].1;
    assert_eq!(Compression::Zstd.decompressed_size(&zstd.repeat(3)), Some(750));
    // Without a size in its header, as it is written to a pipe.
    let piped = hex("28b52ffd0458650000286d656f772001007250450bf5671ded");
    assert_eq!(Compression::Zstd.decompress(&piped, 250).unwrap(), text());
    assert_eq!(Compression::Zstd.decompressed_size(&piped), None);
}

#[test]
fn the_encoding_decides_and_then_the_name() {
    let of = |encoding, name| Compression::of(encoding, name).unwrap();
    assert_eq!(of(ContentEncoding::Identity, "a/b.json"), None);
    assert_eq!(of(ContentEncoding::Identity, "a.gz/b"), None);
    assert_eq!(of(ContentEncoding::Identity, "gz"), None);
    assert_eq!(of(ContentEncoding::Identity, "a/b.json.gz"), Some(Compression::Gzip));
    assert_eq!(of(ContentEncoding::Identity, "a/b.json.zst"), Some(Compression::Zstd));
    assert_eq!(of(ContentEncoding::Zstd, "a/b.json.gz"), Some(Compression::Zstd));
    assert_eq!(of(ContentEncoding::Gzip, "a/b.json"), Some(Compression::Gzip));
    assert!(Compression::of(ContentEncoding::Other, "a").unwrap_err().to_string().contains("Content-Encoding"));

    let error = error_of(Compression::Gzip, br#"{"a": 1}"#);
    assert!(error.contains("wanted 1f 8b, got first bytes 7b 22 61 22 3a 20 31 7d"), "{error}");
    assert!(error_of(Compression::Zstd, b"").contains("it is empty"));
}

#[cfg(not(all(feature = "bzip2", feature = "xz", feature = "brotli")))]
#[test]
fn a_missing_feature_is_named() {
    #[cfg(not(feature = "bzip2"))]
    assert!(error_of(Compression::Bzip2, b"BZh").contains("the feature `bzip2`"));
    #[cfg(not(feature = "xz"))]
    assert!(error_of(Compression::Xz, b"\xfd7zXZ\0").contains("the feature `xz`"));
    #[cfg(not(feature = "brotli"))]
    assert!(error_of(Compression::Brotli, b"").contains("the feature `brotli`"));
}

mod random {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn damaged_files_neither_panic_nor_exceed_the_limit(
            which in 0_usize..6,
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        ) {
            let files = files();
            let (compression, mut file) = files[which % files.len()].clone();
            for (index, byte) in edits {
                let index = index.index(file.len());
                file[index] = byte;
            }
            let _ = compression.decompressed_size(&file);
            if let Ok(bytes) = compression.decompress(&file, 1_000) {
                prop_assert!(bytes.len() <= 1_000);
            }
        }
    }
}
