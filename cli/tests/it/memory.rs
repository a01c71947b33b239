//! The most memory that a run takes is what it was allowed, whatever sizes are mixed.
//!
//! `DATAFLUX_LARGEST=1GiB cargo test --release -p dataflux-cli --test it memory -- --nocapture` is the full size;
//! without, all is an eighth of it.

use std::sync::Arc;
use std::time::SystemTime;

use dataflux::store::{Client, ComposeRequest, Credentials, GcsConfig, GcsStore, ObjectId, ObjectMeta};
use dataflux_emulator::Emulator;

use crate::bench::png;
use crate::harness::{dataflux, virtuals};

/// What a run may take beside the bytes of samples: the program, its threads, and what its allocator doesn't give back.
const BESIDE: u64 = 64 << 20;

/// What of it is for a program that has read next to nothing. One that is built together with tensor libraries takes
/// more, and that is none of the loader's doing.
const PROGRAM: u64 = 20 << 20;

const MIB: u64 = 1 << 20;

/// Makes objects of whole MiB of one bucket, out of computed ones of one MiB: their contents take no memory.
struct Maker {
    client: Client,
    runtime: tokio::runtime::Runtime,
    block: ObjectMeta,
}

impl Maker {
    fn new(emulator: &Emulator) -> Self {
        let config = GcsConfig::new().endpoint(emulator.endpoint()).credentials(Credentials::Anonymous);
        let client = Client::new(Arc::new(GcsStore::new(config).unwrap()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let block = emulator.names("train").remove(0);
        let block = runtime.block_on(client.stat(&ObjectId::live("train", block))).unwrap();
        Self { client, runtime, block }
    }

    /// An object of so many MiB.
    fn make(&self, name: &str, mib: u64) -> ObjectMeta {
        let step =
            (1..=mib).find(|step| mib.div_ceil(*step) <= 32 && (*step == 1 || mib.is_multiple_of(*step))).unwrap();
        let part = if step == 1 { self.block.clone() } else { self.make(&format!("parts/{step}"), step) };
        let sources: Vec<_> = (0..mib / step).map(|_| (part.name.as_str().into(), part.version.clone())).collect();
        let crc =
            sources.iter().fold(0, |crc, _| crc32c::crc32c_combine(crc, part.crc32c.unwrap(), part.size as usize));
        let now = SystemTime::now();
        let request = ComposeRequest::new("train".into(), name.into(), sources, mib * MIB, crc, now);
        match self.runtime.block_on(self.client.compose(&request)) {
            Err(error) if error.kind() == dataflux::ErrorKind::Precondition => {
                self.runtime.block_on(self.client.stat(&ObjectId::live("train", name))).unwrap()
            }
            made => made.unwrap(),
        }
    }
}

#[test]
#[allow(clippy::print_stdout, reason = "figures for whoever asks for them")]
fn memory_stays_under_the_budget_with_sizes_mixed() {
    let full = std::env::var("DATAFLUX_LARGEST").is_ok_and(|largest| largest == "1GiB");
    let (largest, budget) = if full { (1_024, 256) } else { (128, 32) };
    let emulator = Emulator::builder()
        .virtual_namespace(virtuals("train:n=1,pattern=sequence,size=1048576,prefix=blocks/"))
        .start()
        .unwrap();
    let maker = Maker::new(&emulator);
    // About two and a half budgets beside the one that is larger than any.
    let mut samples = 1;
    maker.make("mixed/largest", largest);
    for (kind, count, mib) in [("large", 2, largest / 10), ("medium", 10, largest / 100), ("small", 40, 1)] {
        for index in 0..count {
            maker.make(&format!("mixed/{kind}-{index}"), mib);
            samples += 1;
        }
    }
    for (count, size) in [(300, 100 << 10), (700, 1 << 10)] {
        for index in 0..count {
            emulator.put("train", &format!("mixed/{size}-{index}"), vec![index as u8; size]);
            samples += 1;
        }
    }
    emulator.put("train", "one/sample", "meow");
    let idle = dataflux(&emulator, &["bench", "gs://train/one/", "--json"]).json();
    let idle = idle["peak_rss_bytes"].as_u64().unwrap();
    let most = (budget + largest) * MIB + BESIDE + idle.saturating_sub(PROGRAM);
    let memory_budget = format!("{budget}MiB");
    for strategy in ["direct", "compose", "auto"] {
        for batch_size in ["1", "64"] {
            let args = ["bench", "gs://train/mixed/", "--json", "--shuffle", "3", "--epochs", "2", "--step-ms", "5"];
            let more = ["--strategy", strategy, "--batch-size", batch_size, "--memory-budget", &memory_budget];
            let report = dataflux(&emulator, &[&args[..], &more].concat()).json();
            assert_eq!((&report["samples"], &report["verified"]), (&(2 * samples).into(), &(2 * samples).into()));
            let peak = report["peak_rss_bytes"].as_u64().unwrap();
            println!(
                "{strategy:>8}, batches of {batch_size:>2}: {:>5} MiB of {} MiB; {} gets, {} composes",
                peak / MIB,
                most / MIB,
                report["ops"]["get"],
                report["ops"]["compose"]
            );
            assert!(peak <= most, "{strategy}, batches of {batch_size}: {peak} bytes of {most}");
        }
    }
}

/// Images of some hundred bytes, which come to two MiB each and to twice that in a batch.
#[test]
fn memory_stays_under_the_budget_when_images_are_decoded() {
    let emulator = Emulator::builder().bucket("images").start().unwrap();
    for index in 0..60 {
        emulator.put("images", &format!("train/{}/{index}.png", ["cat", "dog"][index % 2]), png(64, 64));
    }
    let bench = |size, budget| {
        let args = ["bench", "gs://images/train/", "--json", "--batch-size", "4", "--decode-threads", "4"];
        dataflux(&emulator, &[&args[..], &["--decode", size, "--memory-budget", budget]].concat())
    };
    let idle = bench("image:8x8", "32MiB").json()["peak_rss_bytes"].as_u64().unwrap();
    let report = bench("image:400x400", "32MiB").json();
    let (peak, most) = (report["peak_rss_bytes"].as_u64().unwrap(), 32 * MIB + BESIDE + idle.saturating_sub(PROGRAM));
    assert_eq!(report["samples"], 60);
    assert!(peak <= most, "{peak} bytes of {most}");
    let refused = bench("image:3000x3000", "64MiB").expect(1).stderr;
    for part in ["gs://images/train/", "--memory-budget", "--batch-size", "67108864", "4 samples"] {
        assert!(refused.contains(part), "{part} in {refused}");
    }
}
