//! Image folders: pixels, labels, and images that can't be decoded or stacked.

use candle_core::{DType, Device};
use dataflux::store::{MemoryStore, PutRequest};
use dataflux::{
    BatchBuffer, Collate, CollateContext, DataLoader, DatafluxDataset, Decode, Error, ErrorKind, Image, ImageFolder,
    Images,
};

use crate::support::{client, png, without_hanging};

fn first(store: &MemoryStore, decode: ImageFolder, batch_size: usize) -> Result<dataflux::Batch<Images>, Error> {
    let (store, decode) = (store.clone(), decode);
    without_hanging(move || {
        let dataset = DatafluxDataset::open_with(client(store), "gs://data/p/")?.decode(decode);
        DataLoader::builder(dataset).batch_size(batch_size).build()?.epoch(0)?.next().unwrap()
    })
}

fn two_classes() -> MemoryStore {
    let store = MemoryStore::new().with_bucket("data");
    store.insert("data", "p/cat/1.png", png(2, 2, &[0, 51, 102, 255]));
    store.insert("data", "p/dog/1.png", png(2, 2, &[255, 102, 51, 0]));
    store
}

#[test]
fn pixels_and_labels() {
    let batch = first(&two_classes(), ImageFolder::new().grayscale(), 2).unwrap();
    assert_eq!((batch.shape, &batch.labels[..]), ([2, 1, 2, 2], [0, 1].as_slice()));
    let wanted = [0.0, 0.2, 0.4, 1.0, 1.0, 0.4, 0.2, 0.0];
    assert!(batch.pixels.iter().zip(wanted).all(|(got, wanted)| (got - wanted).abs() < 1e-6), "{:?}", batch.pixels);
    let (pixels, labels) = batch.clone().into_ndarray().unwrap();
    assert_eq!((pixels.shape(), labels.to_vec()), ([2, 1, 2, 2].as_slice(), vec![0, 1]));
    let (images, labels) = batch.to_candle(&Device::Cpu).unwrap();
    assert_eq!((images.dims(), images.dtype()), ([2, 1, 2, 2].as_slice(), DType::F32));
    assert_eq!(labels.to_vec1::<i64>().unwrap(), [0, 1]);
    assert_eq!(images.flatten_all().unwrap().to_vec1::<f32>().unwrap(), pixels.into_raw_vec_and_offset().0);
}

/// Finds what the memory of a batch holds before it is written to.
struct FindOld;

impl Collate<Image> for FindOld {
    type Output = (f32, BatchBuffer<f32>);

    fn collate(&self, _: Vec<Image>) -> anyhow::Result<Self::Output> {
        anyhow::bail!("a loader calls collate_with")
    }

    fn collate_with(&self, _: Vec<Image>, context: &CollateContext) -> anyhow::Result<Self::Output> {
        let mut buffer = context.buffer(2 << 20);
        let old = buffer[0];
        buffer.fill(7.0);
        Ok((old, buffer))
    }
}

/// Each batch took new memory from the system.
#[test]
fn memory_of_dropped_batches_is_used_again() {
    const SIDE: u32 = 400;
    without_hanging(|| {
        let store = MemoryStore::new().with_bucket("data");
        for value in 0..96 {
            let file = png(SIDE, SIDE, &vec![value; (SIDE * SIDE) as usize]);
            store.insert("data", &format!("p/x/{value:02}.png"), file);
        }
        let dataset = DatafluxDataset::open_with(client(store), "gs://data/p/").unwrap();
        let decode = ImageFolder::new().grayscale();
        let loader = DataLoader::builder(dataset.clone().decode(decode.clone())).batch_size(8).build().unwrap();
        for batch in loader.epoch(0).unwrap() {
            let batch = batch.unwrap();
            for (id, image) in batch.ids().iter().zip(batch.pixels.chunks((SIDE * SIDE) as usize)) {
                assert!(image.iter().all(|value| (value * 255.0 - id.0 as f32).abs() < 1e-3), "{id:?}");
            }
        }

        let loader = DataLoader::builder(dataset.decode(decode).collate(FindOld)).batch_size(4).prefetch(2);
        let loader = loader.build().unwrap();
        for take_out in [false, true] {
            let (mut taken, mut again) = (Vec::new(), 0);
            for batch in loader.epoch(0).unwrap() {
                let (old, buffer) = batch.unwrap().into_inner();
                again += usize::from(old > 0.0);
                if take_out {
                    taken.push(buffer.into_vec());
                }
            }
            assert_eq!(again > 0, !take_out, "{again} batches in memory of earlier ones; what is taken out is gone");
        }
    });
}

#[test]
fn colours_are_planes_and_are_normalised_by_channel() {
    let store = MemoryStore::new().with_bucket("data");
    let mut bytes = Vec::new();
    let image = image::RgbImage::from_raw(2, 1, vec![255, 0, 51, 0, 255, 102]).unwrap();
    image.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
    store.insert("data", "p/x/1.png", bytes);
    let decode = ImageFolder::new().normalize(&[0.0, 0.5, 0.2], &[1.0, 0.5, 0.1]);
    let batch = first(&store, decode, 1).unwrap();
    assert_eq!(batch.shape, [1, 3, 1, 2]);
    let wanted = [1.0, 0.0, -1.0, 1.0, 0.0, 2.0];
    assert!(batch.pixels.iter().zip(wanted).all(|(got, wanted)| (got - wanted).abs() < 1e-5), "{:?}", batch.pixels);
}

#[test]
fn jpeg_and_png_of_many_sizes_become_one() {
    let store = MemoryStore::new().with_bucket("data");
    for (index, (height, width)) in [(8, 8), (16, 12), (5, 30)].into_iter().enumerate() {
        let image = image::RgbImage::from_fn(width, height, |_, _| image::Rgb([200, 100, 50]));
        for (ending, format) in [("png", image::ImageFormat::Png), ("jpg", image::ImageFormat::Jpeg)] {
            let mut bytes = Vec::new();
            image.write_to(&mut std::io::Cursor::new(&mut bytes), format).unwrap();
            store.insert("data", &format!("p/x/{index}.{ending}"), bytes);
        }
    }
    let batch = first(&store, ImageFolder::new().resize(7, 9), 6).unwrap();
    assert_eq!(batch.shape, [6, 3, 7, 9]);
    for (index, value) in batch.pixels.iter().enumerate() {
        let wanted = [200.0, 100.0, 50.0][index / 63 % 3] / 255.0;
        assert!((value - wanted).abs() < 0.02, "pixel {index}: {value} for {wanted}");
    }
}

#[test]
fn a_png_cut_short_names_the_object() {
    let store = two_classes();
    let whole = png(8, 8, &[7; 64]);
    store.insert("data", "p/dog/2.png", whole[..whole.len() - 20].to_vec());
    let error = first(&store, ImageFolder::new().grayscale().resize(2, 2), 3).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode);
    assert!(error.about().unwrap().starts_with("gs://data/p/dog/2.png#"), "{error}");
    assert!(error.to_string().contains("upload it again"), "{error}");
}

/// The error of decoding the only object of a bucket.
fn refusal(bytes: impl Into<Vec<u8>>, decode: ImageFolder) -> String {
    let store = MemoryStore::new().with_bucket("data");
    store.insert("data", "p/dog/2.png", bytes.into());
    let error = first(&store, decode, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
    assert!(error.about().unwrap().starts_with("gs://data/p/dog/2.png#"), "{error}");
    error.to_string()
}

/// A PNG file of this size without pixels: a header and an empty stream.
fn png_of_size(width: u32, height: u32) -> Vec<u8> {
    let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    file.extend([width.to_be_bytes(), height.to_be_bytes()].concat());
    file.extend([8, 2, 0, 0, 0]);
    file
}

#[test]
fn an_image_beyond_the_limit_is_not_called_damaged() {
    let said = refusal(png_of_size(100_000, 50_000), ImageFolder::new());
    for part in ["100000 x 50000 = 5000000000 pixels", "178956970", "ImageFolder::max_pixels"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(!said.contains("upload it again"), "{said}");
    let said = refusal(png(3, 2, &[1; 6]), ImageFolder::new().max_pixels(5));
    assert!(said.contains("2 x 3 = 6 pixels (width x height), more than the 5 that"), "{said}");
    let store = MemoryStore::new().with_bucket("data");
    store.insert("data", "p/dog/2.png", png(3, 2, &[1; 6]));
    assert_eq!(first(&store, ImageFolder::new().max_pixels(6), 1).unwrap().shape, [1, 3, 3, 2]);
}

#[test]
fn what_is_no_image_of_a_known_format_is_called_by_its_name() {
    for (bytes, wanted) in [
        (b"\0\0\0\x20ftypavif".to_vec(), "it is an AVIF image, and ImageFolder decodes JPEG, PNG, WebP, GIF, BMP and"),
        (b"\0\0\0\x20ftypheic".to_vec(), "it is a HEIC image"),
        (b"<!doctype html><title>404".to_vec(), "it is an HTML page"),
        (b"\x1f\x8b\x08\0\0\0\0\0".to_vec(), "it is stored gzip-encoded"),
        (b"once upon a time".to_vec(), "are no image of a known format"),
        (Vec::new(), "it is empty (0 bytes)"),
    ] {
        let said = refusal(bytes.clone(), ImageFolder::new());
        assert!(said.contains(wanted), "{wanted} in {said}");
        assert!(bytes.is_empty() || !said.contains("upload it again"), "{said}");
        assert!(said.contains("leave it out") || said.contains("with a closure"), "{said}");
    }
}

#[tokio::test]
async fn an_encoded_object_is_not_called_damaged() {
    let store = MemoryStore::new().with_bucket("data");
    let whole = png(3, 2, &[1; 6]);
    // Bytes without a signature, like those of brotli; and an image whose metadata wrongly claim an encoding.
    for (name, bytes, encoding) in
        [("1", b"\x0b\x02\x80meow".to_vec(), "br"), ("2", b"\x1f\x8b\x08".to_vec(), "gzip"), ("3", whole, "gzip")]
    {
        let mut request = PutRequest::new("data", format!("p/x/{name}"), bytes);
        request.content_encoding = Some(encoding.to_owned());
        client(store.clone()).put(&request).await.unwrap();
    }
    let results = tokio::task::spawn_blocking(move || {
        without_hanging(move || {
            let folder = ImageFolder::new();
            let decode = move |sample| Ok(folder.decode(sample).map_err(|error| error.to_string()));
            let dataset = DatafluxDataset::open_with(client(store), "gs://data/p/").unwrap().decode(decode);
            let mut batches = DataLoader::builder(dataset).batch_size(3).build().unwrap().epoch(0).unwrap();
            batches.next().unwrap().unwrap().into_inner()
        })
    });
    let results = results.await.unwrap();
    for (result, encoding) in results.iter().zip(["br", "gzip"]) {
        let said = result.as_ref().unwrap_err();
        assert!(said.contains(&format!("stored {encoding}-encoded")) && said.contains("Content-Encoding"), "{said}");
        assert!(!said.contains("upload it again"), "{said}");
    }
    let bitmap = &results[2].as_ref().unwrap().bitmap;
    assert_eq!((bitmap.height(), bitmap.width(), bitmap.channels()), (3, 2, 3));
}

#[test]
fn two_sizes_in_a_batch_without_resize() {
    let store = two_classes();
    store.insert("data", "p/dog/2.png", png(3, 2, &[1; 6]));
    let error = first(&store, ImageFolder::new().grayscale(), 3).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Collate);
    let said = error.to_string();
    for part in ["p/cat/1.png", "1x2x2", "p/dog/2.png", "1x3x2", ".resize(height, width)"] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[test]
fn an_image_outside_every_folder_has_no_label() {
    let store = MemoryStore::new().with_bucket("data");
    store.insert("data", "p/1.png", png(1, 1, &[0]));
    let error = first(&store, ImageFolder::new(), 1).unwrap_err();
    assert!(error.to_string().contains("no label") && error.about().unwrap().contains("p/1.png"), "{error}");
}

#[test]
fn as_many_means_as_channels() {
    let decode = ImageFolder::new().normalize(&[0.5], &[0.5]);
    let error = first(&two_classes(), decode, 1).unwrap_err();
    assert!(error.to_string().contains("3 means"), "{error}");
    let decode = ImageFolder::new().grayscale().normalize(&[0.5], &[0.0]);
    assert!(first(&two_classes(), decode, 1).is_err());
}

#[test]
fn a_size_without_pixels_is_refused() {
    let error = first(&two_classes(), ImageFolder::new().resize(0, 224), 1).unwrap_err();
    assert!(error.to_string().contains("resize(0, 224)"), "{error}");
}
