//! Decoders of samples of several parts: tuples, and images with masks.

use std::io::Cursor;
use std::sync::Arc;

use candle_core::{DType, Device};
use dataflux::store::{Client, MemoryStore};
use dataflux::{
    DataLoader, DatafluxDataset, Decode, ErrorKind, ImageFolder, ItemMemory, Labels, Npy, Parts, Raw, RawSample, Text,
    Transforms, Unlabelled,
};

use crate::support::log::Log;
use crate::support::{client, png, without_hanging};

/// A PNG of random-looking colours whose blue channel is the number of the class of a pixel.
fn image(height: u32, width: u32, classes: &[u8]) -> Vec<u8> {
    let image = image::RgbImage::from_fn(width, height, |x, y| {
        let class = classes[(y * width + x) as usize];
        image::Rgb([(x * 31 % 256) as u8, (y * 57 % 256) as u8, class])
    });
    let mut bytes = Vec::new();
    image.write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
    bytes
}

/// Classes that are different nearly everywhere.
fn classes(height: u32, width: u32, seed: u32) -> Vec<u8> {
    (0..height * width).map(|pixel| ((pixel + 977 * seed).wrapping_mul(2_654_435_761) >> 25) as u8).collect()
}

/// Images with masks of 40 x 30 pixels, in no folder.
fn segmentation(count: u32) -> MemoryStore {
    let store = MemoryStore::new().with_bucket("data");
    for index in 0..count {
        let classes = classes(40, 30, index);
        store.insert("data", &format!("p/{index:02}.png"), image(40, 30, &classes));
        store.insert("data", &format!("p/{index:02}_mask.png"), png(40, 30, &classes));
    }
    store
}

/// What this thread logs while `run` runs.
fn log_of(run: impl FnOnce()) -> String {
    let (log, _guard) = Log::of_thread();
    run();
    log.take()
}

fn open(store: &MemoryStore) -> DatafluxDataset {
    DatafluxDataset::open_with(client(store.clone()), "gs://data/p/").unwrap()
}

fn with_masks(store: &MemoryStore) -> DatafluxDataset {
    open(store).parts(Parts::of("{}.png").and("{}_mask.png")).unwrap()
}

#[test]
fn an_image_and_its_mask_are_changed_alike() {
    without_hanging(|| {
        let transforms = Transforms::new()
            .random_crop(20, 16)
            .horizontal_flip(0.5)
            .vertical_flip(0.5)
            .random_rotation(90.0)
            .center_crop(24, 16);
        let folder = ImageFolder::new().transform(transforms).elements::<u8>();
        let dataset = with_masks(&segmentation(24)).decode(folder.with_mask().outside(0));
        let loader = DataLoader::builder(dataset).batch_size(8).shuffle(42).build().unwrap();
        let mut epochs = Vec::new();
        for epoch in 0..2 {
            let mut pixels = Vec::new();
            for batch in loader.epoch(epoch).unwrap() {
                let batch = batch.unwrap();
                assert_eq!((batch.shape, batch.mask_shape), ([8, 3, 24, 16], [8, 24, 16]));
                for (image, mask) in batch.pixels.chunks(3 * 24 * 16).zip(batch.masks.chunks(24 * 16)) {
                    let blue = &image[2 * 24 * 16..];
                    assert_eq!(blue, mask, "rotated pixels outside of the image are black, and of class 0");
                    assert!(mask.iter().any(|class| *class != 0));
                }
                pixels.extend(batch.into_inner().masks);
            }
            epochs.push(pixels);
        }
        assert_ne!(epochs[0], epochs[1], "each epoch has other crops");
    });
}

#[test]
fn colours_and_resizes_leave_the_classes_of_a_mask() {
    without_hanging(|| {
        let store = segmentation(4);
        let transforms =
            Transforms::new().random_resized_crop(32, 32).color_jitter(0.9, 0.9, 0.9, 0.5).gaussian_blur(5);
        let loader = |transforms: Transforms| {
            let dataset = with_masks(&store).decode(ImageFolder::new().transform(transforms).with_mask());
            DataLoader::builder(dataset).batch_size(4).shuffle(1).build().unwrap()
        };
        let batch = loader(transforms).epoch(0).unwrap().next().unwrap().unwrap();
        for (position, mask) in batch.masks.chunks(32 * 32).enumerate() {
            let there = classes(40, 30, batch.ids()[position].0 as u32);
            assert!(mask.iter().all(|class| there.contains(class)), "no class comes of an average");
        }
        // The choices are those that an image without a mask gets.
        let crop = || Transforms::new().random_resized_crop(32, 32);
        let masked = loader(crop()).epoch(0).unwrap().next().unwrap().unwrap();
        let plain = with_masks(&store).decode(ImageFolder::new().transform(crop()).without_labels());
        let plain = DataLoader::builder(plain).batch_size(4).shuffle(1).build().unwrap();
        let plain = plain.epoch(0).unwrap().next().unwrap().unwrap();
        assert_eq!((masked.shape, &masked.pixels), (plain.shape, &plain.pixels));
        assert_eq!(plain.labels, [-1; 4]);
    });
}

#[test]
fn masks_become_tensors() {
    without_hanging(|| {
        let dataset = with_masks(&segmentation(2)).decode(ImageFolder::new().grayscale().with_mask());
        let batch =
            DataLoader::builder(dataset).batch_size(2).build().unwrap().epoch(0).unwrap().next().unwrap().unwrap();
        let wanted = [classes(40, 30, 0), classes(40, 30, 1)].concat();
        let (images, masks) = batch.clone().into_ndarray().unwrap();
        assert_eq!((images.shape(), masks.shape()), (&[2, 1, 40, 30][..], &[2, 40, 30][..]));
        assert!(masks.iter().eq(&wanted));
        let (images, masks) = batch.to_candle(&Device::Cpu).unwrap();
        assert_eq!((images.dims(), masks.dims(), masks.dtype()), (&[2, 1, 40, 30][..], &[2, 40, 30][..], DType::U8));
        assert_eq!(masks.flatten_all().unwrap().to_vec1::<u8>().unwrap(), wanted);
    });
}

#[test]
fn a_wrong_mask_names_the_sample_and_the_mask() {
    without_hanging(|| {
        let jpeg = {
            let mut bytes = Vec::new();
            image::GrayImage::new(30, 40).write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Jpeg).unwrap();
            bytes
        };
        for (mask, wanted) in [
            (
                png(30, 40, &[0; 1_200]),
                "the image has 40 x 30 pixels (height x width), and its part p/01_mask.png has 30 x 40",
            ),
            (image(40, 30, &[0; 1_200]), "its part p/01_mask.png: a mask has one number"),
            (jpeg, "its part p/01_mask.png: a mask can't be a JPEG"),
            (b"no image".to_vec(), "its part p/01_mask.png: "),
        ] {
            let store = segmentation(2);
            store.insert("data", "p/01_mask.png", mask);
            let loader = DataLoader::builder(with_masks(&store).decode(ImageFolder::new().with_mask())).batch_size(2);
            let error = loader.build().unwrap().epoch(0).unwrap().next().unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Decode);
            assert!(error.about().unwrap().starts_with("gs://data/p/01.png#"), "{error}");
            assert!(error.to_string().contains(wanted), "{error}");
        }
    });
}

/// Images with captions and arrays, in no folder.
fn captioned(count: usize) -> MemoryStore {
    let store = MemoryStore::new().with_bucket("data");
    for index in 0..count {
        let header = format!("{:117}\n", "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }");
        let npy = [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes()].concat();
        store.insert("data", &format!("p/{index:02}.png"), png(2, 2, &[index as u8; 4]));
        store.insert("data", &format!("p/{index:02}.txt"), format!("caption {index}"));
        store.insert("data", &format!("p/{index:02}.npy"), [npy, (index as f32).to_le_bytes().to_vec()].concat());
    }
    store
}

#[test]
fn a_tuple_of_decoders_decodes_a_tuple_of_parts() {
    without_hanging(|| {
        let store = captioned(6);
        let folder = ImageFolder::new().grayscale().without_labels().elements::<u8>();
        let dataset = open(&store).parts(Parts::by_stem(["png", "txt", "npy"])).unwrap();
        let dataset = dataset.decode((folder, Text::new(), Npy::<f32>::new()));
        let loader = DataLoader::builder(dataset).batch_size(3).build().unwrap();
        let mut next = 0;
        for batch in loader.epoch(0).unwrap() {
            let (images, texts, arrays) = batch.unwrap().unzip();
            assert_eq!(images.ids(), texts.ids());
            assert_eq!(images.names().collect::<Vec<_>>(), arrays.names().collect::<Vec<_>>());
            let (pixels, labels) = images.into_ndarray().unwrap();
            assert_eq!((pixels.shape(), labels.to_vec()), (&[3, 1, 2, 2][..], vec![-1; 3]));
            for (sample, text) in texts.iter().enumerate() {
                assert_eq!((pixels[[sample, 0, 1, 1]], &**text), (next as u8, &*format!("caption {next}")));
                assert_eq!(arrays[[sample, 0]].to_bits(), (next as f32).to_bits());
                next += 1;
            }
        }
        assert_eq!(next, 6);
    });
}

#[test]
fn a_tuple_says_which_part_it_refuses_and_how_many_it_wants() {
    without_hanging(|| {
        let store = captioned(2);
        let first = |dataset: DatafluxDataset| {
            let loader = DataLoader::builder(dataset.decode((Raw, Npy::<f32>::new()))).batch_size(2).build().unwrap();
            loader.epoch(0).unwrap().next().unwrap().unwrap_err().to_string()
        };
        let text = first(open(&store).parts(Parts::by_stem(["png", "txt"])).unwrap());
        assert!(text.contains("gs://data/p/0") && text.contains(".png#") && text.contains("its part p/0"), "{text}");
        assert!(text.contains(".txt: it is no file of NumPy"), "{text}");
        let text = first(open(&store).parts(Parts::of("{}.png")).unwrap());
        assert!(text.contains("1 of the 2 parts") && text.contains("DatafluxDataset::parts"), "{text}");
    });
}

#[test]
fn the_memory_of_a_tuple_is_that_of_its_parts() {
    let store = captioned(1);
    let sample = open(&store).parts(Parts::by_stem(["png", "txt", "npy"])).unwrap().get(0).unwrap();
    let size = |number| sample.part(number).unwrap().bytes().len() as u64;
    let folder = || ImageFolder::new().without_labels();
    let image = folder().decode_memory(&sample.part(0).unwrap()).unwrap();

    let both = (folder(), Text::new());
    assert_eq!(both.item_memory(), ItemMemory::FromBytes);
    let memory = both.decode_memory(&sample).unwrap();
    assert_eq!((memory.item, memory.scratch), (image.item + size(1), image.scratch));

    // A raw part keeps the bytes of all.
    let raw = (folder(), Raw).decode_memory(&sample).unwrap();
    assert_eq!(raw.item, image.item + size(0) + size(1) + size(2));
    assert_eq!(((Raw, Raw).item_memory(), (Raw, Raw).item_bytes(9)), (ItemMemory::FromSize, None));
    assert!((Raw, Raw).is_light() && !both.is_light());
    assert!(both.wants_images() && !both.wants_labels() && !(Raw, folder()).wants_images());
    let closure = |sample: RawSample| Ok(sample.bytes().len());
    assert_eq!((Raw, closure).item_memory(), ItemMemory::FromItems);
    // The image still counts beside a part whose item nobody knows.
    let estimated = (folder(), closure);
    assert_eq!(estimated.item_memory(), ItemMemory::FromBytes);
    let memory = estimated.decode_memory(&sample).unwrap();
    assert!(memory.is_estimate && memory.item == image.item + size(1), "{memory:?}");

    let masked = with_masks(&segmentation(1)).get(0).unwrap();
    let memory = ImageFolder::new().resize(10, 20).with_mask().decode_memory(&masked).unwrap();
    assert_eq!(memory.item, 10 * 20 * 4);
    assert!(memory.scratch > 40 * 30 * 3);
}

#[test]
fn images_in_no_folder_are_no_reason_for_a_warning_where_labels_are_not_wanted() {
    let store = captioned(3);
    let dataset = || open(&store).parts(Parts::by_stem(["png", "txt"])).unwrap();
    let unlabelled = "samples in no folder of a class have no label";
    // The warning comes with a loader, since labels may be set until then.
    let warned = log_of(|| drop(DataLoader::builder(dataset().decode((ImageFolder::new(), Text::new()))).build()));
    assert!(warned.contains(unlabelled), "{warned}");
    let without = || dataset().decode((ImageFolder::new().without_labels(), Text::new()));
    let quiet = log_of(|| drop(DataLoader::builder(without()).build()));
    assert!(!quiet.contains(unlabelled), "{quiet}");
    let masked = || with_masks(&segmentation(2)).decode(ImageFolder::new().with_mask());
    let masks = log_of(|| drop(DataLoader::builder(masked()).build()));
    assert!(!masks.contains(unlabelled), "{masks}");
}

#[test]
fn samples_that_are_left_out_are_logged() {
    let store = captioned(3);
    let parts = || Parts::by_stem(["png", "txt"]).missing(dataflux::MissingParts::Skip);
    let log = log_of(|| drop(open(&store).parts(parts()).unwrap()));
    assert!(log.contains("3 no parts of a sample") && log.contains("belong to no sample"), "{log}");
    store.insert("data", "p/99.png", "alone");
    let log = log_of(|| drop(open(&store).parts(parts()).unwrap()));
    assert!(log.contains("samples that lack a part are left out") && log.contains("gs://data/p/99.txt"), "{log}");
    assert!(log.contains("incomplete=1"), "{log}");
}

/// A client reads what it is given, whatever its decoder is.
#[test]
fn a_decoder_of_one_part_gets_the_first() {
    let store = captioned(2);
    let client: Client = Client::new(Arc::new(store));
    let dataset = DatafluxDataset::open_with(client, "gs://data/p/").unwrap();
    let dataset = dataset.parts(Parts::of("{}.txt").and("{}.png")).unwrap().decode(Text::new());
    assert_eq!(dataset.get(1).unwrap(), "caption 1");
}

#[test]
fn labels_may_be_given_before_or_after_the_parts() {
    let store = MemoryStore::new().with_bucket("data");
    for name in ["cat_1", "cat_2", "dog_1"] {
        store.insert("data", &format!("p/{name}.png"), png(2, 2, &[0; 4]));
        store.insert("data", &format!("p/{name}.txt"), name);
    }
    let parts = || Parts::by_stem(["png", "txt"]);
    let labels = || Labels::pattern("{label}_*").unwrap();
    let before = open(&store).label_by(labels()).unwrap().parts(parts()).unwrap();
    let after = open(&store).parts(parts()).unwrap().label_by(labels()).unwrap();
    for dataset in [&before, &after] {
        assert_eq!(dataset.manifest().digest(), after.manifest().digest());
        assert_eq!(dataset.manifest().labels(), ["cat", "dog"]);
        dataset.manifest().verify().unwrap();
        let renumbered = dataset.clone().classes(["dog", "cat"]).unwrap();
        assert_ne!(renumbered.manifest().digest(), dataset.manifest().digest());
        let decoded = renumbered.decode((ImageFolder::new().grayscale(), Text::new()));
        let (image, text) = decoded.get(2).unwrap();
        assert_eq!((image.label, &*text), (0, "dog_1"));
    }
    // What has no label leaves with its parts.
    store.insert("data", "p/none.png", png(2, 2, &[0; 4]));
    store.insert("data", "p/none.txt", "none");
    let labels = labels().unlabelled(Unlabelled::LeaveOut);
    let dataset = open(&store).parts(parts()).unwrap().label_by(labels).unwrap();
    assert_eq!((dataset.len(), dataset.manifest().digest()), (3, after.manifest().digest()));
    let names: Vec<_> = (0..3).map(|index| dataset.get(index).unwrap().part(1).unwrap().name().to_owned()).collect();
    assert_eq!(names, ["p/cat_1.txt", "p/cat_2.txt", "p/dog_1.txt"]);
}
