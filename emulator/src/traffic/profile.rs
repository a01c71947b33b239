//! How fast the emulated service answers, and how many calls a second it accepts.

use std::{str::FromStr, time::Duration};

use crate::{error::Error, random, traffic::stats::Call};

/// Delays and rate limits of the emulated service. A limit of 0 is off.
///
/// Written as the name of a profile, `fast` or `gcs`, and settings that change it:
///
/// ```
/// use dataflux_emulator::Profile;
/// let profile: Profile = "gcs,list_ms=20,limits=off,scale=0.2".parse()?;
/// assert_eq!(profile.list_ms, 20.0);
/// # Ok::<(), dataflux_emulator::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Time for a page of a listing without its items, in milliseconds.
    pub list_ms: f64,
    /// Additional time for each item and prefix of the page, in microseconds.
    pub list_item_us: f64,
    /// Time to the first byte of contents, in milliseconds.
    pub media_ms: f64,
    /// Throughput of the contents of one stream, in 10^6 bytes a second.
    pub media_mb_s: f64,
    /// Time for a composition, a copy or a rewrite, in milliseconds.
    pub compose_ms: f64,
    /// Time for a deletion, in milliseconds.
    pub delete_ms: f64,
    /// Time for an upload, or for one request of a resumable upload, in milliseconds.
    pub insert_ms: f64,
    /// Time for an object's or a bucket's resource, and for all other calls, in milliseconds.
    pub metadata_ms: f64,
    /// Writes a second that a bucket accepts, including deletions and compositions; more get 429.
    pub writes_per_s: f64,
    /// Reads a second that a bucket accepts, including listings; more get 429.
    pub reads_per_s: f64,
    /// Writes a second that one object name accepts, not including deletions; more get 429.
    pub name_writes_per_s: f64,
    /// The share of a delay that varies: 0.1 draws it uniformly from 0.9 to 1.1 times its value.
    pub jitter: f64,
    /// Multiplies every delay and divides every rate: 0.1 is the same service, ten times as fast.
    pub scale: f64,
}

impl Profile {
    /// A profile without delays and limits.
    pub fn fast() -> Self {
        Self {
            list_ms: 0.0,
            list_item_us: 0.0,
            media_ms: 0.0,
            media_mb_s: 0.0,
            compose_ms: 0.0,
            delete_ms: 0.0,
            insert_ms: 0.0,
            metadata_ms: 0.0,
            writes_per_s: 0.0,
            reads_per_s: 0.0,
            name_writes_per_s: 0.0,
            jitter: 0.0,
            scale: 1.0,
        }
    }

    /// A model of a regional bucket, fitted to figures that Dataflux publishes. Listing 17.9 million objects in 1,631 s
    /// takes 0.45 s for a page of 5,000, and reading 11,098 objects of 10 KB in 1,397 s takes 126 ms for each. The
    /// rates are the documented ones.
    pub fn gcs() -> Self {
        Self {
            list_ms: 50.0,
            list_item_us: 70.0,
            media_ms: 80.0,
            media_mb_s: 60.0,
            compose_ms: 800.0,
            delete_ms: 80.0,
            insert_ms: 80.0,
            metadata_ms: 40.0,
            writes_per_s: 1_000.0,
            reads_per_s: 5_000.0,
            name_writes_per_s: 1.0,
            jitter: 0.0,
            scale: 1.0,
        }
    }

    fn settings(&mut self) -> [(&'static str, &mut f64); 13] {
        [
            ("list_ms", &mut self.list_ms),
            ("list_item_us", &mut self.list_item_us),
            ("media_ms", &mut self.media_ms),
            ("media_mb_s", &mut self.media_mb_s),
            ("compose_ms", &mut self.compose_ms),
            ("delete_ms", &mut self.delete_ms),
            ("insert_ms", &mut self.insert_ms),
            ("metadata_ms", &mut self.metadata_ms),
            ("writes_per_s", &mut self.writes_per_s),
            ("reads_per_s", &mut self.reads_per_s),
            ("name_writes_per_s", &mut self.name_writes_per_s),
            ("jitter", &mut self.jitter),
            ("scale", &mut self.scale),
        ]
    }

    /// The time from `call` to the first byte of its answer. `items` counts what a listing found. `seed` and `draw`,
    /// the number of the call, determine the jitter.
    pub(crate) fn delay(&self, call: Call, items: u64, seed: u64, draw: u64) -> Duration {
        let millis = match call {
            Call::List => self.list_ms + self.list_item_us * items as f64 / 1_000.0,
            Call::GetMedia => self.media_ms,
            Call::Compose | Call::Copy => self.compose_ms,
            Call::Delete => self.delete_ms,
            Call::Insert | Call::UploadChunk => self.insert_ms,
            _ => self.metadata_ms,
        };
        let spread = 1.0 + self.jitter * (2.0 * random::unit(seed, draw) - 1.0);
        Duration::from_secs_f64((millis * spread * self.scale / 1_000.0).max(0.0))
    }

    /// Bytes a second of one stream of contents; `None` for no limit.
    pub(crate) fn bytes_per_second(&self) -> Option<f64> {
        (self.media_mb_s > 0.0 && self.scale > 0.0).then(|| self.media_mb_s * 1e6 / self.scale)
    }

    /// Applies [`scale`](Self::scale) to a rate; 0 for no limit.
    pub(crate) fn scale_rate(&self, rate: f64) -> f64 {
        if self.scale > 0.0 { rate / self.scale } else { 0.0 }
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self::fast()
    }
}

impl FromStr for Profile {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why: String| Error::spec("profile", text, why);
        let mut parts = text.split(',');
        let mut profile = match parts.next().unwrap_or_default() {
            "fast" => Self::fast(),
            "gcs" => Self::gcs(),
            other => return Err(bad(format!("no profile `{other}`; there are fast, gcs"))),
        };
        for part in parts {
            let (key, value) = part.split_once('=').ok_or_else(|| bad(format!("`{part}` is not KEY=VALUE")))?;
            if key == "limits" {
                let on = match value {
                    "on" => true,
                    "off" => false,
                    _ => return Err(bad(format!("`limits` is on or off, got `{value}`"))),
                };
                let source = if on { Self::gcs() } else { Self::fast() };
                profile.writes_per_s = source.writes_per_s;
                profile.reads_per_s = source.reads_per_s;
                profile.name_writes_per_s = source.name_writes_per_s;
                continue;
            }
            let number = value.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
            let number = number.ok_or_else(|| bad(format!("`{key}` wants a number of 0 or more, got `{value}`")))?;
            let mut settings = profile.settings();
            let Some((_, setting)) = settings.iter_mut().find(|(name, _)| *name == key) else {
                let known = settings.map(|(name, _)| name).join(", ");
                return Err(bad(format!("no setting `{key}`; there are limits, {known}")));
            };
            **setting = number;
        }
        if profile.jitter > 1.0 {
            return Err(bad(format!("`jitter` is at most 1, got {}", profile.jitter)));
        }
        Ok(profile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_refuses() {
        assert_eq!("fast".parse::<Profile>().unwrap(), Profile::fast());
        let profile: Profile = "gcs,list_ms=20,limits=off,scale=0.2".parse().unwrap();
        assert_eq!(
            profile,
            Profile {
                list_ms: 20.0,
                writes_per_s: 0.0,
                reads_per_s: 0.0,
                name_writes_per_s: 0.0,
                scale: 0.2,
                ..Profile::gcs()
            }
        );
        for (text, why) in
            [("slow", "slow"), ("gcs,x=1", "`x`"), ("gcs,list_ms=-1", "list_ms"), ("gcs,jitter=2", "jitter")]
        {
            let message = text.parse::<Profile>().unwrap_err().to_string();
            assert!(message.contains(why), "{message}");
        }
    }

    #[test]
    fn delays_depend_on_call_jitter_and_scale() {
        let gcs = Profile::gcs();
        assert_eq!(gcs.delay(Call::List, 5_000, 0, 0), Duration::from_millis(400));
        let jittered = Profile { jitter: 0.5, scale: 0.1, ..gcs };
        let delays: Vec<_> = (0..100).map(|draw| jittered.delay(Call::Compose, 0, 1, draw)).collect();
        assert!(delays.iter().all(|delay| (0.04..=0.12).contains(&delay.as_secs_f64())), "{delays:?}");
        assert!(delays.iter().any(|delay| *delay != delays[0]));
        assert_eq!(jittered.bytes_per_second(), Some(6e8));
        assert_eq!(Profile::fast().bytes_per_second(), None);
    }
}
