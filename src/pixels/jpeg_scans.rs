//! The scans of a JPEG file, found from marker to marker without decoding them: where they end, and whether all of them
//! are there.

use anyhow::bail;

use super::jpeg_header::JpegHeader;

/// Summary of the scans in a JPEG file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct JpegScans {
    /// End of the last scan's data. The bytes from there to the end marker are ignored.
    pub(super) end: usize,
    /// Whether the file has its end marker.
    pub(super) has_end_marker: bool,
    /// Whether scan headers cover every bit of every coefficient. The data of the last scan may still be cut short.
    pub(super) are_complete: bool,
    /// How many scans there are.
    pub(super) count: usize,
}

/// For each coefficient of each component, the number of low bits that no scan has covered yet (`Al` of its latest
/// scan), or `NEVER_SEEN` before its first scan.
type MissingBits = [[u8; 64]; 4];

const NEVER_SEEN: u8 = u8::MAX;

impl JpegScans {
    /// Walks the scans.
    ///
    /// # Errors
    /// A scan header is damaged or names an unknown component, a scan lacks restart intervals, a component has no scan,
    /// or has more than a baseline file can have.
    pub(super) fn read(bytes: &[u8], header: &JpegHeader) -> anyhow::Result<Self> {
        let mut missing: MissingBits = [[NEVER_SEEN; 64]; 4];
        let mut restart_interval = u64::from(header.restart_interval);
        let (mut count, mut has_end_marker) = (0, false);
        let mut at = header.first_scan;
        // End of the last scan's data. Segments that no scan follows are ignored.
        let mut end = at;
        while let Some((marker, segment)) = next_marker(bytes, at) {
            if marker == 0xd9 {
                has_end_marker = true;
                break;
            }
            let Some(data) = segment_data(bytes, segment) else { break };
            at = segment + 2 + data.len();
            match (marker, data) {
                (0xdd, &[high, low, ..]) => restart_interval = u16::from_be_bytes([high, low]).into(),
                (0xda, _) => {
                    count += 1;
                    let units = header.scan_units(&note_scan(data, header, &mut missing)?);
                    let restarts = skip_entropy_coded(bytes, &mut at);
                    end = at;
                    let wanted = if restart_interval == 0 { 0 } else { units.div_ceil(restart_interval) - 1 };
                    if restarts < wanted {
                        bail!("scan {count} has {} of {} restart intervals", restarts + 1, wanted + 1);
                    }
                }
                _ => {}
            }
        }
        let seen = &missing[..header.components.len()];
        if let Some(component) = seen.iter().position(|bits| bits[0] == NEVER_SEEN) {
            bail!("component {} of {} has no scan", component + 1, seen.len());
        }
        // zune-jpeg takes the header of a second scan for the end of the file, without an error.
        if matches!(header.process, 0 | 1) && usize::from(header.first_scan_components) == seen.len() && count > 1 {
            bail!("its first scan has all components, and {} more scans follow", count - 1);
        }
        let are_complete = seen.iter().all(|bits| bits.iter().all(|&bits| bits == 0));
        Ok(Self { end, has_end_marker, are_complete, count })
    }
}

/// Updates `missing` from one scan header and returns the indices of the scan's components.
fn note_scan(data: &[u8], header: &JpegHeader, missing: &mut MissingBits) -> anyhow::Result<Vec<usize>> {
    let components = usize::from(data.first().copied().unwrap_or_default());
    let Some(&[first, last, approximation]) = data.get(1 + 2 * components..).filter(|_| components > 0) else {
        bail!("a scan header is not whole");
    };
    let mut indices = Vec::with_capacity(components);
    for id in data[1..].iter().step_by(2).take(components) {
        let Some(index) = header.components.iter().position(|component| component.id == *id) else {
            bail!("a scan is of component {id}, which the frame header doesn't name");
        };
        indices.push(index);
        // Only progressive scans select coefficients and bits. Others have all, whatever a careless encoder writes
        // here.
        let (coefficients, left_out) = match header.process {
            2 => (usize::from(first)..=usize::from(last), approximation & 15),
            _ => (0..=63, 0),
        };
        if let Some(bits) = missing.get_mut(index).and_then(|bits| bits.get_mut(coefficients)) {
            bits.fill(left_out);
        }
    }
    Ok(indices)
}

/// The next marker from `at` on that has a meaning outside of a scan, and the offset of its segment.
fn next_marker(bytes: &[u8], mut at: usize) -> Option<(u8, usize)> {
    loop {
        at += bytes.get(at..)?.iter().position(|&byte| byte == 0xff)?;
        at += bytes[at..].iter().position(|&byte| byte != 0xff)?;
        let marker = bytes[at];
        at += 1;
        if !matches!(marker, 0 | 1 | 0xd0..=0xd8) {
            return Some((marker, at));
        }
    }
}

/// The data of the segment whose length field is at `at`.
fn segment_data(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let length = usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    bytes.get(at + 2..at + length)
}

/// Moves `at` from the start of a scan's data to the marker after them, or to the end of the file. Returns the number
/// of restart markers in between.
fn skip_entropy_coded(bytes: &[u8], at: &mut usize) -> u64 {
    let mut restarts = 0;
    loop {
        let rest = &bytes[*at..];
        let Some(found) = find_ff(rest) else {
            *at = bytes.len();
            return restarts;
        };
        // Fill bytes before a marker belong to the marker.
        let Some(next) = rest[found..].iter().position(|&byte| byte != 0xff) else {
            *at += found;
            return restarts;
        };
        match rest[found + next] {
            0 => {}
            0xd0..=0xd7 => restarts += 1,
            _ => {
                *at += found;
                return restarts;
            }
        }
        *at += found + next + 1;
    }
}

/// Position of the first byte 0xff. Searches many bytes at a time, since scans are nearly all of a file.
fn find_ff(bytes: &[u8]) -> Option<usize> {
    // This call uses the standard library's fast search for a byte. Reading a slice never fails.
    let passed = std::io::BufRead::skip_until(&mut &*bytes, 0xff).ok()?;
    let found = passed.checked_sub(1)?;
    (bytes[found] == 0xff).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::super::jpeg_header::tests::file;
    use super::*;

    fn read(bytes: &[u8]) -> anyhow::Result<JpegScans> {
        JpegScans::read(bytes, &JpegHeader::read(bytes)?.0)
    }

    #[test]
    fn the_end_of_the_last_scan() {
        let mut bytes = file(0, &[[1, 0x11, 0]], 1);
        bytes.extend([1, 2, 0xff, 0, 3]);
        let end = bytes.len();
        let open = JpegScans { end, has_end_marker: false, are_complete: true, count: 1 };
        assert_eq!(read(&bytes).unwrap(), open);
        bytes.extend([0xff, 0xff, 0xd9, 7, 7]);
        assert_eq!(read(&bytes).unwrap(), JpegScans { has_end_marker: true, ..open });
    }

    #[test]
    fn a_progressive_file_cut_between_two_scans_is_not_complete() {
        // The file from file(): one scan of all coefficients and all bits.
        let mut bytes = file(2, &[[1, 0x11, 0]], 1);
        let last = bytes.len() - 1;
        assert!(read(&bytes).unwrap().are_complete);
        bytes[last] = 1;
        assert!(!read(&bytes).unwrap().are_complete);
        // The second scan has that bit.
        bytes.extend([5, 0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0x10, 5]);
        let scans = read(&bytes).unwrap();
        assert!(scans.are_complete && scans.count == 2 && scans.end == bytes.len());
    }

    #[test]
    fn scans_and_intervals_that_are_missing() {
        let mut bytes = file(0, &[[1, 0x11, 0], [2, 0x11, 0]], 1);
        bytes.extend([5, 0xff, 0xd9]);
        assert!(read(&bytes).unwrap_err().to_string().contains("component 2 of 2 has no scan"));
        // 13 x 8 blocks are 2 intervals of 52; the marker between them is missing.
        let mut bytes = file(0, &[[1, 0x11, 0]], 1);
        bytes.splice(2..2, [0xff, 0xdd, 0, 4, 0, 52]);
        bytes.extend([5, 0xff, 0xd9]);
        assert!(read(&bytes).unwrap_err().to_string().contains("scan 1 has 1 of 2 restart intervals"));
        let end = bytes.len() - 2;
        bytes.splice(end..end, [0xff, 0xd0, 5]);
        assert!(read(&bytes).is_ok());
    }
}
