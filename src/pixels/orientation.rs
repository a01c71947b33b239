//! Turns and mirrors bitmaps by the EXIF orientation.

use image::metadata::Orientation;

use super::Bitmap;
use super::resize::Region;

/// Whether the orientation swaps rows and columns.
pub(crate) fn swaps_sides(orientation: Orientation) -> bool {
    matches!(
        orientation,
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
    )
}

/// The image as it is to be seen. `Orientation::NoTransforms` costs nothing.
pub(crate) fn oriented(stored: Bitmap, orientation: Orientation) -> Bitmap {
    if orientation == Orientation::NoTransforms {
        return stored;
    }
    let (height, width) = (stored.height() as usize, stored.width() as usize);
    let (rows, columns) = if swaps_sides(orientation) { (width, height) } else { (height, width) };
    let channels = usize::from(stored.channels());
    let mut values = Vec::with_capacity(stored.values().len());
    for row in 0..rows {
        for column in 0..columns {
            let (y, x) = stored_position(orientation, row, column, height, width);
            values.extend_from_slice(&stored.values()[(y * width + x) * channels..][..channels]);
        }
    }
    let turned = Bitmap::new(rows as u32, columns as u32, stored.channels(), values);
    turned.expect("as many values as before")
}

/// The region of the stored image of `height` by `width` pixels that is seen as `seen`.
pub(crate) fn stored_region(seen: Region, orientation: Orientation, height: u32, width: u32) -> Region {
    let corner = |row: u32, column: u32| {
        stored_position(orientation, row as usize, column as usize, height as usize, width as usize)
    };
    let (first, last) = (corner(seen.top, seen.left), corner(seen.top + seen.height - 1, seen.left + seen.width - 1));
    let (top, bottom) = (first.0.min(last.0) as u32, first.0.max(last.0) as u32);
    let (left, right) = (first.1.min(last.1) as u32, first.1.max(last.1) as u32);
    Region { top, left, height: bottom - top + 1, width: right - left + 1 }
}

/// Row and column in the stored image of `height` by `width` pixels for a row and column of the turned image.
fn stored_position(orientation: Orientation, row: usize, column: usize, height: usize, width: usize) -> (usize, usize) {
    match orientation {
        Orientation::NoTransforms => (row, column),
        Orientation::FlipHorizontal => (row, width - 1 - column),
        Orientation::Rotate180 => (height - 1 - row, width - 1 - column),
        Orientation::FlipVertical => (height - 1 - row, column),
        Orientation::Rotate90FlipH => (column, row),
        Orientation::Rotate90 => (height - 1 - column, row),
        Orientation::Rotate270FlipH => (height - 1 - column, width - 1 - row),
        Orientation::Rotate270 => (column, width - 1 - row),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_and_its_pixels_turn_alike() {
        let stored = Bitmap::new(4, 3, 1, (0..12).collect()).unwrap();
        for exif in 1..=8 {
            let orientation = Orientation::from_exif(exif).unwrap();
            let seen = oriented(stored.clone(), orientation);
            let region = Region { top: 1, left: 0, height: 2, width: 2 };
            let of_seen: Vec<_> = (1..3).flat_map(|y| (0..2).map(move |x| (y, x))).collect();
            let mut in_seen: Vec<_> =
                of_seen.iter().map(|(y, x)| seen.values()[y * seen.width() as usize + x]).collect();
            let of_stored = stored_region(region, orientation, 4, 3);
            let mut in_stored: Vec<_> = (of_stored.top..of_stored.top + of_stored.height)
                .flat_map(|y| (of_stored.left..of_stored.left + of_stored.width).map(move |x| (y, x)))
                .map(|(y, x)| stored.values()[(y * 3 + x) as usize])
                .collect();
            in_seen.sort_unstable();
            in_stored.sort_unstable();
            assert_eq!(in_seen, in_stored, "{exif}");
        }
    }
}
