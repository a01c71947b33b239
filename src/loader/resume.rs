//! A loader that resumes from the state of an earlier run.

use std::sync::Arc;

use super::dataset::DatasetSource;
use super::loader_core::LoaderCore;
use super::settings::{ResumeFrom, Settings};
use crate::engine::sample_code::SampleCode;
use crate::manifest::KnownSamples;
use crate::sample::{
    DeliveredBatches, LastBatch, RankProgress, RemainingPositions, Sharding, State, identity, merge,
    sampler_from_identity,
};
use crate::{Error, ErrorKind, Result, Stage};

/// The error of a loader whose setting, `got`, differs from the state's, `wanted`.
fn differs(what: &str, got: &str, wanted: &str, hint: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Config, format!("the state was taken with another {what}"))
        .stage(Stage::Sample)
        .mismatch(format_args!("{what} {wanted}"), got)
        .hint(hint.to_string())
}

impl Settings {
    /// Takes over the settings that a state holds.
    ///
    /// # Errors
    /// Another sampler, `drop_last` or `pad_last` is set.
    fn adopt(&mut self, state: &State) -> Result<()> {
        let wanted = state.identity();
        let set = self.take_sampler()?;
        let found = set.as_ref().map_or_else(|| Ok("none".to_owned()), |sampler| identity(&**sampler))?;
        let sampler = match set {
            None => sampler_from_identity(&wanted),
            Some(sampler) => Some(sampler).filter(|_| found == wanted),
        };
        self.sampler = Some(sampler.ok_or_else(|| {
            let hint = "set the same one as the run that took the state, or begin the epoch anew";
            differs("sampler", &found, &wanted, hint)
        })?);

        let last = state.last_batch();
        for (what, set, wanted) in [
            ("drop_last", &mut self.drop_last, last == LastBatch::Drop),
            ("pad_last", &mut self.pad_last, last == LastBatch::Pad),
        ] {
            if let Some(set) = set.replace(wanted).filter(|set| *set != wanted) {
                let hint = format!("leave {what} to the state, or begin the epoch anew");
                return Err(differs(what, &set.to_string(), &wanted.to_string(), hint));
            }
        }
        // The batch size may differ, because the state's position counts samples. `check_rank` refuses that for
        // unordered batches of one rank, whose state counts batches.
        if self.batch_size.is_none() && self.global_batch_size.is_none() {
            self.global_batch_size = state.global_batch_size;
            self.batch_size = Some(state.batch_size).filter(|_| state.global_batch_size.is_none());
        }
        // The digest was checked, so no warning needs to say that ranks may have different data.
        self.manifest_digest.get_or_insert_with(|| state.manifest.clone());
        Ok(())
    }
}

/// Makes a loader, which resumes if the settings say from which states.
///
/// # Errors
/// See [`DataLoaderBuilder::build`](crate::DataLoaderBuilder::build).
pub(crate) fn build_or_resume(
    mut settings: Settings,
    source: &DatasetSource,
    code: Arc<dyn SampleCode>,
) -> Result<LoaderCore> {
    let mut core = match settings.resume.take() {
        Some(from) => resume_from(from, settings, source, code)?,
        None => LoaderCore::build(settings, source, code)?,
    };
    core.open_audit()?;
    Ok(core)
}

/// Makes a loader that resumes, but has no audit log yet.
fn resume_from(
    ResumeFrom { states, are_all }: ResumeFrom,
    mut settings: Settings,
    source: &DatasetSource,
    code: Arc<dyn SampleCode>,
) -> Result<LoaderCore> {
    let manifest = &source.manifest;
    // Waits for the end of the listing.
    manifest.complete()?;
    let Some(state) = states.first() else {
        return Err(Error::new(ErrorKind::Config, "there is no state to resume from")
            .stage(Stage::Sample)
            .mismatch("the states of all ranks", "none"));
    };
    for state in &states {
        state.check(manifest.digest())?;
    }
    settings.adopt(state)?;
    let mut core = LoaderCore::build(settings, source, code)?;

    let samples = core.series.sampling.orders()?.len();
    for state in &states {
        state.check_position(samples)?;
    }
    // The sharding of a rank in the run that took the state.
    let saved_sharding = |rank, world_size| {
        let sharding = match state.global_batch_size {
            Some(samples) => Sharding::global(samples, rank, world_size),
            None => Sharding::new(state.batch_size, rank, world_size),
        };
        Ok(sharding?.last(state.last_batch()))
    };
    let of_one_rank = if are_all { None } else { state.beyond.as_ref().and_then(|beyond| beyond.share.as_ref()) };
    let resumed = match of_one_rank {
        Some(progress) => {
            core.check_rank(progress, &saved_sharding(progress.rank, progress.world_size)?, state.batch_size)?;
            // If the state is damaged, this returns the error now instead of when its epoch begins.
            DeliveredBatches::from(state, core.series.unordered, &core.series.sharding)?;
            state.clone()
        }
        None => merge(&states, samples, saved_sharding)?,
    };

    let remaining = RemainingPositions::of(&resumed)?.known(KnownSamples::All(samples));
    let is_over = core.series.sharding.spans(resumed.position).next(remaining).is_none();
    core.first_epoch = resumed.epoch.saturating_add(u64::from(is_over));
    core.series.resumed = Some(resumed);
    Ok(core)
}

impl LoaderCore {
    /// Checks that this loader cuts batches as the one rank did whose state it resumes from. Unordered batches leave
    /// each rank with other samples.
    fn check_rank(&self, progress: &RankProgress, saved: &Sharding, batch_size: usize) -> Result<()> {
        let sharding = &self.series.sharding;
        let hint = "give resume_all() the states of all ranks: unordered batches leave each of them somewhere else";
        let RankProgress { rank, world_size, .. } = progress;
        if (*rank as u64, *world_size as u64) != (sharding.rank(), sharding.world_size()) {
            let here = format!("rank {} of {}", sharding.rank(), sharding.world_size());
            return Err(differs("rank", &here, &format!("{rank} of {world_size}"), hint));
        }
        if sharding != saved {
            let here = sharding.batch_size().to_string();
            return Err(differs("batch_size", &here, &batch_size.to_string(), hint));
        }
        Ok(())
    }
}
