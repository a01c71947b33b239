//! Batches as tch tensors.
//!
//! A program of its own, because only it links libtorch: `scripts/test` counts it.
#![cfg(feature = "tch")]

mod support;

use dataflux::store::MemoryStore;
use dataflux::{DataLoader, DatafluxDataset, ImageFolder};
use support::{client, png};
use tch::{Device, Kind, Tensor};

#[test]
fn images_and_labels() {
    let store = MemoryStore::new().with_bucket("data");
    store.insert("data", "p/cat/1.png", png(2, 3, &[0, 51, 102, 153, 204, 255]));
    store.insert("data", "p/dog/1.png", png(2, 3, &[255, 204, 153, 102, 51, 0]));
    let dataset = DatafluxDataset::open_with(client(store), "gs://data/p/").unwrap();
    let dataset = dataset.decode(ImageFolder::new().grayscale());
    let loader = DataLoader::builder(dataset).batch_size(2).build().unwrap();
    let batch = loader.epoch(0).unwrap().next().unwrap().unwrap();
    let (array, _) = batch.clone().into_ndarray().unwrap();
    let (images, labels) = batch.to_tch(Device::Cpu).unwrap();
    assert_eq!((images.size(), images.kind()), (vec![2, 1, 2, 3], Kind::Float));
    let wanted = Tensor::from_slice(array.as_slice().unwrap()).view([2, 1, 2, 3]);
    assert!(images.equal(&wanted));
    assert!(labels.equal(&Tensor::from_slice(&[0i64, 1])));
}

#[test]
fn raw_bytes() {
    let store = MemoryStore::new().with_bucket("data");
    store.insert("data", "p/a", [1, 2, 3].as_slice());
    store.insert("data", "p/b", [4, 5, 255].as_slice());
    let dataset = DatafluxDataset::open_with(client(store), "gs://data/p/").unwrap();
    let loader = DataLoader::builder(dataset).batch_size(2).build().unwrap();
    let tensor = loader.epoch(0).unwrap().next().unwrap().unwrap().to_tch(Device::Cpu).unwrap();
    assert_eq!((tensor.size(), tensor.kind()), (vec![2, 3], Kind::Uint8));
    assert!(tensor.equal(&Tensor::from_slice(&[1u8, 2, 3, 4, 5, 255]).view([2, 3])));
}

/// Batches of 5 MiB, whose memory the loader's thread uses again, while the loop keeps some and views of others.
#[test]
fn a_device_of_the_loader_reuses_memory_and_changes_no_tensor() {
    const BYTES: usize = 5 << 19;
    let store = MemoryStore::new().with_bucket("data");
    for index in 0..24_u8 {
        store.insert("data", &format!("p/{index:02}"), vec![index; BYTES]);
    }
    let dataset = DatafluxDataset::open_with(client(store), "gs://data/p/").unwrap();
    let loader = DataLoader::builder(dataset).batch_size(2).device(Device::Cpu).build().unwrap();
    for keeps_all in [false, true] {
        let mut kept = Vec::new();
        for (index, batch) in loader.epoch(0).unwrap().enumerate() {
            let tensor = batch.unwrap().into_inner();
            assert_eq!((tensor.size(), tensor.kind()), (vec![2, BYTES as i64], Kind::Uint8));
            for row in 0..2 {
                let wanted = (2 * index + row) as i64;
                let (least, most) = (tensor.get(row as i64).min(), tensor.get(row as i64).max());
                assert_eq!((least.int64_value(&[]), most.int64_value(&[])), (wanted, wanted));
            }
            if keeps_all || index % 5 == 0 {
                kept.push((index, tensor.narrow(1, 7, 3)));
            }
        }
        assert!(kept.len() >= 3);
        for (index, view) in kept {
            let first = 2 * index as u8;
            assert!(view.equal(&Tensor::from_slice2(&[[first; 3], [first + 1; 3]])), "batch {index}");
        }
    }
}
