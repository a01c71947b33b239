//! What batches become, and that the CPU's tensors take their memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use dataflux::{
    Batch, BatchOf, Collate, DataLoader, DatafluxDataset, Decode, Image, ImageFolder, Images, MixImages, NamedArrays,
    PadArrays, PadImages, RawSample, StackArrays, StackImages, ToDevice,
};
use dataflux_burn::BurnDevice;
use ndarray::{ArrayD, array};

use crate::support::{SIDE, images, in_memory};

/// The batches of an epoch as tensors on the CPU.
fn tensors<D>(dataset: DatafluxDataset<D>, batch_size: usize) -> Vec<<BatchOf<D> as ToDevice<BurnDevice>>::Tensors>
where
    D: Decode,
    BatchOf<D>: ToDevice<BurnDevice>,
{
    let device = BurnDevice::from(Device::flex());
    let loader = DataLoader::builder(dataset).batch_size(batch_size).device(device).build().unwrap();
    loader.epoch(0).unwrap().map(|batch| batch.unwrap().into_inner()).collect()
}

/// The error of the first batch.
fn failure<D>(dataset: DatafluxDataset<D>) -> String
where
    D: Decode,
    BatchOf<D>: ToDevice<BurnDevice>,
{
    let device = BurnDevice::from(Device::flex());
    let loader = DataLoader::builder(dataset).batch_size(4).device(device).build().unwrap();
    loader.epoch(0).unwrap().next().unwrap().err().unwrap().to_string()
}

fn files(contents: &[&str]) -> DatafluxDataset {
    in_memory(contents.iter().enumerate().map(|(n, text)| (format!("train/{n}"), text.as_bytes().to_vec())).collect())
}

/// Stacks images, and notes where their pixels are.
struct NotedImages(StackImages, Arc<Mutex<Vec<usize>>>);

impl Collate<Image> for NotedImages {
    type Output = Images;

    fn collate(&self, samples: Vec<Image>) -> anyhow::Result<Images> {
        let images = self.0.collate(samples)?;
        self.1.lock().unwrap().push(images.pixels.as_ptr() as usize);
        Ok(images)
    }
}

#[test]
fn tensors_on_the_cpu_take_the_memory_of_the_images() {
    let addresses = Arc::new(Mutex::new(Vec::new()));
    let collator = NotedImages(ImageFolder::new().collate(), Arc::clone(&addresses));
    let dataset = in_memory(images(12)).decode(ImageFolder::new()).collate(collator);
    let batches = tensors(dataset, 4);
    let mut of_tensors: Vec<usize> = batches
        .into_iter()
        .map(|(images, labels)| {
            assert_eq!((images.dims(), labels.dims()), ([4, 3, SIDE, SIDE], [4]));
            images.into_data().bytes().as_ptr() as usize
        })
        .collect();
    // Batches are collated in any order.
    let mut of_batches = addresses.lock().unwrap().clone();
    of_batches.sort_unstable();
    of_tensors.sort_unstable();
    assert_eq!((of_tensors.len(), of_tensors), (3, of_batches));
}

#[test]
fn images_keep_their_values_and_labels_their_classes() {
    let [(images, labels)] = &*tensors(in_memory(images(4)).decode(ImageFolder::new()), 4) else { panic!() };
    assert_eq!((images.dtype(), labels.dtype()), (DType::F32, Device::flex().settings().int_dtype.into()));
    labels.clone().into_data().assert_eq(&TensorData::from([0, 0, 1, 1]), false);
    for (index, image) in images.clone().iter_dim(0).enumerate() {
        let wanted = Tensor::<4>::full([1, 3, SIDE, SIDE], index as f32, &Device::flex());
        assert!((image * 255).round().equal(wanted).all().into_scalar::<bool>(), "image {index}");
    }
}

#[test]
fn bytes_stay_bytes_and_targets_may_be_vectors() {
    let decoder = ImageFolder::new().elements::<u8>().targets(|sample: &RawSample| {
        let number = f32::from(sample.name().as_bytes()[sample.name().len() - 5] - b'0');
        Ok(vec![number, -number])
    });
    let [(images, targets)] = &*tensors(in_memory(images(3)).decode(decoder), 3) else { panic!() };
    let images: &Tensor<4, Int> = images;
    assert_eq!((images.dtype(), targets.dtype()), (DType::U8, DType::F32));
    targets.clone().into_data().assert_eq(&TensorData::from([[0.0_f32, 0.0], [1.0, -1.0], [2.0, -2.0]]), true);

    let uneven = ImageFolder::new().targets(|sample: &RawSample| Ok(vec![1_i64; sample.name().len() - 10]));
    let mut objects = images_of_two_lengths();
    objects.sort();
    let error = failure(in_memory(objects).decode(uneven));
    assert!(error.contains("train/dark/000.png has") && error.contains("train/dark/longer.png"), "{error}");
}

fn images_of_two_lengths() -> Vec<(String, Vec<u8>)> {
    let mut objects = images(2);
    objects.push(("train/dark/longer.png".to_owned(), objects[0].1.clone()));
    objects
}

#[test]
fn mixed_and_padded_images_convert() {
    let mix = MixImages::new(ImageFolder::new().collate(), 2).mixup(0.5);
    let [(mixed, shares)] = &*tensors(in_memory(images(4)).decode(ImageFolder::new()).collate(mix), 4) else {
        panic!()
    };
    assert_eq!((mixed.dims(), shares.dims(), shares.dtype()), ([4, 3, SIDE, SIDE], [4, 2], DType::F32));

    let pad = PadImages::new(ImageFolder::new().collate(), 8, 8).multiple_of(8);
    let dataset = in_memory(images(4)).decode(ImageFolder::new()).collate(pad);
    let [(padded, labels, mask)] = &*tensors(dataset, 4) else { panic!() };
    assert_eq!((padded.dims(), labels.dims(), mask.dims()), ([4, 3, 8, 8], [4], [4, 8, 8]));
    assert_eq!(mask.clone().float().sum().int().into_scalar::<i64>(), (4 * SIDE * SIDE) as i64);
}

#[test]
fn arrays_say_their_rank_when_it_is_asked_for() {
    let decode = |sample: RawSample| -> anyhow::Result<ArrayD<f32>> {
        let number: f32 = std::str::from_utf8(sample.bytes())?.parse()?;
        Ok(array![[number, 1.0, 2.0], [3.0, 4.0, 5.0]].into_dyn())
    };
    let [stacked] = &*tensors(files(&["7", "8"]).decode(decode).collate(StackArrays), 2) else { panic!() };
    assert_eq!(stacked.shape(), [2, 2, 3]);
    let error = stacked.clone().into_tensor::<2>().unwrap_err().to_string();
    assert!(error.contains("wanted 2 dimensions, got 3"), "{error}");
    let wanted = [[[7.0_f32, 1.0, 2.0], [3.0, 4.0, 5.0]], [[8.0, 1.0, 2.0], [3.0, 4.0, 5.0]]];
    stacked.clone().into_tensor::<3>().unwrap().into_data().assert_eq(&TensorData::from(wanted), true);
}

#[test]
fn padded_and_named_arrays_convert() {
    let rows = |sample: RawSample| -> anyhow::Result<ArrayD<u8>> {
        Ok(ArrayD::from_shape_vec(vec![sample.bytes().len()], sample.bytes().to_vec())?)
    };
    let dataset = files(&["ab", "c"]).decode(rows).collate(PadArrays::new(4, 0_u8));
    let [(padded, lengths)] = &*tensors(dataset, 2) else { panic!() };
    padded.clone().into_tensor::<2>().unwrap().into_data().assert_eq(&TensorData::from([[97_u8, 98], [99, 0]]), true);
    lengths.clone().into_data().assert_eq(&TensorData::from([2, 1]), false);

    let named = |sample: RawSample| -> anyhow::Result<NamedArrays> {
        let mut arrays = NamedArrays::new();
        arrays.insert("bytes", ArrayD::from_shape_vec(vec![1], vec![sample.bytes()[0]])?);
        arrays.insert("floats", array![0.5_f64, 1.5].into_dyn());
        arrays.insert("truths", array![true].into_dyn());
        Ok(arrays)
    };
    let mut batches = tensors(files(&["a", "b"]).decode(named).collate(StackArrays), 2);
    let mut arrays: BTreeMap<_, _> = batches.remove(0);
    let bytes = arrays.remove("bytes").unwrap();
    assert_eq!(bytes.shape(), [2, 1]);
    assert!(bytes.clone().float::<2>().unwrap_err().to_string().contains("wanted floats, got integers"));
    bytes.int::<2>().unwrap().into_data().assert_eq(&TensorData::from([[97_u8], [98]]), true);
    let floats = arrays.remove("floats").unwrap().float::<2>().unwrap();
    floats.into_data().assert_eq(&TensorData::from([[0.5_f64, 1.5], [0.5, 1.5]]), true);
    assert!(arrays.remove("truths").unwrap().bool::<2>().unwrap().all().into_scalar::<bool>());
}

#[test]
fn raw_samples_and_numbers_convert_or_say_which_does_not() {
    let [bytes] = &*tensors(files(&["ab", "cd"]), 2) else { panic!() };
    bytes.clone().into_data().assert_eq(&TensorData::from([[97_u8, 98], [99, 100]]), true);
    let error = failure(files(&["ab", "c"]));
    assert!(error.contains("wanted 2 bytes, as train/0 has, got 1 of train/1"), "{error}");

    let number = |sample: RawSample| -> anyhow::Result<i64> { Ok(std::str::from_utf8(sample.bytes())?.parse()?) };
    let [numbers] = &*tensors(files(&["-3", "2147483647"]).decode(number), 2) else { panic!() };
    numbers.clone().into_data().assert_eq(&TensorData::from([-3, i32::MAX]), false);
    let error = failure(files(&["1", "2147483648"]).decode(number));
    assert!(error.contains("wanted -2147483648 to 2147483647 (I32), got 2147483648"), "{error}");
}

/// A batch of the program's own.
struct Words(usize);

impl ToDevice<BurnDevice> for Words {
    type Tensors = Tensor<1>;

    fn to_device(self, device: &BurnDevice, batch: &Batch<()>) -> anyhow::Result<Tensor<1>> {
        Ok(Tensor::from_floats([self.0 as f32, batch.len() as f32], device.device()))
    }
}

#[test]
fn batches_of_a_program_convert_as_it_says() {
    let decode =
        |sample: RawSample| -> anyhow::Result<usize> { Ok(sample.bytes().split(|byte| *byte == b' ').count()) };
    let collate = |counts: Vec<usize>| -> anyhow::Result<Words> { Ok(Words(counts.iter().sum())) };
    let [counted] = &*tensors(files(&["a b", "c", "d e f"]).decode(decode).collate(collate), 3) else { panic!() };
    counted.clone().into_data().assert_eq(&TensorData::from([6.0_f32, 3.0]), true);
}
