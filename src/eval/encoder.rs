//! The trained encoder as a ranker: queries of the last rows against the whole item table.

use crate::data::batch::Batch;
use crate::device::{Buffer, Device, download};
use crate::error::Result;
use crate::eval::{Ranked, Ranker};
use crate::model::{Masks, Model, Queries};
use crate::ops::rank::{self, Mask};
use crate::ops::score;

pub struct Encoder<'a> {
    model: &'a mut Model,
    device: Device,
    name: String,
    scores: Buffer,
}

impl<'a> Encoder<'a> {
    pub fn new(model: &'a mut Model, device: &Device, name: &str) -> Result<Encoder<'a>> {
        model.refresh_tables()?;
        Ok(Encoder { model, device: device.clone(), name: name.into(), scores: Buffer::empty(device) })
    }
}

impl Ranker for Encoder<'_> {
    fn items(&self) -> usize {
        self.model.items()
    }
    fn score(&mut self, requests: &Batch, out: &mut Vec<f32>) -> Result<()> {
        self.model.forward(requests, Queries::Last, &Masks::none())?;
        score::all(&self.device, &mut self.scores, &self.model.scoring())?;
        match &self.device {
            Device::Machine(runtime) => *out = download(&**runtime, &self.scores, self.scores.len())?,
            // Lends the caller's memory to the score buffer for the next tile.
            Device::Host(_) => std::mem::swap(out, crate::device::Real::vec_mut(&mut self.scores)?),
        }
        Ok(())
    }
    fn rank(&mut self, requests: &Batch, mask: &Mask<'_>, wanted: Option<&[u32]>, k: usize, to: &mut Ranked) -> Result<()> {
        if matches!(self.device, Device::Host(_)) {
            return self.rank_by_scores(requests, mask, wanted, k, to);
        }
        self.model.forward(requests, Queries::Last, &Masks::none())?;
        rank::of_catalogue(&self.device, &mut to.standings, &mut to.lists, &self.model.scoring(), mask, wanted, k)
    }
    fn name(&self) -> &str {
        &self.name
    }
}
