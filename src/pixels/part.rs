//! Which part of an image is decoded, and at which scale. Pure.

use super::resize::{FractionalRegion, Region};

/// What the first operation reads of an image, on the axes on which it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WantedPart {
    /// The pixels that are read.
    pub(crate) region: Region,
    /// The size that the region is resized to by weighing all of its pixels. `None` if its pixels are taken as they
    /// are.
    pub(crate) target: Option<PartSize>,
}

/// Height and width on the axes on which an image is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartSize {
    pub(crate) height: u32,
    pub(crate) width: u32,
}

/// What was decoded of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DecodedPart {
    /// How many pixels of a side became one: 1, 2, 4 or 8.
    pub(crate) divisor: u32,
    /// The part that was decoded, in pixels of the scaled image.
    pub(crate) region: Region,
}

impl WantedPart {
    /// The largest of 1, 2, 4 and 8 that leaves both sides at least as long as `target`; 1 without a target.
    pub(crate) fn divisor(&self) -> u32 {
        let Some(PartSize { height, width }) = self.target else { return 1 };
        let is_enough = |divisor: u32| {
            let has = |length: u32, wanted: u32| u64::from(length) >= u64::from(wanted) * u64::from(divisor);
            has(self.region.height, height) && has(self.region.width, width)
        };
        [8, 4, 2].into_iter().find(|divisor| is_enough(*divisor)).unwrap_or(1)
    }
}

impl DecodedPart {
    /// All of an image of `height` by `width` pixels.
    pub(crate) fn whole(height: u32, width: u32, divisor: u32) -> Self {
        Self { divisor, region: Region::whole(height.div_ceil(divisor), width.div_ceil(divisor)) }
    }

    /// Whether it has pixels, and an image of `height` by `width` pixels has all of them.
    pub(crate) fn is_within(&self, height: u32, width: u32) -> bool {
        let (whole, region) = (Self::whole(height, width, self.divisor).region, self.region);
        let fits =
            |start: u32, length: u32, all: u32| length > 0 && start.checked_add(length).is_some_and(|end| end <= all);
        fits(region.top, region.height, whole.height) && fits(region.left, region.width, whole.width)
    }

    /// Whether it is all of an image of `height` by `width` pixels at its full scale.
    pub(crate) fn is_whole(&self, height: u32, width: u32) -> bool {
        *self == Self::whole(height, width, 1)
    }

    /// The smallest part of an image of `height` by `width` pixels that starts at a column unit and contains the region
    /// with its margin. The region's pixels are the same as in the whole image.
    ///
    /// # Panics
    /// `columns` is narrower than `divisor`; or, in builds with overflow checks, the region isn't within the image.
    pub(crate) fn around(wanted: Region, height: u32, width: u32, divisor: u32, columns: ColumnUnits) -> Self {
        let Region { height: rows, width: all_columns, .. } = Self::whole(height, width, divisor).region;
        let ColumnUnits { width: unit, margin } = columns;
        let unit = unit / divisor;
        let (top, bottom) = (wanted.top / divisor, (wanted.top + wanted.height).div_ceil(divisor).min(rows));
        let left = (wanted.left / divisor).saturating_sub(margin) / unit * unit;
        let right = ((wanted.left + wanted.width).div_ceil(divisor) + margin).min(all_columns);
        Self { divisor, region: Region { top, left, height: bottom - top, width: right - left } }
    }

    /// Where in the decoded part a region of the whole image is, which the part contains.
    pub(crate) fn locate(&self, region: Region) -> FractionalRegion {
        let of = |length: u32| f64::from(length) / f64::from(self.divisor);
        FractionalRegion {
            top: of(region.top) - f64::from(self.region.top),
            left: of(region.left) - f64::from(self.region.left),
            height: of(region.height),
            width: of(region.width),
        }
    }
}

/// Columns of pixels in which a decoder works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ColumnUnits {
    /// Pixels across one unit, before the image is scaled.
    pub(crate) width: u32,
    /// Pixels at the left and right edge of a decoded part that may differ from those of the whole image, because their
    /// neighbours are missing. The number is the same at every scale.
    pub(crate) margin: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(top: u32, left: u32, height: u32, width: u32) -> Region {
        Region { top, left, height, width }
    }

    #[test]
    fn the_scale_is_the_smallest_that_is_large_enough() {
        let divisor = |rows, columns, height, width| {
            let target = Some(PartSize { height, width });
            WantedPart { region: region(0, 0, rows, columns), target }.divisor()
        };
        assert_eq!(divisor(3_000, 4_000, 224, 224), 8);
        assert_eq!(divisor(1_792, 1_792, 224, 224), 8);
        assert_eq!(divisor(1_791, 1_792, 224, 224), 4);
        assert_eq!(divisor(447, 4_000, 224, 224), 1);
        assert_eq!(divisor(448, 4_000, 224, 224), 2);
        assert_eq!(divisor(100, 100, 224, 224), 1);
        assert_eq!(divisor(u32::MAX, u32::MAX, u32::MAX, 1), 1);
        assert_eq!(WantedPart { region: region(0, 0, 3_000, 4_000), target: None }.divisor(), 1);
    }

    #[test]
    fn a_part_begins_with_a_column_of_blocks_and_has_a_margin() {
        let columns = ColumnUnits { width: 16, margin: 4 };
        let around = |wanted, divisor| DecodedPart::around(wanted, 375, 500, divisor, columns).region;
        assert_eq!(around(region(10, 52, 100, 60), 1), region(10, 48, 100, 68));
        assert_eq!(around(region(10, 51, 100, 60), 1), region(10, 32, 100, 83), "the margin needs one more");
        assert_eq!(around(region(0, 3, 375, 497), 1), region(0, 0, 375, 500));
        assert_eq!(around(region(370, 499, 5, 1), 1), region(370, 480, 5, 20));
        // Half of 375 rows are 188.
        assert_eq!(around(region(101, 101, 274, 300), 2), region(50, 40, 138, 165));
        assert_eq!(around(region(0, 0, 375, 500), 8), region(0, 0, 47, 63));
    }

    #[test]
    fn a_part_has_pixels_and_the_image_has_all_of_them() {
        let is_within = |region, divisor| DecodedPart { divisor, region }.is_within(375, 500);
        assert!(is_within(region(0, 0, 375, 500), 1) && is_within(region(374, 499, 1, 1), 1));
        assert!(is_within(region(0, 0, 188, 250), 2) && !is_within(region(0, 0, 189, 250), 2));
        for (height, width) in [(0, 1), (1, 0), (375, 1), (1, 500), (i32::MAX as u32, 1), (1, u32::MAX)] {
            assert!(!is_within(region(1, 1, height, width), 1), "{height} x {width}");
        }
    }

    #[test]
    fn a_region_is_found_in_the_part() {
        let part = DecodedPart { divisor: 4, region: region(10, 8, 50, 60) };
        let found = part.locate(region(41, 50, 99, 102));
        assert_eq!(found, FractionalRegion { top: 0.25, left: 4.5, height: 24.75, width: 25.5 });
        let part = DecodedPart::whole(375, 500, 1);
        assert_eq!(part.locate(region(1, 2, 3, 4)), region(1, 2, 3, 4).into());
    }
}
