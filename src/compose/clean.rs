//! Removal of the temporary objects that dead runs left.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, stream};
use tokio::time::MissedTickBehavior;

use super::{metadata, process};
use crate::Result;
use crate::list::{Lister, Page, Prefix, TEMPORARY_PREFIX};
use crate::store::{Client, Fields, ObjectId, ObjectRef};

/// The result of [`clean`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cleaned {
    /// Temporary objects in the bucket when it was listed.
    pub found: u64,
    /// URIs of the objects that were removed; in a dry run, of those that would be.
    pub removed: Vec<String>,
    /// Bytes of the removed objects.
    pub removed_bytes: u64,
    /// Objects that were kept because their run is alive or not yet known to be dead.
    pub living: u64,
    /// Objects that were kept because they are younger than `older_than`.
    pub young: u64,
    /// Objects below the prefix of temporaries that this crate didn't create. They are kept.
    pub foreign: u64,
    /// An error message for each object that could not be removed.
    pub failed: Vec<String>,
}

/// Time from one deletion to the next: 250 a second, a quarter of the 1,000 writes a second that a bucket takes before
/// it has scaled up with its use. The rest is for the jobs that run meanwhile.
const DELETION_INTERVAL: Duration = Duration::from_millis(4);

/// Deletions at once: enough to keep up that rate if each takes 250 ms.
const MAX_CONCURRENT_DELETIONS: usize = 64;

/// Removes the temporary objects of dead runs from `bucket`, and never those of a living run.
///
/// A run on this machine is dead when its process is gone. A run on another machine is dead when the lease in the
/// object's metadata has expired, which a living run renews: that is, when nothing has changed the object for the
/// length of the lease, usually 15 minutes, and five once it was renewed. If a process on another machine is suspended
/// past its lease, `clean` may delete its temporary object; the process then reads the sources directly. Both times are
/// the service's, so clocks of machines don't matter; this machine's clock is used only if the server sends no `Date`.
///
/// At most 250 objects a second are removed, a quarter of the writes that a bucket takes at first, so that running jobs
/// keep most of them. Objects that were created or renewed less than `older_than` ago are kept as well.
///
/// # Errors
/// The listing failed, after its retries. Deletions that fail are reported in [`Cleaned::failed`] instead.
pub async fn clean(client: &Client, bucket: &str, older_than: Duration, dry_run: bool) -> Result<Cleaned> {
    let bucket_name: Arc<str> = bucket.into();
    let scheme = client.scheme();
    let judged = temporaries(client, bucket, move |object, now| {
        let id =
            ObjectId::new(Arc::clone(&bucket_name), object.name, object.version.map(Arc::from)).with_scheme(scheme);
        (judge(object, now, older_than), id, object.size)
    });
    let judged = judged.await?;

    let mut cleaned = Cleaned { found: judged.len() as u64, ..Cleaned::default() };
    let mut dead = Vec::new();
    for (verdict, id, size) in judged {
        match verdict {
            RunVerdict::Foreign => cleaned.foreign += 1,
            RunVerdict::Living => cleaned.living += 1,
            RunVerdict::Young => cleaned.young += 1,
            RunVerdict::Dead => dead.push((id, size)),
        }
    }

    let mut pace = tokio::time::interval(DELETION_INTERVAL);
    // After slow deletions there is no burst to catch up.
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let delete = async |(id, size): (ObjectId, u64)| {
        let outcome = if dry_run { Ok(()) } else { client.delete(&id).await };
        (id, size, outcome)
    };
    let paced = stream::unfold((dead.into_iter(), pace), async |(mut dead, mut pace)| {
        let next = dead.next()?;
        if !dry_run {
            pace.tick().await;
        }
        Some((next, (dead, pace)))
    });

    let mut outcomes = std::pin::pin!(paced.map(delete).buffer_unordered(MAX_CONCURRENT_DELETIONS));
    while let Some((id, size, outcome)) = outcomes.next().await {
        match outcome {
            Err(error) if !error.is_not_found() => {
                let hint = "deleting needs storage.objects.delete (role Storage Object User), and no hold or retention";
                cleaned.failed.push(error.hint(hint).to_string());
            }
            _ => {
                cleaned.removed_bytes += size;
                cleaned.removed.push(id.to_string());
            }
        }
    }
    cleaned.removed.sort();
    Ok(cleaned)
}

/// Lists the temporary objects of the bucket, and applies `map` to each and the time at which it was listed.
async fn temporaries<T: Send + 'static>(
    client: &Client,
    bucket: &str,
    map: impl Fn(ObjectRef<'_>, SystemTime) -> T + Send + Sync + 'static,
) -> Result<Vec<T>> {
    let prefix = Prefix { scheme: client.scheme(), bucket: bucket.into(), prefix: TEMPORARY_PREFIX.to_owned() };
    let page = move |page: &Page| {
        let now = page.date().unwrap_or_else(SystemTime::now);
        page.iter().map(|object| map(object, now)).collect::<Vec<_>>()
    };
    Ok(Lister::new(client, prefix).fields(Fields::All).collect(page).await?.into_iter().flatten().collect())
}

/// Whether the run of a temporary object is dead, or why the object is kept.
#[derive(Debug, PartialEq, Eq)]
enum RunVerdict {
    Foreign,
    Living,
    Young,
    Dead,
}

fn judge(object: ObjectRef<'_>, now: SystemTime, older_than: Duration) -> RunVerdict {
    let fields = object.details.map(|details| &details.metadata);
    let Some((fields, lease)) = fields.and_then(|fields| Some((fields, fields.get(metadata::LEASE)?))) else {
        return RunVerdict::Foreign;
    };

    // If the service's clock is ahead of ours, the age is 0. An object without a time counts as new.
    let age = object.updated.map_or(Duration::ZERO, |updated| now.duration_since(updated).unwrap_or_default());
    if age < older_than {
        return RunVerdict::Young;
    }

    // A lease that is no number counts as expired: the age alone decides then, and was checked above.
    let expired = lease.parse().map_or(true, |seconds| age > Duration::from_secs(seconds));
    let is_alive = fields.get(metadata::PROCESS).and_then(|identity| process::is_alive(identity));
    // The lease decides only if the process can't be seen from here.
    if is_alive.unwrap_or(!expired) { RunVerdict::Living } else { RunVerdict::Dead }
}

/// Counts the temporary objects of this process that are in `bucket` now, by listing it.
///
/// # Errors
/// The listing failed, after its retries.
pub async fn count_own_temporaries(client: &Client, bucket: &str) -> Result<u64> {
    let is_own = |object: ObjectRef<'_>, _| {
        object
            .details
            .and_then(|details| details.metadata.get(metadata::PROCESS))
            .is_some_and(|identity| identity == process::identity())
    };
    Ok(temporaries(client, bucket, is_own).await?.into_iter().filter(|is_own| *is_own).count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ObjectMeta;

    fn temporary(process: &str, lease: &str) -> ObjectMeta {
        let mut object =
            ObjectMeta { name: format!("{TEMPORARY_PREFIX}1/2"), version: 1.into(), ..ObjectMeta::default() };
        object.details.metadata.insert(metadata::PROCESS.into(), process.into());
        object.details.metadata.insert(metadata::LEASE.into(), lease.into());
        object.updated = Some(SystemTime::now() - Duration::from_secs(100));
        object
    }

    #[test]
    fn dead_and_living_runs() {
        let now = SystemTime::now();
        let judge = |object: &ObjectMeta| judge(object.to_ref(), now, Duration::ZERO);
        let (past, future) = ("99", "9999");
        assert_eq!(judge(&temporary(process::identity(), future)), RunVerdict::Living);
        assert_eq!(judge(&temporary(process::identity(), past)), RunVerdict::Living);
        let reborn = process::identity().rsplit_once('/').unwrap().0.to_owned() + "/1";
        assert_eq!(judge(&temporary(&reborn, future)), RunVerdict::Dead);
        assert_eq!(judge(&temporary("elsewhere/1/1", future)), RunVerdict::Living);
        assert_eq!(judge(&temporary("elsewhere/1/1", past)), RunVerdict::Dead);
        assert_eq!(judge(&ObjectMeta::default()), RunVerdict::Foreign);
        let young = super::judge(temporary("elsewhere/1/1", past).to_ref(), now, Duration::from_secs(160));
        assert_eq!(young, RunVerdict::Young);
    }
}
