//! The distinct ids of lists, ascending: which rows of a table a step touches.
//!
//! On the plain path a table remembers the last round that met each id; on a machine, where millions of ids may have been drawn
//! and stay, bits are set and counted (`kernels/touched.cu`), and the host does not even learn how many there are.
//!
//! Price: 4 bytes a row of the table on the plain path, and a sort of what is found; 4 1/8 bytes a row on a machine.

use crate::device::{Arg, Buffer, Device, Grid, Kernel, Numbers, Runtime, download};
use crate::error::{Error, Result};
use crate::ids::NONE;
use crate::ops::case::{self, Case, Output};

/// Ids, `NONE` among them, here or on the machine.
#[derive(Clone, Copy)]
pub enum List<'a> {
    Here(Numbers<'a>),
    There(&'a Buffer),
}

/// Rows of a table, ascending and distinct, here or on the machine.
#[derive(Clone, Copy)]
pub enum Rows<'a> {
    Here(&'a [u32]),
    There(RowsThere<'a>),
}

/// The first so many of a machine's `ids`: as many as the number in `count` says, which nobody waits for. `most` of them may be.
#[derive(Clone, Copy)]
pub struct RowsThere<'a> {
    pub ids: &'a Buffer,
    pub count: &'a Buffer,
    pub most: usize,
}

/// The rows a step touches, of a table of `items`; keeps its memory from step to step.
pub struct Touched {
    items: usize,
    ids: Vec<u32>,
    /// (items) the last round that met each id.
    met: Vec<u32>,
    round: u32,
    /// On a machine: their ids, how many there are, and how many there may be.
    there: Option<(Buffer, Buffer, usize)>,
}

/// Ids a block of `touched_mark` takes, and words of bits one of the others.
const IDS: usize = 1024;
const WORDS: usize = 256;

/// Bytes that the touched of `items` take in a machine's memory: a list of them and its length, and while it is made a bit of each and
/// a count of every block of bits.
pub fn bytes_there(items: usize) -> u64 {
    let words = items.div_ceil(32);
    (4 * (items + 1 + words + words.div_ceil(WORDS))) as u64
}

impl Touched {
    pub fn new(items: usize) -> Touched {
        Touched { items, ids: Vec::new(), met: Vec::new(), round: 0, there: None }
    }
    /// What the last `collect` found.
    pub fn rows(&self) -> Rows<'_> {
        self.there.as_ref().map_or(Rows::Here(&self.ids), |(ids, count, most)| Rows::There(RowsThere { ids, count, most: *most }))
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
            for &id in list.here().iter().filter(|id| **id != NONE) {
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
        let (mut ids, mut count) = match self.there.take() {
            Some((ids, count, _)) => (ids, count),
            None => (Buffer::sized(device, self.items)?, device.zeros(1)?),
        };
        if words == 0 {
            self.there = Some((ids, count, 0));
            return Ok(());
        }
        let mut most = 0;
        let kernel = |entry| Kernel::new("touched", entry, &[]);
        runtime.fill(bits.memory_mut()?, 0)?;
        for list in lists {
            let copied;
            let list = match list {
                List::There(list) => *list,
                List::Here(list) => {
                    copied = list.on(runtime)?;
                    &*copied
                }
            };
            if list.is_empty() {
                continue;
            }
            most += list.len();
            let [n, items] = [list.len(), self.items].map(|size| Arg::U32(size as u32));
            let args = &mut [Arg::Out(&mut bits), Arg::In(list), n, items];
            runtime.launch(&kernel("touched_mark"), Grid::row(list.len().div_ceil(IDS), 256), args)?;
        }
        let args = &mut [Arg::Out(&mut counts), Arg::In(&bits), Arg::U32(words as u32)];
        runtime.launch(&kernel("touched_count"), Grid::row(blocks, 256), args)?;
        let args = &mut [Arg::Out(&mut counts), Arg::Out(&mut count), Arg::U32(blocks as u32)];
        runtime.launch(&Kernel::new("group", "group_scan", &[]), Grid::row(1, 256), args)?;
        let args = &mut [Arg::Out(&mut ids), Arg::In(&bits), Arg::In(&counts), Arg::U32(words as u32)];
        runtime.launch(&kernel("touched_list"), Grid::row(blocks, 256), args)?;
        self.there = Some((ids, count, most.min(self.items)));
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
                for lists in [
                    [List::Here((&first).into()), List::Here((&second).into())],
                    [List::Here((&second).into()), List::Here((&[]).into())],
                ] {
                    touched.collect(device, &lists)?;
                    let ids = match (touched.rows(), device) {
                        (Rows::There(rows), Device::Machine(runtime)) => {
                            let count = download::<u32>(&**runtime, rows.count, 1)?[0] as usize;
                            if count > rows.most {
                                return Err(Error::internal("more rows than there can be"));
                            }
                            download(&**runtime, rows.ids, count)?
                        }
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
