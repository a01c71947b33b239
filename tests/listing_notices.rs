//! What the end of a listing warns of.
//!
//! A program of its own, because it collects the log of the whole process: listings end on threads of the library.

mod support;

use std::time::Instant;

use dataflux::list::Filter;
use dataflux::store::{Client, MemoryStore, StoreCall};
use dataflux::{DatafluxDataset, Decode, ImageFolder, RawSample};
use support::gated::Gated;
use support::log::Log;

/// Opens a data set, and returns the warnings until its listing has ended, which come after the manifest is complete.
/// A streaming listing doesn't end before `open` returns, so the last one that `open` has begun is the one that ends.
fn warnings<D: Decode>(
    log: &Log,
    store: &Gated,
    wanted: usize,
    streaming: bool,
    open: impl FnOnce() -> DatafluxDataset<D>,
) -> Vec<String> {
    log.take();
    if streaming {
        store.shut_after(StoreCall::List, 1);
    }
    let dataset = open();
    store.open();
    dataset.manifest().complete().unwrap();
    let begun = Instant::now();
    let has_ended = || log.lines().iter().any(|line| line.contains("listed ")) && log.warnings().len() >= wanted;
    while !has_ended() && begun.elapsed() < support::HANG {
        std::thread::yield_now();
    }
    let warnings = log.warnings();
    assert_eq!(warnings.len(), wanted, "{:#?}", log.lines());
    warnings
}

/// Hidden files were left out of the data sets of closures without a word.
#[test]
fn hidden_files_that_are_left_out_are_a_warning_and_targets_need_no_classes() {
    let log = Log::of_process();
    let inner = MemoryStore::new().with_bucket("data").with_page_cap(3);
    for name in ["p/.cache/2.png", "p/only/.zarray", "p/only/1.png", "p/only/2.png"] {
        inner.insert("data", name, "bytes");
    }
    for name in ["clean/only/1.png", "clean/only/2.png", "clean/only/3.png", "clean/only/4.png"] {
        inner.insert("data", name, "bytes");
    }
    let store = Gated::new(inner);
    let builder = |streaming| DatafluxDataset::builder().client(Client::new(store.store())).streaming(streaming);
    let closure = |sample: RawSample| Ok(sample.bytes().len());
    let number = || ImageFolder::new().targets(|_| Ok(1.0));

    for streaming in [false, true] {
        let open = |uri| builder(streaming).open(uri).unwrap();
        let hidden = warnings(&log, &store, 1, streaming, || open("gs://data/p/").decode(closure));
        for part in ["hidden files", "hidden_files=2", "gs://data/p/", "Filter::new().hidden()"] {
            assert!(hidden[0].contains(part), "{part}: {hidden:?}");
        }
        let all = || builder(streaming).filter(Filter::new().hidden()).open("gs://data/p/").unwrap();
        warnings(&log, &store, 0, streaming, || all().decode(closure));
        warnings(&log, &store, 0, streaming, || open("gs://data/clean/").decode(closure));
        // A streaming listing of images has a warning of its own.
        let images = warnings(&log, &store, 1, streaming, || open("gs://data/p/").decode(number()));
        assert!(images[0].contains("hidden"), "{images:?}");
    }

    // A streaming listing warns of there being one class only if the decoder wants classes, and none were set.
    let stream = || builder(true).open("gs://data/clean/").unwrap();
    let one_class = warnings(&log, &store, 1, true, || stream().decode(ImageFolder::new()));
    assert!(one_class[0].contains("all samples are of one class"), "{one_class:?}");
    warnings(&log, &store, 0, true, || stream().decode(number()));
    warnings(&log, &store, 0, true, || stream().decode(number()).classes(["only"]).unwrap());
    warnings(&log, &store, 0, true, || stream().decode(ImageFolder::new()).classes(["only"]).unwrap());
}
