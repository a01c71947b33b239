//! Labels and targets that aren't folders: from names, closures and tables.

use candle_core::{DType, Device};
use dataflux::ndarray::array;
use dataflux::store::MemoryStore;
use dataflux::{DataLoader, DatafluxDataset, Decode, ErrorKind, ImageFolder, Images, RawSample, StackImages};

use crate::support::log::Log;
use crate::support::{client, png, without_hanging};

/// A store of these names below `p/`, each an image.
fn images(names: &[&str]) -> MemoryStore {
    let store = MemoryStore::new().with_bucket("data");
    for name in names {
        store.insert("data", &format!("p/{name}"), png(2, 2, &[0, 51, 102, 255]));
    }
    store
}

fn open(store: &MemoryStore) -> DatafluxDataset {
    DatafluxDataset::open_with(client(store.clone()), "gs://data/p/").unwrap()
}

/// The first batch, of up to four samples.
fn first<D: Decode>(dataset: DatafluxDataset<D>) -> dataflux::Result<dataflux::Batch<dataflux::BatchOf<D>>> {
    without_hanging(move || DataLoader::builder(dataset).batch_size(4).build()?.epoch(0)?.next().unwrap())
}

/// The number that a file's name begins with.
fn age(sample: &RawSample) -> anyhow::Result<f32> {
    let file = sample.name().rsplit('/').next().unwrap_or_default();
    Ok(file.split(['_', '.']).next().unwrap_or_default().parse()?)
}

#[test]
fn targets_take_the_place_of_classes_in_a_flat_folder() {
    let store = images(&["31_a.png", "54_b.png", "7.5.png"]);
    let (log, _guard) = Log::of_thread();
    let dataset = open(&store).decode(ImageFolder::new().targets(age).grayscale());
    assert_eq!(log.warnings(), [""; 0], "images without a folder need none here");
    let batch = first(dataset).unwrap();
    assert_eq!(batch.labels, [31.0, 54.0, 7.0]);
    let (pixels, ages) = batch.clone().into_ndarray().unwrap();
    assert_eq!((pixels.shape(), ages), (&[3, 1, 2, 2][..], array![31.0, 54.0, 7.0]));
    let (_, ages) = batch.to_candle(&Device::Cpu).unwrap();
    assert_eq!((ages.dims(), ages.dtype()), (&[3][..], DType::F32));
    assert_eq!(ages.to_vec1::<f32>().unwrap(), [31.0, 54.0, 7.0]);
}

#[test]
fn targets_of_several_numbers_are_rows() {
    let store = images(&["1_2.png", "3_4.png"]);
    let corner = |sample: &RawSample| {
        let name = sample.name().trim_start_matches("p/").trim_end_matches(".png");
        Ok(name.split('_').map(str::parse).collect::<Result<Vec<f32>, _>>()?)
    };
    // The other settings keep the targets, whether they come before or after.
    let decode = ImageFolder::new().resize(1, 1).targets(corner).elements::<u8>().normalize(&[], &[]);
    let batch = first(open(&store).decode(decode.map(|image, _| Ok(image)))).unwrap();
    let (pixels, corners) = batch.clone().into_ndarray().unwrap();
    assert_eq!((pixels.shape(), corners), (&[2, 3, 1, 1][..], array![[1.0, 2.0], [3.0, 4.0]]));
    let (_, corners) = batch.to_candle(&Device::Cpu).unwrap();
    assert_eq!(corners.to_vec2::<f32>().unwrap(), [[1.0, 2.0], [3.0, 4.0]]);

    store.insert("data", "p/5.png", png(2, 2, &[0; 4]));
    let batch: dataflux::Batch<Images<f32, Vec<f32>>> =
        first(open(&store).decode(ImageFolder::new().targets(corner))).unwrap();
    let error = batch.into_ndarray().unwrap_err();
    assert_eq!((error.kind(), error.about()), (ErrorKind::Collate, Some("p/5.png")));
    assert!(
        error.to_string().contains("2 numbers, as p/1_2.png has") && error.to_string().contains("got 1"),
        "{error}"
    );
}

#[test]
fn targets_of_other_types_stay_as_they_are() {
    let store = images(&["1.png", "2.png"]);
    let caption = |sample: &RawSample| Ok(format!("picture {}", sample.name()));
    let batch = first(open(&store).decode(ImageFolder::new().targets(caption))).unwrap();
    assert_eq!(batch.labels, ["picture p/1.png", "picture p/2.png"]);

    // Images of a closure, whose collator is that of images.
    let decode = |sample: RawSample| {
        let folder = ImageFolder::new().grayscale().targets(|sample: &RawSample| Ok(sample.bytes().len() as u32));
        folder.decode(sample)
    };
    let batch = first(open(&store).decode(decode).collate(StackImages::new())).unwrap();
    assert_eq!(batch.labels, [batch.labels[0]; 2]);
}

#[test]
fn an_error_of_a_target_is_one_of_its_sample() {
    let store = images(&["1.png", "two.png"]);
    let error = first(open(&store).decode(ImageFolder::new().targets(age))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode);
    assert!(error.about().unwrap().starts_with("gs://data/p/two.png#"), "{error}");
    assert!(error.to_string().contains("invalid float"), "{error}");
}
