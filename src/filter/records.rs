//! Grants of the configuration's own: honoured without a registry, until they expire or are taken out of it.

use crate::cache::{Cache, Cached};
use crate::config::{CacheLimits, Config, ConfigError};
use crate::opened::Opened;
use capability::record::Keks;
use capability::{LookupId, Token};
use hashbrown::HashMap;
use std::hash::RandomState;
use std::rc::Rc;

/// The records of a configuration, their outer layer taken off: what is left opens with the tokens alone.
pub struct Records {
    sealed: HashMap<LookupId, Sealed, RandomState>,
    opened: Cache,
}

struct Sealed {
    inner: Rc<[u8]>,
    expires_at: Option<u64>,
}

impl Records {
    /// Takes the records out of `config`. `keys` is what stands in the variable that `kek_env` names.
    ///
    /// # Errors
    /// A record that stands twice or does not open with these keys, by its place; or no keys.
    pub fn take(config: &mut Config, keys: Option<&[u8]>) -> Result<Records, ConfigError> {
        let records = core::mem::take(&mut config.records);
        let mut sealed = HashMap::with_capacity_and_hasher(records.len(), RandomState::new());
        if !records.is_empty() {
            let name = &config.kek_env;
            let keks = keys.and_then(Keks::parse).ok_or_else(|| {
                ConfigError(format!(
                    "records need the key that capi kek makes: name {name} under vm_config.environment_variables.host_env_keys, and \
                     set it in Envoy's environment"
                ))
            })?;
            for (place, record) in records.iter().enumerate() {
                let inner = record.unwrap(&keks).map_err(|_| {
                    ConfigError(format!("records[{place}] does not open with the key in {name}"))
                })?;
                if sealed
                    .insert(
                        record.lookup,
                        Sealed { inner: inner.as_bytes().into(), expires_at: record.expires_at },
                    )
                    .is_some()
                {
                    return Err(ConfigError(format!("records[{place}] stands twice")));
                }
            }
        }
        // All of them fit, however large: their number is bounded, and so is each.
        let limits = CacheLimits { entries: sealed.len().max(1), bytes: usize::MAX };
        Ok(Records { sealed, opened: Cache::new(limits) })
    }

    /// The grant that `bearer` stands for, if it was opened before.
    pub fn get(&mut self, bearer: &[u8]) -> Option<Rc<Opened>> {
        if self.opened.is_empty() {
            return None;
        }
        match self.opened.get(bearer)? {
            Cached::Grant(opened) => Some(opened),
            Cached::Control => None,
        }
    }

    /// The grant that `token` stands for, opened with it at `now`, seconds since 1970.
    pub fn open(&mut self, token: &Token, lookup: LookupId, now: u64) -> Option<Rc<Opened>> {
        let Sealed { inner, expires_at } = self.sealed.get(&lookup)?;
        let opened = Rc::new(Opened::configured(token, inner, *expires_at, now).ok()?);
        // A token's canonical text parses to itself.
        if let Ok(token) = Token::parse(token.expose().as_bytes()) {
            self.opened.insert(token, Cached::Grant(Rc::clone(&opened)));
        }
        Some(opened)
    }
}
