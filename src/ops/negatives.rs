//! What a negative sampler hands to a loss.

use std::sync::Arc;

use crate::device::{Buffer, Device, Runtime, download, upload};
use crate::error::{Error, Result};
use crate::ids::NONE;

/// `N` negatives for each of `G` groups of rows; a group is a row, a sequence or the whole batch (the sampler's scope).
#[derive(Default, Clone)]
pub struct Negatives {
    /// Negatives per group, N.
    pub n: usize,
    /// (G+1) first row of each group; groups are contiguous, in row order, and cover all R rows.
    pub group_offsets: Vec<u32>,
    /// (G,N) item ids; `ids::NONE` marks an empty slot, which every loss skips.
    pub ids: Vec<u32>,
    /// (G,N) natural log of the probability with which the slot was drawn; empty where no loss or weight asks for it.
    pub log_q: Vec<f32>,
    /// (R,N) true where a shared negative must not count for this row (it is the row's target or was seen); empty when
    /// nothing is dropped, which is always so with one group per row.
    pub drop: Vec<bool>,
    /// (R,N) stop-gradient weight of each negative; empty means one.
    pub weight: Vec<f32>,
    /// (R) stop-gradient weight of each row's loss; empty means one.
    pub row_weight: Vec<f32>,
    /// (R) share of the way from each of the row's negatives to its positive at which the loss sees the negative (MixGCF):
    /// `s' = a s+ + (1 - a) s`, below 1, dot scores only; empty means 0. Wrong contexts stay where they are.
    pub toward_positive: Vec<f32>,
    /// (R,W) CSR positions of events whose context the row's *target item* is wrongly paired with (CaNS): W further
    /// negatives per row. Empty when there are none.
    pub wrong_context: Vec<u64>,
    /// (R,W,D) vectors that are no items, scored by the dot product alone: W further negatives per row. Empty when there are none;
    /// never together with wrong contexts.
    pub generated: Vec<f32>,
    /// `ids`, `log_q` and `drop` in a machine's memory, where they were made; those of the host are then empty until they are
    /// fetched.
    pub resident: Option<Arc<Resident>>,
}

/// Lists in a machine's memory.
pub struct Resident {
    /// (G,N)
    pub ids: Buffer,
    /// (G,N)
    pub log_q: Option<Buffer>,
    /// (R,N) bytes
    pub drop: Option<Buffer>,
    /// (R) the group of each row, where somebody has needed it.
    pub groups: Option<Arc<Buffer>>,
}

impl Negatives {
    /// One list for each of `rows` rows.
    pub fn of_rows(n: usize, rows: usize, ids: Vec<u32>, log_q: Vec<f32>) -> Negatives {
        Negatives { n, group_offsets: (0..=rows as u32).collect(), ids, log_q, ..Negatives::default() }
    }
    /// The same in a machine's memory.
    pub fn of_rows_there(n: usize, rows: usize, ids: Buffer, log_q: Option<Buffer>) -> Negatives {
        let resident = Some(Arc::new(Resident { ids, log_q, drop: None, groups: None }));
        Negatives { resident, ..Negatives::of_rows(n, rows, Vec::new(), Vec::new()) }
    }
    /// The lists in the memory of `runtime`, copied there unless they were made there.
    pub fn on(&self, runtime: &dyn Runtime) -> Result<Arc<Resident>> {
        if let Some(there) = &self.resident {
            return Ok(there.clone());
        }
        let log_q = (!self.log_q.is_empty()).then(|| upload(runtime, &self.log_q)).transpose()?;
        let mut drop: Vec<u8> = self.drop.iter().map(|&d| u8::from(d)).collect();
        // A buffer counts in numbers of four bytes.
        drop.resize(drop.len().next_multiple_of(4), 0);
        let drop = (!drop.is_empty()).then(|| upload(runtime, &drop)).transpose()?;
        Ok(Arc::new(Resident { ids: upload(runtime, &self.ids)?, log_q, drop, groups: None }))
    }
    /// Brings the lists to the host, if they are elsewhere; waits for the machine.
    pub fn fetch(&mut self, device: &Device) -> Result<()> {
        let Some(there) = self.resident.take() else { return Ok(()) };
        let Device::Machine(runtime) = device else {
            return Err(Error::internal("lists of a machine without their machine"));
        };
        let slots = self.groups() * self.n;
        self.ids = download(&**runtime, &there.ids, slots)?;
        self.log_q = there.log_q.as_ref().map_or(Ok(Vec::new()), |log_q| download(&**runtime, log_q, slots))?;
        self.drop = match &there.drop {
            None => Vec::new(),
            Some(drop) => {
                let drop: Vec<u8> = download(&**runtime, drop, self.rows() * self.n)?;
                let drop: Vec<bool> = drop.iter().map(|&d| d != 0).collect();
                if drop.contains(&true) { drop } else { Vec::new() }
            }
        };
        Ok(())
    }
    /// Whether every slot is empty or an item of a table of `items`; those drawn on a machine are.
    pub fn fit_table(&self, items: usize) -> bool {
        let slots = self.groups() * self.n;
        let drops = |len: usize| len == 0 || len == self.rows() * self.n;
        match &self.resident {
            Some(there) => there.ids.len() == slots,
            None => {
                let inside = |&item: &u32| item == NONE || (item as usize) < items;
                self.ids.len() == slots && self.ids.iter().all(inside) && drops(self.drop.len())
            }
        }
    }
    pub fn forget_log_q(&mut self) {
        self.log_q = Vec::new();
        if let Some(there) = self.resident.as_mut().and_then(Arc::get_mut) {
            there.log_q = None;
        }
    }
    /// Whether the slots come with log-probabilities.
    pub fn has_log_q(&self) -> bool {
        self.resident.as_ref().map_or(!self.log_q.is_empty(), |there| there.log_q.is_some())
    }
    /// R
    pub fn rows(&self) -> usize {
        self.group_offsets.last().map_or(0, |&r| r as usize)
    }
    pub fn groups(&self) -> usize {
        self.group_offsets.len().saturating_sub(1)
    }
    /// Rows of group `g`.
    pub fn range(&self, g: usize) -> std::ops::Range<usize> {
        self.group_offsets[g] as usize..self.group_offsets[g + 1] as usize
    }
    /// (R) the group of each row.
    pub fn groups_of_rows(&self) -> Vec<u32> {
        (0..self.groups()).flat_map(|g| self.range(g).map(move |_| g as u32)).collect()
    }
    /// Whether every row has a list of its own.
    pub fn are_of_rows(&self) -> bool {
        self.group_offsets.iter().enumerate().all(|(row, &first)| row == first as usize)
    }
    /// The group of each row in the memory of `runtime`; none where every row has its own.
    pub fn groups_on(&self, runtime: &dyn Runtime) -> Result<Option<Arc<Buffer>>> {
        if self.are_of_rows() {
            return Ok(None);
        }
        if let Some(groups) = self.resident.as_ref().and_then(|there| there.groups.clone()) {
            return Ok(Some(groups));
        }
        if self.groups() == 1 {
            let mut memory = runtime.alloc(4 * self.rows())?;
            runtime.fill(&mut memory, 0)?;
            return Ok(Some(Arc::new(Buffer::machine(memory, self.rows()))));
        }
        upload(runtime, &self.groups_of_rows()).map(|groups| Some(Arc::new(groups)))
    }
    /// Ids of group `g`.
    pub fn ids_of(&self, g: usize) -> &[u32] {
        &self.ids[g * self.n..(g + 1) * self.n]
    }
    /// Wrong-context negatives per row, W.
    pub fn wrong_contexts(&self) -> usize {
        self.wrong_context.len().checked_div(self.rows()).unwrap_or(0)
    }
}
