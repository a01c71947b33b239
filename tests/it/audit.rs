//! The audit log records what was delivered, and a change of the log is detected.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use dataflux::sample::{Orders, Sampler, Scope};
use dataflux::store::MemoryStore;
use dataflux::{
    AuditLog, AuditRecord, DataLoader, DataLoaderBuilder, DatafluxDataset, ErrorKind, OnError, Raw, Result, Strategy,
};
use futures_util::StreamExt;
use proptest::prelude::*;
use ring::digest::{SHA256, digest};
use serde_json::Value;

use crate::support::{client, content, without_hanging};

/// The folder of one test, which is removed when this is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dataflux-audit-{test}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn log(&self) -> PathBuf {
        self.0.join("run.audit")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A data set of which some objects were overwritten after the listing.
fn data(samples: u64, bad: &[u64]) -> DatafluxDataset {
    let store = MemoryStore::new().with_bucket("data");
    let name = |index| format!("p/{index:04}");
    (0..samples).for_each(|index| _ = store.insert("data", &name(index), content(&name(index), 100)));
    let dataset = DatafluxDataset::open_with(client(store.clone()), "gs://data/p/").unwrap();
    for &index in bad {
        store.insert("data", &name(index), "another");
    }
    dataset
}

/// Position and id of each sample that was delivered.
type Step = Vec<(u64, u64)>;

fn builder(dataset: &DatafluxDataset, scratch: &Scratch) -> DataLoaderBuilder<Raw> {
    DataLoader::builder(dataset.clone()).audit(scratch.log())
}

/// Takes some batches of an epoch. Returns them and the state after them.
fn take(loader: &DataLoader, epoch: u64, steps: usize) -> (Vec<Step>, dataflux::State) {
    let mut batches = loader.epoch(epoch).unwrap();
    let taken = batches.by_ref().take(steps).map(|batch| {
        let batch = batch.unwrap();
        let skipped: BTreeSet<_> = batch.skipped().iter().map(|lost| lost.position).collect();
        let positions = batch.positions().filter(|position| !skipped.contains(position));
        positions.zip(batch.ids().iter().map(|id| id.0)).collect()
    });
    let taken = taken.collect();
    (taken, batches.state())
}

fn records(scratch: &Scratch) -> Vec<AuditRecord> {
    AuditLog::open(scratch.log()).unwrap().collect::<Result<_>>().unwrap()
}

fn replay(record: &AuditRecord, dataset: &DatafluxDataset) -> Step {
    record.samples(dataset.manifest()).unwrap().into_iter().map(|(position, id)| (position, id.0)).collect()
}

#[test]
fn what_is_replayed_is_what_was_delivered() {
    without_hanging(|| {
        let dataset = data(100, &[3, 4, 50, 99]);
        for (number, on_error) in [OnError::Skip { limit: 9 }, OnError::Substitute { limit: 9 }].into_iter().enumerate()
        {
            for strategy in [Strategy::Direct, Strategy::compose()] {
                for rank in 0..3 {
                    let scratch = Scratch::new(&format!("replay-{number}-{rank}"));
                    let plain = || builder(&dataset, &scratch).batch_size(8).shard(rank, 3).strategy(strategy);
                    let loader = plain().on_error(on_error).shuffle(5).build().unwrap();
                    let mut delivered = take(&loader, 0, usize::MAX).0;
                    delivered.extend(take(&loader, 1, usize::MAX).0);
                    drop(loader);
                    // Another order in the same log.
                    let loader = plain().on_error(on_error).shuffle_window(5, 32).build().unwrap();
                    delivered.extend(take(&loader, 2, 2).0);
                    let records = records(&scratch);
                    assert_eq!(records.iter().map(|record| replay(record, &dataset)).collect::<Vec<_>>(), delivered);
                    let steps: Vec<_> = records.iter().map(|record| (record.epoch(), record.step())).collect();
                    let each = |epoch, steps| (0..steps).map(move |step| (epoch, step));
                    assert_eq!(steps, each(0, 5).chain(each(1, 5)).chain(each(2, 2)).collect::<Vec<_>>());
                    assert!(records.iter().all(|record| (record.rank(), record.world_size()) == (rank as u64, 3)));
                }
            }
        }
    });
}

/// A sampler whose order no state describes.
#[derive(Debug)]
struct Backwards;

impl Sampler for Backwards {
    fn identity(&self) -> String {
        "backwards".to_owned()
    }

    fn orders(&self, scope: &Scope) -> Result<Orders> {
        let samples = scope.len();
        Ok(Orders::new(samples, move |_epoch| move |position| samples - 1 - position))
    }
}

#[test]
fn samplers_of_ones_own_and_padding_are_replayed_too() {
    without_hanging(|| {
        let dataset = data(30, &[3, 29]);
        for (number, on_error) in [OnError::Skip { limit: 9 }, OnError::Substitute { limit: 9 }].into_iter().enumerate()
        {
            for rank in 0..2 {
                let scratch = Scratch::new(&format!("own-{number}-{rank}"));
                let ours =
                    || builder(&dataset, &scratch).batch_size(4).shard(rank, 2).pad_last(true).on_error(on_error);
                let mut delivered = take(&ours().sampler(Backwards).build().unwrap(), 0, usize::MAX).0;
                delivered.extend(take(&ours().shuffle(3).build().unwrap(), 1, usize::MAX).0);
                let last = delivered[3].last().unwrap();
                assert!(rank == 0 || last.0 == 31, "the last batch is filled up: {last:?}");
                let records = records(&scratch);
                assert_eq!(records.iter().map(|record| replay(record, &dataset)).collect::<Vec<_>>(), delivered);
                let text = fs::read_to_string(scratch.log()).unwrap();
                assert_eq!(text.matches("\"list\"").count(), 4, "those of the first epoch: {text}");
            }
        }
    });
}

/// A resumed run appends to the log, with the state that it started from, and continues the numbers of the steps.
#[test]
fn a_resumed_run_goes_on_with_the_log() {
    without_hanging(|| {
        let dataset = data(96, &[]);
        for world in [1, 2] {
            let scratch = Scratch::new(&format!("resume-{world}"));
            let loader = builder(&dataset, &scratch).batch_size(8).shuffle(1).build().unwrap();
            let (mut delivered, _) = take(&loader, 4, 7);
            drop(loader);
            // An earlier state than the last one, as if the last two steps had not been saved.
            let clean = DataLoader::builder(dataset.clone()).batch_size(8).shuffle(1).build().unwrap();
            let (_, state) = take(&clean, 4, 5);
            let loader = builder(&dataset, &scratch).shard(0, world).resume(state.clone()).build().unwrap();
            delivered.extend(take(&loader, 4, usize::MAX).0);
            let records = records(&scratch);
            assert_eq!(records.iter().map(|record| replay(record, &dataset)).collect::<Vec<_>>(), delivered);
            let steps: Vec<_> = records.iter().map(AuditRecord::step).collect();
            // Seven batches are left for one rank, and four for each of two.
            let left = if world == 1 { 7 } else { 4 };
            assert_eq!(steps, (0..7).chain(5..5 + left).collect::<Vec<_>>());
            assert!(records[..7].iter().all(|record| record.state().position == 0));
            assert!(records[7..].iter().all(|record| record.state() == &state), "it is linked to the state");
        }
    });
}

/// A log as a killed process leaves it: cut anywhere in the last line, or empty.
#[test]
fn a_torn_tail_is_cut_away_wherever_it_was_torn() {
    without_hanging(|| {
        let dataset = data(12, &[]);
        let scratch = Scratch::new("torn");
        let run = || take(&builder(&dataset, &scratch).batch_size(4).build().unwrap(), 0, 1).0;
        run();
        run();
        let text = fs::read(scratch.log()).unwrap();
        let lines: Vec<usize> = (0..text.len()).filter(|&at| text[at] == b'\n').map(|at| at + 1).collect();
        assert_eq!(lines.len(), 4);
        for length in (0..lines[0]).chain(lines[2]..text.len()) {
            fs::write(scratch.log(), &text[..length]).unwrap();
            let mut log = AuditLog::open(scratch.log()).unwrap();
            let whole = log.by_ref().map(Result::unwrap).count();
            assert_eq!(whole, usize::from(length >= lines[1]));
            assert_eq!(log.is_torn(), length > 0 && !lines.contains(&length), "at {length}");
            let delivered = run();
            let records = records(&scratch);
            assert_eq!(records.len(), whole + 1, "at {length}");
            assert_eq!(replay(&records[whole], &dataset), delivered[0]);
        }
    });
}

/// A changed bit, and a missing, repeated or moved line, is an error at that line.
#[test]
fn every_change_is_seen() {
    without_hanging(|| {
        let dataset = data(40, &[5, 6]);
        let scratch = Scratch::new("changed");
        let loader = builder(&dataset, &scratch).batch_size(8).on_error(OnError::Skip { limit: 2 }).build().unwrap();
        take(&loader, 0, usize::MAX);
        drop(loader);
        let text = fs::read(scratch.log()).unwrap();
        let read = |text: &[u8]| {
            fs::write(scratch.log(), text).unwrap();
            let mut log = AuditLog::open(scratch.log()).unwrap();
            let outcome = log.by_ref().collect::<Result<Vec<_>>>();
            (outcome.map(|records| records.len()), log.is_torn())
        };
        assert_eq!(read(&text).0.unwrap(), 5);
        for at in 0..text.len() {
            let mut changed = text.clone();
            changed[at] ^= 1;
            let line = text[..at].split(|&byte| byte == b'\n').count();
            match read(&changed) {
                // The last line feed: as if the line had not been written to its end.
                (Ok(records), torn) => assert!(records == 4 && torn && at == text.len() - 1, "at {at}"),
                (Err(error), _) => {
                    let said = error.to_string();
                    assert!(
                        said.contains(&format!("line {line} ")) || (line == 1 && said.contains("no audit log")),
                        "{said}"
                    );
                }
            }
        }
        let lines: Vec<_> = text.split_inclusive(|&byte| byte == b'\n').collect();
        for at in 1..lines.len() - 1 {
            let mut without = lines.clone();
            without.remove(at);
            let mut twice = lines.clone();
            twice.insert(at, lines[at]);
            let mut swapped = lines.clone();
            swapped.swap(at, at + 1);
            for (changed, line) in [(without, at + 1), (twice, at + 2), (swapped, at + 1)] {
                let said = read(&changed.concat()).0.unwrap_err().to_string();
                assert!(said.contains(&format!("changed or damaged at line {line} ")), "{said}");
            }
        }
        // Appending to a log that is damaged at its end is an error, too.
        fs::write(scratch.log(), [&lines[..5], &lines[4..]].concat().concat()).unwrap();
        let error = builder(&dataset, &scratch).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity);
        assert!(error.to_string().contains("at its end"), "{error}");
    });
}

#[test]
fn what_is_no_log_of_this_rank_is_refused_and_left_alone() {
    without_hanging(|| {
        let dataset = data(12, &[]);
        let scratch = Scratch::new("refused");
        for text in ["weights of a model\n", "weights", "0123456789abcdef0123456789abcdef {\"model\":1}", "\n"] {
            fs::write(scratch.log(), text).unwrap();
            let error = builder(&dataset, &scratch).build().unwrap_err();
            assert!(error.to_string().contains("this file is no audit log"), "{error}");
            assert_eq!(fs::read_to_string(scratch.log()).unwrap(), text);
        }
        fs::remove_file(scratch.log()).unwrap();
        take(&builder(&dataset, &scratch).shard(0, 2).build().unwrap(), 0, 1);
        let error = builder(&dataset, &scratch).shard(1, 2).build().unwrap_err();
        assert!(error.to_string().contains("wanted one of rank 1, got one of rank 0"), "{error}");
        let error = DataLoader::builder(dataset).audit(scratch.0.join("no/such/folder")).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    });
}

/// A batch that isn't in the log isn't delivered.
/// The file was created before the state of unordered batches was looked at.
#[test]
fn a_log_of_unordered_batches_is_refused_before_it_is_created() {
    let scratch = Scratch::new("unordered");
    let dataset = data(64, &[]);
    let unordered = DataLoader::builder(dataset.clone()).batch_size(4).shard(0, 2).unordered(true).build().unwrap();
    let (_, state) = take(&unordered, 0, 2);
    let build = || builder(&dataset, &scratch).batch_size(4).shard(0, 2);
    for refused in [build().unordered(true).build(), build().resume(state).build()] {
        let error = refused.unwrap_err();
        assert!(error.to_string().contains("the audit log is of batches in order"), "{error}");
        assert!(!scratch.log().exists());
    }
}

#[test]
fn a_log_that_cannot_be_written_ends_the_epoch() {
    without_hanging(|| {
        let dataset = data(40, &[]);
        let scratch = Scratch::new("unwritten");
        let loader = builder(&dataset, &scratch).batch_size(8).build().unwrap();
        let other = builder(&dataset, &scratch).batch_size(8).build().unwrap();
        let mut batches = loader.epoch(0).unwrap();
        batches.next().unwrap().unwrap();
        let error = other.epoch(0).unwrap().next().unwrap().unwrap_err();
        assert!(error.to_string().contains("somebody else writes to this audit log"), "{error}");
        batches.next().unwrap().unwrap();
        fs::write(scratch.log(), "").unwrap();
        assert!(batches.next().unwrap().is_err());
        assert!(batches.next().is_none());
        assert_eq!(batches.stats().batches, 2);
        assert_eq!(batches.state().position, 16);
    });
}

/// The part of a line that a failed write left was taken for the line of another run.
#[test]
fn a_line_that_was_written_in_part_is_laid_to_nobody() {
    const NAME: &str = "audit::a_line_that_was_written_in_part_is_laid_to_nobody";
    if std::env::var_os("DATAFLUX_FILES_ARE_SHORT").is_none() {
        // This runs in a process of its own, whose files are limited to a few KiB and which ignores the signal of that
        // limit.
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-c", r#"trap '' XFSZ; ulimit -f 4; exec "$0" "$@" --exact"#])
            .arg(std::env::current_exe().unwrap());
        let ran = shell.arg(NAME).env("DATAFLUX_FILES_ARE_SHORT", "1").output().unwrap();
        let said = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
        return assert!(ran.status.success() && said.contains("1 passed"), "{said}");
    }
    let dataset = data(90, &[]);
    let scratch = Scratch::new("part");
    let loader = builder(&dataset, &scratch).build().unwrap();
    let delivered = loader.epoch(0).unwrap().take_while(Result::is_ok).count();
    for _ in 0..2 {
        let error = loader.epoch(0).unwrap().find_map(Result::err).unwrap();
        assert!(error.to_string().contains("can't be written"), "{error}");
    }
    assert_eq!(records(&scratch).len(), delivered, "whole lines and no others");
}

#[test]
fn other_data_are_refused_with_both_digests() {
    let (dataset, other) = (data(12, &[]), data(13, &[]));
    let scratch = Scratch::new("other");
    take(&builder(&dataset, &scratch).batch_size(4).build().unwrap(), 0, 1);
    let said = records(&scratch)[0].samples(other.manifest()).unwrap_err().to_string();
    for manifest in [dataset.manifest(), other.manifest()] {
        assert!(said.contains(&manifest.digest().to_string()), "{said}");
    }
}

/// A stream's thread is a batch ahead of what it has delivered.
#[tokio::test]
async fn a_stream_logs_what_it_hands_over_and_no_more() {
    let scratch = Scratch::new("stream");
    let dataset = tokio::task::spawn_blocking(|| data(80, &[])).await.unwrap();
    let loader = builder(&dataset, &scratch).batch_size(8).build().unwrap();
    let mut stream = loader.stream(0).unwrap();
    for taken in 1..=4 {
        stream.next().await.unwrap().unwrap();
        assert_eq!(records(&scratch).len(), taken);
    }
    fs::write(scratch.log(), "").unwrap();
    assert!(stream.next().await.unwrap().is_err());
    assert!(stream.next().await.is_none());
}

/// The golden log was written by version 1 of the format, which every later version reads.
#[test]
fn golden() {
    let dataset = data(12, &[6, 11]);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/audit-1.log");
    let records: Vec<_> = AuditLog::open(path).unwrap().map(Result::unwrap).collect();
    let steps = records.iter().map(|record| replay(record, &dataset));
    // The first run substitutes. The second one, which resumed from its state, skips.
    let wanted: [Step; 3] =
        [vec![(0, 7), (1, 2), (2, 8), (3, 10), (4, 0)], vec![(5, 1), (6, 4), (7, 5), (9, 3)], vec![(10, 8), (11, 9)]];
    assert_eq!(steps.collect::<Vec<_>>(), wanted);
    assert_eq!(records[0].prefix(), "gs://data/p/");
}

/// Writes a log of these lines, each of which is chained to the one before.
fn made_up(path: &std::path::Path, lines: &[Value]) {
    let mut before = vec![0; 16];
    let mut log = String::new();
    for line in lines {
        let json = line.to_string();
        let linked = digest(&SHA256, &[&before[..], json.as_bytes()].concat());
        before = linked.as_ref()[..16].to_vec();
        let hash = before.iter().fold(0, |hash, byte| hash << 8 | u128::from(*byte));
        writeln!(log, "{hash:032x} {json}").unwrap();
    }
    fs::write(path, log).unwrap();
}

/// Two lines of the golden log: the start of an epoch, and a batch of it.
fn golden_lines() -> [Value; 2] {
    let log = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/audit-1.log")).unwrap();
    let json = |line: &str| serde_json::from_str(line.split_once(' ').unwrap().1).unwrap();
    let mut lines = log.lines().map(json);
    [lines.next().unwrap(), lines.next().unwrap()]
}

/// A batch size of 2^62 reserved memory for as many ids, which aborted the process.
#[test]
fn a_batch_of_more_samples_than_there_can_be_is_refused() {
    let (dataset, scratch) = (data(12, &[]), Scratch::new("large"));
    let replayed = |batch_size: u64, to: u64| {
        let [mut begin, mut batch] = golden_lines();
        begin["begin"]["state"]["manifest"] = dataset.manifest().digest().to_string().into();
        begin["begin"]["state"]["batch_size"] = batch_size.into();
        batch["batch"]["to"] = to.into();
        made_up(&scratch.log(), &[begin, batch]);
        records(&scratch)[0].samples(dataset.manifest()).unwrap_err()
    };
    for positions in [1 << 40, 1 << 62, u64::MAX] {
        let error = replayed(positions, positions);
        assert_eq!(error.kind(), ErrorKind::Integrity);
        assert!(error.to_string().contains("positions below 12"), "{error}");
    }
    let error = replayed(5, u64::MAX).to_string();
    assert!(error.contains("at most 5 positions"), "{error}");
}

/// Numbers at the limits of what they are used for.
fn number() -> impl proptest::strategy::Strategy<Value = u64> {
    prop_oneof![0u64..20, prop::sample::select(vec![1 << 31, 1 << 40, 1 << 62, u64::MAX - 1, u64::MAX])]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Reading a log needs memory in proportion to the log and the manifest, whatever the log contains.
    #[test]
    fn made_up_numbers_lead_to_an_error_or_to_samples(
        (batch_size, from, to, end) in (number(), number(), number(), number()),
        (step, position, epoch, rank, world_size) in (number(), number(), number(), number(), number()),
        skipped in prop::collection::vec((number(), number()), 0..4),
        substituted in prop::collection::vec((number(), number(), number()), 0..4),
        list in prop::option::of(prop::collection::vec(number(), 0..4)),
        window in prop::option::of(number()),
        case: u64,
    ) {
        let (dataset, scratch) = (data(12, &[]), Scratch::new(&format!("numbers-{case}")));
        let [mut begin, mut batch] = golden_lines();
        let state = &mut begin["begin"]["state"];
        state["manifest"] = dataset.manifest().digest().to_string().into();
        (state["batch_size"], state["position"], state["epoch"]) = (batch_size.into(), position.into(), epoch.into());
        if let Some(window) = window {
            state["sampler"] = format!("windows(seed=42, samples={window})").into();
        }
        (begin["begin"]["rank"], begin["begin"]["world_size"]) = (rank.into(), world_size.into());
        let of = &mut batch["batch"];
        (of["from"], of["to"], of["end"]) = (from.into(), to.into(), end.into());
        (of["step"], of["epoch"]) = (step.into(), epoch.into());
        of["skipped"] = serde_json::to_value(skipped).unwrap();
        of["substituted"] = serde_json::to_value(substituted).unwrap();
        of["list"] = serde_json::to_value(list).unwrap();
        made_up(&scratch.log(), &[begin, batch]);
        for record in AuditLog::open(scratch.log()).unwrap() {
            // An impossible state is refused when it is read.
            let Ok(record) = record else { continue };
            if let Ok(samples) = record.samples(dataset.manifest()) {
                prop_assert!(samples.len() as u64 <= to.saturating_sub(from));
            }
        }
    }
}
