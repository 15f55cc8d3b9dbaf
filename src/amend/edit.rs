//! Changes of `policy.toml` that have a command. Comments and everything else stay as
//! they are.

use std::collections::BTreeSet;
use std::fmt;

use toml_edit::Array;
use toml_edit::DocumentMut;
use toml_edit::InlineTable;
use toml_edit::Item;
use toml_edit::TableLike;
use toml_edit::Value;

use crate::manifest::Holder;
use crate::manifest::KeyName;
use crate::manifest::Line;
use crate::policy::ARCHIVE;
use crate::policy::CertificateEntry;
use crate::policy::Policy;
use crate::policy::Purpose;

/// A change of the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// New keys in place of these.
    Rotate(Vec<KeyName>),
    /// These keys go, and nothing comes in their place.
    Revoke(Vec<KeyName>),
    /// One more person.
    AddHolder {
        /// Their short name.
        holder: Holder,
        /// The name to show.
        name: Option<Line>,
        /// `root`, `targets` and products; all of them if there is none.
        roles: Vec<String>,
    },
    /// A person goes, with all keys.
    RemoveHolder(Holder),
    /// Another number of people must sign.
    SetThreshold {
        /// `root`, `targets` or a product.
        role: String,
        /// How many.
        threshold: u32,
    },
    /// A new online key in place of a stolen one, which has made up numbers.
    Recover,
    /// Nothing but new dates.
    Renew,
    /// Another `policy.toml`, as a person has written it: other products and sources.
    Policy {
        /// Its file, as the command line named it.
        file: Line,
        /// What it says.
        text: String,
    },
}

/// The words of a change as a command, behind `release`.
pub fn command(words: &str) -> Vec<&str> {
    let of = if words.starts_with(CHANGE) { "policy" } else { "key" };
    std::iter::once(of).chain(words.split(' ')).collect()
}

/// How the words of a change begin that is no change of keys.
const CHANGE: &str = "change ";

/// As words of the command line, behind `release key` or `release policy`.
impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |keys: &[KeyName]| keys.iter().map(KeyName::as_str).collect::<Vec<_>>().join(" ");
        match self {
            Self::Rotate(keys) => write!(f, "rotate {}", joined(keys)),
            Self::Revoke(keys) => write!(f, "revoke {}", joined(keys)),
            Self::AddHolder { holder, .. } => write!(f, "add-holder {holder}"),
            Self::RemoveHolder(holder) => write!(f, "remove-holder {holder}"),
            Self::SetThreshold { role, threshold } => write!(f, "set-threshold {role} {threshold}"),
            Self::Recover => f.write_str("recover"),
            Self::Renew => f.write_str("renew"),
            Self::Policy { file, .. } => write!(f, "{CHANGE}{file}"),
        }
    }
}

/// A change that makes no sense.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// No such key.
    #[error("the policy has no key `{0}`")]
    NoKey(KeyName),
    /// No such person.
    #[error("the policy has no holder `{0}`")]
    NoHolder(Holder),
    /// The person is there.
    #[error("the policy has a holder `{0}` already")]
    Holder(Holder),
    /// No such role.
    #[error("`{0}` is neither `root` nor `targets` nor a product of the policy")]
    NoRole(String),
    /// The threshold is that.
    #[error("the threshold of `{role}` is {threshold} already")]
    Same {
        /// The role.
        role: String,
        /// How many.
        threshold: u32,
    },
    /// More than can sign.
    #[error("`{role}` has {have}, and {need} must sign")]
    TooFew {
        /// The role.
        role: String,
        /// How many keys it would have.
        have: String,
        /// How many must sign.
        need: u32,
    },
    /// One person could do anything.
    #[error("with a threshold of {threshold}, `{role}` needs no second person")]
    Alone {
        /// The role.
        role: String,
        /// How many.
        threshold: u32,
    },
    /// Nobody could renew dates.
    #[error("`{0}` is the online key, without which nothing is sealed")]
    Online(KeyName),
    /// Nothing is new.
    #[error("{0} says what the policy says already")]
    Nothing(Line),
    /// Written in another way than expected.
    #[error("policy.toml cannot be changed: {0}")]
    Shape(String),
}

fn shape(what: &str) -> EditError {
    EditError::Shape(format!("`{what}` is not written as a table or list"))
}

impl Edit {
    /// The new text of a policy. `is_taken` says of a name that a key had it.
    ///
    /// # Errors
    /// The change makes no sense for this policy.
    pub fn apply(&self, policy: &Policy, text: &str, is_taken: &dyn Fn(&str) -> bool) -> Result<String, EditError> {
        match self {
            Self::Renew => return Ok(text.to_owned()),
            Self::Policy { file, text: after } if after == text => return Err(EditError::Nothing(file.clone())),
            Self::Policy { text: after, .. } => return Ok(after.clone()),
            _ => {}
        }
        let mut document: DocumentMut =
            text.parse().map_err(|error: toml_edit::TomlError| EditError::Shape(error.message().to_owned()))?;
        let change = &mut Change { policy, document: &mut document, is_taken };
        match self {
            Self::Rotate(keys) => keys.iter().try_for_each(|key| change.rotate(key))?,
            Self::Recover => {
                let online = policy.keys.keys().find(|name| policy.purpose_of(name) == Some(Purpose::Online));
                change.rotate(online.ok_or_else(|| shape("role.online"))?)?;
            }
            Self::Revoke(keys) => change.revoke(keys)?,
            Self::AddHolder { holder, name, roles } => change.add_holder(holder, name.as_ref(), roles)?,
            Self::RemoveHolder(holder) => change.remove_holder(holder)?,
            Self::SetThreshold { role, threshold } => change.set_threshold(role, *threshold)?,
            Self::Renew | Self::Policy { .. } => {}
        }
        Ok(document.to_string())
    }
}

struct Change<'a> {
    policy: &'a Policy,
    document: &'a mut DocumentMut,
    is_taken: &'a dyn Fn(&str) -> bool,
}

impl Change<'_> {
    /// A table by its path.
    fn table(&mut self, path: &[&str]) -> Result<&mut dyn TableLike, EditError> {
        let mut table: &mut dyn TableLike = self.document.as_table_mut();
        for name in path {
            table = table.get_mut(name).and_then(Item::as_table_like_mut).ok_or_else(|| shape(&path.join(".")))?;
        }
        Ok(table)
    }

    /// The roles of several people.
    fn roles(&self) -> Vec<String> {
        let products = self.policy.products.keys().map(ToString::to_string);
        ["root", "targets"].map(str::to_owned).into_iter().chain(products).collect()
    }

    fn role(&mut self, role: &str) -> Result<&mut dyn TableLike, EditError> {
        match role {
            "root" | "targets" => self.table(&["role", role]),
            product => self.table(&["product", product]),
        }
    }

    fn keys_of(&mut self, role: &str) -> Result<&mut Array, EditError> {
        self.role(role)?.get_mut("keys").and_then(Item::as_array_mut).ok_or_else(|| shape("keys"))
    }

    /// A key that has left a role must not leave too few.
    fn check_enough(&mut self) -> Result<(), EditError> {
        for role in self.roles() {
            let have = self.keys_of(&role)?.len();
            let need = self.role(&role)?.get("threshold").and_then(Item::as_integer).unwrap_or(0);
            let need = u32::try_from(need).unwrap_or(0);
            if have < need as usize {
                let have = if have == 1 { "1 key left".to_owned() } else { format!("{have} keys left") };
                return Err(EditError::TooFew { role, have, need });
            }
        }
        Ok(())
    }

    /// The first name after `name` that no key has had.
    fn next_name(&self, name: &str) -> String {
        const CLAIM: &str = "-claim";
        let (stem, end) = name.strip_suffix(CLAIM).map_or((name, ""), |stem| (stem, CLAIM));
        let (stem, last) = match stem.rsplit_once('-') {
            Some((before, number)) => number.parse().map_or((stem, 1), |number: u32| (before, number)),
            None => (stem, 1),
        };
        let name = |number: u32| format!("{stem}-{number}{end}");
        let first = last.saturating_add(1);
        (first..first.saturating_add(1000)).map(name).find(|name| !self.is_used(name)).unwrap_or_else(|| name(first))
    }

    fn is_used(&self, name: &str) -> bool {
        self.policy.keys.keys().any(|key| key.as_str() == name) || (self.is_taken)(name)
    }

    /// Another certificate in place of one: its file has the next number in its name.
    fn rotate_certificate(&mut self, entry: &CertificateEntry<'_>) -> Result<(), EditError> {
        let whose = entry.holder.map_or(ARCHIVE, Holder::as_str);
        let stem = entry.primary.as_str().strip_suffix("-certify").unwrap_or(whose);
        let number = stem.strip_prefix(whose).and_then(|rest| rest.strip_prefix('-')?.parse().ok());
        let first = number.unwrap_or(1_u32).saturating_add(1);
        let name = |number: u32| format!("{whose}-{number}");
        let mut free = (first..first.saturating_add(1000)).map(name).filter(|name| !(self.is_taken)(name));
        let file = format!("keys/{}.asc", free.next().unwrap_or_else(|| name(first)));
        let (table, key): (&[&str], _) = match entry.holder {
            Some(holder) => (&["openpgp", "holders"], holder.as_str()),
            None => (&["openpgp"], ARCHIVE),
        };
        replace(self.table(table)?.get_mut(key).ok_or_else(|| shape("openpgp"))?, &file);
        Ok(())
    }

    fn rotate(&mut self, old: &KeyName) -> Result<(), EditError> {
        let policy = self.policy;
        if let Some(entry) = policy.certificate_of(old) {
            return self.rotate_certificate(&entry);
        }
        if !self.policy.keys.contains_key(old) {
            return Err(EditError::NoKey(old.clone()));
        }
        let new = self.next_name(old.as_str());
        let keys = self.table(&["key"])?;
        let mut entry = keys.remove(old.as_str()).ok_or_else(|| EditError::NoKey(old.clone()))?;
        let public = entry.as_table_like_mut().and_then(|entry| entry.get_mut("public"));
        replace(public.ok_or_else(|| shape("public"))?, &format!("keys/{new}.pem"));
        keys.insert(&new, entry);
        for role in self.roles() {
            for value in self.keys_of(&role)?.iter_mut().filter(|value| value.as_str() == Some(old.as_str())) {
                let decor = value.decor().clone();
                *value = Value::from(new.as_str());
                *value.decor_mut() = decor;
            }
        }
        let online = self.table(&["role", "online"])?.get_mut("key").ok_or_else(|| shape("role.online.key"))?;
        if online.as_str() == Some(old.as_str()) {
            replace(online, &new);
        }
        Ok(())
    }

    fn revoke(&mut self, keys: &[KeyName]) -> Result<(), EditError> {
        for key in keys {
            if let Some(holder) = self.policy.certificate_of(key).and_then(|entry| entry.holder) {
                self.table(&["openpgp", "holders"])?.remove(holder.as_str());
                continue;
            }
            match self.policy.purpose_of(key) {
                _ if !self.policy.keys.contains_key(key) => return Err(EditError::NoKey(key.clone())),
                Some(Purpose::Online) => return Err(EditError::Online(key.clone())),
                _ => {}
            }
            self.table(&["key"])?.remove(key.as_str());
            for role in self.roles() {
                self.keys_of(&role)?.retain(|value| value.as_str() != Some(key.as_str()));
            }
        }
        self.check_enough()
    }

    fn remove_holder(&mut self, holder: &Holder) -> Result<(), EditError> {
        if !self.policy.holders.contains_key(holder) {
            return Err(EditError::NoHolder(holder.clone()));
        }
        let policy = self.policy;
        let keys: Vec<KeyName> =
            policy.keys.keys().filter(|key| policy.holder_of(key).as_ref() == Some(holder)).cloned().collect();
        self.revoke(&keys)?;
        self.table(&["holder"])?.remove(holder.as_str());
        if policy.openpgp.holders.contains_key(holder) {
            self.table(&["openpgp", "holders"])?.remove(holder.as_str());
        }
        Ok(())
    }

    fn add_holder(&mut self, holder: &Holder, name: Option<&Line>, roles: &[String]) -> Result<(), EditError> {
        if self.policy.holders.contains_key(holder) {
            return Err(EditError::Holder(holder.clone()));
        }
        let all = self.roles();
        if let Some(unknown) = roles.iter().find(|role| !all.contains(role)) {
            return Err(EditError::NoRole(unknown.clone()));
        }
        let roles: Vec<String> = all.into_iter().filter(|role| roles.is_empty() || roles.contains(role)).collect();
        let name = name.map_or(holder.as_str(), Line::as_str);
        self.table(&["holder"])?.insert(holder.as_str(), Item::Value(Value::from(name)));
        let mut made = BTreeSet::new();
        for role in &roles {
            let purpose = match role.as_str() {
                "root" | "targets" => role.as_str(),
                _ => "release",
            };
            let key = self.add_key(holder, purpose, &mut made)?;
            self.keys_of(role)?.push(key);
        }
        // Messages to other terminals are signed by it as well.
        self.add_key(holder, "claim", &mut made)?;
        Ok(())
    }

    fn add_key(&mut self, holder: &Holder, purpose: &str, made: &mut BTreeSet<String>) -> Result<String, EditError> {
        let mut name = format!("{holder}-{purpose}");
        if self.is_used(&name) {
            name = self.next_name(&name);
        }
        if made.insert(name.clone()) {
            let mut entry = InlineTable::new();
            entry.insert("holder", Value::from(holder.as_str()));
            entry.insert("public", Value::from(format!("keys/{name}.pem")));
            self.table(&["key"])?.insert(&name, Item::Value(Value::InlineTable(entry)));
        }
        Ok(name)
    }

    fn set_threshold(&mut self, role: &str, threshold: u32) -> Result<(), EditError> {
        if !self.roles().iter().any(|known| known == role) {
            return Err(EditError::NoRole(role.to_owned()));
        }
        let entry = self.role(role)?.get_mut("threshold").ok_or_else(|| shape("threshold"))?;
        if entry.as_integer() == Some(i64::from(threshold)) {
            return Err(EditError::Same { role: role.to_owned(), threshold });
        }
        if threshold < 2 {
            return Err(EditError::Alone { role: role.to_owned(), threshold });
        }
        let decor = entry.as_value().map(|value| value.decor().clone());
        *entry = Item::Value(Value::from(i64::from(threshold)));
        if let (Some(decor), Some(value)) = (decor, entry.as_value_mut()) {
            *value.decor_mut() = decor;
        }
        let have = self.keys_of(role)?.len();
        if have < threshold as usize {
            let have = if have == 1 { "1 key".to_owned() } else { format!("{have} keys") };
            return Err(EditError::TooFew { role: role.to_owned(), have, need: threshold });
        }
        Ok(())
    }
}

/// Puts another text where one is, with the spaces and the comment around it.
fn replace(item: &mut Item, text: &str) {
    let decor = item.as_value().map(|value| value.decor().clone());
    *item = Item::Value(Value::from(text));
    if let (Some(decor), Some(value)) = (decor, item.as_value_mut()) {
        *value.decor_mut() = decor;
    }
}
