//! Places where tests kill the program or hold it, to show that it resumes; and
//! time that goes faster for them.

use std::time::Duration;

/// The steps of a cut, in order. In debug builds `RELEASE_FAIL_AT=STEP` kills
/// the program there as `kill -9` would; `STEP:N` at the N-th time.
/// `RELEASE_STOP_AT` stops it, until somebody lets it go on.
pub const STEPS: [&str; 22] = [
    "fetch.done",
    "archive.done",
    "build.first",
    "build.done",
    "stage.done",
    "claim.asked",
    "claim.signed",
    "role.asked",
    "role.signed",
    "openpgp.asked",
    "openpgp.signed",
    "seal.begun",
    "seal.snapshot",
    "seal.timestamp",
    "seal.checked",
    "seal.linked",
    "seal.recorded",
    "publish.begun",
    "publish.file",
    "publish.pointer",
    "publish.timestamp",
    "publish.recorded",
];

/// The steps of taking what a medium brings.
pub const IMPORT_STEPS: [&str; 2] = ["import.copied", "import.kept"];

/// The steps of a courier's round: writing a medium, pushing it, taking his receipt.
pub const COURIER_STEPS: [&str; 7] = [
    "export.begun",
    "export.content",
    "export.done",
    "courier.checked",
    "courier.pushed",
    "receipt.seen",
    "receipt.noted",
];

/// The steps of making a key in a token, in order.
pub const ENROLMENT: [&str; 3] = ["enrol.noted", "enrol.generated", "enrol.attested"];

/// The step of making a key as a file: its private half is written, its public half is not.
pub const SOFTWARE_STEPS: [&str; 1] = ["software.saved"];

/// The step of taking public files: one of them is kept.
pub const PUBLIC_STEPS: [&str; 1] = ["public.kept"];

/// The step of a drill: its keys are made, and not erased yet.
pub const DRILL_STEPS: [&str; 1] = ["drill.made"];
/// The step of a withdrawal that a cut does not have.
pub const WITHDRAWAL: [&str; 1] = ["withdraw.drafted"];

/// The steps of asking for an approval and taking it, in order.
pub const REQUEST: [&str; 4] = ["request.signed", "request.written", "request.noted", "approval.taken"];

/// The steps of an approval that a cut does not have, in order.
pub const APPROVAL: [&str; 3] = ["approve.noted", "approve.signed", "approve.written"];

/// The steps of a change of the policy or its keys that a cut does not have, where it is
/// asked for.
pub const AMENDMENT: [&str; 8] = [
    "amend.begun",
    "amend.key",
    "amend.asked",
    "amend.gathered",
    "amend.key-asked",
    "amend.signed",
    "amend.taken",
    "amend.adopted",
];

/// The steps of a consent to that, in order.
pub const CONSENT: [&str; 2] = ["amend.noted", "amend.consented"];

/// Passes a step. Does nothing in release builds.
pub fn step(name: &str) {
    debug_assert!(
        [
            &STEPS[..],
            &IMPORT_STEPS,
            &COURIER_STEPS,
            &ENROLMENT,
            &SOFTWARE_STEPS,
            &PUBLIC_STEPS,
            &DRILL_STEPS,
            &WITHDRAWAL,
            &REQUEST,
            &APPROVAL,
            &AMENDMENT,
            &CONSENT,
        ]
        .concat()
        .contains(&name),
        "unknown step {name}"
    );
    #[cfg(debug_assertions)]
    fail_if_asked(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
fn fail_if_asked(name: &str) {
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering;

    use rustix::process::Signal;
    static PASSED: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];

    let faults = [("RELEASE_FAIL_AT", Signal::KILL), ("RELEASE_STOP_AT", Signal::STOP)];
    for ((variable, signal), passed) in faults.into_iter().zip(&PASSED) {
        let Ok(wanted) = std::env::var(variable) else { continue };
        let (wanted, nth) = match wanted.split_once(':') {
            Some((step, nth)) => (step, nth.parse().unwrap_or(1)),
            None => (wanted.as_str(), 1),
        };
        if wanted == name && passed.fetch_add(1, Ordering::SeqCst) + 1 == nth {
            let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
            // To be killed is at once; to be stopped is when another thread hears of it.
            if signal == Signal::STOP {
                std::thread::sleep(std::time::Duration::from_secs(1));
            }
        }
    }
}

/// How long to wait for somebody who is silent. In debug builds
/// `RELEASE_PATIENCE=SECONDS` is less.
pub fn patience(usual: Duration) -> Duration {
    #[cfg(debug_assertions)]
    if let Some(seconds) = std::env::var("RELEASE_PATIENCE").ok().and_then(|text| text.parse().ok()) {
        return usual.min(Duration::from_secs(seconds));
    }
    usual
}
