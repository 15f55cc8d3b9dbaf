//! Approvals: files, and payloads that are put into an envelope here, since changes
//! would have no luck with base64.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use release::approve::Approval;
use release::approve::Incoming;
use release::approve::Message;
use release::approve::Sent;
use release::manifest::dsse::Envelope;
use release::manifest::json;

fuzz_target!(|data: &[u8]| {
    let _ = Incoming::parse(data);
    let mut envelope = Envelope::of(Approval::TYPE, data);
    envelope.add_signature("a", b"b");
    let file = envelope.to_vec().unwrap();
    if let Ok(sent) = Sent::<Approval>::parse(&file) {
        assert!(sent.signed_by(&BTreeMap::new()).is_err(), "nobody is enrolled");
        assert_eq!(json::to_vec(&sent.message).unwrap(), data, "an approval has one form");
        assert!(matches!(Incoming::parse(&file), Ok(Incoming::Approval(_))));
    }
});
