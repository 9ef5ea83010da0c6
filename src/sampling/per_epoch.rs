//! What a stage builds from its parameters and the log: once, or anew in every epoch where a parameter follows a curve.
//!
//! Tables cost time in the order of the catalogue, so such curves stand still within an epoch, at their value when it begins. One
//! epoch's are kept at a time; which, has no effect on any draw.

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;

type Make<T> = Box<dyn Fn(u64) -> Result<Arc<T>> + Send + Sync>;

pub struct PerEpoch<T: ?Sized> {
    /// Builds those of an epoch; absent where all epochs have the same.
    make: Option<Make<T>>,
    kept: Mutex<(u64, Arc<T>)>,
}

impl<T: ?Sized> PerEpoch<T> {
    /// The same in every epoch.
    pub fn fixed(value: Arc<T>) -> PerEpoch<T> {
        PerEpoch { make: None, kept: Mutex::new((0, value)) }
    }
    /// What `make` builds for each epoch, if a parameter `moves`; otherwise what it builds for the first.
    pub fn new(moves: bool, make: impl Fn(u64) -> Result<Arc<T>> + Send + Sync + 'static) -> Result<PerEpoch<T>> {
        let kept = Mutex::new((0, make(0)?));
        Ok(PerEpoch { make: moves.then(|| Box::new(make) as Make<T>), kept })
    }
    pub fn at(&self, epoch: u64) -> Result<Arc<T>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(make) = self.make.as_ref().filter(|_| kept.0 != epoch) {
            *kept = (epoch, make(epoch)?);
        }
        Ok(kept.1.clone())
    }
    /// What stands for the epoch that `at` is asked for: the same number, the same tables.
    pub fn version(&self, epoch: u64) -> u64 {
        if self.make.is_some() { epoch } else { 0 }
    }
}
