//! Removing temporary objects of dead runs.

use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::process;
use super::temporary::key;
use crate::list::{Prefix, TEMPORARY_PREFIX, list};
use crate::store::{Client, ObjectId, ObjectMeta};
use crate::{ErrorKind, Result};

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
}

/// Deletions under way at once; the service takes about 1,000 writes a second for a bucket, at some 80 ms each.
const CONCURRENCY: usize = 64;

/// Removes the temporary objects of dead runs from `bucket`, never those of a living one.
///
/// A run of this machine is dead when its process is gone. Of one elsewhere the lease in the object's metadata tells:
/// it ends 15 minutes after the object was made. With `older_than`, objects younger than that stay as well.
///
/// # Errors
/// Whatever listing or deleting answers when retrying has not helped. What was deleted by then stays deleted.
pub async fn clean(client: &Client, bucket: &str, older_than: Duration, dry_run: bool) -> Result<Cleaned> {
    let prefix = Prefix { bucket: bucket.into(), prefix: TEMPORARY_PREFIX.to_owned() };
    let objects = list(client, &prefix, None, true, |_| ()).await?;
    let now = SystemTime::now();
    let mut cleaned = Cleaned { found: objects.len() as u64, ..Cleaned::default() };
    let mut dead = Vec::new();
    for object in objects {
        match judge(&object, now, older_than) {
            Verdict::Foreign => cleaned.foreign += 1,
            Verdict::Living => cleaned.living += 1,
            Verdict::Young => cleaned.young += 1,
            Verdict::Dead => {
                cleaned.removed_bytes += object.size;
                let id = ObjectId::new(bucket, &*object.name, object.generation);
                cleaned.removed.push(id.to_string());
                dead.push(id);
            }
        }
    }
    if !dry_run {
        let delete = async |id: ObjectId| match client.delete(&id).await {
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                Err(error.hint("deleting needs storage.objects.delete: role Storage Object User on the bucket"))
            }
            other => other,
        };
        stream::iter(dead).map(delete).buffer_unordered(CONCURRENCY).try_collect::<()>().await?;
    }
    Ok(cleaned)
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Foreign,
    Living,
    Young,
    Dead,
}

fn judge(object: &ObjectMeta, now: SystemTime, older_than: Duration) -> Verdict {
    let Some(lease) = object.metadata.get(key::LEASE) else { return Verdict::Foreign };
    // A clock of the service's that is ahead of ours makes an age of 0.
    let age = object.updated.map(|updated| now.duration_since(updated).unwrap_or_default());
    if age.is_some_and(|age| age < older_than) {
        return Verdict::Young;
    }
    // A lease that can't be read is as good as none: then only its age speaks, and that was asked above.
    let expired = humantime::parse_rfc3339(lease).map_or(true, |lease| lease < now);
    let lives = object.metadata.get(key::PROCESS).and_then(|identity| process::lives(identity));
    // Seeing the process beats the lease, which is for those who can't.
    if lives.unwrap_or(!expired) { Verdict::Living } else { Verdict::Dead }
}

/// Counts the temporary objects of this process that are in `bucket` now, by listing it.
///
/// # Errors
/// Whatever listing answers when retrying has not helped.
pub async fn count_own_temporaries(client: &Client, bucket: &str) -> Result<u64> {
    let prefix = Prefix { bucket: bucket.into(), prefix: TEMPORARY_PREFIX.to_owned() };
    let objects = list(client, &prefix, None, true, |_| ()).await?;
    let ours = |object: &&ObjectMeta| object.metadata.get(key::PROCESS).is_some_and(|is| is == process::identity());
    Ok(objects.iter().filter(ours).count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temporary(process: &str, lease: &str) -> ObjectMeta {
        let mut object = ObjectMeta { name: format!("{TEMPORARY_PREFIX}1/2"), generation: 1, ..ObjectMeta::default() };
        object.metadata.insert(key::PROCESS.into(), process.into());
        object.metadata.insert(key::LEASE.into(), lease.into());
        object.updated = Some(SystemTime::now());
        object
    }

    #[test]
    fn the_dead_and_the_living() {
        let now = SystemTime::now();
        let judge = |object: &ObjectMeta| judge(object, now, Duration::ZERO);
        let (past, future) = ("2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z");
        assert_eq!(judge(&temporary(process::identity(), future)), Verdict::Living);
        assert_eq!(judge(&temporary(process::identity(), past)), Verdict::Living);
        let reborn = process::identity().rsplit_once('/').unwrap().0.to_owned() + "/1";
        assert_eq!(judge(&temporary(&reborn, future)), Verdict::Dead);
        assert_eq!(judge(&temporary("elsewhere/1/1", future)), Verdict::Living);
        assert_eq!(judge(&temporary("elsewhere/1/1", past)), Verdict::Dead);
        assert_eq!(judge(&ObjectMeta::default()), Verdict::Foreign);
        let young = super::judge(&temporary("elsewhere/1/1", past), now, Duration::from_secs(60));
        assert_eq!(young, Verdict::Young);
    }
}
