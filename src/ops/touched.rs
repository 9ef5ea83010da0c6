//! The distinct ids of lists, ascending: which rows of a table a step touches.
//!
//! On the plain path a table remembers the last round that met each id; on a machine, where millions of ids may have been drawn
//! and stay, bits are set and counted (`kernels/touched.cu`), and the host learns only how many there are.
//!
//! Price: 4 bytes a row of the table on the plain path, and a sort of what is found; 4 1/8 bytes a row on a machine.

use crate::device::{Arg, Buffer, Device, Grid, Kernel, Runtime, download, upload};
use crate::error::{Error, Result};
use crate::ids::NONE;
use crate::ops::case::{self, Case, Output};

/// Ids, `NONE` among them, here or on the machine.
#[derive(Clone, Copy)]
pub enum List<'a> {
    Here(&'a [u32]),
    There(&'a Buffer),
}

/// Rows of a table, ascending and distinct, here or on the machine.
#[derive(Clone, Copy)]
pub enum Rows<'a> {
    Here(&'a [u32]),
    /// The first so many of a buffer.
    There(&'a Buffer, usize),
}

impl Rows<'_> {
    pub fn len(&self) -> usize {
        match self {
            Rows::Here(rows) => rows.len(),
            Rows::There(_, count) => *count,
        }
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The rows a step touches, of a table of `items`; keeps its memory from step to step.
pub struct Touched {
    items: usize,
    ids: Vec<u32>,
    /// (items) the last round that met each id.
    met: Vec<u32>,
    round: u32,
    /// On a machine: their ids, and how many there are.
    there: Option<(Buffer, usize)>,
}

/// Ids a block of `touched_mark` takes, and words of bits one of the others.
const IDS: usize = 1024;
const WORDS: usize = 256;

impl Touched {
    pub fn new(items: usize) -> Touched {
        Touched { items, ids: Vec::new(), met: Vec::new(), round: 0, there: None }
    }
    /// What the last `collect` found.
    pub fn rows(&self) -> Rows<'_> {
        self.there.as_ref().map_or(Rows::Here(&self.ids), |(ids, count)| Rows::There(ids, *count))
    }
    /// The distinct ids of `lists`, below `items`.
    pub fn collect(&mut self, device: &Device, lists: &[List]) -> Result<()> {
        match device {
            Device::Host(_) => self.collect_here(lists),
            Device::Machine(runtime) => self.collect_there(device, &**runtime, lists),
        }
    }

    fn collect_here(&mut self, lists: &[List]) -> Result<()> {
        self.met.resize(self.items, 0);
        self.round += 1;
        self.ids.clear();
        for list in lists {
            let List::Here(list) = list else { return Err(Error::internal("ids of a machine on the plain path")) };
            for &id in list.iter().filter(|id| **id != NONE) {
                if self.met[id as usize] != self.round {
                    self.met[id as usize] = self.round;
                    self.ids.push(id);
                }
            }
        }
        self.ids.sort_unstable();
        Ok(())
    }

    fn collect_there(&mut self, device: &Device, runtime: &dyn Runtime, lists: &[List]) -> Result<()> {
        let words = self.items.div_ceil(32);
        let blocks = words.div_ceil(WORDS);
        let (mut bits, mut counts) = (Buffer::sized(device, words)?, Buffer::sized(device, blocks)?);
        let mut total = Buffer::sized(device, 1)?;
        let mut ids = match self.there.take() {
            Some((ids, _)) => ids,
            None => Buffer::sized(device, self.items)?,
        };
        if words == 0 {
            self.there = Some((ids, 0));
            return Ok(());
        }
        let kernel = |entry| Kernel::new("touched", entry, &[]);
        runtime.fill(bits.memory_mut()?, 0)?;
        for list in lists {
            let copied;
            let list = match list {
                List::There(list) => list,
                List::Here(list) => {
                    copied = upload(runtime, list)?;
                    &copied
                }
            };
            if list.is_empty() {
                continue;
            }
            let [n, items] = [list.len(), self.items].map(|size| Arg::U32(size as u32));
            let args = &mut [Arg::Out(&mut bits), Arg::In(list), n, items];
            runtime.launch(&kernel("touched_mark"), Grid::row(list.len().div_ceil(IDS), 256), args)?;
        }
        let args = &mut [Arg::Out(&mut counts), Arg::In(&bits), Arg::U32(words as u32)];
        runtime.launch(&kernel("touched_count"), Grid::row(blocks, 256), args)?;
        let args = &mut [Arg::Out(&mut counts), Arg::Out(&mut total), Arg::U32(blocks as u32)];
        runtime.launch(&Kernel::new("group", "group_scan", &[]), Grid::row(1, 256), args)?;
        let args = &mut [Arg::Out(&mut ids), Arg::In(&bits), Arg::In(&counts), Arg::U32(words as u32)];
        runtime.launch(&kernel("touched_list"), Grid::row(blocks, 256), args)?;
        let count = download::<u32>(runtime, &total, 1)?[0] as usize;
        self.there = Some((ids, count));
        Ok(())
    }
}

/// Two lists into tables whose bits end within a word, fill one, and fill more than a block; the second list is often empty.
pub fn cases() -> Vec<Case> {
    [(1usize, 3usize, 0usize), (31, 50, 1), (32, 9, 40), (33, 500, 7), (8193, 3000, 900), (70_000, 1025, 0)]
        .map(|(items, n, m)| {
            Case::new("touched", format!("V {items}, ids {n} and {m}"), move |device| {
                let mut first = case::ids(1, n, items);
                first.iter_mut().skip(1).step_by(3).for_each(|id| *id = NONE);
                let second = case::ids(2, m, items);
                let mut touched = Touched::new(items);
                let mut found = Vec::new();
                // The second round has to forget the first.
                for lists in [[List::Here(&first), List::Here(&second)], [List::Here(&second), List::Here(&[])]] {
                    touched.collect(device, &lists)?;
                    let ids = match (touched.rows(), device) {
                        (Rows::There(ids, count), Device::Machine(runtime)) => download(&**runtime, ids, count)?,
                        (Rows::Here(ids), _) => ids.to_vec(),
                        _ => return Err(Error::internal("rows of a machine without their machine")),
                    };
                    found.push(ids);
                }
                let [once, again] = &found[..] else { unreachable!() };
                Ok(vec![Output::ids("ids", once.clone()), Output::ids("again", again.clone())])
            })
        })
        .into()
}
