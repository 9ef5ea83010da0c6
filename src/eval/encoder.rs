//! The trained encoder as a ranker: queries of the last rows against the whole item table.

use crate::data::batch::Batch;
use crate::device::{Buffer, Device};
use crate::error::Result;
use crate::eval::Ranker;
use crate::model::{Masks, Model, Queries};
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
        // Lends the caller's memory to the score buffer for the next tile.
        std::mem::swap(out, crate::device::Real::vec_mut(&mut self.scores)?);
        Ok(())
    }
    fn name(&self) -> &str {
        &self.name
    }
}
