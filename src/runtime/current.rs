//! A value that is replaced as a whole while others go by it.

use std::sync::{Arc, PoisonError, RwLock};

/// What holds now. Whoever looks twice may find two values: take it once for one piece of work.
#[derive(Debug)]
pub struct Current<T>(RwLock<Arc<T>>);

impl<T> Current<T> {
    /// Begins with `value`.
    pub fn new(value: T) -> Current<T> {
        Current(RwLock::new(Arc::new(value)))
    }

    /// The value that holds now, to be kept for as long as one piece of work takes.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on `value` holds; whoever has the old one goes on with that.
    pub fn set(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}
