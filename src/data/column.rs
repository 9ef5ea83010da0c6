//! A list of numbers that the host and a machine may both need: made where it is asked for, and at most once in each place.
//!
//! The host's list may be a promise, kept when somebody reads it. Of a machine's copy this file knows nothing but that there is one
//! ([`Column::copy`]; `device/numbers.rs` knows the rest).

use std::any::Any;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

type Promise<T> = Arc<dyn Fn() -> Vec<T> + Send + Sync>;

/// Numbers of 4 or 8 bytes. A clone shares them, and a copy that there is already.
#[derive(Clone)]
pub struct Column<T> {
    len: usize,
    /// Every number is below it, where that is known without looking.
    bound: Option<T>,
    here: Arc<OnceLock<Vec<T>>>,
    promise: Option<Promise<T>>,
    copy: OnceLock<Copied>,
}

/// A copy in the memory of the machine that is told by `machine`.
#[derive(Clone)]
pub struct Copied {
    pub machine: usize,
    pub copy: Arc<dyn Any + Send + Sync>,
}

impl<T: Copy> Column<T> {
    /// `len` numbers that `promise` gives when they are first read.
    pub fn promised(len: usize, promise: impl Fn() -> Vec<T> + Send + Sync + 'static) -> Column<T> {
        Column { len, bound: None, here: Arc::default(), promise: Some(Arc::new(promise)), copy: OnceLock::new() }
    }
    /// The same, all of which are below `bound`.
    pub fn below(self, bound: T) -> Column<T> {
        Column { bound: Some(bound), ..self }
    }
    pub fn bound(&self) -> Option<T> {
        self.bound
    }
    /// Numbers; known without reading them.
    pub fn len(&self) -> usize {
        self.len
    }
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Where a machine's copy is, or will be.
    pub fn copy(&self) -> &OnceLock<Copied> {
        &self.copy
    }
    fn read(&self) -> &[T] {
        self.here.get_or_init(|| self.promise.as_ref().map_or_else(Vec::new, |promise| promise()))
    }
}

impl<T> From<Vec<T>> for Column<T> {
    fn from(list: Vec<T>) -> Column<T> {
        Column { len: list.len(), bound: None, here: Arc::new(OnceLock::from(list)), promise: None, copy: OnceLock::new() }
    }
}

impl<T: Copy> FromIterator<T> for Column<T> {
    fn from_iter<I: IntoIterator<Item = T>>(numbers: I) -> Column<T> {
        Vec::from_iter(numbers).into()
    }
}

impl<T> Default for Column<T> {
    fn default() -> Column<T> {
        Vec::new().into()
    }
}

impl<T: Copy> Deref for Column<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        self.read()
    }
}

impl<T: Copy + std::fmt::Debug> std::fmt::Debug for Column<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.read().fmt(f)
    }
}

impl<T: Copy + PartialEq, L: AsRef<[T]> + ?Sized> PartialEq<L> for Column<T> {
    fn eq(&self, other: &L) -> bool {
        self[..] == *other.as_ref()
    }
}

impl<T: Copy> AsRef<[T]> for Column<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<'a, T: Copy> IntoIterator for &'a Column<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    #[test]
    fn a_promise_is_kept_once_and_only_when_somebody_reads() {
        let kept = Arc::new(AtomicU32::new(0));
        let counted = kept.clone();
        let promised = Column::promised(3, move || {
            counted.fetch_add(1, Relaxed);
            vec![5u32, 6, 7]
        })
        .below(9);
        let clone = promised.clone();
        assert_eq!((promised.len(), promised.is_empty(), promised.bound(), kept.load(Relaxed)), (3, false, Some(9), 0));
        assert_eq!((&clone[1..], promised == [5, 6, 7], promised == clone), (&[6, 7][..], true, true));
        assert_eq!((kept.load(Relaxed), promised.into_iter().sum::<u32>()), (1, 18));
    }

    #[test]
    fn a_copy_made_later_is_not_a_clones() {
        let column: Column<u64> = (0..4).collect();
        let earlier = column.clone();
        let there = Copied { machine: 1, copy: Arc::new(()) };
        assert!(column.copy().set(there).is_ok());
        assert_eq!((earlier.copy().get().is_some(), column.clone().copy().get().is_some()), (false, true));
        assert!(Column::<u32>::default().is_empty());
    }
}
