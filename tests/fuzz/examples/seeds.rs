//! Makes the files of `corpus/` in formats of this project, and in Parquet; `make_corpus.py` makes the others.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use dataflux::store::{Client, MemoryStore};
use dataflux::{DataLoader, DatafluxDataset};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;

fn main() -> Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in ["manifest", "audit_log", "state", "inventory_parquet"] {
        std::fs::create_dir_all(corpus.join(target))?;
    }

    let store = MemoryStore::new().with_bucket("data");
    for index in 0..40 {
        store.insert("data", &format!("p/{}/{index:02}.png", ["cat", "été"][index % 2]), vec![0; index * index]);
    }
    let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://data/p/")?;
    dataset.manifest().save(corpus.join("manifest/folders"))?;
    let store = MemoryStore::new().with_bucket("data");
    store.insert("data", "one", "meow");
    let one = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://data/")?;
    one.manifest().save(corpus.join("manifest/one"))?;

    // Of the data set of the targets, so that resuming goes on behind the check of the digest.
    let dataset = fuzz::dataset();
    let log = corpus.join("audit_log/epochs");
    let _ = std::fs::remove_file(&log);
    for (name, unordered) in [("ordered", false), ("unordered", true)] {
        let builder = DataLoader::builder(dataset.clone()).batch_size(2).shuffle(7).shard(1, 2);
        let builder = if unordered { builder.unordered(true) } else { builder.audit(&log) };
        let loader = builder.build()?;
        let mut epoch = loader.epoch(3)?;
        while let Some(batch) = epoch.next() {
            batch?;
            let state = serde_json::to_vec(&epoch.state())?;
            std::fs::write(corpus.join("state").join(name), state)?;
            if unordered {
                break;
            }
        }
    }

    for (name, compression) in
        [("plain", parquet::basic::Compression::UNCOMPRESSED), ("snappy", parquet::basic::Compression::SNAPPY)]
    {
        let schema = "message report { required binary bucket (UTF8); required binary name (UTF8); required int64 size; \
                      optional int64 generation; optional binary crc32c (UTF8); }";
        let schema = Arc::new(parquet::schema::parser::parse_message_type(schema)?);
        let properties = WriterProperties::builder().set_compression(compression).build();
        let file = std::fs::File::create(corpus.join("inventory_parquet").join(name))?;
        let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties))?;
        let mut group = writer.next_row_group()?;
        let texts = |texts: [&str; 3]| texts.map(ByteArray::from).to_vec();
        for column in 0..5 {
            let mut writer = group.next_column()?.expect("a column");
            match column {
                0 => _ = writer.typed::<ByteArrayType>().write_batch(&texts(["cats"; 3]), None, None)?,
                1 => {
                    let names = texts(["train/tom.png", "train/tim.png", "test/été"]);
                    writer.typed::<ByteArrayType>().write_batch(&names, None, None)?;
                }
                2 => _ = writer.typed::<Int64Type>().write_batch(&[9, 8, 7], None, None)?,
                3 => _ = writer.typed::<Int64Type>().write_batch(&[1, 2], Some(&[1, 0, 1]), None)?,
                _ => {
                    let crcs = texts(["AAAAAA=="; 3]);
                    writer.typed::<ByteArrayType>().write_batch(&crcs, Some(&[1, 1, 1]), None)?;
                }
            }
            writer.close()?;
        }
        group.close()?;
        writer.close()?;
    }
    Ok(())
}
