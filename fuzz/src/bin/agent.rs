//! Messages to the private ssh-agent: the pinned host key, our public key, and then
//! messages, each after its length in two bytes.

#![no_main]

use std::sync::Mutex;
use std::sync::atomic::AtomicU32;

use libfuzzer_sys::fuzz_target;
use release::key::KeyError;
use release::key::PublicKey;
use release::key::Signer;
use release::key::ToSign;
use release::key::agent::Allowed;
use release::key::agent::Conversation;
use release::manifest::KeyName;
use release::manifest::names;

/// A key that only notes what it should sign.
struct Noting {
    name: KeyName,
    public: PublicKey,
    asked: Mutex<Vec<Vec<u8>>>,
}

impl Signer for Noting {
    fn name(&self) -> &KeyName {
        &self.name
    }

    fn public(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, _: &str, input: ToSign<'_>) -> Result<Vec<u8>, KeyError> {
        let ToSign::Message(message) = input else { panic!("a digest") };
        self.asked.lock().unwrap().push(message.to_vec());
        Err(KeyError::BadSignature(self.name.clone()))
    }
}

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    let mut part = || {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let part;
        (part, rest) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        Some(part)
    };
    let (Some(host), Some(public)) = (part(), part()) else {
        return;
    };
    let (Ok(host_key), Ok(public)) =
        (String::from_utf8_lossy(host).parse(), PublicKey::from_pem(&String::from_utf8_lossy(public)))
    else {
        return;
    };
    let signer = Noting { name: "deploy".parse().unwrap(), public, asked: Mutex::default() };
    let allowed = Allowed { user: "rel-pool".to_owned(), host_key, logins: 1 };
    let left = AtomicU32::new(allowed.logins);
    let mut conversation = Conversation::new(&signer, &allowed, &left);
    while let Some(message) = part() {
        match conversation.answer(message) {
            Ok(answer) => assert!(matches!(answer[0], 6 | 12)),
            Err(refusal) => assert!(!refusal.to_string().contains(names::is_hidden)),
        }
    }
    let asked = signer.asked.into_inner().unwrap();
    assert!(asked.len() <= 1);
    for login in asked {
        let holds = |part: &[u8]| login.windows(part.len()).any(|window| window == part);
        assert!(holds(b"rel-pool") && login.ends_with(allowed.host_key.blob()), "{login:?}");
    }
});
