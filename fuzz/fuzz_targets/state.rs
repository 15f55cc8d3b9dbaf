//! The home's own files: a journal, and the state of a cut.

#![no_main]

use libfuzzer_sys::fuzz_target;
use release::home::CutState;
use release::home::Journal;

thread_local! {
    // In memory: state files are synced, which takes longer than all the rest.
    static FOLDER: tempfile::TempDir = tempfile::tempdir_in("/dev/shm").unwrap();
}

fuzz_target!(|data: &[u8]| {
    FOLDER.with(|folder| {
        let path = folder.path().join("cut.json");
        std::fs::write(&path, data).unwrap();
        if let Ok(state) = CutState::load(folder.path()) {
            let state = state.unwrap();
            state.save(folder.path()).unwrap();
            assert_eq!(CutState::load(folder.path()).unwrap(), Some(state));
        }
        std::fs::write(&path, data).unwrap();
        if let Ok(journal) = Journal::open(&path) {
            assert_eq!(journal.last_time().is_some(), journal.events().count() > 0);
        }
    });
});
