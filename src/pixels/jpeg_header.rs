//! The frame header and the first scan header of a JPEG file.

use std::ops::Range;

use anyhow::{Context, bail};

#[cfg(any(feature = "turbojpeg", test))]
use super::part::ColumnUnits;
use super::refusal::{damaged_headers, unsupported};

/// The frame header (SOF), and the other facts that decide how a JPEG is decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JpegHeader {
    /// Samples in a line: 1 to 65,535.
    pub(crate) width: u16,
    /// Lines: 1 to 65,535, or 0 if a marker behind the first scan says how many there are.
    pub(crate) height: u16,
    /// The coding process: the frame marker's low nibble, 0 for baseline to 15; 55 for JPEG-LS.
    pub(crate) process: u8,
    /// Bits for each sample.
    pub(crate) precision: u8,
    /// The components in the frame's order: 1 to 4 in files that are in use.
    pub(crate) components: Vec<JpegComponent>,
    /// Components of the first scan.
    pub(crate) first_scan_components: u8,
    /// The colour transform of the Adobe segment: 0 none, 1 YCbCr, 2 YCCK.
    pub(crate) adobe_transform: Option<u8>,
    /// Offset in the file of the first scan's marker.
    pub(crate) first_scan: usize,
    /// Units (MCUs) between two restart markers of the first scan; 0 without restart markers.
    pub(crate) restart_interval: u16,
}

/// The decoders. `tests/it/jpegs.rs` compares each with libjpeg-turbo for the files that it is trusted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JpegDecoder {
    /// zune-jpeg: fast, and right for the forms that nearly all files have.
    Zune,
    /// jpeg-decoder: slower, and right for nearly all others.
    Plain,
}

/// One component (colour channel) of a JPEG frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JpegComponent {
    /// Its identifier in the file.
    pub(crate) id: u8,
    /// Horizontal sampling factor, 1 to 4.
    pub(crate) horizontal: u8,
    /// Vertical sampling factor, 1 to 4.
    pub(crate) vertical: u8,
}

/// Where in a file the TIFF structure of the EXIF tags is.
type ExifRange = Option<Range<usize>>;

impl JpegHeader {
    /// Reads the segments up to the first scan.
    ///
    /// # Errors
    /// The segments end, or contradict each other, before the first scan begins.
    pub(crate) fn read(bytes: &[u8]) -> anyhow::Result<(Self, ExifRange)> {
        segments(bytes).with_context(|| damaged_headers("a JPEG"))
    }

    /// Whether the coefficients of the whole image are held until the last scan.
    pub(crate) fn holds_all_coefficients(&self) -> bool {
        matches!(self.process, 2 | 6 | 10 | 14) || usize::from(self.first_scan_components) < self.components.len()
    }

    /// Which decoder gets this file's pixels right.
    ///
    /// # Errors
    /// None does; the message says what the file is and what to do.
    pub(crate) fn decoder(&self) -> anyhow::Result<JpegDecoder> {
        let (what, advice) = match (self.process, self.precision, self.components.len()) {
            _ if self.height == 0 => {
                ("a JPEG whose height is given behind its first scan (DNL)".to_owned(), "convert it to a usual JPEG")
            }
            (0..=2, 8, 1 | 3 | 4) => return self.decoder_of_sampling(),
            (9 | 10, ..) => (
                "an arithmetic-coded JPEG".to_owned(),
                "jpegtran (of libjpeg-turbo) makes a usual one of it without loss",
            ),
            (3 | 11 | 15, ..) => ("a lossless JPEG".to_owned(), "convert it to PNG"),
            (5..=7 | 13 | 14, ..) => ("a hierarchical JPEG".to_owned(), "convert it to PNG or to a usual JPEG"),
            (55, ..) => ("a JPEG-LS image".to_owned(), "convert it to PNG"),
            (0..=2, 8, components) => (format!("a JPEG of {components} components"), "convert it to PNG"),
            (_, bits, _) => (format!("a JPEG of {bits} bits a sample"), "convert it to PNG or to a JPEG of 8 bits"),
        };
        Err(unsupported(&what, advice))
    }

    /// Whether libjpeg-turbo may decode this file: one of grey or colour that another decoder here takes, too. It
    /// doesn't convert CMYK to RGB.
    #[cfg(feature = "turbojpeg")]
    pub(crate) fn is_for_turbo(&self) -> bool {
        matches!(self.components.len(), 1 | 3) && self.decoder().is_ok()
    }

    /// The columns in which libjpeg-turbo decodes a part of this file. `None` if it decodes only the whole, because the
    /// sampling factors are unusual.
    #[cfg(any(feature = "turbojpeg", test))]
    pub(crate) fn column_units(&self) -> Option<ColumnUnits> {
        let factors = |component: &JpegComponent| (component.horizontal, component.vertical);
        let (first, others) = self.components.split_first()?;
        // The sampling factors of an only component mean nothing.
        let (horizontal, vertical) = if others.is_empty() { (1, 1) } else { factors(first) };
        let is_usual = matches!((horizontal, vertical), (1 | 2, 1 | 2) | (4, 1))
            && others.iter().all(|component| factors(component) == (1, 1));
        // Upsampling reads one value of the colours at either side, which is as wide as the horizontal factor.
        let horizontal = u32::from(horizontal);
        is_usual.then_some(ColumnUnits { width: 8 * horizontal, margin: 2 * horizontal })
    }

    /// Which decoder is right for the sampling factors, the first scan and the colours.
    fn decoder_of_sampling(&self) -> anyhow::Result<JpegDecoder> {
        let factors = |component: &JpegComponent| (component.horizontal, component.vertical);
        let first = factors(&self.components[0]);
        let has_usual_sampling = matches!(first, (1 | 2, 1 | 2) | (4, 1))
            && self.components.iter().all(|component| [(1, 1), first].contains(&factors(component)));
        let has_usual_scans = self.process == 2 || usize::from(self.first_scan_components) == self.components.len();
        let is_rgb = self.components.iter().map(|component| component.id).eq(*b"RGB");
        let has_usual_colors = match (self.components.len(), self.adobe_transform) {
            (1, _) | (_, None) => true,
            (3, Some(transform)) => transform == 1 || is_rgb,
            (_, Some(transform)) => matches!(transform, 0 | 2),
        };
        if has_usual_sampling && has_usual_scans && has_usual_colors {
            return Ok(JpegDecoder::Zune);
        }
        // jpeg-decoder miscounts the blocks of a component whose factor lies between 1 and the largest one.
        let (most_horizontal, most_vertical) = self.most_factors();
        let lies_between = |factor: u8, most: u64| factor > 1 && u64::from(factor) < most;
        if self.components.iter().any(|component| {
            lies_between(component.horizontal, most_horizontal) || lies_between(component.vertical, most_vertical)
        }) {
            let all: Vec<_> = self.components.iter().map(|c| format!("{}x{}", c.horizontal, c.vertical)).collect();
            let what = format!("a JPEG with the sampling factors {}", all.join(", "));
            return Err(unsupported(&what, "convert it to PNG or to a JPEG with usual ones (2x2, 1x1, 1x1)"));
        }
        Ok(JpegDecoder::Plain)
    }

    /// The largest horizontal and vertical sampling factor.
    fn most_factors(&self) -> (u64, u64) {
        let most = |of: fn(&JpegComponent) -> u8| self.components.iter().map(of).max().map_or(1, u64::from).max(1);
        (most(|component| component.horizontal), most(|component| component.vertical))
    }

    /// Units (MCUs) of a scan of the components with these indices.
    pub(crate) fn scan_units(&self, components: &[usize]) -> u64 {
        let (most_horizontal, most_vertical) = self.most_factors();
        let (width, height) = (u64::from(self.width), u64::from(self.height));
        match components {
            // A scan of one component has a unit for each of its blocks that hold samples.
            [only] => {
                let JpegComponent { horizontal, vertical, .. } = self.components[*only];
                (width * u64::from(horizontal)).div_ceil(8 * most_horizontal)
                    * (height * u64::from(vertical)).div_ceil(8 * most_vertical)
            }
            _ => width.div_ceil(8 * most_horizontal) * height.div_ceil(8 * most_vertical),
        }
    }

    /// Bytes that the decoder holds in addition to its output, at most, without tables of constant size.
    pub(crate) fn scratch_bytes(&self) -> u64 {
        let (most_horizontal, most_vertical) = self.most_factors();
        let units_across = u64::from(self.width).div_ceil(8 * most_horizontal);
        let units_down = u64::from(self.height).div_ceil(8 * most_vertical);
        // Coefficients and samples are i16.
        let stripe = units_across * 8 * most_horizontal * 8 * most_vertical * 2;
        let blocks: u64 = self.components.iter().map(|c| u64::from(c.horizontal) * u64::from(c.vertical)).sum();
        let samples = units_across * units_down * blocks * 64;
        let coefficients = if self.holds_all_coefficients() { samples * 2 } else { 0 };
        let planes = match self.decoder() {
            Ok(JpegDecoder::Plain) => {
                // jpeg-decoder decodes whole planes of bytes, and CMYK is converted from its output.
                let cmyk =
                    if self.components.len() == 4 { u64::from(self.width) * u64::from(self.height) * 4 } else { 0 };
                samples + cmyk
            }
            _ => 0,
        };
        // Of each component, the current stripe as decoded and as upsampled, and the part of it that the next stripe
        // needs.
        // libjpeg-turbo has a pointer to each row.
        let rows = if cfg!(feature = "turbojpeg") { u64::from(self.height) * 8 } else { 0 };
        coefficients + planes + stripe * self.components.len() as u64 * 3 + rows
    }
}

fn segments(bytes: &[u8]) -> anyhow::Result<(JpegHeader, ExifRange)> {
    let mut frame: Option<JpegHeader> = None;
    let mut exif = None;
    let mut adobe_transform = None;
    let mut restart_interval = 0;
    let mut at = 2;
    loop {
        // Markers may be preceded by any number of fill bytes; libjpeg also skips other bytes in between.
        while *bytes.get(at).context("the file ends before its first scan")? != 0xff {
            at += 1;
        }
        while *bytes.get(at).context("the file ends before its first scan")? == 0xff {
            at += 1;
        }
        let marker = bytes[at];
        at += 1;
        // Bytes without a meaning, restart markers and TEM have no length.
        if matches!(marker, 0 | 1 | 0xd0..=0xd8) {
            continue;
        }
        if marker == 0xd9 {
            bail!("the file has an end marker before its first scan");
        }
        let length = match bytes.get(at..at + 2) {
            Some(&[high, low]) => usize::from(u16::from_be_bytes([high, low])),
            _ => bail!("the file ends before its first scan"),
        };
        let data = (length >= 2).then(|| bytes.get(at + 2..at + length)).flatten();
        let data = data.with_context(|| format!("segment ff{marker:02x} of {length} bytes is not whole"))?;
        match marker {
            // Not DHT, JPG and DAC.
            0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                if frame.is_some() {
                    bail!("it has two frame headers");
                }
                frame = Some(frame_header(marker & 15, data)?);
            }
            0xf7 => frame = Some(frame_header(55, data)?),
            0xe1 if exif.is_none() && data.starts_with(b"Exif\0\0") => exif = Some(at + 8..at + length),
            0xee if data.starts_with(b"Adobe") => adobe_transform = data.get(11).copied(),
            0xdd => restart_interval = u16::from_be_bytes([*data.first().unwrap_or(&0), *data.get(1).unwrap_or(&0)]),
            0xda => {
                let mut frame = frame.context("its first scan comes before its frame header")?;
                frame.first_scan_components = *data.first().context("its first scan header is empty")?;
                frame.adobe_transform = adobe_transform;
                frame.first_scan = at - 2;
                frame.restart_interval = restart_interval;
                return Ok((frame, exif));
            }
            _ => {}
        }
        at += length;
    }
}

fn frame_header(process: u8, data: &[u8]) -> anyhow::Result<JpegHeader> {
    let &[precision, h1, h0, w1, w0, count, ref rest @ ..] = data else { bail!("its frame header is not whole") };
    let (width, height) = (u16::from_be_bytes([w1, w0]), u16::from_be_bytes([h1, h0]));
    if width == 0 {
        bail!("its size is {width} x {height} pixels (width x height)");
    }
    let components: Vec<_> = rest
        .chunks_exact(3)
        .take(count.into())
        .map(|of| JpegComponent { id: of[0], horizontal: of[1] >> 4, vertical: of[1] & 15 })
        .collect();
    if let Some(bad) = components.iter().find(|c| !(1..=4).contains(&c.horizontal) || !(1..=4).contains(&c.vertical)) {
        bail!("component {} has the sampling factors {}x{}, not 1 to 4", bad.id, bad.horizontal, bad.vertical);
    }
    if components.is_empty() || components.len() < count.into() {
        bail!("its frame header names {count} components and describes {}", components.len());
    }
    Ok(JpegHeader {
        width,
        height,
        process,
        precision,
        components,
        first_scan_components: count,
        adobe_transform: None,
        first_scan: 0,
        restart_interval: 0,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A JPEG file of 100 x 60 pixels up to its first scan header: EXIF data, a frame header of `process` and these
    /// components, and a scan of the first few of them.
    pub(in super::super) fn file(process: u8, components: &[[u8; 3]], scan: u8) -> Vec<u8> {
        let mut file = b"\xff\xd8\xff\xe1\0\x10Exif\0\0MM\0*\0\0\0\x08".to_vec();
        file.extend([0xff, 0xff, 0xc0 | process, 0, 8 + 3 * components.len() as u8, 8, 0, 60, 0, 100]);
        file.push(components.len() as u8);
        file.extend(components.concat());
        file.extend([0xff, 0xda, 0, 6 + 2 * scan, scan]);
        for component in &components[..scan.into()] {
            file.extend([component[0], 0]);
        }
        file.extend([0, 63, 0]);
        file
    }

    #[test]
    fn frame_scan_and_exif() {
        let (header, exif) = JpegHeader::read(&file(0, &[[1, 0x21, 0], [2, 0x11, 0], [3, 0x11, 0]], 3)).unwrap();
        assert_eq!((header.width, header.height, header.process, header.precision), (100, 60, 0, 8));
        assert_eq!(header.components[0], JpegComponent { id: 1, horizontal: 2, vertical: 1 });
        assert_eq!((header.components.len(), header.first_scan_components, exif), (3, 3, Some(12..20)));
    }

    #[test]
    fn columns_of_libjpeg_turbo() {
        let units = |components: &[[u8; 3]]| {
            let (header, _) = JpegHeader::read(&file(0, components, components.len() as u8)).unwrap();
            header.column_units().map(|ColumnUnits { width, margin }| (width, margin))
        };
        let colors = |first, second, third| units(&[[1, first, 0], [2, second, 0], [3, third, 0]]);
        assert_eq!(units(&[[1, 0x22, 0]]), Some((8, 2)));
        assert_eq!(colors(0x11, 0x11, 0x11), Some((8, 2)));
        assert_eq!(colors(0x22, 0x11, 0x11), Some((16, 4)));
        assert_eq!(colors(0x41, 0x11, 0x11), Some((32, 8)));
        // 4:4:4 and 4:2:2 in unusual numbers.
        assert_eq!((colors(0x22, 0x22, 0x22), colors(0x22, 0x12, 0x12)), (None, None));
    }

    #[test]
    fn progressive_and_separate_scans_hold_the_whole_image() {
        let components = [[1, 0x22, 0], [2, 0x11, 0], [3, 0x11, 0]];
        let of = |process, scan| JpegHeader::read(&file(process, &components, scan)).unwrap().0;
        assert!(!of(0, 3).holds_all_coefficients());
        assert!(of(0, 1).holds_all_coefficients() && of(2, 3).holds_all_coefficients());
        // 7 x 4 units of 6 blocks of 64 coefficients of 2 bytes.
        assert_eq!(of(2, 3).scratch_bytes() - of(0, 3).scratch_bytes(), 7 * 4 * 6 * 64 * 2);
    }

    #[test]
    fn damaged_headers() {
        let whole = file(0, &[[1, 0x11, 0]], 1);
        for (bytes, wanted) in [
            (&whole[..10], "is not whole"),
            (&whole[..whole.len() - 1], "is not whole"),
            (b"\xff\xd8\xff\xd9", "an end marker before its first scan"),
            (b"\xff\xd8\xff\xda\0\x02", "comes before its frame header"),
        ] {
            let error = format!("{:#}", JpegHeader::read(bytes).unwrap_err());
            assert!(error.contains(wanted), "{wanted} in {error}");
        }
    }
}
