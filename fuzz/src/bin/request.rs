//! Requests for approval: files, and payloads that are put into an envelope here, since
//! changes would have no luck with base64.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use release::approve::Incoming;
use release::approve::Message;
use release::approve::Request;
use release::approve::Sent;
use release::build::Environment;
use release::manifest::dsse::Envelope;
use release::manifest::json;
use release::tuf::Draft;
use release::tuf::change::Change;

fuzz_target!(|data: &[u8]| {
    let _ = Incoming::parse(data);
    let mut envelope = Envelope::of(Request::TYPE, data);
    envelope.add_signature("a", b"b");
    let Ok(sent) = Sent::<Request>::parse(&envelope.to_vec().unwrap()) else {
        return;
    };
    assert!(sent.signed_by(&BTreeMap::new()).is_err(), "nobody is enrolled");
    let request = sent.message;
    assert_eq!(json::to_vec(&request).unwrap(), data, "a request has one form");
    if let Ok(environment) = Environment::parse(request.environment.as_bytes()) {
        assert!(environment.differences(&environment).is_empty());
    }
    let Ok(role) = Draft::parse(request.product.as_str(), request.role.as_bytes()) else {
        return;
    };
    let before = request.follows.as_deref().map(str::as_bytes);
    if let Ok(change) = Change::between(&request.product, before, &role) {
        let before = before.map(|file| Draft::parse("any", file).unwrap());
        for (path, entry) in before.iter().flat_map(|role| role.signed()["targets"].as_object()).flatten() {
            let version = path.split('/').nth(1).unwrap();
            let is_withdrawn = change.withdrawn.iter().any(|entry| entry.version.as_str() == version);
            assert!(is_withdrawn || role.signed()["targets"][path] == *entry, "{path} is neither there nor withdrawn");
        }
    }
});
