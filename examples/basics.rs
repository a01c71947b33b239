//! Two epochs of an image folder, from the bucket or emulator that the environment configures.
//!
//! cargo run --release --example basics -- gs://my-bucket/train/

use dataflux::{DataLoader, DatafluxDataset, ImageFolder};

fn main() -> anyhow::Result<()> {
    let uri = std::env::args().nth(1).unwrap_or("gs://my-bucket/train/".into());
    dataflux::clean_up_on_signals()?;
    let dataset = DatafluxDataset::open(&uri)?.decode(ImageFolder::new().resize(224, 224));
    let loader = DataLoader::builder(dataset).batch_size(256).shuffle(42).build()?;
    for epoch in 0..2 {
        for batch in loader.epoch(epoch)? {
            let (images, labels) = batch?.into_ndarray()?;
            println!("epoch {epoch}: images {:?}, labels {:?}", images.shape(), labels.shape());
        }
    }
    Ok(())
}
