//! How slow a mirror may be. All mirrors wait for each other before they show a
//! release: one that trickles must not hold it up for ever.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use crate::home;
use crate::transport::Patience;

/// A server that gives nothing for so long counts as down.
const SILENCE: Duration = Duration::from_secs(60);
/// The least bytes per second, on average, once [`SILENCE`] has passed.
pub(super) const RATE: u64 = 16_000;
/// How many bytes an answer counts for besides those that it is about: one a
/// second is enough.
const ANSWER: u64 = RATE;
/// How many files are read back at once; each has its part of the rate.
pub(super) const READERS: usize = 4;

/// A server that gives nothing for so long counts as down.
pub(super) fn silence() -> Duration {
    home::patience(SILENCE)
}

/// These limits, in words.
pub(super) fn limits() -> String {
    format!("nothing for {} s, or less than {} kB a second", silence().as_secs(), RATE / 1000)
}

/// When a web server counts as down.
pub(super) fn of_reader() -> Patience {
    Patience { step: silence() / 2, grace: silence(), rate: RATE / READERS as u64 }
}

/// What a server has given, and the time that we have waited for it.
#[derive(Debug)]
pub(super) struct Pace {
    rate: u64,
    silence: Duration,
    given: Mutex<(Duration, u64)>,
}

impl Pace {
    /// Of a server that must give so many bytes per second.
    pub(super) fn new(rate: u64) -> Self {
        Self { rate, silence: silence(), given: Mutex::default() }
    }

    /// Notes an answer about so many bytes, after a wait. Gives whether the server
    /// is fast enough until now.
    pub(super) fn keeps(&self, waited: Duration, bytes: u64) -> bool {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.0 = given.0.saturating_add(waited);
        given.1 = given.1.saturating_add(bytes.saturating_add(ANSWER));
        given.0 <= self.silence || given.1 >= self.rate.saturating_mul(given.0.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_trickles_does_not_keep_the_pace() {
        let second = Duration::from_secs(1);
        // An answer a second, or as many bytes, is enough for as long as it takes.
        for (wait, bytes) in [(second, 0), (10 * second, 10 * RATE), (Duration::ZERO, 0)] {
            let pace = Pace::new(RATE);
            assert!((0..100_000).all(|_| pace.keeps(wait, bytes)), "{wait:?} {bytes}");
        }
        // Less is not: a gigabyte would take a month.
        let pace = Pace::new(RATE);
        let kept = (0..100_000).take_while(|_| pace.keeps(10 * second, 10_000)).count();
        assert_eq!(kept, 6);
        // What it gave before counts.
        let pace = Pace::new(RATE);
        assert!(pace.keeps(second, 1 << 30));
        let kept = (0..100_000).take_while(|_| pace.keeps(60 * second, 0)).count();
        assert!((1000..1200).contains(&kept), "{kept}");
    }
}
