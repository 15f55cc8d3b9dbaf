//! Requests to change the policy and consents to them: payloads that are put into an
//! envelope here, since changes would have no luck with base64; and the policy in them.

#![no_main]

use std::collections::BTreeMap;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use release::amend::Edit;
use release::approve::Amendment;
use release::approve::Consent;
use release::approve::Incoming;
use release::approve::Message;
use release::approve::Sent;
use release::manifest::dsse::Envelope;
use release::manifest::json;
use release::policy::Policy;

fn parse<M: Message>(data: &[u8]) -> Option<M> {
    let mut envelope = Envelope::of(M::TYPE, data);
    envelope.add_signature("a", b"b");
    let file = envelope.to_vec().unwrap();
    let sent = Sent::<M>::parse(&file).ok()?;
    assert!(sent.signed_by(&BTreeMap::new()).is_err(), "nobody is enrolled");
    assert_eq!(json::to_vec(&sent.message).unwrap(), data, "a message has one form");
    assert!(Incoming::parse(&file).is_ok());
    let name = sent.message.file();
    assert!(!name.contains('/') && name.starts_with("policy_"), "{name}");
    Some(sent.message)
}

fuzz_target!(|data: &[u8]| {
    let _ = parse::<Consent>(data);
    let Some(amendment) = parse::<Amendment>(data) else {
        return;
    };
    let path = Path::new("policy.toml");
    let Ok(policy) = Policy::parse(path, amendment.policy.clone()) else {
        return;
    };
    let same = Edit::Renew.apply(&policy, &amendment.policy, &|_| false);
    assert!(same.is_ok_and(|same| same == amendment.policy), "what is not changed stays");
    let keys: Vec<_> = policy.keys.keys().take(1).cloned().collect();
    if let Ok(changed) = Edit::Rotate(keys.clone()).apply(&policy, &amendment.policy, &|_| false) {
        let changed = Policy::parse(path, changed).unwrap();
        assert!(keys.iter().all(|key| !changed.keys.contains_key(key)));
        assert_eq!(changed.keys.len(), policy.keys.len());
    }
});
