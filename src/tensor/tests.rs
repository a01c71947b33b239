//! Batches of decoded samples, from the store to arrays.

use std::sync::Arc;

use ndarray::{ArrayD, array};

use crate::decode::{Decode, Json, Npy};
use crate::store::{Client, MemoryStore};
use crate::{DataLoader, DatafluxDataset};

fn npy(values: [f32; 2]) -> Vec<u8> {
    let header = format!("{:117}\n", "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }");
    let length = (header.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\0", &length[..], header.as_bytes(), &values.map(f32::to_le_bytes).concat()].concat()
}

fn loader<D: Decode>(objects: &[(&str, Vec<u8>)], decoder: D) -> DataLoader<D> {
    let store = MemoryStore::new();
    for (name, bytes) in objects {
        store.insert("bucket", name, bytes.clone());
    }
    let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://bucket/p/").unwrap();
    DataLoader::builder(dataset.decode(decoder)).batch_size(2).build().unwrap()
}

#[test]
fn arrays_are_batches_of_one_array() {
    let objects = [("p/a.npy", npy([1.0, 2.0])), ("p/b.npy", npy([3.0, 4.0])), ("p/c.npy", npy([5.0, 6.0]))];
    let loader = loader(&objects, Npy::<f32>::new());
    let arrays = loader.epoch(0).unwrap().map(|batch| batch.unwrap().into_ndarray().unwrap());
    let wanted: [ArrayD<f32>; 2] = [array![[1.0, 2.0], [3.0, 4.0]].into_dyn(), array![[5.0, 6.0]].into_dyn()];
    assert_eq!(arrays.collect::<Vec<_>>(), wanted);
}

#[test]
fn an_object_that_does_not_decode_is_named() {
    let loader = loader(&[("p/a.json", b"{".to_vec())], Json::<u8>::new());
    let error = loader.epoch(0).unwrap().next().unwrap().unwrap_err();
    assert!(error.to_string().contains("p/a.json") && format!("{error}").contains("first bytes 7b"), "{error}");
}

#[cfg(feature = "audio")]
#[test]
fn audio_is_padded_to_a_length() {
    let wav = |samples: &[u8]| {
        let size = (samples.len() as u32).to_le_bytes();
        let format = [16, 0, 0, 0, 1, 0, 1, 0, 0x40, 0x1f, 0, 0, 0x40, 0x1f, 0, 0, 1, 0, 8, 0];
        [b"RIFF\0\0\0\0WAVEfmt ", &format[..], b"data", &size, samples].concat()
    };
    let objects = [("p/a.wav", wav(&[192; 5])), ("p/b.wav", wav(&[64]))];
    let loader = loader(&objects, crate::Wav::new().length(3));
    let (samples, lengths) = loader.epoch(0).unwrap().next().unwrap().unwrap().into_ndarray().unwrap();
    assert_eq!(samples, array![[[0.5, 0.5, 0.5]], [[-0.5, 0.0, 0.0]]]);
    assert_eq!(lengths, array![3, 1]);
}
