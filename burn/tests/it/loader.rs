//! Loaders of dataflux in burn's `Learner`, and in loops of their own.

use std::sync::{Arc, Mutex};

use burn::data::dataloader;
use burn::data::dataloader::DataLoader as _;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::split::split_dataloader;
use burn::optim::AdamConfig;
use burn::tensor::{Device, Int, Tensor};
use burn::train::{ExecutionStrategy, Learner, LearningResult, MultiDeviceOptim, SupervisedTraining};
use dataflux::{Batch, DataLoader, DatafluxDataset, Decode, ImageFolder, OnError, RawSample, Samples, State};
use dataflux_burn::{BurnDataLoader, ShardedBurnLoader};

use crate::support::{Classifier, ImageTensors, emulated, images, in_memory};

/// The names of the samples of each batch that was delivered.
type Delivered = Arc<Mutex<Vec<Vec<String>>>>;

fn names<T>(batch: &Batch<T>) -> Vec<String> {
    batch.names().map(str::to_owned).collect()
}

/// A loader that notes what it delivers.
fn noting(loader: DataLoader<ImageFolder>) -> (BurnDataLoader<ImageTensors>, Delivered) {
    let delivered = Delivered::default();
    let notes = Arc::clone(&delivered);
    let note = move |batch: Batch<ImageTensors>| {
        notes.lock().unwrap().push(names(&batch));
        batch.into_inner()
    };
    (BurnDataLoader::new_mapped(loader, &Device::flex(), note).unwrap(), delivered)
}

fn shuffled(dataset: &DatafluxDataset<ImageFolder>) -> DataLoader<ImageFolder> {
    DataLoader::builder(dataset.clone()).batch_size(4).shuffle(7).build().unwrap()
}

/// The batches of the epochs, as names, as a plain loader delivers them.
fn plain(dataset: &DatafluxDataset<ImageFolder>, epochs: std::ops::Range<u64>) -> Vec<Vec<String>> {
    let loader = shuffled(dataset);
    epochs
        .flat_map(|epoch| loader.epoch(epoch).unwrap().map(|batch| names(&batch.unwrap())).collect::<Vec<_>>())
        .collect()
}

/// Trains a classifier for three epochs.
fn learn(
    train: impl dataloader::DataLoader<ImageTensors> + 'static,
    valid: &BurnDataLoader<ImageTensors>,
    strategy: ExecutionStrategy,
) -> LearningResult<Classifier> {
    let folder = tempfile::tempdir().unwrap();
    let device = Device::flex().autodiff();
    let learner = Learner::new(Classifier::new(&device), AdamConfig::new().init(), 0.01);
    SupervisedTraining::new(folder.path(), Arc::new(train), Arc::new(valid.clone()))
        .with_application_logger(None)
        .with_training_strategy(strategy.into())
        .num_epochs(3)
        .launch(learner)
}

fn on_one_device() -> ExecutionStrategy {
    ExecutionStrategy::SingleDevice(Device::flex().autodiff())
}

#[test]
fn a_learner_trains_on_each_sample_once_an_epoch_in_the_order_of_the_loader() {
    let (_emulator, dataset) = emulated(images(18));
    let (train, trained) = noting(shuffled(&dataset));
    let (valid, validated) = noting(DataLoader::builder(dataset.clone()).batch_size(6).build().unwrap());
    let result = learn(train.clone(), &valid, on_one_device());
    assert!(result.error.is_none() && result.interrupted.is_none(), "{:?}", result.error);

    let trained = trained.lock().unwrap().clone();
    assert_eq!(trained, plain(&dataset, 0..3));
    let epochs: Vec<Vec<String>> = trained.chunks(5).map(<[_]>::concat).collect();
    let mut all: Vec<String> = images(18).into_iter().map(|(name, _)| name).collect();
    all.sort();
    for epoch in &epochs {
        let mut sorted = epoch.clone();
        sorted.sort();
        assert_eq!(sorted, all);
    }
    assert_eq!(epochs.len(), 3);
    assert_ne!(epochs[0], epochs[1], "epochs are shuffled anew");
    assert_eq!(validated.lock().unwrap().concat().len(), 3 * 18);
    let state = train.state().unwrap();
    assert_eq!((state.epoch, state.position), (2, 18));
}

#[test]
fn a_learner_stops_at_a_corrupt_sample_and_names_it() {
    let mut objects = images(18);
    objects[5].1.truncate(40);
    let corrupt = objects[5].0.clone();
    let (_emulator, dataset) = emulated(objects);
    let (train, trained) = noting(shuffled(&dataset));
    let (valid, validated) = noting(DataLoader::builder(dataset.clone()).batch_size(6).build().unwrap());
    let result = learn(train.clone(), &valid, on_one_device());
    let error = result.error.expect("the training went on without the sample").to_string();
    assert!(error.contains(&corrupt), "{error}");

    // Nothing was lost or repeated: the batches before the corrupt one were delivered, and the state is behind them.
    let order = plain(&emulated(images(18)).1, 0..1);
    let before = order.iter().position(|batch| batch.contains(&corrupt)).unwrap();
    assert_eq!(*trained.lock().unwrap(), order[..before]);
    assert!(validated.lock().unwrap().is_empty());
    let state = train.state().unwrap();
    assert_eq!((state.epoch, state.position), (0, 4 * before as u64));
}

#[test]
fn a_run_resumes_within_an_epoch() {
    let dataset = in_memory(images(18)).decode(ImageFolder::new());
    let (first, delivered) = noting(shuffled(&dataset));
    assert!(first.state().is_none());
    assert_eq!(first.iter().count(), 5);
    let mut batches = first.iter();
    for items in [3, 7] {
        assert!(batches.next().unwrap().is_ok());
        assert_eq!((batches.progress().items_processed, batches.progress().items_total), (items, 18));
    }
    drop(batches);
    let saved = serde_json::to_string(&first.state().unwrap()).unwrap();

    let state: State = serde_json::from_str(&saved).unwrap();
    let resumed = DataLoader::builder(dataset.clone()).batch_size(4).shuffle(7).resume(state).build().unwrap();
    let (resumed, rest) = noting(resumed);
    let mut batches = resumed.iter();
    let mut processed = Vec::new();
    while let Some(batch) = batches.next() {
        batch.unwrap();
        processed.push(batches.progress().items_processed);
    }
    assert!(batches.progress().is_completed());
    assert_eq!(processed, [10, 14, 18]);
    drop(batches);
    assert_eq!(resumed.iter().count(), 5);
    let all = [delivered.lock().unwrap().clone(), rest.lock().unwrap().clone()].concat();
    assert_eq!(all, plain(&dataset, 0..3));
}

#[test]
fn a_learner_goes_on_after_a_checkpoint_with_the_epoch_that_follows() {
    let dataset = in_memory(images(18)).decode(ImageFolder::new());
    let (loader, delivered) = noting(shuffled(&dataset));
    loader.clone().set_next_epoch(2);
    assert_eq!(loader.iter().count(), 5);
    assert_eq!(*delivered.lock().unwrap(), plain(&dataset, 2..3));
}

#[test]
fn an_epoch_before_that_of_the_state_is_an_error() {
    let dataset = in_memory(images(18)).decode(ImageFolder::new());
    let (first, _) = noting(shuffled(&dataset));
    assert_eq!((first.iter().count(), first.iter().take(2).count()), (5, 2));
    let state = first.state().unwrap();
    let resumed = DataLoader::builder(dataset).batch_size(4).shuffle(7).resume(state).build().unwrap();
    let loader = noting(resumed).0;
    loader.set_next_epoch(0);
    let mut batches = loader.iter();
    let error = batches.next().unwrap().unwrap_err().to_string();
    assert!(error.contains("resumed from a state of a later epoch"), "{error}");
    assert!(batches.next().is_none());
}

/// Adds up the numbers of a batch.
struct Sum;

impl Batcher<f32, Tensor<1>> for Sum {
    fn batch(&self, items: Vec<f32>, device: &Device) -> Tensor<1> {
        assert!(!items.is_empty(), "a batch has no samples");
        assert!(!items.contains(&13.0), "thirteen is unlucky");
        Tensor::from_floats([items.iter().sum::<f32>()], device)
    }
}

/// This many files, each with its number.
fn numbers(count: usize) -> DatafluxDataset<impl Decode<Item = f32, Collate = Samples>> {
    let files = (0..count).map(|n| (format!("train/{n:02}.txt"), n.to_string().into_bytes()));
    let number = |sample: RawSample| -> anyhow::Result<f32> { Ok(std::str::from_utf8(sample.bytes())?.parse()?) };
    in_memory(files.collect()).decode(number)
}

#[test]
fn a_batcher_of_burn_makes_the_batches() {
    let loader = |count| DataLoader::builder(numbers(count)).batch_size(5).build().unwrap();
    let batches = BurnDataLoader::from_batcher(loader(12), Sum, &Device::flex()).unwrap();
    assert_eq!(batches.num_items(), 12);
    let sums = batches.iter().map(|batch| batch.unwrap().into_scalar::<f32>());
    assert_eq!(sums.collect::<Vec<_>>(), [10.0, 35.0, 21.0]);

    let batches = BurnDataLoader::from_batcher(loader(14), Sum, &Device::flex()).unwrap();
    let last = batches.iter().last().unwrap().unwrap_err().to_string();
    assert!(last.contains("thirteen is unlucky"), "{last}");
    assert_eq!(batches.state().unwrap().position, 10);
}

/// It panicked, or made a batch that the loader then dropped.
#[test]
fn a_batcher_is_given_no_batch_without_samples() {
    // The last global batch of three has a single sample, which is that of rank 2.
    for (rank, last) in [(0, None), (1, None), (2, Some(3))] {
        let loader = DataLoader::builder(numbers(4)).batch_size(1).shard(rank, 3).build().unwrap();
        let batches = BurnDataLoader::from_batcher(loader, Sum, &Device::flex()).unwrap();
        let sums: Vec<_> = batches.iter().map(|batch| batch.map(|sum| sum.into_scalar::<f32>() as usize)).collect();
        assert_eq!((sums.len(), sums[0].as_ref().unwrap()), (2, &rank));
        match (&sums[1], last) {
            (Ok(sum), Some(last)) => assert_eq!(*sum, last),
            (Err(error), None) => assert!(error.to_string().contains("set drop_last or pad_last"), "{error}"),
            other => panic!("rank {rank}: {other:?}"),
        }
    }
}

#[test]
fn a_slice_for_several_devices_is_an_error_that_says_what_to_do() {
    let dataset = in_memory(images(18)).decode(ImageFolder::new());
    let loader = BurnDataLoader::new(shuffled(&dataset), &Device::flex()).unwrap();
    let parts = split_dataloader::<ImageTensors>(Arc::new(loader), &devices(2));
    assert_eq!(parts.iter().map(|part| part.num_items()).collect::<Vec<_>>(), [9, 9]);
    for part in parts {
        let error = only_error(&*part);
        assert!(error.contains("0 to 9") || error.contains("9 to 18"), "{error}");
        assert!(error.contains("shard(rank, world_size)"), "{error}");
    }
}

/// This many devices of the CPU, which are one.
fn devices(count: usize) -> Vec<Device> {
    vec![Device::flex(); count]
}

/// The error of a loader that has nothing else.
fn only_error(loader: &dyn dataloader::DataLoader<ImageTensors>) -> String {
    let mut batches = loader.iter();
    let error = batches.next().unwrap().err().unwrap().to_string();
    assert!(batches.next().is_none());
    error
}

/// A loader of three shards, which notes what it delivers.
fn sharded(dataset: &DatafluxDataset<ImageFolder>) -> (ShardedBurnLoader<ImageTensors>, Vec<Delivered>) {
    let shard = |rank| {
        let loader = DataLoader::builder(dataset.clone()).batch_size(2).shuffle(7).shard(rank, 3);
        noting(loader.build().unwrap())
    };
    let (shards, delivered) = (0..3).map(shard).unzip();
    (ShardedBurnLoader::new(shards).unwrap(), delivered)
}

#[test]
fn slices_of_a_sharded_loader_are_its_shards() {
    let dataset = in_memory(images(21)).decode(ImageFolder::new());
    let (loader, delivered) = sharded(&dataset);
    assert_eq!((loader.num_items(), loader.states().is_none()), (21, true));
    let parts = split_dataloader::<ImageTensors>(Arc::new(loader.clone()), &devices(3));
    for _ in 0..2 {
        let counts: Vec<usize> =
            parts.iter().map(|part| part.iter().map(|batch| batch.unwrap().0.dims()[0]).sum()).collect();
        assert_eq!(counts, [7, 7, 7]);
    }
    let whole = DataLoader::builder(dataset.clone()).batch_size(6).shuffle(7).build().unwrap();
    for epoch in 0..2 {
        // The ranks' parts of each global batch, one after the other.
        let of_rank = |rank: usize, batch: usize| delivered[rank].lock().unwrap()[4 * epoch + batch].clone();
        let all: Vec<String> = (0..4).flat_map(|batch| (0..3).flat_map(move |rank| of_rank(rank, batch))).collect();
        let wanted = whole.epoch(epoch as u64).unwrap().flat_map(|batch| names(&batch.unwrap()));
        assert_eq!(all, wanted.collect::<Vec<_>>());
    }
    let [state] = &loader.states().unwrap()[..] else { panic!() };
    assert_eq!((state.epoch, state.position), (1, 21));
    loader.set_next_epoch(7);
    for part in &parts {
        drop(part.iter());
    }
    assert_eq!(loader.states().unwrap()[0].epoch, 7);
}

#[test]
fn ordered_shards_resume_from_the_state_of_the_one_that_has_delivered_least() {
    let dataset = in_memory(images(21)).decode(ImageFolder::new());
    let (loader, _) = sharded(&dataset);
    let parts = split_dataloader::<ImageTensors>(Arc::new(loader.clone()), &devices(3));
    let mut epochs: Vec<_> = parts.iter().map(|part| part.iter()).collect();
    for (epoch, batches) in epochs.iter_mut().zip([3, 1, 2]) {
        assert_eq!(epoch.by_ref().take(batches).flatten().count(), batches);
    }
    let states = loader.states().unwrap();
    assert_eq!(states.iter().map(|state| state.position).collect::<Vec<_>>(), [6]);
    let resumed = DataLoader::builder(dataset).shuffle(7).shard(1, 2).resume_all(states).build().unwrap();
    assert_eq!((resumed.first_epoch(), resumed.batches_left(0).unwrap()), (0, 4));
}

/// One state was returned, of which the resume said that it isn't enough.
#[test]
fn unordered_shards_resume_from_the_states_of_all() {
    let dataset = in_memory(images(21)).decode(ImageFolder::new());
    let shard = |rank| {
        let builder = DataLoader::builder(dataset.clone()).batch_size(2).shuffle(7).unordered(true);
        noting(builder.shard(rank, 3).build().unwrap())
    };
    let (shards, delivered): (Vec<_>, Vec<_>) = (0..3).map(shard).unzip();
    let loader = ShardedBurnLoader::new(shards).unwrap();
    let parts = split_dataloader::<ImageTensors>(Arc::new(loader.clone()), &devices(3));
    let mut epochs: Vec<_> = parts.iter().map(|part| part.iter()).collect();
    for (epoch, batches) in epochs.iter_mut().zip([3, 1, 2]) {
        assert_eq!(epoch.by_ref().take(batches).flatten().count(), batches);
    }

    let resumed = DataLoader::builder(dataset.clone()).shuffle(7).resume_all(loader.states().unwrap()).build().unwrap();
    let (resumed, rest) = noting(resumed);
    assert!(resumed.iter().all(|batch| batch.is_ok()));
    let mut all: Vec<String> =
        delivered.iter().chain([&rest]).flat_map(|names| names.lock().unwrap().concat()).collect();
    all.sort();
    let mut wanted: Vec<String> = images(21).into_iter().map(|(name, _)| name).collect();
    wanted.sort();
    assert_eq!(all, wanted);
}

/// burn doesn't slice a loader for one device, and the loader had batches for slices alone.
#[test]
fn a_learner_trains_on_a_sharded_loader_of_one_shard() {
    let dataset = in_memory(images(18)).decode(ImageFolder::new());
    let (shard, trained) = noting(shuffled(&dataset));
    let (valid, _) = noting(shuffled(&dataset));
    let train = ShardedBurnLoader::new(vec![shard]).unwrap();
    let strategy = ExecutionStrategy::MultiDevice(vec![Device::flex().autodiff()], MultiDeviceOptim::OptimMainDevice);
    let result = learn(train.clone(), &valid, strategy);
    assert!(result.error.is_none() && result.interrupted.is_none(), "{:?}", result.error);
    assert_eq!(*trained.lock().unwrap(), plain(&dataset, 0..3));
    assert_eq!(train.states().unwrap()[0].position, 18);
    let [part] = &split_dataloader::<ImageTensors>(Arc::new(train.clone()), &devices(1))[..] else { panic!() };
    assert_eq!((part.iter().count(), train.slice(0, 18).iter().count()), (5, 5));
}

/// Each device trained on the whole data set if `shard` was forgotten, or on the samples of another one.
#[test]
fn loaders_that_are_not_the_shards_of_their_places_are_refused() {
    let dataset = in_memory(images(21)).decode(ImageFolder::new());
    let loader = |ranks: Option<(usize, usize)>, batch_size: usize| {
        let builder = DataLoader::builder(dataset.clone()).batch_size(batch_size).shuffle(7);
        let builder = ranks.into_iter().fold(builder, |builder, (rank, of)| builder.shard(rank, of));
        BurnDataLoader::new(builder.build().unwrap(), &Device::flex()).unwrap()
    };
    for (shards, said) in [
        (vec![], "a loader for each device, got none"),
        (vec![loader(None, 2), loader(None, 2)], "wanted rank 0 of 2, as there are 2 loaders, got rank 0 of 1"),
        (
            vec![loader(Some((1, 2)), 2), loader(Some((0, 2)), 2)],
            "wanted rank 0 of 2, as there are 2 loaders, got rank 1",
        ),
        (
            vec![loader(Some((0, 2)), 2), loader(Some((0, 2)), 2)],
            "wanted rank 1 of 2, as there are 2 loaders, got rank 0",
        ),
        (
            vec![loader(Some((0, 3)), 2), loader(Some((1, 3)), 2)],
            "wanted rank 0 of 2, as there are 2 loaders, got rank 0 of 3",
        ),
        (
            vec![loader(Some((0, 2)), 2), loader(Some((1, 2)), 3)],
            "wanted 6 batches in an epoch and 6 of them left in epoch 0, got 4",
        ),
    ] {
        let error = ShardedBurnLoader::new(shards).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    assert!(ShardedBurnLoader::new(vec![loader(Some((0, 2)), 2), loader(Some((1, 2)), 2)]).is_ok());
}

#[test]
fn a_learner_trains_on_several_devices_on_each_sample_once_an_epoch() {
    let dataset = in_memory(images(21)).decode(ImageFolder::new());
    let (train, trained) = sharded(&dataset);
    let (valid, _) = noting(DataLoader::builder(dataset.clone()).batch_size(6).build().unwrap());
    let on_three = vec![Device::flex().autodiff(); 3];
    let strategy = ExecutionStrategy::MultiDevice(on_three, MultiDeviceOptim::OptimMainDevice);
    let result = learn(train.clone(), &valid, strategy);
    assert!(result.error.is_none() && result.interrupted.is_none(), "{:?}", result.error);

    let mut all: Vec<String> = trained.iter().flat_map(|shard| shard.lock().unwrap().concat()).collect();
    all.sort();
    let mut wanted: Vec<String> = images(21).into_iter().flat_map(|(name, _)| vec![name; 3]).collect();
    wanted.sort();
    assert_eq!(all, wanted);
    assert_eq!(train.states().unwrap()[0].epoch, 2);
}

#[test]
fn a_learner_on_several_devices_stops_at_a_corrupt_sample_and_names_it() {
    let mut objects = images(21);
    objects[5].1.truncate(40);
    let corrupt = objects[5].0.clone();
    let (train, _) = sharded(&in_memory(objects).decode(ImageFolder::new()));
    let (valid, validated) = noting(shuffled(&in_memory(images(8)).decode(ImageFolder::new())));
    let strategy =
        ExecutionStrategy::MultiDevice(vec![Device::flex().autodiff(); 3], MultiDeviceOptim::OptimMainDevice);
    let result = learn(train.clone(), &valid, strategy);
    let error = result.error.expect("the training went on without the sample").to_string();
    assert!(error.contains(&corrupt), "{error}");
    assert!(validated.lock().unwrap().is_empty());

    // The other devices may have been given the batch that was not trained on.
    let whole = DataLoader::builder(in_memory(images(21)).decode(ImageFolder::new())).batch_size(6).shuffle(7);
    let order: Vec<_> = whole.build().unwrap().epoch(0).unwrap().map(|batch| names(&batch.unwrap())).collect();
    let before = order.iter().position(|batch| batch.contains(&corrupt)).unwrap();
    assert_eq!(train.states().unwrap()[0].position, 6 * before as u64);
}

#[test]
fn a_shard_without_samples_in_the_last_batch_is_an_error() {
    // The last global batch of six has two samples for three ranks.
    let (loader, _) = sharded(&in_memory(images(20)).decode(ImageFolder::new()));
    let parts = split_dataloader::<ImageTensors>(Arc::new(loader.clone()), &devices(3));
    let error = |part: &Arc<dyn dataloader::DataLoader<ImageTensors>>| part.iter().last().unwrap().err();
    let errors: Vec<String> = parts.iter().filter_map(error).map(|error| error.to_string()).collect();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].contains("set drop_last or pad_last"), "{}", errors[0]);
    // The loader had delivered the batch that was refused, so a resume left its samples out.
    assert_eq!(loader.states().unwrap()[0].position, 18);
}

/// The rank went on with the next batch, so that it had one less than its peers, which then waited for it.
#[test]
fn a_batch_of_a_shard_whose_samples_were_all_skipped_is_an_error() {
    let mut objects = images(12);
    objects[6..8].iter_mut().for_each(|(_, bytes)| bytes.truncate(40));
    let dataset = in_memory(objects).decode(ImageFolder::new());
    let shard = |rank| {
        let builder = DataLoader::builder(dataset.clone()).batch_size(2).on_error(OnError::Skip { limit: 2 });
        noting(builder.shard(rank, 2).build().unwrap()).0
    };
    let loader = ShardedBurnLoader::new(vec![shard(0), shard(1)]).unwrap();
    let parts = split_dataloader::<ImageTensors>(Arc::new(loader.clone()), &devices(2));
    assert_eq!(parts[0].iter().flatten().count(), 3);
    let mut batches = parts[1].iter();
    assert!(batches.next().unwrap().is_ok());
    let error = batches.next().unwrap().err().unwrap().to_string();
    assert!(error.contains("all samples of a batch were skipped") && error.contains("OnError::Substitute"), "{error}");
    assert!(batches.next().is_none());
    assert_eq!(loader.states().unwrap()[0].position, 4);
}

#[test]
fn a_batch_whose_samples_were_all_skipped_is_left_out() {
    let mut objects = images(8);
    objects[2..4].iter_mut().for_each(|(_, bytes)| bytes.truncate(40));
    let dataset = in_memory(objects).decode(ImageFolder::new());
    let loader = DataLoader::builder(dataset).batch_size(2).on_error(OnError::Skip { limit: 2 }).build().unwrap();
    let (loader, delivered) = noting(loader);
    let mut batches = loader.iter();
    let mut processed = Vec::new();
    while let Some(batch) = batches.next() {
        batch.unwrap();
        processed.push(batches.progress().items_processed);
    }
    assert_eq!(processed, [2, 6, 8]);
    assert_eq!(delivered.lock().unwrap().concat().len(), 6);
}

/// Epochs were measured by how far the first batch took the position.
#[test]
fn the_progress_of_a_resumed_epoch_counts_the_batches_that_are_left() {
    let mut objects = images(18);
    objects[4..8].iter_mut().for_each(|(_, bytes)| bytes.truncate(40));
    let dataset = in_memory(objects).decode(ImageFolder::new());
    let builder = || DataLoader::builder(dataset.clone()).batch_size(4).on_error(OnError::Skip { limit: 4 });
    let start = serde_json::to_value(builder().build().unwrap().epoch(0).unwrap().state()).unwrap();
    // The first batch that is left is skipped as a whole, or lies before one that was delivered ahead of it.
    for (position, ahead, left) in [(4, None, vec![10, 14, 18]), (8, Some((12, 16)), vec![14, 18])] {
        let mut state = start.clone();
        state["position"] = position.into();
        if let Some(ahead) = ahead {
            state["beyond"] = serde_json::json!({ "positions": [ahead] });
        }
        let state: State = serde_json::from_value(state).unwrap();
        let (resumed, _) = noting(builder().unordered(ahead.is_some()).resume(state).build().unwrap());
        let mut batches = resumed.iter();
        let mut processed = Vec::new();
        while let Some(batch) = batches.next() {
            batch.unwrap();
            processed.push(batches.progress().items_processed);
        }
        assert_eq!(processed, left, "from position {position}");
    }
}

/// An iterator of an earlier epoch that lived on took the state back.
#[test]
fn the_state_is_that_of_the_newest_iterator() {
    let (loader, _) = noting(shuffled(&in_memory(images(18)).decode(ImageFolder::new())));
    let mut older = loader.iter();
    assert!(older.next().unwrap().is_ok());
    let mut newer = loader.iter();
    assert!(newer.next().unwrap().is_ok());
    assert!(older.all(|batch| batch.is_ok()));
    let state = loader.state().unwrap();
    assert_eq!((state.epoch, state.position), (1, 4));
}

#[test]
fn a_sharded_loader_is_for_as_many_devices_as_it_has_shards() {
    let dataset = in_memory(images(20)).decode(ImageFolder::new());
    let (loader, _) = sharded(&dataset);
    for part in split_dataloader::<ImageTensors>(Arc::new(loader.clone()), &devices(2)) {
        let error = only_error(&*part);
        assert!(error.contains("a loader of 3 shards has no slice of the samples"), "{error}");
    }
    let error = only_error(&*loader.to_device(&Device::flex()));
    assert!(error.contains("no batches for one device; train on 3 devices"), "{error}");
}

#[test]
fn loaders_on_two_devices_count_the_same_epochs() {
    let dataset = in_memory(images(8)).decode(ImageFolder::new());
    let (loader, delivered) = noting(shuffled(&dataset));
    let moved = loader.to_device(&Device::flex().autodiff());
    let labels: Vec<Tensor<1, Int>> = loader.iter().chain(moved.iter()).map(|batch| batch.unwrap().1).collect();
    assert_eq!(labels.len(), 4);
    assert_eq!(*delivered.lock().unwrap(), plain(&dataset, 0..2));
    assert_eq!(loader.state().unwrap().epoch, 1);
}
