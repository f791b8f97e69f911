//! What all configurations of a name share, for as long as one of them holds it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// One of each key for the whole process.
pub struct Shared<K, T>(Mutex<BTreeMap<K, Weak<T>>>);

impl<K: Ord, T: Default> Shared<K, T> {
    /// With nothing in it.
    pub const fn empty() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// The one of this key, a new one if nobody holds one.
    pub fn of(&self, key: K) -> Arc<T> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, one| one.strong_count() > 0);
        let known = all.get(&key).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let new = Arc::default();
            all.insert(key, Arc::downgrade(&new));
            new
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_each_key_while_it_is_held() {
        let shared: Shared<&str, Mutex<u32>> = Shared::empty();
        let first = shared.of("a");
        *first.lock().unwrap() = 1;
        assert!(Arc::ptr_eq(&first, &shared.of("a")));
        assert!(!Arc::ptr_eq(&first, &shared.of("b")));
        drop(first);
        assert_eq!(*shared.of("a").lock().unwrap(), 0);
    }
}
