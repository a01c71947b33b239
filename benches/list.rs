//! What listing costs beside the network: `cargo bench --bench list`.

use std::fmt::Write as _;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dataflux::store::gcs::parse_page;

/// Objects in a page, as the service gives them.
const PAGE: u64 = 5_000;

/// A page as the service writes it, with names like ImageNet's.
fn page() -> String {
    let mut text = String::from(r#"{"kind":"storage#objects","nextPageToken":"CgxuMDE0NDA3NjQ=","items":["#);
    for index in 0..PAGE {
        let comma = if index == 0 { "" } else { "," };
        write!(
            text,
            r#"{comma}{{"name":"train/n01440764/n01440764_{index}.JPEG","size":"{}","generation":"17000000{:08}","#,
            100_000 + index * 7,
            index * 31,
        )
        .expect("a string takes everything");
        text.push_str(r#""crc32c":"4waSgw==","storageClass":"STANDARD"}"#);
    }
    text + "]}"
}

fn parsing(criterion: &mut Criterion) {
    let text = page();
    assert_eq!(parse_page(&text).expect("the page is one").objects.len() as u64, PAGE);
    let mut group = criterion.benchmark_group("page");
    group.throughput(Throughput::Elements(PAGE));
    group.bench_function("parse", |bench| bench.iter(|| parse_page(black_box(&text))));
    group.finish();
}

criterion_group!(benches, parsing);
criterion_main!(benches);
