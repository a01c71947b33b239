//! A run that is stopped and resumed, as one program: end it with SIGTERM or Ctrl-C, and start it again with the states
//! that it saved, on as many ranks as you like. Each sample of an epoch is delivered exactly once over all these runs.
//!
//! RANK=0 WORLD_SIZE=1 cargo run --release --example resume -- gs://my-bucket/train/ run-1 RANK=0 WORLD_SIZE=1 cargo
//! run --release --example resume -- gs://my-bucket/train/ run-2 run-1
//!
//! `RANK` and `WORLD_SIZE` are set by launchers such as torchrun. All ranks share the folders of states. Each run has a
//! new folder, since `resume_all` takes the states of one run. The signal must reach all ranks in the same epoch: a
//! training program usually synchronizes its ranks after each epoch.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use dataflux::{DataLoader, DatafluxDataset, State};
use tokio::signal::unix::{SignalKind, signal};

#[allow(dead_code, reason = "a test includes this file for its other functions")]
fn main() -> Result<()> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let (uri, save_to, resume_from) = match &args[..] {
        [uri, save_to] => (uri, save_to, None),
        [uri, save_to, resume_from] => (uri, save_to, Some(Path::new(resume_from))),
        _ => anyhow::bail!("usage: resume <URI> <folder for states> [<folder of the run to resume>]"),
    };
    train(uri, 0..3, Path::new(save_to), resume_from, |epoch, names| {
        println!("epoch {epoch}: a step on {} samples", names.len());
        Ok(())
    })
}

/// Trains until all epochs end or a signal arrives. Saves this rank's state after each epoch and when it stops.
pub(crate) fn train(
    uri: &str,
    epochs: Range<u64>,
    save_to: &Path,
    resume_from: Option<&Path>,
    mut step: impl FnMut(u64, Vec<&str>) -> Result<()>,
) -> Result<()> {
    let stop = stop_on_signals()?;
    let dataset = DatafluxDataset::open(uri)?;

    // Ranks may stop after different steps. With unordered batches each state records what its rank received, so that
    // `resume_all` can combine them exactly. Ranks that all stop after the same step use `DataLoaderBuilder::resume`
    // instead.
    let mut builder = DataLoader::builder(dataset).batch_size(8).shuffle(42).shard_from_env().unordered(true);
    if let Some(folder) = resume_from {
        builder = builder.resume_all(saved_states(folder)?);
    }
    let loader = builder.build()?;

    // The range of the whole run: a resumed loader starts at the saved epoch.
    for batches in loader.epochs(epochs)? {
        let mut batches = batches?;
        let epoch = batches.epoch();
        while !stop.load(Ordering::Relaxed)
            && let Some(batch) = batches.next()
        {
            step(epoch, batch?.names().collect())?;
        }

        // Save the model's weights of the same step here as well.
        save_state(save_to, &batches.state())?;
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(())
}

/// A flag that is set when the process gets SIGTERM or SIGINT.
fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let is_signalled = Arc::clone(&stop);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // The handlers are set before this returns, so a signal can no longer kill the process.
    let context = runtime.enter();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    drop(context);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        });
        is_signalled.store(true, Ordering::Relaxed);
    });
    Ok(stop)
}

/// Writes the state of this rank to a temporary file, and renames it, so that the state is whole or absent.
fn save_state(folder: &Path, state: &State) -> Result<()> {
    fs::create_dir_all(folder)?;
    let rank = std::env::var("RANK").context("RANK is not set")?;
    let beside = folder.join(format!("rank-{rank}.new"));
    fs::write(&beside, serde_json::to_vec(state)?)?;
    fs::rename(beside, folder.join(format!("rank-{rank}.json"))).context("saving the state")
}

/// The states of all ranks.
fn saved_states(folder: &Path) -> Result<Vec<State>> {
    let mut states = Vec::new();
    for file in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            states.push(serde_json::from_slice(&fs::read(&path)?).with_context(|| path.display().to_string())?);
        }
    }
    Ok(states)
}
