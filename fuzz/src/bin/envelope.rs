//! DSSE envelopes and the statements in them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use release::manifest::claim::Statement;
use release::manifest::dsse::Envelope;

fuzz_target!(|data: &[u8]| {
    statement(data);
    if let Ok(envelope) = Envelope::parse(data) {
        assert_eq!(envelope.to_vec().unwrap(), data);
        let _ = envelope.signatures();
        if let Ok(payload) = envelope.payload() {
            assert!(envelope.signed_bytes().unwrap().ends_with(&payload));
            statement(&payload);
        }
    }
});

fn statement(bytes: &[u8]) {
    if let Ok(statement) = Statement::parse(bytes) {
        assert!(statement.agrees_with(&statement));
        let _ = (statement.product(), statement.version(), statement.commit(), statement.branch());
    }
}
