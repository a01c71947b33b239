//! Removing temporary objects of dead runs.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, stream};
use tokio::time::MissedTickBehavior;

use super::process;
use super::temporary::key;
use crate::Result;
use crate::list::{Lister, Page, Prefix, TEMPORARY_PREFIX};
use crate::store::{Client, Fields, ObjectId, ObjectRef};

/// What [`clean`] found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cleaned {
    /// Temporary objects in the bucket when it was listed.
    pub found: u64,
    /// Those removed; in a dry run, those that would be.
    pub removed: Vec<String>,
    /// Bytes of those.
    pub removed_bytes: u64,
    /// Those left alone because their run lives, or can't be told to be dead yet.
    pub living: u64,
    /// Those left alone because they are younger than asked for.
    pub young: u64,
    /// Objects below the prefix of temporaries that this crate didn't make, and so leaves alone.
    pub foreign: u64,
    /// Those that could not be removed, and why.
    pub failed: Vec<String>,
}

/// Time from one deletion to the next: 250 a second, a quarter of the 1,000 writes a second that a bucket takes before
/// it has grown with its use. The rest is for the jobs that run meanwhile.
const DELETION_INTERVAL: Duration = Duration::from_millis(4);

/// Deletions under way at once: enough to keep up that rate where each takes 250 ms.
const CONCURRENCY: usize = 64;

/// Removes the temporary objects of dead runs from `bucket`, never those of a living one.
///
/// A run of this machine is dead when its process is gone. Of one elsewhere the lease in the object's metadata tells,
/// which a living run renews: it is over when nothing has changed the object for that long, 15 minutes usually, and
/// five once it was renewed. Both moments are the service's, so that no other clock matters; only a server that tells
/// no time in its answers is read by this machine's. It removes at most 250 objects a second, a quarter of the writes
/// that a bucket takes at first, so that running jobs keep most of them. With `older_than`, objects younger than that,
/// since their last renewal, stay as well.
///
/// # Errors
/// Whatever listing answers when retrying has not helped; what can't be deleted is told in [`Cleaned::failed`].
pub async fn clean(client: &Client, bucket: &str, older_than: Duration, dry_run: bool) -> Result<Cleaned> {
    let of: Arc<str> = bucket.into();
    let judged = temporaries(client, bucket, move |object, now| {
        let id = ObjectId::new(Arc::clone(&of), object.name, object.generation);
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
    // Time that deletions took is not made up for by a burst.
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
    let mut outcomes = std::pin::pin!(paced.map(delete).buffer_unordered(CONCURRENCY));
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

/// What `make` makes of each temporary object of the bucket and the moment at which it was listed.
async fn temporaries<T: Send + 'static>(
    client: &Client,
    bucket: &str,
    make: impl Fn(ObjectRef<'_>, SystemTime) -> T + Send + Sync + 'static,
) -> Result<Vec<T>> {
    let prefix = Prefix { bucket: bucket.into(), prefix: TEMPORARY_PREFIX.to_owned() };
    let page = move |page: &Page| {
        let now = page.date().unwrap_or_else(SystemTime::now);
        page.iter().map(|object| make(object, now)).collect::<Vec<_>>()
    };
    Ok(Lister::new(client, prefix).fields(Fields::All).collect(page).await?.into_iter().flatten().collect())
}

#[derive(Debug, PartialEq, Eq)]
enum RunVerdict {
    Foreign,
    Living,
    Young,
    Dead,
}

fn judge(object: ObjectRef<'_>, now: SystemTime, older_than: Duration) -> RunVerdict {
    let metadata = object.details.map(|details| &details.metadata);
    let Some((metadata, lease)) = metadata.and_then(|metadata| Some((metadata, metadata.get(key::LEASE)?))) else {
        return RunVerdict::Foreign;
    };
    // A clock of the service's that is ahead of ours makes an age of 0. What tells no age is taken to be new.
    let age = object.updated.map_or(Duration::ZERO, |updated| now.duration_since(updated).unwrap_or_default());
    if age < older_than {
        return RunVerdict::Young;
    }
    // A lease that can't be read is as good as none: then only its age speaks, and that was asked above.
    let expired = lease.parse().map_or(true, |seconds| age > Duration::from_secs(seconds));
    let lives = metadata.get(key::PROCESS).and_then(|identity| process::is_alive(identity));
    // Seeing the process beats the lease, which is for those who can't.
    if lives.unwrap_or(!expired) { RunVerdict::Living } else { RunVerdict::Dead }
}

/// Counts the temporary objects of this process that are in `bucket` now, by listing it.
///
/// # Errors
/// Whatever listing answers when retrying has not helped.
pub async fn count_own_temporaries(client: &Client, bucket: &str) -> Result<u64> {
    let ours = |object: ObjectRef<'_>, _| {
        object
            .details
            .and_then(|details| details.metadata.get(key::PROCESS))
            .is_some_and(|is| is == process::identity())
    };
    Ok(temporaries(client, bucket, ours).await?.into_iter().filter(|ours| *ours).count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ObjectMeta;

    fn temporary(process: &str, lease: &str) -> ObjectMeta {
        let mut object = ObjectMeta { name: format!("{TEMPORARY_PREFIX}1/2"), generation: 1, ..ObjectMeta::default() };
        object.details.metadata.insert(key::PROCESS.into(), process.into());
        object.details.metadata.insert(key::LEASE.into(), lease.into());
        object.updated = Some(SystemTime::now() - Duration::from_secs(100));
        object
    }

    #[test]
    fn the_dead_and_the_living() {
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
