//! CRC32C and MD5, their base64 forms, and CRC32C as linear algebra over GF(2).
//!
//! Without its initial value and final inversion, a CRC is a linear map of the message. Two things follow. Appending to
//! a message multiplies its CRC by a matrix ([`combine`]). And the CRC of a buffer XORed with a repeated word is the
//! CRC of the buffer XORed with a linear map of the word ([`RepeatedWord`]), so that the CRC of a virtual object takes
//! a few table look-ups, whatever its size.

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use md5::{Digest, Md5};

/// The Castagnoli polynomial with its bits reversed.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// A linear map of a CRC register. Column `i` is the image of bit `i`.
type CrcMatrix = [u32; 32];

fn apply(matrix: &CrcMatrix, mut vector: u32) -> u32 {
    let mut image = 0;
    while vector != 0 {
        image ^= matrix[vector.trailing_zeros() as usize];
        vector &= vector - 1;
    }
    image
}

/// Entry `k` is the matrix that advances a CRC register over `2^k` zero bytes.
static ZERO_RUNS: LazyLock<Vec<CrcMatrix>> = LazyLock::new(|| {
    let mut matrix: CrcMatrix = std::array::from_fn(|bit| {
        (0..8).fold(1_u32 << bit, |r, _| if r & 1 == 1 { (r >> 1) ^ POLYNOMIAL } else { r >> 1 })
    });
    let mut powers = Vec::with_capacity(64);
    for _ in 0..64 {
        powers.push(matrix);
        matrix = std::array::from_fn(|bit| apply(&matrix, matrix[bit]));
    }
    powers
});

/// The CRC register after `bytes` more zero bytes.
fn advance(mut register: u32, mut bytes: u64) -> u32 {
    while bytes != 0 {
        register = apply(&ZERO_RUNS[bytes.trailing_zeros() as usize], register);
        bytes &= bytes - 1;
    }
    register
}

/// The CRC32C of A followed by B, from the CRCs of A and B and the length of B in bytes.
pub(crate) fn combine(a: u32, b: u32, length_of_b: u64) -> u32 {
    advance(a, length_of_b) ^ b
}

/// How the CRC32C of a buffer changes when a 64-bit little-endian word is XORed onto all of it, repeated from the first
/// byte on. Tables for one length of the buffer.
pub(crate) struct RepeatedWord {
    /// Indexed by the position of a four-bit digit of the word, then by its value.
    nibbles: [[u32; 16]; 16],
}

impl RepeatedWord {
    /// Computes the tables for buffers of `length` bytes.
    pub(crate) fn new(length: u64) -> Self {
        let columns: [u32; 64] = std::array::from_fn(|bit| column(1_u64 << bit, length));
        let nibbles = std::array::from_fn(|position| {
            std::array::from_fn(|value| {
                (0..4).filter(|bit| value >> bit & 1 == 1).fold(0, |sum, bit| sum ^ columns[position * 4 + bit])
            })
        });
        Self { nibbles }
    }

    /// The value to XOR onto the CRC32C when `word` is XORed onto the buffer.
    pub(crate) fn difference(&self, word: u64) -> u32 {
        let mut sum = 0;
        for (position, table) in self.nibbles.iter().enumerate() {
            sum ^= table[(word >> (position * 4) & 15) as usize];
        }
        sum
    }
}

/// The linear CRC of `word` repeated over `length` bytes. The repeats are doubled, so this takes logarithmic time.
fn column(word: u64, length: u64) -> u32 {
    let one = linear_crc(&word.to_le_bytes());
    let repeats = length / 8;
    let (mut sum, mut done) = (0, 0_u64);
    for bit in (0..u64::BITS - repeats.leading_zeros()).rev() {
        sum ^= advance(sum, 8 * done);
        done *= 2;
        if repeats >> bit & 1 == 1 {
            sum = advance(sum, 8) ^ one;
            done += 1;
        }
    }
    let tail = (length % 8) as usize;
    advance(sum, tail as u64) ^ linear_crc(&word.to_le_bytes()[..tail])
}

/// The CRC of at most eight bytes, without initial value and final inversion.
fn linear_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes) ^ crc32c::crc32c(&[0; 8][..bytes.len()])
}

/// The checksums that an object carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContentHashes {
    pub(crate) crc32c: u32,
    pub(crate) md5: [u8; 16],
}

/// Computes the checksums of bytes that come in pieces.
#[derive(Default)]
pub(crate) struct Hasher {
    crc32c: u32,
    md5: Md5,
}

impl Hasher {
    pub(crate) fn update(&mut self, piece: &[u8]) {
        self.crc32c = crc32c::crc32c_append(self.crc32c, piece);
        self.md5.update(piece);
    }

    pub(crate) fn finish(self) -> ContentHashes {
        ContentHashes { crc32c: self.crc32c, md5: self.md5.finalize().into() }
    }
}

/// The checksums of the concatenation of `pieces`.
pub(crate) fn hash_pieces(pieces: &[Bytes]) -> ContentHashes {
    let mut hasher = Hasher::default();
    for piece in pieces {
        hasher.update(piece);
    }
    hasher.finish()
}

/// A CRC32C as the service writes it: the base64 form of four big-endian bytes.
pub(crate) fn crc32c_base64(crc: u32) -> String {
    let mut text = Vec::with_capacity(8);
    push_crc32c_base64(&mut text, crc);
    String::from_utf8_lossy(&text).into_owned()
}

/// Appends the eight characters of [`crc32c_base64`].
pub(crate) fn push_crc32c_base64(out: &mut Vec<u8>, crc: u32) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = u64::from(crc) << 4;
    let digit = |shift: u32| DIGITS[(bits >> shift & 63) as usize];
    out.extend_from_slice(&[digit(30), digit(24), digit(18), digit(12), digit(6), digit(0), b'=', b'=']);
}

/// Encodes bytes as standard base64 with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn check_value_in_base64() {
        let crc = crc32c::crc32c(b"123456789");
        assert_eq!(crc, 0xE306_9283);
        assert_eq!(crc32c_base64(crc), base64(&crc.to_be_bytes()));
    }

    proptest! {
        #[test]
        fn combine_is_the_crc_of_the_whole(a: Vec<u8>, b: Vec<u8>) {
            let whole = [a.as_slice(), b.as_slice()].concat();
            prop_assert_eq!(
                combine(crc32c::crc32c(&a), crc32c::crc32c(&b), b.len() as u64),
                crc32c::crc32c(&whole)
            );
        }

        #[test]
        fn repeated_word_is_the_real_difference(body: Vec<u8>, word: u64) {
            let stamped: Vec<u8> =
                body.iter().zip(word.to_le_bytes().into_iter().cycle()).map(|(byte, stamp)| byte ^ stamp).collect();
            let map = RepeatedWord::new(body.len() as u64);
            prop_assert_eq!(crc32c::crc32c(&body) ^ map.difference(word), crc32c::crc32c(&stamped));
        }

        #[test]
        fn base64_matches_the_library(crc: u32) {
            prop_assert_eq!(crc32c_base64(crc), base64(&crc.to_be_bytes()));
        }
    }
}
