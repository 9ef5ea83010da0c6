//! Numbers an operation reads: a list of the host, or a column of a batch, whose copy in a machine's memory is made once.

use std::sync::{Arc, OnceLock};

use bytemuck::Pod;

use crate::data::column::{Column, Copied};
use crate::device::{Buffer, Runtime, upload};
use crate::error::{Error, Result};

pub enum Numbers<'a, T = u32> {
    List(&'a [T]),
    Column(&'a Column<T>),
}

impl<T> Clone for Numbers<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Numbers<'_, T> {}

impl<'a, T: Pod> Numbers<'a, T> {
    pub fn len(&self) -> usize {
        match self {
            Numbers::List(list) => list.len(),
            Numbers::Column(column) => column.len(),
        }
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Whether all are below `bound`; numbers that are known to be are not read.
    pub fn all_below(&self, bound: T) -> bool
    where
        T: PartialOrd,
    {
        match self {
            Numbers::Column(column) if column.bound().is_some_and(|of| of <= bound) => true,
            _ => self.here().iter().all(|&x| x < bound),
        }
    }
    /// On the host.
    pub fn here(&self) -> &'a [T] {
        match self {
            Numbers::List(list) => list,
            Numbers::Column(column) => column,
        }
    }
    /// In the memory of `runtime`.
    pub fn on(&self, runtime: &dyn Runtime) -> Result<Arc<Buffer>> {
        match self {
            Numbers::List(list) => upload(runtime, list).map(Arc::new),
            Numbers::Column(column) => match column.copy().get() {
                Some(there) if there.machine == told(runtime) => held(there),
                // Those of another machine stay where they are.
                Some(_) => upload(runtime, column).map(Arc::new),
                None => {
                    let there = Copied { machine: told(runtime), copy: Arc::new(upload(runtime, column)?) };
                    held(column.copy().get_or_init(|| there))
                }
            },
        }
    }
}

impl<'a, T> From<&'a [T]> for Numbers<'a, T> {
    fn from(list: &'a [T]) -> Self {
        Numbers::List(list)
    }
}

impl<'a, T> From<&'a Vec<T>> for Numbers<'a, T> {
    fn from(list: &'a Vec<T>) -> Self {
        Numbers::List(list)
    }
}

impl<'a, T, const N: usize> From<&'a [T; N]> for Numbers<'a, T> {
    fn from(list: &'a [T; N]) -> Self {
        Numbers::List(list)
    }
}

impl<'a, T> From<&'a Column<T>> for Numbers<'a, T> {
    fn from(column: &'a Column<T>) -> Self {
        Numbers::Column(column)
    }
}

/// Tells machines apart.
fn told(runtime: &dyn Runtime) -> usize {
    std::ptr::from_ref(runtime).cast::<()>() as usize
}

fn held(there: &Copied) -> Result<Arc<Buffer>> {
    there.copy.clone().downcast().map_err(|_| Error::internal("the copy of a column is no memory of a machine"))
}

/// What lies in the memory of `runtime`, if anything.
pub fn copied(slot: &OnceLock<Copied>, runtime: &dyn Runtime) -> Result<Option<Arc<Buffer>>> {
    slot.get().filter(|there| there.machine == told(runtime)).map(held).transpose()
}

/// From now on `buffer`, in the memory of `runtime`, is the copy. One that was made before is as good, and stays.
pub fn place_at(slot: &OnceLock<Copied>, runtime: &dyn Runtime, buffer: Arc<Buffer>) {
    let _ = slot.set(Copied { machine: told(runtime), copy: buffer });
}

/// From now on the column's copy is `buffer`, which holds the same numbers in the memory of `runtime`.
pub fn place<T: Pod>(column: &Column<T>, runtime: &dyn Runtime, buffer: Arc<Buffer>) {
    place_at(column.copy(), runtime, buffer);
}
