//! Members of a ZIP archive that is in memory.
//!
//! Sizes and places are those of the central directory at the end of the file, as programs read it that don't stream.
//! Archives of more than 4 GiB, encrypted members and methods but stored and deflated ones are rare among arrays; the
//! first are read, and the others refused.

use std::borrow::Cow;

use anyhow::{Context, Result, bail, ensure};
use flate2::Crc;

use crate::encoding::{DEFLATE_WINDOW_BYTES, first_bytes, inflate, inflated_start};

const END: &[u8] = b"PK\x05\x06";
const END_BYTES: usize = 22;
const END_64_LOCATOR: &[u8] = b"PK\x06\x07";
const END_64_LOCATOR_BYTES: usize = 20;
const END_64: &[u8] = b"PK\x06\x06";
const CENTRAL: &[u8] = b"PK\x01\x02";
const CENTRAL_BYTES: usize = 46;
const LOCAL: &[u8] = b"PK\x03\x04";
const LOCAL_BYTES: usize = 30;

/// One file in an archive.
#[derive(Clone, Debug)]
pub(super) struct Member<'a> {
    pub(super) name: String,
    /// The bytes as they are in the archive.
    data: &'a [u8],
    is_deflated: bool,
    /// Bytes once they are decompressed, as the directory claims.
    pub(super) size: u64,
    crc: u32,
}

/// The members of an archive, in the order of its directory.
///
/// # Errors
/// It is no archive, or is cut short or damaged.
pub(super) fn members(file: &[u8]) -> Result<Vec<Member<'_>>> {
    let Some(end) = find_end(file) else {
        bail!(
            "it is no ZIP archive, or is cut short ({}, of {} bytes; first bytes 50 4b 03 04 and a directory at the \
             end were wanted); upload it again, or leave it out",
            first_bytes(file),
            file.len()
        );
    };
    let damaged = "the directory of its ZIP archive is damaged; upload it again";
    let ZipDirectory { start, size, count } = directory(file, end).context(damaged)?;
    let mut directory = file.get(start..).and_then(|rest| rest.get(..size)).context(damaged)?;
    let mut members = Vec::new();
    while !directory.is_empty() {
        let (member, length) = read_member(file, directory)?;
        members.push(member);
        directory = directory.get(length..).context(damaged)?;
    }
    ensure!(members.len() as u64 == count, damaged);
    Ok(members)
}

/// Where the record at the end begins, which a comment of up to 64 KiB may follow.
fn find_end(file: &[u8]) -> Option<usize> {
    let last = file.len().checked_sub(END_BYTES)?;
    let first = last.saturating_sub(usize::from(u16::MAX));
    (first..=last).rev().find(|start| {
        let comment = |start: usize| usize::from(u16_at(file, start + 20).unwrap_or_default());
        file[*start..].starts_with(END) && start + END_BYTES + comment(*start) == file.len()
    })
}

/// Where the directory is.
struct ZipDirectory {
    start: usize,
    /// Bytes of all entries.
    size: usize,
    /// Number of entries.
    count: u64,
}

fn directory(file: &[u8], end: usize) -> Option<ZipDirectory> {
    let (count, size, start) = (u16_at(file, end + 10)?, u32_at(file, end + 12)?, u32_at(file, end + 16)?);
    let locator = end.checked_sub(END_64_LOCATOR_BYTES);
    let locator = locator.filter(|locator| file[*locator..].starts_with(END_64_LOCATOR));
    if (size == u32::MAX || start == u32::MAX || count == u16::MAX)
        && let Some(locator) = locator
    {
        let end = usize::try_from(u64_at(file, locator + 8)?).ok()?;
        if !file.get(end..)?.starts_with(END_64) {
            return None;
        }
        let record = file.get(end..)?;
        let (count, size, start) = (u64_at(record, 32)?, u64_at(record, 40)?, u64_at(record, 48)?);
        return Some(ZipDirectory { start: usize::try_from(start).ok()?, size: usize::try_from(size).ok()?, count });
    }
    Some(ZipDirectory { start: start as usize, size: size as usize, count: count.into() })
}

/// The member of a directory's first entry, and the length of that entry.
fn read_member<'a>(file: &'a [u8], entry: &[u8]) -> Result<(Member<'a>, usize)> {
    let damaged = "the directory of its ZIP archive is damaged; upload it again";
    ensure!(entry.starts_with(CENTRAL) && entry.len() >= CENTRAL_BYTES, damaged);
    let field = |at: usize| u16_at(entry, at).map(usize::from);
    let lengths = (|| Some((field(28)?, field(30)?, field(32)?)))();
    let (name_length, extra_length, comment_length) = lengths.context(damaged)?;
    let stored_name = entry.get(CENTRAL_BYTES..CENTRAL_BYTES + name_length).context(damaged)?;
    let name = String::from_utf8_lossy(stored_name).into_owned();
    let extra = entry.get(CENTRAL_BYTES + name_length..).and_then(|rest| rest.get(..extra_length)).context(damaged)?;
    let member = (|| {
        let (flags, method, crc) = (u16_at(entry, 8)?, u16_at(entry, 10)?, u32_at(entry, 16)?);
        let mut sizes = [24, 20, 42].map(|at| u32_at(entry, at).unwrap_or_default().into());
        widen(&mut sizes, extra)?;
        let [size, compressed, start] = sizes;
        Some((flags, method, crc, size, usize::try_from(compressed).ok()?, usize::try_from(start).ok()?))
    })();
    let (flags, method, crc, size, compressed, start) = member.context(damaged)?;
    ensure!(flags & 1 == 0, "its member {name:?} is encrypted; save it without a password");
    let is_deflated = match method {
        0 => false,
        8 => true,
        other => bail!("its member {name:?} is compressed with method {other}, and 0 and 8 (deflate) are supported"),
    };
    let data = (|| {
        let local = file.get(start..)?;
        let local = local.starts_with(LOCAL).then_some(local)?;
        let (name_end, extra) = (LOCAL_BYTES + usize::from(u16_at(local, 26)?), usize::from(u16_at(local, 28)?));
        let has_name = local.get(LOCAL_BYTES..name_end)? == stored_name;
        local.get(name_end + extra..).filter(|_| has_name)?.get(..compressed)
    })();
    let data = data.with_context(|| format!("its member {name:?} is cut short or damaged; upload it again"))?;
    let length = CENTRAL_BYTES + name_length + extra_length + comment_length;
    Ok((Member { name, data, is_deflated, size, crc }, length))
}

/// Replaces the numbers that don't fit into 32 bits by those of the extra field for archives of more than 4 GiB.
fn widen(numbers: &mut [u64; 3], mut extra: &[u8]) -> Option<()> {
    while extra.len() >= 4 {
        let (kind, length) = (u16_at(extra, 0)?, usize::from(u16_at(extra, 2)?));
        let mut field = extra.get(4..)?.get(..length)?;
        if kind == 1 {
            for number in numbers.iter_mut().filter(|number| **number == u64::from(u32::MAX)) {
                *number = u64_at(field, 0)?;
                field = field.get(8..)?;
            }
            return Some(());
        }
        extra = extra.get(4 + length..)?;
    }
    Some(())
}

impl<'a> Member<'a> {
    /// The bytes of the file, which are as many as the directory claims and have its checksum.
    ///
    /// # Errors
    /// They aren't; no more than claimed are decompressed to see that.
    pub(super) fn read(&self) -> Result<Cow<'a, [u8]>> {
        let name = &self.name;
        let bytes = if self.is_deflated {
            Cow::Owned(inflate(self.data, self.size).with_context(|| format!("its member {name:?}"))?)
        } else {
            Cow::Borrowed(self.data)
        };
        ensure!(
            bytes.len() as u64 == self.size,
            "its member {name:?} has {} bytes and claims {}; upload it again",
            bytes.len(),
            self.size
        );
        let mut crc = Crc::new();
        crc.update(&bytes);
        ensure!(
            crc.sum() == self.crc,
            "its member {name:?} has the checksum {:#010x} and claims {:#010x}; upload it again",
            crc.sum(),
            self.crc
        );
        Ok(bytes)
    }

    /// The first `count` bytes of the file, or fewer if it has no more or is damaged. They aren't checked.
    pub(super) fn start(&self, count: usize) -> Cow<'a, [u8]> {
        if self.is_deflated {
            Cow::Owned(inflated_start(self.data, count))
        } else {
            Cow::Borrowed(&self.data[..count.min(self.data.len())])
        }
    }

    /// Bytes that reading it allocates.
    pub(super) fn buffer_bytes(&self) -> u64 {
        if self.is_deflated { self.size.saturating_add(DEFLATE_WINDOW_BYTES) } else { 0 }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
